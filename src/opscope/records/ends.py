"""What a program gives whose model was not called: a function, a part of a model, several models."""

from __future__ import annotations

from collections.abc import Container, Iterator

from opscope.records.recording import Recording, before_writes


def loose_ends(recording: Recording) -> tuple[int, ...]:
    """Return the values that a program without a model's outputs gives.

    They are what its forward calls returned that was still there when the block ended, and led
    to nothing else that was. If nothing was there, they are what nothing took up. Parameters and
    buffers are none; of what was written through a slice it is the whole tensor.
    """
    if any(call.kind == "output" for call in recording.layer_calls):
        return ()
    given = [
        value
        for call in recording.layer_calls
        if call.phase == "forward"
        for value in call.returned
        if not _is_of_autograd(recording, value) and not _is_bound(recording, value)
    ]
    left: list[int] = []
    if recording.alive is not None:
        alive = set(recording.alive)
        used = _leading_to(recording, alive)
        left = [value for value in given if value in alive and value not in used]
        written = {v for v in given if recording.values[v].origin == "write"} - used
        left += [
            value
            for value in recording.alive
            if value not in used and _was_written_through(recording, value, written - alive)
        ]
    if not left:
        used = _leading_to(recording, range(len(recording.values)))
        left = [value for value in given if value not in used]
    return tuple(dict.fromkeys(left))


def _leading_to(recording: Recording, wanted: Container[int]) -> set[int]:
    """Return the values of which some others are made in a forward, over whatever is between."""
    own = {value: call.ops for call in recording.layer_calls for value in call.returned}
    received = {value: call.received for call in recording.layer_calls for value in call.returned}
    found: set[int] = set()
    for value in reversed(recording.values):
        if value.index not in found and value.index not in wanted:
            continue
        found.update(received.get(value.index, ()))
        if value.origin == "rewritten" and value.handed_from is not None:
            found.add(value.handed_from)  # it has become another
        if value.made_by is not None:
            op = recording.ops[value.made_by]
            if op.phase != "backward" and not op.by_autograd:
                found.update(r.value for r in op.reads if op.index not in own.get(r.value, ()))
    return found


def _is_of_autograd(recording: Recording, value: int) -> bool:
    made_by = recording.values[value].made_by
    return made_by is not None and recording.ops[made_by].by_autograd


def _is_bound(recording: Recording, value: int) -> bool:
    """Whether a value is a parameter or buffer, also as it was written to or handed on."""
    return any(index in recording.parameter_of_value for index in _behind(recording, value))


def _behind(recording: Recording, index: int) -> Iterator[int]:
    value = before_writes(recording, index)
    yield from (index, value.index)
    while value.origin == "handed" and value.handed_from is not None:
        value = before_writes(recording, value.handed_from)
        yield value.index


def _was_written_through(recording: Recording, index: int, written: set[int]) -> bool:
    """Whether a tensor is what an op wrote last through another, which is gone and read by none."""
    value = recording.values[index]
    if value.origin != "rewritten" or value.made_by is None or _is_bound(recording, index):
        return False
    op = recording.ops[value.made_by]
    return op.phase == "forward" and not written.isdisjoint(op.writes)
