"""The one transform behind every view: nodes that share a key become one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import networkx as nx

Attributes = dict[str, Any]
_RANK = {"data": 0, "write": 1, "alias": 2}


def quotient(
    graph: nx.DiGraph,
    key: Callable[[str, Attributes], str],
    describe: Callable[[str, list[Attributes]], Attributes],
    *,
    loops: bool = False,
) -> nx.DiGraph:
    """Return a new graph with one node for all nodes of the same key.

    Args:
        graph: Left as it is.
        key: Maps a node and its attributes to the name of its new node.
        describe: Maps a new node's name and its members' attributes, in the order of
            execution, to its attributes.
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
    for source, target, attributes in graph.edges(data=True):
        start, end = names[source], names[target]
        if loops or start != end:
            _merge_edge(result, start, end, attributes, graph.nodes[source], graph.nodes[target])
    return result


def _merge_edge(
    graph: nx.DiGraph,
    source: str,
    target: str,
    edge: Mapping[str, Any],
    leaving: Attributes,
    entering: Attributes,
) -> None:
    known = graph.edges.get((source, target))
    if known is None:
        known = {"kind": edge["kind"], "argument": "", "value": edge["value"], "count": 0}
        known |= {"out_passes": [], "in_passes": [], "gradient": False}
        graph.add_edge(source, target, **known)
        known = graph.edges[source, target]
    known["count"] += edge.get("count", 1)
    known["gradient"] |= edge.get("gradient", False)
    if _RANK[edge["kind"]] < _RANK[known["kind"]]:
        known["kind"] = edge["kind"]
    known["argument"] = _union(known["argument"], edge["argument"])
    known["out_passes"] = sorted({*known["out_passes"], leaving["pass"]})
    known["in_passes"] = sorted({*known["in_passes"], entering["pass"]})


def _union(first: str, second: str) -> str:
    names: Iterable[str] = (*first.split(","), *second.split(","))
    return ",".join(dict.fromkeys(name for name in names if name))


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
