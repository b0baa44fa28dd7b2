"""What is known of values, how far apart two are, and how far they may be for their types."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Protocol

import torch

from opscope.records.values import Digest

Held = torch.Tensor | Digest
Sketch = tuple[float, tuple[float, ...]]
"""The norm of a value, and some of its elements."""


class KnownValues(Protocol):
    """What is known of values, whatever keeps them."""

    def value(self, index: int) -> Held | None:
        """Return what a value was, None where that is not known."""

    def parameter(self, index: int) -> Held | None:
        """Return what a parameter or buffer was when it was first read, likewise."""


TOLERANCE: dict[str, float] = {
    "float64": 1e-12, "complex128": 1e-12, "float32": 1e-5, "complex64": 1e-5, "float16": 4e-3,
    "bfloat16": 3e-2, "float8_e4m3fn": 0.25, "float8_e5m2": 0.5,
}  # fmt: skip
"""How far apart, by type, may be what was computed from the same; all others are exact."""
ROUNDING: dict[str, float] = {
    "float64": 1e-15, "complex128": 1e-15, "float32": 5e-7, "complex64": 5e-7, "float16": 1e-3,
    "bfloat16": 8e-3, "float8_e4m3fn": 0.13, "float8_e5m2": 0.25,
}  # fmt: skip
"""The same of what was not computed, but given: it was rounded, at most."""
# What is greater than this, of what a type can hold, stands for infinity: it fills masks.
_NEARLY_ALL = 0.99
_SAME_SAMPLE = 1e-3
_HUGE = 1e4  # a norm that no mask is in, of whatever type


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two values are.

    Attributes:
        relative: The norm of the difference, divided by the greater of both norms; of whole numbers
            and truth values the share of elements that differ. Infinite where they cannot be compared.
        largest: The greatest difference of two elements, None where it is not known.
        nonfinite: How many elements are NaN or infinite in one of them only, or otherwise.
    """

    relative: float = 0.0
    largest: float | None = 0.0
    nonfinite: int = 0


SAME = Distance()


def distance(a: Held, b: Held) -> Distance:
    """Return how far apart two values are, of as many elements each.

    Sizes may differ, as those of a view do; matrices whose sizes are turned round are taken to be
    each other's transpose. Numbers that nearly are the greatest of their type count as infinite.

    >>> distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])).largest
    1.0
    """
    if isinstance(a, Digest) and isinstance(b, Digest):
        return _of_digests(a, b)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _of_tensors(a, b)
    return _of_digests(_summary(a), _summary(b))


def transposed(held: Held) -> Held:
    """Return a matrix turned round, of which a digest cannot tell."""
    return held.t() if isinstance(held, torch.Tensor) and held.dim() == 2 else held


def _of_tensors(a: torch.Tensor, b: torch.Tensor) -> Distance:
    a, b = _plain(a), _plain(b)
    if a.numel() != b.numel():
        return Distance(inf, None)
    if a.shape != b.shape and a.dim() == 2 and a.shape == b.shape[::-1]:
        b = b.t()
    if a.dtype == b.dtype:
        if a.shape != b.shape:
            b = b.reshape(a.shape)
        if torch.equal(a, b):
            return SAME
    if not (_is_real(a) or _is_real(b)):
        differing = int((a.reshape(-1) != b.reshape(-1)).sum())
        return Distance(differing / max(a.numel(), 1), None)
    small = max(a.element_size(), b.element_size()) <= 4
    x, y = (one.reshape(-1).to(torch.float32 if small else torch.float64) for one in (a, b))
    if not x.numel():
        return SAME
    quick = _between(x, y, _HUGE)
    if quick is not None:
        return quick
    x, y = (_finite(one, given.dtype) for one, given in ((x, a), (y, b)))
    differ = ~((x == y) | (x.isnan() & y.isnan()))
    both = x.isfinite() & y.isfinite()
    nonfinite = int((differ & ~both).sum())
    x, y = (torch.where(both, one, one.new_zeros(())).double() for one in (x, y))
    apart = _between(x, y, inf) or Distance(inf, None)
    return Distance(inf if nonfinite else apart.relative, apart.largest, nonfinite)


def _between(x: torch.Tensor, y: torch.Tensor, most: float) -> Distance | None:
    """Return how far apart two vectors are, None where a norm is not less than ``most``."""
    apart = x - y
    norm, greatest = (
        float(torch.linalg.vector_norm(apart)),
        max(float(torch.linalg.vector_norm(one)) for one in (x, y)),
    )
    if not greatest < most or not norm < inf:
        return None
    ends = torch.aminmax(apart)
    return Distance(norm / greatest if greatest else 0.0, max(float(ends.max), -float(ends.min)))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as one of real numbers in memory on the CPU, or where both are."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.cpu()


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.dtype.is_floating_point


def _finite(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers, infinite where they nearly are the greatest that a type can hold."""
    if not dtype.is_floating_point:
        return numbers
    most = torch.finfo(dtype).max * _NEARLY_ALL
    if not numbers.numel() or not float(numbers.abs().nan_to_num(0, inf).max()) >= most:
        return numbers
    return torch.where(numbers.abs() >= most, numbers.sign() * inf, numbers)


def greatest(held: Held) -> float:
    """Return the greatest finite element, whatever its sign; 0 where there is none."""
    if isinstance(held, Digest):
        return max(abs(held.minimum), abs(held.maximum))
    numbers = _plain(held).double().abs()
    numbers = _finite(numbers, held.dtype)
    finite = numbers[numbers.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def differs_anywhere(a: Held, b: Held, tolerance: float) -> bool:
    """Whether any element of what was given differs by more than rounding makes it.

    Args:
        a: A value.
        b: Another.
        tolerance: How far apart two elements may be, as a share of the greater.
    """
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return distance(a, b).relative > tolerance
    apart = distance(a, b)
    if not apart.relative:
        return False
    if apart.relative > tolerance or not tolerance:
        return True
    x, y = _plain(a), _plain(b)
    if x.shape != y.shape:
        y = y.t() if x.dim() == 2 and x.shape == y.shape[::-1] else y.reshape(x.shape)
    x, y = (one.reshape(-1).to(torch.promote_types(one.dtype, torch.float32)) for one in (x, y))
    scale = torch.maximum(x.abs(), y.abs())
    least = float(scale.max()) * 1e-6  # what is nearly nothing may vanish, in a type of few bits
    return bool(((x - y).abs_() > scale.mul_(tolerance).add_(least)).any())


def _of_digests(a: Digest, b: Digest) -> Distance:
    """Return how far apart two values are by what is known of them."""
    if a.hash and a.hash == b.hash:
        return SAME
    if len(a.sample) != len(b.sample):
        return Distance(inf, None)
    nonfinite = abs(a.nonfinite - b.nonfinite)
    pairs = list(zip(a.sample, b.sample, strict=True))
    apart = sqrt(sum((x - y) ** 2 for x, y in pairs))
    norm = max(sqrt(sum(x * x for x in one.sample)) for one in (a, b))
    parts = [apart / norm if norm else 0.0, _share(a.norm, b.norm)]
    spread = max(abs(a.maximum), abs(a.minimum), abs(b.maximum), abs(b.minimum))
    if spread:
        parts += [abs(a.mean - b.mean) / spread, abs(a.maximum - b.maximum) / spread,
                  abs(a.minimum - b.minimum) / spread]  # fmt: skip
    largest = max((abs(x - y) for x, y in pairs), default=None)
    return Distance(inf if nonfinite else max(parts), largest, nonfinite)


def _share(a: float, b: float) -> float:
    greater = max(abs(a), abs(b))
    return abs(a - b) / greater if greater else 0.0


def _summary(held: Held) -> Digest:
    """Return what a digest tells of a tensor, but for a hash and a sample."""
    if isinstance(held, Digest):
        return Digest("", held.norm, held.mean, held.minimum, held.maximum, held.nonfinite)
    numbers = _plain(held).double().reshape(-1)
    finite = numbers[numbers.isfinite()]
    if not finite.numel():
        return Digest("", nonfinite=numbers.numel())
    return Digest(
        "", float(torch.linalg.vector_norm(finite)), float(finite.mean()), float(finite.min()),
        float(finite.max()), numbers.numel() - finite.numel(),
    )  # fmt: skip


def norm_of(held: Held) -> float:
    """Return the square root of the sum of squares."""
    if isinstance(held, Digest):
        return held.norm
    numbers = _plain(held).reshape(-1)
    if not _is_real(numbers):
        numbers = numbers.double()
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64))


def sketch_of(held: Held) -> Sketch | None:
    """Return the sketch of a value, None where that says nothing."""
    if isinstance(held, Digest):
        return None if held.maximum == held.minimum else (held.norm, held.sample)
    if held.numel() < 4 or not (held.dtype.is_floating_point or held.dtype.is_complex):
        return None
    numbers = _plain(held).reshape(-1)
    step = max(1, numbers.numel() // 16)
    sample = tuple(numbers[::step][:16].tolist())
    if min(sample) == max(sample):
        return None
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)), sample


def is_alike(a: Sketch, b: Sketch) -> bool:
    """Whether two sketches are those of nearly the same values."""
    if len(a[1]) != len(b[1]) or not _share(a[0], b[0]) <= _SAME_SAMPLE:
        return False
    spread = max(*map(abs, a[1]), *map(abs, b[1]))
    pairs = zip(a[1], b[1], strict=True)
    return all(abs(x - y) <= 10 * _SAME_SAMPLE * spread for x, y in pairs)
