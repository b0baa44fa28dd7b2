"""Graphs whose attributes are numbers and texts only, as file formats of graphs take them."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx

from opscope.graph.edges import edges_of


def flat(graph: nx.DiGraph) -> nx.DiGraph:
    """Return a copy of a graph for GraphML, GEXF and the like.

    Lists and dictionaries become JSON, what is None is left out, and so is what is known of the graph
    as a whole.
    """
    result = nx.DiGraph()
    result.add_nodes_from((node, _flat(data)) for node, data in graph.nodes(data=True))
    result.add_edges_from((a, b, _flat(data)) for a, b, data in edges_of(graph))
    return result


def _flat(attributes: dict[str, Any]) -> dict[str, str | int | float | bool]:
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in attributes.items()
        if value is not None
    }
