"""Which calls are the same layer: types, passes, labels.

A layer is a place in the program, and a pass is one visit to it:

1. Two calls are the same layer only if they are of the same function type.
2. If the function used parameters of the model, or copies that stand for them such as the
   casts that autocast keeps, the layer is where the same ones are used.
3. If it used none, the layer is where the same chain of code positions and module
   addresses leads to it, from the outermost call of the model inwards, and where the same
   modules run between one visit and the next.
4. A module that is entered while it already runs (recursion) starts no new chain.
5. So a loop folds, blocks with their own weights do not, and one `nn.ReLU` called on two
   lines is two layers.

Labels follow the article: ``conv2d_3_7`` is the third ``conv2d`` and the seventh layer,
counted from ``input_1_0``; both numbers advance only at a layer's first pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from opscope.collector import paused
from opscope.records.ends import loose_ends
from opscope.records.loops import Turns
from opscope.records.recording import CallKind, LayerCall, Recording
from opscope.records.stand_ins import stand_ins

_REFLECTED = frozenset({
    "radd", "rsub", "rmul", "rdiv", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul",
    "rand", "ror", "rxor", "rlshift", "rrshift",
})  # fmt: skip
_IN_PLACE = frozenset({
    "iadd", "isub", "imul", "idiv", "itruediv", "ifloordiv", "imod", "ipow", "imatmul",
    "iand", "ior", "ixor", "ilshift", "irshift",
})  # fmt: skip


PassKind = CallKind | Literal["module"]


@dataclass(frozen=True, slots=True)
class LayerPass:
    """One pass of one layer.

    Attributes:
        index: Place among all passes, in the order of execution.
        layer: Number of the layer, counted from 0 at its first pass.
        type_number: Its count among the layers of its type, from 1.
        type: The function's name, in lower case and without underscores.
        number: Which pass it is, from 1.
        passes: How many passes the layer has.
        kind: What sort of call it was.
        call: Index of the layer call; None for the inputs and outputs of a bare program.
        module_call: Index of the innermost module call it ran in.
        path: Where in the model's inputs or outputs the tensor was; empty for a lone one.
        values: The values that it gave.
        paths: Of what a module gave, the path to each value; empty of a layer.
        address: The module's, where this stands for all that a run of it gave (``kind`` is
            ``"module"``), as no single layer gave just that.
        parameters: Indices of the parameters (not buffers) that it used.
    """

    index: int
    layer: int
    type_number: int
    type: str
    number: int
    passes: int
    kind: PassKind = "function"
    call: int | None = None
    module_call: int | None = None
    path: str = ""
    values: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    address: str = ""

    @property
    def short_label(self) -> str:
        """Such as ``"conv2d_3"``."""
        return self.address or f"{self.type}_{self.type_number}"

    @property
    def layer_label(self) -> str:
        """Such as ``"conv2d_3_7"``."""
        return self.address or f"{self.type}_{self.type_number}_{self.layer}"

    @property
    def label(self) -> str:
        """The layer's label, with the pass where there are several."""
        return f"{self.layer_label}:{self.number}" if self.passes > 1 else self.layer_label


@dataclass(frozen=True, slots=True)
class _Found:
    """A pass before it is numbered."""

    identity: Hashable
    type: str
    kind: CallKind = "function"
    call: int | None = None
    module_call: int | None = None
    path: str = ""
    values: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()


def layer_type(function: str) -> str:
    """Return the article's name for a torch function.

    >>> [layer_type(name) for name in ("max_pool2d", "add_", "__radd__", "__getitem__")]
    ['maxpool2d', 'add', 'add', 'getitem']
    """
    name = function.replace("_", "").lower() or function
    if function.startswith("__") and (name in _REFLECTED or name in _IN_PLACE):
        return name[1:]
    return name


@paused()
def layer_passes(recording: Recording) -> tuple[LayerPass, ...]:
    """Return every pass of every layer, in the order of execution, numbered and labelled."""
    found = list(_find(recording))
    passes: dict[Hashable, int] = {}
    for item in found:
        passes[item.identity] = passes.get(item.identity, 0) + 1
    layers: dict[Hashable, tuple[int, int]] = {}
    types: dict[str, int] = {}
    visits: dict[Hashable, int] = {}
    result = []
    for index, item in enumerate(found):
        if item.identity not in layers:
            types[item.type] = types.get(item.type, 0) + 1
            layers[item.identity] = (len(layers), types[item.type])
        layer, type_number = layers[item.identity]
        visits[item.identity] = visits.get(item.identity, 0) + 1
        result.append(
            LayerPass(
                index=index,
                layer=layer,
                type_number=type_number,
                type=item.type,
                number=visits[item.identity],
                passes=passes[item.identity],
                kind=item.kind,
                call=item.call,
                module_call=item.module_call,
                path=item.path,
                values=item.values,
                parameters=item.parameters,
            )
        )
    return tuple(result)


def parameters_of_call(
    recording: Recording, call: LayerCall, copies: dict[int, int]
) -> tuple[int, ...]:
    """Return the parameters and buffers that a call's ops read, each once, as the model has them.

    Args:
        recording: What happened.
        call: The call.
        copies: The values that stand for parameters, see `stand_ins`.
    """
    bound = recording.parameter_of_value
    values = [read.value for op in call.ops for read in recording.ops[op].reads]
    found = (_parameter_behind(recording, value) for value in (*values, *call.received))
    numbers = {bound.get(value, copies.get(value)) for value in found}
    numbers.update(number for op in call.ops for number in recording.ops[op].packed)
    return tuple(sorted(number for number in numbers if number is not None))


def _parameter_behind(recording: Recording, value: int) -> int:
    while (known := recording.values[value]).origin == "handed" and known.handed_from is not None:
        value = known.handed_from
    return value


def lifted(recording: Recording) -> dict[int, int]:
    """Return the tensors that `torch.tensor` filled with Python's numbers, each with its op.

    That is ``lift_fresh``, with which the tensor first turns up: what ran before is none.
    """
    lifts = [op for op in recording.ops if op.operator == "aten.lift_fresh.default"]
    found = {
        read.value: op.index
        for op in reversed(lifts)  # the first of several counts
        for read in op.reads
        if recording.values[read.value].origin == "outside"
    }
    if found:
        for op in recording.ops[: lifts[-1].index]:
            for read in op.reads:
                if op.index < found.get(read.value, 0):
                    del found[read.value]
    return found


def outside_values(recording: Recording) -> tuple[int, ...]:
    """Return the values that came from outside and are neither parameter nor buffer.

    Nor those that only turned up: a result that was given another class, or numbers of Python's
    that `torch.tensor` made a tensor of.
    """
    bound = recording.parameter_of_value
    made_of_numbers = lifted(recording)
    made_here = {value.storage for value in recording.values if value.origin == "fresh"} - {None}
    return tuple(
        value.index
        for value in recording.values
        if value.origin == "outside"
        and value.index not in bound
        and value.index not in made_of_numbers
        and value.storage not in made_here
    )


def _find(recording: Recording) -> Iterator[_Found]:
    bordered = any(call.kind == "input" for call in recording.layer_calls)
    if not bordered:
        yield from _border("input", outside_values(recording))
    yield from _told_apart(recording, list(_calls(recording)))
    yield from _border("output", loose_ends(recording))


def _border(kind: Literal["input", "output"], values: tuple[int, ...]) -> Iterator[_Found]:
    """Yield the inputs or outputs of a program without a model, as far as they are known."""
    for place, value in enumerate(values):
        path = str(place) if len(values) > 1 else ""
        yield _Found((kind, path), kind, kind=kind, path=path, values=(value,))


def _calls(recording: Recording) -> Iterator[_Found]:
    copies = stand_ins(recording)
    for call in recording.layer_calls:
        used = parameters_of_call(recording, call, copies)
        trained = tuple(p for p in used if recording.parameters[p].kind == "parameter")
        name = layer_type(call.function)
        by_place = (call.kind, name, call.place, call.path)
        yield _Found(
            identity=(call.kind, name, trained) if trained and call.ops else by_place,
            type=name,
            kind=call.kind,
            call=call.index,
            module_call=call.module_call,
            path=call.path,
            values=call.returned,
            parameters=trained,
        )


def _told_apart(recording: Recording, found: list[_Found]) -> Iterator[_Found]:
    """Tell visits of a place apart where other modules run at each turn of a loop."""
    with_parameters = {
        item.call: item.parameters
        for item in found
        if item.parameters
        and item.call is not None
        and recording.layer_calls[item.call].phase == "forward"  # the first step does more
    }
    turns = Turns(recording, with_parameters)
    visits: dict[Hashable, list[LayerCall]] = {}
    for item in found:
        if item.kind == "function" and not item.parameters and item.call is not None:
            visits.setdefault(item.identity, []).append(recording.layer_calls[item.call])
    group: dict[int, int] = {}
    for calls in visits.values():
        if len(calls) > 1:
            group.update(turns.groups(calls))
    for item in found:
        number = 0 if item.call is None else group.get(item.call, 0)
        yield replace(item, identity=(item.identity, number)) if number else item
