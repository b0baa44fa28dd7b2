"""Inputs and outputs of models that raise or lie when they are looked into end no run."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

import opscope

X = torch.rand(2, 3)


class RaisingItems(dict):
    def items(self):
        raise RuntimeError("items")


class ExitingItems(dict):
    def items(self):
        raise SystemExit


class LyingItems(dict):
    def keys(self):
        return ["nope"]

    def items(self):
        return [("a",)]


class RaisingList(list):
    def __iter__(self):
        raise RuntimeError("iter")


class RaisingTuple(tuple):
    __slots__ = ()

    def __iter__(self):
        raise RuntimeError("iter")


class EndlessList(list):
    def __iter__(self):
        while True:
            yield X


class LyingLength(list):
    def __len__(self):
        return 10**9


class RaisingKey:
    def __str__(self):
        raise RuntimeError("str")

    __repr__ = __str__

    def __hash__(self):
        return 1


class RaisingQuestions:
    def __eq__(self, other):
        raise RuntimeError("eq")

    def __bool__(self):
        raise RuntimeError("bool")

    def __hash__(self):
        raise RuntimeError("hash")

    def __len__(self):
        raise RuntimeError("len")


class RaisingAttributes:
    def __init__(self, x):
        self.x = x

    def __getattribute__(self, name):
        raise RuntimeError(name)


class RaisingClass:
    @property
    def __class__(self):
        raise RuntimeError("class")


@dataclasses.dataclass
class RaisingField:
    x: object

    def __getattribute__(self, name):
        if name == "x":
            raise RuntimeError("field")
        return super().__getattribute__(name)


class RaisingValues(collections.UserDict):
    def __getitem__(self, key):
        raise RuntimeError("getitem")


HOSTILE = {
    "items raise": lambda x: RaisingItems(a=x),
    "items exit": lambda x: ExitingItems(a=x),
    "items lie": lambda x: LyingItems(a=x),
    "a list raises": lambda x: RaisingList([x]),
    "a tuple raises": lambda x: RaisingTuple((x,)),
    "a list without end": lambda x: EndlessList([x]),
    "a length lies": lambda x: LyingLength([x]),
    "a key raises": lambda x: {RaisingKey(): x},
    "questions raise": lambda x: [RaisingQuestions(), x],
    "attributes raise": RaisingAttributes,
    "a class raises": lambda x: RaisingClass(),
    "a field raises": RaisingField,
    "values raise": lambda x: RaisingValues(a=x),
    "nested": lambda x: {"a": [RaisingItems(a=x), x], "b": (RaisingField(x),)},
}
OPTIONS = [
    {}, {"layers": False}, {"save": "all"}, {"gradients": "all"}, {"replayable": True},
    {"stop_on_nonfinite": True},
]  # fmt: skip


class Model(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make
        self.inner = nn.Tanh()

    def forward(self, x, extra=None):
        return self.make(self.inner(x.sin()))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_the_run_goes_on_and_the_record_can_be_read(make, options):
    for model, arguments, named in (
        (Model(make), (X,), {}),
        (Model(lambda x: x), (X, make(X)), {}),
        (Model(lambda x: x), (X,), {"extra": make(X)}),
    ):
        with opscope.trace(model, **options) as trace:
            model(*arguments, **named)
        assert [op.name for op in trace.ops if not op.by_autograd] == ["sin", "tanh"]
        assert trace["inner"].type == "tanh"
        assert str(trace.summary())
        assert str(trace)
        assert str(trace.to_dot())
