"""Saved activations are what the tensors were when their layers gave them."""

import pytest
import torch
from tests import witness, zoo
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope.capture.collect.kept.activations import Activations


class Copying(TorchDispatchMode):
    """Copies what each op returns at once, the safe and dear way."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.copies.append([tensor.detach().clone() for tensor in witness.tensors(result)])
        return result


@pytest.mark.parametrize("name", [*zoo.SMALL, "googlenet", "function"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_saved_value_is_what_an_op_returned_bit_for_bit(name, training):
    """Also where a later op wrote over it, as in-place activations do."""
    program = zoo.build(name, training=training)
    kept, args = program.state(), program.args
    with torch.no_grad():
        program.args = tuple(a.clone() for a in args)
        torch.manual_seed(1)
        with Copying() as seen:
            program.run()
        program.restore(kept)
        program.args = tuple(a.clone() for a in args)
        torch.manual_seed(1)
        with opscope.trace(program.module, layers=False, save="all") as trace:
            program.run()
    saved = {layer.ops[0].index: layer for layer in trace.layers if layer.ops}
    assert len(saved) == len(trace.ops) == len(seen.copies)
    for op, copies in zip(trace.ops, seen.copies, strict=True):
        if copies and not op.name.startswith("empty"):
            found = saved[op.index].activation
            found = found if isinstance(found, tuple) else (found,)
            assert elements(found[: len(copies)]) == elements(copies)


def elements(found):
    return [(data, shape) for data, shape, *_ in witness.bits(list(found))]


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_layer_has_its_activation_and_it_prints(name, layers):
    program = zoo.shared(name)
    with torch.no_grad(), opscope.trace(program.module, layers=layers, save="all") as trace:
        program.run()
    for layer in trace.layers:
        found = layer.activation
        found = found if isinstance(found, tuple) else (found,)
        assert [tuple(t.shape) for t in found] == [value.shape for value in layer.outputs]
        assert layer.label.rpartition(":")[0] in str(layer) or layer.label in str(layer)


OVERWRITES = {
    "in place": lambda y: y.mul_(0),
    "through a view": lambda y: y[1:].zero_(),
    "through detach": lambda y: y.detach().fill_(7),
    "out=": lambda y: torch.zeros(3, out=y),
    "by index": lambda y: y.__setitem__(0, 9.0),
    "foreach": lambda y: torch._foreach_add_([y], 3.0),
    "copy": lambda y: y.copy_(torch.zeros(3)),
    "resize": lambda y: y.resize_(1).zero_(),
}


@pytest.mark.parametrize("overwrite", OVERWRITES.values(), ids=OVERWRITES)
def test_an_activation_that_is_overwritten_later_keeps_its_values(overwrite, layers):
    x = torch.tensor([1.0, 2.0, 3.0])
    with torch.no_grad(), opscope.trace(layers=layers, save="all") as trace:
        overwrite(x.exp())
    assert torch.equal(trace["exp"].activation, x.exp())


def test_the_input_and_the_output_of_a_model_are_saved_as_they_were(layers):
    """The model writes over its input, and the caller over its output."""

    class Writing(nn.Module):
        def forward(self, x):
            return x.add_(1).sin()

    model, x = Writing(), torch.ones(2)
    with opscope.trace(model, layers=layers, save="all") as trace:
        y = model(x)
        y.zero_()
    assert torch.equal(trace["input_1"].activation, torch.ones(2))
    assert torch.equal(trace["output_1"].activation, torch.full((2,), 2.0).sin())


def test_saving_changes_neither_results_nor_gradients(layers):
    def run(**options):
        program = zoo.build("resnet18", training=True)
        torch.manual_seed(2)
        with opscope.trace(program.module, layers=layers, **options):
            loss = program.run().square().mean()
            loss.backward()
        return witness.bits([loss, *(p.grad for p in program.module.parameters())])

    assert run(save="all") == run()


def test_a_saved_activation_is_detached():
    x = torch.ones(2, requires_grad=True)
    with opscope.trace(save="all") as trace:
        x.sin()
    assert not trace["sin"].activation.requires_grad


def test_memory_that_was_given_back_is_not_read():
    """As FSDP does: the storage is shrunk to nothing while an alias of it is saved."""
    x = torch.ones(1000)
    with opscope.trace(save="all") as trace:
        y = x.sin()
        y.untyped_storage().resize_(0)
    with pytest.raises(opscope.NotSaved, match="freed"):
        _ = trace["sin"].activation


def relu_model(*, inplace=False):
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 2))


def test_an_activation_with_its_graph_gives_the_gradient_that_autograd_gives():
    model, x = relu_model(), torch.rand(3, 4)
    with opscope.trace(model, save=opscope.Save("all", detach=False)) as trace:
        model(x)
    hidden, out = trace["linear_1"].activation, trace["linear_2"].activation
    (found,) = torch.autograd.grad(out.sum(), hidden)
    expected = torch.ones(3, 2) @ model[2].weight * (hidden > 0)
    assert torch.equal(found, expected)


def test_an_activation_with_its_graph_is_still_what_it_was_before_an_overwrite():
    model, x = relu_model(inplace=True), torch.rand(3, 4) - 0.5
    with opscope.trace(model, save=opscope.Save("all", detach=False)) as trace:
        model(x)
    assert torch.equal(trace["linear_1"].activation, model[0](x))
    trace["linear_1"].activation.sum().backward()
    assert torch.equal(model[0].bias.grad, torch.full((model[0].out_features,), 3.0))


def test_activations_are_cast_and_transformed_as_they_are_saved():
    model, x = relu_model(), torch.rand(3, 4)
    with opscope.trace(
        model,
        save=opscope.Save(
            ["linear"], dtype=torch.float64, device="cpu", transform=lambda t: t.mean(0)
        ),
    ) as trace:
        y = model(x)
    assert trace["linear_2"].activation.dtype == torch.float64
    assert torch.equal(trace["linear_2"].activation, y.detach().double().mean(0))


def test_a_transform_sees_the_value_before_it_is_overwritten():
    model, x = relu_model(inplace=True), torch.rand(3, 4) - 0.5
    with opscope.trace(model, save=opscope.Save("all", transform=lambda t: t.min())) as trace:
        model(x)
    assert torch.equal(trace["linear_1"].activation, model[0](x).detach().min())


def test_what_was_not_selected_is_let_go_of_when_the_block_ends():
    model, x = relu_model(), torch.rand(3, 4)
    with opscope.trace(model, save=["linear_2"]) as trace:
        model(x)
    activations = trace._block.session.find(Activations)
    assert len(activations.rows()) == 1


@pytest.mark.parametrize("replayable", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: torch.eye(3).to_sparse() * 2, lambda t: t.mul_(3)),
        (lambda: torch.tensor(2.0) * 2, lambda t: t.add_(1)),
        (lambda: (torch.arange(6.0) * 2).unfold(0, 3, 1), lambda t: t[1].zero_()),
        (lambda: torch.ones(0) * 2, lambda t: t.add_(1)),
        (lambda: torch.ones(2, dtype=torch.complex64) * 2j, lambda t: t.real.zero_()),
        (lambda: torch.ones(4) * 2, lambda t: t.untyped_storage().resize_(0)),
        (lambda: torch.ones(4) * 2, lambda t: setattr(t, "data", torch.zeros(4))),
    ],
    ids=["sparse", "0-dim", "overlapping views", "empty", "complex", "resized", "swapped"],
)
def test_what_is_saved_is_the_value_of_that_moment(make, change, mode, replayable):
    with mode():
        expected = make()
        with opscope.trace(save="all", replayable=replayable) as trace:
            made = make()
            change(made)
    layer = next(layer for layer in trace if layer.shape == tuple(expected.shape) and layer.ops
                 and layer.type in {"mul", "unfold"})  # fmt: skip
    if (
        layer.outputs[0].storage is not None
        and made.untyped_storage().nbytes() == 0 < expected.numel()
    ):
        with pytest.raises(opscope.NotSaved, match="freed"):
            _ = layer.activation
    else:
        saved = layer.activation
        if expected.layout is not torch.strided:
            saved, expected = saved.to_dense(), expected.to_dense()
        assert torch.equal(saved, expected)


def test_what_was_chosen_and_lost_its_memory_before_a_write_is_refused():
    with opscope.trace(save=["mul"]) as trace:
        y = torch.ones(8) * 2
        y.untyped_storage().resize_(16)
        y[:2].zero_()
    with pytest.raises(opscope.NotSaved, match="its memory was freed"):
        _ = trace["mul"].activation
