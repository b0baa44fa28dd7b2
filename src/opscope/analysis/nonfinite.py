"""The first layer whose saved values hold a NaN or an infinity that it was not given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from opscope.capture.finite import Kinds, describe, kinds_of, kinds_of_numbers
from opscope.capture.operators import SCRATCH, is_uninitialised
from opscope.errors import NonFiniteError
from opscope.records.layers import LayerPass
from opscope.records.recording import Op, Recording

Known = Callable[[int], torch.Tensor | None]


def first_nonfinite(
    recording: Recording, passes: tuple[LayerPass, ...], known: Known
) -> NonFiniteError | None:
    """Return what an error at the first bad number would have said, None if there is none.

    Ops whose values were saved are looked at one by one; of the others the layer as a whole.

    Args:
        recording: What happened.
        passes: Its layers.
        known: Gives what a value was, None where that is not known.
    """
    labels = {item.call: item for item in passes if item.call is not None}
    for ops in _groups(recording, known):
        given = _given(ops)
        found = Kinds()
        for value in given:
            tensor = known(value)
            found |= Kinds() if tensor is None else kinds_of(tensor)
        if not (found.nan or found.inf):
            continue
        before = kinds_of_numbers(item for op in ops for _, item in op.arguments)
        ranges = []
        made = {value for op in ops for value in (*op.outputs, *op.writes)}
        for read in (read for op in ops for read in op.reads if read.value not in made):
            tensor = known(read.value)
            if tensor is not None:
                before |= kinds_of(tensor)
                ranges.append(f"{read.argument} {describe(tensor)}")
        what = found.new(before)
        if what is not None:
            item = labels.get(recording.call_of(ops[-1]) or 0)
            error = NonFiniteError(kind=what, operator=ops[-1].operator, ranges=tuple(ranges))
            return locate(error, recording, ops[-1].index, item)
    return None


def locate(
    error: NonFiniteError, recording: Recording, op: int, item: LayerPass | None
) -> NonFiniteError:
    """Fill in where in the program an error arose."""
    record = recording.ops[op]
    frames = recording.frames_of(record)
    error.op = op
    error.phase = record.phase
    error.layer = None if item is None else item.label
    error.source = str(frames[0]) if frames else None
    if record.module_call is not None:
        run = recording.module_calls[record.module_call]
        error.module = recording.modules[run.module].address
    return error


def _groups(recording: Recording, known: Known) -> Iterator[list[Op]]:
    """Yield the ops one by one where their values are known, else all of a layer's together."""
    together: list[Op] = []
    for op in recording.ops:
        if together and op.layer_call != together[0].layer_call:
            together = []
        together.append(op)
        if any(known(value) is not None for value in _given([op])):
            yield together
            together = []


def _given(ops: list[Op]) -> list[int]:
    """Return the values that ops gave, but for memory that nobody wrote."""
    return [
        value
        for op in ops
        if not is_uninitialised(op.operator)
        for place, value in (*enumerate(op.outputs), *((-1, value) for value in op.writes))
        if value is not None and place not in SCRATCH.get(op.operator, ())
    ]
