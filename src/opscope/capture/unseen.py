"""Doing something with tensors that no mode is to see, and putting random numbers back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_PLAIN: Any = torch.Tensor.__torch_dispatch__
_no_dispatch = torch._C._DisableTorchDispatch


def has_own_dispatch(tensor: torch.Tensor) -> bool:
    """Whether a tensor's class says what operators do with it: it may have no memory itself."""
    own: Any = tensor.__class__.__torch_dispatch__
    return own is not _PLAIN


def unseen(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which no dispatch mode sees what is done with a tensor.

    A tensor whose class has its own dispatch is nothing without it: only the modes go.
    """
    return _disable_current_modes() if has_own_dispatch(tensor) else _no_dispatch()


def generators() -> dict[str, torch.Tensor]:
    """Return the state of each device's default random number generator."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            states[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, torch.Tensor]) -> None:
    """Put back the states of random number generators."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, name)
