"""A bar that shows how far a long loop is, to a person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from opscope.waiting import Track, untracked

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

LONG = 2.0
"""From how many seconds on a wait is shown."""

_SOON, _AGAIN = 0.5, 0.1  # seconds: until it is clear how long it takes, between two pictures


@contextmanager
def waiting(what: str) -> Iterator[Track]:
    """Track loops, and show how far they are where a person waits longer than `LONG`.

    A bar is shown on stderr, only if that is a terminal, and is gone when the block is left.

    Args:
        what: What is being done, such as ``"reading"``.

    >>> with waiting("counting") as track:
    ...     sum(track(range(5)))
    10
    """
    if not _is_terminal():
        yield untracked
        return
    with ExitStack() as shown:
        yield _Bar(what, shown)


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


class _Bar:
    """Hands on the items of loops, and shows how far each is once it takes long.

    Args:
        what: What is being done.
        shown: What is shown is taken away as this is left.
    """

    def __init__(self, what: str, shown: ExitStack) -> None:
        self._what = what
        self._shown = shown
        self._progress: Progress | None = None
        self._is_silent = False

    def __call__(self, items: Collection[T], /) -> Iterable[T]:
        started = look = monotonic()
        count, task = len(items), None
        look += _SOON
        for done, item in enumerate(items):
            now = monotonic()
            if now >= look and not self._is_silent:
                look = now + _AGAIN
                if task is None and (now - started) * count >= LONG * done:
                    task = self._begin(count)
                if task is not None and self._progress is not None:
                    self._progress.update(task, completed=done, refresh=True)
            yield item
        if task is not None and self._progress is not None:
            self._progress.remove_task(task)

    def _begin(self, count: int) -> TaskID | None:
        """Show a bar, unless the terminal can show none."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._progress is None:
            console = Console(stderr=True)
            if not console.is_interactive:
                self._is_silent = True
                return None
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(),
            )  # fmt: skip
            # What the program prints goes where it would go, and no thread is begun.
            progress = Progress(
                *columns, console=console, transient=True, auto_refresh=False,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._progress = self._shown.enter_context(progress)
        return self._progress.add_task(self._what, total=count)
