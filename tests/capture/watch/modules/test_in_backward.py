"""Modules that run in a backward are noted for the ops inside, and are no runs of the program."""

import pytest
import torch
from tests.memory_saving import Chain, PieceByPiece, leaf, mlp
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import opscope


def noted(trace):
    """Return, per op that ran in a module in a backward, the addresses, the innermost first."""
    tables, modules = trace._block.session.tables, trace.recording.modules
    found = []
    for op, innermost in sorted(tables.backward_run_of.items()):
        addresses, run = [], innermost
        while run != -1:
            module, run = tables.backward_runs[run]
            addresses.append(None if module == -1 else modules[module].address)
        found.append((trace.ops[op].name, addresses))
    return found


def in_forward(trace):
    return [trace.recording.modules[run.module].address for run in trace.recording.module_calls]


def test_the_ops_of_a_nested_module_know_all_that_are_around_them():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh()))
    with opscope.trace(model) as trace:
        Chain.apply(leaf() * 1, (model,), *model.parameters()).sum().backward()
    names = [(name, addresses) for name, addresses in noted(trace) if name != "detach"]
    assert names == [("t", ["0", ""]), ("addmm", ["0", ""]), ("tanh", ["1.0", "1", ""])]
    assert in_forward(trace) == ["", "0", "1", "1.0"]


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_a_checkpoint_that_stops_early_leaves_no_module_running(reentrant):
    model = nn.Sequential(mlp(), mlp())
    with opscope.trace(model) as trace:
        checkpoint(model, leaf() * 1, use_reentrant=reentrant).sum().backward()
        assert trace._block.session.tables.log.in_backward == {}
    assert {addresses[-1] for _, addresses in noted(trace)} == {""}
    assert len(in_forward(trace)) == 11


def test_a_module_of_another_model_has_no_address():
    model, other = nn.Linear(8, 8), nn.Linear(8, 8)

    class Other(Function):
        @staticmethod
        def forward(ctx, x):
            return model(x)

        @staticmethod
        def backward(ctx, gradient):
            return other(gradient)

    with opscope.trace(model) as trace:
        Other.apply(leaf() * 1).sum().backward()
    assert noted(trace) == [("t", [None]), ("addmm", [None])]
    assert in_forward(trace) == [""]
    assert len(trace.recording.modules) == 1
    assert len(trace.parameters) == 2


def test_what_a_backward_runs_inside_of_a_module_is_in_no_module():
    """The engine runs it for another node, while the module waits."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(8, 8)

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.net(x).exp().sum(), x)[0] * 2

    model = Inner()
    with opscope.trace(model) as trace, torch.no_grad():
        x = torch.rand(4, 8, requires_grad=True)
        with torch.enable_grad():
            PieceByPiece.apply(x * 1, (torch.nn.Tanh(), model), *model.parameters()).sum()
    assert noted(trace) == []

    class Rerun(Chain):
        @staticmethod
        def backward(ctx, gradient):
            ctx.modules[0](gradient)
            return gradient, None, *[None] * (len(ctx.needs_input_grad) - 2)

    with opscope.trace(model) as trace:
        Rerun.apply(leaf() * 1, (model,), *model.parameters()).sum().backward()
    names = [name for name, _ in noted(trace)]
    assert "exp" in names
    assert "mul" in names
    inner = [op.index for op in trace.ops if op.node == "ExpBackward0"]
    assert inner
    assert not set(inner) & set(trace._block.session.tables.backward_run_of)


def test_nothing_is_noted_where_nothing_runs_again():
    model = mlp()
    with opscope.trace(model) as trace:
        model(leaf()).sum().backward()
    assert trace._block.session.tables.backward_runs == []
    assert trace._block.session.tables.backward_run_of == {}
    assert list(trace._block.session.tables.tasks.values()) == [False]


def test_a_backward_inside_of_another_is_known_as_such():
    model = mlp()
    with opscope.trace(model) as trace:
        Chain.apply(leaf() * 1, tuple(model), *model.parameters()).sum().backward()
        model(leaf()).sum().backward()
    assert list(trace._block.session.tables.tasks.values()) == [False, True, False]
