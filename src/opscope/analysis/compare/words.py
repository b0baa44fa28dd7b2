"""In which way two ops, calls or tensors differ, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from opscope import notation
from opscope.analysis.compare.alignment.settings import other_settings
from opscope.analysis.compare.alignment.sides import Alignment, Side
from opscope.analysis.compare.measure import Step
from opscope.analysis.compare.unpaired import Group
from opscope.operators.known import name_of
from opscope.operators.plans import drew
from opscope.records.differences.difference import Difference, DifferenceKind
from opscope.records.ops import Op
from opscope.records.passes.layers import layer_type

_MOST = 4  # names in a list


class Words:
    """Says in which way two aligned programs differ.

    Args:
        sides: The programs.
        found: What is the same in them.
    """

    def __init__(self, sides: tuple[Side, Side], found: Alignment) -> None:
        self.sides, self.found = sides, found

    # ------------------------------------------------------------------------ one of each

    def given(self, step: Step) -> Difference:
        """Return that a parameter, input or other tensor from outside differs."""
        a, b = self.sides
        x, y = step.nodes
        sizes = [side.shapes[v] for side, v in zip(self.sides, step.values, strict=True)]
        forms = f": {self._forms(step)}" if sizes[0] != sizes[1] else ""
        if a.kinds[x] == "parameter":
            ours, theirs = (s.recording.parameters[s.numbers[n]] for s, n in ((a, x), (b, y)))
            owner, other = (p.name.rpartition(".")[0] for p in (ours, theirs))
            return Difference(
                ours.kind, "first", ours.name, theirs.name, owner, other,
                f"{ours.kind} {ours.name} differs{forms}",
            )  # fmt: skip
        inputs = [c for c in a.children[x] if a.kinds[c] == "call"]
        if inputs:
            call = a.numbers[inputs[0]]
            path = a.recording.layer_calls[call].path
            label = a.labels[call]
            said = f"input {path} differs" if path else "the input differs"
            return Difference("input", "first", label, label, "", "", said + forms)
        form = notation.tensor(a.dtypes[step.values[0]], a.shapes[step.values[0]])
        return Difference(
            "data", "first", what=f"a tensor from outside differs{forms or f': {form}'}"
        )

    def values(self, step: Step) -> Difference:
        """Return that the values of a pair differ."""
        kind: DifferenceKind = "values"
        what = "values differ"
        distance = step.distance
        ops = [op for which in (0, 1) for op in self._ops_near(which, step.nodes[which])]
        if distance is not None and distance.nonfinite:
            kind, what = "nonfinite", f"{distance.nonfinite:,} elements are NaN or infinite in one"
        elif distance is not None and distance.largest is None and distance.relative == inf:
            kind, what = "shape", self._forms(step)
        elif any(_draws(op) for op in ops):
            kind, what = "random", "random numbers differ"
        return self._row(kind, step.nodes, what)

    def _ops_near(self, which: int, node: int) -> list[Op]:
        """Return the ops that made what a node gave: of its call, or itself alone."""
        if self.sides[which].is_own[node]:
            return self._ops_of_call(which, node)
        op = self._op(which, node)
        return [] if op is None else [op]

    def shape(self, step: Step) -> Difference:
        """Return that the sizes of a pair differ."""
        return self._row("shape", step.nodes, self._forms(step))

    def _forms(self, step: Step) -> str:
        """Return types and sizes of a pair."""
        return " → ".join(
            notation.tensor(side.dtypes[value], side.shapes[value])
            for side, value in zip(self.sides, step.values, strict=True)
        )

    def structural(self, step: Step, *, strict: bool) -> Difference | None:
        """Return in which way the calls of a pair differ, None if they do not.

        Args:
            step: The pair.
            strict: Whether the types of values that are not known are a difference.
        """
        a, b = self.sides
        x, y = step.nodes
        if x in self.found.exact and self.found.nodes[x] == y:
            return self._dtype(step) if strict and step.distance is None else None
        names = [self._name(which, step.nodes[which]) for which in (0, 1)]
        calls = a.calls[x], b.calls[y]
        is_call = calls[0] is not None and calls[1] is not None
        ours, theirs = self._op(0, x), self._op(1, y)
        if is_call and (found := self._parameters(step, calls)):
            return found
        if (
            is_call
            and self._types(calls)
            and not (ours and theirs and ours.operator == theirs.operator)
        ):
            return self._row("function", step.nodes, f"{names[0]} → {names[1]}")
        if ours is None or theirs is None or ours.operator != theirs.operator:
            if is_call and calls[0] in self.found.calls:
                found = self._drawn(step) or self._call_settings(step)
                return found or self._row("other ops", step.nodes, self._other_ops(calls))
            if ours is not None and theirs is not None:
                return self._row("function", step.nodes, f"{ours.name} → {theirs.name}")
            return None
        found = self._arguments(step, ours, theirs) or self._settings(step, ours, theirs)
        if found is None and strict and step.distance is None:
            return self._dtype(step)
        return found

    def _parameters(self, step: Step, calls: tuple[int | None, int | None]) -> Difference | None:
        """Return which parameters one of two calls did not use, of those that both could."""
        used = [
            {
                side.recording.parameters[n].name.rpartition(".")[2]
                for n in side.parameters[call or 0]
            }
            for side, call in zip(self.sides, calls, strict=True)
        ]
        if not (used[0] and used[1]) or not (used[0] < used[1] or used[1] < used[0]):
            return None
        which = "a" if used[1] < used[0] else "b"
        names = notation.listed([("", name) for name in sorted(used[0] ^ used[1])])
        return self._row("arguments", step.nodes, f"parameter {names} only in {which}")

    def _types(self, calls: tuple[int | None, int | None]) -> bool:
        """Whether two calls are of different functions."""
        functions = [
            layer_type(side.recording.layer_calls[call or 0].function).removeprefix("r")
            for side, call in zip(self.sides, calls, strict=True)
        ]
        return functions[0] != functions[1]

    def _drawn(self, step: Step) -> Difference | None:
        drawn = [
            side.calls[node] is not None and any(map(_draws, self._ops_of_call(which, node)))
            for which, (side, node) in enumerate(zip(self.sides, step.nodes, strict=True))
        ]
        if drawn[0] == drawn[1]:
            return None
        which = "a" if drawn[0] else "b"
        return self._row("random", step.nodes, f"draws random numbers in {which} only")

    def _ops_of_call(self, which: int, node: int) -> list[Op]:
        side = self.sides[which]
        call = side.calls[node]
        ops = side.recording.ops
        return [] if call is None else [ops[i] for i in side.recording.layer_calls[call].ops]

    def _call_settings(self, step: Step) -> Difference | None:
        """Return which settings of two calls differ that ran other ops."""
        settings = [
            side.recording.settings_of(op.index for op in self._ops_of_call(which, node))
            for which, (side, node) in enumerate(zip(self.sides, step.nodes, strict=True))
        ]
        said = [
            f"{name} {settings[0][name]} → {settings[1][name]}"
            for name in settings[0]
            if name in settings[1] and repr(settings[0][name]) != repr(settings[1][name])
        ]
        return self._row("settings", step.nodes, ", ".join(said[:_MOST])) if said else None

    def _arguments(self, step: Step, ours: Op, theirs: Op) -> Difference | None:
        """Return which tensors one of two ops was not given."""
        first, second = ({read.argument for read in op.reads} for op in (ours, theirs))
        said = [
            f"not given {notation.listed([('', name) for name in sorted(names)])} in {which}"
            for names, which in ((first - second, "b"), (second - first, "a"))
            if names
        ]
        return self._row("arguments", step.nodes, ", ".join(said)) if said else None

    def _settings(self, step: Step, ours: Op, theirs: Op) -> Difference | None:
        found = other_settings(ours, theirs)
        if not found:
            return None
        said = [f"{name} {_said(left)} → {_said(right)}" for name, left, right in found[:_MOST]]
        return self._row("settings", step.nodes, ", ".join(said))

    def is_number(self, step: Step) -> bool:
        """Whether two ops of one operator were given another number, such as another eps."""
        ours, theirs = self._op(0, step.nodes[0]), self._op(1, step.nodes[1])
        if ours is None or theirs is None:
            return False
        found = other_settings(ours, theirs)
        return any(isinstance(one, float) for _, *both in found for one in both)

    def _dtype(self, step: Step) -> Difference | None:
        """Return that types or sizes differ of what is not known, if those of what it reads do not."""
        made, read = [], []
        for side, node, value in zip(self.sides, step.nodes, step.values, strict=True):
            made.append((side.dtypes[value], side.shapes[value]))
            read.append([(side.dtypes[e.value], side.shapes[e.value]) for e in side.edges[node]])
        if made[0] == made[1] or read[0] != read[1]:
            return None
        if made[0][1] != made[1][1]:
            return self.shape(step)
        return self._row("dtype", step.nodes, f"{made[0][0]} → {made[1][0]}")

    def _other_ops(self, calls: tuple[int | None, int | None]) -> str:
        lists = [
            [side.recording.ops[i].name for i in side.recording.layer_calls[call or 0].ops]
            for side, call in zip(self.sides, calls, strict=True)
        ]
        return f"{_names(lists[0])} → {_names(lists[1])}"

    # ---------------------------------------------------------------------- without a partner

    def gap(self, step: Step, groups: Mapping[tuple[int, int], Group]) -> Difference:
        """Return that a pair differs, or what it depends on that has no partner.

        Args:
            step: The pair.
            groups: What has no partner, by program and node.
        """
        both: tuple[list[int], list[int]] = ([], [])
        for which, gap in enumerate(step.gaps):
            group = groups.get((which, gap)) if gap is not None else None
            if group is not None:
                for nodes, more in zip(both, (group.ours, group.theirs), strict=True):
                    nodes += [node for node in more if node not in nodes]
            elif gap is not None:
                both[which].append(gap)
        operators = [side.operators[n] for side, n in zip(self.sides, step.nodes, strict=True)]
        if operators[0] != operators[1]:
            for nodes, node in zip(both, step.nodes, strict=True):
                nodes.append(node)
        return self.group(Group(0, sorted(both[0]), sorted(both[1])))

    def group(self, group: Group) -> Difference:
        """Return what has no partner."""
        names = [[self._name(which, n) for n in nodes]
                 for which, nodes in enumerate((group.ours, group.theirs))]  # fmt: skip
        if group.ours and group.theirs:
            kind: DifferenceKind = "other ops"
            what = f"{_names(names[0])} → {_names(names[1])}"
        else:
            kind = "only in a" if group.ours else "only in b"
            what = f"{_names(names[0] or names[1])} {kind}"
        first = next(iter(group.ours), None), next(iter(group.theirs), None)
        return self._row(kind, first, what)

    # -------------------------------------------------------------------------------- parts

    def _op(self, which: int, node: int | None) -> Op | None:
        side = self.sides[which]
        if node is None or side.kinds[node] != "op":
            return None
        return side.recording.ops[side.numbers[node]]

    def _name(self, which: int, node: int) -> str:
        """Return what a node is called: its function, or its operator."""
        side = self.sides[which]
        if side.calls[node] is not None and side.is_own[node]:
            return side.functions[node]
        return name_of(side.operators[node])

    def _label(self, which: int, node: int | None) -> str:
        side = self.sides[which]
        if node is None:
            return ""
        call = side.calls[node]
        label = "" if call is None else side.labels.get(call, "")
        if call is not None and side.is_own[node]:
            return label
        op = self._op(which, node)
        name = op.name if op is not None else ""
        return f"{name} of {label}" if label else f"{name}_{side.numbers[node]}"

    def _row(
        self, kind: DifferenceKind, nodes: tuple[int | None, int | None], what: str
    ) -> Difference:
        ops = [self._op(which, node) for which, node in enumerate(nodes)]
        module, other_module = (
            None if node is None else side.address(side.runs[node])
            for side, node in zip(self.sides, nodes, strict=True)
        )
        return Difference(
            kind, "structure", self._label(0, nodes[0]), self._label(1, nodes[1]), module,
            other_module, what,
            op=None if ops[0] is None else ops[0].index,
            other_op=None if ops[1] is None else ops[1].index,
            source=self._source(0, nodes[0]), other_source=self._source(1, nodes[1]),
        )  # fmt: skip

    def _source(self, which: int, node: int | None) -> str:
        if node is None:
            return ""
        side = self.sides[which]
        op, call = self._op(which, node), side.calls[node]
        if op is not None:
            frames = side.recording.frames_of(op)
        else:
            site = None if call is None else side.recording.layer_calls[call].call_site
            frames = () if site is None else side.recording.call_sites[site]
        return f"{frames[0].file}:{frames[0].line}" if frames else ""


def _draws(op: Op) -> bool:
    """Whether an op drew random numbers."""
    return drew(op.operator, dict(op.arguments))


def _said(value: object) -> str:
    return "none" if value is None else notation.foreign(str(value), 40)


def _names(names: Iterable[str]) -> str:
    """Return a few names, and how many there are besides."""
    listed = list(dict.fromkeys(names))
    rest = len(listed) - _MOST
    return ", ".join(listed[:_MOST]) + (f" and {rest} more" if rest > 0 else "") or "nothing"
