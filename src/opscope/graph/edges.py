"""The edges of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx


def edges_of(graph: nx.DiGraph) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield what ``graph.edges(data=True)`` does.

    That would be kept by the graph, and keeps the graph: a cycle, so that all of a long program
    stayed in memory until the garbage collector came by.
    """
    for source, targets in graph.adjacency():
        for target, attributes in targets.items():
            yield source, target, attributes
