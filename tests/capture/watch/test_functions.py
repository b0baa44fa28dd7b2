"""Layers: one torch function called from Python, with the ops that it dispatched."""

from itertools import pairwise

import pytest
import torch
from tests import zoo
from torch import nn, relu

import opscope

CALLS = {
    "a function": (torch.sin, "sin", ["sin"]),
    "a function imported by name": (relu, "relu", ["relu"]),
    "a function of nn.functional": (
        lambda x: nn.functional.linear(x, torch.Tensor.detach(x)), "linear", ["t", "mm"],
    ),
    "a method": (lambda x: x.cos(), "cos", ["cos"]),
    "an operator": (lambda x: x + x, "add", ["add"]),
    "a reflected operator": (lambda x: 2 - x, "sub", ["rsub"]),
    "an in-place operator": (lambda x: x.__iadd__(1), "add", ["add_"]),
    "a product": (lambda x: x @ x, "matmul", ["mm"]),
    "an index": (lambda x: x[0], "getitem", ["select"]),
    "an indexed write": (lambda x: x.__setitem__(0, 1.0), "setitem", ["lift_fresh", "select", "fill_"]),
    "a function with out=": (lambda x: torch.add(x, x, out=x), "add", ["add"]),
    "a factory": (lambda x: torch.zeros(3), "zeros", ["zeros"]),
    "a list": (lambda x: torch.cat([x, x]), "cat", ["cat"]),
    "several outputs": (lambda x: x.max(dim=0), "max", ["max"]),
    "a foreach": (lambda x: torch._foreach_add_([x], 1), "foreachadd", ["_foreach_add_"]),
    "a transposing property": (lambda x: x.T, "t", ["numpy_T", "permute"]),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "ops"), CALLS.values(), ids=CALLS)
def test_a_call_of_torch_is_a_layer_with_its_ops(call, kind, ops):
    x = torch.ones(3, 3)
    with torch.no_grad(), opscope.trace() as trace:
        call(x)
    layer = [item for item in trace.layers if item.ops][-1]
    assert layer.type == kind
    assert {op.name for op in layer.ops} <= set(ops)
    assert layer.ops[-1].name == ops[-1]


PASSED_THROUGH = {
    "dropout": lambda x: nn.functional.dropout(x, training=False),
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(torch.float32),
    "float": lambda x: x.float(),
    "cpu": lambda x: x.cpu(),
}


@pytest.mark.parametrize(("kind", "call"), PASSED_THROUGH.items())
def test_a_call_that_hands_its_input_on_is_a_layer_without_ops(kind, call):
    x = torch.ones(3, 3)
    with opscope.trace() as trace:
        same = call(x.sin())
        same.cos()
    sin, handed, cos = trace.layers[1:4]
    assert handed.type == kind
    assert handed.ops == ()
    assert handed.parents == (sin,)
    assert handed.children == (cos,)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.shape,
        lambda x: x.size(0),
        lambda x: x.dim(),
        lambda x: x.dtype,
        lambda x: x.requires_grad_(),
        lambda x: x.is_floating_point(),
        lambda x: x.numel(),
        len,
    ],
)
def test_reading_a_property_is_no_layer(read):
    x = torch.ones(3, 3)
    with opscope.trace() as trace:
        read(x)
        x.detach().sin()
        read(x)
    assert [layer.type for layer in trace.layers] == ["input", "detach", "sin", "output"]


def test_alexnet_in_training_has_the_articles_layers():
    program = zoo.shared("alexnet", training=True)
    with opscope.trace(program.module) as trace:
        program.run()
    convolutions = ["conv2d", "relu", "maxpool2d", "conv2d", "relu", "maxpool2d"]
    convolutions += ["conv2d", "relu"] * 3 + ["maxpool2d", "adaptiveavgpool2d", "flatten"]
    classifier = ["dropout", "linear", "relu"] * 2 + ["linear"]
    assert [layer.type for layer in trace.layers] == ["input", *convolutions, *classifier, "output"]
    assert "conv2d_3_7" in trace.layer_labels


@pytest.mark.parametrize("name", [*zoo.SMALL, "alexnet", "googlenet", "function"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_each_op_belongs_to_one_layer_in_order(name, training, layers):
    program = zoo.shared(name, training=training)
    kept = program.state()
    with torch.no_grad(), opscope.trace(program.module, layers=layers) as trace:
        program.run()
    with torch.no_grad():
        program.restore(kept)
    calls = trace.recording.layer_calls
    assert [op for call in calls for op in call.ops] == list(range(len(trace.ops)))
    assert all(op.index in calls[op.layer_call].ops for op in trace.ops)
    assert all(a.ops.stop <= b.ops.start for a, b in pairwise(c for c in calls if c.ops))
    for call in calls:
        for op in call.ops:
            assert call.started_ns <= trace.ops[op].started_ns
            assert trace.ops[op].module_call == call.module_call
    if not layers:
        assert all(len(call.ops) <= 1 for call in calls)


class Counting(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_function_mode_of_the_users_own_still_sees_every_function():
    x = torch.ones(3)
    with Counting() as outer, opscope.trace() as trace, Counting() as inner:
        x.sin().cos()
    assert outer.names == inner.names == ["sin", "cos"]
    assert [layer.type for layer in trace.layers] == ["input", "sin", "cos", "output"]


@pytest.mark.parametrize("layers", [True, False], ids=["layers", "ops"])
def test_a_function_mode_of_the_users_own_sees_the_same_of_a_model_that_is_met_in_the_block(layers):
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.ones(2, 3)
    with Counting() as alone:
        model(x)
    with Counting() as outer, opscope.trace(layers=layers) as trace, Counting() as inner:
        model(x)
    assert outer.names == inner.names == alone.names
    assert len(trace.recording.parameters) == 7


def test_a_layer_knows_the_autograd_node_that_it_made():
    x = torch.ones(3, requires_grad=True)
    with opscope.trace() as trace:
        x.sin()
    (call,) = [c for c in trace.recording.layer_calls if c.function == "sin"]
    assert call.grad_fn == "SinBackward0"
