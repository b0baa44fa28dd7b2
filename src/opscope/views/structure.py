"""The shape of a program in words."""

from __future__ import annotations

import networkx as nx

from opscope.records.layers import LayerPass


def structure(graph: nx.DiGraph, passes: tuple[LayerPass, ...]) -> str:
    """Return the article's description of a graph of layers.

    ``"purely feedforward"`` where no layer has several passes, else ``"recurrent"`` with the
    largest number of passes; ``"without branching"`` where no layer's value is used by
    several layers.
    """
    loops = max((item.passes for item in passes), default=1)
    flow = "purely feedforward" if loops <= 1 else f"recurrent (at most {loops} passes)"
    forks = any(
        sum(graph.nodes[reader]["layer"] is not None for reader in graph.successors(node)) > 1
        for node, layer in graph.nodes(data="layer")
        if layer is not None
    )
    return f"{flow}, {'with' if forks else 'without'} branching"
