"""Which devices there are."""

from __future__ import annotations

from typing import Any

import torch

from opscope.torch_api import DisableTorchDispatch, DisableTorchFunction


def device_named(device: Any) -> torch.device | None:
    """Return a device that tensors can be on, None if there is none of that name.

    >>> device_named("cpu"), device_named("nowhere")
    (device(type='cpu'), None)
    """
    try:
        found = torch.device(device)
        with DisableTorchDispatch(), DisableTorchFunction():
            torch.empty(0, device=found)
    # What torch says of one that is not here, was not built, or has no module of its own.
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, ImportError):
        return None
    return found
