"""What depends on what: edges through values, views and writes.

A reader of a value depends on

1. what made it, or viewed it into being (``alias``), and
2. every later write to the same storage that overlaps what is read, the latest first,
   until all of it is covered (``write``).

What made a value is left out where later writes cover all of it. A view reads the bytes that it
shows, no others. An argument that an op fills whole without a look at what it held, and a view
of which nothing is left, are ``overwrite``: nothing flows along such an edge but the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from opscope.graph.memory import Dependency, Memory
from opscope.operators.known import name_of
from opscope.records.calls import LayerCall
from opscope.records.columns.table import column, plain_reads
from opscope.records.flow.ends import loose_ends
from opscope.records.ops import Read
from opscope.records.recording import Recording

# View ops that may show memory of the storage which none of their arguments showed.
_WIDENING = frozenset({"as_strided", "as_strided_", "resize_", "resize_as_", "set_"})


class Reader(NamedTuple):
    """Who reads: an op, a call that passed its input through, or the end of a bare program.

    ``number`` is an index into the recording's ops, layer calls or values; a call that passed several
    tensors on reads each for itself, and ``place`` says which.
    """

    kind: Literal["op", "call", "end"]
    number: int
    place: int = 0


def dependencies(recording: Recording) -> Iterator[tuple[Reader, list[Dependency]]]:
    """Yield each reader with what it depends on, in the order of execution.

    An op that makes a tensor of Python's numbers depends on what it made.
    """
    memory = Memory(recording)
    alone, ops = memory.alone, recording.ops
    ops_of = column(recording.layer_calls, "ops")
    calls = iter([call for call, within in enumerate(ops_of) if not within])
    call = next(calls, None)
    operators, all_reads = column(ops, "operator"), column(ops, "reads")
    rows = zip(plain_reads(ops), column(ops, "outputs"), column(ops, "writes"), strict=True)
    for op, (reads, outputs, writes) in enumerate(rows):
        while call is not None and ops_of[call].start <= op:
            yield from _passed_through(recording.layer_calls[call], memory)
            call = next(calls, None)
        # Nearly always nothing has to be known of the memory.
        if not writes and _are_alone(reads, outputs, alone):
            found = [Dependency(value, argument, "data") for value, argument, _ in reads]
        else:
            found = _op(name_of(operators[op]), all_reads[op], outputs, writes, memory)
        yield Reader("op", op), found
    while call is not None:
        yield from _passed_through(recording.layer_calls[call], memory)
        call = next(calls, None)
    for value in loose_ends(recording):
        memory.come_to_be(value)
        yield Reader("end", value), memory.sources(Read(value, "input"))


def _are_alone(
    reads: Iterable[tuple[int, str, bool]], outputs: Iterable[int | None], alone: bytearray
) -> bool:
    """Whether nothing else lies in the memory of what an op read and of what it made."""
    for value, _, overwritten in reads:
        if overwritten or not alone[value]:
            return False
    return all(value is None or alone[value] for value in outputs)


def _passed_through(call: LayerCall, memory: Memory) -> Iterator[tuple[Reader, list[Dependency]]]:
    """Yield what each tensor depends on that a call without ops passed through."""
    for place, (received, returned) in enumerate(zip(call.received, call.returned, strict=True)):
        memory.come_to_be(received)
        found = memory.sources(Read(received, "input"))
        yield Reader("call", call.index, place), found
        memory.come_to_be(returned)
        memory.show([returned], found)


def _op(
    name: str,
    reads: tuple[Read, ...],
    outputs: tuple[int | None, ...],
    writes: tuple[int, ...],
    memory: Memory,
) -> list[Dependency]:
    """Return what an op depends on, and note what it makes."""
    made = [value for value in outputs if value is not None]
    storages, origins = memory.storages, memory.origins
    views = [] if writes else [value for value in made if origins[value] == "view"]
    each_its_own = len(reads) == len(views) > 1
    found: list[Dependency] = []
    for place, read in enumerate(reads):
        memory.come_to_be(read.value)
        storage = storages[read.value]
        if storage is None or not views or len(views) < len(made):
            found += memory.sources(read)
            continue
        of_it = (views[place],) if each_its_own else views  # as in `broadcast_tensors`
        here = [value for value in of_it if storages[value] == storage]
        shown = tuple(part for part in map(memory.region_of, here) if part is not None)
        beyond = bool(shown) and name in _WIDENING
        # Of a tensor of other memory only the shape is asked.
        seen = read if here else replace(read, overwritten=True)
        found += memory.sources(seen, shown or None, beyond=beyond)
    for value in (*writes, *made):
        memory.come_to_be(value)
    memory.show(views, found, beyond=name in _WIDENING)
    memory.write(writes, found)
    return found
