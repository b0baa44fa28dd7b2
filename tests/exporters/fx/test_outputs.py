"""A program returns what the model does, in the containers of the model."""

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from enum import Enum, IntEnum
from typing import NamedTuple

import pytest
import torch
from tests.exporters.fx.compare import Model, leaves, program_of, record, same
from torch import nn

import opscope
from opscope.records.containers import Container, Opaque, TensorAt

CONTAINERS = {
    "dotted keys": lambda y: {"layer1.0": y, "layer1.1": y + 1, "layer1": y + 2},
    "keys like numbers": lambda y: {"1": y, "0": y + 1},
    "numbers as keys": lambda y: {1: y, 0: y + 1, 2.5: y + 2, -1: y + 3},
    "keys of all kinds": lambda y: {None: y, True: y + 1, b"b": y + 2, ("a", 1): y + 3},
    "odd texts as keys": lambda y: {
        "": y,
        '"': y + 1,
        "\n'\\": y + 2,
        "a b": y + 3,
        "{x}%s": y + 4,
    },
    "a list": lambda y: [y, y + 1],
    "an empty list": lambda y: [],
    "a dictionary of a tuple": lambda y: {"a": (y, [y + 1]), "b": {"c": {}}},
    "None inside": lambda y: (y, None, {"a": None}),
    "numbers and texts inside": lambda y: (y, 3, 2.5, -0.0, float("inf"), "text", True, 1j, b"b"),
    "a shape": lambda y: (y, y.shape, len(y)),
    "nothing": lambda y: None,
    "one tensor twice": lambda y: [y, {"again": y}],
    "no tensor": lambda y: {"n": 3},
    "deep": lambda y: [[[[[[y]]]]]],
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_keys_and_constants_are_the_models(make):
    model = Model(lambda m, x: make(m.one(x)))
    program = program_of(model, torch.rand(4, 3))
    new = torch.rand(4, 3)
    expected, found = model(new), program(new)

    assert structure(found) == structure(expected)
    assert all(map(equal, leaves(found), leaves(expected)))


def structure(value):
    if isinstance(value, dict):
        return dict, [(key, type(key), structure(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return tuple if isinstance(value, torch.Size) else type(value), [
            structure(item) for item in value
        ]
    return type(value)


def equal(one, other):
    return same(one, other) if isinstance(one, torch.Tensor) else one == other


Pair = namedtuple("Pair", ["first", "second"])  # noqa: PYI024


class Typed(NamedTuple):
    logits: torch.Tensor
    rest: object = None


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    count: int = 3
    note: object = None


class Holder:
    def __init__(self, tensor):
        self.tensor, self.name, self.function = tensor, "holder", print
        self.inner = [torch.nn.Identity]


class Mapping(OrderedDict):
    pass


class Numbered(IntEnum):
    ONE = 1


class Word(str):
    __slots__ = ()


PLAIN = {
    "a named tuple": (lambda y: Pair(y, y + 1), lambda y: (y, y + 1)),
    "a typed one with a dictionary": (lambda y: Typed(y, {"a": y}), lambda y: (y, {"a": y})),
    "what max returns": (lambda y: y.max(1), lambda y: tuple(y.max(1))),
    "a tuple of a class of its own": (lambda y: type("T", (tuple,), {})((y, 1)), lambda y: (y, 1)),
    "an ordered dictionary": (lambda y: OrderedDict(b=y, a=1), lambda y: {"b": y, "a": 1}),
    "a dictionary of a class of its own": (lambda y: Mapping(b=y), lambda y: {"b": y}),
    "one with a default": (lambda y: defaultdict(list, a=[y]), lambda y: {"a": [y]}),
    "a data class": (Result, lambda y: {"logits": y, "count": 3, "note": None}),
    "a data class with an object": (
        lambda y: Result(y, note=object()), lambda y: {"logits": y, "count": 3},
    ),
    "an object": (Holder, lambda y: {"tensor": y, "name": "holder"}),
    "keys of classes of their own": (
        lambda y: {Numbered.ONE: y, Word("w"): y + 1}, lambda y: {1: y, "w": y + 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "plain"), PLAIN.values(), ids=PLAIN)
def test_containers_of_classes_of_their_own_are_plain_ones(make, plain):
    model = Model(lambda m, x: make(m.one(x)))
    program = program_of(model, torch.rand(4, 3))
    new = torch.rand(4, 3)
    expected, found = plain(model.one(new)), program(new)

    assert structure(found) == structure(expected)
    assert all(map(equal, leaves(found), leaves(expected)))


class Colour(Enum):
    RED = 1


REFUSED = {
    "a set": (lambda y: {y}, "the output is of class set"),
    "an object without attributes": (lambda y: (y, object()), "the output at 1 is of class object"),
    "a function": (lambda y: {"a": [y, print]}, "the output at a.1 is of class builtin"),
    "a generator": (lambda y: (item for item in [y]), "of class generator"),
    "an enum as a key": (lambda y: {Colour.RED: y}, "a key of class Colour"),
    "an object as a key": (lambda y: [{object(): y}], "the output at 0 is a dictionary with a key"),
    "an object's list of both": (
        lambda y: Result(y, note=[y, object()]), "the output at note.1 is of class object",
    ),
    "a text of torch.fx": (lambda y: {"# COUNTER: 3": y}, "takes for its own"),
    "a value that is one": (lambda y: (y, "\n# COUNTER: 3"), "takes for its own"),
    "deeper than it is looked into": (
        lambda y: [[[[[[[[[[y]]]]]]]]]], "is of class list",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_given_is_refused_with_its_place_and_class(make, message):
    model = Model(lambda m, x: make(m.one(x)))
    trace = record(model, torch.rand(4, 3))

    with pytest.raises(opscope.TraceStateError, match=message):
        trace.to_fx()


def test_keys_are_recorded_as_they_are_and_others_by_their_class():
    model = nn.Identity()
    model.forward = lambda x: {("a", 1): x, Colour.RED: x, Numbered.ONE: x, Word("w"): x}
    (call,) = record(model, torch.rand(2)).recording.module_calls

    assert call.output_structure == Container(
        "dict", "dict", (("a", 1), Opaque("Colour"), 1, "w"), tuple(map(TensorAt, range(4)))
    )
    assert [leaf.path for leaf in call.outputs] == ["<tuple>", "<Colour>", "1", "w"]


def test_an_output_that_is_an_input_a_parameter_or_a_constant_is_given():
    outer = torch.arange(3.0)
    model = Model(lambda m, x: (x, m.one.weight, outer, torch.tensor([1.0, 2.0])))
    x = torch.rand(3)
    program = program_of(model, x)
    new = torch.rand(3)
    found = program(new)

    assert found[0] is new
    assert found[1] is model.one.weight
    assert torch.equal(found[2], outer)
    assert torch.equal(found[3], torch.tensor([1.0, 2.0]))
