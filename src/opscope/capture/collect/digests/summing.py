"""A tensor in a few numbers: norm, mean, bounds, and some of its elements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch

from opscope.capture.collect.digests.exact_hash import CHUNK, SHORT, ExactHash
from opscope.capture.collect.nonfinite.looking import is_wrapper
from opscope.records.values import SAMPLES, Digest

_WIDE = (torch.float32, torch.float64)
_SMALL = 1e-15  # of numbers below, `float32` has not all digits of the squares
_LARGEST_EXPANDED = 1 << 28  # bytes that are written out for elements that share memory
# What a device says that cannot do it: nothing is known of such a value, and the program goes on.
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, MemoryError)


def digest_of(tensor: torch.Tensor) -> Digest | None:
    """Return the digest of a tensor as it is now; to be called where no mode sees it.

    None of one that has no elements in plain memory: on the meta device, fake, sparse, nested,
    quantised, or of a class that wraps other tensors; and of one whose elements share so
    little memory that to write them out would take much more.
    """
    if not _is_plain(tensor):
        return None
    exact = ExactHash(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}")
    flat = _flat(tensor)
    sums = Sums()
    for part in _parts(flat):
        exact.add(part)
        sums.add(part)
    return Digest(
        exact.hex(), sums.norm, sums.mean, sums.minimum, sums.maximum, sums.nonfinite, sample(flat)
    )


def sample(flat: torch.Tensor) -> tuple[float, ...]:
    """Return elements at places spread evenly over a flat tensor, the first and last among them."""
    count = flat.numel()
    if count > SAMPLES:
        flat = _bytes_if_small(flat)[_places(count, str(flat.device))].view(flat.dtype)
    return tuple(map(float, _computable(flat).tolist()))


class Sums:
    """What is told of the elements together.

    Attributes:
        nonfinite: How many are NaN or infinite; they are left out of the rest.
    """

    __slots__ = ("_count", "_least", "_most", "_norms", "_total", "nonfinite")

    def __init__(self) -> None:
        self.nonfinite = self._count = 0
        self._total = 0.0
        self._norms: list[float] = []
        self._least, self._most = math.inf, -math.inf

    def add(self, part: torch.Tensor) -> None:
        """Take up a flat tensor."""
        if part.numel() <= SHORT:
            self._add_few(part)
            return
        numbers = _computable(part)
        least, most = (bound.item() for bound in torch.aminmax(numbers))
        if not (math.isfinite(least) and math.isfinite(most)):
            finite = numbers[numbers.isfinite()]
            self.nonfinite += numbers.numel() - finite.numel()
            if finite.numel():
                self.add(finite)
            return
        total = numbers.sum().item()
        norm = torch.linalg.vector_norm(numbers).item()
        largest = max(-least, most)
        if not (math.isfinite(total) and math.isfinite(norm)) or 0 < largest < _SMALL:
            # Squares that are out of range, or all but zero.
            scaled = numbers.double() / largest
            total = largest * scaled.sum().item()
            norm = largest * torch.linalg.vector_norm(scaled).item()
        self._take(numbers.numel(), total, norm, least, most)

    def _add_few(self, part: torch.Tensor) -> None:
        numbers = list(map(float, _computable(part).tolist()))
        finite = [number for number in numbers if math.isfinite(number)]
        self.nonfinite += len(numbers) - len(finite)
        if finite:
            try:
                total = math.fsum(finite)
            except OverflowError:  # which is infinite where many are summed up
                total = sum(finite)
            self._take(len(finite), total, math.hypot(*finite), min(finite), max(finite))

    def _take(self, count: int, total: float, norm: float, least: float, most: float) -> None:
        self._count += count
        self._total += total
        self._norms.append(norm)
        self._least, self._most = min(self._least, least), max(self._most, most)

    @property
    def norm(self) -> float:
        """Square root of the sum of the squares."""
        return math.hypot(*self._norms)

    @property
    def mean(self) -> float:
        """Mean, 0 where there is nothing finite."""
        return self._total / self._count if self._count else 0.0

    @property
    def minimum(self) -> float:
        """The least, 0 likewise."""
        return float(self._least) if self._count else 0.0

    @property
    def maximum(self) -> float:
        """The greatest, 0 likewise."""
        return float(self._most) if self._count else 0.0


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements lie in memory that can be read."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    if tensor.is_nested or tensor._is_zerotensor() or is_wrapper(tensor):
        return False
    if tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return False  # to look would break off the capture
    nbytes = tensor.numel() * tensor.itemsize
    return nbytes <= max(2 * tensor.untyped_storage().nbytes(), _LARGEST_EXPANDED)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements in their order, complex ones as two each, beginning at a whole word."""
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.contiguous())
    flat = tensor.contiguous().view(-1)
    return flat.clone() if flat.storage_offset() * flat.itemsize % 8 else flat


def _parts(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a flat tensor in parts that stay in the cache, whole where there is none to stay in."""
    size = 8 * CHUNK // flat.itemsize
    if flat.numel() <= size or flat.device.type != "cpu":
        return iter((flat,))
    return iter(flat.split(size))


def _computable(flat: torch.Tensor) -> torch.Tensor:
    """Return numbers that the device computes with, and exactly these."""
    if flat.dtype in _WIDE:
        return flat
    return flat.float() if flat.is_floating_point() else flat.double()


def _bytes_if_small(flat: torch.Tensor) -> torch.Tensor:
    """Return what elements of one byte can be picked from: no kernel picks 8-bit floats."""
    return flat.view(torch.uint8) if flat.itemsize == 1 else flat


@lru_cache(maxsize=1024)
def _places(count: int, device: str) -> torch.Tensor:
    places = [place * (count - 1) // (SAMPLES - 1) for place in range(SAMPLES)]
    return torch.tensor(places, device=device)
