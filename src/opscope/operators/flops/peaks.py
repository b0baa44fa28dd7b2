"""What a device can do at most, measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch

from opscope.errors import OptionError
from opscope.operators.devices import device_named
from opscope.torch_api import DisableTorchDispatch, DisableTorchFunction

_SIDE = 1024  # of the matrices that are multiplied, on a CPU; 8 times that elsewhere
_BYTES = 1 << 28  # that are copied: more than caches hold
_ROUNDS = 5
_SECONDS = 1  # after which no further round begins: types that a device only emulates take long


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
    for a moment. The best of some rounds counts; of a type that the device only emulates, as a CPU
    does those of 8 bits, there is one, of a few seconds.

    Args:
        device: The device, such as ``"cuda"``.
        dtype: The floating-point type in which is multiplied.

    Raises:
        OptionError: For a device that runs nothing, or a type in which it does not multiply.

    >>> import torch, opscope
    >>> peaks = opscope.measure_peaks()
    >>> with opscope.trace() as trace:
    ...     y = torch.rand(256, 256) @ torch.rand(256, 256)
    >>> print(trace.breakdown(peak_flops=peaks.peak_flops, bandwidth=peaks.bandwidth)[0].bound)
    Bound(kind=..., least_ns=..., reached=...)
    """
    where = _computing(device)
    _check_multiplies(dtype, where)
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
    where = device_named(device)
    if where is None or where.type == "meta":
        message = f"device: {str(device)!r} (must be one that computes, such as 'cpu' or 'cuda')"
        raise OptionError(message)
    return where


def _check_multiplies(dtype: torch.dtype, device: torch.device) -> None:
    """Raise an `OptionError` unless a device multiplies matrices of a type."""
    with DisableTorchDispatch(), DisableTorchFunction(), torch.inference_mode():
        try:
            if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
                matrix = torch.ones(16, 16, device=device, dtype=dtype)
                torch.mm(matrix, matrix)
                return
        except RuntimeError:
            pass
    message = (
        f"dtype: {dtype!r} (must be a floating-point type in which the device multiplies, such as "
        "torch.float32 or torch.bfloat16)"
    )
    raise OptionError(message)


def _quickest(run: Callable[[], object], device: torch.device) -> float:
    """Return how many seconds something takes, the least of some rounds.

    The first, which also allocates, is one of them only so that there is one of what takes long.
    """

    def seconds() -> float:
        started = perf_counter()
        run()
        _wait_for(device)
        return perf_counter() - started

    rounds = [seconds()]
    while len(rounds) <= _ROUNDS and sum(rounds) < _SECONDS:
        rounds.append(seconds())
    return min(rounds)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
