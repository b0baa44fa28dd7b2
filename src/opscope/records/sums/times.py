"""How long ops took together: the times that tables, graphs and layers tell."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate

from opscope.records.columns.table import column
from opscope.records.recording import Recording


class OpTimes:
    """Adds up how long ops took, see `Op.duration_ns`.

    What Python does between them is not in it: much of that is the trace's own.

    >>> from opscope.records.ops import Op
    >>> ops = tuple(Op(index, "aten.add.Tensor", duration_ns=10) for index in range(3))
    >>> OpTimes(Recording(ops=ops)).of(range(1, 3))
    20
    """

    def __init__(self, recording: Recording) -> None:
        self._each = column(recording.ops, "duration_ns")

    def of(self, ops: Iterable[int]) -> int:
        """Return how many nanoseconds they took."""
        if isinstance(ops, range):  # of a module there may be many
            return self._before[max(ops.start, ops.stop)] - self._before[ops.start]
        return sum(map(self._each.__getitem__, ops))

    @cached_property
    def _before(self) -> Sequence[int]:
        """How long all ops before one took, and at the end all of them."""
        return array("q", accumulate(self._each, initial=0))
