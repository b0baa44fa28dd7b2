"""The values of two aligned programs, pair by pair: how far apart they are, and what came in.

A step is where two programs diverge if the error jumps there, out of proportion to what came in:

1. The *error* of a pair is the norm of its difference by its norm (see `Distance`).
2. What *came in* is the greatest error among the nearest pairs that it depends on whose values are known,
   parameters and inputs among them, through all ops whose values are not known or have no partner.
3. It is *explained* if it is within the tolerance of the coarser type (`TOLERANCE`), or within
   `GROWTH` times what came in: rounding errors grow along a net, and slowly.
4. Parameters and inputs were computed by nothing: they differ if any element does by more than rounding.
5. A pair that is not explained is a divergence; the *first* are those that depend on no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, prod

from opscope.analysis.compare.alignment.sides import Alignment, Side
from opscope.analysis.compare.distance import (
    ROUNDING,
    SAME,
    TOLERANCE,
    Distance,
    Held,
    KnownValues,
    differs_anywhere,
    distance,
    greatest,
    transposed,
)
from opscope.operators.known import (
    has_scratch,
    is_scratch,
    is_steep,
    is_uninitialised,
    multiplies,
    transposes,
)
from opscope.records.columns.table import column

GROWTH = 10.0
"""By how much the error of what came in may grow in one step."""


@dataclass(slots=True)
class Step:
    """Two values that are the same, if the programs are.

    Attributes:
        nodes: The nodes that gave them.
        values: They, by index; of parameters what these were when first read.
        distance: How far apart they are, None where that is not known.
        tolerance: How far they may be.
        came_in: The greatest error of what they depend on.
        gaps: In each program, a node without a partner that they depend on with nothing known between.
        is_given: Whether nothing computed them.
        differs: Whether they are further apart than can be explained.
    """

    nodes: tuple[int, int]
    values: tuple[int, int]
    distance: Distance | None = None
    tolerance: float = 0.0
    came_in: float = 0.0
    gaps: tuple[int | None, int | None] = (None, None)
    is_given: bool = False
    differs: bool = False

    @property
    def error(self) -> float | None:
        """How far apart they are."""
        return None if self.distance is None else self.distance.relative

    @property
    def allowed(self) -> float:
        """How far apart they may be, for their types and for what came in."""
        return max(self.tolerance, GROWTH * self.came_in)


class Measured:
    """The pairs of values of two programs.

    Attributes:
        steps: They, in the order of execution of the first.
        by_value: The steps whose distance is known, by the value in each program.
        compared: How many distances are known of values that were kept.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        found: Alignment,
        known: tuple[KnownValues, KnownValues],
        rtol: float | None,
        atol: float | None,
    ) -> None:
        self.sides, self.found, self.known = sides, found, known
        self._rtol, self._atol = rtol, atol or 0.0
        self.compared = 0
        self.steps = sorted(self._pairs(), key=lambda step: step.nodes[0])
        self.by_value: tuple[dict[int, Step], dict[int, Step]] = ({}, {})
        self._given: tuple[dict[int, Step], dict[int, Step]] = ({}, {})
        for step in self.steps:
            self._measure(step)
            if step.distance is not None:
                for which in (0, 1):
                    known_steps = self._given if step.is_given else self.by_value
                    key = step.nodes[which] if step.is_given else step.values[which]
                    known_steps[which].setdefault(key, step)
        came_in = [self._came_in(which) for which in (0, 1)]
        for step in self.steps:
            (errors, gaps), (other_errors, other_gaps) = came_in
            x, y = step.nodes
            step.came_in = max(errors[x], other_errors[y])
            step.gaps = gaps[x], other_gaps[y]
            step.differs = self._is_divergence(step)

    # ------------------------------------------------------------------------ pairs of values

    def _pairs(self) -> Iterator[Step]:
        a, b = self.sides
        used = [_used(side) for side in self.sides]
        for x, y in self.found.nodes.items():
            given = a.kinds[x] in ("parameter", "value")
            if a.kinds[x] != b.kinds[y] and (given or b.kinds[y] in ("parameter", "value")):
                continue
            if given and not (a.children[x] or b.children[y]):
                continue  # all of it is overwritten before anybody reads it
            for place, values in enumerate(zip(a.outputs(x), b.outputs(y), strict=False)):
                if place and not (values[0] in used[0] or values[1] in used[1]):
                    continue  # such as what an op notes for its backward
                if given or not (
                    self._is_scratch(a, x, values[0]) or self._is_scratch(b, y, values[1])
                ):
                    yield Step((x, y), values, is_given=given)
        yield from self._returned()

    def _returned(self) -> Iterator[Step]:
        """Yield what calls returned that are the same, and whose ops are not."""
        a, b = self.sides
        if not self.found.calls:
            return
        ours, theirs = _makers(a), _makers(b)
        for call, other in self.found.calls.items():
            returned = a.recording.layer_calls[call].returned
            for v, w in zip(returned, b.recording.layer_calls[other].returned, strict=False):
                x, y = ours.get(v), theirs.get(w)
                if x is not None and y is not None and self.found.nodes.get(x) != y:
                    yield Step((x, y), (v, w))

    def _is_scratch(self, side: Side, node: int, value: int) -> bool:
        operator = side.operators[node]
        if not operator:
            return False
        if is_uninitialised(operator):
            return True
        if not has_scratch(operator):
            return False
        op = side.recording.ops[side.numbers[node]]
        written = value in op.writes and value not in op.outputs
        return is_scratch(operator, None if written else op.outputs.index(value))

    def _measure(self, step: Step) -> None:
        """Note how far apart two values are, if they are known."""
        a_side, b_side = self.sides
        v, w = step.values
        shapes = a_side.shapes[v], b_side.shapes[w]
        dtypes = a_side.dtypes[v], b_side.dtypes[w]
        table = ROUNDING if step.is_given else TOLERANCE
        bounds = [table.get(dtype, 0.0) for dtype in dtypes]
        step.tolerance = max(bounds) if self._rtol is None else self._rtol
        if shapes[0] != shapes[1] and prod(shapes[0]) != prod(shapes[1]):
            step.distance = Distance(inf, None)
            step.differs = step.is_given
            return
        held = [self._held(which, step) for which in (0, 1)]
        a, b = held
        if a is None or b is None:
            return
        self.compared += 1
        if step.is_given and shapes[0] == shapes[1] and self._is_turned(step):
            b = transposed(b)
        step.distance = SAME if a is b else distance(a, b)
        if step.is_given and step.distance.relative:
            alike = dtypes[0] == dtypes[1] and self._rtol is None
            step.differs = differs_anywhere(a, b, 0.0 if alike else step.tolerance)

    def _is_turned(self, step: Step) -> bool:
        """Whether one program multiplies by a square matrix as it is, the other by its transpose."""
        uses = set()
        for side, node in zip(self.sides, step.nodes, strict=True):
            operators = {side.operators[child] for child in side.children[node]}
            is_turned = any(map(transposes, operators))
            if not is_turned and not any(map(multiplies, operators)):
                return False  # nobody knows, as of a compiled region
            uses.add(is_turned)
        return len(uses) == 2

    def _held(self, which: int, step: Step) -> Held | None:
        side, node = self.sides[which], step.nodes[which]
        if side.kinds[node] == "parameter":
            return self.known[which].parameter(side.numbers[node])
        return self.known[which].value(step.values[which])

    # ------------------------------------------------------------------------ what came in

    def _came_in(self, which: int) -> tuple[list[float], list[int | None]]:
        """Return, by node of one program, the error that came in, and a node without a partner."""
        side = self.sides[which]
        errors: list[float] = []
        gaps: list[int | None] = []
        for edges in side.edges:
            error, gap = 0.0, None
            for source, value, _ in edges:
                step = self.step_of(which, source, value)
                if step is not None:
                    error = max(error, step.error or 0.0)
                    continue
                error = max(error, errors[source])
                if gap is None:
                    gap = gaps[source] if self.has_partner(which, source) else source
            errors.append(error)
            gaps.append(gap)
        return errors, gaps

    def step_of(self, which: int, source: int, value: int) -> Step | None:
        """Return the step of what is read, None where its distance is not known."""
        return self._given[which].get(source) or self.by_value[which].get(value)

    def has_partner(self, which: int, node: int) -> bool:
        """Whether a node, or the call that it ran in, is the same as one in the other program."""
        side, found = self.sides[which], self.found
        if node in (found.nodes, found.back)[which] or side.kinds[node] not in ("op", "call"):
            return True
        call = side.calls[node]
        if call is None or not side.is_own[node]:
            return bool(side.is_automatic[node])
        return call in (found.calls, found.calls_back)[which]

    def _is_divergence(self, step: Step) -> bool:
        if step.is_given or step.error is None:
            return step.differs
        if step.error <= step.allowed:
            return False
        largest = step.distance.largest if step.distance is not None else None
        if self._atol and largest is not None and largest <= self._atol and step.error < inf:
            return False
        a = self.sides[0]
        if is_steep(a.operators[step.nodes[0]]) and step.came_in:
            return step.error > step.allowed * self._steepness(step.nodes[0])
        return True

    def _steepness(self, node: int) -> float:
        """Return the greatest number that an op read, 1 at least."""
        held = (self.known[0].value(edge.value) for edge in self.sides[0].edges[node])
        return max([1.0, *(greatest(one) for one in held if one is not None)])


def _makers(side: Side) -> dict[int, int]:
    """Return, by value, the op that made it, or the call that passed it through."""
    nodes = (node for node, kind in enumerate(side.kinds) if kind in ("op", "call"))
    return {value: node for node in nodes for value in side.outputs(node)}


def _used(side: Side) -> set[int]:
    """Return the values that calls return, or that are read outside of a backward."""
    found = {
        value for returned in column(side.recording.layer_calls, "returned") for value in returned
    }
    for phase, edges in zip(side.phases, side.edges, strict=True):
        if phase not in ("backward", "recomputed"):
            found.update(edge.value for edge in edges)
    return found
