"""What Python code runs again inside a backward, and which ops of the forward that repeats.

1. A checkpoint runs again all that it ran. A custom function's `backward` runs again what the
   modules do that it calls, and what it computes under autograd to differentiate it there.
2. What runs again repeats the op of the same operator, in the same module, with the same
   parameters, in the same order, among those that the checkpoint or the function ran before.
3. Of several passes it repeats the one that read the same tensors; else the last that is left.
4. Where no such op is, it goes with those next to it, from the same call or module; else with
   an op of the same module, or with the same parameters, anywhere before.
5. All else that `backward` computes is the function's own, and belongs to the layer whose
   result the function returned.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from opscope.capture.assemble.reruns.keys import Keys
from opscope.capture.assemble.reruns.spans import Span, Spans
from opscope.capture.assemble.reruns.twins import Twins
from opscope.capture.log.contexts.entries import Entries, Entry
from opscope.capture.tables.rows import BACKWARD, GRAD, NodeRow, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.records.columns.columns import NONE

CustomFunction = torch.autograd.function.BackwardCFunction


class _Stretch:
    """Ops that Python code ran in one evaluation of a node, with no other node's between them.

    Attributes:
        node: The node; None for what runs between two, such as a tensor's hook.
        recomputation: The frame that runs a checkpoint again, if it is that.
        ops: The ops.
    """

    __slots__ = ("node", "ops", "recomputation")

    def __init__(self, node: NodeRow | None, recomputation: Entry | None) -> None:
        self.node = node
        self.recomputation = recomputation
        self.ops: list[int] = []

    @property
    def evaluation(self) -> Any:
        """What it shares with the other stretches of the same code."""
        node = None if self.node is None else self.node.evaluation
        return node, None if self.recomputation is None else self.recomputation.chain


class Reruns:
    """What runs again in the backwards of what was recorded.

    Args:
        tables: What was recorded.
        ops: The numbers of its ops.
        spans: Which of them ran in one call of a checkpoint or custom function.
        nodes: By op that the engine ran, the node.
        behind: By op that the engine ran, the one that made the node, where it is known.
        entries: What the calling contexts pass through.
    """

    def __init__(
        self,
        tables: Tables,
        ops: OpColumns,
        spans: Spans,
        nodes: dict[int, NodeRow],
        behind: dict[int, int],
        entries: Entries,
    ) -> None:
        self._tables = tables
        self._ops = ops
        self._spans = spans
        self._nodes = nodes
        self._behind = behind
        self._entries = entries
        self._keys = Keys(tables, ops, spans, entries)
        self._twins = Twins(tables, ops, spans, self._keys)
        # By evaluation, the first of the ops that its last stretch repeated.
        self._left: dict[Any, int] = {}
        self._began: dict[Any, int] = {}  # likewise, its first op

    def twins(self) -> dict[int, int]:
        """Return what each op repeats, or goes with, that is part of such a repetition."""
        found: dict[int, int] = {}
        for stretch in self._stretches():
            again = self._again(stretch)
            if again:
                found |= self._twins_of(again, stretch)
        return found

    def _twins_of(self, again: list[int], stretch: _Stretch) -> dict[int, int]:
        span, function = self._span(stretch), self._function(stretch)
        made, is_checkpoint = self._behind.get(stretch.ops[0]), stretch.recomputation is not None
        left = self._left.get(stretch.evaluation)
        if left is None and is_checkpoint and made is not None:
            # It stops once it has what the node kept.
            left = made + 1 if function is None else function.ops.stop
        found = self._twins.repeated(again, span, left)
        if span is not None and found:
            inside = [twin for twin in found.values() if twin in span.ops]
            self._left[stretch.evaluation] = min(inside, default=span.ops.start)
        twins = self._twins.all_of(again, found)
        if is_checkpoint and made is not None and span is not None:
            return self._twins.of_checkpoint(again, twins, span, made)
        return twins

    def _stretches(self) -> list[_Stretch]:
        found: list[_Stretch] = []
        latest: dict[Any, tuple[_Stretch, int]] = {}
        previous: Any = None
        for op, flags in enumerate(self._ops.flags):
            site = self._ops.call_site[op]
            if not flags & BACKWARD or site == NONE:
                previous = None
                continue
            new = _Stretch(self._nodes.get(op), self._recomputation(site))
            code, outermost = new.evaluation, self._outermost(op)
            stretch, before = latest.get(code, (new, NONE))
            # The module that runs may itself start a backward, and go on.
            if previous != code and not outermost == before != NONE:
                stretch = new
            if not stretch.ops:
                found.append(stretch)
            stretch.ops.append(op)
            latest[code] = stretch, outermost
            previous = code
        return found

    def _recomputation(self, site: int) -> Entry | None:
        entries = self._entries.of_site[site]
        return next((entry for entry in entries if entry.kind == "recomputation"), None)

    def _outermost(self, op: int) -> int:
        """Return the outermost run of a module in a backward that an op is in."""
        run = self._tables.backward_run_of.get(op, NONE)
        while run != NONE and (outer := self._tables.backward_runs[run][1]) != NONE:
            run = outer
        return run

    def _again(self, stretch: _Stretch) -> list[int]:
        """Return those ops of a stretch that repeat something."""
        if stretch.recomputation is not None:
            return stretch.ops
        runs = self._tables.backward_run_of
        if stretch.node is None or not issubclass(stretch.node.kind, CustomFunction):
            return [op for op in stretch.ops if op in runs]
        is_differentiated = any(op in self._differentiated for op in stretch.ops)
        given = self._given(stretch, stretch.node)

        def is_under_autograd(op: int) -> bool:
            # torch.func records nodes while gradients are off.
            recorded = op in self._differentiated or bool(self._ops.flags[op] & GRAD)
            return is_differentiated and recorded and op not in given

        return [
            op
            for op in stretch.ops
            if op in runs or op in self._inside_differentiated or is_under_autograd(op)
        ]

    def _given(self, stretch: _Stretch, node: NodeRow) -> set[int]:
        """Return the ops that go on with what a backward inside of this one gave: gradients."""
        found: set[int] = set()
        began = self._began.setdefault(node.evaluation, stretch.ops[0])
        for op in stretch.ops:
            for maker in map(self._tables.values.makers.__getitem__, self._keys.reads(op)):
                inner = self._nodes.get(maker) if maker > began else None
                if maker in found or (inner is not None and inner.task != node.task):
                    found.add(op)
        return found

    @cached_property
    def _differentiated(self) -> set[int]:
        """The ops whose nodes a backward ran that was started inside another."""
        tasks = self._tables.tasks
        return {op for ran, op in self._behind.items() if tasks[self._nodes[ran].task]}

    @cached_property
    def _inside_differentiated(self) -> set[int]:
        """The ops inside of custom functions whose nodes such a backward ran."""
        found: set[int] = set()
        for ran, op in self._behind.items():
            node = self._nodes[ran]
            if self._tables.tasks[node.task] and issubclass(node.kind, CustomFunction):
                found.update(self._spans.of_function(node.number, op).ops)
        return found

    def _span(self, stretch: _Stretch) -> Span | None:
        """Return what of the forward a stretch can repeat, as far as that is known."""
        made, function = self._behind.get(stretch.ops[0]), self._function(stretch)
        if stretch.recomputation is None or made is None:
            return function
        level = max(stretch.recomputation.unpackings - 1, 0)
        # One that a hook of a module's began has no frame.
        unknown = Span(None, range(max(0, made - 2 * len(stretch.ops) - 8), made + 1))
        return self._spans.of_checkpoint(made, level, function) or unknown

    def _function(self, stretch: _Stretch) -> Span | None:
        """Return what the custom function ran whose node a stretch is of, if it is one's."""
        node, made = stretch.node, self._behind.get(stretch.ops[0])
        if node is None or made is None or not issubclass(node.kind, CustomFunction):
            return None
        return self._spans.of_function(node.number, made)
