"""Which nodes of a view are shown."""

from __future__ import annotations

from collections.abc import Collection

import networkx as nx

from opscope.errors import OptionError, nearest


def without_kinds(graph: nx.DiGraph, kinds: Collection[str]) -> nx.DiGraph:
    """Return the graph without the nodes of these kinds, such as ``{"parameter"}``."""
    return _keep(graph, [n for n, kind in graph.nodes(data="kind") if kind not in kinds])


def forward_only(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the graph without the ops that the autograd engine ran."""
    return _keep(graph, [n for n, phase in graph.nodes(data="phase") if phase == "forward"])


def _keep(graph: nx.DiGraph, nodes: list[str]) -> nx.DiGraph:
    if len(nodes) == len(graph):
        return graph
    return nx.DiGraph(graph.subgraph(nodes))


def focus(graph: nx.DiGraph, module: str, addresses: Collection[str]) -> nx.DiGraph:
    """Return what ran inside one module, with the border nodes that it touches.

    Args:
        graph: The graph of ops.
        module: The module's address.
        addresses: All addresses, for the message where this is none of them.

    Raises:
        OptionError: If no module at this address ran.
    """
    inside = {
        node
        for node, stack in graph.nodes(data="module_stack")
        if any(address == module for address, _, _ in stack)
    }
    if not inside:
        listed = ", ".join(repr(name) for name in nearest(module, filter(None, addresses)))
        message = f"no module ran at {module!r}; the nearest addresses: {listed}"
        raise OptionError(message)
    around = {
        other
        for node in inside
        for other in (*graph.predecessors(node), *graph.successors(node))
        if graph.nodes[other]["kind"] not in ("op", "handed")
    }
    return _keep(graph, [node for node in graph if node in inside or node in around])
