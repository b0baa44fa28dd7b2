"""Where two programs diverge first, what follows from it, and what else is not the same in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf

from opscope.analysis.compare.alignment.align import align
from opscope.analysis.compare.alignment.modules import module_pairs
from opscope.analysis.compare.alignment.sides import Alignment, Side
from opscope.analysis.compare.distance import KnownValues
from opscope.analysis.compare.likeness import Likeness
from opscope.analysis.compare.measure import Measured, Step
from opscope.analysis.compare.unpaired import unpaired
from opscope.analysis.compare.words import Words
from opscope.records.differences.difference import Difference, Differences, Status


def differences(
    sides: tuple[Side, Side],
    known: tuple[KnownValues, KnownValues],
    names: Mapping[str, str],
    rtol: float | None = None,
    atol: float | None = None,
) -> Differences:
    """Return all in which two programs differ.

    Args:
        sides: The programs.
        known: What is known of their values.
        names: Modules of the first with those of the second, by address.
        rtol: How far apart values may be, for every type; None for what their types say.
        atol: How far apart two elements may be whatever their size.

    Raises:
        OptionError: For an address that there is not.
    """
    a, b = sides
    likeness = Likeness(sides, known)
    pairs = module_pairs(a.recording, b.recording, names, likeness.norms())
    found = align(a, b, pairs, likeness)
    measured = Measured(sides, found, known, rtol, atol)
    return _Differences(sides, found, measured).all()


class _Differences:
    """What two aligned programs do not have in common."""

    def __init__(self, sides: tuple[Side, Side], found: Alignment, measured: Measured) -> None:
        self.sides, self.found, self.measured = sides, found, measured
        self._words = Words(sides, found)
        self._tainted = self._sweep()
        self._unpaired_groups = unpaired(sides, found, measured.has_partner)
        self._groups = {
            (which, node): group
            for group in self._unpaired_groups
            for which, nodes in ((0, group.ours), (1, group.theirs))
            for node in nodes
        }

    def all(self) -> Differences:
        """Return it all, in the order of execution."""
        rows: dict[tuple[object, object], tuple[int, Difference]] = {}
        gaps: set[tuple[int, int | None]] = set()
        for step in self.measured.steps:
            row = self._row(step)
            if row is None:
                continue
            if row.kind in ("only in a", "only in b", "other ops"):
                gaps |= set(enumerate(step.gaps))
            key = self._group(step)
            old = rows.get(key)
            if old is None or (row.status == "first" and old[1].status != "first"):
                rows[key] = step.nodes[0], row
            elif row.status == old[1].status == "follows":
                rows[key] = old[0], row
        listed = [*rows.values(), *self._unpaired(gaps)]
        listed.sort(key=lambda pair: pair[0])
        a, b = self.sides
        return Differences(
            tuple(row for _, row in listed),
            self._errors(),
            (len(a.recording.ops), len(b.recording.ops)),
            sum(a.kinds[node] == "op" for node in self.found.nodes),
            self.measured.compared,
        )

    def _group(self, step: Step) -> tuple[object, object]:
        """Return what a step is shown as: its layer, or itself."""
        a, b = self.sides
        calls = a.calls[step.nodes[0]], b.calls[step.nodes[1]]
        if calls[0] is None or not a.is_own[step.nodes[0]]:
            return ("node", step.nodes[0]), ("node", step.nodes[1])
        return calls

    # ---------------------------------------------------------------- what follows from what

    def _sweep(self) -> tuple[set[int], set[int]]:
        """Return the nodes of each program that depend on a divergence through what differs."""
        result: tuple[set[int], set[int]] = (set(), set())
        dirty: set[tuple[int, int]] = set()
        for which in (0, 1):
            side, tainted = self.sides[which], result[which]
            steps: dict[int, list[Step]] = {}
            for step in self.measured.steps:
                steps.setdefault(step.nodes[which], []).append(step)
            for node, edges in enumerate(side.edges):
                for source, value, _ in edges:
                    step_read = self.measured.step_of(which, source, value)
                    if (source in tainted) if step_read is None else (step_read.values in dirty):
                        tainted.add(node)
                        break
                for step in steps.get(node, ()):
                    error = step.error or 0.0
                    if step.differs or (node in tainted and error > step.tolerance):
                        dirty.add(step.values)
        return result

    def _follows(self, step: Step) -> bool:
        return any(step.nodes[which] in self._tainted[which] for which in (0, 1))

    # --------------------------------------------------------------------------------- rows

    def _row(self, step: Step) -> Difference | None:
        """Return in which way a step differs, None if it does not."""
        words, follows = self._words, self._follows(step)
        error = step.error
        if step.is_given:
            return self._filled(words.given(step), step, "first") if step.differs else None
        if error is None:
            found = words.structural(step, strict=not self.measured.compared)
            status = self._unknown(step, follows=follows)
            return None if found is None else self._filled(found, step, status)
        if not step.differs:
            return self._unnoticed(step, follows=follows)
        if follows:
            return self._filled(words.values(step), step, "follows")
        is_shape = step.error == inf and step.distance is not None and step.distance.largest is None
        own = words.shape(step) if is_shape else words.structural(step, strict=False)
        has_gap = any(gap is not None for gap in step.gaps)
        if has_gap and (own is None or own.kind in ("shape", "function", "other ops")):
            own = words.gap(step, self._groups)  # it comes before
        if self._is_made_up_for(step):
            return None if own is None else self._filled(own, step, "no effect")
        return self._filled(own or words.values(step), step, "first")

    def _unknown(self, step: Step, *, follows: bool) -> Status:
        """Return what a difference in structure makes of values that are not known themselves."""
        agrees = bool(self.measured.compared) and all(
            self._agrees_below(which, step.nodes[which], needs_some=True) for which in (0, 1)
        )
        return "no effect" if agrees else "follows" if follows else "structure"

    def _unnoticed(self, step: Step, *, follows: bool) -> Difference | None:
        """Return in which way two calls differ whose values agree, or nearly."""
        words = self._words
        if follows:
            seen = (step.error or 0.0) > step.tolerance
            return self._filled(words.values(step), step, "follows") if seen else None
        found = words.structural(step, strict=False)
        if found is None:
            return None
        # Of the same, made with other settings, anything but the same is a difference.
        is_seen = bool(step.error) and found.kind == "settings" and words.is_number(step)
        if is_seen:
            return self._filled(found, step, "structure" if step.came_in else "first")
        return self._filled(found, step, "no effect")

    def _filled(self, row: Difference, step: Step, status: Status) -> Difference:
        distance = step.distance
        return replace(
            row, status=status, error=step.error, error_before=step.came_in, allowed=step.allowed,
            largest=None if distance is None else distance.largest,
        )  # fmt: skip

    def _is_made_up_for(self, step: Step) -> bool:
        """Whether all that depends on a pair agrees, and it is a pair for little reason."""
        a, b = self.sides
        x, y = step.nodes
        sources = {self.found.nodes.get(origin.source) for origin in a.origins[x]}
        same = sources == {origin.source for origin in b.origins[y]}
        if same and a.operators[x] == b.operators[y] and a.functions[x] == b.functions[y]:
            return False
        below = self._agrees_below(0, x, step.allowed, needs_some=True)
        return below and self._agrees_below(1, y, step.allowed, needs_some=True)

    def _agrees_below(
        self, which: int, node: int, allowed: float = 0.0, *, needs_some: bool = False
    ) -> bool:
        """Whether what depends on a node agrees.

        Args:
            which: The program, 0 or 1.
            node: The node.
            allowed: How far apart it may be, whatever its type.
            needs_some: Whether there must be something that does.
        """
        side = self.sides[which]
        waiting, seen, found = [node], {node}, not needs_some
        while waiting:
            for child in side.children[waiting.pop()]:
                if child in seen:
                    continue
                seen.add(child)
                steps = [s for v in side.outputs(child)
                         if (s := self.measured.by_value[which].get(v))]  # fmt: skip
                if any((step.error or 0.0) > max(step.tolerance, allowed) for step in steps):
                    return False
                found = found or bool(steps)
                if not steps:
                    waiting.append(child)
        return found

    # ------------------------------------------------------------------- what has no partner

    def _unpaired(self, explained: set[tuple[int, int | None]]) -> Iterator[tuple[int, Difference]]:
        """Yield the ops of both without a partner, what is connected together.

        Args:
            explained: Program and node of those that are in a row already.
        """
        for group in self._unpaired_groups:
            nodes = [(0, node) for node in group.ours] + [(1, node) for node in group.theirs]
            if not explained.isdisjoint(nodes):
                continue
            status: Status = "structure"
            if self.measured.compared and all(self._agrees_below(*node) for node in nodes):
                status = "no effect"
            elif any(node in self._tainted[which] for which, node in nodes):
                status = "follows"
            yield group.place, replace(self._words.group(group), status=status)

    def _errors(self) -> dict[tuple[str, str], float]:
        """Return, by labels of layers, how far apart what they gave is."""
        a, b = self.sides
        found: dict[tuple[str, str], float] = {}
        for step in self.measured.steps:
            calls = a.calls[step.nodes[0]], b.calls[step.nodes[1]]
            if step.error is None or step.is_given or calls[0] is None or calls[1] is None:
                continue
            if a.is_own[step.nodes[0]] and b.is_own[step.nodes[1]]:
                found[a.labels[calls[0]], b.labels[calls[1]]] = step.error
        return found
