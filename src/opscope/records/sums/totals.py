"""The sums under a table: what was computed, and what the model holds."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from opscope.records.columns.columns import Column
from opscope.records.columns.table import column, value_bytes
from opscope.records.ops import Phase
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over one recording.

    Attributes:
        ops: Aten operators that ran, in all phases.
        ops_by_phase: How many of them in each phase that there was, by its name.
        layers: Layers of the forward phase; passes of one are counted once.
        passes: Passes of these.
        modules: Modules below the model.
        tensors: Tensors that the layers gave, inputs and outputs included.
        tensor_bytes: Bytes that were newly allocated for them, each once: a view, what was
            written in place or passed through, and an input are none.
        given_bytes: Their size together, as if each had memory of its own.
        input_bytes: Size of the tensors that the model was given.
        parameter_tensors: Parameters of the model, a shared one once.
        params: Their elements.
        param_bytes: Their size together.
        trainable: Elements of those that require a gradient.
        used_tensors: How many of the parameters the program used.
        other_params: Elements of parameters of modules that are no part of the model.
        buffers: Buffers of the model.
        buffer_bytes: Their size together.
    """

    ops: int
    ops_by_phase: dict[Phase, int]
    layers: int
    passes: int
    modules: int
    tensors: int
    tensor_bytes: int
    given_bytes: int
    input_bytes: int
    parameter_tensors: int
    params: int
    param_bytes: int
    trainable: int
    used_tensors: int
    other_params: int
    buffers: int
    buffer_bytes: int


def totals(recording: Recording, passes: Sequence[LayerPass]) -> Totals:
    """Return the sums over a recording."""
    parameters = [p for p in recording.parameters if p.kind == "parameter" and p.of_model]
    others = [p for p in recording.parameters if p.kind == "parameter" and not p.of_model]
    buffers = [p for p in recording.parameters if p.kind == "buffer" and p.of_model]
    packed = {number for numbers in column(recording.ops, "packed") for number in numbers}
    layers, given = _forward(recording, passes)
    nbytes = value_bytes(recording.values)
    phases = column(recording.ops, "phase")
    return Totals(
        ops=len(recording.ops),
        ops_by_phase=dict(Counter(phases)),
        layers=len(set(layers)),
        passes=len(layers),
        modules=sum(1 for module in recording.modules if module.address),
        tensors=len(given),
        tensor_bytes=_allocated(recording, given, nbytes),
        given_bytes=sum(map(nbytes.__getitem__, given)),
        input_bytes=_entered(recording, passes, nbytes),
        parameter_tensors=len(parameters),
        params=sum(p.numel for p in parameters),
        param_bytes=sum(p.nbytes for p in parameters),
        trainable=sum(p.numel for p in parameters if p.trainable),
        used_tensors=sum(p.value is not None or p.index in packed for p in parameters),
        other_params=sum(p.numel for p in others),
        buffers=len(buffers),
        buffer_bytes=sum(p.nbytes for p in buffers),
    )


def _forward(
    recording: Recording, passes: Sequence[LayerPass]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the layer of each pass in the forward phase, and the values that they gave."""
    phases = column(recording.layer_calls, "phase")
    layers, given = array("i"), array("i")
    rows = zip(*[column(passes, name) for name in ("call", "layer", "values")], strict=True)
    for call, layer, values in rows:
        if call is None or phases[call] == "forward":
            layers.append(layer)
            given.extend(values)
    return layers, given


def _entered(recording: Recording, passes: Sequence[LayerPass], nbytes: Column[int]) -> int:
    kinds = zip(column(passes, "kind"), column(passes, "values"), strict=True)
    return sum(nbytes[value] for kind, values in kinds if kind == "input" for value in values)


def _allocated(recording: Recording, given: Sequence[int], nbytes: Column[int]) -> int:
    """Return the bytes of the memory that was made for values, or for what they are views of."""
    origins, storages = column(recording.values, "origin"), column(recording.values, "storage")
    wanted = {storages[value] for value in given}
    made: dict[int, int] = {}
    for value, (origin, storage) in enumerate(zip(origins, storages, strict=True)):
        if origin == "fresh" and storage is not None and storage in wanted:
            made[storage] = nbytes[value]
    without = [v for v in given if storages[v] is None and origins[v] in ("fresh", "write")]
    return sum(made.values()) + sum(map(nbytes.__getitem__, without))
