"""The rows of ops and of layers."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from opscope.operators.known import name_of
from opscope.records.calls import Frame
from opscope.records.columns.columns import Column
from opscope.records.columns.table import column, read_values, value_bytes
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.sums.times import OpTimes
from opscope.records.sums.work import OpWork, Work
from opscope.records.values import Value
from opscope.views.rows.backward_ops import BackwardOps
from opscope.views.rows.row import Part, Row, Rows
from opscope.views.select import Phase


class LayerRows:
    """Makes the rows of ops and of layers.

    Args:
        recording: What happened.
        passes: The layers' passes.
        phase: Of which phase of a training step.
        work: What each op computes, if rows are to tell of it.
    """

    def __init__(
        self,
        recording: Recording,
        passes: Sequence[LayerPass],
        phase: Phase = "all",
        work: OpWork | None = None,
    ) -> None:
        self._work = work
        parameters = recording.parameters
        self._tied = {p.index: (p.name, *p.aliases) for p in parameters if p.aliases}
        self.of_params = sum(p.numel for p in parameters if p.kind == "parameter" and p.of_model)
        self.recording = recording
        self.passes = passes
        self.phase = phase
        self.backward = BackwardOps(recording)
        self._calls = column(passes, "call")
        self._reads = read_values(recording.ops)
        self._operators = column(recording.ops, "operator")
        self._times = OpTimes(recording)
        self._failures = column(recording.ops, "failed")

    def ops(self, depth: int | None) -> Rows:
        """Return the rows of all ops of modules no deeper than that."""
        ops = self.recording.ops
        phases, runs = column(ops, "phase"), column(ops, "module_call")
        shown = array(
            "i",
            (
                op
                for op, (phase, run) in enumerate(zip(phases, runs, strict=True))
                if self.is_shown(phase) and self._is_near(run, depth)
            ),
        )
        return Rows(Part(self._op, shown, {"time_ns": column(ops, "duration_ns").__getitem__}))

    def layers(self, depth: int | None) -> Rows:
        """Return the rows of all layers of modules no deeper than that."""
        runs, phases = column(self.passes, "module_call"), self._phases
        shown = array(
            "i",
            (
                index
                for index, (phase, run) in enumerate(zip(phases, runs, strict=True))
                if self.is_shown(phase) and self._is_near(run, depth)
            ),
        )
        parts = [Part(lambda index: self.layer(self.passes[index]), shown, self._numbers())]
        if self.is_shown("backward"):
            calls = [
                call
                for call in self.backward.of_call
                if self._is_near(runs[self._pass_of_call[call]], depth)
            ]
            parameters = [
                number
                for number in self.backward.of_parameter
                if depth is None or self._parameter(number).module.count(".") + 1 <= depth
            ]
            parts += [Part(self._backward_of, calls), Part(self._gradient, parameters)]
        return Rows(*parts)

    def is_shown(self, phase: Phase) -> bool:
        """Whether what ran in a phase is shown."""
        return self.phase in ("all", phase)

    def was_called(self, index: int) -> bool:
        """Whether a pass is of the phase that is shown; in the backward, whether ops ran for it."""
        if self.phase == "backward":
            return bool(self.backward.of_call.at(self._calls[index] or 0))
        return self.is_shown(self._phases[index])

    @cached_property
    def _phases(self) -> list[Phase]:
        """The phase of each pass."""
        of_calls = column(self.recording.layer_calls, "phase")
        return ["forward" if call is None else of_calls[call] for call in self._calls]

    @cached_property
    def _pass_of_call(self) -> dict[int, int]:
        return {call: index for index, call in enumerate(self._calls) if call is not None}

    @cached_property
    def _bytes(self) -> Column[int]:
        return value_bytes(self.recording.values)

    def _numbers(self) -> dict[str, Callable[[int], Any]]:
        """Return how to read fields of the row of a pass without making it."""
        calls, values, nbytes = self._calls, column(self.passes, "values"), self._bytes
        ops = column(self.recording.layer_calls, "ops")

        def time(index: int) -> int:
            call = calls[index]
            return 0 if call is None else self.time_of(ops[call])

        def memory(index: int) -> int:
            return sum(map(nbytes.__getitem__, values[index]))

        return {"time_ns": time, "memory": memory}

    def together(self, indices: Sequence[int]) -> Row:
        """Return one row for several passes of a layer, which tells of the first, and of all sums."""
        row = self.layer(self.passes[indices[0]])
        ops = [self.backward.of_call.at(self._calls[index] or 0) for index in indices]
        if self.phase == "backward":
            given = [value for some in ops for value in self.backward.given(some)]
            return replace(
                self.in_backward(row, ops[0]), passes=len(indices),
                memory=sum(map(self._bytes.__getitem__, given)),
                work=self.work(op for some in ops for op in some), time_ns=sum(map(self.time_of, ops)),
                failed=any(self._failures[op] for some in ops for op in some),
            )  # fmt: skip
        numbers, calls = self._numbers(), column(self.recording.layer_calls, "ops")
        failures = column(self.recording.layer_calls, "failed")
        return replace(
            row, passes=len(indices),
            memory=sum(map(numbers["memory"], indices)), time_ns=sum(map(numbers["time_ns"], indices)),
            backward_ns=sum(map(self.time_of, ops)),
            work=sum((self.work(calls[self._calls[index] or 0]) for index in indices), Work()),
            failed=any(failures[self._calls[index] or 0] for index in indices),
        )  # fmt: skip

    def _is_near(self, run: int | None, depth: int | None) -> bool:
        """Whether the module of a run lies no deeper than that."""
        return depth is None or _depth(self.address(run)) <= depth

    def _backward_of(self, call: int) -> Row:
        row = self.layer(self.passes[self._pass_of_call[call]])
        return self.in_backward(row, self.backward.of_call.at(call))

    def _parameter(self, number: int) -> Row:
        name = self.recording.parameters[number].name
        return Row(f"{name}.grad", "accumulate", module=name.rpartition(".")[0])

    def _gradient(self, number: int) -> Row:
        row = self._parameter(number)
        return replace(self.in_backward(row, self.backward.of_parameter.at(number)), name=row.name)

    def _op(self, index: int) -> Row:
        op = self.recording.ops[index]
        outputs = self.values(v for v in (op.outputs or op.writes) if v is not None)
        bound = self.recording.parameter_of_value
        used = dict.fromkeys(bound[r.value] for r in op.reads if r.value in bound)
        params, trainable = self.count(used)
        return Row(
            name=f"{op.index}",
            kind=op.operator,
            module=self.address(op.module_call),
            op=op.name,
            inputs=self.values(read.value for read in op.reads),
            outputs=outputs,
            params=params,
            of_params=self.of_params,
            trainable=trainable,
            is_tied=self.is_tied(used),
            memory=sum(value.nbytes for value in outputs),
            time_ns=op.duration_ns,
            work=self.work([op.index]),
            settings=op.settings,
            source=_line(self.recording.frames_of(op)),
            failed=op.failed,
        )

    def in_backward(self, row: Row, ops: Sequence[int]) -> Row:
        """Return what a layer's or module's row is for the backward."""
        given = self.values(self.backward.given(ops))
        return replace(
            row,
            name=row.name if row.is_module or self.phase != "all" else f"{row.name}.backward",
            op=self.names_of(ops),
            inputs=(),
            outputs=given,
            memory=sum(value.nbytes for value in given),
            time_ns=self.time_of(ops),
            backward_ns=0,
            work=self.work(ops),
            failed=any(map(self._failures.__getitem__, ops)),
        )

    def layer(self, item: LayerPass) -> Row:
        """Return the row of a pass."""
        outputs = self.values(item.values)
        if item.call is None:
            memory = sum(value.nbytes for value in outputs)
            return Row(item.label, item.type, outputs=outputs, memory=memory)
        call = self.recording.layer_calls[item.call]
        params, trainable = self.count(item.parameters)
        reads = self._reads[call.ops[0]] if call.ops else ()
        bound = self.recording.parameter_of_value
        return Row(
            name=item.label,
            kind=call.function,
            module=self.address(item.module_call),
            op=self.names_of(call.ops),
            inputs=self.values(v for v in (*reads, *call.received) if v not in bound),
            outputs=outputs,
            params=params,
            of_params=self.of_params,
            trainable=trainable,
            is_tied=self.is_tied(item.parameters),
            memory=sum(value.nbytes for value in outputs),
            time_ns=self.time_of(call.ops),
            backward_ns=self.time_of(self.backward.of_call.at(item.call)),
            work=self.work(call.ops),
            settings=partial(self.recording.settings_of, call.ops, [call.index]),
            source=self.source(call.call_site),
            failed=call.failed,
        )

    def names_of(self, ops: Iterable[int]) -> str:
        """Return the names of ops, repeats counted: ``"view, addmm ×2"``."""
        counts = Counter(map(self._operators.__getitem__, ops))
        names: Counter[str] = Counter()
        for operator, count in counts.items():
            names[name_of(operator)] += count
        return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in names.items())

    def time_of(self, ops: Iterable[int]) -> int:
        """Return how long ops took together."""
        return self._times.of(ops)

    def work(self, ops: Iterable[int]) -> Work:
        """Return what ops compute together; nothing, if rows are not to tell of it."""
        return Work() if self._work is None else self._work.of(ops)

    def values(self, indices: Iterable[int]) -> Sequence[Value]:
        """Return values by their numbers."""
        return tuple(self.recording.values[index] for index in indices)

    def count(self, indices: Iterable[int]) -> tuple[int, int]:
        """Return how many elements these parameters have, and how many are trainable."""
        chosen = [self.recording.parameters[index] for index in indices]
        chosen = [parameter for parameter in chosen if parameter.kind == "parameter"]
        trainable = sum(parameter.numel for parameter in chosen if parameter.trainable)
        return sum(parameter.numel for parameter in chosen), trainable

    def is_tied(self, indices: Iterable[int], below: str = "") -> bool:
        """Return whether one of these parameters has a name, of several, that is not below a module."""
        around = f"{below}."
        if not self._tied:
            return False
        names = (self._tied[index] for index in indices if index in self._tied)
        return any(not below or not all(n.startswith(around) for n in each) for each in names)

    def address(self, call: int | None) -> str:
        """Return the address of the module of a run."""
        if call is None:
            return ""
        return self.recording.modules[self.recording.module_calls[call].module].address

    def source(self, site: int | None) -> str:
        """Return the line of code that a call site is."""
        return "" if site is None else _line(self.recording.call_sites[site])


def _depth(address: str) -> int:
    return address.count(".") + 1 if address else 0


def _line(frames: tuple[Frame, ...]) -> str:
    return str(frames[0]) if frames else ""
