"""Digests of very many values, in a row of bytes: each is made as it is asked for."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from struct import Struct, pack, unpack_from

from opscope.records.values import Digest

# A hash, four numbers, two counts; the sample follows.
_HEAD = Struct("<16s4dqH")


def packed(digest: Digest) -> bytes:
    """Return a digest in bytes.

    >>> len(packed(Digest("00" * 16, sample=(1.0, 2.0))))
    74
    """
    numbers = digest.norm, digest.mean, digest.minimum, digest.maximum
    count = len(digest.sample)
    head = _HEAD.pack(bytes.fromhex(digest.hash), *numbers, digest.nonfinite, count)
    return head + pack(f"<{count}d", *digest.sample)


class Digests(Mapping[int, Digest]):
    """Digests by the index of their value.

    Args:
        data: What `packed` made of each, in any order, whatever lies between them.
        places: Where in it that of each value is.

    >>> digest = Digest("0f" * 16, norm=5.0, sample=(3.0, 4.0))
    >>> digests = Digests(packed(digest), {7: 0})
    >>> digests[7] == digest, list(digests)
    (True, [7])
    """

    __slots__ = ("_data", "_places", "_values")

    def __init__(self, data: bytes, places: Mapping[int, int]) -> None:
        self._data = data
        self._values = array("i", sorted(places))
        self._places = array("q", map(places.__getitem__, self._values))

    def __getitem__(self, value: int) -> Digest:
        at = bisect_left(self._values, value)
        if at == len(self._values) or self._values[at] != value:
            raise KeyError(value)
        place = self._places[at]
        code, norm, mean, least, most, nonfinite, count = _HEAD.unpack_from(self._data, place)
        sample = unpack_from(f"<{count}d", self._data, place + _HEAD.size)
        return Digest(code.hex(), norm, mean, least, most, nonfinite, sample)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
