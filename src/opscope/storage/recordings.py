"""A recording in a zip, table by table, and out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from opscope.errors import OptionError, UnreadableFile
from opscope.garbage import paused
from opscope.records.calls import Frame
from opscope.records.columns.table import Table
from opscope.records.recording import Failure, GradientFlow, Recording
from opscope.storage import plain
from opscope.storage.archive import ArchiveReader, ArchiveWriter
from opscope.storage.columns.checks import Misfit
from opscope.storage.columns.decoding import Decoder
from opscope.storage.columns.encoding import Blob, Encoder
from opscope.storage.columns.schema import (
    AliveValue,
    BoundValue,
    CallSite,
    DigestOfValue,
    GradientPaths,
)

SCALARS = "recording"


@dataclass(frozen=True, slots=True)
class Part:
    """How one field of a recording is kept as a table.

    Attributes:
        record: The class of the table's records.
        records: Makes them of what the field holds.
        value: Makes that of a table of them.
    """

    record: type
    records: Callable[[Any], Sequence[Any]] = lambda value: value
    value: Callable[[Table[Any]], Any] = tuple


def _paths(flow: GradientFlow) -> Sequence[GradientPaths]:
    pairs = sorted(flow.pairs)
    sources, results = (tuple(pair[side] for pair in pairs) for side in (0, 1))
    return [GradientPaths(tuple(sorted(flow.reached)), sources, results)]


def _flow(table: Sequence[GradientPaths]) -> GradientFlow:
    [paths] = table
    pairs = zip(paths.sources, paths.results, strict=True)
    return GradientFlow(frozenset(paths.reached), frozenset(pairs))


def _call_sites(table: Table[CallSite]) -> tuple[tuple[Frame, ...], ...]:
    known: dict[Frame, Frame] = {}  # many sites share most of their frames
    return tuple(
        tuple([known.setdefault(frame, frame) for frame in frames])
        for frames in table.column("frames")
    )


def _only(table: Sequence[Any]) -> Any:
    [record] = table
    return record


_SPECIAL = {
    "call_sites": Part(CallSite, lambda sites: list(map(CallSite, sites)), _call_sites),
    "parameter_of_value": Part(
        BoundValue,
        lambda bound: [BoundValue(*pair) for pair in bound.items()],
        lambda table: dict(zip(table.column("value"), table.column("parameter"), strict=True)),
    ),
    "alive": Part(
        AliveValue,
        lambda values: list(map(AliveValue, values)),
        lambda table: tuple(table.column("value")),
    ),
    "digests": Part(
        DigestOfValue,
        lambda digests: [DigestOfValue(*pair) for pair in digests.items()],
        lambda table: dict(zip(table.column("value"), table.column("digest"), strict=True)),
    ),
    "gradient_flow": Part(GradientPaths, _paths, _flow),
    "failure": Part(Failure, lambda failure: [failure], _only),
}


@cache
def parts() -> Mapping[str, Part | None]:
    """Return how each field of a recording is kept: as a table, or None for a number or text."""
    hints = _types()
    return {item.name: _part(item.name, hints[item.name]) for item in fields(Recording)}


@cache
def _types() -> Mapping[str, Any]:
    """Return the type of each field of a recording."""
    return get_type_hints(Recording)


def _part(name: str, hint: Any) -> Part | None:
    if name in _SPECIAL:
        return _SPECIAL[name]
    if hint in (str, int, bool):
        return None
    options = [hint, *get_args(hint)] if NoneType in get_args(hint) else [hint]
    for option in options:
        inside = get_args(option)
        if get_origin(option) is tuple and inside[1:] == (...,):
            return Part(inside[0])
        if get_origin(option) is not None and len(inside) == 1:
            return Part(inside[0], value=lambda table: table)
    message = f"{name} of a recording has a type that no file can hold: {hint}"
    raise TypeError(message)


def member_names() -> set[str]:
    """Return the names of all members that a recording may be in."""
    tables = (name for name, part in parts().items() if part is not None)
    found = chain.from_iterable((f"{name}.json", f"{name}.bin") for name in tables)
    return {f"{SCALARS}.json", *found}


# ---------------------------------------------------------------------------- writing


def write_recording(archive: ArchiveWriter, recording: Recording) -> dict[str, int]:
    """Write a recording, one column in memory at a time; return the length of each table.

    Raises:
        OptionError: If a field holds what it may not, as one written by hand may.
    """
    default = Recording()
    tables: dict[str, Sequence[Any]] = {}
    scalars = {}
    for name, part in parts().items():
        value = getattr(recording, name)
        if part is None:
            scalars[name] = plain.encode(value)
        elif value is not None and not _is_default(value, getattr(default, name)):
            tables[name] = part.records(value)
    sizes = _sizes({name: len(table) for name, table in tables.items()})
    archive.json(f"{SCALARS}.json", scalars)
    for name, table in tables.items():
        part = parts()[name]
        assert part is not None
        try:
            with archive.member(f"{name}.bin") as write:
                columns = Encoder(Blob(write), sizes).columns(part.record, table)
        except Misfit as error:
            message = f"cannot save this recording: its {name} have {error}"
            raise OptionError(message) from error
        archive.json(f"{name}.json", {"length": len(table), "columns": columns})
    return {name: len(table) for name, table in tables.items()}


def _is_default(value: Any, default: Any) -> bool:
    """Whether a field need not be written; tables are compared by their lengths."""
    if isinstance(value, (GradientFlow, Failure)):
        return bool(value == default)
    return default is not None and len(value) == 0


def _sizes(lengths: Mapping[str, int]) -> dict[str, int]:
    return dict.fromkeys(parts(), 0) | dict(lengths)


# ---------------------------------------------------------------------------- reading


@paused()
def read_recording(archive: ArchiveReader) -> Recording:
    """Return the recording in a zip, its large tables as columns.

    Raises:
        Misfit: If a column holds what its field may not.
        UnreadableFile: If a member is not as it was written.
    """
    known: dict[str, Any] = {}
    described = {}
    for name, part in parts().items():
        if part is not None and f"{name}.json" in archive.names:
            described[name] = archive.json(f"{name}.json")
    sizes = _sizes({name: found["length"] for name, found in described.items()})
    if not all(type(size) is int and size >= 0 for size in sizes.values()):
        message = "it has a table of no length"
        raise UnreadableFile(message)
    if sum(sizes.values()) > archive.most:
        message = "it is said to hold more records than such a file can"
        raise UnreadableFile(message)
    for name, found in described.items():
        part = parts()[name]
        assert part is not None
        has_numbers = f"{name}.bin" in archive.names
        blob = memoryview(archive.read(f"{name}.bin") if has_numbers else b"")
        decoder = Decoder(blob, sizes, archive.most)
        try:
            table = decoder.table(part.record, found["length"], found["columns"])
            known[name] = part.value(table)
        except Misfit as error:
            message = f"its table {name} has {error}"
            raise UnreadableFile(message) from error
    return Recording(**known, **dict(_scalars(archive.json(f"{SCALARS}.json"))))


def _scalars(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are no tables; what is not there is the default."""
    hints = _types()
    for name, encoded in found.items():
        value = plain.decode(encoded)
        if name not in hints or parts()[name] is not None or type(value) is not hints[name]:
            message = f"its {SCALARS}.json has {name!r}, which is not as it should be"
            raise UnreadableFile(message)
        yield name, value
