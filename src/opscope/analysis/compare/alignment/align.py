"""Which nodes of two programs are the same.

1. Ops of the same operator and arguments that read the same are the same, from the inputs and
   parameters on: so order does not matter where nothing depends on it.
2. In each pair of module calls, what reads parameters that nothing else there reads is the same.
3. What reads the same, of what is left, is the same, whatever its arguments.
4. What is left is the same if it gave the same values, where these are known; then it is taken in
   order, by longest common subsequences: in each pair of module calls by function, operator, parameters
   and sizes; then by less, where what it reads or gives to is the same; and each time what follows from
   that by (3).
5. What is left of the calls between two that are the same is the same if there are as many in both:
   a function in the stead of another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

from opscope.analysis.compare.alignment.calls import add_calls
from opscope.analysis.compare.alignment.modules import Pairs
from opscope.analysis.compare.alignment.sequences import common
from opscope.analysis.compare.alignment.settings import plain
from opscope.analysis.compare.alignment.sides import Alignment, Side
from opscope.records.columns.table import column

Alike = Callable[
    [Sequence[int], Sequence[int]], tuple[list[int | None], list[int | None], set[int]]
]
"""Gives, for nodes of both programs, a number that is the same where what they gave first is, and None
where that is not known, or says nothing; and the numbers of what some nodes gave in both."""


def align(a: Side, b: Side, pairs: Pairs, alike: Alike | None = None) -> Alignment:
    """Return what is the same in two programs.

    Args:
        a: A program.
        b: Another.
        pairs: Which of their module calls and parameters are the same.
        alike: Tells whose values are the same, where they are known.
    """
    work = _Work(a, b, pairs)
    work.add_exact()
    work.add_by_parameters()
    work.spread()
    if alike is not None:
        work.add_by_values(alike)
    work.add_in_order(_Work.sized_tokens)
    work.add_in_order(_Work.strong_tokens, is_linked=True)
    work.add_in_order(_Work.weak_tokens, is_linked=True)
    work.add_everywhere()
    add_calls((a, b), work.found, work.runs.values())
    return work.found


class _Work:
    """The alignment as it grows."""

    def __init__(self, a: Side, b: Side, pairs: Pairs) -> None:
        self.a, self.b, self.pairs = a, b, pairs
        self.found = Alignment()
        self._new: list[tuple[int, int]] = []
        self._b_parameters = {b: a for a, b in pairs.parameters.items()}
        self.runs = self._sequences()

    def _add(self, x: int, y: int) -> bool:
        if not self.found.add(x, y):
            return False
        self._new.append((x, y))
        return True

    # ------------------------------------------------------------------ (1) what reads the same

    def add_exact(self) -> None:
        """Add the ops that compute the same from the same."""
        known: dict[Hashable, int] = {}
        ours = self._classes(self.a, known, {n: n for n in range(len(self.a.recording.parameters))})
        theirs = self._classes(self.b, known, self._b_parameters)
        places: dict[int, list[int]] = defaultdict(list)
        for y in range(len(theirs) - 1, -1, -1):
            if theirs[y] >= 0:
                places[theirs[y]].append(y)
        for x, number in enumerate(ours):
            if number >= 0 and places.get(number) and self._add(x, places[number].pop()):
                self.found.exact.add(x)

    def _classes(
        self, side: Side, known: dict[Hashable, int], parameters: dict[int, int]
    ) -> list[int]:
        """Return a number for each node: the same for what computes the same; -1 for none."""
        classes: list[int] = []
        arguments = column(side.recording.ops, "arguments")
        outside: Counter[Hashable] = Counter()
        inputs = _inputs(side)
        for node, (kind, number) in enumerate(zip(side.kinds, side.numbers, strict=True)):
            key: Hashable
            if kind == "op":
                reads = tuple([(classes[s], place, arg) for s, place, arg in side.origins[node]])
                key = side.operators[node], side.phases[node], plain(arguments[number]), reads
            elif kind == "parameter":
                key = "parameter", parameters.get(number, (id(side), number))
            elif kind == "value":
                key = inputs.get(node) or ("outside", side.shapes[number])
                outside[key] += 1
                key = (key, outside[key])
            else:
                classes.append(-1)
                continue
            classes.append(known.setdefault(key, len(known)))
        return classes

    # ------------------------------------------------------------------------ (2), (3)

    def add_by_parameters(self) -> None:
        """Add what alone reads some parameters in a pair of module calls."""
        for ours, theirs in self.runs.values():
            tokens = self.strong_tokens(ours, theirs)
            both = [
                {t: n for n, t in zip(nodes, each, strict=True) if t[-1] and counts[t] == 1}
                for nodes, each in zip((ours, theirs), tokens, strict=True)
                for counts in [Counter(each)]
            ]
            for token, x in both[0].items():
                if token in both[1]:
                    self._add(x, both[1][token])

    def spread(self) -> None:
        """Add what reads the same as far as it follows from what was added."""
        ready: tuple[dict[Hashable, list[int]], ...] = ({}, {})
        seen: tuple[set[int], set[int]] = (set(), set())
        sides = (self.a, self.b)
        while self._new:
            for which, node in enumerate(self._new.pop()):
                for child in sides[which].children[node]:
                    if child in seen[which]:
                        continue
                    reads = self._reads(which, child)
                    if reads is None:
                        continue
                    seen[which].add(child)
                    other = ready[1 - which].get(reads)
                    if other:
                        match = other.pop(0)
                        self._add(*((child, match) if which == 0 else (match, child)))
                    else:
                        ready[which].setdefault(reads, []).append(child)

    def _reads(self, which: int, node: int) -> Hashable | None:
        """Return what a node reads, as the first program has it; None if that is not known."""
        side = (self.a, self.b)[which]
        taken = (self.found.nodes, self.found.back)[which]
        if node in taken or side.kinds[node] != "op":
            return None
        reads = []
        for source, place, argument in side.origins[node]:
            same = taken.get(source)
            if same is None:
                return None
            reads.append((source if which == 0 else same, place, argument))
        form = side.operators[node], side.phases[node], side.functions[node]
        return *form, side.sizes(node), tuple(reads)

    # ------------------------------------------------------------------------ (4) in order

    def _sequences(self) -> dict[int | None, tuple[list[int], list[int]]]:
        """Return the nodes of both in each pair of module calls, but for those in inner pairs."""
        found: dict[int | None, tuple[list[int], list[int]]] = {}
        back = {b: a for a, b in self.pairs.runs.items()}
        for which, (side, known) in enumerate(((self.a, self.pairs.runs), (self.b, back))):
            around: dict[int | None, int | None] = {None: None}
            for run in side.recording.module_calls:
                around[run.index] = run.index if run.index in known else around[run.parent]
            for node, kind in enumerate(side.kinds):
                if kind in ("op", "call"):
                    run_of = around[side.runs[node]]
                    if which and run_of is not None:
                        run_of = back[run_of]
                    found.setdefault(run_of, ([], []))[which].append(node)
        return found

    def strong_tokens(
        self, ours: Sequence[int], theirs: Sequence[int]
    ) -> tuple[list[tuple[Hashable, ...]], list[tuple[Hashable, ...]]]:
        """Return function, operator and parameters of each node."""
        result: list[list[tuple[Hashable, ...]]] = []
        for side, nodes in ((self.a, ours), (self.b, theirs)):
            names = self._b_parameters if side is self.b else None
            tokens: list[tuple[Hashable, ...]] = []
            for node in nodes:
                used = [
                    side.numbers[o.source] for o in side.origins[node]
                    if side.kinds[o.source] == "parameter"
                ]  # fmt: skip
                same = used if names is None else [names.get(n, (n,)) for n in used]
                tokens.append((*side.form(node), side.functions[node], tuple(same)))
            result.append(tokens)
        return result[0], result[1]

    def sized_tokens(
        self, ours: Sequence[int], theirs: Sequence[int]
    ) -> tuple[list[tuple[Hashable, ...]], list[tuple[Hashable, ...]]]:
        """Return function, operator, parameters and sizes of each node."""
        a, b = self.strong_tokens(ours, theirs)
        return (
            [(*token, self.a.sizes(x)) for token, x in zip(a, ours, strict=True)],
            [(*token, self.b.sizes(y)) for token, y in zip(b, theirs, strict=True)],
        )

    def weak_tokens(
        self, ours: Sequence[int], theirs: Sequence[int]
    ) -> tuple[list[tuple[Hashable, ...]], list[tuple[Hashable, ...]]]:
        """Return operator and sizes of each node."""
        return (
            [(*self.a.form(x), self.a.sizes(x)) for x in ours],
            [(*self.b.form(y), self.b.sizes(y)) for y in theirs],
        )

    def add_in_order(
        self,
        tokens_of: Callable[..., tuple[Sequence[Hashable], Sequence[Hashable]]],
        *,
        is_linked: bool = False,
    ) -> None:
        """Add what is in the same order in each pair of module calls."""
        for ours, theirs in self.runs.values():
            self._add_common(ours, theirs, tokens_of(self, ours, theirs), is_linked=is_linked)
        self.spread()

    def add_by_values(self, alike: Alike) -> None:
        """Add what gave the same values: in order first, and then in whatever order."""
        ours = [x for x in self._all(self.a) if x not in self.found.nodes]
        theirs = [y for y in self._all(self.b) if y not in self.found.back]
        if not ours or not theirs:
            return
        *numbers, self.found.in_both = alike(ours, theirs)
        known = self.found.values
        for which, (nodes, each) in enumerate(zip((ours, theirs), numbers, strict=True)):
            pairs = zip(nodes, each, strict=True)
            known[which].update((node, number) for node, number in pairs if number is not None)
        tokens = list(known[0].values()), list(known[1].values())
        self._add_common(list(known[0]), list(known[1]), tokens)
        groups: dict[Hashable, tuple[list[int], list[int]]] = {}
        taken = self.found.nodes, self.found.back
        for which in (0, 1):
            for node, number in known[which].items():
                if node not in taken[which]:
                    groups.setdefault(number, ([], []))[which].append(node)
        for left, right in groups.values():
            self._add_common(left, right, ([self.a.form(x) for x in left],
                                           [self.b.form(y) for y in right]))  # fmt: skip
            rest = [[n for n in nodes if n not in taken[which]]
                    for which, nodes in enumerate((left, right))]  # fmt: skip
            for x, y in zip(rest[0][::-1], rest[1][::-1], strict=False):
                self._add(x, y)
        self.spread()

    def add_everywhere(self) -> None:
        """Add what is in the same order in both programs, in whatever modules."""
        ours, theirs = self._all(self.a), self._all(self.b)
        if any(x not in self.found.nodes for x in ours):
            self._add_common(ours, theirs, self.weak_tokens(ours, theirs), is_linked=True)
            self.spread()

    def _all(self, side: Side) -> list[int]:
        return [node for node, kind in enumerate(side.kinds) if kind in ("op", "call")]

    def _add_common(
        self,
        ours: Sequence[int],
        theirs: Sequence[int],
        tokens: tuple[Sequence[Hashable], Sequence[Hashable]],
        *,
        is_linked: bool = False,
    ) -> None:
        nodes, back = self.found.nodes, self.found.back
        if all(x in nodes for x in ours) or all(y in back for y in theirs):
            return
        # What is the same already keeps the places of the rest.
        a = [("=", x) if x in nodes else t for x, t in zip(ours, tokens[0], strict=True)]
        b = [("=", back[y]) if y in back else t for y, t in zip(theirs, tokens[1], strict=True)]
        both = [(ours[i], theirs[j]) for i, j in common(a, b) if ours[i] not in nodes]
        pairs = [(x, y) for x, y in both if not self.found.contradicts(x, y)]
        if not is_linked:
            for x, y in pairs:
                self._add(x, y)
            return
        for ordered in (pairs, pairs[::-1]):
            for x, y in ordered:
                if x not in nodes and self._is_linked(x, y):
                    self._add(x, y)

    def _is_linked(self, x: int, y: int) -> bool:
        """Whether two nodes read, or are read by, something that is the same."""
        above = {origin.source for origin in self.b.origins[y]}
        if self.a.amount(x) != self.b.amount(y):
            return {self.found.nodes.get(o.source) for o in self.a.origins[x]} == above
        below = set(self.b.children[y])
        return any(self.found.nodes.get(o.source) in above for o in self.a.origins[x]) or any(
            self.found.nodes.get(child) in below for child in self.a.children[x]
        )


def _inputs(side: Side) -> dict[int, Hashable]:
    """Return, by node, which input of a model a tensor from outside is."""
    found: dict[int, Hashable] = {}
    for node, kind in enumerate(side.kinds):
        if kind == "call" and side.call_kinds[side.numbers[node]] == "input":
            path = side.recording.layer_calls[side.numbers[node]].path
            for edge in side.edges[node]:
                found.setdefault(edge.source, ("input", path))
    return found
