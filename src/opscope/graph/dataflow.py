"""What depends on what: edges through values, views and writes.

A reader of a value depends on

1. what made it, or viewed it into being (``alias``), and
2. every later write to the same storage that overlaps what is read, the latest first,
   until all of it is covered (``write``).

What made a value is left out where later writes cover all of it, unless it is the view
op that the tensor came from: without that there is no tensor to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from opscope.graph.regions import Region, last_writers, region
from opscope.records.layers import loose_ends
from opscope.records.recording import Op, Read, Recording

EdgeKind = Literal["data", "alias", "write"]

# View ops that may show memory of the storage which none of their arguments showed.
_WIDENING = frozenset({"as_strided", "as_strided_", "resize_", "resize_as_", "set_"})


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: an op, a call that handed its input on, or the end of a bare program.

    ``index`` is into the recording's ops, layer calls or values.
    """

    kind: Literal["op", "call", "end"]
    index: int


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that a reader's argument depends on.

    Attributes:
        source: The value behind it: what was read itself, or what a later write made.
        argument: The reader's argument.
        kind: ``"data"`` for a value as it was made, ``"alias"`` for a tensor that a view
            op made, ``"write"`` for memory that another op wrote since.
    """

    source: int
    argument: str
    kind: EdgeKind


class _Memory:
    """What was written to each storage so far."""

    def __init__(self, recording: Recording) -> None:
        self._values = recording.values
        self._twins = _twins(recording)
        self._logs: dict[int, list[tuple[int, Region]]] = {}
        # How long its storage's log was when a value came to be: only later writes matter.
        self._since: dict[int, int] = {}
        # What was in each storage when it turned up, as far as tensors showed it.
        self._outside: dict[int, list[tuple[int, Region]]] = {}
        self._widened: set[int] = set()
        # The storages that ops made: what turns up on one is not from outside.
        self._made_here: set[int] = set()

    def widen(self, index: int, reads: Iterable[Read]) -> None:
        """Note a view of more memory than the tensors showed that it was made from."""
        value = self._values[index]
        whole = region(value.shape, value.stride, value.offset, value.itemsize)
        if value.origin != "view" or value.storage is None or whole is None:
            return
        for read in reads:
            given = self._values[read.value]
            shown = region(given.shape, given.stride, given.offset, given.itemsize)
            if shown is None or given.storage != value.storage:
                continue
            if last_writers(whole, [(0, shown)])[1]:
                return
        self._widened.add(index)

    def come_to_be(self, index: int) -> None:
        value = self._values[index]
        if index in self._since:
            return
        if value.storage is None:
            self._since[index] = 0
            return
        if value.origin == "fresh" and value.storage not in self._logs:
            self._made_here.add(value.storage)
        log = self._logs.setdefault(value.storage, [])
        covered = region(value.shape, value.stride, value.offset, value.itemsize)
        if covered is not None and value.origin in ("fresh", "write"):
            log.append((index, covered))
        elif covered is not None and value.origin == "outside":
            self._outside.setdefault(value.storage, []).append((index, covered))
        # A tensor that turns up from outside on a known storage sees all of its writes.
        all_of_it = value.origin == "outside" or index in self._widened
        self._since[index] = 0 if all_of_it else len(log)

    def sources(self, read: Read) -> list[Dependency]:
        value = self._values[read.value]
        viewed = value.origin == "view"
        own = Dependency(value.index, read.argument, "alias" if viewed else "data")
        if value.index in self._twins:
            return [replace(own, source=twin) for twin in self._twins[value.index]]
        log = () if value.storage is None else self._logs.get(value.storage, ())
        later = list(log[self._since[value.index] :])
        if value.index in self._widened and value.storage is not None:
            later = [*self._outside.get(value.storage, ()), *later]
        if not later:
            return [own]
        whole = region(value.shape, value.stride, value.offset, value.itemsize)
        if whole is None:
            return [own]
        seen, covered = last_writers(whole, later[::-1])
        writes = [Dependency(source, read.argument, "write") for source in seen]
        inside = value.origin == "outside" and value.storage in self._made_here
        return writes if (covered or inside) and not viewed else [own, *writes]


def _twins(recording: Recording) -> dict[int, tuple[int, ...]]:
    """Return, for each input that was given several times, the values that it entered as.

    It is one tensor, and nobody can tell which of the arguments an op has read.
    """
    entered: dict[tuple[int, int | None], list[int]] = {}
    for run in recording.module_calls:
        for leaf in run.inputs if run.is_root else ():
            given = recording.values[leaf.value].handed_from
            entered.setdefault((run.index, given), []).append(leaf.value)
    together = (tuple(values) for values in entered.values() if len(values) > 1)
    return {value: values for values in together for value in values}


def dependencies(recording: Recording) -> Iterator[tuple[Reader, list[Dependency]]]:
    """Yield each reader with what it depends on, in the order of execution."""
    memory = _Memory(recording)
    for reader, reads, makes in _events(recording):
        found: list[Dependency] = []
        for read in reads:
            memory.come_to_be(read.value)
            found.extend(memory.sources(read))
        yield reader, found
        widening = reader.kind == "op" and recording.ops[reader.index].name in _WIDENING
        for value in makes:
            if widening:
                memory.widen(value, reads)
            memory.come_to_be(value)


def _events(recording: Recording) -> Iterator[tuple[Reader, Iterable[Read], Iterable[int]]]:
    """Yield ops, and between them the calls that only handed their input on."""
    calls = iter(call for call in recording.layer_calls if not call.ops)
    call = next(calls, None)
    for op in recording.ops:
        while call is not None and call.ops.start <= op.index:
            yield Reader("call", call.index), _received(call.received), call.returned
            call = next(calls, None)
        yield Reader("op", op.index), op.reads, _made(op)
    while call is not None:
        yield Reader("call", call.index), _received(call.received), call.returned
        call = next(calls, None)
    if not any(entry.kind == "output" for entry in recording.layer_calls):
        for value in loose_ends(recording):
            yield Reader("end", value), (Read(value, "input"),), ()


def _received(values: tuple[int, ...]) -> Iterator[Read]:
    return (Read(value, "input") for value in values)


def _made(op: Op) -> Iterator[int]:
    yield from op.writes
    yield from (value for value in op.outputs if value is not None)
