"""From the log to the tables: which values the tensors were, where the calls came from, in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any
from weakref import ref

from opscope.capture.log.event_log import BATCH, LogRow
from opscope.capture.log.events import SNAPSHOT_SIZE, Live, Nested
from opscope.capture.log.snapshots import Snapshot
from opscope.capture.tables.handlers import HANDLERS, Handlers
from opscope.capture.tables.rows import BACKWARD, IN_CALL, PACK_OP, ModuleRun
from opscope.capture.tables.tables import Mark, Tables
from opscope.capture.tables.values import FRESH
from opscope.records.columns.columns import NONE

Items = Live | Nested
_WIDTH = len(LogRow._fields)


class Ingest:
    """Moves what is in the log of the tables into its columns."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._handlers = Handlers(tables)
        # How far all was when a ingest began that has not ended, and where that runs or ran.
        self._mark: tuple[Mark, dict[int, ModuleRun], set[int]] | None = None
        self._frame: FrameType | None = None

    def __call__(self) -> None:
        """Ingest all there is; what an interrupt left unfinished is done again."""
        tables, log = self._tables, self._tables.log
        if self._mark is not None:
            if _is_running(self._frame):  # an object that goes may run ops as it does
                return
            self._go_back(*self._mark)
        self._frame = sys._getframe()
        self._mark = tables.mark(), dict(self._handlers.running), set(tables.parameters.waiting)
        rows, events = log.ops, log.events
        row_count, event_count = len(rows), len(events)
        self._ingest(rows, events)
        # In one go, and only now: what was not finished is still there.
        log.ops, log.events, self._mark = rows[row_count:], events[event_count:], None
        self._frame = None
        if log.constants:
            log.constants = {
                op: item for op, item in log.constants.items() if op >= tables.op_count
            }
        if not log.eager:
            log.ingest_at = log.op_count + BATCH
        if log.sweep():
            for sweep in tables.hooks.swept:
                sweep()
        tables.values.sweep()

    def _go_back(self, mark: Mark, running: dict[int, ModuleRun], waiting: set[int]) -> None:
        tables = self._tables
        tables.go_back(mark)
        tables.parameters.waiting.clear()
        tables.parameters.waiting.update(waiting)
        self._handlers.go_back(running)

    def _ingest(self, rows: list[Any], events: list[Any]) -> None:
        tables = self._tables
        at = end = 0
        while end < len(events):
            start = end
            handle, width = HANDLERS[events[start]]
            end += width
            if events[start + 1] > tables.op_count:
                at = self._ops(rows, at, events[start + 1])
            handle(self._handlers, *events[start + 2 : end])
        self._ops(rows, at, tables.op_count + len(rows))

    def _ops(self, rows: list[Any], at: int, op_end: int) -> int:
        """Ingest the rows from a position on, up to an op; return where the next row begins."""
        tables, values, constants = self._tables, self._tables.values, self._tables.log.constants
        reads, made, wrote, numbers = tables.reads, tables.made, tables.wrote, tables.numbers
        known, storages, writes = values.rows, values.storages, values.writes
        while at < len(rows) and (op := tables.op_count) < op_end:
            (
                slots, constant, named, chain, run, flags, sequence, started, ended, notes, read_end,
                made_end, wrote_end,
            ) = rows[at : at + _WIDTH]  # fmt: skip
            at += _WIDTH
            read_end += at
            made_end += read_end
            wrote_end += made_end
            for item in rows[at:read_end]:
                if item.__class__ is ref:
                    row = known[id(item)]
                    # Nearly always nothing has written to it through another tensor.
                    reads.append(values.current(item) if storages[row] in writes else row)
                else:
                    if item is not None:
                        numbers.put(len(reads), item)
                    reads.append(NONE)
            if op in constants:
                values.constants[reads[-1]] = constants[op]
            given = [
                tuple(rows[i : i + SNAPSHOT_SIZE]) for i in range(read_end, made_end, SNAPSHOT_SIZE)
            ]
            written = []
            if made_end < wrote_end:
                written = [
                    tuple(rows[i : i + SNAPSHOT_SIZE])
                    for i in range(made_end, wrote_end, SNAPSHOT_SIZE)
                ]
                wrote.extend([values.made(snapshot, op, written=True) for snapshot in written])
            at = wrote_end
            for snapshot in given:
                is_known = snapshot[0] is None or id(snapshot[0]) in known
                made.append(
                    values.made(snapshot, op) if is_known else values.add(snapshot, FRESH, op)
                )
            tables.ops += (slots, constant, named)
            tables.op_numbers += PACK_OP(
                run, NONE if chain is None else tables.site(chain, run, flags),
                flags, len(reads), len(made), len(wrote), sequence, started, ended,
            )  # fmt: skip
            tables.op_count = op + 1
            if notes is not None or tables.hooks.gave:
                self._tell(flags, written, given, notes)
        return at

    def _tell(
        self,
        flags: int,
        written: Sequence[Snapshot],
        given: Sequence[Snapshot],
        notes: Sequence[Any] | None,
    ) -> None:
        """Tell collectors which values the last op gave, and give them back their notes."""
        tables, look_at = self._tables, self._tables.hooks.gave
        if flags & (IN_CALL | BACKWARD):  # the layer's call tells of what it returns
            look_at = ()
        for number, (live, *_) in enumerate((*written, *given)):
            if live is None:
                continue
            row = tables.values.rows[id(live)]
            tables.tell_noted(row, notes[number] if notes else None)
            if look_at and (tensor := live()) is not None:
                for look in look_at:
                    look(tensor, row)


def _is_running(frame: FrameType | None) -> bool:
    """Whether a frame is among those of this thread that are running."""
    at: FrameType | None = sys._getframe(2)
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None
