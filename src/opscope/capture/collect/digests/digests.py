"""What values were, in a few numbers each, taken down right after the op that made them."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any
from weakref import ref

import torch

from opscope.capture.collect.collector import InnerCollector
from opscope.capture.collect.digests.summing import FAILURES, digest_of
from opscope.capture.collect.nonfinite.looking import below_autograd, no_dispatch, no_functions
from opscope.capture.collect.nonfinite.reads import given, gives_of
from opscope.capture.log.event_log import Log
from opscope.capture.log.hooks import RunningOp, Snapshot
from opscope.capture.tables.tables import Tables
from opscope.capture.tables.values import FRESH, OUTSIDE, PASSED_THROUGH, WRITE
from opscope.operators.known import gives_later, is_scratch
from opscope.records.columns.columns import NONE
from opscope.records.columns.digests import Digests, packed

# What goes before each digest: the op and the place among what it gave; of what it wrote, counted
# from -1 downwards; of a tensor from outside, `NONE` and its row. Then how long the digest is.
_KEY = Struct("<qqH")


class DigestCollector(InnerCollector):
    """Digests of what ops computed or wrote, and of what came from outside as it was first seen.

    Nothing is kept of views, whose bytes are those of others, and of memory that nobody wrote yet.
    """

    def __init__(self, log: Log) -> None:
        self._log = ref(log)
        self._data = bytearray()
        # Of tensors from outside that have no number yet: by the id of the weak reference to each.
        self._outside: dict[int, tuple[Any, bytes]] = {}

    def first_seen(self, tensor: torch.Tensor, snapshot: Snapshot) -> None:
        """Take down what a tensor from outside is."""
        live = snapshot[0]
        found = _seen(tensor)
        if found is not None:
            self._outside[id(live)] = live, found

    def numbered(self, snapshot: Snapshot, row: int, storage: int) -> None:
        """Keep that under the number that the tensor has got."""
        _, found = self._outside.pop(id(snapshot[0]), (None, None))
        if found is not None:
            self._keep(NONE, row, found)

    def after_op(self, op: RunningOp) -> None:
        """Take down what an op computed and wrote."""
        self._ran(op, op.written() if op.plan.writes else [])

    def after_region(self, op: RunningOp, wrote: list[torch.Tensor]) -> None:
        """Take down what a compiled region gave and wrote."""
        self._ran(op, wrote)

    def _ran(self, op: RunningOp, wrote: list[torch.Tensor]) -> None:
        log = self._log()
        if log is None:
            return
        at = log.op_count - 1
        for place, tensor in _computed(op, wrote):
            found = _seen(tensor)
            if found is not None:
                self._keep(at, place, found)

    def _keep(self, op: int, place: int, found: bytes) -> None:
        # One statement: an interrupt comes before it or after it.
        self._data += _KEY.pack(op, place, len(found)) + found

    def digests(self, tables: Tables) -> Digests:
        """Return them by value; of a value that was passed through, that of what it was."""
        rows, values = tables.op_columns(), tables.values
        places: dict[int, int] = {}
        at, data = 0, bytes(self._data)
        while at < len(data):
            op, place, length = _KEY.unpack_from(data, at)
            at += _KEY.size
            row = place
            if op != NONE:
                ends, items = (
                    (rows.made_end, tables.made) if place >= 0 else (rows.wrote_end, tables.wrote)
                )
                begin = ends[op - 1] if op else 0
                row = items[begin + (place if place >= 0 else -1 - place)]
            if row != NONE and values.origins[row] in (OUTSIDE, FRESH, WRITE):
                places[row] = at
            at += length
        for row in values.earlier:
            if values.origins[row] == PASSED_THROUGH and (source := values.source(row)) in places:
                places[row] = places[source]
        return Digests(data, places)


def _computed(op: RunningOp, wrote: list[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield what an op wrote and made, with its place among these, see `_KEY`."""
    if gives_later(op.plan.name):
        return
    if not is_scratch(op.plan.name, None):
        for place, tensor in enumerate(wrote):
            yield -1 - place, tensor
    if gives_of(op.plan) != "unwritten memory":
        for output, tensor in given(op, wrote):
            if output is not None:
                yield output, tensor


def _seen(tensor: torch.Tensor) -> bytes | None:
    """Return the digest of a tensor, taken where nobody sees it."""
    try:
        with no_dispatch(), no_functions(), below_autograd():
            found = digest_of(tensor)
    except FAILURES:
        return None
    return None if found is None else packed(found)
