"""The record as a networkx graph: one node per op, and one per tensor from outside.

Node attributes, all of them JSON-compatible:

=================  ===========================================================================
``kind``           ``"op"``, ``"handed"`` (a call that dispatched nothing and returned its
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
``duration_ns``    how long it took
``phase``          ``"forward"``, ``"backward"``, ``"optimizer"`` or ``"other"``; ``layer`` and
                   ``module`` of an op of backward are those of the forward op it belongs to
``forward``        of an op of backward: the node of that forward op
``accumulates``    of an op of backward: the parameter to whose gradient it adds
``recomputed``     whether it runs ``forward`` again, for a checkpoint or a custom function
``failed``         whether it raised
=================  ===========================================================================

The graph's own attributes are ``model`` (class name) and what is known of whole layer passes
and module runs, ``layers`` and ``modules``, see `facts`.

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

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import networkx as nx

from opscope.collector import paused
from opscope.graph.dataflow import Reader, dependencies
from opscope.graph.facts import layer_attributes, module_attributes
from opscope.graph.memory import Dependency
from opscope.records.layers import LayerPass, lifted
from opscope.records.recording import Frame, Op, Recording, Value
from opscope.records.stand_ins import stand_ins

RANK = {"data": 0, "write": 1, "alias": 2, "overwrite": 3}
"""Kinds of edges, the strongest first: of several between two nodes one is shown."""


@paused()
def op_graph(recording: Recording, passes: tuple[LayerPass, ...]) -> nx.DiGraph:
    """Return the graph of ops, with parameters, buffers, inputs and outputs as nodes.

    Node names are ``"op_12"``, ``"call_3"``, ``"value_7"`` and ``"end_9"``, after their
    place in the recording. A call that handed on several tensors is a node for each:
    ``"call_3"``, ``"call_3_1"``.
    """
    return _Builder(_with_numbers_made(recording), passes).build()


def _with_numbers_made(recording: Recording) -> Recording:
    """Return a recording in which the tensors of Python's numbers are made by what lifts them."""
    makers = lifted(recording)
    if not makers:
        return recording
    values = list(recording.values)
    for index, op in makers.items():
        values[index] = replace(values[index], origin="fresh", made_by=op)
    return replace(recording, values=tuple(values))


class _Builder:
    def __init__(self, recording: Recording, passes: tuple[LayerPass, ...]) -> None:
        self.recording = recording
        self.pass_of_call = {item.call: item for item in passes if item.call is not None}
        bare = [item for item in passes if item.call is None]
        self.inputs = {item.values[0]: item for item in bare if item.kind == "input"}
        self.ends = {item.values[0]: item for item in bare if item.kind == "output"}
        self.call_of_value = {
            value: _call_node(call.index, place)
            for call in recording.layer_calls
            if not call.ops
            for place, value in enumerate(call.returned)
        }
        self.copies = stand_ins(recording)
        self.stacks: dict[int | None, list[list[Any]]] = {None: []}
        self.steps: dict[int, int] = {}  # ops of backward seen so far, per layer call
        self.accumulations = Counter(op.accumulates for op in recording.ops)
        self.accumulated: dict[int, int] = {}
        self.graph = nx.DiGraph()

    def build(self) -> nx.DiGraph:
        self.graph.graph.update(
            model=self.recording.model_name,
            layers=layer_attributes(self.recording, self.pass_of_call.values()),
            modules=module_attributes(self.recording),
        )
        for value in self.inputs:
            self._source_node(value)
        for reader, found in dependencies(self.recording):
            for dependency in found:  # what comes from outside stands before its first reader
                self._source_node(dependency.source)
            node = self._reader_node(reader)
            for dependency in found:
                source = self._source_node(dependency.source)
                if source != node:  # which is what made a tensor of Python's numbers
                    self._edge(source, node, dependency)
                self._tell_of_copy(dependency, reader, node)
        _drop_swallowed(self.graph)
        for index, node in enumerate(self.graph):
            self.graph.nodes[node]["index"] = index
        return self.graph

    def _edge(self, source: str, target: str, dependency: Dependency) -> None:
        known = self.graph.edges.get((source, target))
        if known is not None and dependency.kind == "overwrite" != known["kind"]:
            return  # data flows there too, as another argument
        if known is None or known["kind"] == "overwrite" != dependency.kind:
            self.graph.add_edge(
                source,
                target,
                kind=dependency.kind,
                argument=dependency.argument,
                value=dependency.source,
                gradient=False,
            )
            return
        if dependency.argument not in known["argument"].split(","):
            known["argument"] += f",{dependency.argument}"
        if RANK[dependency.kind] < RANK[known["kind"]]:
            known["kind"] = dependency.kind

    def _tell_of_copy(self, dependency: Dependency, reader: Reader, node: str) -> None:
        """Note on an edge that a parameter is meant: an op of another layer has copied it."""
        number = self.copies.get(dependency.source)
        maker = self.recording.values[dependency.source].made_by
        if number is None or maker is None or reader.kind != "op":
            return
        made_in = self.recording.call_of(self.recording.ops[maker])
        if made_in is None or made_in == self.recording.call_of(self.recording.ops[reader.index]):
            return
        if dependency.source in self.recording.layer_calls[made_in].returned:
            return  # a layer of its own, such as `weight.half()`
        parameter = self.recording.parameters[number]
        edge = self.graph.edges[self._source_node(dependency.source), node]
        edge["stands_for"] = f"{parameter.kind}_{number}"

    def _source_node(self, index: int) -> str:
        value = self.recording.values[index]
        call = self.call_of_value.get(index)
        if call is not None:
            return call
        if value.made_by is not None:
            return f"op_{value.made_by}"
        number = self.recording.parameter_of_value.get(index)
        if number is None:
            node = f"value_{index}"
            if node not in self.graph:
                self.graph.add_node(node, **self._outside(value))
            return node
        parameter = self.recording.parameters[number]
        node = f"{parameter.kind}_{number}"
        if node not in self.graph:
            attributes = self._blank(parameter.kind, parameter.name, (value,))
            attributes[f"{parameter.kind}s"] = [[parameter.name, list(parameter.shape)]]
            attributes["module"] = parameter.name.rpartition(".")[0]
            self.graph.add_node(node, **attributes)
        return node

    def _reader_node(self, reader: Reader) -> str:
        node = f"{reader.kind}_{reader.index}"
        if reader.kind == "op":
            self.graph.add_node(node, **self._op(self.recording.ops[reader.index]))
        elif reader.kind == "call":
            node = _call_node(reader.index, reader.place)
            self.graph.add_node(node, **self._call(reader.index, reader.place))
        else:
            value = self.recording.values[reader.index]
            attributes = self._blank("output", "output", (value,))
            self._add_layer(attributes, self.ends.get(reader.index))
            self.graph.add_node(node, **attributes)
        return node

    def _outside(self, value: Value) -> dict[str, Any]:
        entry = self.inputs.get(value.index)
        kind = "external" if entry is None else "input"
        attributes = self._blank(kind, kind, (value,))
        self._add_layer(attributes, entry)
        return attributes

    def _op(self, op: Op) -> dict[str, Any]:
        values = [self.recording.values[v] for v in op.outputs if v is not None]
        values = values or [self.recording.values[v] for v in op.writes]
        attributes = self._blank("op", op.name, values)
        attributes["operator"] = op.operator
        attributes["duration_ns"] = op.duration_ns
        attributes["failed"] = op.failed
        attributes["phase"] = op.phase
        attributes["recomputed"] = op.recomputed
        call = self.recording.call_of(op)
        if op.forward_op is not None:
            attributes["forward"] = f"op_{op.forward_op}"
        if op.accumulates is not None:
            self._add_accumulation(attributes, op.accumulates)
        for parameter in self._parameters(op):
            attributes[f"{parameter.kind}s"].append([parameter.name, list(parameter.shape)])
        layer = None if call is None else self.pass_of_call.get(call)
        self._add_layer(attributes, layer)
        if layer is not None and call is not None:
            attributes["step"] = self._step(op, call)
        self._add_module(attributes, op.module_call)
        self._add_source(attributes, self.recording.frames_of(op))
        return attributes

    def _add_accumulation(self, attributes: dict[str, Any], parameter: int) -> None:
        self.accumulated[parameter] = self.accumulated.get(parameter, 0) + 1
        attributes["accumulates"] = self.recording.parameters[parameter].name
        attributes["pass"] = self.accumulated[parameter]
        attributes["passes"] = self.accumulations[parameter]

    def _step(self, op: Op, call: int) -> int:
        """Return which of its layer's ops in its phase an op is."""
        if op.layer_call is not None:
            return op.index - self.recording.layer_calls[call].ops.start
        self.steps[call] = self.steps.get(call, -1) + 1
        return self.steps[call]

    def _call(self, index: int, place: int) -> dict[str, Any]:
        call = self.recording.layer_calls[index]
        values = [self.recording.values[call.returned[place]]]
        kind = call.kind if call.kind in ("input", "output") else "handed"
        attributes = self._blank(kind, call.function, values)
        attributes["phase"] = call.phase
        attributes["duration_ns"] = call.duration_ns
        self._add_layer(attributes, self.pass_of_call.get(index))
        self._add_module(attributes, call.module_call)
        site = call.place
        self._add_source(attributes, () if site is None else self.recording.places[site])
        return attributes

    def _blank(
        self, kind: str, label: str, values: tuple[Value, ...] | list[Value]
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "label": label,
            "step": 0,
            "index": 0,
            "operator": None,
            "layer": None,
            "layer_type": None,
            "pass": 1,
            "passes": 1,
            "module": None,
            "module_pass": None,
            "module_class": None,
            "module_stack": [],
            "shapes": [list(value.shape) for value in values],
            "dtypes": [value.dtype for value in values],
            "bytes": sum(value.nbytes for value in values),
            "parameters": [],
            "buffers": [],
            "path": "",
            "source": None,
            "duration_ns": 0,
            "phase": "forward",
            "forward": None,
            "accumulates": None,
            "recomputed": False,
            "failed": False,
        }

    def _parameters(self, op: Op) -> Iterator[Any]:
        bound, copies = self.recording.parameter_of_value, self.copies
        found = (bound.get(read.value, copies.get(read.value)) for read in op.reads)
        numbers = dict.fromkeys((*(n for n in found if n is not None), *op.packed))
        return (self.recording.parameters[number] for number in numbers)

    def _add_layer(self, attributes: dict[str, Any], layer: LayerPass | None) -> None:
        if layer is not None:
            attributes["layer"] = layer.label
            attributes["layer_type"] = layer.type
            attributes["path"] = layer.path
            attributes["pass"], attributes["passes"] = layer.number, layer.passes

    def _add_module(self, attributes: dict[str, Any], call: int | None) -> None:
        stack = self._stack(call)
        attributes["module_stack"] = stack
        if stack:
            attributes["module"], attributes["module_pass"], attributes["module_class"] = stack[-1]

    def _stack(self, call: int | None) -> list[list[Any]]:
        chain = []
        while call not in self.stacks and call is not None:
            chain.append(call)
            call = self.recording.module_calls[call].parent
        stack = self.stacks[call]
        for inner in reversed(chain):
            run = self.recording.module_calls[inner]
            module = self.recording.modules[run.module]
            stack = self.stacks[inner] = [*stack, [module.address, run.number, module.class_name]]
        return stack

    def _add_source(self, attributes: dict[str, Any], frames: tuple[Frame, ...]) -> None:
        attributes["source"] = f"{frames[0].file}:{frames[0].line}" if frames else None


def _call_node(index: int, place: int) -> str:
    return f"call_{index}_{place}" if place else f"call_{index}"


def _drop_swallowed(graph: nx.DiGraph) -> None:
    """Drop each outside tensor that its readers stand for: the model's inputs, nodes too."""
    for node in [n for n, kind in graph.nodes(data="kind") if kind == "external"]:
        readers = [graph.nodes[reader] for reader in graph.successors(node)]
        if all(reader["kind"] == "input" for reader in readers):
            graph.remove_node(node)
