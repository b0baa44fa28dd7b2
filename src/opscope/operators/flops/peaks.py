"""What a device can do at most, measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch

from opscope.errors import OptionError
from opscope.torch_api import DisableTorchDispatch, DisableTorchFunction

_SIDE = 1024  # of the matrices that are multiplied, on a CPU; 8 times that elsewhere
_BYTES = 1 << 28  # that are copied: more than caches hold
_ROUNDS = 5


class Peaks(NamedTuple):
    """What a device can do at most.

    Attributes:
        peak_flops: Floating-point operations per second.
        bandwidth: Bytes of its memory read or written per second.
    """

    peak_flops: float
    bandwidth: float


def measure_peaks(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Peaks:
    """Return what a device does at most, as torch uses it: in a large product, and in a large copy.

    It takes about a second, with as many threads as torch uses, and 512 MiB of the device's memory
    for a moment. The best of some rounds counts.

    Args:
        device: The device, such as ``"cuda"``.
        dtype: The floating-point type in which is multiplied.

    Raises:
        OptionError: For a device that runs nothing, or a type that is no floating-point type.

    >>> import torch, opscope
    >>> peaks = opscope.measure_peaks()
    >>> with opscope.trace() as trace:
    ...     y = torch.rand(256, 256) @ torch.rand(256, 256)
    >>> print(trace.breakdown(peak_flops=peaks.peak_flops, bandwidth=peaks.bandwidth)[0].bound)
    Bound(kind=..., least_ns=..., reached=...)
    """
    where = _computing(device)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        message = f"dtype: {dtype!r} (must be a floating-point type such as torch.bfloat16)"
        raise OptionError(message)
    side = _SIDE if where.type == "cpu" else 8 * _SIDE
    with DisableTorchDispatch(), DisableTorchFunction(), torch.inference_mode():
        matrix = torch.ones(side, side, device=where, dtype=dtype)
        product = torch.empty_like(matrix)
        memory = torch.ones(_BYTES, device=where, dtype=torch.uint8)
        copied = torch.empty_like(memory)
        multiply = _quickest(lambda: torch.mm(matrix, matrix, out=product), where)
        copy = _quickest(lambda: copied.copy_(memory), where)
    return Peaks(2 * side**3 / multiply, 2 * _BYTES / copy)


def _computing(device: torch.device | str) -> torch.device:
    """Return a device that computes, or raise an `OptionError`."""
    with DisableTorchDispatch(), DisableTorchFunction():
        try:
            where = torch.device(device)
            torch.ones(1, device=where)
        except (RuntimeError, TypeError, AssertionError, NotImplementedError):
            where = torch.device("meta")
    if where.type == "meta":
        message = f"device: {str(device)!r} (must be one that computes, such as 'cpu' or 'cuda')"
        raise OptionError(message)
    return where


def _quickest(run: Callable[[], object], device: torch.device) -> float:
    """Return how many seconds something takes, the least of some rounds."""

    def seconds() -> float:
        started = perf_counter()
        run()
        _wait_for(device)
        return perf_counter() - started

    seconds()  # the first allocates
    return min(seconds() for _ in range(_ROUNDS))


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
