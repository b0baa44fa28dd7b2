"""Interrupts at chosen moments of opscope's own code: at a call, or at a line."""

import sys
import warnings
from pathlib import Path

import torch
import torch.utils._python_dispatch as dispatch_room
from tests import witness

import opscope

FOLDER = str(Path(opscope.__file__).parent)


class Interrupt(KeyboardInterrupt):
    """What is raised; nothing else is to arrive in its place."""


class Moments:
    """Counts the moments of an action in opscope's code, and raises an `Interrupt` at one.

    Args:
        at: At which, counted from 1; 0 for at none.
        events: ``"call"`` for the entry of each function, ``"line"`` for each line.
        error: What is raised.
    """

    def __init__(self, at=0, events=("call", "line"), error=Interrupt):
        self.count, self.where = 0, None
        self._at, self._events, self._error = at, events, error
        self._before = None

    def around(self, action, *given):
        """Have it count in an action, and return what that does, None if it was interrupted."""
        self.aim()
        try:
            return alone(action, *given)
        except self._error:
            return None
        finally:
            sys.settrace(None)

    def aim(self):
        """Count from here on."""
        sys.settrace(self._watch)

    def _watch(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event in self._events:
            self.count += 1
            if self.count == self._at:
                sys.settrace(None)
                self.where = f"{event} {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise self._error
        return self._watch if "line" in self._events else None


def alone(action, *given):
    """Call a function with an own state of exceptions.

    Where one is raised as a handler begins, which no signal does, CPython may never take that
    handler's exception away: every later one of the thread would have it as its context.
    """

    def inside():
        yield action(*given)

    return next(inside())


def state():
    """Return all of torch and Python that a trace changes while it is on."""
    return (
        witness.watchers(),
        dispatch_room._is_in_torch_dispatch_mode,
        dispatch_room._is_in_non_infra_torch_dispatch_mode,
        sys.getprofile(),
        torch._C._is_torch_function_enabled(),
        torch.is_grad_enabled(),
        [item[:2] for item in warnings.filters],
        warnings._showwarnmsg,
    )
