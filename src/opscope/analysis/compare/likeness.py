"""Whose values are the same: what names and structure do not tell, in a port of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from math import isnan, prod

from opscope.analysis.compare.alignment.modules import Norms
from opscope.analysis.compare.alignment.sides import Side
from opscope.analysis.compare.distance import KnownValues, Sketch, is_alike, norm_of, sketch_of


class Likeness:
    """Gives nodes of two programs whose values are nearly the same the same number.

    Args:
        sides: The programs.
        known: What is known of their values.
    """

    def __init__(self, sides: tuple[Side, Side], known: tuple[KnownValues, KnownValues]) -> None:
        self._sides, self._known = sides, known

    def norms(self) -> tuple[Norms, Norms]:
        """Return what gives the norms of the parameters of each program, where they are known."""

        def norm(known: KnownValues, number: int) -> float | None:
            held = known.parameter(number)
            return None if held is None else norm_of(held)

        first, second = (cache(partial(norm, known)) for known in self._known)
        return first, second

    def __call__(
        self, ours: Sequence[int], theirs: Sequence[int]
    ) -> tuple[list[int | None], list[int | None], set[int]]:
        """Return a number for each node, None where what it gave first is not known or says nothing.

        And the numbers of what some nodes gave in both programs, first or not.
        """
        numbers: tuple[list[int | None], list[int | None]] = (
            [None] * len(ours),
            [None] * len(theirs),
        )
        sketches = [*self._sketches(0, ours), *self._sketches(1, theirs)]
        sketches.sort(key=lambda item: (item[0], item[1][0]))
        groups: list[tuple[int, Sketch]] = []
        given: tuple[set[int], set[int]] = (set(), set())
        for size, found, which, at, place in sketches:
            number = self._near(groups, size, found)
            if number is None:
                number = len(groups)
                groups.append((size, found))
            given[which].add(number)
            if place == 0:
                numbers[which][at] = number
        return *numbers, given[0] & given[1]

    def _sketches(
        self, which: int, nodes: Sequence[int]
    ) -> Iterator[tuple[int, Sketch, int, int, int]]:
        """Yield what is known of each value that nodes gave: its size first, its place last."""
        side, known = self._sides[which], self._known[which]
        for at, node in enumerate(nodes):
            for place, value in enumerate(side.outputs(node)):
                held = known.value(value)
                found = None if held is None else sketch_of(held)
                if found is not None and not isnan(found[0]):
                    yield prod(side.shapes[value]), found, which, at, place

    def _near(self, groups: Sequence[tuple[int, Sketch]], size: int, found: Sketch) -> int | None:
        """Return the number of the group that a value is in; those before it have lower norms."""
        for number in range(len(groups) - 1, max(-1, len(groups) - 20), -1):
            known_size, known = groups[number]
            if known_size != size or known[0] < found[0] * 0.998:
                return None
            if is_alike(known, found):
                return number
        return None
