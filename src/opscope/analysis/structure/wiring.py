"""What each step of a program is, and which results of which steps it was given."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from opscope.records.calls import LayerCall
from opscope.records.flow.regions import Region, overlap, region
from opscope.records.ops import Op
from opscope.records.passes.layers import lifted
from opscope.records.recording import Parameter, Recording
from opscope.records.values import Value

Part = Literal["shapes", "dtypes", "parameters", "arguments"]
PARTS: tuple[Part, ...] = ("shapes", "dtypes", "parameters", "arguments")
# An argument that says where, not what.
_PLACES = frozenset({"device", "pin_memory"})
# Functions of which some kernels read the weights in another order, and the rest more often: what
# each weight is for is told by its name and shape.
_BY_NAME = frozenset({"linear", "lstm", "gru", "rnn_tanh", "rnn_relu"})
_PLAIN = (bool, int, float, complex, str, bytes, type(None))

Form = tuple[object, ...]


class Source(NamedTuple):
    """Where something that was read came from.

    Attributes:
        step: The number of the step that gave it.
        output: Which of its results it is.
    """

    step: int
    output: int


class Step(NamedTuple):
    """One step of a program.

    Attributes:
        form: What it is, in plain data that is the same wherever it runs.
        inputs: What it was given, in order, each with the argument that it was.
    """

    form: Form
    inputs: tuple[tuple[str, Source], ...]


class Wiring:
    """The steps of a program: its layers, or its ops.

    Tensors from outside are steps too, before the first that reads them, and so is what a tensor has
    become once it was written through others, such as slices of it.

    Args:
        recording: What happened.
        parts: What is told of each step.
    """

    def __init__(self, recording: Recording, parts: Iterable[Part]) -> None:
        self._recording = recording
        self._parts = frozenset(parts)
        self._sources: dict[int, Source] = {}
        self.steps: list[Step] = []
        self._writes: dict[int | None, list[int]] = {}
        for value in recording.values:
            if value.origin == "write":
                self._writes.setdefault(value.storage, []).append(value.index)

    # ------------------------------------------------------------------------ two levels

    def of_layers(self) -> list[Step]:
        """Return the steps of the forward, a call of a torch function each.

        What several ops of a call read is told by the order in which they read it, and not by
        which of them: another version of torch may make other ops of it.
        """
        recording = self._recording
        # A tensor that was made of a number for `x[0] = 5` is that number: not all devices make one.
        numbers = lifted(recording)
        for call in recording.layer_calls:
            if call.phase != "forward":
                self._made_elsewhere(call.ops)
                continue
            ops = [recording.ops[number] for number in call.ops]
            made = {value for op in ops for value in _given(op)}
            self._add(
                self._form_of_call(call, ops),
                [("", value) for value in self._read_by(call, ops, made.union(numbers))],
                [*call.returned, *sorted(made)],
                by_name=call.function in _BY_NAME,
            )
        return self.steps

    def _read_by(self, call: LayerCall, ops: Sequence[Op], own: set[int]) -> list[int]:
        """Return what a call read but for its own, in order.

        How often ops read one tensor is up to them; of several it tells which went where.
        """
        if not ops:
            return list(call.received)
        read = [[r.value for r in op.reads if r.value not in own] for op in ops]
        parameters = self._recording.parameter_of_value
        sources = {value for of_op in read for value in of_op if value not in parameters}
        if len(sources) > 1 and call.function not in _BY_NAME:
            return [value for of_op in read for value in of_op]
        found: list[int] = []
        for of_op in read:
            known = set(found)
            found += [value for value in of_op if value not in known]
        return found

    def of_ops(self) -> list[Step]:
        """Return the steps of all phases, an op each, and what entered and left the model."""
        recording = self._recording
        borders = [call for call in recording.layer_calls if not call.ops and call.received]
        borders.reverse()
        # A call without ops comes after all ops that ran before it: those before the first one
        # that reads what it gave.
        for op in recording.ops:
            while borders and self._is_before(borders[-1], op):
                self._pass_through(borders.pop())
            read = [(r.argument, r.value) for r in op.reads]
            self._add(self._form_of_op(op), read, list(dict.fromkeys(_given(op))))
        while borders:
            self._pass_through(borders.pop())
        return self.steps

    @staticmethod
    def _is_before(call: LayerCall, op: Op) -> bool:
        return call.ops.start <= op.index

    def _pass_through(self, call: LayerCall) -> None:
        read = [("", value) for value in call.received]
        self._add(self._form_of_call(call, []), read, call.returned)

    # ----------------------------------------------------------------------------- parts

    def _add(
        self,
        form: Form,
        read: Sequence[tuple[str, int]],
        gives: Sequence[int],
        *,
        by_name: bool = False,
    ) -> None:
        """Add a step with what it was given; parameters, with their places, are part of what it is."""
        recording = self._recording
        used: list[Form] = []
        inputs: list[tuple[str, Source]] = []
        for place, (argument, value) in enumerate(read):
            number = recording.parameter_of_value.get(value)
            if number is not None:
                parameter = self.parameter(recording.parameters[number])
                used.append(parameter if by_name else (place, argument, parameter))
            if number is None or recording.values[value].origin != "outside":
                inputs.append((argument, self._source(value)))
        step = len(self.steps)
        self.steps.append(Step((*form, *sorted(used, key=ascii)), tuple(inputs)))
        for output, value in enumerate(dict.fromkeys(gives)):
            self._sources[value] = Source(step, output)

    def _source(self, value: int) -> Source:
        """Return what a value came from; one from outside, or written through others, is a step."""
        earlier: list[Value] = []
        at = self._recording.values[value]
        while at.index not in self._sources and at.origin == "rewritten" and at.earlier is not None:
            earlier.append(at)
            at = self._recording.values[at.earlier]
        if at.index not in self._sources:
            self._sources[at.index] = Source(len(self.steps), 0)
            self.steps.append(Step(("outside", *self._sizes([at.index])), ()))
        before = self._sources[at.index]
        for record in reversed(earlier):
            wrote = [self._sources[v] for v in self._written_between(record) if v in self._sources]
            inputs = tuple(("", source) for source in dict.fromkeys([before, *wrote]))
            before = self._sources[record.index] = Source(len(self.steps), 0)
            self.steps.append(Step(("rewritten",), inputs))
        return before

    def _written_between(self, value: Value) -> Iterator[int]:
        """Yield what ops wrote into the memory of a value since it was the earlier one."""
        own = _region(value)
        writes = self._writes.get(value.storage, [])
        since = bisect_right(writes, value.index if value.earlier is None else value.earlier)
        for wrote in writes[since : bisect_left(writes, value.index)]:
            other = _region(self._recording.values[wrote])
            if own is not None and other is not None and overlap(own, other):
                yield wrote

    def _made_elsewhere(self, ops: range) -> None:
        """Have what a step of another phase gave be its own step, known by its operator alone."""
        for number in ops:
            op = self._recording.ops[number]
            for value in _given(op):
                self._sources[value] = Source(len(self.steps), 0)
                self.steps.append(Step((op.phase, op.operator, *self._sizes([value])), ()))

    # ----------------------------------------------------------------------------- forms

    def _form_of_call(self, call: LayerCall, ops: Sequence[Op]) -> Form:
        packed = [self._recording.parameters[number] for op in ops for number in op.packed]
        arguments: tuple[object, ...] = ()
        if "arguments" in self._parts:
            settings = self._recording.settings_of(call.ops)
            arguments = tuple(sorted((name, _text(value)) for name, value in settings.items()))
        return (
            call.kind,
            call.function,
            call.path,
            *self._sizes(call.returned),
            *sorted({self.parameter(item) for item in packed}, key=ascii),
            arguments,
        )

    def _form_of_op(self, op: Op) -> Form:
        arguments: tuple[object, ...] = ()
        if "arguments" in self._parts:
            arguments = tuple(
                (name, _text(value)) for name, value in op.arguments if name not in _PLACES
            )
        values = self._recording.values
        kinds = tuple(values[value].origin for value in _given(op))
        gradient_of = None
        if op.accumulates is not None:
            gradient_of = self.parameter(self._recording.parameters[op.accumulates])
        return (op.phase, op.operator, gradient_of, kinds, *self._sizes(_given(op)), arguments)

    def _sizes(self, values: Iterable[int]) -> Iterator[object]:
        """Yield shapes and types, as far as they are asked for."""
        for value in values:
            record = self._recording.values[value]
            yield (
                record.shape if "shapes" in self._parts else None,
                record.dtype if "dtypes" in self._parts else None,
            )

    def parameter(self, item: Parameter) -> Form:
        """Return what is told of a parameter or buffer."""
        if "parameters" not in self._parts:
            return (item.kind,)
        dtype = item.dtype if "dtypes" in self._parts else None
        return (item.kind, item.name, item.shape, dtype)


def _region(value: Value) -> Region | None:
    return region(value.shape, value.stride, value.offset, value.itemsize)


def _given(op: Op) -> tuple[int, ...]:
    """Return what an op gave and wrote, in order."""
    return (*op.writes, *(value for value in op.outputs if value is not None))


def _text(value: object) -> str:
    """Return an argument in words that are the same in every process."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, _PLAIN):
        return repr(value)
    text = str(value)
    # A type or layout of torch's says what it is; of any other object that may be its address.
    return text if text.startswith("torch.") else type(value).__name__
