"""What is made of a tensor before it is saved: cut from its graph, moved, cast, transformed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from opscope.capture.log.event_log import Log
from opscope.capture.log.snapshots import storage_of
from opscope.capture.unchanged.outside import (
    applied,
    described,
    drop_frames,
    has_own_dispatch,
    line_of,
    unseen,
)
from opscope.torch_api import DisableTorchFunction, is_wrapper_subclass

Transform = Callable[[torch.Tensor], Any]


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How activations, or gradients, are saved.

    Attributes:
        detach: Whether they are cut from the autograd graph.
        device: Where they are moved to; None for where they are.
        dtype: What floating point numbers are cast to; None for what they are.
        transform: What is applied to each; what it returns is saved.
        careful: Whether a transform may write what it is given, or keep it, and is given a copy.
    """

    detach: bool = True
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    transform: Transform | None = None
    copy_first: bool = True


class Failed(NamedTuple):
    """Stands for what could not be saved.

    Attributes:
        option: The option that is to blame, ``"transform"`` for one; None for none.
        error: What was raised.
        line: Where, as ``"file:line"``.
    """

    option: str | None
    error: Exception
    line: str

    def __str__(self) -> str:
        return described(self.error, self.line)


def saved_form(
    tensor: torch.Tensor,
    options: SaveOptions,
    transform: Transform | None,
    log: Log | None = None,
    *,
    copy: bool = False,
) -> Any:
    """Return what is to be saved of a tensor, a `Failed` where that cannot be made.

    Args:
        tensor: The tensor.
        options: How it is saved.
        transform: What is applied to it in the end.
        log: Where nothing is to be written of what the transform runs.
        copy: Whether it is to have memory of its own; without a transform it may not.
    """
    copy = copy or (transform is not None and options.copy_first)
    option: str | None = None
    try:
        with DisableTorchFunction(), unseen(tensor):
            found = tensor.detach() if options.detach else tensor
            option = "dtype" if options.dtype is not None else "device"
            found = _converted(found, options)
            option = None
            if copy and _shares_memory(found, tensor):
                found = found.clone()
            found = in_class_of(tensor, found)
        if transform is None:
            return found
        option = "transform"
        if options.copy_first:
            return applied(transform, found, log)
        with DisableTorchFunction(), unseen(tensor):
            return transform(found)
    except Exception as error:  # noqa: BLE001 (it is told to whoever asks for the activation)
        return _failed(option, error)


def in_class_of(tensor: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return a tensor that was made of another past its ``__torch_function__``, in its class.

    What the program set on that one is on it too. A parameter's is a plain tensor, as it is
    what ``detach`` gives, and one whose class has its own dispatch is whatever that says.
    """
    kind = tensor.__class__
    if (
        found.__class__ is kind
        or found.__class__ is not torch.Tensor
        or issubclass(kind, torch.nn.Parameter)
        or has_own_dispatch(tensor)
    ):
        return found
    found = found.as_subclass(kind)
    found.__dict__.update(tensor.__dict__)
    return found


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that one of a class with its own dispatch says it is made of."""
    if not is_wrapper_subclass(tensor):
        return []
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _converted(tensor: torch.Tensor, options: SaveOptions) -> torch.Tensor:
    dtype = options.dtype
    if dtype is not None and not (
        tensor.is_floating_point() or (tensor.is_complex() and dtype.is_complex)
    ):
        dtype = None
    if options.device is None and dtype is None:
        return tensor
    return tensor.to(device=options.device, dtype=dtype)


def _shares_memory(found: torch.Tensor, tensor: torch.Tensor) -> bool:
    if has_own_dispatch(tensor) or found is tensor:
        return True
    one, other = storage_of(found), storage_of(tensor)
    return one is None or other is None or bool(one._cdata == other._cdata)


def _failed(option: str | None, error: Exception) -> Failed:
    """Take down an error without its frames, which keep alive all that is in them."""
    line = line_of(error)
    drop_frames(error)
    return Failed(option, error, line)
