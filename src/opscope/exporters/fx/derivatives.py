"""The nodes that have a program differentiated as the model is, or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import fx

from opscope.exporters.fx.grad import op_modes
from opscope.exporters.fx.names import quotable
from opscope.exporters.fx.scope import calls_inside
from opscope.exporters.fx.values import Values
from opscope.program import set_grad_mode, without_derivative
from opscope.records.calls import ModuleCall
from opscope.records.ops import Op
from opscope.records.recording import Recording


class Derivatives:
    """Switches the grad mode between ops, and marks what has a derivative that no op shows.

    Attributes:
        of_caller: The node that gives the mode of the program's caller, once it was switched.

    Args:
        recording: What happened.
        values: The nodes of values.
        graph: The graph.
        ops: The ops of the program.
        call: The module call that it is of, None for the block.
        given: The values that the program gives.
    """

    def __init__(
        self,
        recording: Recording,
        values: Values,
        graph: fx.Graph,
        ops: Sequence[Op],
        call: ModuleCall | None,
        given: Iterable[int],
    ) -> None:
        self.of_caller: fx.Node | None = None
        self._recording = recording
        self._values = values
        self._graph = graph
        self._enabled: bool | None = None  # None for the caller's mode
        modes = op_modes(recording, ops, call)
        self._modes = {op.index: mode for op, mode in zip(ops, modes, strict=True)}
        self._last_reads = {values.source(r.value): op.index for op in ops for r in op.reads}
        self._last_reads.update((values.source(value), len(recording.ops)) for value in given)
        self._function: list[Op] = []  # the ops so far of the custom function that runs
        inside = calls_inside(recording, call)
        # Autograd does this one itself: what comes of it is no op.
        self._detached = deque(
            call
            for call in recording.layer_calls
            if call.function == "detach_" and not call.ops and call.module_call in inside
        )
        self._hooked = {
            found.value
            for found in recording.unseen_calls
            if found.module_call in inside and found.function == "register_hook"
        } - set(recording.parameter_of_value)

    def before(self, op: Op) -> None:
        """Have the next op run in its mode, after what was detached before it."""
        self._detach(op.index)
        mode = self._modes[op.index]
        if self._function and not mode.custom:
            self._leave_function()
        self._set(mode.enabled)

    def after(self, op: Op, made: Iterable[int]) -> None:
        """Look at what an op gave."""
        if self._modes[op.index].custom:
            self._function.append(op)
        for value in made:
            self.check_hooks(value)

    def check_hooks(self, value: int) -> None:
        """Have a value with a hook on its gradient raise where it is differentiated."""
        if value in self._hooked:
            node = self._values.nodes[value]
            reason = (
                "a hook was registered on the gradient of a tensor, and is code that no op shows; "
                "differentiate the model itself"
            )
            self._mark(value, reason, [node])

    def end(self) -> None:
        """Return to the mode of the caller."""
        self._detach(len(self._recording.ops))
        if self._function:
            self._leave_function()
        self._set(None)

    def _detach(self, before: int) -> None:
        while self._detached and self._detached[0].ops.start <= before:
            call = self._detached.popleft()
            for received, returned in zip(call.received, call.returned, strict=True):
                given = (self._values.node(received),)
                node = self._graph.call_function(torch.ops.aten.detach_.default, given)
                self._values.nodes[returned] = node

    def _set(self, enabled: bool | None) -> None:
        if enabled is self._enabled:
            return
        wanted = self.of_caller if enabled is None else enabled
        after = next(iter(reversed(self._graph.nodes)), None)
        node = self._graph.call_function(set_grad_mode, (wanted, after))
        node.meta["is_wrapped"] = True
        if self._enabled is None:
            self.of_caller = node
        self._enabled = enabled

    def _leave_function(self) -> None:
        """Have what a custom autograd function gave raise where it is differentiated."""
        values, ops, self._function = self._values, self._function, []
        made = {v for op in ops for v in (*op.outputs, *op.writes) if v is not None}
        read = [r.value for op in ops for r in op.reads if values.source(r.value) not in made]
        given = list(dict.fromkeys(map(values.node, values.floating(read))))
        self._set(self._modes[ops[-1].index].outer)
        frames = self._recording.frames_of(ops[0])
        where = f"at {quotable(str(frames[0]))}" if frames else f"in op {ops[0].index}"
        reason = (
            f"what ran {where} is a custom autograd function, whose backward is code that no op "
            "shows; differentiate the model itself (checkpoints: with use_reentrant=False)"
        )
        for value in values.floating(sorted(made)):
            if self._last_reads.get(value, -1) > ops[-1].index:
                self._mark(value, reason, given)

    def _mark(self, value: int, reason: str, given: Sequence[fx.Node]) -> None:
        self._values.nodes[value] = mark(self._graph, self._values.nodes[value], reason, given)


def mark(graph: fx.Graph, node: fx.Node, reason: str, given: Sequence[fx.Node]) -> fx.Node:
    """Add a node that hands a tensor on, and raises where it is differentiated."""
    marked = graph.call_function(without_derivative, (node, reason, *given))
    marked.meta["is_wrapped"] = True
    return marked
