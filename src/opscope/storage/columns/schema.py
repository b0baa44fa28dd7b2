"""How each field of each record is kept, by its type: a field that is added is kept without a word.

What a type does not tell is which table a number is an index into: `REFERS_TO` says so, and has
numbers refused that lie outside of it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from opscope.records.calls import Frame
from opscope.records.values import Digest

Kind = Literal[
    "number", "number or none", "flag", "decimal", "text", "range",
    "numbers", "numbers or nones", "decimals", "record", "record or none", "records", "plain",
]  # fmt: skip

Bound = Literal["", "before", "end"]

# Where ``before`` follows, the record that is meant comes before the one that refers to it; where
# ``end`` follows, it is how many there had been, so that it may be the number of all.
REFERS_TO = {
    "Op.index": "ops",
    "Op.outputs": "values",
    "Op.writes": "values",
    "Op.packed": "parameters",
    "Op.layer_call": "layer_calls",
    "Op.module_call": "module_calls",
    "Op.call_site": "call_sites",
    "Op.forward_op": "ops",
    "Op.accumulates": "parameters",
    "Read.value": "values",
    "Value.index": "values",
    "Value.made_by": "ops",
    "Value.earlier": "values before",
    "LayerCall.index": "layer_calls",
    "LayerCall.module_call": "module_calls",
    "LayerCall.call_site": "call_sites",
    "LayerCall.ops": "ops",
    "LayerCall.received": "values",
    "LayerCall.returned": "values",
    "Leaf.value": "values",
    "ModuleCall.index": "module_calls",
    "ModuleCall.module": "modules",
    "ModuleCall.parent": "module_calls before",
    "ModuleCall.call_site": "call_sites",
    "ModuleCall.ops": "ops",
    "ModuleCall.layer_calls": "layer_calls",
    "Module.index": "modules",
    "Parameter.index": "parameters",
    "Parameter.value": "values",
    "SavedTensor.owner": "values",
    "SavedTensor.maker": "values",
    "SavedTensor.parameter": "parameters",
    "StorageLife.born": "ops",
    "StorageLife.freed": "ops end",
    "StorageLife.parameter": "parameters",
    "GradRegion.ops": "ops",
    "GradRegion.module_call": "module_calls",
    "UnseenCall.value": "values",
    "UnseenCall.module_call": "module_calls",
    "Failure.op": "ops",
    "Failure.layer_call": "layer_calls",
    "Failure.module_call": "module_calls",
    "BoundValue.value": "values",
    "BoundValue.parameter": "parameters",
    "AliveValue.value": "values",
    "DigestOfValue.value": "values",
    "GradientPaths.reached": "values",
    "GradientPaths.sources": "values",
    "GradientPaths.results": "values",
}


# What a recording has besides records, as records.


@dataclass(frozen=True, slots=True)
class CallSite:
    """The frames of a calling context, the innermost first."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class BoundValue:
    """A value that came from a parameter."""

    value: int
    parameter: int


@dataclass(frozen=True, slots=True)
class AliveValue:
    """A value that a tensor was that was there when the block ended."""

    value: int


@dataclass(frozen=True, slots=True)
class DigestOfValue:
    """A value and its digest."""

    value: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class GradientPaths:
    """Where gradients flowed: the values reached; from each source to the result of its place."""

    reached: tuple[int, ...]
    sources: tuple[int, ...]
    results: tuple[int, ...]


# ------------------------------------------------------------------------ one field


@dataclass(frozen=True, slots=True)
class Field:
    """How one field of a record is kept.

    Attributes:
        name: Its name.
        kind: What is in it.
        record: The class of the records in it, if there are any.
        choices: The texts that it may be, empty for any.
        optional: Whether a text may be None.
        refers_to: The table that its numbers are indices into, None for none.
        bound: What else is known of these, see `REFERS_TO`.
        is_required: Whether a file has to have it; else it may be left out for the default.
    """

    name: str
    kind: Kind
    record: type | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    refers_to: str | None = None
    bound: Bound = ""
    is_required: bool = False


@cache
def fields_of(record: type) -> tuple[Field, ...]:
    """Return how each field of a class of records is kept.

    >>> from opscope.records.ops import Read
    >>> [(field.name, field.kind, field.refers_to) for field in fields_of(Read)]
    [('value', 'number', 'values'), ('argument', 'text', None), ('overwritten', 'flag', None)]
    """
    hints = get_type_hints(record)
    return tuple(
        _field(record.__name__, item.name, hints[item.name], item.default is MISSING)
        for item in fields(record)
    )


_SIMPLE: dict[Any, Kind] = {
    int: "number",
    int | None: "number or none",
    bool: "flag",
    float: "decimal",
    str: "text",
    str | None: "text",
    range: "range",
    tuple[int, ...]: "numbers",
    tuple[int | None, ...]: "numbers or nones",
    tuple[float, ...]: "decimals",
}


def _field(record: str, name: str, hint: Any, is_required: bool) -> Field:
    table, _, bound = REFERS_TO.get(f"{record}.{name}", "").partition(" ")
    kind, inner = _kind(hint)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return Field(
        name,
        kind,
        record=inner,
        choices=choices,
        optional=hint == str | None,
        refers_to=table or None,
        bound=cast("Bound", bound),
        is_required=is_required,
    )


def _kind(hint: Any) -> tuple[Kind, type | None]:
    """Return the kind of a field, and the class of the records in it."""
    known = _SIMPLE.get(hint)
    if known is not None:
        return known, None
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal and all(isinstance(choice, str) for choice in parts):
        return "text", None
    if is_dataclass(hint):
        return "record", _class(hint)
    if origin in (Union, UnionType) and len(parts) == 2 and is_dataclass(parts[0]):
        if parts[1] is NoneType:
            return "record or none", _class(parts[0])
    elif origin is tuple and len(parts) == 2 and parts[1] is ... and is_dataclass(parts[0]):
        return "records", _class(parts[0])
    return "plain", None


def _class(hint: Any) -> type:
    assert isinstance(hint, type)
    return hint
