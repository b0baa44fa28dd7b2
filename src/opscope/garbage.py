"""What large data costs beyond its bytes: the garbage collector's walks, and memory not given back."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

LARGE = 100_000  # so many ops are worth the few milliseconds


@contextmanager
def paused() -> Iterator[None]:
    """Keep the collector from walking over all that is being built, again and again.

    It takes more than half of the time that the graph of 100,000 ops takes. Also a decorator.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def give_back() -> None:
    """Have the C library give free memory back to the system, where it is glibc's, which keeps it.

    Of a million ops that are let go of it would keep 180 MB.
    """
    trim = None if sys.is_finalizing() else _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    with suppress(OSError, TypeError):  # no library that this process is linked with
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None
