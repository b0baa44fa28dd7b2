"""The one transform behind every view: nodes that share a key become one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import networkx as nx

from opscope.garbage import paused
from opscope.graph.build import RANK
from opscope.graph.edges import edges_of

Attributes = dict[str, Any]


@paused()
def quotient(
    graph: nx.DiGraph,
    key: Callable[[str, Attributes], str],
    describe: Callable[[str, list[Attributes]], Attributes],
    *,
    edges: Iterable[tuple[str, str, Attributes]] | None = None,
    loops: bool = False,
) -> nx.DiGraph:
    """Return a new graph with one node for all nodes of the same key.

    Args:
        graph: Left as it is.
        key: Maps a node and its attributes to the name of its new node.
        describe: Maps a new node's name and its members' attributes, in the order of
            execution, to its attributes.
        edges: What there is in the place of the graph's own edges, None for those.
        loops: Whether an edge inside one new node becomes a loop on it, or vanishes.

    Every edge of the result stands for at least one of ``graph``; of edges that become
    one, the kinds are merged to the strongest and ``count`` says how many they were.
    """
    names = {node: key(node, attributes) for node, attributes in graph.nodes(data=True)}
    members: dict[str, list[Attributes]] = {}
    for node, name in names.items():
        members.setdefault(name, []).append(graph.nodes[node])
    result = nx.DiGraph(**graph.graph)
    for name, group in members.items():
        result.add_node(name, **describe(name, group))
    nodes = graph.nodes
    merged: dict[tuple[str, str], Merged] = {}
    for source, target, edge in edges_of(graph) if edges is None else edges:
        ends = names[source], names[target]
        if loops or ends[0] != ends[1]:
            known = merged.get(ends)
            if known is None:
                known = merged[ends] = Merged(edge)
            known.add(edge, nodes[source]["pass"], nodes[target]["pass"])
    result.add_edges_from((*ends, known.attributes()) for ends, known in merged.items())
    return result


class Merged:
    """One edge of a quotient while edges are added to it."""

    __slots__ = (
        "arguments", "count", "gradient", "in_passes", "kind", "out_passes", "stands_for", "value",
    )  # fmt: skip

    def __init__(self, first: Attributes) -> None:
        self.kind: str = first["kind"]
        self.value = first["value"]
        self.count = 0
        self.stands_for: str | None = first.get("stands_for")
        self.gradient = False
        self.arguments: dict[str, None] = {}
        self.out_passes: set[int] = set()
        self.in_passes: set[int] = set()

    def add(self, edge: Attributes, leaving: int, entering: int) -> None:
        self.count += edge.get("count", 1)
        if edge.get("stands_for") != self.stands_for:
            self.stands_for = None
        self.gradient |= edge.get("gradient", False)
        if RANK[edge["kind"]] < RANK[self.kind]:
            self.kind = edge["kind"]
        self.arguments[edge["argument"]] = None
        self.out_passes.add(leaving)
        self.in_passes.add(entering)

    def attributes(self) -> Attributes:
        names = (name for names in self.arguments for name in names.split(","))
        known = {} if self.stands_for is None else {"stands_for": self.stands_for}
        return known | {
            "kind": self.kind,
            "argument": ",".join(dict.fromkeys(filter(None, names))),
            "value": self.value,
            "count": self.count,
            "out_passes": sorted(self.out_passes),
            "in_passes": sorted(self.in_passes),
            "gradient": self.gradient,
        }


def unique(items: Iterable[Any]) -> list[Any]:
    """Return the items in order, each once; they need not be hashable."""
    result: list[Any] = []
    seen = set()
    for item in items:
        mark = repr(item)
        if mark not in seen:
            seen.add(mark)
            result.append(item)
    return result
