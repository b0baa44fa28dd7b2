"""The fused kernels of attention, which torch leaves where it sees a function mode.

Attention and the encoder's layers ask `has_torch_function`, and a mode that is on is an answer.
While a module is called, `ModuleCalls` takes the mode off. Where ``forward`` is called by itself
no hook tells of it, but the function mode hears it ask for a size or a type beforehand: from
then on Python's profiler tells of the call of `has_torch_function`, during which the modes of
traces are off. So the answer is that of outside, whatever else is on.
"""

from __future__ import annotations

import sys
from threading import local
from types import FrameType
from typing import Any

import torch
from torch import nn

from opscope.torch_api import (
    current_function_mode,
    function_mode_stack,
    pop_function_mode,
    push_function_mode,
)

# These leave their fused kernels when they see a function mode.
FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
ATTENTION = nn.MultiheadAttention.forward.__code__
LAYER = nn.TransformerEncoderLayer.forward.__code__
ENCODER = nn.TransformerEncoder.forward.__code__
_ASKS: Any = torch.overrides.has_torch_function


class _Now(local):
    """What this thread is at: the modes that are off."""

    off: tuple[Any, ...] = ()


_now = _Now()
# By ``id`` of the code of a forward, how far it is when it asks.
_asked_at: dict[int, int] = {}


def may_be_fused(module: nn.Module) -> bool:
    """Whether a module's fused kernel could run: never in training or under autograd."""
    training = module.training
    if isinstance(module, nn.TransformerEncoder) and len(module.layers):
        training = module.layers[0].training
    if training:
        return False
    return not (
        torch.is_grad_enabled()
        and any(parameter.requires_grad for parameter in module.parameters())
    )


def wait_for_question(frame: FrameType, kind: type) -> None:
    """Have function modes of a kind be off while a forward asks whether there are any.

    Args:
        frame: Where the forward runs.
        kind: The class of the modes.
    """
    if frame.f_lasti >= _asked_at.get(id(frame.f_code), sys.maxsize):
        return
    before = sys.getprofile()
    if before is not None and not (isinstance(before, _Question) and before.frame is not frame):
        return  # it waits already, or there is a profiler of the user's
    module = frame.f_locals.get("self")
    if isinstance(module, FAST_PATHS) and may_be_fused(module):
        sys.setprofile(_Question(frame, kind, before))


class _Question:
    """What Python's profiler calls until the question was asked.

    Args:
        frame: Where the forward runs.
        kind: The class of the modes.
        before: That of a forward further out, which waits again after this one.
    """

    def __init__(self, frame: FrameType, kind: type, before: _Question | None) -> None:
        self.frame = frame
        self._kind = kind
        self._before = before

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame is not self.frame:
            return
        if event == "c_call" and arg is _ASKS:
            _asked_at[id(frame.f_code)] = frame.f_lasti
            while isinstance(mode := current_function_mode(), self._kind):
                _now.off = (*_now.off, mode)
                pop_function_mode()
        elif event == "return" or (event in {"c_return", "c_exception"} and arg is _ASKS):
            sys.setprofile(self._before)
            come_back()


def stop() -> None:
    """Wait for no question any more, and put on again the modes that are off."""
    if isinstance(sys.getprofile(), _Question):
        sys.setprofile(None)
    come_back()


def come_back() -> None:
    """Put on again the modes that are off; also where that was interrupted halfway."""
    for mode in reversed(_now.off):
        if mode not in function_mode_stack():
            push_function_mode(mode)
    _now.off = ()
