"""From columns of a recording to JSON that describes them, and the numbers that it points to."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import count
from operator import sub
from typing import Any

from opscope.operators.known import InWords
from opscope.records.columns.columns import NONE, Coded, Column, Optional, Same
from opscope.records.columns.table import Reads, column
from opscope.storage import plain
from opscope.storage.columns.checks import (
    CODES,
    check_numbers,
    check_ranges,
    check_tuples,
    misfit,
    narrowest,
    text,
)
from opscope.storage.columns.schema import Field, fields_of

Json = dict[str, Any]

_FEW = 64  # so many different tuples, or one in `_SHARE` of all, are kept once each
_SHARE = 8
_TELLING = frozenset(
    {int, bool, str, bytes, InWords, type(None)}
)  # equal ones of a class are the same


class Blob:
    """Numbers in a row, as they are written; the same ones are written once.

    Args:
        write: Is given the bytes, in order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._known: dict[bytes, int] = {}
        self.length = 0

    def put(self, numbers: array[Any]) -> int:
        """Write numbers, little-endian; return where they begin."""
        if sys.byteorder == "big":
            numbers = numbers[:]
            numbers.byteswap()
        data = numbers.tobytes()
        at = self._known.setdefault(sha256(data).digest(), self.length)
        if at == self.length:
            self._write(data)
            self.length += len(data)
        return at


class Encoder:
    """Describes columns in JSON.

    Args:
        blob: Takes their numbers.
        sizes: How many records each table has that numbers are indices into.
    """

    def __init__(self, blob: Blob, sizes: Mapping[str, int]) -> None:
        self._blob = blob
        self._sizes = sizes

    def columns(self, record: type, records: Sequence[Any]) -> Json:
        """Return the columns of records of a class, by field.

        Raises:
            Misfit: If a field holds what its type does not allow.
        """
        if not len(records):
            return {}
        return {field.name: self._column(field, records) for field in fields_of(record)}

    def _column(self, field: Field, records: Sequence[Any]) -> Json:
        values = column(records, field.name)
        try:
            return self._encoded(field, values)
        except (TypeError, AttributeError) as error:
            raise misfit(field) from error

    def _encoded(self, field: Field, values: Column[Any]) -> Json:
        match field.kind:
            case "number" | "number or none" | "flag":
                return self._numbers_or_plain(field, values)
            case "decimal":
                return self._decimals(values) or self._coded(values)
            case "text":
                return self._texts(field, values)
            case "range":
                return self._ranges(field, values)
            case "numbers" | "numbers or nones":
                return self._few_tuples(field, values) or self._tuples(field, values)
            case "decimals":
                lengths, items = _flat(values)
                flat = self._decimals(items)
                if flat is None:
                    return self._coded(values)
                return {"lengths": self._numbers(lengths), "items": flat}
            case "plain":
                return self._coded(values)
            case _:
                return self._records(field, values)

    # ------------------------------------------------------------------------- numbers

    def _numbers_or_plain(self, field: Field, values: Column[Any]) -> Json:
        numbers = as_numbers(values, optional=field.kind == "number or none")
        if numbers is None:
            if field.refers_to is not None or field.kind == "flag":
                raise misfit(field)
            return self._coded(values)
        check_numbers(field, numbers, self._sizes)
        return {"numbers": self._numbers(numbers)}

    def _numbers(self, numbers: array[int]) -> Json:
        """Return where numbers are: themselves or their differences, whatever takes fewer bytes."""
        if not numbers:
            return {"first": 0, "step": 0}
        first, low, high = numbers[0], min(numbers), max(numbers)
        if (step := _step(numbers)) is not None:
            return {"first": first, "step": step}
        kind = narrowest(low, high)
        if kind not in ("u1", "i1"):
            try:
                steps = array("q", map(sub, numbers[1:], numbers))
            except OverflowError:
                steps = None
            if steps is not None:
                narrower = narrowest(min(steps), max(steps))
                if narrower[1] < kind[1]:
                    return {"first": first, **self._put(steps, narrower)}
        return self._put(numbers, kind)

    def _put(self, numbers: array[int], kind: str) -> Json:
        return {"type": kind, "at": self._blob.put(array(CODES[kind], numbers))}

    def _decimals(self, values: Iterable[Any]) -> Json | None:
        """Return where floats are, None where some are none."""
        found = list(values)
        if not all(type(value) is float for value in found):
            return None
        return {"floats": {"type": "f8", "at": self._blob.put(array("d", found))}}

    def _ranges(self, field: Field, values: Column[range]) -> Json:
        starts, stops = array("q"), array("q")
        for value in values:
            if type(value) is not range or value.step != 1:
                raise misfit(field)
            starts.append(value.start)
            stops.append(value.stop)
        check_ranges(field, starts, stops, self._sizes)
        return {"starts": self._numbers(starts), "stops": self._numbers(stops)}

    # -------------------------------------------------------------------------- tuples

    def _few_tuples(self, field: Field, values: Column[tuple[Any, ...]]) -> Json | None:
        """Return tuples of numbers as codes, None where they are many different ones."""
        codes, known = distinct(values, most=max(_FEW, len(values) // _SHARE))
        if len(codes) < len(values):
            return None
        for value in known:
            for item in value:
                if type(item) is not int and not (item is None and field.kind != "numbers"):
                    raise misfit(field)
        check_tuples(field, known, self._sizes)
        return self._codes(codes, [list(map(plain.encode, value)) for value in known])

    def _tuples(self, field: Field, values: Column[tuple[Any, ...]]) -> Json:
        lengths, items = _flat(values)
        numbers = as_numbers(items, optional=field.kind == "numbers or nones")
        if numbers is None:
            raise misfit(field)
        check_numbers(field, numbers, self._sizes)
        return {"lengths": self._numbers(lengths), "items": {"numbers": self._numbers(numbers)}}

    # -------------------------------------------------------------- codes, and records

    def _texts(self, field: Field, values: Column[Any]) -> Json:
        codes, known = distinct(values)
        return self._codes(codes, [text(field, value) for value in known])

    def _coded(self, values: Column[Any]) -> Json:
        """Return each different value once, and of all of them its number."""
        codes, known = distinct(values, _exactly)
        return self._codes(codes, list(map(plain.encode, known)))

    def _codes(self, codes: array[int], values: list[Any]) -> Json:
        if len(values) == 1:
            return {"same": values[0]}
        return {"codes": self._numbers(codes), "values": values}

    def _records(self, field: Field, values: Column[Any]) -> Json:
        assert field.record is not None
        if isinstance(values, Reads):
            return self._reads(field, values)
        if field.kind == "record":
            return {"records": self.columns(field.record, list(values))}
        if field.kind == "record or none":
            values = [() if value is None else (value,) for value in values]
        lengths, items = _flat(values)
        return {"lengths": self._numbers(lengths), "records": self.columns(field.record, items)}

    def _reads(self, field: Field, reads: Reads) -> Json:
        """Return what ops read, without making a record of each."""
        lengths, arguments, flags = array("q"), [], array("q")
        numbers = array("q")
        for of_op in reads.plain():
            lengths.append(len(of_op))
            for value, argument, overwritten in of_op:
                numbers.append(value)
                arguments.append(argument)
                flags.append(overwritten)
        if not numbers:
            return {"lengths": self._numbers(lengths), "records": {}}
        assert field.record is not None
        value_field, argument_field, _ = fields_of(field.record)
        check_numbers(value_field, numbers, self._sizes)
        columns = {
            "value": {"numbers": self._numbers(numbers)},
            "argument": self._texts(argument_field, arguments),
            "overwritten": {"numbers": self._numbers(flags)},
        }
        return {"lengths": self._numbers(lengths), "records": columns}


def _step(numbers: array[int]) -> int | None:
    """Return by how much each number is more than the one before it, None if that differs."""
    first, count = numbers[0], len(numbers)
    step = numbers[1] - first if count > 1 else 0
    if numbers[-1] - first != step * (count - 1):
        return None
    expected = range(first, first + step * count, step) if step else [first] * count
    return step if all(map(int.__eq__, numbers, expected)) else None


def distinct(
    values: Column[Any],
    key: Callable[[Any], Any] | None = None,
    most: int | None = None,
) -> tuple[array[int], list[Any]]:
    """Return for each of some values its number among the different ones, and these.

    Args:
        values: They.
        key: What two of them have in common if they are the same; that they are equal, if None.
        most: How many different ones there may be; where there are more, it stops at these.
    """
    if isinstance(values, Same):
        return array("q", [0]) * len(values), [values.value]
    if isinstance(values, Coded):
        used = list(dict.fromkeys(values.codes))
        number = dict(zip(used, count()))
        codes = array("q", map(number.__getitem__, values.codes))
        return codes, [values.values[code] for code in used]
    known: dict[Any, int] = {}
    found: list[Any] = []
    codes = array("q")
    for value in values:
        code = known.setdefault(value if key is None else key(value), len(found))
        if code == len(found):
            if code == most:
                break
            found.append(value)
        codes.append(code)
    return codes, found


def _exactly(value: object) -> object:
    """Return what only the very same plain data has, as 1, 1.0 and True are equal to Python."""
    kind = type(value)
    if isinstance(value, (tuple, list)):
        return (kind, *map(_exactly, value))
    if kind in _TELLING:
        return kind, value
    return json.dumps(plain.encode(value))


def as_numbers(values: Column[Any], *, optional: bool = False) -> array[int] | None:
    """Return numbers, `NONE` for None; None where some are no such numbers, or too large."""
    found = array("q")
    try:
        # Of an iterator, as the bytes of bytes, and arrays of another type, are taken otherwise.
        if isinstance(values, Optional) or not optional:
            numbers = values.numbers if isinstance(values, Optional) else values
            return array("q", iter(numbers))
        for value in values:
            if value == NONE:
                return None
            found.append(NONE if value is None else value)
    except (TypeError, OverflowError):
        return None
    return found


def _flat(values: Column[Any]) -> tuple[array[int], list[Any]]:
    """Return how long each of some tuples is, and what is in them."""
    lengths, items = array("q"), []
    for value in values:
        lengths.append(len(value))
        items.extend(value)
    return lengths, items
