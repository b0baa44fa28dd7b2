"""What ran in backward, and what it ran for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from opscope.records.columns.table import column, read_values
from opscope.records.ops import Op
from opscope.records.recording import Recording


class OpsOf(Mapping[int, list[Op]]):
    """Ops by what they belong to, each made as it is asked for.

    Attributes:
        places: Their indices in the recording.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops = ops
        self.places: dict[int, list[int]] = {}

    def add(self, key: int, op: int) -> None:
        """Add an op to what it belongs to."""
        self.places.setdefault(key, []).append(op)

    def at(self, key: int | None) -> Sequence[int]:
        """Return the indices of the ops of something, none where it has none."""
        return () if key is None else self.places.get(key, ())

    def __getitem__(self, key: int) -> list[Op]:
        return [self._ops[op] for op in self.places[key]]

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class BackwardOps:
    """The ops of backward, by what they belong to.

    Attributes:
        of_call: By layer call.
        of_run: By module call, those of the calls inside it included.
        of_parameter: By the parameter whose gradient they accumulate.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        ops = recording.ops
        self.of_call, self.of_run, self.of_parameter = OpsOf(ops), OpsOf(ops), OpsOf(ops)
        calls = column(ops, "layer_call")
        names = ("phase", "accumulates", "forward_op", "module_call")
        rows = zip(*[column(ops, name) for name in names], strict=True)
        for op, (phase, parameter, forward, innermost) in enumerate(rows):
            if phase != "backward":
                continue
            if parameter is not None:
                self.of_parameter.add(parameter, op)
            if forward is None:
                continue
            call, run = calls[forward], innermost
            if call is not None:
                self.of_call.add(call, op)
            while run is not None:
                self.of_run.add(run, op)
                run = recording.module_calls[run].parent

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        """By value, the ops of backward that read it."""
        found: dict[int, list[int]] = {}
        ops = self._recording.ops
        rows = zip(column(ops, "phase"), read_values(ops), strict=True)
        for op, (phase, values) in enumerate(rows):
            for value in values if phase == "backward" else ():
                found.setdefault(value, []).append(op)
        return found

    def given(self, ops: Sequence[int]) -> list[int]:
        """Return the values that ops made and that none of them took up."""
        own = set(ops)
        outputs = column(self._recording.ops, "outputs")
        writes = column(self._recording.ops, "writes")
        made = (value for op in ops for value in (*outputs[op], *writes[op]) if value is not None)
        return [
            value
            for value in dict.fromkeys(made)
            if not any(reader in own for reader in self._readers.get(value, ()))
        ]
