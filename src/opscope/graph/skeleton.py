"""The graph of ops without what is known of its nodes: who reads what of whom, in columns.

It tells how a long program branches, and what becomes one node where passes are folded, without
a dictionary for each of its ops.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from opscope.graph.dataflow import Reader, dependencies
from opscope.graph.memory import Dependency
from opscope.records.columns.columns import NONE, Column
from opscope.records.columns.table import changed, column
from opscope.records.passes.layers import LayerPass, lifted
from opscope.records.passes.stand_ins import stand_ins
from opscope.records.recording import Recording

RANK: dict[str, int] = {"data": 0, "write": 1, "alias": 2, "overwrite": 3}
"""Kinds of edges, the strongest first: of several between two nodes one is shown."""

EDGE_KINDS: tuple[str, ...] = tuple(RANK)
OVERWRITE = RANK["overwrite"]
NodeKind = Literal["op", "call", "end", "value", "parameter"]
_NODE_KINDS: tuple[NodeKind, ...] = ("op", "call", "end", "value", "parameter")
_CODES: dict[str, int] = {kind: code for code, kind in enumerate(_NODE_KINDS)}


def with_numbers_made(recording: Recording) -> Recording:
    """Return a recording in which the tensors of Python's numbers are made by what lifts them."""
    makers = lifted(recording)
    if not makers:
        return recording
    fields: dict[str, Mapping[int, object]] = {
        "origin": dict.fromkeys(makers, "fresh"),
        "made_by": makers,
    }
    return replace(recording, values=changed(recording.values, fields))


def is_meant(
    recording: Recording, copies: Collection[int], dependency: Dependency, reader: Reader
) -> bool:
    """Whether a parameter is meant, of which an op of another layer has made the copy.

    Args:
        recording: What happened.
        copies: The values that stand for parameters.
        dependency: What is read.
        reader: Who reads it.
    """
    maker = recording.values[dependency.source].made_by
    if dependency.source not in copies or maker is None or reader.kind != "op":
        return False
    made_in = recording.call_of(recording.ops[maker])
    if made_in is None or made_in == recording.call_of(recording.ops[reader.number]):
        return False
    # Else it is a layer of its own, such as `weight.half()`.
    return dependency.source not in recording.layer_calls[made_in].returned


class Skeleton:
    """The nodes, and which of them read what others gave.

    A node is a number, in the order of execution; one kind of node stands for an op, a call or an
    end that read, the others for a parameter or any other value from outside.

    Attributes:
        recording: What happened.
        numbers: By node, which op, call, value or parameter it is.
        gone: The nodes that are not to be shown: tensors that the model's inputs stand for.
        ends: By node, where the edges to it end in the columns of edges.
        sources: By edge, the node that it comes from.
        values: By edge, the value behind it.
        edge_kinds: By edge, the rank of its kind.
        arguments: By edge, the arguments of the reader that it feeds, comma-separated.
        stands_for: By edge, the number of the parameter that is meant, if one is.

    Args:
        recording: What happened.
        passes: Its layers' passes.
    """

    def __init__(self, recording: Recording, passes: Sequence[LayerPass]) -> None:
        self.recording = recording
        self.copies = stand_ins(recording)
        self.numbers = array("i")
        self.ends = array("i")
        self.sources = array("i")
        self.values = array("i")
        self.edge_kinds = bytearray()
        self.arguments: list[str] = []
        self.stands_for: dict[int, int] = {}
        self._kinds = bytearray()
        self._places: dict[int, int] = {}
        self._op_nodes = array("i", [NONE]) * len(recording.ops)
        self._outside: dict[tuple[NodeKind, int], int] = {}
        self._first_values: dict[int, int] = {}
        self._call_nodes: dict[int, int] = {}  # by a value that one gave
        self._makers: Column[int | None] = column(recording.values, "made_by")
        self._call_kinds = column(recording.layer_calls, "kind")
        bare = [passes[at] for at, call in enumerate(column(passes, "call")) if call is None]
        inputs = dict.fromkeys(item.values[0] for item in bare if item.kind == "input")
        for value in inputs:
            self._source_node(value)
        for reader, found in dependencies(recording):
            self._add_reader(reader, found)
        self.gone = self._swallowed(inputs)

    def __len__(self) -> int:
        return len(self.numbers)

    def kind(self, node: int) -> NodeKind:
        """Return what a node stands for."""
        return _NODE_KINDS[self._kinds[node]]

    def kinds(self) -> Iterator[NodeKind]:
        """Return what each node stands for."""
        return map(_NODE_KINDS.__getitem__, self._kinds)

    def place(self, node: int) -> int:
        """Return which of several tensors it is that a call passed through."""
        return self._places.get(node, 0)

    def parameter_value(self, node: int) -> int:
        """Return the value that a parameter, or any tensor from outside, was first read as."""
        return self._first_values[node]

    def name(self, node: int) -> str:
        """Return the name of a node."""
        kind, number = self.kind(node), self.numbers[node]
        if kind == "parameter":
            return f"{self.recording.parameters[number].kind}_{number}"
        place = self._places.get(node, 0)
        return f"{kind}_{number}_{place}" if place else f"{kind}_{number}"

    def edges_to(self, node: int) -> range:
        """Return the edges to a node."""
        return range(self.ends[node - 1] if node else 0, self.ends[node])

    def _add_reader(self, reader: Reader, found: Sequence[Dependency]) -> None:
        # What comes from outside stands before its first reader.
        sources = [self._source_node(dependency.source) for dependency in found]
        kind, number, place = reader
        node, start = self._add(kind, number), len(self.sources)
        if kind == "op":
            self._op_nodes[number] = node
        elif kind == "call":
            self._call_nodes[self.recording.layer_calls[number].returned[place]] = node
            if place:
                self._places[node] = place
        for source, dependency in zip(sources, found, strict=True):
            if source == NONE:  # it is what made a tensor of Python's numbers
                continue
            edge = len(self.sources)
            if edge == start or source not in self.sources[start:]:
                self.sources.append(source)
                self.values.append(dependency.source)
                self.edge_kinds.append(RANK[dependency.kind])
                self.arguments.append(dependency.argument)
            else:
                edge = start + self.sources[start:].index(source)
                self._merge(edge, dependency)
            if self.copies and is_meant(self.recording, self.copies, dependency, reader):
                self.stands_for[edge] = self.copies[dependency.source]
        self.ends[node] = len(self.sources)

    def _add(self, kind: NodeKind, number: int) -> int:
        self.numbers.append(number)
        self._kinds.append(_CODES[kind])
        self.ends.append(len(self.sources))
        return len(self.numbers) - 1

    def _source_node(self, value: int) -> int:
        """Return the node that a value comes from, NONE if it is the reader itself."""
        if value in self._call_nodes:
            return self._call_nodes[value]
        maker = self._makers[value]
        if maker is not None:
            return self._op_nodes[maker]
        parameter = self.recording.parameter_of_value.get(value)
        key: tuple[NodeKind, int] = ("value", value)
        if parameter is not None:
            key = ("parameter", parameter)
        node = self._outside.get(key)
        if node is None:
            node = self._outside[key] = self._add(*key)
            self._first_values[node] = value
        return node

    def _merge(self, edge: int, dependency: Dependency) -> None:
        """Note that a reader depends on a source in another way too."""
        known, kind = self.edge_kinds[edge], RANK[dependency.kind]
        if kind == OVERWRITE != known:
            return  # data flows there too, as another argument
        if known == OVERWRITE != kind:
            self.values[edge] = dependency.source
            self.arguments[edge] = dependency.argument
        elif dependency.argument not in self.arguments[edge].split(","):
            self.arguments[edge] += f",{dependency.argument}"
        self.edge_kinds[edge] = min(known, kind)

    def _swallowed(self, inputs: Collection[int]) -> frozenset[int]:
        """Return each outside tensor that its readers stand for: the model's inputs, nodes too."""
        outside = {
            node
            for (kind, number), node in self._outside.items()
            if kind == "value" and number not in inputs
        }
        if outside:
            for edge, source in enumerate(self.sources):
                if source in outside:
                    reader = bisect_right(self.ends, edge)
                    if not self.is_input(reader):
                        outside.remove(source)
        return frozenset(outside)

    def is_input(self, node: int) -> bool:
        """Whether a node is a tensor that entered the model."""
        is_call = self._kinds[node] == _CODES["call"]
        return is_call and self._call_kinds[self.numbers[node]] == "input"
