"""What ran in backward, and what it ran for."""

from __future__ import annotations

from collections.abc import Sequence

from opscope.records.recording import Op, Recording
from opscope.records.table import column


class BackwardOps:
    """The ops of backward, by what they belong to.

    Attributes:
        of_call: By layer call.
        of_run: By module call, those of the calls inside it included.
        of_parameter: By the parameter whose gradient they accumulate.
    """

    def __init__(self, recording: Recording) -> None:
        self.of_call: dict[int, list[Op]] = {}
        self.of_run: dict[int, list[Op]] = {}
        self.of_parameter: dict[int, list[Op]] = {}
        self._readers: dict[int, list[int]] = {}
        phases = enumerate(column(recording.ops, "phase"))
        for op in (recording.ops[index] for index, phase in phases if phase == "backward"):
            for read in op.reads:
                self._readers.setdefault(read.value, []).append(op.index)
            if op.accumulates is not None:
                self.of_parameter.setdefault(op.accumulates, []).append(op)
            if op.forward_op is None:
                continue
            call = recording.call_of(op)
            if call is not None:
                self.of_call.setdefault(call, []).append(op)
            run = op.module_call
            while run is not None:
                self.of_run.setdefault(run, []).append(op)
                run = recording.module_calls[run].parent

    def given(self, ops: Sequence[Op]) -> list[int]:
        """Return the values that ops made and that none of them took up."""
        own = {op.index for op in ops}
        made = (value for op in ops for value in (*op.outputs, *op.writes) if value is not None)
        return [
            value
            for value in dict.fromkeys(made)
            if not any(reader in own for reader in self._readers.get(value, ()))
        ]
