"""Which nodes of a view are shown."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Literal

import networkx as nx

from opscope.errors import OptionError, check_choice, nearest
from opscope.garbage import paused
from opscope.graph.edges import edges_of
from opscope.views.steps import after

Phase = Literal["forward", "backward", "optimizer", "other", "all"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "other", "all")


def without_kinds(graph: nx.DiGraph, kinds: Collection[str]) -> nx.DiGraph:
    """Return the graph without the nodes of these kinds, such as ``{"parameter"}``."""
    if not kinds:
        return graph
    return _keep(graph, [n for n, kind in graph.nodes(data="kind") if kind not in kinds])


def by_data(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the graph without the edges along which no data flows: what is overwritten unread."""
    later = after(graph, "by_data", by_data)
    if later is not None:
        return later
    unread = [(a, b) for a, b, edge in edges_of(graph) if edge.get("kind") == "overwrite"]
    if not unread:
        return graph
    result = _keep(graph, list(graph))
    result.remove_edges_from(unread)
    return result


def from_parameters(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the graph with edges from parameters where copies of them flow between layers.

    Autocast casts a parameter in the first layer that uses it, and keeps the cast for others:
    they do not depend on that layer. Where parameters are not shown there is no edge.
    """
    copies = [(a, b, edge) for a, b, edge in edges_of(graph) if "stands_for" in edge]
    if not copies:
        return graph
    result = _keep(graph, list(graph))
    for source, target, edge in copies:
        result.remove_edge(source, target)
        parameter = edge["stands_for"]
        if parameter in result and not result.has_edge(parameter, target):
            meant = {name: item for name, item in edge.items() if name != "stands_for"}
            result.add_edge(parameter, target, **{**meant, "kind": "data"})
    return result


def in_phase(graph: nx.DiGraph, phase: Phase) -> nx.DiGraph:
    """Return what of the graph of ops ran in one phase of a training step.

    Of what came from outside only what is read there stays. Ops of other phases whose results
    are read become nodes of kind ``"external"``, as in `focus`, but not for the forward
    phase, of which the later ones are no part.

    Raises:
        OptionError: For a phase that there is not.
    """
    check_choice("phase", phase, PHASES)
    if phase == "all":
        return graph
    later = after(graph, f"in_phase {phase}", partial(in_phase, phase=phase))
    if later is not None:
        return later
    phases = dict(graph.nodes(data="phase"))
    ran = {n for n, kind in graph.nodes(data="kind") if kind in _RAN}
    inside = {n for n in ran if phases[n] == phase}
    ends = set()
    for node in graph.nodes - ran:
        near = {*graph.predecessors(node), *graph.successors(node)}
        # A parameter, say, that only an optimizer reads is no part of the forward phase.
        if not near.isdisjoint(inside) or (phase == "forward" and not (near and near <= ran)):
            ends.add(node)
    feeding: set[str] = set()
    if phase != "forward":
        feeding = {other for n in inside for other in graph.predecessors(n)} - inside - ends
    return _with_feeding(graph, inside | ends, feeding)


_RAN = ("op", "passed_through")


def with_gradients(graph: nx.DiGraph, flows: Collection[tuple[str, str]]) -> nx.DiGraph:
    """Return the graph of ops with its edges marked along which gradients flowed.

    Args:
        graph: The graph of ops.
        flows: Pairs of labels: gradients flowed between what these layers gave. A pair of
            twice the same is a layer that a gradient reached.
    """
    result = _keep(graph, list(graph))
    layers = dict(graph.nodes(data="layer"))
    for source, target, attributes in edges_of(result):
        ends = layers[source], layers[target]
        forward = graph.nodes[target]["phase"] == "forward"
        attributes["gradient"] = forward and ends in flows
    return result


@paused()
def _keep(graph: nx.DiGraph, nodes: Collection[str]) -> nx.DiGraph:
    """Return a copy with some of the nodes, in the order of the graph."""
    kept = set(nodes)
    result = nx.DiGraph(**graph.graph)
    result.add_nodes_from((n, dict(data)) for n, data in graph.nodes(data=True) if n in kept)
    result.add_edges_from(
        (source, target, dict(data))
        for source, target, data in edges_of(graph)
        if source in kept and target in kept
    )
    return result


def focus(graph: nx.DiGraph, module: str, addresses: Collection[str]) -> nx.DiGraph:
    """Return what ran inside one module, and what it was fed from outside.

    Ops outside that feed it become nodes of kind ``"external"``, labelled as their layer.

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
        hint = f"; the nearest addresses: {listed}" if listed else ": the trace has none"
        message = f"no module ran at {module!r}{hint}"
        raise OptionError(message)
    near = {
        other
        for node in inside
        for other in (*graph.predecessors(node), *graph.successors(node))
        if graph.nodes[other]["kind"] not in _RAN
    }
    feeding = {other for node in inside for other in graph.predecessors(node)} - inside - near
    return _with_feeding(graph, inside | near, feeding)


def _with_feeding(
    graph: nx.DiGraph, inside: Collection[str], feeding: Collection[str]
) -> nx.DiGraph:
    """Keep some nodes, and others that feed them, as if these came from outside."""
    if len(inside) == len(graph):
        return graph
    result = _keep(graph, {*inside, *feeding})
    result.remove_edges_from([(a, b) for a, b, _ in edges_of(result) if b in feeding])
    for node in feeding:
        attributes = result.nodes[node]
        label = attributes["layer"] or attributes["label"]
        attributes.update(kind="external", label=label, layer=None, module_stack=[], operator=None)
        attributes["fed_by"] = label
        attributes.update(layer_type=None, module=None, parameters=[], buffers=[])
    return result
