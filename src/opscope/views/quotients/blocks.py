"""Blocks that repeat: modules beside one another that are made alike, with weights of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Protocol, TypeVar

_FEWEST = 3  # blocks that are worth folding
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


class Entry(Protocol):
    """One row of a tree of calls."""

    @property
    def inside(self) -> Sequence[Entry]:
        """What is below it."""


T = TypeVar("T", bound=Entry)


class Forms:
    """Tells which entries of a tree are made alike, all that is below them included.

    Args:
        own: What tells an entry itself from others; None for one that is like no other.
        top: The entries at the top.
    """

    def __init__(self, own: Callable[[Entry], Hashable | None], top: Sequence[Entry]) -> None:
        self._own = own
        self._numbers: dict[Hashable, int] = {}
        self._forms: dict[int, int] = {}
        self._learn(top)

    def of(self, entry: Entry) -> int:
        """Return a number that entries which are made alike share."""
        return self._forms[id(entry)]

    def _learn(self, top: Sequence[Entry]) -> None:
        """Number all entries, those below first; without recursion, as nests may be deep."""
        pending: list[tuple[Entry, bool]] = [(entry, False) for entry in top]
        while pending:
            entry, are_inner_known = pending.pop()
            if not are_inner_known:
                pending.append((entry, True))
                pending += [(inner, False) for inner in entry.inside]
                continue
            own = self._own(entry)
            key: Hashable = (
                ("alone", id(entry))
                if own is None
                else (own, tuple(self._forms[id(inner)] for inner in entry.inside))
            )
            self._forms[id(entry)] = self._numbers.setdefault(key, len(self._numbers))


def grouped(
    entries: Sequence[T],
    form: Callable[[T], int | None],
    name: Callable[[T], str],
    detail: Callable[[T], Hashable],
    opened: Collection[int],
) -> Iterator[list[T]]:
    """Yield entries in groups: of several where they repeat, else each alone.

    Args:
        entries: Beside one another, in order.
        form: What those that are made alike share; None for one that is never folded.
        name: Of those that are folded, names that end in numbers which follow one another.
        detail: More that they share, which takes longer to tell.
        opened: Places of entries that stay alone.
    """

    def key(place: int, entry: T) -> Hashable:
        known = None if place in opened else form(entry)
        numbered = None if known is None else _NUMBERED.fullmatch(name(entry))
        if numbered is None:
            return None
        return known, numbered[1], int(numbered[2]) - place

    for same, group in groupby(enumerate(entries), key=lambda pair: key(*pair)):
        found = [entry for _, entry in group]
        if same is None or len(found) < _FEWEST:
            yield from ([entry] for entry in found)
            continue
        for _, alike in groupby(found, key=detail):
            blocks = list(alike)
            if len(blocks) >= _FEWEST:
                yield blocks
            else:
                yield from ([entry] for entry in blocks)
