"""Which ops are a custom function's, whether torch applies it in Python or in C++."""

import functools

import pytest
import torch
from torch.autograd import Function

import opscope
from opscope.capture.assemble.recording import build_recording


class Identity(Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Measured(Identity):
    @staticmethod
    def forward(ctx, x):
        x.mean()
        return x


class Both(Function):
    @staticmethod
    def forward(ctx, x, y):
        return x, y

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


class Decorated(Identity):
    @staticmethod
    @torch.no_grad()
    def forward(ctx, x):
        return x.exp()


class SetUp(Identity):
    @staticmethod
    def forward(x):
        return x.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0].sin())


def wrapped(function):
    @functools.wraps(function)
    def run(*args):
        return function(*args)

    return run


class Wrapped(Identity):
    forward = staticmethod(wrapped(Decorated.forward))


FUNCTIONS = {
    Identity: ["view"],
    Measured: ["mean", "view"],
    Both: ["view", "view"],
    Decorated: ["exp"],
    SetUp: ["exp", "sin"],
    Wrapped: ["exp"],
}


def leaf():
    return torch.rand(3, requires_grad=True)


def own(trace):
    return [op.name for op in trace.ops if op.custom_function]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_that_it_runs_is_its_own(function, layers):
    args = [leaf() for _ in range(2 if function is Both else 1)]
    apply = function.apply
    with opscope.trace(layers=layers) as trace:
        apply(*args)
        args[0] * 2
    assert own(trace) == FUNCTIONS[function]

    with opscope.trace(layers=layers) as trace:
        args[0] * 2
        for _ in range(2):
            apply(*args)
    assert own(trace) == FUNCTIONS[function] * 2


def test_views_of_the_program_are_not(layers):
    x = leaf()
    with opscope.trace(layers=layers) as trace, torch.no_grad():
        x.view_as(x)
        x.view(-1)
    assert own(trace) == []

    with opscope.trace(layers=layers) as trace:
        x.exp()
        with torch.no_grad():
            x.view_as(x)
        Decorated.apply(x)
        x.view_as(x)
        x.detach().view_as(x)
        with torch.no_grad():
            x.view(-1)
    assert own(trace) == ["exp"]


def test_a_function_without_frames_is_differentiated_by_no_program(layers):
    x = leaf()
    with opscope.trace(layers=layers) as trace:
        Identity.apply(x * 1).sum()
    program = trace.to_fx()
    with pytest.raises(opscope.TraceStateError, match="cannot be differentiated here"):
        program(leaf()).sum().backward()


def test_a_recording_is_the_same_however_often_it_is_built(layers):
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.sum()
            return x

        @staticmethod
        def backward(ctx, gradient):
            return -gradient

    with opscope.trace(layers=layers) as trace:
        Same.apply(torch.ones(2, requires_grad=True) * 1).sum().backward()
    session = trace._block.session

    assert build_recording(session) == build_recording(session) == trace.recording
