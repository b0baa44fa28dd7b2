"""Which bytes of a storage a strided tensor covers, and what two of them share.

A region is an arithmetic description first (offset, sizes, strides in bytes) and a bit
set, one Python integer with a bit per unit of memory, only where the description does not
ingest the question. Both answers are exact.
"""

from __future__ import annotations

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
