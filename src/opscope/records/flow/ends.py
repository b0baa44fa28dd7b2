"""What a program gives whose model was not called: a function, a part of a model, several models."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from opscope.records.columns.columns import NONE
from opscope.records.columns.table import column, read_values
from opscope.records.recording import Recording
from opscope.records.values import before_writes


def loose_ends(recording: Recording) -> tuple[int, ...]:
    """Return the values that a program without a model's outputs gives.

    They are what its forward calls returned and no later op or call of a forward made anything
    of, but for parameters and buffers; of several those that were still there when the block
    ended, if any was. Of what was written through a slice it is the whole tensor.
    """
    calls = recording.layer_calls
    if "output" in column(calls, "kind"):
        return ()
    taken, own = _taken_up(recording), _of_autograd(recording)
    origins = column(recording.values, "origin")
    found = [
        value
        for phase, returned in zip(column(calls, "phase"), column(calls, "returned"), strict=True)
        if phase == "forward"
        for value in returned
        if not taken[value] and not own[value] and not _is_bound(recording, value)
    ]
    if recording.alive is not None:
        alive = set(recording.alive)
        left = [value for value in found if value in alive]
        written = {value for value in found if origins[value] == "write"}
        left += [
            value
            for value in recording.alive
            if not taken[value] and _was_written_through(recording, value, written - alive)
        ]
        found = left or found
    return tuple(dict.fromkeys(found))


def _taken_up(recording: Recording) -> bytearray:
    """Return which values an op or call made something of after the call that returned them.

    Not those that only a backward read, or that were looked at: by ``loss.item()``, ``print(y)``.
    """
    starts, stops = _own_ops(recording)
    taken = bytearray(len(recording.values))
    rows = enumerate(zip(_only_looked(recording), read_values(recording.ops), strict=True))
    for op, (only_looks, values) in rows:
        if not only_looks:
            for value in values:
                if not starts[value] <= op < stops[value]:
                    taken[value] = 1
    for received in column(recording.layer_calls, "received"):
        for value in received:
            taken[value] = 1
    records = recording.values
    pairs = zip(column(records, "origin"), column(records, "earlier"), strict=True)
    for origin, source in pairs:  # it has become another
        if origin == "rewritten" and source is not None:
            taken[source] = 1
    return taken


def _own_ops(recording: Recording) -> tuple[array[int], array[int]]:
    """Return, per value, where the ops of the last call that returned it start and stop."""
    starts = array("i", [NONE]) * len(recording.values)
    stops = starts[:]
    calls = recording.layer_calls
    for ops, returned in zip(column(calls, "ops"), column(calls, "returned"), strict=True):
        for value in returned:
            starts[value], stops[value] = ops.start, ops.stop
    return starts, stops


def _only_looked(recording: Recording) -> Iterator[bool]:
    """Yield, for each op, whether nothing comes of what it reads."""
    calls = recording.layer_calls
    silent = bytearray(
        not returned and not failed
        for returned, failed in zip(column(calls, "returned"), column(calls, "failed"), strict=True)
    )
    names = ("phase", "by_autograd", "failed", "writes", "layer_call", "outputs")
    rows = zip(*[column(recording.ops, name) for name in names], strict=True)
    for phase, by_autograd, failed, writes, call, outputs in rows:
        if phase == "backward" or by_autograd:
            yield True
        elif failed or writes:
            yield False
        else:
            is_silent = call is not None and silent[call]
            yield bool(is_silent) or _are_absent(outputs)


def _are_absent(outputs: Iterable[int | None]) -> bool:
    return all(value is None for value in outputs)


def _of_autograd(recording: Recording) -> bytearray:
    """Return which values autograd made for itself."""
    by_autograd = column(recording.ops, "by_autograd")
    makers = column(recording.values, "made_by")
    return bytearray(maker is not None and by_autograd[maker] for maker in makers)


def _is_bound(recording: Recording, value: int) -> bool:
    """Whether a value is a parameter or buffer, also as it was written to or passed through."""
    return any(index in recording.parameter_of_value for index in _behind(recording, value))


def _behind(recording: Recording, index: int) -> Iterator[int]:
    value = before_writes(recording.values, index)
    yield from (index, value.index)
    while value.origin == "passed_through" and value.earlier is not None:
        value = before_writes(recording.values, value.earlier)
        yield value.index


def _was_written_through(recording: Recording, index: int, written: set[int]) -> bool:
    """Whether a tensor is what an op wrote last through another, which is gone and read by none."""
    value = recording.values[index]
    if value.origin != "rewritten" or value.made_by is None or _is_bound(recording, index):
        return False
    op = recording.ops[value.made_by]
    return op.phase == "forward" and not written.isdisjoint(op.writes)
