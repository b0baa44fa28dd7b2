"""What to tell one whose program is nested too deeply to be traced."""

from __future__ import annotations

import sys
from traceback import walk_tb

_NOTED = "opscope: "


def explain(error: object) -> None:
    """Say in a `RecursionError` which limit is enough for whatever runs without the trace.

    torch calls a module that has hooks from one function more, so that of the same limit three
    in four of the modules can be inside one another: a call takes three frames or more without.
    Where it is the stack of C that is full, which Python 3.12 and 3.13 count for themselves, what
    runs without the trace runs with it, but for three modules, and there is nothing to say.
    """
    if not isinstance(error, RecursionError) or any(map(_is_ours, _texts(error))):
        return
    limit = sys.getrecursionlimit()
    if sum(1 for _ in walk_tb(error.__traceback__)) < limit // 2:
        return
    text = (
        f"{_NOTED}a module that is traced takes one stack frame more; what runs untraced within "
        f"the recursion limit of {limit} runs traced after sys.setrecursionlimit({enough(limit)})"
    )
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        error.args = (f"{error}; {text}",)


def enough(limit: int) -> int:
    """Return the recursion limit for a trace of what runs bare within a limit."""
    return limit + limit // 3 + _OWN_FRAMES


_OWN_FRAMES = 100  # those of the watchers themselves, below the innermost module


def _texts(error: RecursionError) -> list[str]:
    return [*map(str, error.args), *map(str, getattr(error, "__notes__", ()))]


def _is_ours(text: str) -> bool:
    return _NOTED in text
