"""A program in which several models ran is none of them: it has no model's inputs and outputs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from opscope.records.calls import Leaf, ModuleCall
from opscope.records.ops import Op, Read
from opscope.records.recording import Recording
from opscope.records.values import Value


def borders(recording: Recording) -> dict[int, int]:
    """Return the values of a model's inputs and outputs, each with the value that it is."""
    found: dict[int, int] = {}
    for call in recording.layer_calls:
        if call.kind in ("input", "output"):
            pairs = zip(call.returned, call.received, strict=True)
            found.update((new, found.get(old, old)) for new, old in pairs)
    return found


def without_model(recording: Recording) -> Recording:
    """Return a recording without the calls that mark what entered a model and left it.

    What these passed through is what it was before; values that nothing has are left in their place,
    so that the others keep theirs.
    """
    return _Without(recording).recording


class _Without:
    def __init__(self, recording: Recording) -> None:
        calls = recording.layer_calls
        self.same = borders(recording)
        self.gone = [call.index for call in calls if call.kind in ("input", "output")]
        gone = set(self.gone)
        failure = recording.failure
        self.recording = replace(
            recording,
            model_name="",
            ops=tuple(map(self._op, recording.ops)),
            values=tuple(map(self._value, recording.values)),
            layer_calls=tuple(
                replace(
                    call,
                    index=self._call(call.index),
                    received=self._rows(call.received),
                    returned=self._rows(call.returned),
                )
                for call in calls
                if call.index not in gone
            ),
            module_calls=tuple(map(self._module_call, recording.module_calls)),
            failure=failure and replace(failure, layer_call=self._optional(failure.layer_call)),
            saved_tensors=None
            if recording.saved_tensors is None
            else tuple(
                replace(item, owner=self._row(item.owner)) for item in recording.saved_tensors
            ),
            parameter_of_value={
                self._row(value): number for value, number in recording.parameter_of_value.items()
            },
            alive=None if recording.alive is None else self._rows(recording.alive),
            unseen_calls=tuple(
                replace(item, value=self._row(item.value)) for item in recording.unseen_calls
            ),
        )

    def _row(self, value: int) -> int:
        return self.same.get(value, value)

    def _rows(self, values: Iterable[int]) -> tuple[int, ...]:
        return tuple(map(self._row, values))

    def _call(self, index: int) -> int:
        """Return the place of a call among those that stay, or of the next one that does."""
        return index - bisect_left(self.gone, index)

    def _optional(self, index: int | None) -> int | None:
        return None if index is None else self._call(index)

    def _op(self, op: Op) -> Op:
        reads = tuple(Read(self._row(r.value), r.argument, r.overwritten) for r in op.reads)
        return replace(op, reads=reads, layer_call=self._optional(op.layer_call))

    def _value(self, value: Value) -> Value:
        if value.earlier is None or value.index in self.same:
            return value
        return replace(value, earlier=self._row(value.earlier))

    def _module_call(self, run: ModuleCall) -> ModuleCall:
        calls = run.layer_calls
        return replace(
            run,
            is_root=False,
            inputs=tuple(Leaf(leaf.path, self._row(leaf.value)) for leaf in run.inputs),
            outputs=tuple(Leaf(leaf.path, self._row(leaf.value)) for leaf in run.outputs),
            layer_calls=range(self._call(calls.start), self._call(calls.stop)),
        )
