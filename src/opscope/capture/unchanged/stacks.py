"""Our modes on torch's stacks: taken off from wherever they are, whatever interrupts that.

A mode of torch's leaves by taking the uppermost off its stack, whichever that is, and puts back
once the flags that it has found. Here both can be done again: what an interrupt left halfway is
finished the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opscope.torch_api import (
    dispatch_mode_stack,
    dispatch_modes,
    function_mode_stack,
    pop_dispatch_mode,
    pop_function_mode,
    push_dispatch_mode,
    push_function_mode,
)

# By which torch tells that a dispatch mode is on.
_FLAGS = ("_is_in_torch_dispatch_mode", "_is_in_non_infra_torch_dispatch_mode")


class OnStack:
    """One mode on one of torch's two stacks of modes, as its ``on_stack`` while it is there.

    Args:
        mode: The mode.
        stack: Returns the modes that are on, the innermost last.
        pop: Takes the innermost off.
        push: Puts one on.
    """

    def __init__(
        self,
        mode: Any,
        stack: Callable[[], list[Any]] = function_mode_stack,
        pop: Callable[[], Any] = pop_function_mode,
        push: Callable[[Any], None] = push_function_mode,
    ) -> None:
        self._mode = mode
        self._stack = stack
        self._pop = pop
        self._push = push
        # How many were on before it; what is to be left of them; whether it is off for a while.
        self._depth: int | None = None
        self._rest: list[Any] | None = None
        self._is_aside = False

    def put_on(self) -> None:
        """Put the mode on top."""
        self._mode.on_stack = self
        self._depth, self._is_aside = len(self._stack()), False
        self._push(self._mode)

    def step_aside(self) -> bool:
        """Take it off for a while, if it is the one on top; return whether it was."""
        stack = self._stack()
        if not stack or stack[-1] is not self._mode:
            return False
        self._is_aside = True
        self._pop()
        return True

    def come_back(self) -> None:
        """Put it on again."""
        self._push(self._mode)
        self._is_aside = False

    def take_off(self) -> None:
        """Take it off, and leave those on that were entered after it and are still to be left.

        If it was taken off in place of another, which left too early, that one goes.
        """
        stack = self._stack()
        if self._rest is None:
            self._rest = self._others(stack)
        rest = self._rest
        if stack and stack[-1] is self._mode and len(stack) == len(rest) + 1:
            self._pop()  # nearly always
        else:
            self._rearrange(rest)
        self._depth = self._rest = self._mode.on_stack = None

    def _rearrange(self, rest: list[Any]) -> None:
        """Have these be all that are on the stack."""
        kept = 0
        for mode, other in zip(self._stack(), rest, strict=False):
            if mode is not other:
                break
            kept += 1
        while len(self._stack()) > kept:
            self._pop()
        while len(self._stack()) < len(rest):
            self._push(rest[len(self._stack())])

    def _others(self, stack: list[Any]) -> list[Any]:
        """Return what is to be left of a stack."""
        others = [mode for mode in stack if mode is not self._mode]
        is_gone = len(others) == len(stack) and self._depth is not None and not self._is_aside
        return others[:-1] if is_gone and len(others) == self._depth else others


class OnDispatchStack(OnStack):
    """A dispatch mode, and the flags that say that there is one."""

    def __init__(self, mode: Any) -> None:
        super().__init__(mode, dispatch_mode_stack, pop_dispatch_mode, push_dispatch_mode)
        self._found: dict[str, bool] = {}

    def put_on(self) -> None:
        """Put the mode on top."""
        self._found = {
            name: getattr(dispatch_modes, name) for name in _FLAGS if hasattr(dispatch_modes, name)
        }
        for name in self._found:
            setattr(dispatch_modes, name, True)
        super().put_on()

    def take_off(self) -> None:
        """Take it off; what it found is for the next of ours to put back, if there is one."""
        stack = self._stack()
        at = next((at for at, mode in enumerate(stack) if mode is self._mode), None)
        above = [] if at is None else stack[at + 1 :]
        if above:
            ours = next((mode for mode in above if isinstance(mode, type(self._mode))), None)
            if ours is not None:
                ours.on_stack._found = self._found
            self._found = {}
        super().take_off()
        for name, flag in self._found.items():
            setattr(dispatch_modes, name, flag)
        self._found = {}
