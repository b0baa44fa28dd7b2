"""Which recorded value a tensor is.

A tensor is recognised by the weak reference to it, of which there is one for each object as
long as it is held, since ``id`` is reused at once after a free; a storage likewise. Nothing is
set on a tensor and none is kept alive. A value is a *row*: the tensor object together with its
metadata at one moment, between two writes to its bytes, through whatever tensor they were
written.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain
from typing import Any
from weakref import ref

import torch

from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Live
from opscope.capture.log.snapshots import Snapshot, hint, storage_of
from opscope.capture.tables.parameters import Parameters
from opscope.records.columns.columns import NONE
from opscope.records.flow.regions import LastWrites, Region, overlap, region

OUTSIDE, FRESH, VIEW, WRITE, PASSED_THROUGH, REWRITTEN = range(6)
_FIRST_SWEEP = 4096
_FEW = 16  # writes that are looked through one by one


class Values:
    """The table of values, one row each, and the live tensors that they are.

    Attributes:
        origins: Per row, one of OUTSIDE, FRESH, VIEW, WRITE, PASSED_THROUGH, REWRITTEN.
        makers: Per row, the op that made it or wrote it last, -1 for OUTSIDE; for PASSED_THROUGH the
            call.
        storages: Per row, its storage's number, or NONE.
        offsets: Per row, the offset into the storage in elements.
        layouts: Per row, a number into ``layout_table``.
        numbered: Called with the snapshot of each tensor from outside, and its numbers.
        stored: Called with the weak reference to each storage, and its number.
        constants: By row, copies of what was made of a few Python numbers.
        layout_table: Distinct ``(shape, stride, dtype, device)``.
        earlier: For PASSED_THROUGH rows, the row that was passed through; for REWRITTEN ones what the
            tensor was before.
        rows: By ``id`` of the weak reference to a tensor, the row that it is now.
        writes: By storage, the rows that ops wrote.
    """

    def __init__(self, parameters: Parameters, log: Log) -> None:
        self._parameters = parameters
        self._log = log
        self.numbered: tuple[Callable[[Snapshot, int, int], None], ...] = ()
        self.stored: tuple[Callable[[Any, int], None], ...] = ()
        self.constants: dict[int, torch.Tensor] = {}
        self.origins = bytearray()
        self.makers = array("i")
        self.storages = array("i")
        self.offsets = array("q")
        self.layouts = array("i")
        self.layout_table: dict[tuple[Any, ...], int] = {}
        self.earlier: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self._layouts: list[tuple[Any, ...]] = []  # those of the table, by number
        self._tensors: list[Live | None] = []
        self._storage_rows: dict[int, int] = {}
        self._storage_refs: list[ref[torch.UntypedStorage] | None] = []
        self.writes: dict[int, list[int]] = {}
        # The same by bytes, of storages with so many writes that to go over them takes long.
        self._last_writes: dict[int, LastWrites] = {}
        # Per row, how many writes to its storage it has seen.
        self._writes_seen = array("i")
        self._sweep_at = _FIRST_SWEEP
        # How far all was swept, and the rows below that whose tensors were still there.
        self._swept = 0
        self._left: list[int] = []
        self._first = (0, 0)  # the mark from which on tensors are known

    def found(self, snapshot: Snapshot) -> int:
        """Return a new row, for a tensor that came from outside."""
        return self.add(snapshot, OUTSIDE, -1)

    def current(self, live: Live) -> int:
        """Return the row of a known tensor as it is now.

        It is a new one if some of its bytes were written since through another tensor.
        """
        row = self.rows[id(live)]
        writes = self.writes.get(self.storages[row])
        if writes is None:
            return row
        if self._writes_seen[row] < len(writes):
            last = self._last_write(row, writes)
            if last is not None:
                return self._same_tensor(row, REWRITTEN, self.makers[last])
            self._writes_seen[row] = len(writes)
        return row

    def _last_write(self, row: int, writes: list[int]) -> int | None:
        """Return the last of the writes to a storage that a row has not seen, to bytes of it."""
        own, seen = self._region(row), self._writes_seen[row]
        if own is None:
            return None
        if len(writes) - seen > _FEW:
            known = self._last_writes.setdefault(self.storages[row], LastWrites())
            for written in writes[known.count :]:
                known.add(self._region(written))
            last = known.last_on(own)
            return None if last is None or last < seen else writes[last]
        for written in reversed(writes[seen:]):
            other = self._region(written)
            if other is not None and overlap(own, other):
                return written
        return None

    def written_since(self, live: Live, op: int) -> int | None:
        """Return the row of a tensor if an op from this one on wrote some of it."""
        row = self.current(live)
        is_written = self.origins[row] in (WRITE, REWRITTEN) and self.makers[row] >= op
        return row if is_written else None

    def made(self, snapshot: Snapshot, op: int, *, written: bool = False) -> int:
        """Return the row of a tensor that an op returned or wrote, NONE for one that is absent."""
        if snapshot[0] is None:
            return NONE
        row = self.rows.get(id(snapshot[0]))
        if row is None:
            return self.add(snapshot, WRITE if written else FRESH, op)
        if self.makers[row] == op and self.origins[row] != PASSED_THROUGH:
            return row
        # Changed in place, or given back as it was: a new value of the same tensor.
        return self.add(snapshot, WRITE if written else VIEW, op)

    def passed_through(self, row: int, call: int) -> int:
        """Return a new row for a tensor that a call without ops passed through."""
        return self._same_tensor(row, PASSED_THROUGH, call)

    def _same_tensor(self, row: int, origin: int, maker: int) -> int:
        """Return a new row for the tensor of another row."""
        new = len(self.origins)
        self.origins.append(origin)
        self.makers.append(maker)
        self.storages.append(self.storages[row])
        writes = self.writes.get(self.storages[row], ()) if origin == REWRITTEN else None
        self._writes_seen.append(self._writes_seen[row] if writes is None else len(writes))
        self.offsets.append(self.offsets[row])
        self.layouts.append(self.layouts[row])
        live = self._tensors[row]
        self._tensors.append(live)
        self.earlier[new] = row
        if live is not None:
            self.rows[id(live)] = new
            if origin == REWRITTEN:
                self._parameters.seen(live, new)
        return new

    def _region(self, row: int) -> Region | None:
        """Return which bytes of its storage a row covers, None for none."""
        shape, stride, dtype, _ = self.layout_of(row)
        return region(tuple(map(int, shape)), stride, self.offsets[row], dtype.itemsize)

    def layout_of(self, row: int) -> tuple[Any, ...]:
        """Return the shape, stride, dtype and device of a row."""
        number = self.layouts[row]
        if number >= len(self._layouts):
            self._layouts = list(self.layout_table)
        return self._layouts[number]

    def source(self, row: int) -> int:
        """Return the row behind one that was only passed through."""
        while self.origins[row] == PASSED_THROUGH:
            row = self.earlier[row]
        return row

    def tensor(self, row: int) -> torch.Tensor | None:
        """Return the tensor of a row while it is alive."""
        live = self._tensors[row]
        return None if live is None else live()

    def mark(self) -> tuple[int, int]:
        """Return how far it is, see `go_back`."""
        return len(self.origins), len(self._storage_refs)

    def go_back(self, mark: tuple[int, int]) -> None:
        """Be again as far as it was, when an interrupt came before all was ingested.

        What is ingested again gets the same rows, so that it does no harm where these are known
        elsewhere.
        """
        rows, storages = mark
        for column in (
            self.origins, self.makers, self.storages, self.offsets, self.layouts,
            self._writes_seen, self._tensors,
        ):  # fmt: skip
            del column[rows:]
        del self._storage_refs[storages:]
        self._swept = min(self._swept, rows)
        self._left = [row for row in self._left if row < rows]
        tensors = enumerate(self._tensors[self._first[0] :], self._first[0])
        self.rows = {id(live): row for row, live in tensors if live is not None}
        known = enumerate(self._storage_refs[self._first[1] :], self._first[1])
        self._storage_rows = {id(storage): number for number, storage in known if storage}
        self._last_writes.clear()
        self.writes = {
            number: [row for row in writes if row < rows] for number, writes in self.writes.items()
        }

    def forget_all(self) -> None:
        """Have every tensor be new: the program went on unseen, and may have written any."""
        self._first = self.mark()
        self._log.forget_all()
        self.rows.clear()
        self._storage_rows.clear()
        self.writes.clear()
        self._last_writes.clear()

    def storage_of(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Return the number of a tensor's storage, NONE if it is not known, and its bytes."""
        storage = storage_of(tensor)
        if storage is None:
            return NONE, tensor.numel() * tensor.element_size()
        return self._storage_rows.get(id(ref(storage)), NONE), storage.nbytes()

    def add(self, snapshot: Snapshot, origin: int, op: int) -> int:
        """Return a new row, for a tensor that an op made, or that came from outside."""
        live, storage, shape, stride, dtype, device, offset = snapshot
        number = NONE
        if storage is not None:
            number = self._storage_rows.setdefault(id(storage), len(self._storage_refs))
            if number == len(self._storage_refs):
                self._storage_refs.append(storage)
                for note in self.stored:
                    note(storage, number)
            elif origin == FRESH:
                origin = VIEW
        row = len(self.origins)
        self.origins.append(origin)
        self.makers.append(op)
        table = self.layout_table
        layout = shape, stride, dtype, device
        try:
            self.layouts.append(table.setdefault(layout, len(table)))
        except TypeError:  # a size that is a symbol
            sizes, steps = (tuple(map(hint, numbers)) for numbers in (shape, stride))
            self.layouts.append(table.setdefault((sizes, steps, dtype, device), len(table)))
            number, offset = NONE, 0
        self.storages.append(number)
        self.offsets.append(offset)
        self._tensors.append(live)
        self.rows[id(live)] = row
        if origin == WRITE and number != NONE:
            self.writes.setdefault(number, []).append(row)
        self._writes_seen.append(len(self.writes.get(number, ())))
        if origin in (OUTSIDE, WRITE):  # an optimizer writes parameters: they keep their name
            self._parameters.seen(live, row)
        if origin == OUTSIDE:
            for tell in self.numbered:
                tell(snapshot, row, number)
        return row

    def sweep(self) -> None:
        """Drop dead entries, when there are as many new ones as were alive.

        Nothing may still refer to a tensor by its weak reference: one that is let go of here
        gives its ``id`` to another.
        """
        tensors, storages = self._tensors, self._storage_refs
        if len(tensors) < self._sweep_at:
            return
        for key, row in list(self.rows.items()):
            live = tensors[row]
            if live is None or live() is None:
                del self.rows[key]
        keep = set(self.rows.values())
        left = []
        for row in chain(self._left, range(self._swept, len(tensors))):
            live = tensors[row]
            if live is None:
                continue
            if row in keep or live() is not None:
                left.append(row)
            else:
                tensors[row] = None
        self._left, self._swept = left, len(tensors)
        for key, row in list(self._storage_rows.items()):
            storage = storages[row]
            if storage is None or storage() is None:
                storages[row] = None
                self.writes.pop(row, None)
                self._last_writes.pop(row, None)
                del self._storage_rows[key]
        self._sweep_at = len(tensors) + max(_FIRST_SWEEP, len(left))
