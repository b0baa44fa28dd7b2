"""What is true of a column as it is written and as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from operator import ge, gt

from opscope.records.columns.columns import NONE
from opscope.storage.columns.schema import Field

# The types of numbers, the narrowest first, with what `array` calls them.
UNSIGNED = {"u1": "B", "u2": "H", "u4": "I"}
SIGNED = {"i1": "b", "i2": "h", "i4": "i", "i8": "q"}
CODES = UNSIGNED | SIGNED | {"f8": "d"}


class Misfit(ValueError):
    """Something in a column is not what its field may hold."""


def narrowest(low: int, high: int) -> str:
    """Return the narrowest type that holds numbers from one to another.

    >>> narrowest(0, 255), narrowest(-1, 255), narrowest(0, 2**32)
    ('u1', 'i2', 'i8')
    """
    for kind in UNSIGNED if low >= 0 else ():
        if high < 1 << 8 * int(kind[1]):
            return kind
    for kind in SIGNED:
        if max(high, -low - 1) < 1 << 8 * int(kind[1]) - 1:
            return kind
    message = f"{low} to {high} take more than eight bytes"
    raise OverflowError(message)


def misfit(field: Field) -> Misfit:
    """Return the error for what a field may not hold."""
    return Misfit(f"something in {field.name!r} that is no {field.kind}")


def text(field: Field, value: object) -> str | None:
    """Return a text, if it is one that a field may hold."""
    if value is None and field.optional:
        return None
    if not isinstance(value, str) or (field.choices and value not in field.choices):
        raise misfit(field)
    return str.__str__(value)


def check_numbers(field: Field, numbers: Sequence[int], sizes: Mapping[str, int]) -> None:
    """Raise a `Misfit` if a number is no index into the table that it refers to."""
    if field.refers_to is None or not len(numbers):
        return
    low = NONE if field.kind in ("number or none", "numbers or nones") else 0
    size = sizes[field.refers_to] + (field.bound == "end")
    is_inside = low <= min(numbers) and max(numbers) < size
    if not is_inside or (field.bound == "before" and any(map(ge, numbers, count()))):
        message = f"a number in {field.name!r} that is none of the {size:,} {field.refers_to}"
        raise Misfit(message)


def check_tuples(
    field: Field, tuples: Iterable[tuple[int | None, ...]], sizes: Mapping[str, int]
) -> None:
    """Raise a `Misfit` if a number in a tuple is no such index."""
    numbers = [number for value in tuples for number in value if number is not None]
    if field.refers_to is not None and NONE in numbers:
        raise misfit(field)
    check_numbers(field, numbers, sizes)


def check_ranges(
    field: Field, starts: Sequence[int], stops: Sequence[int], sizes: Mapping[str, int]
) -> None:
    """Raise a `Misfit` if a range goes on past the end of the table that it refers to."""
    assert field.refers_to is not None
    if len(starts) and (
        min(starts) < 0 or any(map(gt, starts, stops)) or max(stops) > sizes[field.refers_to]
    ):
        message = f"a range in {field.name!r} past the end of the {field.refers_to}"
        raise Misfit(message)
