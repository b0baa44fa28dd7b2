"""Whether a program holds what an op gave: what is left of it where no op takes it up."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from opscope.errors import NonFiniteError
from opscope.records.flow.bad_numbers import LEFT, BadNumbers
from opscope.records.ops import Op
from opscope.records.recording import Recording


def left_behind(recording: Recording, bad: BadNumbers, *, scaled: bool) -> NonFiniteError | None:
    """Return the error to raise as a block ends, None if none of its results is bad.

    Args:
        recording: What happened.
        bad: The bad numbers in it.
        scaled: Whether a `GradScaler` scaled the loss, and will look at the gradients.
    """
    left = [spot for spot in bad.left() if not (scaled and spot.gradient)]
    results = Results(recording) if left else None
    for spot in left:
        if spot.gradient or (results is not None and results.has(spot.op, spot.output)):
            return spot.error(LEFT)
    return None


class Results:
    """Tells the results of a program from what is dropped inside of torch, or of a module.

    A result is what a call gave back to Python, outside of all modules; and of what was made in
    a module that which the outermost one returned. Of several outputs one that is passed over,
    where another is used, is none; nor is what an operator notes for its own backward.

    Args:
        recording: The program.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._used = {read.value for op in recording.ops for read in op.reads}

    def has(self, op: int, output: int | None) -> bool:
        """Whether an output of an op is a result; None stands for what it wrote."""
        record = self._recording.ops[op]
        if output is not None and not self._is_given(record, output):
            return False
        if record.phase == "backward" or record.module_call is None:
            return True
        run = self._recording.module_calls[record.module_call]
        while run.parent is not None:
            run = self._recording.module_calls[run.parent]
        made = record.writes if output is None else (record.outputs[output],)
        return self._share(made, (leaf.value for leaf in run.outputs))

    def _is_given(self, op: Op, output: int) -> bool:
        """Whether Python gets an output of an op, and uses no other in its place."""
        value = op.outputs[output]
        others = {other for other in op.outputs if other not in (None, value)}
        alike = op.name.startswith("_foreach")  # as many ops as it has outputs
        if not alike and others & self._used:
            return False
        if op.layer_call is None:  # what the engine makes and nothing takes it hands to the program
            return op.call_site is None
        call = self._recording.layer_calls[op.layer_call]
        noted = call.function == op.name and op.name.startswith(("_", "native_")) and output > 0
        if noted and not alike:
            return False
        return self._share((value,), call.returned)

    def _share(self, values: Iterable[int | None], others: Iterable[int]) -> bool:
        """Whether any of some values lies in the memory of any of some others."""
        memory = {self.memory(value) for value in others}
        return any(value is not None and self.memory(value) in memory for value in values)

    def memory(self, value: int) -> Hashable:
        """Return what tells one memory from another."""
        record = self._recording.values[value]
        while record.earlier is not None and record.storage is None:
            record = self._recording.values[record.earlier]
        return ("value", record.index) if record.storage is None else record.storage
