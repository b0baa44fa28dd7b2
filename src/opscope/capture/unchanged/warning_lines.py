"""Warnings raised inside the block: they are blamed on the file and line that they are outside.

Python blames a warning on a frame, so many levels up from where it is raised, and goes by the
module of that frame: which filters apply, and what was shown before. Under a trace there are
frames that there are none of outside: the watchers' own, `handle_torch_function` with the
function that asked it, and the one that a module with hooks runs in.

So a filter stands before all others. It takes what is raised above such a frame, and has it
raised again for the frame that has as many frames below it outside. Nothing is done until there
is a warning.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from os import sep
from pathlib import Path
from threading import RLock, local
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from opscope.capture.unchanged.outside import applied
from opscope.torch_api import (
    BACKWARD_HOOKS,
    BACKWARD_PRE_HOOKS,
    CALL_MODULE,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    has_any_global_hook,
)

_OURS = str(Path(__file__).parents[1]) + sep
_ASKS = torch.overrides.handle_torch_function.__code__
_INNER = next((c for c in CALL_MODULE.co_consts if getattr(c, "co_name", "") == "inner"), None)
# Where we run code of the user's; what we do elsewhere is nothing of the program's.
_RUN_IT = tuple(
    _OURS + name.replace("/", sep)
    for name in ("watch/functions.py", "watch/dispatch.py", "unchanged/warning_lines.py")
)
_NEAR = 8  # how many frames a torch function may be made of
# Called whenever filters were changed; since Python 3.14 under another name.
_CHANGED = (
    "_filters_mutated_lock_held"
    if hasattr(warnings, "_filters_mutated_lock_held")
    else "_filters_mutated"
)
_SHOW = "_showwarnmsg"
_MOST_LISTS = 64  # of filters, which the program may make anew at every step


class _Caller(nn.Module):
    def forward(self) -> int:
        return sys._getframe(1).f_lineno


# The line of torch's that calls a module which has no hooks; None if that is not to be had.
_LINE_WITHOUT_HOOKS: int | None = None if has_any_global_hook() else _Caller()()


class _Now(local):
    """What this thread is at.

    Attributes:
        taken: The module that the warning at hand was blamed on, if it was taken.
        placed: Whether the warning at hand was raised again.
    """

    taken: str | None = None
    placed = False


_now = _Now()


class _Misplaced:
    """Stands in a filter for the pattern of module names."""

    def match(self, module: str) -> bool:
        """Whether a warning may be blamed on the wrong frame, being blamed on this module."""
        _now.taken = None
        if _now.placed:
            return False
        stack = list(_stack(sys._getframe(1)))
        first = next((i for i, (_, is_extra) in enumerate(stack) if is_extra), len(stack))
        if any(frame.f_globals.get("__name__") == module for frame, _ in stack[first:]) or (
            _is_own_doing(stack)
        ):
            _now.taken = module
        return _now.taken is not None


class WarningLines:
    """Keeps filters before all others, as long as any trace is being recorded.

    Args:
        others: More of them.
    """

    def __init__(self, *others: tuple[Any, ...]) -> None:
        self._entries = (("always", None, Warning, _Misplaced(), 0), *others)
        self._own = {id(entry) for entry in self._entries}
        self._users: set[int] = set()
        self._lists: list[list[Any]] = []
        self._originals: dict[str, Callable[..., Any]] = {}
        self._lock = RLock()

    def start(self, user: int) -> None:
        """Put the filters there, if they are not there for another user."""
        with self._lock:
            self._users.add(user)
            for name, function in ((_CHANGED, self._changed), (_SHOW, self._show)):
                if not self._is_own(name):
                    self._originals[name] = getattr(warnings, name)
                    setattr(warnings, name, function)
        # Not by `filterwarnings`: it has each warning that was shown once shown once more.
        self._put_first()

    def stop(self, user: int) -> None:
        """Take them out of every list they are in, if this was the last user."""
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            for filters in self._lists:
                self._take_out(filters)
            self._lists.clear()
            for name, function in self._originals.items():
                if self._is_own(name):
                    setattr(warnings, name, function)

    def _is_own(self, name: str) -> bool:
        return getattr(getattr(warnings, name), "__self__", None) is self

    def _changed(self) -> None:
        self._originals[_CHANGED]()
        if self._users:
            self._put_first()

    def _put_first(self) -> None:
        """Put the filters before those that there are now."""
        filters = warnings._get_filters() if hasattr(warnings, "_get_filters") else warnings.filters
        if not isinstance(filters, list):
            return
        # `catch_warnings` puts a list back when it is left, and says so: no need to know them all.
        self._lists = [*(known for known in self._lists if known is not filters), filters]
        first = zip(filters, self._entries, strict=False)
        if len(filters) < len(self._entries) or any(one is not entry for one, entry in first):
            self._take_out(filters)
            filters[:0] = self._entries
        while len(self._lists) > _MOST_LISTS:
            self._take_out(self._lists.pop(0))

    def _take_out(self, filters: list[Any]) -> None:
        if not self._own.isdisjoint(map(id, filters)):
            filters[:] = [one for one in filters if id(one) not in self._own]

    def _show(self, message: Any) -> None:
        """Show a warning, or raise it again where it was taken to be misplaced."""
        module, _now.taken = _now.taken, None
        stack = [] if module is None else list(_stack(sys._getframe(1)))
        if module is None:
            placed, _now.placed = _now.placed, False  # who shows it may warn of something else
            try:
                self._originals[_SHOW](message)
            finally:
                _now.placed = placed
        elif not _is_own_doing(stack):
            _raise_again(message, module, stack)


def _raise_again(message: Any, module: str, stack: list[tuple[FrameType, bool]]) -> None:
    """Raise a warning for the frame that it is raised for outside."""
    filename, line, registry = message.filename, message.lineno, None
    level = next((i for i, (frame, _) in enumerate(stack) if _is_at(frame, filename, line)), None)
    if level is None:  # it was told where it belongs, or comes from below the stack
        registry = vars(sys.modules.get(module, sys)).get("__warningregistry__")
    else:
        outside = [i for i, (_, is_extra) in enumerate(stack) if not is_extra]
        at = outside[min(level, len(outside) - 1)]
        frame = stack[at][0]
        if at != level:
            filename, line = frame.f_code.co_filename, frame.f_lineno
            if frame.f_code is CALL_MODULE and stack[at - 1][1] and _LINE_WITHOUT_HOOKS:
                line = _LINE_WITHOUT_HOOKS
        module = frame.f_globals.get("__name__", "<string>")
        registry = frame.f_globals.setdefault("__warningregistry__", {})
    _now.placed = True
    try:
        warnings.warn_explicit(
            message.message, message.category, filename, line, module, registry,
            source=message.source,
        )  # fmt: skip
    finally:
        _now.placed = False


def _is_own_doing(stack: list[tuple[FrameType, bool]]) -> bool:
    """Whether a watcher does on its own account what a warning is raised of, such as a copy."""
    codes = (frame.f_code for frame, _ in stack)
    nearest = next((code for code in codes if code.co_filename.startswith(_OURS)), None)
    if nearest is None or nearest is applied.__code__:
        return False
    return nearest.co_filename not in _RUN_IT


def _is_at(frame: FrameType, filename: str, line: int) -> bool:
    return frame.f_lineno == line and frame.f_code.co_filename == filename


def _stack(frame: FrameType | None) -> Iterator[tuple[FrameType, bool]]:
    """Yield a frame and those above it, each with whether there is none like it outside."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    extra: set[int] = set()
    for place, frame in enumerate(frames):
        code = frame.f_code
        if code is _INNER:
            is_extra = not _has_hooks_outside(frame.f_locals["self"])
        else:
            is_extra = place in extra or code.co_filename.startswith(_OURS)
            if is_extra and place not in extra:
                extra.update(_asking(frames, place))
        yield frame, is_extra


def _asking(frames: list[FrameType], place: int) -> Iterator[int]:
    """Yield the frames above a handler that are there to ask it, and run again below it."""
    if place + 1 == len(frames) or frames[place + 1].f_code is not _ASKS:
        return
    yield place + 1
    below: CodeType | None = frames[place - 1].f_code if place else None
    near = range(place + 2, min(place + 2 + _NEAR, len(frames)))
    twin = next((i for i in near if frames[i].f_code is below), None)
    if twin is not None:
        yield from range(place + 2, twin + 1)


def _has_hooks_outside(module: nn.Module) -> bool:
    """Whether a module that runs has other hooks than a trace's."""
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or BACKWARD_HOOKS
        or BACKWARD_PRE_HOOKS
    ):
        return True
    hooks: list[Any] = [
        *FORWARD_HOOKS.values(),
        *FORWARD_PRE_HOOKS.values(),
    ]
    return not all(_is_ours(hook) for hook in hooks)


def _is_ours(hook: Any) -> bool:
    code = getattr(getattr(hook, "__func__", None), "__code__", None)
    return code is not None and code.co_filename.startswith(_OURS)
