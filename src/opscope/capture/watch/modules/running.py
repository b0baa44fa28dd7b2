"""The runs of modules that are going on, and what is to be undone when one of them ends."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from threading import get_ident
from time import perf_counter_ns
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Chain, Enter, Leave, Live, Nested, Notes
from opscope.capture.unchanged.stacks import OnStack
from opscope.capture.unchanged.tracers import is_tracing
from opscope.capture.watch.compiled import Region
from opscope.capture.watch.modules.module_info import ModuleInfo
from opscope.records.columns.columns import NONE
from opscope.torch_api import count_dispatch_modes, current_graph_task

if TYPE_CHECKING:
    from opscope.capture.watch.functions import FunctionCalls


class Running:
    """Writes where runs begin and end.

    Args:
        log: Where to write.

    Attributes:
        stack: Of each run that is going on, the innermost last, what torch calls hooks with, the
            frame that calls it and the run's number.
        outermost: The frame around the ``with`` block, where the calling context of a bare call ends.
        tops: The modules that ran in no other one.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.stack: list[tuple[nn.Module, FrameType, int]] = []
        self.outermost: FrameType | None = None
        self.tops: dict[int, None] = {}

    def is_elsewhere(self) -> bool:
        """Whether a module runs that is no part of the program that is watched."""
        return (
            get_ident() != self._log.thread
            or current_graph_task() != -1  # a checkpoint, say, runs it again: see `InBackward`
            or (count_dispatch_modes() > 1 and is_tracing())
        )

    def begin(
        self,
        known: ModuleInfo,
        chain: Chain,
        given: Live | Nested,
        notes: Notes,
        entry: tuple[nn.Module, FrameType, int],
    ) -> None:
        """Write that a run begins, and have it be the innermost: both, whatever interrupts that."""
        log, stack, (_, frame, run) = self._log, self.stack, entry
        event = Enter, log.op_count, known.index, chain, given, log.run, perf_counter_ns(), notes
        try:
            log.events += event
            if not stack:
                self.tops[known.index] = None
            stack.append(entry)
            log.run, log.boundary = run, frame
            log.run_count = run + 1
        except BaseException:
            last = log.events[-len(event) :]
            if len(last) == len(event) and all(map(is_, last, event)):  # it was written
                if not stack or stack[-1] is not entry:
                    stack.append(entry)
                log.run_count = run + 1
            raise
        if log.eager:
            log.ingest()

    def end(self, run: int, gave: Live | Nested, notes: Notes, *, failed: bool = False) -> None:
        """Write that the innermost run ends."""
        stack, log = self.stack, self._log
        log.events += (Leave, log.op_count, run, gave, perf_counter_ns(), failed, notes)
        _, log.boundary, log.run = stack[-2] if len(stack) > 1 else (None, self.outermost, NONE)
        stack.pop()  # last: what is interrupted before is ended once more, as failed
        if log.eager:
            log.ingest()


def function_mode_aside(functions: FunctionCalls | None) -> bool:
    """Take the function mode off the stack if it is the one on top; return whether it was."""
    on_stack = None if functions is None else functions.on_stack
    return on_stack is not None and on_stack.step_aside()


def call_last(module: nn.Module, last: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Have a function called after all forward hooks that a module has, with what it gives."""

    # A function, as a copy of the model that its forward makes must not copy the tables.
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return last(module, output)

    handle = RemovableHandle(module._forward_hooks)
    module._forward_hooks[handle.id] = hook
    return handle


def is_below(frame: FrameType | None, boundary: FrameType | None) -> bool:
    """Whether a frame was called, over whatever others, from the frame of a module call."""
    while frame is not None:
        if frame is boundary:
            return True
        frame = frame.f_back
    return False


class RunCleanup:
    """What is to be undone when a run ends, and what stands for what.

    Attributes:
        bad: The error to raise as it ends.
        inner: The module itself, if a compiled one that stands for it was called.
        is_result: Whether collectors look at what it gives: that of the model itself.
        last_hook: A forward hook of the module's, after all others.
        region: What Inductor made of the module, while it runs unseen.
        resume: Whether the function mode stepped aside.
    """

    __slots__ = ("bad", "inner", "is_result", "last_hook", "region", "resume")

    def __init__(self, inner: nn.Module | None) -> None:
        self.bad: Exception | None = None
        self.inner = inner
        self.last_hook: RemovableHandle | None = None
        self.region: Region | None = None
        self.is_result = self.resume = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to undo, or to know."""
        return bool(self.resume or self.region or self.last_hook or self.inner or self.is_result)

    def undo(self, function_mode: OnStack | None) -> None:
        """Put back what was taken away; twice is harmless."""
        if self.last_hook is not None:
            self.last_hook.remove()
        if self.region is not None:
            self.region.come_back()
            self.region = None
        if self.resume and function_mode is not None:
            function_mode.come_back()
            self.resume = False
