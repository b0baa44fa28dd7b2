"""What numbers a tensor holds, and where it lies: looked at unseen by modes and autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import ref

import torch

from opscope.capture.log.snapshots import storage_of
from opscope.capture.unchanged.outside import has_own_dispatch
from opscope.records.flow.origins import Extent, Kinds
from opscope.records.flow.regions import region
from opscope.torch_api import (
    AutoDispatchBelowAutograd,
    DisableTorchDispatch,
    DisableTorchFunction,
    is_wrapper_subclass,
)

no_dispatch = DisableTorchDispatch
no_functions = DisableTorchFunction
below_autograd = AutoDispatchBelowAutograd
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
_COMPRESSED = frozenset({
    torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc
})  # fmt: skip
_SMALL = (torch.float16, torch.bfloat16)
_GOOD = Kinds()
_FAILURES = (RuntimeError, NotImplementedError, TypeError)  # of kernels that there are not


@contextmanager
def unseen() -> Iterator[None]:
    """Keep what is done here away from every mode and out of autograd's graph."""
    with no_dispatch(), no_functions(), below_autograd():
        yield


def kinds_of(tensor: torch.Tensor) -> Kinds:
    """Return which numbers that are not finite a tensor holds."""
    with unseen():
        return look(tensor)


def look(tensor: torch.Tensor) -> Kinds:
    """Return the same, within `unseen`."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return _GOOD
    if is_wrapper(tensor):
        return _look_at_parts(tensor)
    try:
        values = _plain(tensor)
        # A sum is not finite if a term is not; the other way round it may overflow.
        if _is_finite(values.sum()):
            return _GOOD
        if values.dtype in _SMALL and _is_finite(values.sum(dtype=torch.float32)):
            return _GOOD
        return Kinds(bool(values.isnan().any()), bool(values.isinf().any()))
    except _FAILURES:
        return _GOOD  # quantised, on the meta device: nothing to be said


def _is_finite(total: torch.Tensor) -> bool:
    return math.isfinite(abs(total.item()))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a tensor as one that can be summed."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values()
    if tensor.layout in _COMPRESSED:
        return tensor.values()
    if tensor.itemsize == 1:  # an 8-bit float, which nothing computes with
        return tensor.float()
    return tensor


def _look_at_parts(tensor: torch.Tensor) -> Kinds:
    """Look at what a tensor of a class of its own wraps; nothing is said of fake and masked ones."""
    found = _GOOD
    if is_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            part = getattr(tensor, name)
            if isinstance(part, torch.Tensor):
                found |= look(part)
    return found


def describe(tensor: torch.Tensor) -> str:
    """Return a tensor's type, sizes and range.

    >>> describe(torch.tensor([[0.5, 2.0]])), describe(torch.tensor([0.5, math.nan]))
    ('float32[1, 2] from 0.5 to 2', 'float32[2] from 0.5 to 0.5, 1 NaN')
    """
    return measured(tensor)[0]


def measured(tensor: torch.Tensor) -> tuple[str, Kinds]:
    """Return what `describe` says, and `kinds_of`, in one pass over memory where that will do."""
    text = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    plain = tensor.layout is torch.strided and not tensor.is_complex() and tensor.itemsize > 1
    if not plain or is_wrapper(tensor) or tensor.numel() == 0:
        return text, kinds_of(tensor)
    with unseen():
        try:
            least, most = (bound.item() for bound in tensor.aminmax())
            nan = math.isnan(least)
            rest = tensor[~tensor.isnan()] if nan else tensor
            if nan and rest.numel():
                least, most = (bound.item() for bound in rest.aminmax())
        except _FAILURES:
            return text, look(tensor)
    if rest.numel():
        text += f" from {least:.4g} to {most:.4g}"
    if nan:
        text += f", {tensor.numel() - rest.numel()} NaN"
    return text, Kinds(nan, math.isinf(least) or math.isinf(most))


class Lying(NamedTuple):
    """How a tensor lies in memory; holding it keeps the numbers of memory from being reused."""

    memory: ref[Any]
    dtype: torch.dtype
    device: torch.device
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    def tensor(self) -> torch.Tensor | None:
        """Return what lies there now, None if the memory is gone; within `unseen`."""
        memory = self.memory()
        if not isinstance(memory, torch.UntypedStorage):
            return memory
        covered = region(self.shape, self.stride, self.offset, self.dtype.itemsize)
        if covered is not None and memory.nbytes() < covered.stop:
            return None  # it was made smaller, as FSDP does: to show it would make it larger
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        return empty.set_(memory, self.offset, self.shape, self.stride)


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether a tensor's class has its own dispatch, so that others may hold its numbers."""
    return tensor.__class__ not in _PLAIN and has_own_dispatch(tensor)


def memory_of(tensor: torch.Tensor) -> ref[Any]:
    """Return the memory that a tensor lies in: its storage, else itself."""
    storage = None if is_wrapper(tensor) else storage_of(tensor)
    return ref(tensor) if storage is None else ref(storage)


def lying(tensor: torch.Tensor) -> tuple[Extent, Lying]:
    """Return where a tensor lies, and how."""
    memory = memory_of(tensor)
    if isinstance(memory(), torch.Tensor):
        return Extent(id(memory)), Lying(memory, tensor.dtype, tensor.device)
    offset, shape, stride = int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
    covered = region(shape, stride, offset, tensor.itemsize)
    how = Lying(memory, tensor.dtype, tensor.device, offset, shape, stride)
    return Extent(id(memory), covered), how
