"""Where a program sets the grad mode is recorded, in whatever mode it was called itself."""

import pytest
import torch
from torch import nn

import opscope
from opscope.capture.log.grad_modes import GradModes
from opscope.records.recording import GradRegion


class Inner(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = x + 1
        return y * x


class Outer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = Inner()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def regions(function, grad, **options):
    model, x = Outer(function), torch.rand(3)
    with torch.set_grad_enabled(grad), opscope.trace(model, **options) as trace:
        model(x)
    return trace.recording


@torch.no_grad()
def decorated(x):
    return x.sin().cos()


@torch.set_grad_enabled(False)
def decorated_by_a_setter(x):
    return x.sin()


def context(model, x):
    x = x.sin()
    with torch.no_grad():
        x = x.cos().tan()
    return x.exp()


def nested(model, x):
    with torch.no_grad():
        x = x.sin()
        with torch.enable_grad():
            x = x.cos()
        with torch.no_grad():
            x = x.tan()
        return x.exp()


def setters(model, x):
    torch.set_grad_enabled(False)
    x = x.sin()
    torch.set_grad_enabled(True)
    x = x.cos()
    with torch.set_grad_enabled(False):
        x = x.tan()
    return x.exp()


def left_by_an_exception(model, x):
    try:
        with torch.no_grad():
            x = x.sin()
            x[9]
    except IndexError:
        return x.cos()


def without_ops(model, x):
    with torch.no_grad():
        pass
    return x.sin()


def in_a_submodule(model, x):
    with torch.no_grad():
        x = model.inner(x)
    return model.inner(x)


CASES = {
    context: [(False, range(1, 3), 0)],
    nested: [
        (False, range(4), 0), (True, range(1, 2), 0), (False, range(2, 3), 0),
    ],
    setters: [(False, range(1), 0), (True, range(1, 2), 0), (False, range(2, 3), 0)],
    (lambda model, x: decorated(x).exp()): [(False, range(2), 0)],
    (lambda model, x: decorated_by_a_setter(x).exp()): [(False, range(1), 0)],
    left_by_an_exception: [(False, range(1), 0)],
    without_ops: [],
    in_a_submodule: [(False, range(2), 0), (False, range(1), 1), (False, range(2, 3), 2)],
}  # fmt: skip


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize(("function", "expected"), CASES.items())
def test_regions_are_known_with_their_ops_and_their_module(function, expected, grad):
    found = regions(function, grad).grad_regions

    assert [region for region in found if region.module_call is not None] == [
        GradRegion(*region) for region in expected
    ]


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_a_call_knows_the_mode_in_which_it_was_called(grad):
    recording = regions(in_a_submodule, grad)

    assert [call.grad_enabled for call in recording.module_calls] == [grad, False, grad]
    assert recording.grad_enabled is grad
    assert not recording.inference


def test_inference_mode_around_a_model_is_known():
    model = Outer(context)
    with torch.inference_mode(), opscope.trace(model) as trace:
        model(torch.rand(3))
    (call,) = trace.recording.module_calls

    assert call.inference
    assert trace.recording.inference
    assert not call.grad_enabled


def test_without_layers_only_the_modes_of_the_model_and_the_block_are_known():
    recording = regions(in_a_submodule, grad=True, layers=False)

    assert recording.grad_regions == ()
    assert recording.module_calls[0].grad_enabled
    assert [op.grad_enabled for op in recording.ops] == [False, False, False, True]


def test_a_block_that_is_entered_again_begins_anew():
    trace = opscope.trace()
    x = torch.rand(3)
    with trace:
        torch.set_grad_enabled(False)
        x.sin()
    torch.set_grad_enabled(True)
    with trace:
        x.cos()
        with torch.no_grad():
            x.tan()

    assert [(r.enabled, r.ops) for r in trace.recording.grad_regions] == [
        (False, range(1)), (False, range(2, 3)),
    ]  # fmt: skip
    assert trace.recording.grad_enabled


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        with torch.no_grad(), torch.enable_grad():
            y = x.sin()
        return y.detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_what_a_custom_function_sets_is_its_own_and_its_ops_are_known(grad, layers):
    def call(model, x):
        y = Function.apply(x.cos())
        return model.inner(y)

    recording = regions(call, grad, layers=layers)
    inside = [op.name for op in recording.ops if op.custom_function]

    assert inside == ["sin", "detach"]
    assert all(region.module_call != 0 for region in recording.grad_regions)


def test_modules_that_a_custom_function_runs_are_in_it():
    class Runs(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, module):
            return module(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    recording = regions(lambda model, x: Runs.apply(x, model.inner).exp(), grad=True)

    assert [(op.name, op.custom_function) for op in recording.ops] == [
        ("add", True), ("mul", True), ("exp", False),
    ]  # fmt: skip


def test_calls_that_no_op_shows_are_known_with_their_tensor_and_module():
    def unseen(model, x):
        y = x.sin()
        y.tolist()
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient)
        y.data = torch.ones(3)
        return y.cos()

    weight = nn.Parameter(torch.rand(3))
    recording = regions(lambda model, x: unseen(model, x * weight), grad=True)
    made = [op.outputs[0] for op in recording.ops if op.name == "sin"]

    assert [(c.function, c.module_call) for c in recording.unseen_calls] == [
        ("tolist", 0), ("register_hook", 0), ("data", 0),
    ]  # fmt: skip
    assert [call.value for call in recording.unseen_calls] == made * 3


def test_a_tensor_that_no_op_had_is_not_made_a_value_by_such_a_call():
    outer = torch.rand(3)
    with opscope.trace() as trace:
        outer.tolist()
        torch.rand(3).sin()

    assert trace.recording.unseen_calls == ()
    assert all(value.origin != "outside" for value in trace.recording.values)


@pytest.mark.parametrize(
    "steps", [["exit"], ["exit", "exit", "enter"], ["set", "exit"], ["with", "set"]]
)
def test_steps_that_do_not_pair_end_nothing_that_was_not_begun(steps):
    modes = GradModes()
    modes.begin(0)
    for op, step in enumerate(steps):
        modes.change(op, -1, enabled=False, step=step, hidden=False)
    found = modes.records(len(steps))

    assert all(region.ops.start < region.ops.stop <= len(steps) for region in found)
