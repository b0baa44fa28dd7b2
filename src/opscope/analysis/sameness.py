"""Whether two tensors are the same, bit for bit, and lie in memory the same way."""

from __future__ import annotations

import torch

from opscope.capture.unchanged.outside import has_own_dispatch
from opscope.records.values import Value
from opscope.torch_api import FakeTensor, has_internal_overlap, is_wrapper_subclass


def layout_problem(value: Value, found: torch.Tensor) -> str | None:
    """Return what is different about how a tensor lies in memory, None if nothing is."""
    if value.storage is None:
        return None
    recorded = (value.shape, value.stride, value.offset)
    computed = (tuple(found.shape), found.stride(), found.storage_offset())
    if recorded == computed:
        return None
    return "shape {}, stride {} and offset {} were computed ".format(
        *computed
    ) + "where {}, {} and {} were recorded".format(*recorded)


def what_differs(expected: torch.Tensor, found: torch.Tensor) -> str | None:
    """Return what is different about two tensors, None if they are equal bit for bit."""
    parts = list(zip(_parts(expected), _parts(found), strict=True))
    if parts:
        return next(filter(None, (what_differs(*pair) for pair in parts)), None)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return (
            f"{found.dtype}{list(found.shape)} was computed "
            f"where {expected.dtype}{list(expected.shape)} was recorded"
        )
    if expected.device.type == "meta" or isinstance(expected, FakeTensor):
        return None  # it has no elements
    if expected.layout != torch.strided or expected.is_quantized:
        same = bool(torch.equal(expected.to_dense(), found.to_dense()))
        return None if same else "other elements were computed than recorded"
    before, after = _bytes(expected), _bytes(found)
    if torch.equal(before, after):
        return None
    wrong = int((before != after).view(-1, expected.element_size()).any(1).sum())
    return f"{wrong:,} of {expected.numel():,} elements differ from what was recorded"


def can_compare(tensor: torch.Tensor) -> bool:
    """Whether a tensor is plain, or says what it is made of: a class may refuse any operator."""
    return (
        not has_own_dispatch(tensor)
        or isinstance(tensor, FakeTensor)
        or is_wrapper_subclass(tensor)
    )


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that a tensor with a class of its own, or a nested one, is made of."""
    if tensor.__class__ is torch.Tensor and not tensor.is_nested:
        return []  # nearly always
    if tensor.is_nested and tensor.layout == torch.strided:
        return list(tensor.unbind())
    if not is_wrapper_subclass(tensor):
        return []
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return [part for part in parts if isinstance(part, torch.Tensor)]


def can_fill(expected: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether one can be written over another, element by element."""
    return (
        expected.shape == tensor.shape
        and expected.dtype == tensor.dtype
        and tensor.layout == torch.strided
        and not tensor._is_zerotensor()
        and has_internal_overlap(tensor) != 1
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    if plain.stride() == (1,) and not plain._is_zerotensor():
        return plain.view(torch.uint8)
    return plain.clone(memory_format=torch.contiguous_format).view(torch.uint8)
