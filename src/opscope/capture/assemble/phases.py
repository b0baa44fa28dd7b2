"""Which phase of a training step an op is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opscope.capture.assemble.links import Link
from opscope.capture.tables.tables import BACKWARD, NONE, CallRow, OpRow, Tape
from opscope.records.recording import Phase


def phases(
    tape: Tape, rows: Sequence[OpRow], calls: Sequence[CallRow], found: Sequence[Link]
) -> tuple[list[Phase], list[Phase]]:
    """Return the phase of each op and of each recorded call.

    What runs in a module, or makes an autograd node, is forward. What reads the results of a
    backward or an optimizer outside of both is neither: clipping, averaging of weights.

    Args:
        tape: What was recorded.
        rows: Its ops.
        calls: Its calls.
        found: What `links` found.
    """
    contexts = tape.places.contexts()
    source = tape.values.source
    places = _places(rows, calls)
    late: set[int] = set()

    def outside_engine(module: int, place: int, read: Iterable[int]) -> Phase:
        if module != NONE:
            return "forward"
        if place != NONE and contexts[place] == "optimizer":
            return "optimizer"
        return (
            "other" if any(value != NONE and source(value) in late for value in read) else "forward"
        )

    of_ops: list[Phase] = []
    reads_at = made_at = wrote_at = 0
    for row, place, link in zip(rows, places, found, strict=True):
        context = None if place == NONE else contexts[place]
        phase: Phase = "forward"
        if context == "backward" or (row.flags & BACKWARD and context != "optimizer"):
            phase = "backward"
        elif row.flags & BACKWARD or link.number is None:
            phase = outside_engine(row.module, place, tape.reads[reads_at : row.reads_end])
        if phase != "forward":
            late.update(tape.made[made_at : row.made_end], tape.wrote[wrote_at : row.wrote_end])
        of_ops.append(phase)
        reads_at, made_at, wrote_at = row.reads_end, row.made_end, row.wrote_end
    of_calls = [
        of_ops[call.ops_start]
        if call.ops_end > call.ops_start
        else outside_engine(call.module, call.place, call.received)
        for call in calls
    ]
    return of_ops, of_calls


def _places(rows: Sequence[OpRow], calls: Sequence[CallRow]) -> list[int]:
    """Return the place of each op, which is that of its layer call where it has one."""
    places = [row.place for row in rows]
    for call in calls:
        for op in range(call.ops_start, call.ops_end):
            if places[op] == NONE:
                places[op] = call.place
    return places
