"""What the log says of the tensors that a module is given and gives."""

from __future__ import annotations

from types import FrameType
from typing import Any
from weakref import ref

import torch

from opscope.capture.log.containers import Contents, arguments, contents, tensors_of
from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Live, Nested
from opscope.records.containers import tensor_paths
from opscope.torch_api import DisableTorchFunction

_Tensor = torch.Tensor


class ModuleValues:
    """Looks into what modules are given and give.

    Args:
        log: Where it is to be written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def given(self, args: tuple[Any, ...], frame: FrameType | None) -> Live | Nested:
        """Return what the log says of the arguments of a module; with a frame, also named ones."""
        named = None if frame is None else named_in(frame)
        if len(args) == 1 and not named and type(args[0]) is _Tensor:  # `__class__` may lie
            live = ref(args[0])
            if id(live) in self._log.known:
                return live  # nearly always
        with DisableTorchFunction():
            structure, tensors = arguments(args, named)
            return Nested(structure, list(map(self._log.read, tensors)))

    def gave(self, value: Any) -> Live | Nested:
        """Return what the log says of the tensors in what a module gives."""
        if type(value) is _Tensor:  # `__class__` may be what a user's class likes
            live = ref(value)
            if id(live) in self._log.known:
                return live  # nearly always
        with DisableTorchFunction():
            structure, tensors = contents(value)
            return Nested(structure, list(map(self._log.read, tensors)))

    def notes(self, value: Any) -> list[Any] | None:
        """Make notes of the tensors in a value, if that is wanted, unless there are some."""
        if self._log.keep_again is None:
            return None
        if type(value) is _Tensor:  # `__class__` may be what a user's class likes
            return [self._log.keep_again(value)]  # nearly always
        return list(map(self._log.keep_again, tensors_of(value)))


def by_path(found: Contents) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors in a value, each with its path."""
    return list(zip(tensor_paths(found.structure), found.tensors, strict=True))


def named_in(frame: FrameType) -> dict[str, Any]:
    """Return the keyword arguments of a module, which no global hook is given."""
    found: dict[str, Any] | None = frame.f_locals.get("kwargs")
    return found or {}
