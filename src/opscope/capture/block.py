"""Entering and leaving a block, each as a whole, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload
from weakref import ref

from opscope.capture.session import Session
from opscope.errors import TraceStateError

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
Kind = type[BaseException] | None
Raised = BaseException | None
Where = TracebackType | None
Leave = Callable[[Kind, Raised, Where], None]


class Exit(Generic[T]):
    """The ``__exit__`` of a class whose objects are entered and left as a `Block` each.

    Args:
        leave: Leaves the block of an object.
        block_of: Gives it.
    """

    def __init__(
        self, leave: Callable[[T, Kind, Raised, Where], None], block_of: Callable[[T], Block]
    ) -> None:
        self._leave = leave
        self._block_of = block_of

    @overload
    def __get__(self, it: None, owner: type[T]) -> Self: ...

    @overload
    def __get__(self, it: T, owner: type[T]) -> Leave: ...

    def __get__(self, it: T | None, owner: type[T]) -> Self | Leave:
        return self if it is None else self._block_of(it).exit(partial(self._leave, it))

    def __call__(self, it: T, kind: Kind, error: Raised, trace_back: Where) -> None:
        """Leave the block of an object; `contextlib.ExitStack` does so."""
        self._leave(it, kind, error, trace_back)


class Block:
    """A ``with`` block that is watched; entered again it is watched on.

    Args:
        new_session: Makes what watches.

    Attributes:
        session: What watches.
        state: Where it is.
    """

    def __init__(self, new_session: Callable[[], Session]) -> None:
        self._new_session: Callable[[], Session] | None = new_session
        self.session = new_session()
        self.state: Literal["new", "open", "closed"] = "new"
        self._was_interrupted = False  # as it was left
        self._if_dropped: object = None  # what sees to it that the block is left

    def enter(self, frame: FrameType | None) -> None:
        """Begin to watch; ``frame`` is the one with the ``with`` statement.

        Raises:
            TraceStateError: If it has been entered and not left, or another task of this thread
                is traced.
        """
        if self.state == "open":
            message = "this trace is being recorded; leave its block before entering it again"
            raise TraceStateError(message)
        before = self.state
        try:
            self.session.start(frame)
            self._new_session = None  # nor the model
            self.state, self._was_interrupted = "open", False
        except BaseException:
            self.go_back(before)
            raise

    def go_back(self, state: Literal["new", "open", "closed"]) -> None:
        """Be as before it was entered; what was begun of the first time is forgotten."""
        self.session.abandon()
        if self._new_session is not None:
            self.session = self._new_session()
        self.state = state

    def exit(self, leave: Leave) -> Leave:
        """Return what a ``with`` statement is to call as it leaves the block.

        It asks for it before it enters the block, and drops it last. An interrupt that comes as
        it is called, before anything is done, would leave the block entered for ever: where it is
        dropped without having been called, the block is left all the same.

        Args:
            leave: What leaves the block, an object of its own.
        """
        if self.state != "open":
            known = ref(self)

            def dropped(_: object) -> None:
                if (block := known()) is not None:
                    block.give_up()

            self._if_dropped = ref(leave, dropped)
        return leave

    def give_up(self) -> None:
        """Leave the block without a word, if an interrupt kept it from being left."""
        if self.session.is_on and self.session.can_stop():
            self.session.abandon()
            self.state, self._was_interrupted = "closed", True

    def leave(self, error: Raised, trace_back: Where) -> bool:
        """End watching, whatever interrupts that.

        Returns:
            Whether it was left now, and not before or not at all.

        Raises:
            TraceStateError: If it was not entered, or in another thread.
        """
        if self._was_interrupted:
            self._was_interrupted = False
            self.session.finish()
            return False
        if self.state != "open":
            message = "this trace is not being recorded: it is left once, after it was entered"
            raise TraceStateError(message)
        if not self.session.can_stop():
            if error is not None:
                return False  # the exception says more than that the trace cannot be left
            message = "this trace was entered in another thread, and goes on until left there"
            raise TraceStateError(message)
        self.state, self._was_interrupted = "closed", True
        try:
            self.session.stop(error, trace_back)
        finally:
            self.session.finish()
        self._was_interrupted = False
        return True

    def forget_exit(self) -> None:
        """Let go of what sees to it that the block is left, once it was."""
        self._if_dropped = None
