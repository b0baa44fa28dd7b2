"""The record as a networkx graph: one node per op, and one per tensor from outside.

Node attributes, all of them JSON-compatible:

=================  ===========================================================================
``kind``           ``"op"``, ``"passed_through"`` (a call that dispatched nothing and returned its
                   input), ``"input"``, ``"output"``, ``"parameter"``, ``"buffer"`` or
                   ``"external"`` (any other tensor from outside, and in the view of one
                   module or phase what fed it); in views also ``"layer"``, ``"module"`` and
                   ``"gradient"`` (of a parameter, as it is accumulated)
``label``          what to call it: the operator's name, the layer's label, a parameter's name
``step``           for an op, which of its layer's ops it is, from 0
``index``          its place in the order of execution
``operator``       the aten operator, ``None`` for other kinds
``layer``          label of the layer pass that it ran for
``layer_type``     the layer's type: ``"conv2d"``
``pass``           which pass of its layer it belongs to, from 1, of ``passes``; for an op
                   that accumulates, which accumulation of that gradient it is
``module``         address of the innermost module, ``None`` outside of all
``module_pass``    which run of that module, from 1
``module_class``   its class name
``module_stack``   ``[address, run, class]`` of every module around it, the outermost first
``shapes``         the sizes of each tensor that it gives
``dtypes``         their element types
``bytes``          their size together
``parameters``     ``[name, shape]`` of the parameters that it uses itself
``buffers``        ``[name, shape]`` of the buffers that it uses itself
``path``           of an input or output: where among them it was, such as ``"attention_mask"``
``source``         ``"file.py:12"``, the innermost line outside torch
``duration_ns``    how long its ops took
``arguments``      what its ops were set to: stride, eps, dimensions; what is usual is left out
``phase``          ``"forward"``, ``"backward"``, ``"optimizer"`` or ``"other"``; ``layer`` and
                   ``module`` of an op of backward are those of the forward op it belongs to
``forward``        of an op of backward: the node of that forward op
``accumulates``    of an op of backward: the parameter to whose gradient it adds
``recomputed``     whether it runs ``forward`` again, for a checkpoint or a custom function
``failed``         whether it raised
=================  ===========================================================================

The graph's own attributes are ``model`` (class name) and what is known of whole layer passes
and module runs, ``layers`` and ``modules``, see `attributes`.

Edge attributes: ``kind`` (``"data"``, ``"alias"``, ``"write"`` or ``"overwrite"``, see `memory`),
``argument`` (the names of the reader's arguments that it feeds, comma-separated),
``value`` (the index of the value behind it) and ``gradient`` (whether a gradient was seen to
flow along it, the other way); and ``stands_for``, the node of a parameter, where what flows is a
copy of it that another layer happened to make first, as autocast does.

Views add to nodes of kind ``"external"`` that are layers elsewhere ``fed_by`` (their label),
to those of modules ``paths`` (where in what one gives each tensor is), to nodes that stand for
several ``ops`` and ``layers`` (how many), and where passes are folded ``pass_list`` (which). To
edges they add ``count`` (how many data flows an edge
stands for), ``out_passes`` and ``in_passes`` (the passes of its two ends in which it is there).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import networkx as nx

from opscope.garbage import paused
from opscope.graph.attributes import NodeAttributes
from opscope.graph.lazy import Lazy
from opscope.graph.node_attributes import layer_attributes, module_attributes
from opscope.graph.skeleton import EDGE_KINDS, RANK, Skeleton, with_numbers_made
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.waiting import Track, Waiting, silent

__all__ = ["RANK", "OpGraph", "op_graph"]


def op_graph(
    recording: Recording, passes: Sequence[LayerPass], waiting: Waiting = silent
) -> OpGraph:
    """Return the graph of ops, with parameters, buffers, inputs and outputs as nodes.

    Node names are ``"op_12"``, ``"call_3"``, ``"value_7"`` and ``"end_9"``, after their
    place in the recording. A call that passed through several tensors is a node for each:
    ``"call_3"``, ``"call_3_1"``.
    """
    return OpGraph(recording, passes, waiting)


class OpGraph(Lazy):
    """The graph of ops: of a long program many views need no more than its skeleton.

    Args:
        recording: What happened.
        passes: Its layers.
        waiting: Shows one who waits how far it is as it is built.
    """

    def __init__(self, recording: Recording, passes: Sequence[LayerPass], waiting: Waiting) -> None:
        super().__init__()
        self.recording = recording
        self.passes = passes
        self._waiting = waiting

    @cached_property
    def skeleton(self) -> Skeleton:
        """Its nodes and edges, in columns."""
        with paused():
            return Skeleton(with_numbers_made(self.recording), self.passes)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """What is known of it as a whole."""
        with paused():
            return {
                "model": self.recording.model_name,
                "layers": layer_attributes(self.recording, self.passes),
                "modules": module_attributes(self.recording),
            }

    @paused()
    def build(self) -> nx.DiGraph:
        """Return it as networkx has it."""
        with self._waiting("building the graph") as track:
            graph = _built(self.skeleton, self.passes, self.attributes, track)
        del self.skeleton  # nobody asks for it any more
        return graph


def _built(
    skeleton: Skeleton, passes: Sequence[LayerPass], about: dict[str, Any], track: Track
) -> nx.DiGraph:
    graph = nx.DiGraph(**about)
    attributes = NodeAttributes(skeleton, passes)
    names: list[str] = []
    for node in track(range(len(skeleton))):
        names.append(skeleton.name(node))
        if node in skeleton.gone:
            continue
        known = attributes.of(node)
        known["index"] = len(graph)
        graph.add_node(names[-1], **known)
    for node, name in enumerate(track(names)):
        for edge in skeleton.edges_to(node):
            source = skeleton.sources[edge]
            if source not in skeleton.gone:
                graph.add_edge(names[source], name, **edge_attributes(skeleton, edge))
    return graph


def edge_attributes(skeleton: Skeleton, edge: int) -> dict[str, Any]:
    """Return the attributes of an edge."""
    known: dict[str, Any] = {
        "kind": EDGE_KINDS[skeleton.edge_kinds[edge]],
        "argument": skeleton.arguments[edge],
        "value": skeleton.values[edge],
        "gradient": False,
    }
    parameter = skeleton.stands_for.get(edge)
    if parameter is not None:
        kind = skeleton.recording.parameters[parameter].kind
        known["stands_for"] = f"{kind}_{parameter}"
    return known
