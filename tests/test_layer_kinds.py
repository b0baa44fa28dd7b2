"""What becomes a layer, what it is called, and that it stays on the path."""

import dataclasses
from itertools import pairwise
from typing import NamedTuple

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from tests import invariants, zoo
from torch import nn

import opscope


def types(function, *args):
    """Return the types of the layers that a function's calls are, in order."""
    with opscope.trace() as trace:
        function(*args)
    invariants.check(trace)
    return [item.type for item in trace.passes if item.kind not in {"input", "output"}]


def augmented(operation):
    scope = {}
    exec(f"def run(x):\n    x {operation} 2\n    return x", scope)
    return scope["run"]


def write_item(x):
    x[0] = 1


FLOATS = {
    "add": lambda x: torch.add(x, 1),
    "add_": lambda x: x.add_(1),
    "__add__": lambda x: x + 1,
    "__radd__": lambda x: 1 + x,
    "__sub__": lambda x: x - 1,
    "__rsub__": lambda x: 2 - x,
    "__mul__": lambda x: x * 2,
    "__rmul__": lambda x: 2 * x,
    "__truediv__": lambda x: x / 2,
    "__rtruediv__": lambda x: 2 / x,
    "__pow__": lambda x: x**2,
    "__rpow__": lambda x: 2**x,
    "__mod__": lambda x: x % 2,
    "__matmul__": lambda x: x @ x,
    "__neg__": lambda x: -x,
    "__abs__": abs,
    "__getitem__": lambda x: x[0],
    "__setitem__": write_item,
    "__lt__": lambda x: x < 1,
    "__le__": lambda x: x <= 1,
    "__gt__": lambda x: x > 1,
    "__ge__": lambda x: x >= 1,
    "__eq__": lambda x: x == x,  # noqa: PLR0124
    "__ne__": lambda x: x != x,  # noqa: PLR0124
    "+=": augmented("+="),
    "-=": augmented("-="),
    "*=": augmented("*="),
    "/=": augmented("/="),
    "**=": augmented("**="),
    "max_pool2d": lambda x: F.max_pool2d(x[None], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x[None], 2),
    "relu_": torch.relu_,
    "clamp_min_": lambda x: x.clamp_min_(0),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
}
FLOAT_TYPES = {
    "add": "add", "add_": "add", "__add__": "add", "__radd__": "add", "__sub__": "sub",
    "__rsub__": "sub", "__mul__": "mul", "__rmul__": "mul", "__truediv__": "div",
    "__rtruediv__": "div", "__pow__": "pow", "__rpow__": "pow", "__mod__": "remainder",
    "__matmul__": "matmul", "__neg__": "neg", "__abs__": "abs", "__getitem__": "getitem",
    "__setitem__": "setitem", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__eq__": "eq", "__ne__": "ne", "+=": "add", "-=": "sub", "*=": "mul", "/=": "div",
    "**=": "pow", "max_pool2d": "maxpool2d", "adaptive_avg_pool2d": "adaptiveavgpool2d",
    "relu_": "relu", "clamp_min_": "clampmin", "T": "t", "mT": "mt",
}  # fmt: skip


@pytest.mark.parametrize("form", FLOATS)
def test_a_layer_goes_by_the_plain_name_whatever_the_form_of_the_call(form):
    # what the lambda does to shape its input, `x[None]`, comes before
    assert types(FLOATS[form], torch.rand(3, 3))[-1] == FLOAT_TYPES[form]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: ~x, "invert"),
        (lambda x: x & x, "and"),
        (lambda x: x | x, "or"),
        (lambda x: x ^ x, "xor"),
        (augmented("<<="), "lshift"),
        (augmented("&="), "and"),
    ],
    ids=["~", "&", "|", "^", "<<=", "&="],
)
def test_operators_on_whole_numbers_go_by_their_plain_names(function, name):
    assert types(function, torch.arange(3)) == [name]


@pytest.mark.parametrize(
    ("plain", "in_place"),
    [
        (lambda x: x % 2, augmented("%=")),
        (lambda x: x << 1, augmented("<<=")),
        (lambda x: x | 1, augmented("|=")),
    ],
    ids=["%", "<<", "|"],
)
def test_an_operator_and_its_in_place_form_share_a_type(plain, in_place):
    x = torch.arange(1, 4)
    assert types(plain, x) == types(in_place, x)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.shape, lambda x: x.dtype, lambda x: x.device, lambda x: x.dim(),
        lambda x: x.size(0), lambda x: x.numel(), lambda x: x.ndim, lambda x: x.requires_grad,
        lambda x: x.is_leaf, lambda x: x.grad, lambda x: x.grad_fn, lambda x: x.layout,
        lambda x: x.is_contiguous(), lambda x: x.stride(), lambda x: x.data_ptr(), len,
        torch.is_tensor, lambda x: x.is_floating_point(), repr,
    ],
    ids=[
        "shape", "dtype", "device", "dim", "size", "numel", "ndim", "requires_grad", "is_leaf",
        "grad", "grad_fn", "layout", "is_contiguous", "stride", "data_ptr", "len", "is_tensor",
        "is_floating_point", "repr",
    ],
)  # fmt: skip
def test_reading_a_property_is_no_layer(read):
    assert types(read, torch.empty(2, 0)) == []


NO_OPS = {
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
    "contiguous": torch.Tensor.contiguous,
    "to": lambda x: x.to("cpu"),
    "float": torch.Tensor.float,
    "cpu": torch.Tensor.cpu,
    "type_as": lambda x: x.type_as(x),
    "expand to its own shape": lambda x: x.expand(3, 3),
}


class Through(nn.Module):
    """Calls a function between two layers that compute."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.tanh(self.function(torch.relu(x)))


@pytest.mark.parametrize("function", NO_OPS.values(), ids=NO_OPS)
def test_a_call_that_changes_nothing_is_a_layer_on_the_path(function):
    model, x = Through(function), torch.rand(3, 3)
    with opscope.trace(model, save="all") as trace:
        model(x)
    assert len(trace) == 5
    (chain,) = nx.all_simple_paths(trace.graph(level="layer"), trace[0].label, trace[-1].label)
    assert chain == trace.layer_labels
    assert torch.equal(trace[2].activation, torch.relu(x))
    for before, after in pairwise(trace.layers):
        assert before.children == (after,)
        assert after.parents == (before,)


class PassThrough(nn.Module):
    def forward(self, x):
        return x


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = PassThrough()

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("make", [nn.Identity, PassThrough, Nested, nn.Sequential])
def test_a_module_that_returns_its_input_stays_on_the_path(make, level):
    model, x = nn.Sequential(nn.ReLU(), make(), nn.Tanh()), torch.rand(3)
    with opscope.trace(model, save="all") as trace:
        model(x)
    assert [item.type for item in trace.passes] == ["input", "relu", "identity", "tanh", "output"]
    assert trace["1"] is trace["identity_1"]
    assert torch.equal(trace["1"].activation, torch.relu(x))
    graph = trace.graph(level=level)
    data = {n: a for n, a in graph.nodes(data=True) if "detach" not in a["label"]}  # autograd's
    (path,) = nx.all_simple_paths(graph, next(iter(data)), [*data][-1])
    assert path == list(data)
    assert any((a["module"] or "").startswith("1") for a in data.values())


def test_in_eval_mode_dropouts_join_alexnets_chain():
    program = zoo.shared("alexnet")
    with opscope.trace(program.module) as trace:
        program.run()
    (chain,) = nx.all_simple_paths(
        trace.graph(level="layer", parameters=False), "input_1_0", "output_1_23"
    )
    assert chain == trace.layer_labels
    assert chain[16] == "dropout_1_16"
    assert trace["dropout_1"].ops == ()


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclasses.dataclass
class Data:
    first: torch.Tensor
    number: int
    rest: list


def model_output(x, y, z):
    zoo._torchvision()  # transformers imports torchvision
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=x, hidden_states=(y, z))


NESTED = {
    "a tensor": (lambda x, y, z: x, [""]),
    "a list": (lambda x, y, z: [x, y], ["0", "1"]),
    "a tuple in a tuple": (lambda x, y, z: (x, (y, [z])), ["0", "1.0", "1.1.0"]),
    "a dict": (lambda x, y, z: {"a": x, "b": {"c": y, "d": [z]}}, ["a", "b.c", "b.d.0"]),
    "a NamedTuple": (lambda x, y, z: Pair(x, y), ["first", "second"]),
    "a dataclass": (lambda x, y, z: Data(x, 7, [y, z]), ["first", "rest.0", "rest.1"]),
    "a ModelOutput": (model_output, ["last_hidden_state", "hidden_states.0", "hidden_states.1"]),
    "with other things": (lambda x, y, z: {"a": None, "b": 3, "c": ("text", x)}, ["c.1"]),
}


class Take(nn.Module):
    """Computes with the tensors that it finds in its inputs, and returns them as a function says."""

    def __init__(self, build):
        super().__init__()
        self.build = build

    def forward(self, *args, **kwargs):
        results = [tensor * 2 for tensor in find((args, kwargs))]
        return self.build(*(results * 3)[:3])


def find(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for item in value for tensor in find(item)]


@pytest.mark.parametrize(("build", "paths"), NESTED.values(), ids=NESTED)
def test_tensors_in_nested_inputs_and_outputs_are_layers_with_their_path(build, paths):
    tensors = torch.rand(2), torch.rand(3), torch.rand(4)
    model = Take(build)
    with opscope.trace(model) as trace:
        model(build(*tensors))
    below = [f"0.{path}" if path else "" for path in paths]  # the first argument
    for kind, expected in (("input", below), ("output", paths)):
        found = [item for item in trace.passes if item.kind == kind]
        assert [item.path for item in found] == expected
        assert [item.short_label for item in found] == [
            f"{kind}_{number}" for number in range(1, len(paths) + 1)
        ]
    graph = trace.graph(level="layer")
    ends = [node for node, kind in graph.nodes(data="kind") if kind in {"input", "output"}]
    assert [graph.nodes[node]["path"] for node in ends] == below + paths
    assert len(graph) == 3 * len(paths)
    for inner, outer in ((graph.successors, "input"), (graph.predecessors, "output")):
        layers = [item.label for item in trace.passes if item.kind == outer]
        assert [len(list(inner(label))) for label in layers] == [1] * len(layers)


def test_arguments_by_place_and_by_name_have_these_as_paths():
    model = Take(lambda x, y, z: (x, y, z))
    with opscope.trace(model) as trace:
        model(torch.rand(2), [torch.rand(3)], mask=torch.rand(4))
    found = [item.path for item in trace.passes if item.kind == "input"]
    assert found == ["0", "1.0", "mask"]
