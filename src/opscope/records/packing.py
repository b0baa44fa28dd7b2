"""A recording as few large lists, to be pickled: a column for each field of all records of a kind.

Pickled one by one each record takes its own header, and several times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain, repeat
from typing import Any, NamedTuple

from opscope.collector import paused


class Same(NamedTuple):
    """One value over and over."""

    value: Any
    times: int


class Places(NamedTuple):
    """The numbers from 0: the place of each record."""

    end: int


class Ranges(NamedTuple):
    """Ranges of indices."""

    starts: Any
    stops: Any


class Records(NamedTuple):
    """Records of one class, by their fields in order."""

    kind: type
    columns: tuple[Any, ...]


class Tuples(NamedTuple):
    """Tuples of records."""

    lengths: Any
    items: Any


class Items(NamedTuple):
    """Any values."""

    values: list[Any]


@paused()
def packed(record: object) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a record, the tuples of records among them as columns."""
    found = ((field.name, getattr(record, field.name)) for field in fields(record))  # type: ignore[arg-type]
    return tuple((name, _column(value) if _has_records(value) else value) for name, value in found)


@paused()
def unpacked(kind: Callable[..., Any], found: Sequence[tuple[str, Any]]) -> Any:
    """Return the record of a class that was packed."""
    return kind(**{
        name: tuple(_values(value)) if isinstance(value, _PACKED) else value
        for name, value in found
    })  # fmt: skip


def _has_records(value: object) -> bool:
    """Whether something is a tuple of records, or of tuples of these."""
    return type(value) is tuple and any(
        is_dataclass(item) or (type(item) is tuple and bool(item) and is_dataclass(item[0]))
        for item in value
    )


def _column(values: Sequence[Any]) -> Any:
    """Return values in fewer objects."""
    first = values[0] if values else None
    if all(value is first for value in values):
        return Same(first, len(values))
    kinds = set(map(type, values))
    if str in kinds:
        once: dict[Any, Any] = {}  # of equal texts the first: it is pickled once
        return Items([once.setdefault(v, v) if type(v) is str else v for v in values])
    kind = kinds.pop()
    if kinds:
        return Items(list(values))
    if kind is int and first == 0 and all(map(int.__eq__, values, range(len(values)))):
        return Places(len(values))
    if kind is range and all(value.step == 1 for value in values):
        return Ranges(
            _column([value.start for value in values]), _column([value.stop for value in values])
        )
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        columns = ([getattr(value, name) for value in values] for name in names)
        return Records(kind, tuple(map(_column, columns)))
    if kind is tuple and any(value and is_dataclass(value[0]) for value in values):
        return Tuples(_column(list(map(len, values))), _column(list(chain.from_iterable(values))))
    return Items(list(values))


def _values(column: Any) -> Iterator[Any]:
    """Yield what was put into a column."""
    if isinstance(column, Same):
        return repeat(column.value, column.times)
    if isinstance(column, Places):
        return iter(range(column.end))
    if isinstance(column, Ranges):
        return map(range, _values(column.starts), _values(column.stops))
    if isinstance(column, Records):
        return map(column.kind, *map(_values, column.columns))
    if isinstance(column, Tuples):
        return _tuples(_values(column.lengths), _values(column.items))
    return iter(column.values)


def _tuples(lengths: Iterator[int], items: Iterator[Any]) -> Iterator[tuple[Any, ...]]:
    return (tuple(next(items) for _ in range(length)) for length in lengths)


_PACKED = (Same, Places, Ranges, Records, Tuples, Items)
