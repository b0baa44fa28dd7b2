"""An oracle for backward: it marks autograd's nodes, and what is running, by means of its own.

It knows no numbers of nodes, no frames and no order of ops. What made a node, and what it
belongs to, stands in the node's ``metadata`` and is read off the node that the engine runs.
What runs again is what modules and functions with a name say while they run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import torch
from tests import witness
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import opscope

_CustomFunction = torch.autograd.function.BackwardCFunction
_now: Engine | None = None


class Row(NamedTuple):
    """One operator.

    Attributes:
        operator: Its name.
        node: The class of the node that the engine runs it for.
        made_in: The range of the ops of the function call that made the node.
        part: What runs, by name: a module or a `part`, if one does in this very backward.
        of_node: Else what made the node, likewise.
        applied: The custom functions that are being applied, or the one whose node runs.
        again: Whether something with a name runs in a backward.
        backward: Whether the engine runs it.
    """

    operator: str
    node: str | None
    made_in: tuple[int, int] | None
    part: str | None
    of_node: str | None
    applied: tuple[str, ...]
    again: bool
    backward: bool

    @property
    def mark(self):
        return None if self.node is None else (self.node, self.made_in)


class Engine(TorchDispatchMode):
    """Writes down each operator with the node that runs it, and that node's marks."""

    def __init__(self, names):
        super().__init__()
        self.rows = []
        self.names = names  # of modules, by id; None if they are no parts
        self.parts = []
        self.given = []
        self.applied = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).startswith("profiler."):
            self.rows.append(self.row(str(func)))
        return func(*args, **(kwargs or {}))

    def row(self, operator):
        task, node = torch._C._current_graph_task_id(), torch._C._current_autograd_node()
        part = next((name for at, name in self.parts[-1:] if at == task), None)
        applied = tuple(name for at, name in self.applied if at == task)
        again = task != -1 and bool(part or applied)
        if node is None:
            return Row(operator, None, None, part, None, applied, again, task != -1)
        kind, marks = type(node).__name__, node.metadata
        if not applied and "applied" in marks:
            applied = (marks["applied"],)
        is_own = again or isinstance(node, _CustomFunction)
        of_node = None if is_own else marks.get("part")
        return Row(operator, kind, marks.get("made in"), part, of_node, applied, again, True)

    @contextmanager
    def applying(self, name):
        self.applied.append((torch._C._current_graph_task_id(), name))
        try:
            yield
        finally:
            self.applied.pop()

    def begin(self, name, given):
        with torch._C.DisableTorchFunction():
            known = {tensor.grad_fn for tensor in witness.tensors(given)}
        self.parts.append((torch._C._current_graph_task_id(), name))
        self.given.append(known)

    def end(self, name, result):
        self.parts.pop()
        with torch._C.DisableTorchFunction():
            mark_part(name, self.given.pop(), result)

    def enter(self, module, args):
        self.begin(self.name(module), args)

    def leave(self, module, args, output):
        self.end(self.name(module), output)

    def name(self, module):
        return self.names.get(id(module), type(module).__name__)

    @contextmanager
    def watching(self):
        global _now  # noqa: PLW0603
        hooks = []
        if self.names is not None:
            hooks = [
                register_module_forward_pre_hook(self.enter),
                register_module_forward_hook(self.leave, always_call=True),
            ]
        _now = self
        try:
            with self:
                yield
        finally:
            _now = None
            for hook in hooks:
                hook.remove()


class Marker(TorchFunctionMode):
    """Marks the nodes that a torch function made with the range of its ops."""

    def __init__(self, engine):
        super().__init__()
        self.rows = engine.rows
        self.inside = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        starts = func in {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}
        if self.inside or starts or torch._C._current_graph_task_id() != -1:
            result = func(*args, **kwargs)
            if starts and not self.inside:  # what a backward made is no function's
                with torch._C.DisableTorchFunction():
                    for tensor in witness.tensors(result):
                        self.mark(tensor.grad_fn, None)
            return result
        start, self.inside = len(self.rows), True
        try:
            result = func(*args, **kwargs)
        finally:
            self.inside = False
        with torch._C.DisableTorchFunction():
            for tensor in witness.tensors((result, args, kwargs)):
                self.mark(tensor.grad_fn, (start, len(self.rows)))
                base = tensor._base if tensor._is_view() else None
                self.mark(None if base is None else base.grad_fn, (start, len(self.rows)))
        return result

    @staticmethod
    def mark(node, ops):
        pending = [node]
        while pending:
            node = pending.pop()
            if node is None or "made in" in node.metadata:
                continue
            if type(node).__name__ != "AccumulateGrad" and not isinstance(node, _CustomFunction):
                node.metadata["made in"] = ops
                pending += [following for following, _ in node.next_functions]


def mark_part(name, known, result):
    """Mark the nodes between those of what a part was given and what it returned."""
    pending = [tensor.grad_fn for tensor in witness.tensors(result)]
    while pending:
        node = pending.pop()
        if node is None or node in known or "part" in node.metadata:
            continue
        if type(node).__name__ != "AccumulateGrad":
            node.metadata["part"] = name
            pending += [following for following, _ in node.next_functions]


def part(name, function):
    """Give a name to what a function computes: the same where it is run again."""

    def run(*args):
        if _now is None:
            return function(*args)
        _now.begin(name, args)
        result = None
        try:
            result = function(*args)
        finally:
            _now.end(name, result)
        return result

    return run


def applied(function, *args, name=None):
    """Apply a custom function, and mark its node with its name."""
    if _now is None:
        return function.apply(*args)
    name = name or function.__name__
    with _now.applying(name):
        result = function.apply(*args)
    with torch._C.DisableTorchFunction():
        for tensor in witness.tensors(result):
            if tensor.grad_fn is not None:
                tensor.grad_fn.metadata["applied"] = name
    return result


def both(run, *, model=None, layers=True, modules=True):
    """Run a program under the oracle, and again under a trace; return what each saw."""
    model_or_none = nn.Module() if model is None else model
    names = {id(module): name for name, module in model_or_none.named_modules()}
    engine = Engine(names if modules else None)
    torch.manual_seed(1)
    model_or_none.zero_grad()
    with engine.watching(), Marker(engine):
        run()
    model_or_none.zero_grad()
    torch.manual_seed(1)
    with opscope.trace(model, layers=layers) as trace:
        run()
    assert [op.operator for op in trace.ops] == [row.operator for row in engine.rows]
    return engine.rows, trace


def mistakes(rows, trace):
    """Return the ops whose forward op is missing, or is not one of the call that made the node."""
    found = []
    for op, row in zip(trace.ops, rows, strict=True):
        if not row.backward and op.phase != "backward":
            continue
        if op.phase != "backward" or op.layer_call is not None:
            found.append((op.index, op.operator, op.phase, op.layer_call))
        elif op.forward_op is None and op.node != "AccumulateGrad":
            found.append((op.index, op.operator, op.node, "has no forward op"))
        if row.node is None:
            continue
        if op.node != row.node:
            found.append((op.index, op.operator, op.node, row.node))
        if row.made_in and not op.recomputed and op.forward_op not in range(*row.made_in):
            found.append((op.index, op.operator, op.node, op.forward_op, row.made_in))
    return found


def is_checkpoints_own(row):
    """Whether an op makes the empty tensor on which a checkpoint keeps inputs, in older torchs."""
    return row.operator == "aten.empty.memory_format" and row.part is None


def misplaced(rows, trace):
    """Return the ops that do not belong to the part that ran them, or made their node.

    What a custom function's backward computes outside of all parts belongs to what the
    function itself ran.
    """
    found = []
    for op, row in zip(trace.ops, rows, strict=True):
        if not row.backward or op.node == "AccumulateGrad" or is_checkpoints_own(row):
            continue
        before = None if op.forward_op is None else rows[op.forward_op]
        wanted = row.part or row.of_node
        if before is None or before.backward:
            found.append((op.index, op.name, op.node, "has no forward op"))
        elif op.recomputed and row.of_node and not row.again:  # by a hook, outside of all parts
            if op.name != "detach" and op.operator != before.operator:
                found.append((op.index, op.name, op.node, "repeats", before.operator))
        elif wanted is not None and before.part != wanted:
            found.append((op.index, op.name, op.node, before.part, "is of", wanted))
        elif wanted is None and row.applied and row.applied[-1] not in before.applied:
            found.append((op.index, op.name, op.node, before.applied, "is of", row.applied))
        elif wanted or row.applied:
            if row.again != op.recomputed:
                found.append((op.index, op.name, op.node, "recomputed is", op.recomputed))
            ran = {r.operator for r in rows if r.part == wanted and not r.backward}
            if row.again and op.name != "detach" and before.operator != op.operator in ran:
                found.append((op.index, op.name, "repeats", before.operator))
    return found
