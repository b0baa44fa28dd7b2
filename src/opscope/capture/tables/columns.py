"""The numbers of the tables by column, to go over very many rows."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Numbers:
    """What was given in the place of tensors, by its place among all that was read, in order."""

    __slots__ = ("_places", "_values")

    def __init__(self) -> None:
        self._places = array("i")
        self._values: list[Any] = []

    def put(self, place: int, value: Any) -> None:
        """Add one, after all others."""
        self._places.append(place)
        self._values.append(value)

    def get(self, place: int) -> Any:
        """Return what was given there, None for nothing."""
        at = bisect_left(self._places, place)
        is_known = at < len(self._places) and self._places[at] == place
        return self._values[at] if is_known else None

    def __len__(self) -> int:
        return len(self._values)

    def __delitem__(self, which: slice) -> None:
        del self._places[which]
        del self._values[which]


class OpColumns(NamedTuple):
    """The numbers of all ops, see `OpRow`."""

    module: array[int]
    call_site: array[int]
    flags: array[int]
    reads_end: array[int]
    made_end: array[int]
    wrote_end: array[int]
    sequence: array[int]
    started: array[int]
    ended: array[int]


class CallColumns(NamedTuple):
    """The numbers of all layer calls, see `CallRow`, and where what each returned ends."""

    module: array[int]
    call_site: array[int]
    ops_start: array[int]
    ops_end: array[int]
    returned_end: array[int]
    started: array[int]
    ended: array[int]


def unpacked(packed: bytearray, small: int, large: Sequence[int]) -> Iterator[array[int]]:
    """Yield the columns of packed rows: so many of four bytes, then those at these places of eight."""
    width = large[-1] + 1
    with memoryview(packed) as whole:
        for at in range(small):
            with whole.cast("i") as numbers, numbers[at :: 2 * width] as column:
                yield array("i", column)
        for at in large:
            with whole.cast("q") as numbers, numbers[at::width] as column:
                yield array("q", column)
