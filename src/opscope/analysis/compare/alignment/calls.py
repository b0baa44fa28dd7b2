"""Which layer calls are the same though their ops are not: a function in the stead of another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from opscope.analysis.compare.alignment.sequences import common
from opscope.analysis.compare.alignment.sides import Alignment, Side

_NEAR = 64  # nodes


def add_calls(
    sides: tuple[Side, Side],
    found: Alignment,
    sequences: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> None:
    """Add the calls whose nodes are not all the same, by function, or by their place.

    Args:
        sides: The programs.
        found: What is the same in them, to be added to.
        sequences: The nodes of both in each pair of module calls.
    """
    work = _Calls(sides, found)
    for ours, theirs in sequences:
        work.add(_units(sides[0], ours), _units(sides[1], theirs))


@dataclass(frozen=True, slots=True)
class _Unit:
    """A layer call with its nodes, or an op that is in none."""

    call: int | None
    name: Hashable
    nodes: Sequence[int]


def _units(side: Side, nodes: Iterable[int]) -> list[_Unit]:
    """Return the calls that nodes are in, in order."""
    found: list[_Unit] = []
    by_call: dict[int, list[int]] = {}
    for node in nodes:
        call = side.calls[node]
        if call is None or not side.is_own[node]:
            found.append(_Unit(None, (side.operators[node], side.phases[node]), [node]))
        elif call in by_call:
            by_call[call].append(node)
        else:
            by_call[call] = members = [node]
            found.append(_Unit(call, side.functions[node], members))
    return found


class _Calls:
    """The calls that are added."""

    def __init__(self, sides: tuple[Side, Side], found: Alignment) -> None:
        self.a, self.b = sides
        self.found = found

    def add(self, ours: Sequence[_Unit], theirs: Sequence[_Unit]) -> None:
        """Add those among the calls of a pair of module calls."""
        nodes, back = self.found.nodes, self.found.back
        a = [self._unit_token(self.a, unit, nodes) for unit in ours]
        b = [self._unit_token(self.b, unit, back) for unit in theirs]
        if not any(token[0] == "?" for token in (*a, *b)):
            return
        pairs = common(a, b)
        ends = [(-1, -1), *pairs, (len(ours), len(theirs))]
        for (i, j), (k, m) in pairwise(ends):
            left = [ours[n] for n in range(i + 1, k) if a[n][0] == "?"]
            right = [theirs[n] for n in range(j + 1, m) if b[n][0] == "?"]
            if len(left) != len(right):
                left = [unit for unit in left if self._is_trained(self.a, unit)]
                right = [unit for unit in right if self._is_trained(self.b, unit)]
            if len(left) == len(right):
                for unit, other in zip(left, right, strict=True):
                    if self._could_be(unit, other):
                        self._add_unit(unit, other)
        for i, j in pairs:
            if a[i][0] == "?" and self._could_be(ours[i], theirs[j]):
                self._add_unit(ours[i], theirs[j])

    def _unit_token(self, side: Side, unit: _Unit, taken: dict[int, int]) -> tuple[Hashable, ...]:
        same = [taken[node] for node in unit.nodes if node in taken]
        if len(same) == len(unit.nodes):
            first = unit.nodes[0]
            return "=", first if side is self.a else self.found.back[first]
        return "?", unit.name

    def _could_be(self, unit: _Unit, other: _Unit) -> bool:
        """Whether one call could be the other: it reads the same, of one function some of it.

        And it gives as much, and reads parameters if the other does.
        """
        if self.a.amount(unit.nodes[-1]) != self.b.amount(other.nodes[-1]) or (
            self._is_trained(self.a, unit) != self._is_trained(self.b, other)
        ):
            return False
        if self.found.contradicts(unit.nodes[-1], other.nodes[-1]):
            return False
        ours = {self.found.nodes[x] for x in self._above(0, unit, other)}
        theirs = self._above(1, other, unit)
        if unit.name == other.name:
            return bool(ours & theirs) or not (ours or theirs)
        return bool(ours) and ours == theirs

    def _is_trained(self, side: Side, unit: _Unit) -> bool:
        """Whether a call reads parameters."""
        read = {origin.source for node in unit.nodes for origin in side.origins[node]}
        return any(side.kinds[node] == "parameter" for node in read)

    def _above(self, which: int, unit: _Unit, other: _Unit) -> set[int]:
        """Return the nearest nodes with a partner, not in the other call, that a call depends on.

        Parameters are left out.
        """
        side, taken = (self.a, self.b)[which], (self.found.nodes, self.found.back)[which]
        found: set[int] = set()
        seen, waiting = set(unit.nodes), list(unit.nodes)
        while waiting and len(seen) < _NEAR:
            for origin in side.origins[waiting.pop()]:
                source = origin.source
                if source in seen or side.kinds[source] == "parameter":
                    continue
                seen.add(source)
                if source in taken and taken[source] not in other.nodes:
                    found.add(source)
                else:
                    waiting.append(source)
        return found

    def _add_unit(self, unit: _Unit, other: _Unit) -> None:
        """Add a pair of calls, and of the ops in them what is alike in order."""
        if unit.call is None or other.call is None:
            if unit.call is None and other.call is None:
                self.found.add(unit.nodes[0], other.nodes[0])
            return
        self.found.calls[unit.call] = other.call
        self.found.calls_back[other.call] = unit.call
        tokens = [self.a.form(x) for x in unit.nodes], [self.b.form(y) for y in other.nodes]
        for i, j in common(*tokens):
            self.found.add(unit.nodes[i], other.nodes[j])
