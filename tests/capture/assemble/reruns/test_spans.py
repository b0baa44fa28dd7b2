"""What one call of a custom function or of a checkpoint ran is known by the frame that made it."""

import pytest
import torch
from tests.memory_saving import Chain, leaf, mlp
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import opscope
from opscope.capture.assemble.links import _node_rows, _Nodes
from opscope.capture.assemble.reruns.spans import Spans
from opscope.capture.log.contexts.entries import Entries


class Twice(Function):
    @staticmethod
    def forward(ctx, x):
        return x.exp().sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Around(Function):
    @staticmethod
    def forward(ctx, x):
        return Twice.apply(Twice.apply(x)).cos()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


def spans_of(trace):
    """Return the names of the ops in the span of each custom function whose node ran, in order."""
    trace.ops  # noqa: B018 (has it read)
    tables = trace._block.session.tables
    ops, nodes = tables.op_columns(), {row.op: row for row in _node_rows(tables)}
    spans = Spans(tables, ops, tables.call_columns(), nodes, Entries(tables.call_sites))
    made = _Nodes(tables, ops)
    found = {}
    for op, node in nodes.items():
        maker = made.find(node, op)
        if maker is not None and issubclass(node.kind, torch.autograd.function.BackwardCFunction):
            span = spans.of_function(node.number, maker)
            names = [trace.ops[i].name for i in span.ops]
            found[node.number] = [name for name in names if name != "detach"]
    return [names for _, names in sorted(found.items())]


def test_functions_applied_in_a_loop_have_spans_of_their_own(layers):
    x = leaf(3)
    with opscope.trace(layers=layers) as trace:
        for _ in range(3):
            x = Twice.apply(x)
        x.sum().backward()
    assert spans_of(trace) == [["exp", "sin"]] * 3


def test_a_function_has_what_those_inside_it_ran(layers):
    with opscope.trace(layers=layers) as trace:
        Around.apply(Around.apply(leaf(3))).sum().backward()
    assert spans_of(trace) == [["exp", "sin", "exp", "sin", "cos"]] * 2


def test_the_span_of_a_function_ends_where_its_frame_does(layers):
    with opscope.trace(layers=layers) as trace:
        y = Twice.apply(leaf(3))
        with torch.no_grad():
            y.exp().sin()
        y.sum().backward()
    assert spans_of(trace) == [["exp", "sin"]]


def test_a_function_that_runs_the_model_has_the_ops_of_its_modules(layers):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    with opscope.trace(model, layers=layers) as trace:
        for _ in range(2):
            Chain.apply(leaf(), (model,), *model.parameters()).sum().backward()
    assert spans_of(trace) == [["t", "addmm", "tanh"]] * 2


def test_a_backward_inside_of_a_function_does_not_end_it(layers):
    class Slope(Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                slope = torch.autograd.grad(x.exp().sum(), x)[0]
            return slope.sin()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    with opscope.trace(layers=layers) as trace:
        Slope.apply(leaf(3)).sum().backward()
    (names,) = spans_of(trace)
    assert names[:2] == ["exp", "sum"]
    assert names[-1] == "sin"


def test_a_reentrant_checkpoint_is_a_function_and_one_by_hooks_is_not(layers):
    model = mlp()
    with opscope.trace(model, layers=layers) as trace:
        for reentrant in (True, False):
            checkpoint(model, leaf() * 1, use_reentrant=reentrant).sum().backward()
    assert spans_of(trace) == [["t", "addmm", "relu", "t", "addmm", "tanh"]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_what_gradients_do_inside_of_a_function_makes_no_difference(mode, layers):
    class Inner(Function):
        @staticmethod
        def forward(ctx, x):
            with mode():
                x = x.exp()
                return (x * 2).sin().detach()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    x = leaf(3)
    with opscope.trace(layers=layers) as trace:
        for _ in range(2):
            x = Inner.apply(x)
        x.sum().backward()
    assert spans_of(trace) == [["exp", "mul", "sin"]] * 2
