"""Ops that may be run again, and which of them each of some that are run again repeats."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from opscope.capture.assemble.reruns.keys import Key, Keys
from opscope.capture.assemble.reruns.pairing import paired
from opscope.records.columns.columns import NONE

_MARGIN = 32


class Candidates:
    """Ops in order, each with its key.

    Args:
        keys: Where the keys are from.
        once: The ops with their keys.
    """

    def __init__(self, keys: Keys, once: Mapping[int, Key]) -> None:
        self._source = keys
        self._ops = list(once)
        self._keys = list(once.values())
        self._modules = {key.module for key in self._keys}

    def repeated_by(self, steps: Mapping[int, Key], left: int | None) -> dict[int, int]:
        """Return what each op of some repeats that run again, as far as it repeats any.

        Args:
            steps: They, in order, with their keys.
            left: The op at which what they most likely repeat has ended, if that is known.
        """
        if not steps or not self._ops:
            return {}
        found = self._in_order(steps, left)
        return found | self._out_of_order(steps, found)

    def after(self, op: int) -> int:
        """Return the next one after an op, or it itself if it is the last."""
        at = bisect_right(self._ops, op)
        return self._ops[at] if at < len(self._ops) else op

    def _in_order(self, steps: Mapping[int, Key], left: int | None) -> dict[int, int]:
        """Pair them in the part where they most likely are, or in all of it if that gives more."""
        anchor = self._anchor(steps)
        last = len(self._ops) if left is None else bisect_left(self._ops, left)
        near = 2 * len(steps) + _MARGIN
        part = slice(max(last - near, 0), last)
        if anchor is not None:
            part = slice(max(anchor[1] - near, 0), anchor[1] + near)
        found = self._in_part(steps, part, anchor)
        if len(found) < self._most(steps):
            in_all = self._in_part(steps, slice(0, len(self._ops)), anchor)
            found = in_all if len(in_all) > len(found) else found
        return found

    def _in_part(
        self, steps: Mapping[int, Key], part: slice, anchor: tuple[int, int] | None
    ) -> dict[int, int]:
        """Pair by all that keys say, then by ever less of that where something is left."""
        again, once = list(steps.values()), self._keys[part]
        at = None if anchor is None else (anchor[0], anchor[1] - part.start)
        pairs: dict[int, int] = {}
        for shared in SHARED:
            if len(pairs) == len(again):
                break
            more = paired(list(map(shared, again)), list(map(shared, once)), at)
            fits = _Gaps(pairs).fits
            pairs |= {
                i: j
                for i, j in more.items()
                if fits(i, j) and (shared is not by_operator or self._may_be(again[i], once[j]))
            }
        ops = list(steps)
        return {ops[i]: self._ops[part.start + j] for i, j in pairs.items()}

    def _may_be(self, again: Key, once: Key) -> bool:
        """Whether one op repeats another of the same operator, but of another key.

        A parameter may be read as a copy of another type, and what a module ran before may now
        be run by a module that did not run before, or by a function.
        """
        if again.anywhere == once.anywhere:
            return False  # then its turn was before
        if again.parameters and once.parameters - again.parameters:
            return False
        return again.module in {NONE, once.module} or again.module not in self._modules

    def _out_of_order(self, steps: Mapping[int, Key], found: Mapping[int, int]) -> dict[int, int]:
        """Pair what is in another order, or runs more often than before, where keys are enough."""
        used = set(found.values())
        counts: Counter[Key] = Counter()
        pairs: dict[int, int] = {}
        free: dict[Key, list[int]] = {}
        for op, exact in steps.items():
            key = exact.anywhere
            if op in found or not key.is_particular or key not in self._places:
                continue
            if key not in free:
                ops = [self._ops[place] for place in self._places[key]]
                free[key] = [twin for twin in ops if twin not in used] or ops
            pairs[op] = free[key][counts[key] % len(free[key])]
            counts[key] += 1
        return pairs

    def _anchor(self, steps: Mapping[int, Key]) -> tuple[int, int] | None:
        """Return a pair of places where both read the same tensors, if that tells passes apart."""
        for place, (op, exact) in enumerate(steps.items()):
            key = exact.anywhere
            if len(self._places.get(key, ())) < 2:
                continue
            read = self._source.tensors(op)
            shared = Counter(at for t in read for at in self._readers.get((key, t), ()))
            most = max(shared.values(), default=0)
            nearest = [at for at, count in shared.items() if count == most]
            if len(nearest) == 1:
                return place, nearest[0]
        return None

    def _most(self, steps: Mapping[int, Key]) -> int:
        """Return of how many of some there can be any at all, by their operators."""
        wanted = Counter(key.operator for key in steps.values())
        return sum(min(count, self._operators[each]) for each, count in wanted.items())

    @cached_property
    def _operators(self) -> Counter[int]:
        return Counter(key.operator for key in self._keys)

    @cached_property
    def _places(self) -> dict[Key, list[int]]:
        found: dict[Key, list[int]] = {}
        for place, key in enumerate(self._keys):
            found.setdefault(key.anywhere, []).append(place)
        return found

    @cached_property
    def _readers(self) -> dict[Any, list[int]]:
        """By key and tensor, the places that read it, where there are several of the key."""
        found: dict[Any, list[int]] = {}
        for key, places in self._places.items():
            for place in places if len(places) > 1 else ():
                for tensor in self._source.tensors(self._ops[place]):
                    found.setdefault((key, tensor), []).append(place)
        return found


def by_all(key: Key) -> Key:
    """Return a key as it is."""
    return key


def by_all_but_line(key: Key) -> Key:
    """Return a key for whatever line."""
    return key.anywhere


def by_operator(key: Key) -> Key:
    """Return a key of the operator alone."""
    return key.alone


# What is to be the same in both, from all to ever less.
SHARED: Sequence[Callable[[Key], Key]] = (by_all, by_all_but_line, by_operator)


class _Gaps:
    """Tells whether further pairs are in order with those that there are."""

    def __init__(self, pairs: Mapping[int, int]) -> None:
        self._again = sorted(pairs)
        self._once = [pairs[place] for place in self._again]

    def fits(self, again: int, once: int) -> bool:
        at = bisect_left(self._again, again)
        if at < len(self._again) and (self._again[at] == again or self._once[at] <= once):
            return False
        return at == 0 or self._once[at - 1] < once
