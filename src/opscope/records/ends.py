"""What a program gives whose model was not called: a function, a part of a model, several models."""

from __future__ import annotations

from collections.abc import Iterator

from opscope.records.recording import Recording, before_writes


def loose_ends(recording: Recording) -> tuple[int, ...]:
    """Return the values that a program without a model's outputs gives.

    They are what its forward calls returned and no later op or call took up, but for parameters
    and buffers; of several those that were still there when the block ended, if any was. Of what
    was written through a slice it is the whole tensor.
    """
    if any(call.kind == "output" for call in recording.layer_calls):
        return ()
    taken = _taken_up(recording)
    found = [
        value
        for call in recording.layer_calls
        if call.phase == "forward"
        for value in call.returned
        if value not in taken and not _is_bound(recording, value)
    ]
    if recording.alive is not None:
        alive = set(recording.alive)
        left = [value for value in found if value in alive]
        written = {value for value in found if recording.values[value].origin == "write"}
        left += [v for v in recording.alive if _was_written_through(recording, v, written - alive)]
        found = left or found
    return tuple(dict.fromkeys(found))


def _taken_up(recording: Recording) -> set[int]:
    """Return the values that an op or call took up after the call that returned them."""
    own = {value: call.ops for call in recording.layer_calls for value in call.returned}
    taken = {
        read.value
        for op in recording.ops
        if not op.by_autograd
        for read in op.reads
        if op.index not in own.get(read.value, ())
    }
    taken.update(value for call in recording.layer_calls for value in call.received)
    for value in recording.values:  # it has become another
        if value.origin == "rewritten" and value.handed_from is not None:
            taken.add(value.handed_from)
    return taken


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
