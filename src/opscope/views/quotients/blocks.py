"""Blocks that repeat: modules beside one another that are made alike, with weights of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Protocol, TypeVar

_FEWEST = 3  # blocks that are worth folding


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
    entries: Sequence[T], form: Callable[[T], int | None], opened: Collection[int]
) -> Iterator[list[T]]:
    """Yield entries in groups: of several where they repeat, else each alone.

    Args:
        entries: Beside one another, in order.
        form: What those that are made alike share; None for one that is never folded.
        opened: Places of entries that stay alone.
    """
    places = iter(range(len(entries)))
    keyed = (
        (None if place in opened else form(entry), entry)
        for place, entry in zip(places, entries, strict=True)
    )
    for key, group in groupby(keyed, key=lambda pair: pair[0]):
        found = [entry for _, entry in group]
        if key is not None and len(found) >= _FEWEST:
            yield found
        else:
            yield from ([entry] for entry in found)
