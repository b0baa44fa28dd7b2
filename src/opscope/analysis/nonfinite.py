"""Where bad numbers came from, found in a record and the values that were saved of it.

The rule is that of ``stop_on_nonfinite``, and the answer the error that it would have raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from opscope.analysis.contents import Contents, ModuleInfo
from opscope.capture.collect.nonfinite.came_in import input_name
from opscope.capture.collect.nonfinite.looking import describe, kinds_of
from opscope.errors import NonFiniteError
from opscope.operators.known import asks_for_form, is_scratch, is_uninitialised
from opscope.records.calls import ModuleCall
from opscope.records.flow.bad_numbers import (
    LOSS,
    NUMBER,
    OUTPUT,
    BadNumbers,
    Step,
)
from opscope.records.flow.origins import Arrival, CameInWith, Kinds, Spot
from opscope.records.flow.results import Results, left_behind
from opscope.records.ops import Op
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.values import Value

_NUMBERS = ("_local_scalar_dense", "item")


def first_nonfinite(
    recording: Recording,
    passes: Sequence[LayerPass],
    known: ModuleInfo,
    *,
    forward: Callable[..., object] | None = None,
    named: bool = False,
    scaler_sites: frozenset[int] = frozenset(),
) -> NonFiniteError | None:
    """Return the error that would have been raised where a bad number was seen, None if none was.

    Ops whose values were saved are looked at one by one; of the others the layer as a whole.

    Args:
        recording: What happened.
        passes: Its layers.
        known: Gives what a value was, None where that is not known.
        forward: The model's ``forward``, for the names of its inputs.
        named: Whether the model was named, so that what it returns is a result.
        scaler_sites: The call sites of what a `GradScaler` ran.
    """
    walk = _Walk(recording, known, forward, scaler_sites)
    error = walk.first_error(named=named)
    return None if error is None else locate(error, recording, passes)


def locate(
    error: NonFiniteError, recording: Recording, passes: Sequence[LayerPass]
) -> NonFiniteError:
    """Fill in where in the program the bad numbers arose, or who read first what came in."""
    if error._first_op is None or error._first_op >= len(recording.ops):
        return error
    record = recording.ops[error._first_op]
    frames = recording.frames_of(record)
    error.source = str(frames[0]) if frames else None
    if error.op is not None:
        call = recording.call_of(record)
        layers = (item.label for item in passes if call is not None and item.call == call)
        error.phase, error.layer = record.phase, next(layers, None)
        if record.module_call is not None:
            run = recording.module_calls[record.module_call]
            error.module = recording.modules[run.module].address
    elif error.came_in_with in ("parameter", "buffer"):
        error.module = (error.name or "").rpartition(".")[0]
    error.args = (str(error),)
    return error


class _Recorded:
    """A value, as an op read or gave it."""

    def __init__(self, walk: _Walk, value: int, before: int) -> None:
        self._walk = walk
        self._before = before
        self.value = value
        self.extent = walk.contents.extent(value)
        self.handle: object = value

    def kinds(self) -> Kinds:
        """Return which bad numbers were in it."""
        return self._walk.kinds(self.value, self._before)

    def text(self) -> str:
        """Return its type, sizes and range."""
        tensor = self._walk.contents.before(self._before, self.value)
        if tensor is None:
            record = self._walk.recording.values[self.value]
            return f"{record.dtype}{list(record.shape)} (not saved)"
        return describe(tensor)

    def arrival(self) -> Arrival:
        """Return what it is, if no op was seen to put them there."""
        return self._walk.arrival(self.value, self._before)


class _Walk:
    """Goes through a record, op by op, and follows the bad numbers."""

    def __init__(
        self,
        recording: Recording,
        known: ModuleInfo,
        forward: Callable[..., object] | None,
        scaler_sites: frozenset[int],
    ) -> None:
        self.recording = recording
        self._forward = forward
        self._scaler_sites = scaler_sites
        self._memory = Results(recording).memory
        self.contents = Contents(recording, known, self._memory)
        self._bad = BadNumbers(self._look_again)
        self._op = 0
        self._parameters = {
            self._memory(item.value): item
            for item in recording.parameters
            if item.value is not None
        }

    def first_error(self, *, named: bool) -> NonFiniteError | None:
        """Return the first error that would have been raised."""
        runs = [run for run in self.recording.module_calls if run.is_root]
        entering = iter(runs)
        returning = sorted((run for run in runs if named and self._is_outermost(run)), key=_end)
        entered = next(entering, None)
        for ops in self._groups():
            while entered is not None and entered.ops.start <= ops[0].index:
                self._enter(entered)
                entered = next(entering, None)
            while returning and returning[0].ops.stop <= ops[0].index:
                if (error := self._returned(returning.pop(0))) is not None:
                    return error
            if (error := self._step(ops)) is not None:
                return error
        errors = (self._returned(run) for run in returning)
        error = next((error for error in errors if error is not None), None)
        return error or left_behind(self.recording, self._bad, scaled=bool(self._scaler_sites))

    # ------------------------------------------------------------------------------- values

    def kinds(self, value: int, before: int) -> Kinds:
        """Return which bad numbers were in a value before an op.

        Where that is not known they are taken to be those that were seen in its memory.
        """
        tensor = self.contents.before(before, value)
        if tensor is not None:
            return kinds_of(tensor)
        spots = self._bad.at(self.contents.extent(value))
        return Kinds(any(s.nan is not None for s in spots), any(s.inf is not None for s in spots))

    def arrival(self, value: int, before: int) -> Arrival:
        """Return what a value is that holds what no op was seen to put there."""
        memory = self._memory(value)
        parameter = self._parameters.get(memory)
        if parameter is not None and parameter.value is not None:
            whole = _Recorded(self, parameter.value, before)
            same = whole.extent == self.contents.extent(value)
            return Arrival(parameter.kind, parameter.name, text=None if same else whole.text())
        maker = self.contents.brought(value)
        operator = "" if maker is None else self.recording.ops[maker].operator
        for run in self.recording.module_calls:
            for leaf in run.inputs if run.is_root else ():
                if self._memory(leaf.value) == memory:
                    name = input_name(leaf.path, self._forward)
                    return Arrival("input", name, maker, operator)
        kind: CameInWith = "memory" if is_uninitialised(operator) else "data"
        return Arrival(kind, None, maker, operator)

    def _look_again(self, spot: Spot) -> Kinds | None:
        """Return what is in a spot after the op that has just run."""
        assert isinstance(spot.handle, int)
        tensor = self.contents.before(self._op + 1, spot.handle)
        return None if tensor is None else kinds_of(tensor)

    # ------------------------------------------------------------------------------ the ops

    def _groups(self) -> Iterator[list[Op]]:
        """Yield the ops one by one where their values are known, else all of a layer's together."""
        together: list[Op] = []
        for op in self.recording.ops:
            if together and op.layer_call != together[0].layer_call:
                yield together
                together = []
            together.append(op)
            given = (value for value in (*op.outputs, *op.writes) if value is not None)
            if op.layer_call is None or any(map(self.contents.is_saved, given)):
                yield together
                together = []
        if together:
            yield together

    def _step(self, ops: list[Op]) -> NonFiniteError | None:
        """Follow what some ops did; return the error to raise after them."""
        last, made = ops[-1], {value for op in ops for value in (*op.outputs, *op.writes)}
        reads = [
            (read.argument, _Recorded(self, read.value, op.index))
            for op in ops
            for read in op.reads
            if read.value not in made and not read.overwritten
        ]
        self._op = last.index
        if last.phase == "optimizer" and (error := self._reads_a_gradient(last, reads)):
            return error
        values = [self.recording.values[value] for value in made if value is not None]
        is_view = bool(values) and all(value.origin == "view" for value in values)
        bad = [
            (output, tensor)
            for op in ops
            for output, value in _given(op)
            if (self.recording.values[value].origin != "view" or self._shows_new(value, op, ops))
            and (tensor := _Recorded(self, value, op.index + 1)).kinds()
        ]
        self._bad.follow(
            Step(
                op=last.index,
                operator=last.operator,
                reads=reads,
                writes=[self.contents.extent(value) for op in ops for value in op.writes],
                bad=bad,
                arguments=[pair for op in ops for pair in op.arguments],
                is_view=is_view,
                gives=_what_it_gives(values),
                by_scaler=self._is_by_scaler(last, reads),
            )
        )
        if last.node == "AccumulateGrad":
            for record in values:
                self._bad.accumulate(self.contents.extent(record.index), self._leaf(last, record))
        return self._seen_by(last, reads, bad)

    def _shows_new(self, value: int, op: Op, ops: list[Op]) -> bool:
        """Whether a view that was saved shows memory that an op before it made, and nobody saved."""
        memory = self._memory(value)
        made = (v for other in ops if other is not op for v in other.outputs if v is not None)
        new = (v for v in made if self.recording.values[v].origin == "fresh")
        return self.contents.is_saved(value) and any(self._memory(v) == memory for v in new)

    def _reads_a_gradient(
        self, op: Op, reads: Sequence[tuple[str, _Recorded]]
    ) -> NonFiniteError | None:
        """Return the error to raise if an optimizer takes up a bad gradient."""
        for _, tensor in () if asks_for_form(op.operator) else reads:
            if any(spot.gradient and spot.alarm() for spot in self._bad.at(tensor.extent)):
                return self._bad.seen(tensor, "a gradient", op.index)
        return None

    def _seen_by(
        self,
        op: Op,
        reads: Sequence[tuple[str, _Recorded]],
        bad: Sequence[tuple[int | None, _Recorded]],
    ) -> NonFiniteError | None:
        """Return the error to raise if an op shows the program what is bad, or keeps it for it."""
        errors: Iterable[NonFiniteError | None] = ()
        if op.name in _NUMBERS:
            errors = (self._bad.seen(tensor, NUMBER, op.index) for _, tensor in reads)
        elif op.name == "ones_like" and op.phase == "backward" and op.node is None:
            errors = (self._bad.seen(tensor, LOSS, op.index) for _, tensor in reads)
        else:
            wrote = [tensor for output, tensor in bad if output is None]
            held = [(self._parameters.get(tensor.extent.memory), tensor) for tensor in wrote]
            errors = (
                self._bad.keep(tensor, item.kind, item.name, op.operator, op.index)
                for item, tensor in held
                if item is not None
            )
        return next((error for error in errors if error is not None), None)

    def _leaf(self, op: Op, gradient: Value) -> str:
        if op.accumulates is not None:
            return self.recording.parameters[op.accumulates].name
        return f"a {gradient.dtype}{list(gradient.shape)} leaf"

    def _is_by_scaler(self, op: Op, reads: Sequence[tuple[str, _Recorded]]) -> bool:
        """Whether a `GradScaler` ran an op, or may have looked at what it reads and is not known."""
        if not self._scaler_sites:
            return False
        call, site = op.layer_call, op.call_site
        if site is None and call is not None:
            site = self.recording.layer_calls[call].call_site
        unknown = any(self.contents.before(op.index, tensor.value) is None for _, tensor in reads)
        return site in self._scaler_sites or unknown

    # ------------------------------------------------------------------ the runs of the model

    def _enter(self, run: ModuleCall) -> None:
        for leaf in run.inputs:
            name = input_name(leaf.path, self._forward)
            self._bad.enter(self.contents.extent(leaf.value), "input", name)

    def _returned(self, run: ModuleCall) -> NonFiniteError | None:
        """Return the error to raise if what a run of the model returned is bad."""
        op = max(run.ops.stop - 1, 0)
        for leaf in run.outputs if not run.failed else ():
            where = f"{OUTPUT} at {leaf.path}" if leaf.path else OUTPUT
            error = self._bad.seen(_Recorded(self, leaf.value, run.ops.stop), where, op)
            if error is not None:
                return error
        return None

    def _is_outermost(self, run: ModuleCall) -> bool:
        """Whether it is a run of the model that is in no other."""
        at, inside = run.parent, False
        while at is not None:
            inside |= self.recording.module_calls[at].is_root
            at = self.recording.module_calls[at].parent
        return run.is_root and not inside


def _what_it_gives(values: Sequence[Value]) -> Literal["whole numbers", "truths"] | None:
    """Return what an op gave, if that is all of a kind that cannot be NaN."""
    dtypes = {value.dtype for value in values}
    if dtypes == {"bool"}:
        return "truths"
    whole = dtypes and all(dtype.startswith(("int", "uint", "bool")) for dtype in dtypes)
    return "whole numbers" if whole else None


def _end(run: ModuleCall) -> int:
    return run.ops.stop


def _given(op: Op) -> Iterator[tuple[int | None, int]]:
    """Yield what an op gave, but for memory that nobody wrote: the number of the output, the value."""
    if is_uninitialised(op.operator):
        return
    written = set(op.writes)
    outputs = ((output, v) for output, v in enumerate(op.outputs) if v not in written)
    for output, value in (*outputs, *((None, value) for value in op.writes)):
        if value is not None and not is_scratch(op.operator, output):
            yield output, value
