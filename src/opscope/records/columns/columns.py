"""Columns: one field of very many records, in a few bytes for each.

A column is any sequence: a list, an array, a range, or one of those below, which make what they
are asked for. `Table` puts records together from columns.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count, islice, repeat
from operator import eq, sub
from typing import Any, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)

NONE = -1
"""What stands for None among numbers: no op, call, run, value, storage or call site."""


class Column(Protocol[T_co]):
    """What all columns have in common."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...

    def __iter__(self) -> Iterator[T_co]: ...


class Same:
    """One value for all."""

    __slots__ = ("_length", "value")

    def __init__(self, value: Any, length: int) -> None:
        self.value = value
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self.value

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self._length)


class Optional:
    """Numbers, `NONE` among them for None."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> int | None:
        number = self.numbers[index]
        return None if number == NONE else number

    def __iter__(self) -> Iterator[int | None]:
        return (None if number == NONE else number for number in self.numbers)


class Less:
    """Differences of numbers."""

    __slots__ = ("_less", "_numbers")

    def __init__(self, numbers: Column[int], less: Column[int]) -> None:
        self._numbers = numbers
        self._less = less

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> int:
        return self._numbers[index] - self._less[index]

    def __iter__(self) -> Iterator[int]:
        return map(sub, self._numbers, self._less)


class Coded:
    """Values of which there are few different ones, each by its number among these."""

    __slots__ = ("codes", "values")

    def __init__(self, codes: Sequence[int], values: Sequence[Any]) -> None:
        self.codes = codes
        self.values = values

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Any:
        return self.values[self.codes[index]]

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.__getitem__, self.codes)


class Sparse:
    """One value for most, others for some."""

    __slots__ = ("_length", "others", "value")

    def __init__(self, value: Any, others: Mapping[int, Any], length: int) -> None:
        self.value = value
        self.others = others
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self.others.get(index, self.value)

    def __iter__(self) -> Iterator[Any]:
        if not self.others:
            return repeat(self.value, self._length)
        return map(self.others.get, range(self._length), repeat(self.value))


class Flag:
    """Whether a bit is set in each of some numbers."""

    __slots__ = ("bit", "numbers")

    def __init__(self, numbers: Sequence[int], bit: int) -> None:
        self.numbers = numbers
        self.bit = bit

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> bool:
        return self.numbers[index] & self.bit != 0

    def __iter__(self) -> Iterator[bool]:
        bit = self.bit
        return (number & bit != 0 for number in self.numbers)


class Ranges:
    """Ranges, from their starts and stops."""

    __slots__ = ("starts", "stops")

    def __init__(self, starts: Sequence[int], stops: Sequence[int]) -> None:
        self.starts = starts
        self.stops = stops

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> range:
        return range(self.starts[index], self.stops[index])

    def __iter__(self) -> Iterator[range]:
        return map(range, self.starts, self.stops)


class Overlaid:
    """A column with other values in some places."""

    __slots__ = ("_below", "_others")

    def __init__(self, below: Column[Any], others: Mapping[int, Any]) -> None:
        self._below = below
        self._others = others

    def __len__(self) -> int:
        return len(self._below)

    def __getitem__(self, index: int) -> Any:
        return self._others[index] if index in self._others else self._below[index]

    def __iter__(self) -> Iterator[Any]:
        others = self._others
        return (others.get(index, value) for index, value in enumerate(self._below))


class Joined:
    """One column after another."""

    __slots__ = ("_parts", "_starts")

    def __init__(self, *parts: Column[Any]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = list(accumulate(map(len, self._parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Any:
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._parts)


class Ragged:
    """Tuples of numbers: all of them in a row, and where each tuple ends.

    Args:
        ends: Where each tuple ends; it begins where the one before it does.
        items: The numbers; there may be more after the last end.
    """

    __slots__ = ("ends", "items")
    _are_plain = True  # all that is stored is in the tuples as it is

    def __init__(self, ends: Sequence[int], items: Sequence[int]) -> None:
        self.ends = ends
        self.items = items

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.made(self.items[self.ends[index - 1] if index else 0 : self.ends[index]])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        ends = self.ends
        if self._are_plain and len(ends) and ends[-1] == len(ends) and all(map(eq, ends, count(1))):
            return zip(islice(self.items, len(ends)))  # one each, nearly always
        return self._each()

    def _each(self) -> Iterator[tuple[Any, ...]]:
        start, items, made = 0, self.items, self.made
        for end in self.ends:
            yield made(items[start:end]) if end > start else ()
            start = end

    @staticmethod
    def made(numbers: Sequence[int]) -> tuple[Any, ...]:
        """Return one tuple from what is stored for it."""
        return tuple(numbers)


class RaggedOptional(Ragged):
    """The same, with None for `NONE`."""

    __slots__ = ()
    _are_plain = False

    @staticmethod
    def made(numbers: Sequence[int]) -> tuple[Any, ...]:
        """Return one tuple from what is stored for it."""
        return tuple([None if number == NONE else number for number in numbers])


class RaggedKnown(Ragged):
    """The same, with `NONE` left out."""

    __slots__ = ()
    _are_plain = False

    @staticmethod
    def made(numbers: Sequence[int]) -> tuple[Any, ...]:
        """Return one tuple from what is stored for it."""
        return tuple([number for number in numbers if number != NONE])


def codes_of(values: Iterable[Any]) -> tuple[array[int], list[Any]]:
    """Return, for `Coded`, the code of each of some values, and the values by code."""
    known: dict[Any, int] = {}
    codes = array("i", (known.setdefault(value, len(known)) for value in values))
    return codes, list(known)


def first(column: Column[T_co], count: int) -> Iterator[T_co]:
    """Return the first items of a column."""
    return islice(iter(column), count)
