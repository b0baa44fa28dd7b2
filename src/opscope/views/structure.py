"""The shape of a program in words."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass
from opscope.views.forward_layers import branches
from opscope.views.steps import Steps


def structure(graph: nx.DiGraph, passes: Sequence[LayerPass]) -> str:
    """Return the article's description of a graph of layers.

    ``"purely feedforward"`` where no layer has several passes, else ``"recurrent"`` with the
    largest number of passes; ``"without branching"`` where no layer's value is used by
    several layers.
    """
    loops = max(column(passes, "passes"), default=1)
    flow = "purely feedforward" if loops <= 1 else f"recurrent (at most {loops} passes)"
    forks = branches(graph.ops) if _is_forward(graph) else _forks(graph)
    return f"{flow}, {'with' if forks else 'without'} branching"


def _is_forward(graph: nx.DiGraph) -> bool:
    """Whether it is the layers of the whole forward, and was not looked at."""
    is_steps = isinstance(graph, Steps) and not graph.is_built
    return is_steps and graph.names == ("select forward", "at_level layer")


def _forks(graph: nx.DiGraph) -> bool:
    return any(
        sum(graph.nodes[reader]["layer"] is not None for reader in graph.successors(node)) > 1
        for node, layer in graph.nodes(data="layer")
        if layer is not None
    )
