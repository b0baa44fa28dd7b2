"""Passes folded at once, without the graph of ops and that of its layers in between.

What comes out is what `fold_passes(at_level(...))` makes of them, for the forward of a program
that was not looked at otherwise. Of each node that is shown only its first pass is described.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

import networkx as nx

from opscope.garbage import paused
from opscope.graph.attributes import NodeAttributes
from opscope.graph.build import OpGraph, edge_attributes
from opscope.graph.skeleton import OVERWRITE, Skeleton
from opscope.records.columns.columns import NONE
from opscope.records.columns.table import column
from opscope.records.sums.times import OpTimes
from opscope.views.quotients.levels import Rule
from opscope.views.quotients.quotient import Attributes, Merged


def can_fold(ops: OpGraph) -> bool:
    """Whether all of a program is its forward, and each layer uses parameters themselves."""
    recording = ops.recording
    phases = {*column(recording.ops, "phase"), *column(recording.layer_calls, "phase")}
    return phases <= {"forward"} and not ops.skeleton.stands_for


@paused()
def folded(
    ops: OpGraph, rule: Rule, hidden: Collection[str], *, overwritten: bool = False
) -> nx.DiGraph:
    """Return the graph of layers or modules with all passes of one as one node.

    Args:
        ops: The graph of ops, of which `can_fold` is true.
        rule: Which node each op becomes part of.
        hidden: The kinds of nodes that are not shown.
        overwritten: Whether edges are shown along which nothing flows.
    """
    visits = _Visits(ops, rule, hidden)
    result = nx.DiGraph(**ops.attributes)
    for name, attributes in visits.described():
        result.add_node(name, **attributes)
    merged: dict[tuple[int, int], Merged] = {}
    for source, edges in _by_visit(visits, overwritten=overwritten):
        for target, edge in _between(visits.skeleton, visits.of_node, edges):
            if source == target:
                continue
            ends = visits.fold[source], visits.fold[target]
            known = merged.get(ends)
            if known is None:
                known = merged[ends] = Merged(edge)
            known.add(edge, visits.number[source], visits.number[target])
    names = visits.names
    for (source, target), known in merged.items():
        result.add_edge(names[source], names[target], **known.attributes())
    return result


Edge = tuple[int, int]  # its number, and the node that it goes to


def _by_visit(visits: _Visits, *, overwritten: bool) -> Iterator[tuple[int, list[Edge]]]:
    """Yield each visit with the edges from it, in the order in which a graph has them."""
    skeleton, of_node = visits.skeleton, visits.of_node
    shown: list[tuple[int, int, int, int]] = []
    start = 0
    for node, end in enumerate(skeleton.ends):
        for edge in range(start, end) if of_node[node] != NONE else ():
            source = skeleton.sources[edge]
            visit = of_node[source]
            if visit != NONE and (overwritten or skeleton.edge_kinds[edge] != OVERWRITE):
                shown.append((visit, source, edge, node))
        start = end
    shown.sort()
    for visit, edges in groupby(shown, lambda edge: edge[0]):
        yield visit, [(edge, node) for _, _, edge, node in edges]


def _between(
    skeleton: Skeleton, of_node: array[int], edges: list[Edge]
) -> Iterator[tuple[int, Attributes]]:
    """Yield the visits that edges go to, with what these are together."""
    if len(edges) == 1:
        edge, node = edges[0]
        yield of_node[node], edge_attributes(skeleton, edge)
        return
    merged: dict[int, Merged] = {}
    for edge, node in edges:
        attributes = edge_attributes(skeleton, edge)
        merged.setdefault(of_node[node], Merged(attributes)).add(attributes, 1, 1)
    for target, known in merged.items():
        yield target, known.attributes()


class _Visits:
    """The passes of layers, runs of modules and single nodes that a view without folding shows.

    Attributes:
        skeleton: The nodes of the graph of ops.
        of_node: By node, the visit that it is part of, `NONE` for none.
        number: By visit, which pass or run it is.
        fold: By visit, the number of the node that all its passes become.
        names: By that number, the name of the node.
    """

    def __init__(self, ops: OpGraph, rule: Rule, hidden: Collection[str]) -> None:
        self.skeleton = ops.skeleton
        self.of_node = array("i")
        self.number = array("i")
        self.fold = array("i")
        self.names: list[str] = []
        self._rule = rule
        self._hidden = frozenset(hidden)
        self._attributes = NodeAttributes(self.skeleton, ops.passes)
        self._passes = ops.passes
        self._visits: dict[object, int] = {}
        self._boxes: dict[int | None, list[Any] | None] = {}
        self._folds: list[_Fold] = []
        self._by_name: dict[str, int] = {}
        self._layers = column(ops.passes, "layer")
        self._pass_numbers = column(ops.passes, "number")
        self._layer_labels: dict[int, str] = {}
        self._times = OpTimes(ops.recording)
        self._call_ops = column(ops.recording.layer_calls, "ops")
        self._calls = column(ops.passes, "call")
        self._fill(ops)

    def described(self) -> Iterator[tuple[str, Attributes]]:
        """Yield the name and the attributes of each node."""
        for name, fold in zip(self.names, self._folds, strict=True):
            members = [{**self._attributes.of(node), "index": at} for node, at in fold.members]
            # Where passes are not folded the node is named after its visit.
            known = self._rule.describe(fold.first_name, members)
            yield (
                name,
                {
                    **known,
                    "label": name
                    if known["kind"] in ("layer", "input", "output")
                    else known["label"],
                    "pass_list": sorted(fold.numbers),
                    "duration_ns": fold.duration,
                    "failed": fold.failed,
                },
            )

    def _fill(self, ops: OpGraph) -> None:
        """Find the visit of each node."""
        skeleton = self.skeleton
        failures, runs = (
            column(ops.recording.ops, "failed"),
            column(ops.recording.ops, "module_call"),
        )
        call_runs = column(ops.recording.layer_calls, "module_call")
        call_kinds = column(ops.recording.layer_calls, "kind")
        index = 0
        rows = enumerate(zip(skeleton.kinds(), skeleton.numbers, strict=True))
        for node, (kind, number) in rows:
            if node in skeleton.gone:
                self.of_node.append(NONE)
                continue
            box, failed = None, False
            if kind == "op":
                box, failed = self._box(runs[number]), failures[number]
            elif kind == "call" and call_kinds[number] not in ("input", "output"):
                box = self._box(call_runs[number])
            elif self._is_hidden(node, kind):
                self.of_node.append(NONE)
                index += 1
                continue
            visit = self._visit_of(node, box)
            fold = self._folds[self.fold[visit]]
            if visit == fold.first:
                fold.members.append((node, index))
            if box is None and failed:
                fold.failed = True
            self.of_node.append(visit)
            index += 1

    def _is_hidden(self, node: int, kind: str) -> bool:
        """Whether a node is not shown that is no op."""
        if kind == "parameter":
            kind = self.skeleton.recording.parameters[self.skeleton.numbers[node]].kind
        elif kind == "value":
            kind = "external" if self._attributes.pass_of(node) is None else "input"
        elif kind == "call":
            kind = "input" if self.skeleton.is_input(node) else "output"
        else:
            kind = "output"
        return kind in self._hidden

    def _box(self, run: int | None) -> list[Any] | None:
        """Return the module that is one node, with all that runs in a run of a module."""
        if run not in self._boxes:
            self._boxes[run] = self._rule.box(self._attributes.stack(run))
        return self._boxes[run]

    def _visit_of(self, node: int, box: list[Any] | None) -> int:
        """Return the visit that a node is part of."""
        if box is not None:
            address, run, _ = box
            known = self._rule.modules[f"{address}:{run}"]
            visit = self._visits.get((address, run))
            if visit is None:
                name = self._rule.name_of_box(box)
                visit = self._add((address, run), f"@{address}", name, run, known["duration_ns"])
                self._folds[self.fold[visit]].failed |= known["failed"]
            return visit
        at = self._attributes.pass_of(node)
        if at is None:
            name = self.skeleton.name(node)
            return self._add(name, name, name, 1, self._attributes.of(node)["duration_ns"])
        visit = self._visits.get(at)
        if visit is None:
            call, layer = self._calls[at], self._layers[at]
            label = self._layer_labels.get(layer)
            if label is None:
                label = self._layer_labels[layer] = self._passes[at].layer_label
            duration = 0 if call is None else self._times.of(self._call_ops[call])
            visit = self._add(at, label, None, self._pass_numbers[at], duration)
        return visit

    def _add(
        self, key: object, name: str, first_name: str | None, number: int, duration: int
    ) -> int:
        """Add a visit.

        Args:
            key: What tells it from others.
            name: The name of the node that its passes become.
            first_name: Its own; None of a layer's.
            number: Which pass it is.
            duration: How long it took.
        """
        visit = self._visits[key] = len(self.number)
        at = self._by_name.setdefault(name, len(self.names))
        if at == len(self.names):
            self.names.append(name)
            label = self._passes[key].label if first_name is None else first_name  # type: ignore[call-overload]
            self._folds.append(_Fold(visit, label))
        fold = self._folds[at]
        fold.numbers.add(number)
        fold.duration += duration
        self.number.append(number)
        self.fold.append(at)
        return visit


class _Fold:
    """All visits that are one node.

    Attributes:
        first: The first of them.
        first_name: The name of that.
        members: Its nodes, each with its place among all.
        numbers: Which passes they are.
        duration: How long they took.
        failed: Whether one failed.
    """

    __slots__ = ("duration", "failed", "first", "first_name", "members", "numbers")

    def __init__(self, first: int, first_name: str) -> None:
        self.first = first
        self.first_name = first_name
        self.members: list[tuple[int, int]] = []
        self.numbers: set[int] = set()
        self.duration = 0
        self.failed = False
