"""What a program gives whose model was not called: a function, a part of a model, several models."""

from __future__ import annotations

from collections.abc import Iterator

from opscope.records.recording import Op, Recording, before_writes


def loose_ends(recording: Recording) -> tuple[int, ...]:
    """Return the values that a program without a model's outputs gives.

    They are what its forward calls returned and no later op or call of a forward made anything
    of, but for parameters and buffers; of several those that were still there when the block
    ended, if any was. Of what was written through a slice it is the whole tensor.
    """
    if any(call.kind == "output" for call in recording.layer_calls):
        return ()
    taken = _taken_up(recording)
    found = [
        value
        for call in recording.layer_calls
        if call.phase == "forward"
        for value in call.returned
        if value not in taken
        and not _is_of_autograd(recording, value)
        and not _is_bound(recording, value)
    ]
    if recording.alive is not None:
        alive = set(recording.alive)
        left = [value for value in found if value in alive]
        written = {value for value in found if recording.values[value].origin == "write"}
        left += [
            value
            for value in recording.alive
            if value not in taken and _was_written_through(recording, value, written - alive)
        ]
        found = left or found
    return tuple(dict.fromkeys(found))


def _taken_up(recording: Recording) -> set[int]:
    """Return the values of which an op or call made something after the call that returned them.

    Not those that only a backward read, or that were looked at: by ``loss.item()``, ``print(y)``.
    """
    own = {value: call.ops for call in recording.layer_calls for value in call.returned}
    taken = {
        read.value
        for op in recording.ops
        if not _only_looks(recording, op)
        for read in op.reads
        if op.index not in own.get(read.value, ())
    }
    taken.update(value for call in recording.layer_calls for value in call.received)
    for value in recording.values:  # it has become another
        if value.origin == "rewritten" and value.handed_from is not None:
            taken.add(value.handed_from)
    return taken


def _only_looks(recording: Recording, op: Op) -> bool:
    if op.phase == "backward" or op.by_autograd:
        return True
    if op.failed or op.writes:
        return False
    call = None if op.layer_call is None else recording.layer_calls[op.layer_call]
    is_silent = call is not None and not call.returned and not call.failed
    return is_silent or all(value is None for value in op.outputs)


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
