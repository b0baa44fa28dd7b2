"""One call of a torch function or a module each, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opscope.notation import foreign
from opscope.records.containers import LONE, LONE_ARGUMENT, Structure
from opscope.records.ops import Phase

CallKind = Literal["function", "identity", "input", "output"]
"""What a layer call is: a torch function, a module that returned its input unchanged, or
a tensor that entered or left the traced model."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One position in Python code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{foreign(self.file)}:{self.line}"


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One torch function called from Python, with the ops that it dispatched.

    Attributes:
        index: Place in `Recording.layer_calls`, in the order of execution.
        function: The function's name as torch spells it: ``"max_pool2d"``, ``"add_"``.
        kind: What sort of call it is.
        path: For inputs and outputs, where among them the tensor was; see `Leaf`.
        module_call: Index of the innermost module call it ran in.
        call_site: Number of the calling context.
        ops: Indices of its ops, which are contiguous; empty where it passed its input through.
        received: For a call without ops, the values it was given.
        arguments: For a call without ops, the numbers and texts that it was given, by name.
        returned: The values that it returned.
        started_ns: Nanoseconds since the trace began.
        duration_ns: Nanoseconds it took.
        grad_fn: Class name of the autograd node of what it returned.
        phase: Which part of a training step it is in.
        failed: Whether it raised.
    """

    index: int
    function: str
    kind: CallKind = "function"
    path: str = ""
    module_call: int | None = None
    call_site: int | None = None
    ops: range = range(0)
    received: tuple[int, ...] = ()
    arguments: tuple[tuple[str, object], ...] = ()
    returned: tuple[int, ...] = ()
    started_ns: int = 0
    duration_ns: int = 0
    grad_fn: str | None = None
    phase: Phase = "forward"
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor found in a module's inputs or outputs, with the path that leads to it.

    The path is empty for a lone tensor. That of an input begins with the argument's place
    or name: ``"1"``, ``"attention_mask"`` or ``"past_key_values.0.1"``.
    """

    path: str
    value: int


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One run of a module.

    Attributes:
        index: Place in `Recording.module_calls`, in the order of entering.
        module: Index into `Recording.modules`.
        number: Which run of that module it is, from 1.
        parent: Index of the module call around it.
        call_site: Number of the calling context.
        is_root: Whether it is a call of the traced model from outside.
        inputs: Tensors passed in, by place or by name.
        outputs: Tensors returned.
        input_structure: The arguments it was called with, the inputs numbered in them.
        output_structure: What it returned, the outputs numbered in it.
        ops: Indices of the ops that ran inside, at any depth.
        layer_calls: Indices of the layer calls that ran inside, at any depth.
        started_ns: Nanoseconds since the trace began.
        duration_ns: Nanoseconds it took.
        failed: Whether it raised.
        grad_enabled: Whether autograd recorded when it was called. What was set in places that
            no function mode sees is not known, inside of the model.
        inference: Whether ``inference_mode`` was on when the model was called.
    """

    index: int
    module: int
    number: int = 1
    parent: int | None = None
    call_site: int | None = None
    is_root: bool = False
    inputs: tuple[Leaf, ...] = ()
    outputs: tuple[Leaf, ...] = ()
    input_structure: Structure = LONE_ARGUMENT
    output_structure: Structure = LONE
    ops: range = range(0)
    layer_calls: range = range(0)
    started_ns: int = 0
    duration_ns: int = 0
    failed: bool = False
    grad_enabled: bool = False
    inference: bool = False
