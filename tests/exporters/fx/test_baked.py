"""What a program fixes although something else decided it is listed, and nothing else is."""

import pytest
import torch
from tests.exporters.fx.compare import Model, program_of, record
from torch import nn
from torch.nn import functional as F


@pytest.fixture
def x():
    return torch.rand(4, 3)


def reasons(program):
    return [baked["reason"] for baked in program.meta["baked"]]


NUMBER, SHAPE = "a number taken out of a tensor", "a shape that depends on the data"
OUT = "numbers of a tensor, given out of torch"
BY_DATA = {
    "item": (lambda m, x: x * x.sum().item(), [NUMBER]),
    "tolist": (lambda m, x: x * torch.tensor(x[0].tolist()), [NUMBER]),
    "an index out of a list": (lambda m, x: x[: x.argmax(0).tolist()[0] + 1], [NUMBER]),
    "numpy": (lambda m, x: x * torch.from_numpy(x.numpy() + 1), [OUT]),
    "an array": (lambda m, x: x * torch.as_tensor(x.__array__() + 1), [OUT]),
    "the number itself": (lambda m, x: x.sum().item(), [NUMBER]),
    "a mask": (lambda m, x: x[x > 0.5], [SHAPE]),
    "where": (lambda m, x: torch.where(x > 0.5)[0], [SHAPE]),
}


@pytest.mark.parametrize(("function", "expected"), BY_DATA.values(), ids=BY_DATA)
def test_what_the_data_decided_is_listed(function, expected, x):
    program = program_of(Model(function), x, grad=False)

    assert reasons(program) == expected


def test_numbers_taken_in_another_module_are_not_listed_in_a_module(x):
    def choose(model, x):
        return model.two(x) * x.sum().item() + len(x[0].tolist())

    model = Model(choose)
    trace = record(model, x)

    assert reasons(trace.to_fx()) == [NUMBER, NUMBER]
    assert reasons(trace.to_fx("two")) == []


class Called(nn.Module):
    def forward(self, x, scale=1.0, flag=True, name="n", sizes=(), other=None, **more):
        return x * scale


ARGUMENTS = {
    "none": ({}, []),
    "as they are by default": ({"scale": 1.0, "flag": True, "name": "n", "other": None}, []),
    "others": (
        {"scale": 2, "flag": False, "name": "a\nb"},
        ["argument 'scale' was 2", "argument 'flag' was False", r"argument 'name' was 'a\nb'"],
    ),
    "a list": ({"sizes": [1, [2]]}, ["argument 'sizes' was list of 1, list of 2"]),
    "beside tensors": ({"more": {"a": torch.ones(1), "b": 3}}, ["argument 'more' was dict of 3"]),
    "an object": ({"other": object()}, ["argument 'other' was of class object"]),
    "a long text": ({"name": "x" * 99}, [f"argument 'name' was '{'x' * 58}…"]),
    "by its name only": ({"extra": "e"}, ["argument 'extra' was 'e'"]),
}


@pytest.mark.parametrize(("given", "expected"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_other_arguments_than_tensors_are_listed_unless_they_are_as_by_default(given, expected, x):
    model = Called()
    program = record(model, x, **given).to_fx()

    assert reasons(program) == expected
    assert all(baked["op"] is None for baked in program.meta["baked"])


RANDOM = "training mode: random, also after eval()"
BATCH = "training mode: statistics of the batch, which update the running ones"


class Stochastic(nn.Module):
    """Drops whole paths, as many vision models do."""

    def forward(self, x):
        if not self.training:
            return x
        return x * torch.empty(len(x), 1).bernoulli_(0.8)


PARTS = {
    "dropout": (nn.Dropout(), [RANDOM]),
    "alpha dropout": (nn.AlphaDropout(), [RANDOM]),
    "dropout of channels": (nn.Dropout1d(), [RANDOM]),
    "batch norm": (nn.BatchNorm1d(3), [BATCH]),
    "batch norm without running statistics": (nn.BatchNorm1d(3, track_running_stats=False), []),
    "layer norm": (nn.LayerNorm(3), []),
    "instance norm": (nn.InstanceNorm1d(4), []),
    "leaky at random": (nn.RReLU(), [RANDOM]),
    "paths": (Stochastic(), [RANDOM]),
    "a layer": (nn.Linear(3, 3), []),
}


@pytest.mark.parametrize(("part", "expected"), PARTS.values(), ids=PARTS)
def test_what_training_mode_decided_is_listed_in_training_only(part, expected, x):
    model = Model(lambda m, x: m.part(m.one(x)), part=part)

    assert reasons(program_of(model.train(), x)) == expected
    assert reasons(program_of(model.eval(), x)) == []


def test_dropout_between_layers_and_in_attention_is_listed(x):
    rnn = nn.LSTM(3, 4, 2, dropout=0.5)
    assert reasons(record(rnn, x).to_fx()) == [RANDOM]
    attention = nn.MultiheadAttention(4, 2, dropout=0.5)
    given = torch.rand(3, 4)
    assert RANDOM in reasons(record(attention, given, given, given, need_weights=False).to_fx())
    assert reasons(record(rnn.eval(), x).to_fx()) == []


def test_what_is_random_in_both_modes_is_not_listed(x):
    def both(model, x):
        return F.dropout(x + torch.rand(3) + torch.randn_like(x), 0.5, training=True)

    model = Model(both).eval()
    program = program_of(model, x)
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)

    assert reasons(program) == []
    assert torch.equal(program(x), expected)
    assert not torch.equal(program(x), expected)


def test_modes_of_a_program_change_nothing_it_does(x):
    model = Model(lambda m, x: m.norm(m.one(x)), norm=nn.BatchNorm1d(3)).eval()
    program = program_of(model, x)

    assert not program.training
    assert torch.equal(program.train()(x), model(x))
    assert program_of(model.train(), x).training
