"""Running what no mode is to see, as if there was no trace."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from opscope.capture.log.event_log import Log
from opscope.torch_api import (
    DisableTorchDispatch,
    EnableTorchFunction,
    count_dispatch_modes,
    count_function_modes,
    disable_current_modes,
    pop_dispatch_mode,
    pop_function_mode,
    push_dispatch_mode,
    push_function_mode,
)

_PLAIN: Any = torch.Tensor.__torch_dispatch__


def has_own_dispatch(tensor: torch.Tensor) -> bool:
    """Whether a tensor's class says what operators do with it: it may have no memory itself."""
    own: Any = tensor.__class__.__torch_dispatch__
    return own is not _PLAIN


def unseen(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which no dispatch mode sees what is done with a tensor.

    A tensor whose class has its own dispatch is nothing without it: only the modes go.
    """
    found: AbstractContextManager[object] = (
        disable_current_modes() if has_own_dispatch(tensor) else DisableTorchDispatch()
    )
    return found


def generators() -> dict[str, torch.Tensor]:
    """Return the state of each device's default random number generator."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            states[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, torch.Tensor]) -> None:
    """Put back the states of random number generators."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, name)


def applied(function: Callable[[Any], Any], argument: Any, log: Log | None) -> Any:
    """Run code of the user's as if there was no trace, nor any other mode.

    What it draws of random numbers the program draws too, and the grad mode is as it was.
    """
    functions = [pop_function_mode() for _ in range(count_function_modes())]
    modes = [pop_dispatch_mode() for _ in range(count_dispatch_modes())]
    hidden = log is not None and log.inside_op
    states, grad = generators(), torch.is_grad_enabled()
    if log is not None:
        log.inside_op = True  # modules that it runs are none of the program's
    try:
        with EnableTorchFunction():
            return function(argument)
    finally:
        if log is not None:
            log.inside_op = hidden
        set_generators(states)
        torch.set_grad_enabled(grad)
        for mode in reversed(modes):
            push_dispatch_mode(mode)
        for mode in reversed(functions):
            push_function_mode(mode)


def described(error: Exception, line: str | None = None) -> str:
    """Return what an error of the user's code is, says, and where it was raised."""
    said = f": {text}" if (text := _text_of(error)) else ""
    return f"{type(error).__name__}{said} (at {line or line_of(error)})"


def drop_frames(error: BaseException) -> None:
    """Let go of the frames of an error, which keep alive all that is in them."""
    at: BaseException | None = error
    while at is not None:
        at.__traceback__ = None
        at = at.__context__


def line_of(error: Exception) -> str:
    """Return where an error was raised, as ``"file:line"``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (it is the user's code)
        return ""
