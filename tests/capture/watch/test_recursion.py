import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import opscope
from opscope.capture.watch.recursion import enough, explain

X = torch.ones(1, 2)
OPTIONS = {
    "default": {},
    "without layers": {"layers": False},
    "saving": {"save": "all"},
    "replayable": {"replayable": True},
    "gradients": {"gradients": "all"},
    "stopping": {"stop_on_nonfinite": True},
    "saved for backward": {"saved_for_backward": True},
}


@contextmanager
def recursion_limit(limit):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def nest(depth):
    model = nn.ReLU()
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


frames_count = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 counts the calls of C, of which a trace takes no more for a module",
)


def deepest(limit):
    """Return how many modules can be inside one another in a bare run."""
    low, high = 1, limit
    while high - low > 1:
        depth = (low + high) // 2
        try:
            nest(depth)(X)
            low = depth
        except RecursionError:
            high = depth
    return low


def notes(error):
    """Return what an error says: in Python 3.10 that is its message."""
    return "\n".join(map(str, [error, *getattr(error, "__notes__", ())]))


@frames_count
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_deepest_nest_that_runs_bare_runs_traced_with_the_limit_that_its_error_names(options):
    limit = sys.getrecursionlimit()
    model = nest(deepest(limit))
    with pytest.raises(RecursionError) as caught, opscope.trace(model, **options):
        model(X)

    assert f"what runs untraced within the recursion limit of {limit} " in notes(caught.value)
    assert notes(caught.value).count(f"sys.setrecursionlimit({enough(limit)})") == 1
    with recursion_limit(enough(limit)), opscope.trace(model, **options) as trace:
        model(X)
    assert len(trace.recording.module_calls) == len(trace.modules)


@frames_count
def test_an_error_that_the_program_catches_says_it_too():
    model = nest(deepest(sys.getrecursionlimit()))
    with opscope.trace(model), pytest.raises(RecursionError) as caught:
        model(X)

    assert "sys.setrecursionlimit(" in notes(caught.value)


def test_any_other_error_is_left_as_it_is():
    class Failing(nn.Module):
        def forward(self, x):
            raise self.error

    model = nn.Sequential(Failing())
    for error in (RuntimeError("no"), KeyError("no")):
        model[0].error = error
        with pytest.raises(type(error)) as caught, opscope.trace(model):
            model(X)

        assert notes(caught.value) == str(error)


@frames_count
def test_an_error_is_told_once_however_many_traces_it_passes():
    model = nest(deepest(sys.getrecursionlimit()))
    with pytest.raises(RecursionError) as caught, opscope.trace(model), opscope.trace(model):
        model(X)
    explain(caught.value)

    assert notes(caught.value).count("sys.setrecursionlimit(") == 1


def test_nothing_is_said_where_it_is_not_the_recursion_limit_that_was_reached():
    error = RecursionError("maximum recursion depth exceeded")  # as C's stack is full
    explain(error)

    assert notes(error) == "maximum recursion depth exceeded"
