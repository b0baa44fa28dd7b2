"""The numbers of a tape by column, to go over very many rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class OpColumns(NamedTuple):
    """The numbers of all ops, see `OpRow`."""

    module: array[int]
    place: array[int]
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
    place: array[int]
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
