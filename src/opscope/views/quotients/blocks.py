"""Blocks that repeat: modules beside one another that are made alike, with weights of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Protocol, TypeVar

_FEWEST = 3  # blocks that are worth folding
_LONGEST = 4  # entries that repeat together
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
    form: Callable[[T], int],
    name: Callable[[T], str | None],
    detail: Callable[[T], Hashable],
    opened: Collection[int],
) -> Iterator[list[T]]:
    """Yield entries in groups: of several where they repeat, else each alone.

    What lies between blocks, such as the addition of what went around each, repeats with them.

    Args:
        entries: Beside one another, in order.
        form: What those that are made alike share.
        name: Of blocks, names that end in numbers which follow one another; None for what is none.
        detail: More that blocks share, which takes longer to tell.
        opened: Places of entries that stay alone.
    """
    forms = list(map(form, entries))
    numbered = [
        None if name_of is None else _NUMBERED.fullmatch(name_of) for name_of in map(name, entries)
    ]
    at = 0
    while at < len(entries):
        period, count = next(
            (
                (length, found)
                for length in range(1, _LONGEST + 1)
                if (found := _repeats(at, length, forms, numbered, opened)) >= _FEWEST
            ),
            (1, 1),
        )
        if count > 1:
            blocks = [place for place in range(at, at + period) if numbered[place]]
            count = min(_alike(entries[place::period][:count], detail) for place in blocks)
        if count < _FEWEST:
            yield [entries[at]]
            at += 1
            continue
        for place in range(at, at + period):
            yield list(entries[place : at + count * period : period])
        at += count * period


def _repeats(
    at: int,
    period: int,
    forms: Sequence[int],
    numbered: Sequence[re.Match[str] | None],
    opened: Collection[int],
) -> int:
    """Return how often so many entries from a place on follow one another, made alike."""
    if at + period > len(forms) or not any(numbered[at : at + period]):
        return 1
    count = 0
    while at + (count + 1) * period <= len(forms):
        for place in range(at, at + period):
            here = place + count * period
            first, now = numbered[place], numbered[here]
            if here in opened or forms[here] != forms[place] or (first is None) != (now is None):
                return count
            if first and now and (now[1] != first[1] or int(now[2]) != int(first[2]) + count):
                return count
        count += 1
    return count


def _alike(blocks: Sequence[T], detail: Callable[[T], Hashable]) -> int:
    """Return how many blocks from the first on are alike in detail."""
    first = detail(blocks[0])
    return next((n for n, block in enumerate(blocks) if n and detail(block) != first), len(blocks))
