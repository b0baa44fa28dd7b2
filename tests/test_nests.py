"""Modules inside one another, deeper than Python's recursion limit."""

import copy
import pickle
import sys
from threading import Thread, stack_size

import pytest
import torch
from torch import nn

import opscope
from opscope import LayerNotFound

DEPTH = 1200  # more than the default limit, one frame each
X = torch.ones(1, 2)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def deep_down(call):
    """Return what a call gives that is made with a raised recursion limit, put back after it."""
    found = []
    limit, size = sys.getrecursionlimit(), stack_size(512 * 2**20)
    try:
        sys.setrecursionlimit(20 * DEPTH)
        thread = Thread(target=lambda: found.append(call()))
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        stack_size(size)
    return found[0]


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for depth in range(DEPTH):
        model = nn.Sequential(model) if depth % 2 else Wrapped(model)

    def bare():
        try:
            return model(X)
        except RecursionError:
            return None

    if deep_down(bare) is None:
        pytest.skip("this Python nests fewer modules, whatever the recursion limit is")

    def run():
        with opscope.trace(model, replayable=True, gradients="all") as trace:
            model(X).sum().backward()
        trace.model = model  # or nobody has it
        return trace

    return deep_down(run)


@pytest.fixture(autouse=True)
def usual_limit(trace):
    """Have Python's own recursion limit, which some versions of torch raise."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


def test_a_nest_deeper_than_the_recursion_limit_is_read(trace):
    assert sys.getrecursionlimit() < DEPTH
    assert len(trace.modules) == DEPTH + 3
    assert len(trace["relu"].output_of) == DEPTH + 1  # all but the model itself
    assert "relu" in str(trace)
    assert "relu" in str(trace["relu"])
    with pytest.raises(LayerNotFound):
        trace["rolu"]


def test_a_nest_deeper_than_the_recursion_limit_is_copied_and_pickled(trace):
    for twin in (copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        assert twin.recording.ops == trace.recording.ops
        assert twin.recording.module_calls == trace.recording.module_calls
        assert len(twin["relu"].output_of) == DEPTH + 1


def test_a_nest_deeper_than_the_recursion_limit_is_replayed_and_made_a_program(trace):
    assert trace.validate()
    assert torch.equal(trace.to_fx()(X), deep_down(lambda: trace.model(X)))
    assert trace.first_nonfinite() is None


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_a_nest_deeper_than_the_recursion_limit_is_shown(trace, level):
    assert len(trace.graph(level, phase="all"))
    assert len(trace.graph(level, depth=3, rolled=True))
    assert str(trace.summary(level))
    assert trace.summary(level)._repr_html_()
    assert "digraph" in trace.to_dot(level).to_string()
