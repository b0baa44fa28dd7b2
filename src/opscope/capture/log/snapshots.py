"""What a tensor is at one moment: itself, where it lies and how."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch

from opscope.capture.log.events import SNAPSHOT_SIZE
from opscope.torch_api import functorch_unwrapped, is_functorch_wrapped

# A tensor at one moment: itself, its storage, sizes, strides, dtype, device and offset.
Snapshot = tuple[Any, ...]
ABSENT: Snapshot = (None,) * SNAPSHOT_SIZE
# What is raised for sparse, oneDNN and uninitialised tensors, which have no such storage.
_NO_STORAGE = (RuntimeError, ValueError)

# `vmap`, `grad` and their kin hand Python a wrapper that is good inside them only.
is_transformed = is_functorch_wrapped
_SIZES_ARE_NUMBERS = frozenset({torch.Tensor, torch.nn.Parameter})


def unwrap_functorch(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor that ops see of one that torch.func wrapped; any other as it is."""
    while is_transformed(tensor):
        tensor = functorch_unwrapped(tensor)
    return tensor


def take_snapshot(tensor: torch.Tensor) -> Snapshot:
    """Return the snapshot of a tensor."""
    try:
        snapshot: Snapshot = (
            ref(tensor), ref(tensor.untyped_storage()), tuple(tensor.shape), tensor.stride(),
            tensor.dtype, tensor.device, tensor.storage_offset(),
        )  # fmt: skip
    except _NO_STORAGE:
        return (ref(tensor), None, *_layout_without_storage(tensor), 0)
    if tensor.__class__ not in _SIZES_ARE_NUMBERS and not all(
        isinstance(size, int) for size in (*snapshot[2], *snapshot[3], snapshot[6])
    ):
        return (ref(tensor), None, *_in_numbers(snapshot[2:6], tensor), 0)
    return snapshot


def _in_numbers(layout: tuple[Any, ...], tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return a layout with symbols as numbers: of a jagged tensor, that of all its rows."""
    shape, stride, dtype, device = layout
    if tensor.is_nested:
        rows: Any = tensor._values
        return rows.shape, (), dtype, device
    return (*(tuple(map(hint, sizes)) for sizes in (shape, stride)), dtype, device)


def hint(size: int | torch.SymInt) -> int:
    """Return what a symbolic size was made from, 0 if from nothing, without a guard on it."""
    return size if isinstance(size, int) else int(size.node.hint or 0)


def _layout_without_storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    try:
        shape: Any = tensor.shape
    except (RuntimeError, ValueError):  # an uninitialised parameter
        shape = ()
    return shape, (), tensor.dtype, tensor.device


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """Return a tensor's storage, None if it has none that is its own."""
    try:
        return tensor.untyped_storage()
    except _NO_STORAGE:
        return None


def storage_ref(tensor: torch.Tensor) -> ref[torch.UntypedStorage] | None:
    """Return the weak reference to its storage, of which there is one as long as it is held."""
    try:
        return ref(tensor.untyped_storage())
    except _NO_STORAGE:
        return None


def node_of(tensor: torch.Tensor) -> Any:
    """Return the autograd node that made a tensor, None if none did or torch does not say."""
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view made in no_grad, whose base was written with grad on
        return None
