"""Which ops ran inside one call of a custom function, or of a checkpoint.

Such a call is known by the frame that makes it: by the chain of code positions from there
outwards, inside one run of a module or one evaluation of an autograd node.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from opscope.capture.log.contexts.entries import Entries
from opscope.capture.tables.rows import BACKWARD, GRAD, CallColumns, NodeRow, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.records.columns.columns import NONE


class Span(NamedTuple):
    """The ops of one call.

    Attributes:
        call: The frame that made it; None if no frame is known to have.
        ops: From its first op to its last.
    """

    call: _Call | None
    ops: range


class _Call(NamedTuple):
    """The kind of an entry and its chain, inside a run of a module or an evaluation of a node."""

    inside: Any
    kind: str
    chain: tuple[int, ...]


class Spans:
    """The spans of what was recorded.

    Args:
        tables: What was recorded.
        ops: The numbers of its ops.
        calls: Its layer calls.
        nodes: By op that the engine ran, the node.
        entries: What the calling contexts pass through.
    """

    def __init__(
        self,
        tables: Tables,
        ops: OpColumns,
        calls: CallColumns,
        nodes: dict[int, NodeRow],
        entries: Entries,
    ) -> None:
        self._tables = tables
        self._ops = ops
        self._calls = calls
        self._nodes = nodes
        self._entries = entries
        self._of_function: dict[tuple[int, int], Span] = {}
        self._of_checkpoint: dict[_Call, Span] = {}

    def of_function(self, number: int, first: int) -> Span:
        """Return what a custom function ran.

        Args:
            number: Autograd's number of its node, which was made before its own ops ran.
            first: The first op after that.
        """
        key = number, first
        if key not in self._of_function:
            # Each function that is applied inside of it, before its first op, took a number too.
            is_recorded = bool(self._ops.flags[first] & GRAD)
            inner = self._ops.sequence[first] - 1 - number - is_recorded
            calls = [call for call in self.around(first) if call.kind == "function"]
            if calls:
                call = calls[min(max(inner, 0), len(calls) - 1)]
                span = Span(call, range(first, self._end(call, first)))
            else:  # C++ applied it, inside an operator
                span = Span(None, range(first, max(self._end_of_call.get(first, 0), first + 1)))
            self._of_function[key] = span
        return self._of_function[key]

    def of_checkpoint(self, op: int, level: int, inside: Span | None = None) -> Span | None:
        """Return what a checkpoint around an op ran.

        Where one runs again and again in one place, all of them are one span.

        Args:
            op: The op.
            level: How many checkpoints it is inside that one.
            inside: What a custom function in it ran; those inside of that do not count.
        """
        around = self.around(op)
        if inside is not None and inside.call in around:
            around = around[around.index(inside.call) + 1 :]
        calls = [call for call in around if call.kind == "checkpoint"]
        if level >= len(calls):
            return None
        known = self._of_checkpoint.get(calls[level])
        if known is None or op not in known.ops:
            start = op
            while start and calls[level] in self.around(start - 1):
                start -= 1
            known = Span(calls[level], range(start, self._end(calls[level], op, alone=False)))
            self._of_checkpoint[calls[level]] = known
        return known

    def result(self, span: Span) -> int:
        """Return the op that made what a call returned: the last whose result is read later."""
        ops, made = self._ops, self._tables.made
        for op in reversed(span.ops):
            given = made[ops.made_end[op - 1] if op else 0 : ops.made_end[op]]
            wrote = self._tables.wrote[ops.wrote_end[op - 1] if op else 0 : ops.wrote_end[op]]
            context = self._context(op)
            if any(
                self._last_readers.get((value, context), -1) >= span.ops.stop
                for value in (*given, *wrote)
            ):
                return op
        return span.ops[-1]

    def is_inside(self, call: _Call | None, op: int) -> bool:
        """Whether the module that runs an op was itself run inside a call."""
        if call is None:
            return False
        if self._ops.flags[op] & BACKWARD:
            site = self._ops.call_site[op]
            entries = () if site == NONE else self._entries.of_site[site]
            return any(entry.chain == call.chain and entry.in_module for entry in entries)
        return call in self._around_run(self.run_of(op))

    def run_of(self, op: int) -> int:
        """Return the module run that a forward op is in: that of its layer call knows best."""
        call = self._call_of.get(op)
        return self._ops.module[op] if call is None else self._calls.module[call]

    def site_of(self, op: int) -> int:
        """Return the call site of an op: where it has none of its own, that of its layer call."""
        site, call = self._ops.call_site[op], self._call_of.get(op)
        return site if site != NONE or call is None else self._calls.call_site[call]

    def around(self, op: int) -> tuple[_Call, ...]:
        """Return the calls that an op ran in, the innermost first."""
        if self._ops.flags[op] & BACKWARD:
            site = self._ops.call_site[op]
            return () if site == NONE else self._entered(site, self._context(op))
        site = self.site_of(op)
        run = self.run_of(op)
        return (*(() if site == NONE else self._entered(site, run)), *self._around_run(run))

    def _around_run(self, run: int) -> tuple[_Call, ...]:
        return () if run == NONE else self._around_runs[run]

    def _entered(self, site: int, inside: Any) -> tuple[_Call, ...]:
        return tuple(
            _Call(inside, entry.kind, entry.chain) for entry in self._entries.of_site[site]
        )

    def _end(self, call: _Call, start: int, *, alone: bool = True) -> int:
        """Return where the ops of a call end, or if it is not ``alone`` those of its likes."""
        end = op = start + 1
        while op < len(self._ops.flags):
            around = self.around(op)
            if call in around:
                if alone and self._is_new(call, around, op):
                    break
                end = op + 1
            elif not self._ops.flags[op] & BACKWARD:  # a backward may run inside
                break
            op += 1
        return end

    def _is_new(self, call: _Call, around: tuple[_Call, ...], op: int) -> bool:
        """Whether a custom function was applied just before an op, as autograd's numbers tell."""
        taken = self._ops.sequence[op] - self._ops.sequence[op - 1]
        if taken and self._ops.flags[op] & GRAD:
            taken -= 1  # for the op itself
        functions = [found for found in around if found.kind == "function"]
        return functions.index(call) < taken

    def _context(self, op: int) -> Any:
        if not self._ops.flags[op] & BACKWARD:
            return None
        node = self._nodes.get(op)
        return () if node is None else node.evaluation

    @cached_property
    def _around_runs(self) -> list[tuple[_Call, ...]]:
        found: list[tuple[_Call, ...]] = []
        for run in self._tables.runs:
            outer = () if run.parent == NONE else found[run.parent]
            found.append((*self._entered(run.called_from, run.parent), *outer))
        return found

    @cached_property
    def _call_of(self) -> dict[int, int]:
        return {
            op: index
            for index, span in enumerate(
                zip(self._calls.ops_start, self._calls.ops_end, strict=True)
            )
            for op in range(*span)
        }

    @cached_property
    def _end_of_call(self) -> dict[int, int]:
        return {op: self._calls.ops_end[call] for op, call in self._call_of.items()}

    @cached_property
    def _last_readers(self) -> dict[tuple[int, Any], int]:
        """By value and context, the last op that read it, or the next after what passed it through."""
        found: dict[tuple[int, Any], int] = {}
        reads, source, start = self._tables.reads, self._tables.values.source, 0
        for op, end in enumerate(self._ops.reads_end):
            context = self._context(op)
            for value in reads[start:end]:
                if value != NONE:
                    found[source(value), context] = op
            start = end
        for number, call in self._tables.pass_throughs.items():
            for value in call.received:
                key = source(value), None
                found[key] = max(found.get(key, -1), self._calls.ops_start[number])
        return found
