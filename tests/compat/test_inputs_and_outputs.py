"""What a model is given and gives: any container, any plain object, or nothing."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import Any, NamedTuple

import pytest
import torch
from tests import invariants, witness, zoo
from torch import nn

import opscope


class Passing(nn.Module):
    """Computes on one tensor, and gives what a function makes of it."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, given, *rest):
        return self.make(given)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Data:
    x: Any
    note: str = "note"


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any


@dataclasses.dataclass
class Unset:
    """Has a field that nobody gave a value."""

    x: Any
    later: Any = dataclasses.field(init=False)


class Plain:
    """Like the caches and batches that libraries hand around."""

    kind = "an attribute of the class"

    def __init__(self, x):
        self.x = x
        self.steps = [3, "three", None]

    @property
    def dangerous(self):
        raise RuntimeError("a property was read")


class Guarded(Plain):
    """Lets no one ask it for what it does not have."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class Reader(Plain):
    """Runs torch whenever it is asked for an item."""

    def __getitem__(self, key):
        return self.x.exp()

    def __iter__(self):
        yield self.x.exp()


Old = namedtuple("Old", ["x", "y"])  # noqa: PYI024 (as libraries still have them)

FORMS = {
    "a tensor": (lambda x: x, [""]),
    "a tuple": (lambda x: (x, 3), ["0"]),
    "a list": (lambda x: [None, x], ["1"]),
    "a deque": (lambda x: deque([x, x * 2]), ["0", "1"]),
    "a dictionary": (lambda x: {"y": x, 3: [x * 2]}, ["y", "3.0"]),
    "a defaultdict": (lambda x: defaultdict(list, y=x), ["y"]),
    "an ordered dictionary": (lambda x: OrderedDict(y=x), ["y"]),
    "a dictionary of its own kind": (lambda x: UserDict(y=x), ["data.y"]),
    "a named tuple": (lambda x: Pair(x, {"k": x * 2}), ["left", "right.k"]),
    "an old named tuple": (lambda x: Old(3, x), ["y"]),
    "a dataclass": (Data, ["x"]),
    "a dataclass with slots": (Slotted, ["x"]),
    "a dataclass with an unset field": (Unset, ["x"]),
    "a namespace": (lambda x: types.SimpleNamespace(x=x), ["x"]),
    "a plain object": (Plain, ["x"]),
    "a guarded object": (Guarded, ["x"]),
    "an object that computes": (Reader, ["x"]),
    "objects in objects": (lambda x: Plain([Plain(x), Plain({"k": x * 2})]), ["x.0.x", "x.1.x.k"]),
}


@pytest.mark.parametrize(("make", "paths"), FORMS.values(), ids=FORMS)
def test_tensors_are_found_in_what_a_model_gives(make, paths, layers):
    model = Passing(lambda x: make(x.sin()))
    with opscope.trace(model, layers=layers) as trace:
        model(torch.ones(2))
    (root,) = trace.recording.module_calls
    assert [leaf.path for leaf in root.outputs] == paths
    assert [c.path for c in trace.recording.layer_calls if c.kind == "output"] == paths
    assert "exp" not in [op.name for op in trace.ops]
    invariants.check(trace)


@pytest.mark.parametrize(("make", "paths"), FORMS.values(), ids=FORMS)
def test_tensors_are_found_in_what_a_model_is_given(make, paths, layers):
    model, given = Passing(lambda given: torch.zeros(1)), make(torch.ones(2))
    with opscope.trace(model, layers=layers) as trace:
        model(given)
    (root,) = trace.recording.module_calls
    below = [f"0.{path}" if path else "" for path in paths]
    assert [leaf.path for leaf in root.inputs] == below
    assert [c.path for c in trace.recording.layer_calls if c.kind == "input"] == below


NOTHING = {
    "None": None,
    "a number": 3,
    "a string": "x",
    "bytes": b"x",
    "an empty list": [],
    "a function": torch.sin,
    "a class": Plain,
    "a module of Python": torch,
    "a module of torch": nn.Linear(2, 2),
    "a generator": (x for x in [torch.ones(2)]),
    "an empty object": object(),
    "a shape": torch.Size([2, 3]),
    "a device": torch.device("cpu"),
}


@pytest.mark.parametrize("value", NOTHING.values(), ids=NOTHING)
def test_what_holds_no_tensor_is_no_input_and_no_output(value, layers):
    model = Passing(lambda given: given)
    with opscope.trace(model, layers=layers) as trace:
        given = model(value)
    assert given is value
    (root,) = trace.recording.module_calls
    assert root.inputs == root.outputs == ()
    assert len(trace) == 0


@pytest.mark.parametrize("layers", [True])
def test_what_contains_itself_is_looked_into_once(layers):
    def knot(x):
        ring, owner = [x.sin()], Plain(x.cos())
        ring.append(ring)
        owner.ring, owner.owner = ring, owner
        return {"ring": ring, "owner": owner}

    model = Passing(knot)
    with opscope.trace(model, layers=layers) as trace:
        model(torch.ones(2))
    (root,) = trace.recording.module_calls
    assert [leaf.path for leaf in root.outputs] == ["ring.0", "owner.x", "owner.ring.0"]


def test_a_data_set_behind_an_object_is_not_read_through():
    read = []

    class Item:
        def __init__(self, number):
            self.number = number

        @property
        def __class__(self):  # asked for by isinstance
            read.append(self.number)
            return Item

    model, batch = Passing(lambda batch: batch.x.sin()), Plain(torch.ones(2))
    batch.source = types.SimpleNamespace(items=[Item(i) for i in range(3000)])
    with opscope.trace(model) as trace:
        model(batch)
    assert trace.layers[0].type == "input"
    assert read == []


def test_one_tensor_given_thrice_is_three_inputs_that_all_have_its_readers(layers):
    class Sum(nn.Module):
        def forward(self, a, b, *, c):
            return a * 2 + b - c

    model, x = Sum(), torch.ones(2)
    with opscope.trace(model, layers=layers) as trace:
        model(x, x, c=x)
    types = ["input", "input", "input", "mul", "add", "sub", "output"]
    assert [layer.type for layer in trace.layers] == types
    for label in ("input_1", "input_2", "input_3"):
        assert [layer.type for layer in trace[label].children] == ["mul", "add", "sub"]
    (root,) = trace.recording.module_calls
    assert [leaf.path for leaf in root.inputs] == ["0", "1", "c"]
    invariants.check(trace)


def test_a_program_of_one_tensor_given_twice_takes_it_twice():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a * 2 + b

    model, x = Sum(), torch.ones(2)
    with opscope.trace(model) as trace:
        model(x, x)
    program = trace.to_fx()
    assert [n.name for n in program.graph.nodes if n.op == "placeholder"] == ["a", "b"]
    assert torch.equal(program(x, x), model(x, x))


def test_one_tensor_given_back_twice_is_two_outputs(layers):
    model = Passing(lambda x: (y := x.sin(), y))
    with opscope.trace(model, layers=layers) as trace:
        model(torch.ones(2))
    assert [layer.type for layer in trace["sin"].children] == ["output", "output"]


def test_a_parameter_that_is_given_to_its_model_is_still_that_parameter(layers):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def forward(self, x, weight):
            return x @ weight

    model = Tied()
    with opscope.trace(model, layers=layers) as trace:
        model(torch.ones(2, 3), model.weight)
    (product,) = [layer for layer in trace.layers if layer.type in ("matmul", "mm")]
    assert [parameter.name for parameter in product.parameters] == ["weight"]


# -------------------------------------------------------------- caches of transformers


@pytest.fixture(scope="module")
def cached():
    """One step of generation with the keys and values of the step before, traced."""
    from transformers import DynamicCache

    program = zoo.shared("gpt2")
    with torch.no_grad():
        given = {zoo.cache_name(program.module): DynamicCache(), "use_cache": True}
        program.module(**program.kwargs, **given)
        token = torch.ones(2, 1, dtype=torch.long)
        with opscope.trace(program.module) as trace:
            program.module(input_ids=token, **given)
    return trace


def paths_in_cache():
    """Return where the keys and values of both blocks are in it."""
    name = zoo.cache_name(zoo.shared("gpt2").module)
    return [f"{name}.layers.{i}.{kind}" for i in (0, 1) for kind in ("keys", "values")]


def test_keys_and_values_in_a_cache_are_inputs_that_the_attention_reads(cached):
    root = cached.recording.module_calls[0]
    assert [leaf.path for leaf in root.inputs] == ["input_ids", *paths_in_cache()]
    for label in [label for label in cached.layer_labels if label.startswith("input")][1:]:
        assert [child.type for child in cached[label].children] == ["cat"]


def test_the_cache_as_it_became_is_among_the_outputs(cached):
    root = cached.recording.module_calls[0]
    assert [leaf.path for leaf in root.outputs] == ["logits", *paths_in_cache()]
    values = cached.recording.values
    assert {values[leaf.value].shape for leaf in root.outputs[1:]} == {(2, 2, 8, 8)}


def test_a_cache_is_what_it_was_without_a_trace():
    from transformers import DynamicCache

    def keys(around):
        program, cache = zoo.shared("gpt2"), DynamicCache()
        with torch.no_grad(), around:
            for _ in range(2):
                given = {zoo.cache_name(program.module): cache}
                program.module(input_ids=program.kwargs["input_ids"], **given)
        return witness.bits([layer.keys for layer in cache.layers])

    assert keys(opscope.trace()) == keys(torch.no_grad())
