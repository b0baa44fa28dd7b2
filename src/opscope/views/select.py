"""What of the graph of ops a view is made of: chosen by sets of nodes, and copied once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, Literal

import networkx as nx

from opscope.errors import OptionError, check_choice, nearest
from opscope.garbage import paused
from opscope.graph.edges import edges_of
from opscope.views.steps import after

Phase = Literal["forward", "backward", "optimizer", "other", "all"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "other", "all")

_RAN = ("op", "passed_through")


def select(
    graph: nx.DiGraph,
    *,
    phase: Phase = "all",
    module: str | None = None,
    addresses: Collection[str] = (),
    hidden: Collection[str] = (),
    overwritten: bool = False,
    flows: Collection[tuple[str, str]] = (),
) -> nx.DiGraph:
    """Return what of the graph of ops is shown, in the order of the graph.

    Ops that are not, whose results are read by what is, become nodes of kind ``"external"``
    labelled as their layer, but not for the forward phase, of which the later ones are no part.

    Args:
        graph: The graph of ops, which is returned itself where all of it is shown.
        phase: What ran in which phase of a training step, with what that read from outside.
        module: Address of the one module whose ops are shown, with what they read from outside.
        addresses: All addresses, for the message where this is none of them.
        hidden: Kinds of nodes that are not shown, such as ``{"parameter"}``.
        overwritten: Whether edges are shown along which nothing flows, as what is there is
            overwritten unread.
        flows: Pairs of labels: gradients flowed between what these layers gave, and edges there
            say so. A pair of twice the same is a layer that a gradient reached.

    Raises:
        OptionError: For a phase that there is not, or if no module at this address ran.
    """
    check_choice("phase", phase, PHASES)
    if module is None and not hidden and not flows:
        name = f"select {phase}" + " overwritten" * overwritten
        later = after(graph, name, partial(select, phase=phase, overwritten=overwritten))
        if later is not None:
            return later
    selection = _Selection(graph, overwritten=overwritten)
    if phase != "all":
        selection.keep_phase(phase)
    if module is not None:
        selection.keep_module(module, addresses)
    selection.hide(hidden)
    return selection.copied(flows)


class _Selection:
    """Nodes and edges of a graph that are shown, and which nodes stand for what is outside."""

    def __init__(self, graph: nx.DiGraph, *, overwritten: bool) -> None:
        self._graph = graph
        self._nodes = set(graph)
        self._external: set[str] = set()
        self._unread: set[tuple[str, str]] = set()
        if not overwritten:
            self._unread = {
                (a, b) for a, b, edge in edges_of(graph) if edge.get("kind") == "overwrite"
            }

    def keep_phase(self, phase: str) -> None:
        """Keep what ran in a phase, and what that read from outside."""
        phases = dict(self._graph.nodes(data="phase"))
        ran = {n for n, kind in self._graph.nodes(data="kind") if kind in _RAN}
        inside = {n for n in ran if phases[n] == phase}
        ends = set()
        for node in self._nodes - ran:
            near = {*self._sources(node), *self._targets(node)}
            # A parameter, say, that only an optimizer reads is no part of the forward phase.
            if not near.isdisjoint(inside) or (phase == "forward" and not (near and near <= ran)):
                ends.add(node)
        feeding = set() if phase == "forward" else self._feeding(inside) - inside - ends
        self._keep(inside | ends, feeding)

    def keep_module(self, module: str, addresses: Collection[str]) -> None:
        """Keep what ran inside a module, and what that read from outside."""
        inside = {
            node
            for node, stack in self._graph.nodes(data="module_stack")
            if node in self._nodes and any(address == module for address, _, _ in stack)
        } - self._external
        if not inside:
            listed = ", ".join(repr(name) for name in nearest(module, filter(None, addresses)))
            hint = f"; the nearest addresses: {listed}" if listed else ": the trace has none"
            message = f"no module ran at {module!r}{hint}"
            raise OptionError(message)
        near = {
            other
            for node in inside
            for other in (*self._sources(node), *self._targets(node))
            if self._kind(other) not in _RAN
        }
        self._keep(inside | near, self._feeding(inside) - inside - near)

    def hide(self, kinds: Collection[str]) -> None:
        """Hide the nodes of some kinds."""
        if kinds:
            self._nodes = {node for node in self._nodes if self._kind(node) not in kinds}

    @paused()
    def copied(self, flows: Collection[tuple[str, str]]) -> nx.DiGraph:
        """Return what is left, with edges marked along which gradients flowed."""
        graph = self._graph
        if len(self._nodes) == len(graph) and not (self._unread or self._external or flows):
            return graph
        result = nx.DiGraph(**graph.graph)
        result.add_nodes_from(
            (node, _from_outside(data) if node in self._external else dict(data))
            for node, data in graph.nodes(data=True)
            if node in self._nodes
        )
        result.add_edges_from(
            (a, b, dict(edge))
            for a, b, edge in edges_of(graph)
            if a in self._nodes and b in self._nodes and self._has_edge(a, b)
        )
        for a, b, edge in edges_of(result) if flows else ():
            ends = graph.nodes[a]["layer"], graph.nodes[b]["layer"]
            edge["gradient"] = graph.nodes[b]["phase"] == "forward" and ends in flows
        return result

    def _keep(self, inside: set[str], feeding: set[str]) -> None:
        self._nodes = inside | feeding
        self._external |= feeding

    def _kind(self, node: str) -> str:
        return "external" if node in self._external else str(self._graph.nodes[node]["kind"])

    def _feeding(self, nodes: Collection[str]) -> set[str]:
        return {source for node in nodes for source in self._sources(node)}

    def _sources(self, node: str) -> Iterator[str]:
        near = self._graph.predecessors(node)
        return (n for n in near if n in self._nodes and self._has_edge(n, node))

    def _targets(self, node: str) -> Iterator[str]:
        near = self._graph.successors(node)
        return (n for n in near if n in self._nodes and self._has_edge(node, n))

    def _has_edge(self, source: str, target: str) -> bool:
        return target not in self._external and (source, target) not in self._unread


def _from_outside(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an op that is not shown itself, but what it gave."""
    label = attributes["layer"] or attributes["label"]
    return {
        **attributes, "kind": "external", "label": label, "layer": None, "module_stack": [],
        "operator": None, "arguments": {}, "fed_by": label, "layer_type": None, "module": None, "parameters": [],
        "buffers": [],
    }  # fmt: skip


def edges_from_parameters(graph: nx.DiGraph) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the edges of a graph, from parameters where copies of them flow between layers.

    Autocast casts a parameter in the first layer that uses it, and keeps the cast for others:
    they do not depend on that layer. Where parameters are not shown there is no edge.
    """
    meant: dict[str, dict[str, dict[str, Any]]] = {}
    for _, target, edge in edges_of(graph):
        parameter = edge.get("stands_for")
        if parameter and parameter in graph and not graph.has_edge(parameter, target):
            known = {name: item for name, item in edge.items() if name != "stands_for"}
            meant.setdefault(parameter, {}).setdefault(target, {**known, "kind": "data"})
    for source, targets in graph.adjacency():
        for target, edge in targets.items():
            if "stands_for" not in edge:
                yield source, target, edge
        for target, edge in meant.get(source, {}).items():
            yield source, target, edge
