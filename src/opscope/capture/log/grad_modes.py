"""Which stretches of a program were put into a grad mode of their own, by which module.

The mode at an op does not tell: what ran under ``torch.no_grad()`` inside a model that was itself
called under it looks like the rest, and is not to be differentiated when the rest is.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, Literal

import torch

from opscope.records.recording import GradRegion

Step = Literal["enter", "with", "exit", "set"]
_ENTERS = (torch.no_grad.__enter__, torch.enable_grad.__enter__)
_EXITS = (torch.no_grad.__exit__, torch.enable_grad.__exit__, torch.set_grad_enabled.__exit__)
_STEPS: dict[int, Step] = {
    **{id(function.__code__): "enter" for function in _ENTERS},
    **{id(function.__code__): "exit" for function in _EXITS},
    id(torch.set_grad_enabled.__enter__.__code__): "with",
}


def grad_mode() -> tuple[bool, bool]:
    """Return whether autograd records, and whether inference mode is on."""
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def step_of(frame: FrameType | None) -> Step:
    """Return what the code that sets the grad mode does it for.

    ``set_grad_enabled`` does so twice where it is a context: as it is made, and as it is entered.
    """
    for at in (frame, None if frame is None else frame.f_back):
        if at is not None and (step := _STEPS.get(id(at.f_code))) is not None:
            return step
    return "set"


class Region:
    """Ops from ``start`` to ``stop`` under a mode that was set inside of the block.

    Attributes:
        enabled: Whether autograd records in it.
        start: Its first op.
        stop: The op after its last, None while it goes on.
        run: The module run that set it.
        is_context: Whether it ends where it is left; else where another mode is set.
        hidden: Whether a custom autograd function set it for its own forward.
    """

    __slots__ = ("enabled", "hidden", "is_context", "run", "start", "stop")

    def __init__(
        self, start: int, run: int, *, enabled: bool, is_context: bool, hidden: bool
    ) -> None:
        self.start = start
        self.run = run
        self.enabled = enabled
        self.is_context = is_context
        self.hidden = hidden
        self.stop: int | None = None


class GradModes:
    """Follows the grad mode through a trace.

    Attributes:
        regions: In the order in which they began.
        at_first: What ``enabled`` and ``inference`` were when the block was first entered.
        enabled: What the mode is now, as far as it is known.
        inference: Whether inference mode was on when the block, or the model, was last entered.
    """

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.at_first: tuple[bool, bool] | None = None
        self.enabled = self.inference = False
        self._open: list[Region] = []

    def mark(self) -> tuple[Any, ...]:
        """Return all that is known, see `go_back`."""
        now = self.at_first, self.enabled, self.inference
        return len(self.regions), now, [(region, region.is_context) for region in self._open]

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """Know again what was known."""
        count, (self.at_first, self.enabled, self.inference), still_open = mark
        del self.regions[count:]
        self._open = [region for region, _ in still_open]
        for region, is_context in still_open:
            region.is_context, region.stop = is_context, None

    def begin(self, op: int) -> None:
        """Forget what was set before: the block is entered, in the mode that there is now."""
        self.at_first = self.at_first or (self.enabled, self.inference)
        self._close(len(self._open), op)

    def change(self, op: int, run: int, *, enabled: bool, step: Step, hidden: bool) -> None:
        """Note that the mode was set."""
        self.enabled = enabled
        last = self._open[-1] if self._open else None
        if step == "exit":
            contexts = [at for at, region in enumerate(self._open) if region.is_context]
            if contexts:
                self._close(len(self._open) - contexts[-1], op)
            return
        if step == "with" and last is not None and not last.is_context:
            last.is_context = True
            return
        if step == "set" and last is not None and not last.is_context:
            self._close(1, op)
        is_context = step != "set"
        region = Region(op, run, enabled=enabled, is_context=is_context, hidden=hidden)
        self._open.append(region)
        self.regions.append(region)

    def records(self, end: int) -> tuple[GradRegion, ...]:
        """Return the regions that the program set, up to an op."""
        found = []
        for region in self.regions:
            ops = range(region.start, end if region.stop is None else region.stop)
            if ops and not region.hidden:
                run = None if region.run < 0 else region.run
                found.append(GradRegion(region.enabled, ops, run))
        return tuple(found)

    def _close(self, count: int, op: int) -> None:
        for _ in range(count):
            self._open.pop().stop = op
