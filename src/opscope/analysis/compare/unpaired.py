"""What has no partner in two aligned programs, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opscope.analysis.compare.alignment.sides import Alignment, Side


@dataclass(frozen=True, slots=True)
class Group:
    """Ops without a partner that are connected.

    Attributes:
        place: Where it is in the order of execution of the first program, a node.
        ours: The nodes of the first program.
        theirs: Those of the second.
    """

    place: int
    ours: Sequence[int]
    theirs: Sequence[int]


def unpaired(
    sides: tuple[Side, Side], found: Alignment, has_partner: Callable[[int, int], bool]
) -> list[Group]:
    """Return the ops without a partner in groups: what is connected, or feeds the same.

    Args:
        sides: The programs.
        found: What is the same in them.
        has_partner: Whether a node of one program, 0 or 1, has one.
    """
    left = [
        [n for n in range(len(side)) if side.kinds[n] == "op" and not has_partner(which, n)]
        for which, side in enumerate(sides)
    ]
    joined = _Joined()
    taken = found.nodes, found.back
    for which, side in enumerate(sides):
        members = set(left[which])
        for node in left[which]:
            joined.find((which, node))
            for other in {origin.source for origin in side.origins[node]} & members:
                joined.join((which, node), (which, other))
            for child in side.children[node]:
                if child in taken[which]:
                    border = child if which == 0 else found.back[child]
                    joined.join((which, node), (2, border))
    groups: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for which in (0, 1):
        for node in left[which]:
            groups.setdefault(joined.find((which, node)), ([], []))[which].append(node)
    return [Group(_place(sides, found, *both), *both) for both in groups.values()]


def _place(
    sides: tuple[Side, Side], found: Alignment, ours: Sequence[int], theirs: Sequence[int]
) -> int:
    """Return where in the first program a group is: of what is only in the second, before what."""
    if ours:
        return ours[0]
    later = (found.back[n] for n in sides[1].children[theirs[-1]] if n in found.back)
    return min(later, default=len(sides[0]))


class _Joined:
    """Sets that are joined (union-find)."""

    def __init__(self) -> None:
        self._above: dict[tuple[int, int], tuple[int, int]] = {}

    def find(self, item: tuple[int, int]) -> tuple[int, int]:
        """Return what stands for the set that something is in."""
        root = item
        while (above := self._above.setdefault(root, root)) != root:
            root = above
        while item != root:
            self._above[item], item = root, self._above[item]
        return root

    def join(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        """Make the sets of two one."""
        self._above[self.find(a)] = self.find(b)
