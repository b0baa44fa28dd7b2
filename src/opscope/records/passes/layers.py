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

from array import array
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from opscope.garbage import paused
from opscope.operators.known import LIFT
from opscope.records.calls import CallKind
from opscope.records.columns.columns import Coded, Column, Joined, Same, first
from opscope.records.columns.table import Table, column, read_values
from opscope.records.flow.ends import loose_ends
from opscope.records.passes.loops import Turns
from opscope.records.passes.stand_ins import parameters_behind
from opscope.records.recording import Recording

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


def labels(passes: Sequence[LayerPass]) -> Iterator[str]:
    """Return the label of each pass, see `LayerPass.label`."""
    base: dict[int, str] = {}
    names = ("layer", "number", "passes")
    rows = zip(*[column(passes, name) for name in names], strict=True)
    for at, (layer, number, count) in enumerate(rows):
        label = base.get(layer)
        if label is None:
            label = base[layer] = passes[at].layer_label
        yield f"{label}:{number}" if count > 1 else label


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
def layer_passes(recording: Recording) -> Sequence[LayerPass]:
    """Return every pass of every layer, in the order of execution, numbered and labelled."""
    calls = recording.layer_calls
    bordered = "input" in column(calls, "kind")
    inputs = () if bordered else outside_values(recording)
    outputs = loose_ends(recording)
    used = _parameters_by_call(recording)
    found = _Found()
    for place in range(len(inputs)):
        found.add(("input", _place(place, inputs)), "input")
    _add_calls(found, recording, used)
    for place in range(len(outputs)):
        found.add(("output", _place(place, outputs)), "output")
    count, before, after = len(found.layer), len(inputs), len(outputs)

    def field(name: str) -> Column[Any]:
        """Return a field of the calls, with its default before and after them."""
        of_calls = column(calls, name)
        if not before and not after:
            return of_calls
        default = LayerPass.__dataclass_fields__[name].default
        return Joined(Same(default, before), of_calls, Same(default, after))

    kinds = Joined(Same("input", before), column(calls, "kind"), Same("output", after))
    paths = Joined(
        [_place(place, inputs) for place in range(before)],
        column(calls, "path"),
        [_place(place, outputs) for place in range(after)],
    )
    values = Joined(
        [(value,) for value in inputs],
        column(calls, "returned"),
        [(value,) for value in outputs],
    )
    columns: dict[str, Column[Any]] = {
        "index": range(count),
        "layer": found.layer,
        "type_number": Coded(found.layer, found.type_number),
        "type": Coded(found.layer, found.type),
        "number": found.number,
        "passes": Coded(found.layer, found.passes),
        "kind": kinds,
        "call": Joined(Same(None, before), range(len(calls)), Same(None, after)),
        "module_call": field("module_call"),
        "path": paths,
        "values": values,
        "parameters": Joined(Same((), before), used, Same((), after)),
    }
    return Table(LayerPass, count, columns)


def _place(place: int, values: Sequence[int]) -> str:
    """Return where a value is among the inputs or outputs of a program without a model."""
    return str(place) if len(values) > 1 else ""


class _Found:
    """Numbers passes, in the order of execution.

    Attributes:
        layer: By pass, the number of its layer.
        number: By pass, which of its layer's it is.
        type: By layer, its type.
        type_number: By layer, its count among those of its type.
        passes: By layer, how many passes it has.
    """

    def __init__(self) -> None:
        self._layers: dict[Hashable, int] = {}
        self._types: dict[str, int] = {}
        self.layer = array("i")
        self.number = array("i")
        self.type: list[str] = []
        self.type_number: list[int] = []
        self.passes: list[int] = []

    def add(self, identity: Hashable, kind: str) -> None:
        """Add a pass of the layer that something tells from others, of a type."""
        layer = self._layers.setdefault(identity, len(self.passes))
        if layer == len(self.passes):
            number = self._types[kind] = self._types.get(kind, 0) + 1
            self.type.append(kind)
            self.type_number.append(number)
            self.passes.append(0)
        self.passes[layer] += 1
        self.layer.append(layer)
        self.number.append(self.passes[layer])


def _parameters_by_call(recording: Recording) -> Column[tuple[int, ...]]:
    """Return the parameters (not buffers) that the ops of each call read, as the model has them."""
    numbers = parameters_behind(recording)
    ops, calls = recording.ops, recording.layer_calls
    given: dict[int, set[int]] = {}
    for op, values in enumerate(read_values(ops)) if numbers else ():
        for value in values:
            if value in numbers:
                given.setdefault(op, set()).add(numbers[value])
    for op, packed in enumerate(column(ops, "packed")):
        if packed:
            given.setdefault(op, set()).update(packed)
    if not given and not numbers:
        return Same((), len(calls))
    known: dict[tuple[int, ...], int] = {(): 0}
    codes = array("i")
    for within, received in zip(column(calls, "ops"), column(calls, "received"), strict=True):
        used = {number for op in within if op in given for number in given[op]}
        used.update(numbers[value] for value in received if value in numbers)
        trained = tuple(
            number for number in sorted(used) if recording.parameters[number].kind == "parameter"
        )
        codes.append(known.setdefault(trained, len(known)))
    return Coded(codes, list(known))


def lifted(recording: Recording) -> dict[int, int]:
    """Return the tensors that `torch.tensor` filled with Python's numbers, each with its op.

    That is ``lift_fresh``, with which the tensor first turns up: what ran before is none.
    """
    operators = column(recording.ops, "operator")
    lifts = [op for op, name in enumerate(operators) if name == LIFT]
    if not lifts:
        return {}
    reads, values = read_values(recording.ops), recording.values
    found = {
        value: op
        for op in reversed(lifts)  # the first of several counts
        for value in reads[op]
        if values[value].origin == "outside"
    }
    if found:
        for op, read in enumerate(first(reads, lifts[-1])):
            for value in read:
                if op < found.get(value, 0):
                    del found[value]
    return found


def outside_values(recording: Recording) -> tuple[int, ...]:
    """Return the values that came from outside and are neither parameter nor buffer.

    Nor those that only turned up: a result that was given another class, or numbers of Python's
    that `torch.tensor` made a tensor of.
    """
    bound = recording.parameter_of_value
    origins = column(recording.values, "origin")
    outside = [
        value for value, origin in enumerate(origins) if origin == "outside" and value not in bound
    ]
    if not outside:
        return ()
    made_of_numbers = lifted(recording)
    storages = column(recording.values, "storage")
    fresh = zip(origins, storages, strict=True)
    made_here = {storage for origin, storage in fresh if origin == "fresh"} - {None}
    return tuple(
        value
        for value in outside
        if value not in made_of_numbers and storages[value] not in made_here
    )


def _add_calls(found: _Found, recording: Recording, used: Column[tuple[int, ...]]) -> None:
    """Add every layer call as a pass."""
    calls = recording.layer_calls
    identities = array("i")
    known: dict[Hashable, int] = {}
    types: list[str] = []
    rows = zip(
        *[column(calls, name) for name in ("kind", "function", "call_site", "path", "ops")],
        used,
        strict=True,
    )
    type_of = cache(layer_type)
    for kind, function, site, path, ops, trained in rows:
        name = type_of(function)
        identity: Hashable = (kind, name, site, path)
        if trained and ops:
            identity = (kind, name, trained)
        number = known.setdefault(identity, len(known))
        if number == len(types):
            types.append(name)
        identities.append(number)
    groups = _told_apart(recording, used, identities)
    for call, identity in enumerate(identities):
        group = groups.get(call, 0)
        found.add((identity, group) if group else identity, types[identity])


def _told_apart(
    recording: Recording, used: Column[tuple[int, ...]], identities: Sequence[int]
) -> dict[int, int]:
    """Tell visits of a place apart where other modules run at each turn of a loop.

    Returns:
        By call, the number of the group that it is in, if it is not the first of its place.
    """
    calls = recording.layer_calls
    with_parameters = {
        call: parameters
        for call, (parameters, phase) in enumerate(zip(used, column(calls, "phase"), strict=True))
        if parameters and phase == "forward"  # the first step does more
    }
    visits: dict[int, list[int]] = {}
    rows = zip(identities, column(calls, "kind"), used, strict=True)
    for call, (identity, kind, parameters) in enumerate(rows):
        if kind == "function" and not parameters:
            visits.setdefault(identity, []).append(call)
    turns = Turns(recording, with_parameters)
    group: dict[int, int] = {}
    for several in visits.values():
        if len(several) > 1:
            group.update(turns.groups(several))
    return group
