"""The layer calls in order, with one made up for each op that no function ran for."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from opscope.capture.tables.rows import FAILED, CallColumns, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.records.calls import LayerCall
from opscope.records.columns.columns import (
    NONE,
    Coded,
    Column,
    Less,
    Optional,
    Ragged,
    Ranges,
    Same,
    Sparse,
    codes_of,
)
from opscope.records.columns.table import Table
from opscope.records.ops import PHASES, Phase
from opscope.waiting import Track, untracked

_WIDTH = 2  # of a row of `Tables.calls`


class Calls:
    """Numbers the layer calls, those of ops alone among them.

    Attributes:
        of_op: By op, the number of its call, NONE in backward.
        columns: The numbers of all calls, as in the tables.

    Args:
        tables: What was recorded.
        ops: Its ops.
        calls: Its recorded calls.
        phase: The phase of each op.
        call_phase: The phase of each recorded call.
        track: Hands on the calls, to one who waits for them.
    """

    def __init__(
        self,
        tables: Tables,
        ops: OpColumns,
        calls: CallColumns,
        phase: Column[Phase],
        call_phase: Column[Phase],
        track: Track = untracked,
    ) -> None:
        self._tables = tables
        self._recorded = array("i")  # by call, its number in the tables, or NONE
        self._number = array("i")  # per recorded call
        self._lone = array("i")  # the ops that became calls of their own
        self.of_op = array("i", [NONE]) * len(ops.flags)
        self._phase = bytearray()
        self._returned = array("i")
        self._failed: set[int] = set()
        self.columns = CallColumns(*(array(column.typecode) for column in calls))
        returned_at = at = 0
        for number in track(range(len(calls.ops_start))):
            start, stop = calls.ops_start[number], calls.ops_end[number]
            end = calls.returned_end[number]
            if start > at:
                self._add_lone(ops, phase, at, start)
            index = len(self._recorded)
            self._number.append(index)
            self._recorded.append(number)
            self._phase.append(PHASES.index(call_phase[number]))
            for op in range(start, stop):
                self.of_op[op] = index
            self._returned += tables.returned_rows[returned_at:end]
            returned_at = end
            at = max(at, stop)
            self.columns.returned_end.append(len(self._returned))
            self.columns.ops_start.append(start)
            self.columns.ops_end.append(stop)
            self.columns.module.append(calls.module[number])
            self.columns.call_site.append(calls.call_site[number])
            self.columns.started.append(calls.started[number])
            self.columns.ended.append(calls.ended[number])
        self._add_lone(ops, phase, at, len(ops.flags))

    def number(self, recorded: int) -> int:
        return self._number[recorded]

    def before(self, recorded: int, op: int) -> int:
        """Return how many calls there were when so many calls and ops were recorded."""
        return recorded + bisect_left(self._lone, op)

    def _add_lone(self, ops: OpColumns, phase: Column[Phase], start: int, stop: int) -> None:
        tables, columns = self._tables, self.columns
        for op in range(start, stop):
            if phase[op] == "backward":
                continue
            made = tables.made[ops.made_end[op - 1] if op else 0 : ops.made_end[op]]
            wrote = tables.wrote[ops.wrote_end[op - 1] if op else 0 : ops.wrote_end[op]]
            index = len(self._recorded)
            self._lone.append(op)
            self._recorded.append(NONE)
            self._phase.append(PHASES.index(phase[op]))
            if ops.flags[op] & FAILED:
                self._failed.add(index)
            self._returned.extend(dict.fromkeys(v for v in (*made, *wrote) if v != NONE))
            self.of_op[op] = index
            columns.module.append(ops.module[op])
            columns.call_site.append(ops.call_site[op])
            columns.ops_start.append(op)
            columns.ops_end.append(op + 1)
            columns.returned_end.append(len(self._returned))
            columns.started.append(ops.started[op])
            columns.ended.append(ops.ended[op])

    def records(self, began: int) -> Sequence[LayerCall]:
        """Return all of them.

        Args:
            began: When the trace did.
        """
        columns, count = self.columns, len(self._recorded)
        passed = {self._number[call]: row for call, row in self._tables.pass_throughs.items()}
        failed = self._failed.union(map(self._number.__getitem__, self._tables.raised))
        known: dict[str, Column[Any]] = {
            "index": range(count),
            "function": Coded(*codes_of(self._functions())),
            "kind": Sparse("function", {i: row.kind for i, row in passed.items()}, count),
            "path": Sparse("", {i: row.path for i, row in passed.items() if row.path}, count),
            "module_call": Optional(columns.module),
            "call_site": Optional(columns.call_site),
            "ops": Ranges(columns.ops_start, columns.ops_end),
            "arguments": Sparse(
                (), {i: row.arguments for i, row in passed.items() if row.arguments}, count
            ),
            "received": Sparse((), {i: row.received for i, row in passed.items()}, count),
            "returned": Ragged(columns.returned_end, self._returned),
            "started_ns": Less(columns.started, Same(began, count)),
            "duration_ns": Less(columns.ended, columns.started),
            "grad_fn": Coded(
                *codes_of(
                    None if n == NONE else self._tables.calls[_WIDTH * n + 1]
                    for n in self._recorded
                )
            ),
            "phase": Coded(self._phase, PHASES),
            "failed": Sparse(False, dict.fromkeys(failed, True), count),
        }
        return Table(LayerCall, count, known)

    def _functions(self) -> Iterator[str]:
        """Return the name of each call's function; of an op alone that of its operator."""
        lone = iter(self._lone)
        tables = self._tables
        return (
            _function_of(tables.ops[3 * next(lone)].plan.name)
            if number == NONE
            else tables.calls[_WIDTH * number]
            for number in self._recorded
        )


def _function_of(operator: str) -> str:
    """Return the function's name for an op that no function ran for."""
    parts = operator.split(".")
    return parts[1] if len(parts) > 1 else operator
