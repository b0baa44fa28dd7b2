"""What a program fixes although the data, an argument or training mode decided it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from opscope import notation
from opscope.exporters.fx.names import argument
from opscope.exporters.fx.scope import calls_inside
from opscope.operators.known import TRAINING_FLAGS, draws, gives_numbers, has_shape_by_data
from opscope.records.calls import ModuleCall
from opscope.records.containers import Container, Opaque, Structure, TensorAt
from opscope.records.ops import Op
from opscope.records.recording import Recording

_NUMBER = "a number taken out of a tensor"
# Functions that hand the memory of a tensor to others, and what they dispatch.
_HANDED_OUT = frozenset({"numpy", "__array__", "__dlpack__", "__dlpack_device__"})


class Baked(NamedTuple):
    """One thing that is fixed.

    Attributes:
        op: Index of the op, None where there is none.
        operator: Its operator, or the function that took numbers out of a tensor.
        reason: What is fixed.
    """

    op: int | None
    operator: str | None
    reason: str


def baked_ops(recording: Recording, ops: Sequence[Op]) -> Iterator[Baked]:
    """Yield what the ops of a program fix."""
    for op in ops:
        reason = _of_data(recording, op) or _of_training(recording, op)
        if reason is not None:
            yield Baked(op.index, op.operator, reason)


def baked_unseen(recording: Recording, call: ModuleCall | None) -> Iterator[Baked]:
    """Yield what was taken out of tensors in a program, where no op shows it."""
    inside = calls_inside(recording, call)
    for found in recording.unseen_calls:
        if found.module_call in inside and found.function == "tolist":
            yield Baked(recording.values[found.value].made_by, found.function, _NUMBER)


def baked_arguments(
    structure: Structure, parameters: Sequence[inspect.Parameter]
) -> Iterator[Baked]:
    """Yield the arguments that are no tensors, but for those that are as they are by default."""
    if not isinstance(structure, Container):
        return
    defaults = {parameter.name: parameter.default for parameter in parameters}
    for key, item in zip(structure.keys, structure.items, strict=True):
        _, name = argument(key, parameters)
        default = defaults.get(name)
        is_default = type(default) is type(item) and default == item
        if not is_default and (words := _in_words(item)):
            reason = notation.foreign(f"argument {name!r} was {words}")
            yield Baked(None, None, reason)


def _in_words(item: Structure) -> str | None:
    """Return what an argument is beside tensors, None if nothing."""
    if item is None or isinstance(item, TensorAt):
        return None
    if isinstance(item, Opaque):
        return f"of class {item.class_name}"
    if not isinstance(item, Container):
        return _short(repr(item))
    inner = [words for words in map(_in_words, item.items) if words]
    return f"{item.class_name} of {_short(', '.join(inner))}" if inner else None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _of_data(recording: Recording, op: Op) -> str | None:
    if gives_numbers(op.operator):
        return _NUMBER
    by_mask = op.name == "index" and _is_by_mask(recording, op)
    if by_mask or has_shape_by_data(op.operator):
        return "a shape that depends on the data"
    if op.layer_call is not None:
        function = recording.layer_calls[op.layer_call].function
        if function in _HANDED_OUT:
            return "numbers of a tensor, given out of torch"
    return None


def _is_by_mask(recording: Recording, op: Op) -> bool:
    return any(
        recording.values[read.value].dtype in ("bool", "uint8")
        for read in op.reads
        if read.argument.startswith("indices")
    )


def _of_training(recording: Recording, op: Op) -> str | None:
    """Return what an op does because its module was in training."""
    if op.module_call is None:
        return None
    run = recording.module_calls[op.module_call]
    if not recording.modules[run.module].training:
        return None
    given = dict(op.arguments)
    is_on = any(given.get(flag) is True for flag in TRAINING_FLAGS)
    if draws(op.operator, is_on=is_on) or given.get("dropout_p"):
        return "training mode: random, also after eval()"
    if is_on and any(read.argument == "running_mean" for read in op.reads):
        return "training mode: statistics of the batch, which update the running ones"
    return None
