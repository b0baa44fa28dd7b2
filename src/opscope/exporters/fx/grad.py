"""In which grad mode each op of a program is to run, and what cannot be differentiated at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opscope.exporters.fx.scope import calls_inside
from opscope.records.calls import LayerCall, ModuleCall
from opscope.records.ops import Op
from opscope.records.recording import Recording
from opscope.torch_api import has_kernel_for


@dataclass(frozen=True, slots=True)
class OpMode:
    """How one op is to run.

    Attributes:
        enabled: Whether autograd is to record; None for as the program's caller has it.
        outer: The same around the custom autograd function that the op ran in.
        custom: Whether it ran in one, whose backward is not known.
    """

    enabled: bool | None = None
    outer: bool | None = None
    custom: bool = False


def op_modes(recording: Recording, ops: Sequence[Op], call: ModuleCall | None) -> list[OpMode]:
    """Return how each op of a program is to run.

    The mode in which the program was entered is its caller's business. What counts is what was
    set inside: where a function mode saw it, or where the mode was another one than at the entry.

    Args:
        recording: What happened.
        ops: The ops of the program.
        call: The module call that it is of, None for the whole block.
    """
    entry = recording if call is None else call
    was_set = _modes_set_inside(recording, call)
    strange = {
        op
        for layer_call in recording.layer_calls
        if _has_unseen_derivative(recording, layer_call, was_set)
        for op in layer_call.ops
    }
    result = []
    for op in ops:
        outer = was_set.get(op.index)
        custom = op.custom_function or (op.index in strange and not op.grad_enabled)
        departs = (op.grad_enabled, op.inference) != (entry.grad_enabled, entry.inference)
        if outer is None and departs and op.inference == entry.inference and not custom:
            departs = not has_own_derivative(op.operator)
        enabled = op.grad_enabled if custom or departs or outer is not None else None
        result.append(OpMode(enabled, outer, custom))
    return result


def _modes_set_inside(recording: Recording, call: ModuleCall | None) -> dict[int, bool]:
    """Return the mode that was set last inside the program, for the ops where one was."""
    inside = calls_inside(recording, call)
    return {
        op: region.enabled
        for region in recording.grad_regions
        if region.module_call in inside
        for op in region.ops
    }


def _has_unseen_derivative(recording: Recording, call: LayerCall, was_set: dict[int, bool]) -> bool:
    """Whether what a call returned has a derivative which is not that of the op that made it.

    So it is with autograd functions that are written in C++: their ops run without autograd.
    """
    if call.grad_fn is None:
        return False
    for index in call.returned:
        value = recording.values[index]
        if value.made_by is None or value.made_by not in call.ops:
            continue
        if value.origin not in ("fresh", "view"):
            continue
        op = recording.ops[value.made_by]
        if not op.grad_enabled and op.index not in was_set and not has_own_derivative(op.operator):
            return True
    return False


def has_own_derivative(operator: str) -> bool:
    """Whether an operator of a library was given a derivative, which runs it without autograd."""
    namespace, _, rest = operator.partition(".")
    if namespace in ("aten", "prim", "prims"):
        return False
    name, _, overload = rest.partition(".")
    full = f"{namespace}::{name}" + (f".{overload}" if overload != "default" else "")
    has_kernel: Any = has_kernel_for
    try:
        return any(has_kernel(full, key) for key in ("Autograd", "AutogradCPU", "AutogradCUDA"))
    except RuntimeError:  # no operator of the dispatcher's
        return False
