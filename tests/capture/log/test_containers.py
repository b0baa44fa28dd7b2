"""Looking into what modules are given and give, whatever its classes do or say."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import opscope
from opscope.capture.log.containers import arguments, contents, tensors_in, tensors_of
from opscope.records.containers import (
    LONE,
    LONE_ARGUMENT,
    Container,
    Opaque,
    TensorAt,
    tensor_paths,
)

x, y = torch.ones(1), torch.ones(2)


def test_a_lone_tensor_has_no_path():
    assert contents(x) == (LONE, [x])
    assert arguments((x,), {}) == (LONE_ARGUMENT, [x])
    assert tensor_paths(LONE) == tensor_paths(LONE_ARGUMENT) == [""]


def test_containers_keep_their_kind_level_order_and_constants():
    structure, tensors = contents({"b": [x, None], "a": (3, y), 7: "text"})
    assert structure == Container(
        "dict", "dict", ("b", "a", 7),
        (
            Container("list", "list", (0, 1), (TensorAt(0), None)),
            Container("tuple", "tuple", (0, 1), (3, TensorAt(1))),
            "text",
        ),
    )  # fmt: skip
    assert [tensor is known for tensor, known in zip(tensors, (x, y), strict=True)] == [True] * 2


@pytest.mark.parametrize(
    ("args", "kwargs", "paths"),
    [
        (([x, y],), {}, ["0.0", "0.1"]),
        (({"i": x, "j": y},), {}, ["0.i", "0.j"]),
        ((x, y), {}, ["0", "1"]),
        ((x,), {"mask": y}, ["0", "mask"]),
        ((), {"input": x}, ["input"]),
        ((3, [None, (x,)]), {"rest": {"k": y}}, ["1.1.0", "rest.k"]),
        ((x, x), {}, ["0", "1"]),
    ],
)
def test_paths_of_arguments_begin_with_their_place_or_name(args, kwargs, paths):
    assert tensor_paths(arguments(args, kwargs).structure) == paths


class Key(str, Enum):
    LOGITS = "logits"


class Named(NamedTuple):
    left: Any
    right: Any


@dataclass
class Base:
    a: Any


@dataclass(slots=True)
class Slotted(Base):
    b: Any = None


def moved():
    found = OrderedDict(first=x, second=y)
    found.move_to_end("first")
    return found


class Computing(dict):
    """Would compute, or raise, whatever it is asked."""

    def items(self):
        raise ValueError("not loaded yet")

    __iter__ = keys = values = __len__ = __bool__ = __eq__ = __getitem__ = items
    __hash__ = None


class ListLike(list):
    def __iter__(self):
        raise KeyboardInterrupt


class Liar:
    """Says that it is something else."""

    def __init__(self):
        self.held = x

    @property
    def __class__(self):
        return torch.Tensor

    def __getattr__(self, name):
        raise RuntimeError(name)


class Odd:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __hash__(self):
        return 3


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (Named(x, {"k": y}), ["left", "right.k"]),
        (Slotted(x, [y]), ["a", "b.0"]),
        (moved(), ["second", "first"]),
        (deque([x, y]), ["0", "1"]),
        ({Key.LOGITS: x, True: y}, ["logits", "True"]),
        ({(1, 2): x, Odd(): y}, ["<tuple>", "<Odd>"]),
        (Computing(y=x), ["y"]),
        (ListLike([x, y]), ["0", "1"]),
        (Liar(), ["held"]),
        ({"a.b": x, "a": {"b": y}}, ["a.b", "a.b"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_are_found_without_running_code_of_the_users(value, paths):
    assert tensor_paths(contents(value).structure) == paths


@pytest.mark.parametrize(
    "value",
    [x, (x, [y]), {"a": x, 1: (y, None)}, Named(x, y), moved(), deque([x]), Computing(y=x),
     ListLike([x, y]), torch.ones(2, 2).max(0), [[[y]]], 3.0, None],
)  # fmt: skip
def test_the_quick_look_into_built_in_containers_finds_the_same(value):
    assert list(map(id, tensors_in(value))) == list(map(id, tensors_of(value)))


def test_the_quick_look_goes_neither_into_objects_nor_deep():
    endless = [x]
    endless.append(endless)
    assert tensors_in([Slotted(x, y), Liar(), y]) == [y]
    assert tensors_in([[[[[x]]]]]) == []
    assert [id(one) for one in tensors_in(endless)] == 4 * [id(x)]


def test_what_cannot_be_looked_into_is_noted_as_such():
    class Closed:
        @property
        def __dict__(self):
            raise RuntimeError("closed")

    structure, tensors = contents(
        [Closed(), torch.device("cpu"), torch.Size([2]), list(range(9999))]
    )
    assert tensors == []
    assert structure.items[0] == Opaque("Closed") or structure.items[0].items == ()
    assert structure.items[1] == Opaque("device")
    assert structure.items[2] == Container("tuple", "Size", (0,), (2,))
    assert structure.items[3] == Opaque("list")


@pytest.mark.parametrize("value", [Computing, ListLike, Liar, Odd], ids=lambda c: c.__name__)
def test_a_model_that_gives_it_runs_as_without_a_trace(value):
    class Model(nn.Module):
        def forward(self, given):
            return given

    model, given = Model(), value()
    with opscope.trace(model) as trace:
        assert model(given) is given
    assert len(trace.recording.module_calls) == 1
    str(trace), str(trace.summary())


def test_two_tensors_whose_paths_read_alike_are_two_outputs():
    class Model(nn.Module):
        def forward(self, x):
            return {"a.b": x + 1, "a": {"b": x + 2}}

    model = Model()
    with opscope.trace(model) as trace:
        model(torch.ones(1))
    assert [layer.label for layer in trace if layer.type == "output"] == [
        "output_1_4",
        "output_2_5",
    ]


def test_a_module_called_by_keyword_has_its_inputs():
    class Inner(nn.Module):
        def forward(self, first, *, scale=None, rest=()):
            return first * scale + sum(rest)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.lin = Inner(), nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(self.lin(input=x), scale=x.sum(), rest=[x, x + 1])

    model = Model()
    with opscope.trace(model) as trace:
        model(torch.rand(3, 2))
    found = {trace.modules[run.module].address: run.inputs for run in trace.recording.module_calls}
    assert [leaf.path for leaf in found["lin"]] == ["input"]
    assert [leaf.path for leaf in found["inner"]] == ["0", "scale", "rest.0", "rest.1"]


def test_a_named_tuple_is_told_from_a_tuple_and_from_a_data_class():
    x = torch.ones(1)
    kinds = [contents(value).structure.kind for value in (Named(x, 1), (x, 1), Base(x))]
    assert kinds == ["named tuple", "tuple", "object"]
    assert contents(Named(x, 1)).structure.keys == Named._fields
