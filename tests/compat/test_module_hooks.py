"""Hooks of a model's own may change what goes in and comes out: the record has what did."""

import copy

import pytest
import torch
from tests import invariants, witness
from torch import nn

import opscope


def labels(layers):
    return [layer.label for layer in layers]


def two_linears():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def traced(model, *args, **options):
    with torch.no_grad(), witness.untouched(model), opscope.trace(model, **options) as trace:
        output = model(*args)
    invariants.check(trace)
    return trace, output


X = torch.ones(1, 2)


def test_what_a_hook_of_the_model_computes_leaves_as_its_output(layers):
    model = two_linears()
    model.register_forward_hook(lambda module, args, output: output.exp())
    trace, output = traced(model, X, layers=layers, save="all")
    assert [layer.type for layer in trace.layers][-2:] == ["exp", "output"]
    assert labels(trace["output_1"].parents) == labels([trace["exp"]])
    assert trace["exp"].module == ""
    assert torch.equal(trace["output_1"].activation, output)


def test_what_a_hook_of_a_part_computes_is_what_that_part_gives(layers):
    model = two_linears()
    model[0].register_forward_hook(lambda module, args, output: output.exp())
    trace, _ = traced(model, X, layers=layers)
    assert trace["exp"].module == "0"
    assert trace["0"] is trace["exp"]
    assert trace["exp"].output_of == ("0",)


def test_of_several_hooks_the_last_has_its_say(layers):
    model = two_linears()
    for change in (torch.exp, torch.sin, torch.tanh):
        model[1].register_forward_hook(lambda module, args, output, change=change: change(output))
    trace, _ = traced(model, X, layers=layers)
    assert trace["1"].type == "tanh"
    assert labels(trace["output_1"].parents) == labels([trace["tanh"]])


def test_a_hook_may_give_another_structure(layers):
    model = two_linears()
    model.register_forward_hook(lambda module, args, output: {"y": output, "twice": [output * 2]})
    trace, _ = traced(model, X, layers=layers)
    (root,) = [call for call in trace.recording.module_calls if call.is_root]
    assert [leaf.path for leaf in root.outputs] == ["y", "twice.0"]
    assert labels(trace["output_2"].parents) == labels([trace["mul"]])


def test_a_hook_that_only_looks_changes_nothing(layers):
    bare, _ = traced(two_linears(), X, layers=layers)
    model = two_linears()
    for part in model.modules():
        part.register_forward_pre_hook(lambda module, args: None)
        part.register_forward_hook(lambda module, args, output: None)
    trace, _ = traced(model, X, layers=layers)
    assert trace.layer_labels == bare.layer_labels
    assert [call.outputs for call in trace.recording.module_calls] == [
        call.outputs for call in bare.recording.module_calls
    ]


def test_a_hook_before_forward_works_in_the_module_on_the_models_input(layers):
    model = two_linears()
    model.register_forward_pre_hook(lambda module, args: (args[0].neg(),))
    model[1].register_forward_pre_hook(lambda module, args: (args[0].abs(),))
    trace, _ = traced(model, X, layers=layers)
    assert [layer.type for layer in trace.layers] == [
        *["input", "neg", *["linear"] * layers, *["t", "addmm"] * (not layers), "abs"],
        *["linear", "output"] * layers,
        *["t", "addmm", "output"] * (not layers),
    ]
    assert (trace["neg"].module, trace["abs"].module) == ("", "1")
    assert labels(trace["neg"].parents) == ["input_1_0"]


def test_hooks_with_keyword_arguments_are_seen(layers):
    class Scaled(nn.Module):
        def forward(self, x, *, by):
            return x * by

    model = Scaled()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"by": kwargs["by"].neg()}), with_kwargs=True
    )
    model.register_forward_hook(lambda module, args, kwargs, output: output.exp(), with_kwargs=True)
    with opscope.trace(model, layers=layers) as trace:
        model(X, by=torch.ones(2))
    ran = [layer.type for layer in trace.layers if layer.module == ""]
    assert ran == ["neg", "mul", "exp"]
    assert labels(trace["output_1"].parents) == labels([trace["exp"]])


def test_hooks_on_the_way_back_run_and_change_the_gradient(layers):
    def gradient(around):
        torch.manual_seed(0)
        model, x = two_linears(), X.clone().requires_grad_()
        model[1].register_full_backward_pre_hook(lambda module, grads: (grads[0] * 3,))
        model[0].register_full_backward_hook(lambda module, given, grads: (given[0] + 1,))
        with around(model) as trace:
            model(x).sum().backward()
        return x.grad, trace

    plain, _ = gradient(lambda model: torch.enable_grad())
    found, trace = gradient(lambda model: opscope.trace(model, layers=layers))
    assert torch.equal(found, plain)
    assert {"mul", "add"} <= {op.name for op in trace.ops if op.phase == "backward"}


def test_a_recursive_module_with_a_hook_ends_each_run_by_itself(layers):
    class Down(nn.Module):
        def forward(self, x, depth):
            return self(x.sin(), depth - 1) if depth else x

    model = Down()
    model.register_forward_hook(lambda module, args, output: output.cos())
    trace, _ = traced(model, X, 2, layers=layers)
    runs = trace.recording.module_calls
    assert [op.name for op in trace.ops] == ["sin", "sin", "cos", "cos", "cos"]
    assert [(run.parent, run.ops) for run in runs] == [
        (None, range(5)), (0, range(1, 4)), (1, range(2, 3)),
    ]  # fmt: skip
    assert [run.outputs[0].value for run in runs[:2]] != [run.outputs[0].value for run in runs[1:]]


def test_two_traces_at_once_both_wait_for_a_hook(layers):
    model = two_linears()
    model.register_forward_hook(lambda module, args, output: output.exp())
    with torch.no_grad(), witness.untouched(model), opscope.trace(model, layers=layers) as outer:
        with opscope.trace(model, layers=layers) as inner:
            model(X)
        model(X)
    for trace in (outer, inner):
        assert [layer.type for layer in trace.layers][-2:] == ["exp", "output"]


def raising(*_):
    raise ArithmeticError


def interrupting(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("hook", [raising, interrupting])
@pytest.mark.parametrize("where", ["", "0"])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_fails_leaves_the_model_with_its_own_hooks_only(hook, where, register, layers):
    model = two_linears()
    model[1].register_forward_hook(lambda module, args, output: output.exp())
    getattr(model.get_submodule(where), register)(hook)
    trace = opscope.trace(model, layers=layers)
    with witness.untouched(model), pytest.raises((ArithmeticError, KeyboardInterrupt)), trace:
        model(X)
    assert trace.failure.exception in {"ArithmeticError", "KeyboardInterrupt"}
    invariants.check(trace)


def test_a_module_that_fails_below_hooks_leaves_them_as_they_were(layers):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(5, 5))
    called = []
    for part in model.modules():
        part.register_forward_hook(lambda *_: called.append(_[0]), always_call=True)
    trace = opscope.trace(model, layers=layers)
    with witness.untouched(model), pytest.raises(RuntimeError, match="shapes"), trace:
        model(X)
    assert called == [model[0], model[1], model]
    assert [call.failed for call in trace.recording.module_calls] == [True, False, True]


def test_a_hook_that_takes_itself_away_is_gone(layers):
    model = two_linears()
    handle = model.register_forward_hook(lambda *_: handle.remove())
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert not model._forward_hooks
    assert trace.layers[-1].type == "output"


def test_a_model_with_hooks_can_be_copied_by_its_own_forward(layers):
    class Copying(nn.Module):
        def forward(self, x):
            self.__dict__["twin"] = copy.deepcopy(self)
            return x.sin()

    model = Copying()
    model.register_forward_hook(lambda module, args, output: output.cos())
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert [op.name for op in trace.ops] == ["sin", "cos"]
    assert torch.equal(model.twin(X), X.sin().cos())


class Hooked(nn.Module):
    """A part with hooks that can be scripted."""

    def __init__(self):
        super().__init__()
        self.part = nn.ReLU()
        self.part.register_forward_hook(doubled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


def doubled(self, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    return output * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_with_hooks_runs_as_it_did(layers):
    model = torch.jit.script(Hooked())
    plain = model(X)
    trace, output = traced(model, X, layers=layers)
    assert torch.equal(output, plain)
    assert [op.name for op in trace.ops] == ["relu", "mul"]
