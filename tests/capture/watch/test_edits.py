"""What editors replace is what the program is given, and what they run is recorded."""

import pytest
import torch
from tests import zoo
from torch import nn

import opscope
from opscope.capture.log.containers import tensors_in
from opscope.errors import OptionError


class At:
    """Edits the calls of one name, by a function."""

    def __init__(self, name, function, kind="module"):
        self.name, self.function, self.kind = name, function, kind
        self.seen = []

    def replace(self, call):
        self.seen.append((call.kind, call.name))
        if (call.kind, call.name) == (self.kind, self.name):
            return self.function(call.result)
        return None


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def hooked(model, address, function, x):
    """What a forward hook that does the same makes of the model."""
    hook = model.get_submodule(address).register_forward_hook(lambda m, a, out: function(out))
    try:
        return model(x)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "function", [torch.zeros_like, lambda t: t * 2, lambda t: t.roll(1, 0), lambda t: t[:1]]
)
@pytest.mark.parametrize("address", ["0", "1", "2"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_module_gives_what_an_editor_makes_of_its_output_as_with_a_hook(address, function, grad):
    model, x = net(), torch.rand(3, 4)
    with torch.set_grad_enabled(grad):
        expected = hooked(model, address, function, x)
        editor = At(address, function)
        with opscope.trace(model, editors=[editor], save="all", replayable=True) as trace:
            y = model(x)

    assert torch.equal(y, expected)
    assert torch.equal(trace[address].activation, hooked_output(model, address, function, x))
    assert bool(trace.validate())
    assert torch.equal(trace.to_fx()(x), expected)
    assert editor.seen.count(("module", address)) == 1


def hooked_output(model, address, function, x):
    outputs = []
    module = model.get_submodule(address)
    hook = module.register_forward_hook(lambda m, a, out: outputs.append(function(out)))
    model(x)
    hook.remove()
    return outputs[0]


def test_what_an_editor_of_a_module_runs_is_recorded_in_that_module():
    model, x = net(), torch.rand(3, 4)
    with torch.no_grad(), opscope.trace(model, editors=[At("1", lambda t: t * 2)]) as trace:
        model(x)

    assert trace["mul_1_3"].module == "1"
    assert [layer.label for layer in trace] == [
        "input_1_0", "linear_1_1", "relu_1_2", "mul_1_3", "linear_2_4", "output_1_5",
    ]  # fmt: skip
    assert [layer.label for layer in trace["linear_2"].parents] == ["mul_1_3"]


@pytest.mark.parametrize("grad", [False, True])
def test_a_function_gives_what_an_editor_makes_of_its_result(grad):
    model, x = net(), torch.rand(3, 4)
    editor = At("relu", lambda t: t + 1, "function")
    with torch.set_grad_enabled(grad), opscope.trace(model, editors=[editor], replayable=True) as t:
        y = model(x)

    assert torch.equal(y, model[2](model[1](model[0](x)) + 1))
    assert t.layer_labels[2:4] == ["relu_1_2", "add_1_3"]
    assert t["add_1_3"].module == "1"
    assert bool(t.validate())
    assert torch.equal(t.to_fx()(x), y)


def test_a_tensor_from_elsewhere_comes_from_outside():
    model, x = net(), torch.rand(3, 4)
    patch = torch.rand(3, 4)
    with torch.no_grad(), opscope.trace(model, editors=[At("1", lambda _: patch)]) as trace:
        y = model(x)

    assert torch.equal(y, model[2](patch))
    assert [layer.label for layer in trace["linear_2"].parents] == []
    assert torch.equal(trace.to_fx()(x), y)


def test_none_leaves_a_result_as_it_is_and_several_editors_follow_one_another():
    model, x = net(), torch.rand(3, 4)
    editors = [At("1", lambda t: t * 2), At("1", lambda _: None), At("1", lambda t: t + 1)]
    with torch.no_grad(), opscope.trace(model, editors=editors):
        y = model(x)

    assert torch.equal(y, model[2](model[1](model[0](x)) * 2 + 1))


def test_editors_are_not_asked_for_what_editors_run():
    editor = At("mul", lambda t: torch.mul(t, 3), "function")
    with opscope.trace(editors=[editor]):
        y = torch.mul(torch.ones(2), 2)

    assert y.tolist() == [6, 6]
    assert editor.seen == [("function", "ones"), ("function", "mul")]


def test_an_editor_comes_after_a_module_s_own_hooks():
    model, x = net(), torch.rand(3, 4)
    model[1].register_forward_hook(lambda m, a, out: out + 1)
    with torch.no_grad(), opscope.trace(model, editors=[At("1", lambda t: t * 2)], save="all") as t:
        y = model(x)
        after = t

    with torch.no_grad():
        expected = model[1](model[0](x)) * 2
        assert torch.equal(y, model[2](expected))
    assert torch.equal(after["1"].activation, expected)


def test_the_model_itself_can_be_edited_and_gives_a_container():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x + 1, "b": (x, x * 2)}

    editor = At("", lambda out: {**out, "a": out["a"] * 0})
    model = Two()
    with opscope.trace(model, editors=[editor]) as trace:
        y = model(torch.ones(2))

    assert y["a"].tolist() == [0, 0]
    assert [layer.label for layer in trace["output_1"].parents] == ["mul_2_4"]


def test_the_error_of_an_editor_ends_the_program_and_nothing_stays():
    class Odd(Exception):
        pass

    def fail(_):
        raise Odd

    model, x = net(), torch.rand(3, 4)
    for editor in (At("1", fail), At("relu", fail, "function")):
        with pytest.raises(Odd), opscope.trace(model, editors=[editor]) as trace:
            model(x)
        assert trace.failure.exception == "Odd"
        assert trace.modules[trace.failure.module_call].address == "1"
    with opscope.trace(model) as trace:
        model(x)
    assert "mul" not in str(trace.layer_labels)


def test_a_gradient_flows_through_what_an_editor_ran():
    model, x = net(), torch.rand(3, 4)
    hooked(model, "1", lambda t: t * 2, x).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with opscope.trace(model, editors=[At("1", lambda t: t * 2)], gradients="all") as trace:
        model(x).sum().backward()

    assert all(map(torch.equal, expected, (p.grad for p in model.parameters())))
    assert trace["mul_1_3"].gradient is not None


def test_without_layers_modules_are_edited_all_the_same():
    model, x = net(), torch.rand(3, 4)
    editors = [At("1", lambda t: t * 2), At("relu", lambda t: t * 0, "function")]
    with torch.no_grad(), opscope.trace(model, layers=False, editors=editors):
        y = model(x)

    assert torch.equal(y, model[2](model[1](model[0](x)) * 2))


def test_what_a_collector_returns_changes_nothing():
    class Looks:
        def returned(self, call):
            return torch.zeros(3, 4)

        def after_op(self, op):
            return torch.zeros(3, 4)

    model, x = net(), torch.rand(3, 4)
    with torch.no_grad(), opscope.trace(model, collectors=[Looks()]):
        y = model(x)
    assert torch.equal(y, model(x).detach())


@pytest.mark.parametrize(
    ("name", "address"), [("gpt2", "transformer.h.0.mlp"), ("resnet18", "layer2.0")]
)
def test_a_real_model_is_patched_as_by_a_hook(name, address):
    program = zoo.build(name)
    hook = program.module.get_submodule(address).register_forward_hook(lambda m, a, out: out * 0.5)
    with torch.no_grad():
        expected = tensors_in(program.run())
        hook.remove()
        editors = [At(address, lambda t: t * 0.5)]
        with opscope.trace(program.module, editors=editors, replayable=True) as t:
            y = tensors_in(program.run())
    assert len(y) == len(expected)
    assert all(map(torch.equal, y, expected))
    assert bool(t.validate())


def test_a_compiled_model_is_edited_as_a_whole():
    model, x = net(), torch.rand(3, 4)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected = model(x) * 2
        compiled(x)
        editors = [At("", lambda t: t * 2), At("1", lambda t: t * 0)]
        with opscope.trace(compiled, editors=editors):
            y = compiled(x)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("wrong", [At, [At], [object()], "editors", [None]])
def test_what_is_no_editor_is_refused_before_the_model_runs(wrong):
    with pytest.raises(OptionError, match="editor"):
        opscope.trace(net(), editors=wrong)
