"""The sums under a table: what was computed, and what the model holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from opscope.records.layers import LayerPass
from opscope.records.recording import Phase, Recording, Value


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
            written in place or handed on, and an input are none.
        given_bytes: Their size together, as if each had memory of its own.
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
    parameter_tensors: int
    params: int
    param_bytes: int
    trainable: int
    used_tensors: int
    other_params: int
    buffers: int
    buffer_bytes: int


def totals(recording: Recording, passes: tuple[LayerPass, ...]) -> Totals:
    """Return the sums over a recording."""
    parameters = [p for p in recording.parameters if p.kind == "parameter" and p.of_model]
    others = [p for p in recording.parameters if p.kind == "parameter" and not p.of_model]
    buffers = [p for p in recording.parameters if p.kind == "buffer" and p.of_model]
    packed = {number for op in recording.ops for number in op.packed}
    passes = tuple(item for item in passes if _is_forward(recording, item))
    given = [recording.values[value] for item in passes for value in item.values]
    return Totals(
        ops=len(recording.ops),
        ops_by_phase=dict(Counter(op.phase for op in recording.ops)),
        layers=len({item.layer for item in passes}),
        passes=len(passes),
        modules=sum(1 for module in recording.modules if module.address),
        tensors=len(given),
        tensor_bytes=_allocated(recording, given),
        given_bytes=sum(value.nbytes for value in given),
        parameter_tensors=len(parameters),
        params=sum(p.numel for p in parameters),
        param_bytes=sum(p.nbytes for p in parameters),
        trainable=sum(p.numel for p in parameters if p.trainable),
        used_tensors=sum(p.value is not None or p.index in packed for p in parameters),
        other_params=sum(p.numel for p in others),
        buffers=len(buffers),
        buffer_bytes=sum(p.nbytes for p in buffers),
    )


def _allocated(recording: Recording, given: list[Value]) -> int:
    """Return the bytes of the memory that was made for values, or for what they are views of."""
    made = {value.storage: value.nbytes for value in recording.values if value.origin == "fresh"}
    storages = {value.storage for value in given if value.storage is not None}
    without = [v for v in given if v.storage is None and v.origin in ("fresh", "write")]
    return sum(made.get(storage, 0) for storage in storages) + sum(v.nbytes for v in without)


def _is_forward(recording: Recording, item: LayerPass) -> bool:
    return item.call is None or recording.layer_calls[item.call].phase == "forward"
