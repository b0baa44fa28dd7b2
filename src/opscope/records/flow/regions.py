"""Which bytes of a storage a strided tensor covers, and what two of them share.

A region is an arithmetic description first (offset, sizes, strides in bytes) and a bit
set, one Python integer with a bit per unit of memory, only where the description does not
ingest the question. Both answers are exact.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import gcd


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes from ``start`` to ``stop`` (exclusive), all of them if ``dense``.

    ``dims`` are (size, stride in bytes) of the dimensions with more than one element and
    a stride, outermost first; the innermost unit is ``itemsize`` bytes.
    """

    start: int
    stop: int
    dense: bool
    dims: tuple[tuple[int, int], ...]
    itemsize: int

    @property
    def unit(self) -> int:
        """The largest number of bytes that divides every boundary in the region."""
        return reduce(gcd, (stride for _, stride in self.dims), gcd(self.start, self.itemsize))

    def bits(self, unit: int) -> int:
        """Return the region as a bit set of ``unit``-byte cells; bit 0 is byte 0."""
        mask = (1 << (self.itemsize // unit)) - 1
        for size, stride in reversed(self.dims):
            mask = _repeat(mask, size, stride // unit)
        return mask << (self.start // unit)


@lru_cache(4096)  # a program has few distinct layouts
def region(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, itemsize: int
) -> Region | None:
    """Return the region of a strided tensor; None for one without elements.

    Args:
        shape: Sizes in elements.
        stride: Strides in elements, one per size.
        offset: Offset in elements.
        itemsize: Bytes per element.
    """
    if 0 in shape:
        return None
    dims = [(n, s * itemsize) for n, s in zip(shape, stride, strict=False) if n > 1 and s > 0]
    start = offset * itemsize
    stop = start + sum((n - 1) * s for n, s in dims) + itemsize
    expected, dense = itemsize, True
    for size, step in sorted(dims, key=lambda dim: dim[1]):
        # Sorted by stride, each dimension must continue where the one inside ends.
        dense = dense and step <= expected
        expected = max(expected, step * (size - 1) + expected)
    return Region(start, stop, dense, tuple(dims), itemsize)


def overlap(first: Region, second: Region) -> bool:
    """Whether two regions of one storage share a byte."""
    if first.stop <= second.start or second.stop <= first.start:
        return False
    # Its first and its last byte belong to a region in any case.
    if first.start == second.start or first.stop == second.stop:
        return True
    if first.dense and (first.start <= second.start or second.stop <= first.stop):
        return True
    if second.dense and (second.start <= first.start or first.stop <= second.stop):
        return True
    unit = gcd(first.unit, second.unit)
    return bool(first.bits(unit) & second.bits(unit))


def last_writers(whole: Region, writes: Sequence[tuple[int, Region]]) -> tuple[list[int], bool]:
    """Return the writes whose bytes a read of ``whole`` sees, and whether they cover it.

    Args:
        whole: What is read.
        writes: (number, region) of each write, the latest first.

    Returns:
        The numbers of the writes that were not wholly overwritten, the latest first; and
        whether nothing of what was there before them is left.
    """
    near = [
        (number, written)
        for number, written in writes
        if written.start < whole.stop and whole.start < written.stop
    ]
    seen: list[int] = []
    unit = 0
    left = 0  # the bytes not yet covered, as a bit set; made when first needed
    for number, written in near:
        if written.dense and written.start <= whole.start and whole.stop <= written.stop:
            seen.append(number)
            return seen, True
        if not unit:
            unit = reduce(gcd, (other.unit for _, other in near), whole.unit)
            left = whole.bits(unit)
        covered = written.bits(unit) & left
        if covered:
            seen.append(number)
            left &= ~covered
            if not left:
                return seen, True
    return seen, False


class LastWrites:
    """Of many writes to a storage the last that reached each byte, found without going over all.

    A write is known by its place among all, from 0. Dense ones are intervals that cover older ones;
    others are looked through one by one.

    >>> writes = LastWrites()
    >>> for first, count in ((0, 4), (8, 4), (2, 2)):
    ...     writes.add(region((count,), (1,), first, 1))
    >>> writes.last_on(region((8,), (1,), 0, 1)), writes.last_on(region((2,), (1,), 5, 1))
    (2, None)
    """

    __slots__ = ("_numbers", "_regions", "_scattered", "_starts", "_stops")

    def __init__(self) -> None:
        self._regions: list[Region | None] = []
        self._scattered: list[int] = []
        # What the dense ones left of one another, in the order of the bytes.
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._numbers: list[int] = []

    @property
    def count(self) -> int:
        """How many writes there were."""
        return len(self._regions)

    def add(self, written: Region | None) -> None:
        """Add the next write; None is one that wrote no byte."""
        number = len(self._regions)
        self._regions.append(written)
        if written is None:
            return
        if not written.dense:
            self._scattered.append(number)
            return
        found = self._under(written)
        pieces = [(written.start, written.stop, number)]
        if found and self._starts[found[0]] < written.start:
            pieces.insert(0, (self._starts[found[0]], written.start, self._numbers[found[0]]))
        if found and self._stops[found[-1]] > written.stop:
            pieces.append((written.stop, self._stops[found[-1]], self._numbers[found[-1]]))
        over = slice(found.start, found.stop)
        self._starts[over], self._stops[over], self._numbers[over] = zip(*pieces, strict=True)

    def last_on(self, whole: Region) -> int | None:
        """Return the last write that shares a byte with a region, None if none does."""
        under = self._under(whole)
        numbers = self._numbers[under.start : under.stop]
        if not whole.dense:  # it has gaps, in which some of these may lie
            numbers = [number for number in set(numbers) if self._is_on(number, whole)]
        last = max(numbers, default=-1)
        for number in reversed(self._scattered):
            if number < last:
                break
            if self._is_on(number, whole):
                return number
        return None if last < 0 else last

    def _under(self, whole: Region) -> range:
        """Return which intervals share a byte with the extent of a region."""
        first = bisect_right(self._stops, whole.start)
        return range(first, max(first, bisect_left(self._starts, whole.stop)))

    def _is_on(self, number: int, whole: Region) -> bool:
        written = self._regions[number]
        return written is not None and overlap(written, whole)


def _repeat(mask: int, count: int, step: int) -> int:
    """Return ``count`` copies of a bit set, each ``step`` further on, by doubling."""
    result, done = 0, 0
    block, length = mask, 1
    while count:
        if count & 1:
            result |= block << (done * step)
            done += length
        count >>= 1
        if count:
            block |= block << (length * step)
            length *= 2
    return result
