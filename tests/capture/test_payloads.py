"""Saved activations are what the tensors were when their layers gave them."""

import pytest
import torch
from tests import witness, zoo
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import opscope


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
