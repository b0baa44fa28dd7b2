"""Passes folded: each layer, op or module is one node, however often it ran."""

from __future__ import annotations

from collections import Counter

import networkx as nx

from opscope.views.quotients.quotient import Attributes, quotient


def fold_passes(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the graph with all passes of a layer, and all runs of a module, as one node.

    Node attributes gain ``pass_list``, the passes that were folded. Edge attributes
    ``out_passes`` and ``in_passes`` say in which passes of its source and of its target an
    edge was there. What the passes have in common is shown as in the first of them. Of the ops
    of a layer those are one node that are the same operator, the first, second and so on of it
    in their pass: a reshape that copies in one pass and not in another is three ops, not two.
    """
    steps = _steps(graph)
    return quotient(
        graph,
        lambda node, attributes: steps.get(node) or _without_pass(node, attributes),
        _describe,
        loops=True,
    )


def _steps(graph: nx.DiGraph) -> dict[str, str]:
    """Return the new name of each op of a layer, which is that of its step where it can be."""
    names: dict[tuple[str, str | None, int], str] = {}
    taken: set[str] = set()
    seen: Counter[tuple[str, str, str | None]] = Counter()
    found: dict[str, str] = {}
    for node, attributes in graph.nodes(data=True):
        if attributes["layer"] is None or attributes["kind"] not in ("op", "passed_through"):
            continue
        if attributes["accumulates"] is not None:
            continue
        label, operator = str(attributes["layer"]), attributes["operator"]
        end = ".backward" if attributes["phase"] == "backward" else ""
        layer = _unrolled(label, attributes)
        number = seen[label, end, operator]
        seen[label, end, operator] += 1
        key = layer + end, operator, number
        if key not in names:
            name = f"{layer}/{attributes['step']}{end}"
            if name in taken:
                name = f"{layer}/{attributes['step']} {operator}{end}"
            names[key] = name
            taken.add(name)
        found[node] = names[key]
    return found


def _without_pass(node: str, attributes: Attributes) -> str:
    end = ".backward" if attributes["phase"] == "backward" else ""
    if attributes["kind"] == "module":
        return f"@{attributes['module']}{end}"
    if attributes["accumulates"] is not None:
        return f"{attributes['accumulates']}.grad"
    layer = attributes["layer"]
    if attributes.get("fed_by"):
        return f"{_unrolled(attributes['fed_by'], attributes)} (outside)"
    if layer is None:
        return node
    return _unrolled(str(layer), attributes) + end


def _unrolled(label: str, attributes: Attributes) -> str:
    return label.rpartition(":")[0] if attributes["passes"] > 1 else label


def _describe(name: str, members: list[Attributes]) -> Attributes:
    first = members[0]
    label = first["label"]
    if first["kind"] in ("layer", "input", "output"):
        label = name
    return {
        **first,
        "label": label,
        "pass_list": sorted({member["pass"] for member in members}),
        "duration_ns": sum(member["duration_ns"] for member in members),
        "failed": any(member["failed"] for member in members),
    }
