"""Passes folded: each layer, op or module is one node, however often it ran."""

from __future__ import annotations

import networkx as nx

from opscope.views.quotient import Attributes, quotient


def fold_passes(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the graph with all passes of a layer, and all runs of a module, as one node.

    Node attributes gain ``pass_list``, the passes that were folded. Edge attributes
    ``out_passes`` and ``in_passes`` say in which passes of its source and of its target an
    edge was there. What the passes have in common is shown as in the first of them.
    """
    return quotient(graph, _without_pass, _describe, loops=True)


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
    name = _unrolled(str(layer), attributes)
    if attributes["kind"] in ("op", "handed"):
        return f"{name}/{attributes['step']}{end}"
    return name + end


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
