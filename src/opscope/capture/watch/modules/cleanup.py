"""What is to be undone when the run of a module ends."""

from __future__ import annotations

from torch import nn
from torch.utils.hooks import RemovableHandle

from opscope.capture.unchanged.stacks import OnStack
from opscope.capture.watch.compiled import Region


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
