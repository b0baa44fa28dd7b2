"""Records that are made when they are asked for, from columns.

A program of a million ops is a few arrays then, and not millions of objects. To go over all of
them, ask for a `column`: it works for plain tuples of records too, as they are written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from itertools import islice
from math import gcd, prod
from typing import Any, TypeVar, overload

from opscope.records.columns.columns import NONE, Coded, Column, Overlaid, RaggedKnown, Same
from opscope.records.ops import Op, Read
from opscope.records.values import Value

T = TypeVar("T")

# So many records that were made are held, as what is asked for is often asked for again.
_HELD = 4096


class Table(Sequence[T]):
    """A sequence of records of one kind; in all that can be asked of it a tuple.

    Args:
        kind: The class of the records, a dataclass.
        length: How many they are.
        columns: Their fields, by name; what is not there is the field's default.
    """

    __slots__ = ("_columns", "_fields", "_held", "_kind", "_length")

    def __init__(self, kind: type[T], length: int, columns: Mapping[str, Column[Any]]) -> None:
        self._kind = kind
        self._length = length
        self._columns = dict(columns)
        self._fields: list[Column[Any]] = []
        for field in fields(kind):  # type: ignore[arg-type]  # a dataclass
            known = columns.get(field.name)
            if known is None:
                assert field.default is not MISSING, field.name
                known = self._columns[field.name] = Same(field.default, length)
            self._fields.append(known)
        self._held: dict[int, T] = {}

    def column(self, name: str) -> Column[Any]:
        """Return one field of all records."""
        return self._columns[name]

    def changed(self, fields: Mapping[str, Mapping[int, Any]]) -> Table[T]:
        """Return a table with other values in some fields, by field and index."""
        over = {name: Overlaid(self._columns[name], values) for name, values in fields.items()}
        return Table(self._kind, self._length, {**self._columns, **over})

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(map(self.__getitem__, range(*index.indices(self._length))))
        held = self._held
        known = held.get(index)
        if known is not None:
            return known
        at = index.__index__()
        if not 0 <= at < self._length:
            if not -self._length <= at < 0:
                message = f"index {at} of {self._length} records"
                raise IndexError(message)
            return self[at + self._length]
        record = self._kind(*[column[at] for column in self._fields])
        if len(held) >= _HELD:
            held.clear()
        held[at] = record
        return record

    def __iter__(self) -> Iterator[T]:
        if self._length <= _HELD:
            return map(self.__getitem__, range(self._length))
        # A column may go on: a trace that is entered again adds to those of its tables.
        return islice(map(self._kind, *self._fields), self._length)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Table, tuple)):
            return NotImplemented
        if self is other:
            return True
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Sequence[T]) -> tuple[T, ...]:
        return (*self, *other)

    def __radd__(self, other: Sequence[T]) -> tuple[T, ...]:
        return (*other, *self)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[object, ...]:
        return Table, (self._kind, self._length, self._columns)


def plain_reads(ops: Sequence[Op]) -> Iterator[list[tuple[int, str, bool]]]:
    """Return, for each op, the value, the argument and whether it is overwritten of each read."""
    reads = column(ops, "reads")
    if isinstance(reads, Reads):
        return reads.plain()
    return ([(r.value, r.argument, r.overwritten) for r in of_op] for of_op in reads)


def value_bytes(values: Sequence[Value]) -> Column[int]:
    """Return the bytes of each value."""
    shapes, sizes = column(values, "shape"), column(values, "itemsize")
    if isinstance(shapes, Coded) and isinstance(sizes, Coded) and shapes.codes is sizes.codes:
        layouts = zip(shapes.values, sizes.values, strict=True)
        return Coded(shapes.codes, [prod(shape) * size for shape, size in layouts])
    return [prod(shape) * size for shape, size in zip(shapes, sizes, strict=True)]


def bytes_in_memory(values: Sequence[Value]) -> Column[int]:
    """Return the bytes of memory that each value is in: those of an expanded element once."""
    shapes, strides, sizes = (column(values, name) for name in ("shape", "stride", "itemsize"))
    if (
        isinstance(shapes, Coded)
        and isinstance(strides, Coded)
        and isinstance(sizes, Coded)
        and shapes.codes is strides.codes is sizes.codes
    ):
        layouts = zip(shapes.values, strides.values, sizes.values, strict=True)
        return Coded(shapes.codes, [_in_memory(*layout) for layout in layouts])
    return [_in_memory(*layout) for layout in zip(shapes, strides, sizes, strict=True)]


def _in_memory(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> int:
    """Return how many bytes a tensor has in memory: of overlapping windows each element once.

    >>> _in_memory((100, 8), (0, 1), 4), _in_memory((6, 3), (2, 2), 4), _in_memory((2, 3), (6, 2), 4)
    (32, 32, 24)
    """
    if len(shape) != len(stride) or not all(shape):
        return prod(shape) * itemsize
    apart = prod(size for size, step in zip(shape, stride, strict=True) if step)
    reach = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return min(apart, 1 + reach // (gcd(*stride) or 1)) * itemsize


class Reads:
    """What each op read, as a column.

    Args:
        ends: Where what an op read ends among the values.
        items: The values, `NONE` for what was no tensor.
        forms: By op, the number of what its arguments are called.
        arguments: By that number, the argument that each item is, and whether it is overwritten.
    """

    __slots__ = ("_arguments", "_ends", "_forms", "_items")

    def __init__(
        self,
        ends: Sequence[int],
        items: Sequence[int],
        forms: Sequence[int],
        arguments: Sequence[tuple[tuple[str, bool], ...]],
    ) -> None:
        self._ends = ends
        self._items = items
        self._forms = forms
        self._arguments = arguments

    @property
    def values(self) -> RaggedKnown:
        """The values alone."""
        return RaggedKnown(self._ends, self._items)

    def plain(self) -> Iterator[list[tuple[int, str, bool]]]:
        """Return each op's reads as plain tuples, which are made faster."""
        start, items, table = 0, self._items, self._arguments
        for end, form in zip(self._ends, self._forms, strict=True):
            pairs = zip(items[start:end], table[form], strict=True)
            yield [(value, *argument) for value, argument in pairs if value != NONE]
            start = end

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> tuple[Read, ...]:
        start = self._ends[index - 1] if index else 0
        return self._reads(index, self._items[start : self._ends[index]])

    def __iter__(self) -> Iterator[tuple[Read, ...]]:
        return map(self.__getitem__, range(len(self)))

    def _reads(self, index: int, values: Sequence[int]) -> tuple[Read, ...]:
        arguments = self._arguments[self._forms[index]]
        return tuple(
            [
                Read(value, *argument)
                for value, argument in zip(values, arguments, strict=True)
                if value != NONE
            ]
        )


def changed(records: Sequence[T], fields: Mapping[str, Mapping[int, Any]]) -> Sequence[T]:
    """Return records with other values in some fields of some of them.

    Args:
        records: They, which stay as they are.
        fields: By field and index, the values; the same indices in all of them.
    """
    if isinstance(records, Table):
        return records.changed(fields)
    result = list(records)
    for index in {index for values in fields.values() for index in values}:
        record: Any = result[index]
        result[index] = replace(record, **{name: fields[name][index] for name in fields})
    return tuple(result)


def column(records: Sequence[Any], name: str) -> Column[Any]:
    """Return one field of all records."""
    if isinstance(records, Table):
        return records.column(name)
    return [getattr(record, name) for record in records]


def read_values(ops: Sequence[Op]) -> Column[tuple[int, ...]]:
    """Return the values that each op read."""
    reads = column(ops, "reads")
    return (
        reads.values if isinstance(reads, Reads) else [tuple(r.value for r in op) for op in reads]
    )
