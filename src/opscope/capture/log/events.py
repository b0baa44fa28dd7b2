"""What may happen between two ops, as the log has it: one schema for each kind.

An event is flat in the log: its schema, the number of ops before it, and its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch

from opscope.records.containers import Structure

Live = ref[torch.Tensor]
# By turns the code of a frame and a position in it, the innermost frame first.
Chain = tuple[Any, ...]
# What collectors note of tensors, in order; None for none.
Notes = Sequence[Any] | None


class Nested(NamedTuple):
    """The tensors in what a module is given or gives, and where in it each was."""

    structure: Structure
    tensors: list[Live]


class Written(NamedTuple):
    """The tensors that a call may have written which returned none."""

    tensors: list[Live]


class Call(NamedTuple):
    """A torch function ran ops, and returned or raised."""

    function: Any
    returned: Live | list[Live] | Written
    notes: Any
    grad_fn: type | None
    run: int
    chain: Chain
    op_start: int
    started: int
    ended: int
    error: BaseException | None


class PassedThrough(NamedTuple):
    """A torch function ran no op, and returned what it was given, numbers and texts besides."""

    function: Any
    given: dict[int | str, Any]
    tensors: Sequence[Live]
    notes: Notes
    grad_fn: type | None
    run: int
    chain: Chain
    started: int
    ended: int


class Enter(NamedTuple):
    """A module is called: which, from where, with what, in which run."""

    module: int
    chain: Chain
    given: Live | Nested
    parent: int
    started: int
    notes: Notes


class Leave(NamedTuple):
    """The run of a module ends."""

    run: int
    gave: Live | Nested
    ended: int
    failed: bool
    notes: Notes


class Seen(NamedTuple):
    """A tensor turned up from outside: a snapshot of it, see `take_snapshot`."""

    tensor: Live
    storage: ref[torch.UntypedStorage] | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int


class End(NamedTuple):
    """The block ends, and these tensors are there."""

    alive: Sequence[Live]
    notes: Notes


class Named(NamedTuple):
    """Tensors become parameters."""

    tensors: Sequence[Live]


class GradMode(NamedTuple):
    """The grad mode in which the block, or the model, is entered."""

    run: int
    enabled: bool
    inference: bool


class SetGradMode(NamedTuple):
    """The program sets it; ``step`` says how, ``hidden`` whether inside a custom function."""

    run: int
    enabled: bool
    step: Any
    hidden: bool


class UnseenCall(NamedTuple):
    """A call that no op shows."""

    run: int
    function: Any
    tensor: Live


KINDS: tuple[type, ...] = (
    Call, PassedThrough, Enter, Leave, Seen, End, Named, GradMode, SetGradMode, UnseenCall,
)  # fmt: skip
# How much of the log an event takes.
WIDTHS: dict[type, int] = {kind: 2 + len(kind._fields) for kind in KINDS}  # type: ignore[attr-defined]
SNAPSHOT_SIZE = len(Seen._fields)
