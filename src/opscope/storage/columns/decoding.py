"""From JSON and numbers to columns, of which nothing is believed that was not looked at."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from opscope.records.columns.columns import (
    Coded,
    Column,
    Flag,
    Optional,
    Ragged,
    RaggedOptional,
    Ranges,
    Same,
)
from opscope.records.columns.table import Reads, Table
from opscope.records.ops import Read
from opscope.storage import plain
from opscope.storage.columns.checks import (
    CODES,
    Misfit,
    check_numbers,
    check_ranges,
    check_tuples,
    misfit,
    narrowest,
    text,
)
from opscope.storage.columns.schema import Field, fields_of

Json = dict[str, Any]


class Nested:
    """Tuples of records: all of these in a table, and where each tuple ends."""

    __slots__ = ("_ends", "_records")

    def __init__(self, ends: Sequence[int], records: Table[Any]) -> None:
        self._ends = ends
        self._records = records

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._records[self._ends[index - 1] if index else 0 : self._ends[index]]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        records, start = iter(self._records), 0
        for end in self._ends:
            yield tuple(islice(records, end - start))
            start = end


class Decoder:
    """Makes columns of what `Encoder` said of them.

    Args:
        blob: The numbers that they point to.
        sizes: How many records each table has that numbers are indices into.
        most: How many records there may be in all, and in the tuples of a column, so that a few
            bytes do not become many.
    """

    def __init__(self, blob: memoryview, sizes: Mapping[str, int], most: int) -> None:
        self._blob = blob
        self._sizes = sizes
        self._left = self._most = most
        # What several columns share they share in memory too.
        self._known: dict[tuple[Any, ...], Sequence[int]] = {}

    def table(self, record: type, count: int, columns: Json) -> Table[Any]:
        """Return records of a class, which are made as they are asked for.

        Raises:
            Misfit: If that is not what the columns hold.
        """
        known = {field.name: field for field in fields_of(record)}
        for name in columns:
            if name not in known:
                message = f"a column {name!r} that this opscope does not know"
                raise Misfit(message)
        if not count:
            return Table(record, 0, dict.fromkeys(known, ()))
        self._take(count)
        found: dict[str, Column[Any]] = {}
        for name, field in known.items():
            if name in columns:
                found[name] = self._column(field, columns[name], count)
            elif field.is_required:
                message = f"no column {name!r}"
                raise Misfit(message)
        return Table(record, count, found)

    def _take(self, count: int) -> None:
        self._left -= count
        if count < 0 or self._left < 0:
            message = "more records than such a file can hold"
            raise Misfit(message)

    def _column(self, field: Field, found: Json, count: int) -> Column[Any]:
        if "same" in found:
            return Same(self._plain(field, found["same"]), count)
        if "codes" in found:
            return self._coded(field, found, count)
        return _DECODERS[field.kind](self, field, found, count)

    # ------------------------------------------------------------------------- numbers

    def numbers(self, found: Json, count: int) -> Sequence[int]:
        """Return so many numbers."""
        key = (count, *sorted(found.items()))
        if key not in self._known:
            self._known[key] = self._numbers(found, count)
        return self._known[key]

    def _numbers(self, found: Json, count: int) -> Sequence[int]:
        first, step = found.get("first"), found.get("step")
        if type(first) is int and type(step) is int and "type" not in found:
            if step:
                return range(first, first + step * count, step)
            return array(CODES[narrowest(first, first)], [first]) * count
        if first is None:
            return self._stored(found, count)
        steps = self._stored(found, max(count - 1, 0))
        if type(first) is not int or not count:
            message = "differences of no numbers"
            raise Misfit(message)
        numbers = array("q", accumulate(steps, initial=first))
        kind = narrowest(min(numbers), max(numbers))
        return numbers if kind == "i8" else array(CODES[kind], numbers)

    def _stored(self, found: Json, count: int) -> array[Any]:
        """Return numbers as they are in the blob."""
        kind, at = found["type"], found["at"]
        numbers = array(CODES[kind])
        end = at + count * numbers.itemsize
        if type(at) is not int or at < 0 or end > len(self._blob):
            message = "numbers past the end of the file"
            raise Misfit(message)
        numbers.frombytes(self._blob[at:end])
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def _decimals(self, found: Json, count: int) -> array[float]:
        if found["floats"]["type"] != "f8":
            message = "floats of no known type"
            raise Misfit(message)
        return self._stored(found["floats"], count)

    def _checked(self, field: Field, found: Json, count: int) -> Sequence[int]:
        numbers = self.numbers(found["numbers"], count)
        check_numbers(field, numbers, self._sizes)
        return numbers

    def _ends(self, found: Json, count: int) -> array[int]:
        """Return where each of some tuples ends, from how long each is."""
        lengths = self.numbers(found["lengths"], count)
        if min(lengths) < 0 or max(lengths) > self._left:
            message = "tuples of no length"
            raise Misfit(message)
        ends = array("q", accumulate(lengths))
        if ends[-1] > self._most:
            message = "longer tuples than such a file can hold"
            raise Misfit(message)
        return ends

    # --------------------------------------------------------------- each kind of field

    def _number(self, field: Field, found: Json, count: int) -> Column[Any]:
        numbers = self._checked(field, found, count)
        return Optional(numbers) if field.kind == "number or none" else numbers

    def _flag(self, field: Field, found: Json, count: int) -> Column[Any]:
        numbers = self._checked(field, found, count)
        if min(numbers) < 0 or max(numbers) > 1:
            raise misfit(field)
        return Flag(numbers, 1)

    def _decimal(self, field: Field, found: Json, count: int) -> Column[Any]:
        return self._decimals(found, count)

    def _range(self, field: Field, found: Json, count: int) -> Column[Any]:
        starts, stops = (self.numbers(found[end], count) for end in ("starts", "stops"))
        check_ranges(field, starts, stops, self._sizes)
        return Ranges(starts, stops)

    def _tuples(self, field: Field, found: Json, count: int) -> Column[Any]:
        ends = self._ends(found, count)
        items = self._checked(field, found["items"], ends[-1])
        return (RaggedOptional if field.kind == "numbers or nones" else Ragged)(ends, items)

    def _tuples_of_decimals(self, field: Field, found: Json, count: int) -> Column[Any]:
        ends = self._ends(found, count)
        items: Any = self._decimals(found["items"], ends[-1])
        return Ragged(ends, items)

    def _records(self, field: Field, found: Json, count: int) -> Column[Any]:
        assert field.record is not None
        if field.kind == "record":
            return self.table(field.record, count, found["records"])
        ends = self._ends(found, count)
        records = self.table(field.record, ends[-1], found["records"])
        if field.kind == "record or none":
            if max(found_lengths := self.numbers(found["lengths"], count)) > 1:
                raise misfit(field)
            each = iter(records)
            return [next(each) if length else None for length in found_lengths]
        return _reads(ends, records) if field.record is Read else Nested(ends, records)

    # --------------------------------------------------------------------------- codes

    def _coded(self, field: Field, found: Json, count: int) -> Column[Any]:
        codes = self.numbers(found["codes"], count)
        values = [self._plain(field, value) for value in found["values"]]
        if min(codes) < 0 or max(codes) >= len(values):
            message = f"a code in {field.name!r} for no value"
            raise Misfit(message)
        return Coded(codes, values)

    def _plain(self, field: Field, found: Any) -> Any:
        """Return a value that is written out, if it is one that a field may hold."""
        if field.kind == "text":
            return text(field, found)
        if field.kind.startswith("numbers"):
            value = tuple(plain.decode(item) for item in found)
            kinds = (int, type(None)) if field.kind == "numbers or nones" else (int,)
            if not isinstance(found, list) or any(type(item) not in kinds for item in value):
                raise misfit(field)
            check_tuples(field, [value], self._sizes)
            return value
        value = plain.decode(found)
        if field.refers_to is not None or not _may_be(field, value):
            raise misfit(field)
        return value


def _may_be(field: Field, value: object) -> bool:
    """Whether a field may hold something that is written out as it is seldom."""
    match field.kind:
        case "number" | "decimal":
            return isinstance(value, (int, float))
        case "number or none":
            return value is None or isinstance(value, int)
        case "decimals":
            return isinstance(value, tuple) and all(isinstance(v, (int, float)) for v in value)
        case "plain":
            return True
        case _:
            return False


def _reads(ends: Sequence[int], records: Table[Read]) -> Reads:
    """Return what ops read, by the few ways in which they are called."""
    values, names, flags = (records.column(name) for name in ("value", "argument", "overwritten"))
    known: dict[tuple[tuple[str, bool], ...], int] = {}
    each, codes, start = zip(names, flags, strict=True), array("i"), 0
    for end in ends:
        form = tuple(islice(each, end - start))
        codes.append(known.setdefault(form, len(known)))
        start = end
    numbers: Any = values
    return Reads(ends, numbers, codes, list(known))


_Decode = Callable[[Decoder, Field, Json, int], Column[Any]]
_DECODERS: dict[str, _Decode] = {
    "number": Decoder._number,
    "number or none": Decoder._number,
    "flag": Decoder._flag,
    "decimal": Decoder._decimal,
    "range": Decoder._range,
    "numbers": Decoder._tuples,
    "numbers or nones": Decoder._tuples,
    "decimals": Decoder._tuples_of_decimals,
    "record": Decoder._records,
    "record or none": Decoder._records,
    "records": Decoder._records,
}
