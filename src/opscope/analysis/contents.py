"""What values held at some moment, put together of what was saved and what was written since."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from opscope.records.flow.origins import Extent
from opscope.records.flow.regions import region
from opscope.records.ops import Op
from opscope.records.recording import Recording
from opscope.records.values import Value

ModuleInfo = Callable[[int], torch.Tensor | None]


class Contents:
    """Tells what was in the memory of values, before an op.

    Args:
        recording: What happened.
        known: Gives what a value was when it came to be, None where that was not saved.
        memory: Tells one memory from another.
    """

    def __init__(
        self, recording: Recording, known: ModuleInfo, memory: Callable[[int], Hashable]
    ) -> None:
        self._recording = recording
        self._known = known
        self._memory = memory
        self._values: dict[Hashable, list[int]] = {}
        self._writes: dict[Hashable, list[tuple[Op, int]]] = {}
        for value in recording.values:
            self._values.setdefault(memory(value.index), []).append(value.index)
        for op in recording.ops:
            for written in op.writes:
                self._writes.setdefault(memory(written), []).append((op, written))

    def is_saved(self, value: int) -> bool:
        """Whether a value was saved itself."""
        return self._known(value) is not None

    def brought(self, value: int) -> int | None:
        """Return the op that brought the memory of a value, or was the first to look at it."""
        records = (self._recording.values[other] for other in self._values[self._memory(value)])
        return next((r.made_by for r in records if r.origin in ("fresh", "view")), None)

    def extent(self, value: int) -> Extent:
        """Return where a value lies."""
        record, memory = self._recording.values[value], self._memory(value)
        if record.storage is None:
            return Extent(memory)
        covered = region(record.shape, record.stride, record.offset, record.itemsize)
        return Extent(memory, covered)

    def before(self, op: int, value: int) -> torch.Tensor | None:
        """Return what was in the memory of a value before an op; None where that is not known."""
        held, since = self._saved(value), self._made_by(value)
        if held is None and self._recording.values[value].storage is not None:
            held, since = self._seen_through_another(op, value), op - 1
        for writer, written in self._writes.get(self._memory(value), ()):
            if held is None:
                return None
            if since < writer.index < op:
                held = self._with(held, value, writer, written)
        return held

    def _saved(self, value: int) -> torch.Tensor | None:
        """Return what a value was when it came to be, or when the one that it passed through did."""
        at: int | None = value
        while at is not None:
            if (found := self._known(at)) is not None:
                return found
            at = self._recording.values[at].earlier
        return None

    def _made_by(self, value: int) -> int:
        """Return the op that made what `_saved` gives, -1 for what was there before."""
        at: int | None = value
        while at is not None and self._known(at) is None:
            at = self._recording.values[at].earlier
        maker = None if at is None else self._recording.values[at].made_by
        return -1 if maker is None else maker

    def _seen_through_another(self, op: int, value: int) -> torch.Tensor | None:
        """Return what was in the memory of a value, from another that was saved and covers it."""
        record, extent = self._recording.values[value], self.extent(value)
        for other in reversed(self._values[self._memory(value)]):
            if self._made_by(other) >= op or not self.extent(other).covers(extent):
                continue
            shown = self._recording.values[other]
            if self._known(other) is None or shown.dtype != record.dtype:
                continue
            held = self.before(op, other)
            if held is not None:
                blank = torch.zeros(record.shape, dtype=held.dtype)
                return _written_into(blank, record, held, shown)
        return None

    def _with(
        self, held: torch.Tensor, value: int, writer: Op, written: int
    ) -> torch.Tensor | None:
        """Return what a value held once an op had written another into its memory."""
        record, other = self._recording.values[value], self._recording.values[written]
        if not self.extent(value).overlaps(self.extent(written)):
            return held
        tensor = self._known(written)
        if tensor is None:
            tensor = self._copied(writer, other)
        if tensor is None or record.storage is None or other.dtype != record.dtype:
            return None
        return _written_into(held, record, tensor, other)

    def _copied(self, op: Op, written: Value) -> torch.Tensor | None:
        """Return what an op wrote that was not saved, if it copied or filled it in."""
        arguments = dict(op.arguments)
        if op.name == "zero_":
            return torch.zeros(written.shape)
        if op.name == "fill_" and isinstance(number := arguments.get("value"), (int, float)):
            return torch.full(written.shape, float(number))
        if op.name in ("fill_", "copy_"):
            source = next((r.value for r in op.reads if r.argument in ("value", "src")), None)
            held = None if source is None else self.before(op.index, source)
            return None if held is None else held.expand(written.shape)
        return None


def _written_into(
    held: torch.Tensor, value: Value, tensor: torch.Tensor, other: Value
) -> torch.Tensor:
    """Return what a value held once another was written into the memory of both."""
    ours, theirs = _places(value), _places(other)
    if not theirs.numel() or not ours.numel():
        return held
    theirs, order = theirs.sort()
    nearest = torch.searchsorted(theirs, ours).clamp(max=theirs.numel() - 1)
    new = tensor.detach().reshape(-1)[order][nearest].to(held.dtype)
    found = torch.where(theirs[nearest] == ours, new, held.detach().reshape(-1))
    return found.reshape(held.shape)


def _places(value: Value) -> torch.Tensor:
    """Return where in its storage each element of a value lies, flat."""
    place = torch.full(value.shape, value.offset, dtype=torch.int64)
    for dim, (size, stride) in enumerate(zip(value.shape, value.stride, strict=True)):
        steps = torch.arange(size) * stride
        place += steps.reshape([-1] + [1] * (len(value.shape) - dim - 1))
    return place.reshape(-1)
