"""The nodes that give the values of a record, with those of tensors from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from opscope import notation
from opscope.errors import NotSaved, TraceStateError
from opscope.exporters.fx.names import Attributes
from opscope.records.calls import ModuleCall
from opscope.records.ops import Op
from opscope.records.passes.layers import lifted
from opscope.records.recording import Recording
from opscope.records.values import Value


@dataclass(frozen=True, slots=True)
class Live:
    """What a program needs that is no part of a record.

    Attributes:
        overload: Gives the operator overload of a name, None if there is none.
        parameter: Gives the tensor of a parameter or buffer by its index, None if it is gone.
        outside: Gives the tensor of any other value from outside, likewise, and whether it is
            still alive, or as it was.
        forward: Gives the ``forward`` of a module by its index, for the names of its arguments.
        is_named: Whether the trace was told which module the model is.
        sees_modes: Whether it saw where the program set the grad mode.
    """

    overload: Callable[[str], Any]
    parameter: Callable[[int], torch.Tensor | None]
    outside: Callable[[int], tuple[torch.Tensor | None, bool]]
    forward: Callable[[int], Callable[..., Any] | None]
    is_named: bool = True
    sees_modes: bool = True


class Values:
    """The node of each value.

    Attributes:
        nodes: Those that were made.
        attributes: The tensors that the program holds.

    Args:
        recording: What happened.
        live: The tensors that it was recorded of.
        graph: The graph.
        ops: The ops of the program.
        call: The module call that it is of, None for the block.
    """

    def __init__(
        self,
        recording: Recording,
        live: Live,
        graph: fx.Graph,
        ops: Sequence[Op],
        call: ModuleCall | None,
    ) -> None:
        self.nodes: dict[int, fx.Node] = {}
        self.attributes = Attributes()
        self._recording = recording
        self._live = live
        self._graph = graph
        self._ops = ops
        # Of these what is no op of the program gives nothing.
        self._stretch = range(len(recording.ops)) if call is None else call.ops
        address = "" if call is None else recording.modules[call.module].address
        self._prefix = f"{address}." if address else ""
        self._of_parameter: dict[int, fx.Node] = {}
        # The first op that made each storage here: what lies there is no tensor from outside.
        self._made_here: dict[int | None, int | None] = {}
        for value in recording.values:
            if value.origin == "fresh":
                self._made_here.setdefault(value.storage, value.made_by)
        bound = recording.parameter_of_value
        self._parameter_storages = {recording.values[value].storage for value in bound} - {None}
        self._as_other_class = results_of_other_classes(recording)
        self._given: set[int | None] = set()
        self._lifted = lifted(recording)

    def check_data(self, inside: set[int | None]) -> None:
        """Raise if a tensor was given other data in one of these module calls."""
        for found in self._recording.unseen_calls:
            if found.function == "data" and found.module_call in inside:
                what = "an assignment to `.data`, which is no op: `x.data.copy_(y)` would be one"
                raise self._refuse(found.value, what)

    def give(self, value: int, node: fx.Node) -> None:
        """Have a value be given to the program."""
        self.nodes[value] = node
        self._given.add(self._recording.values[value].storage)

    def node(self, value: int) -> fx.Node:
        """Return the node that gives a value; one that comes from outside is added."""
        while value not in self.nodes:
            older = self._older(value)
            if older is None:
                self.nodes[value] = self._from_outside(value)
                break
            value = older
        return self.nodes[value]

    def source(self, value: int) -> int:
        """Return what a value was before it was passed through, or made one of another class."""
        while (older := self._older(value)) is not None:
            value = older
        return value

    def _older(self, value: int) -> int | None:
        earlier = self._recording.values[value].earlier
        return self._as_other_class.get(value) if earlier is None else earlier

    def floating(self, values: Iterable[int]) -> list[int]:
        """Return those that can have a derivative."""
        kinds = ("float", "bfloat", "complex")
        return [v for v in values if self._recording.values[v].dtype.startswith(kinds)]

    def own_name(self, number: int) -> str | None:
        """Return the name that a parameter has in the module; None if it is none of its own."""
        record = self._recording.parameters[number]
        for name in (record.name, *record.aliases):
            if name.startswith(self._prefix):
                return name.removeprefix(self._prefix)
        return None

    def parameter(self, number: int) -> fx.Node:
        """Return the node of a parameter or buffer."""
        if number not in self._of_parameter:
            name = self.own_name(number) or self._recording.parameters[number].name
            tensor = self._live.parameter(number)
            if tensor is None:
                what = f"the tensor {notation.foreign(name)!r}"
                raise _gone(what)
            self._of_parameter[number] = self._attribute(name, tensor)
        return self._of_parameter[number]

    def _from_outside(self, value: int) -> fx.Node:
        record = self._recording.values[value]
        number = self._recording.parameter_of_value.get(value)
        maker = record.made_by
        if maker is None:
            maker = self._made_here.get(record.storage)
            if maker is not None and maker in self._stretch:
                raise self._refuse(
                    value, f"the memory of what {self._op(maker)} gave, as another tensor: it was "
                    "given other data, or made a parameter or of another class, which no op shows",
                )  # fmt: skip
        if maker is not None and maker in self._stretch:
            phase = self._recording.ops[maker].phase
            raise self._refuse(
                value, f"what {self._op(maker)} gave in the {phase} pass, and a program has the "
                "ops of the forward only",
            )  # fmt: skip
        if number is not None:
            return self.parameter(number)
        if maker is not None:
            raise self._refuse(
                value, f"what {self._op(maker)} gave before; make it outside of the block, hand it "
                "to the module as an argument, or ask for a module around both",
            )  # fmt: skip
        return self._constant(value)

    def _constant(self, value: int) -> fx.Node:
        storage = self._recording.values[value].storage
        if storage is not None and storage in self._given:
            why = "the memory of an input, as another tensor, made in a way that no op shows"
            raise self._refuse(value, why)
        tensor, is_alive = self._live.outside(value)
        if not is_alive and storage in self._parameter_storages:
            why = "the memory of a parameter, as another tensor, made in a way that no op shows"
            raise self._refuse(value, why)
        if tensor is None:
            what = f"a tensor from outside, {self._described(value)},"
            raise _gone(what)
        node = self._attribute(f"_constant_{value}", tensor)
        if value in self._lifted:  # made of Python numbers at each run, and perhaps written to
            node = self._graph.call_function(torch.ops.aten.clone.default, (node,))
        return node

    def _attribute(self, name: str, tensor: torch.Tensor) -> fx.Node:
        return self._graph.create_node("get_attr", self.attributes.add(name, tensor))

    def _refuse(self, value: int, what: str) -> TraceStateError:
        return TraceStateError(f"the program needs {what} ({self._described(value)})")

    def _described(self, value: int) -> str:
        """Return a value's type and sizes, and what reads it first."""
        record = self._recording.values[value]
        text = notation.tensor(record.dtype, record.shape)
        readers = (op.index for op in self._ops for read in op.reads if read.value == value)
        reader = next(readers, None)
        return text if reader is None else f"{text}, read by {self._op(reader)}"

    def _op(self, index: int) -> str:
        op = self._recording.ops[index]
        frames = self._recording.frames_of(op)
        where = f" at {notation.foreign(str(frames[0]))}" if frames else ""
        return f"op {index}, {op.operator}{where}"


def results_of_other_classes(recording: Recording) -> dict[int, int]:
    """Return what functions returned, by value, as the value that their ops gave.

    They are two where a tensor has a class of its own: what an op gives is made one of that class.
    """
    values, found = recording.values, {}
    for call in recording.layer_calls:
        others = [v for v in call.returned if values[v].origin == "outside"] if call.ops else ()
        for other in others:
            made = [
                (recording.ops[op].name != "detach", op, value)  # autograd makes aliases of results
                for op in call.ops
                for value in recording.ops[op].outputs
                if value is not None and _place(values[value]) == _place(values[other])
            ]
            if made:
                found[other] = max(made)[-1]
    return found


def _place(value: Value) -> tuple[object, ...]:
    """Return where a tensor lies in memory."""
    return value.storage, value.offset, value.shape, value.stride, value.dtype


def first_value(recording: Recording, value: int) -> int:
    """Return what a value was before it was passed through."""
    while (older := recording.values[value].earlier) is not None:
        value = older
    return value


def _gone(what: str) -> NotSaved:
    message = f"{what} is gone; keep the model alive, or trace with replayable=True"
    return NotSaved(message)
