"""Two programs, each as it is aligned: its ops and their data flow; and what is the same in them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

from opscope.graph.skeleton import OVERWRITE, Skeleton, with_numbers_made
from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass, labels
from opscope.records.recording import Recording


class Edge(NamedTuple):
    """What a node reads: the node that it comes from, the value, and as which argument."""

    source: int
    value: int
    argument: str


class Origin(NamedTuple):
    """What a node reads: which output of which node, and as which argument."""

    source: int
    place: int
    argument: str


class Side:
    """The nodes of one program, in the order of execution.

    A node is an op, a tensor that a call without ops passed through, or a tensor from outside.

    Attributes:
        recording: The program.
        passes: Its layers' passes.
        skeleton: Its nodes and edges.
        shapes: By value, its sizes.
        dtypes: By value, its type.
        kinds: By node, what it stands for.
        numbers: By node, which op, call, value or parameter it is.
        edges: By node, what it reads, but for what it overwrites unseen.
        calls: By node, the layer call that it ran in, in backward that which it belongs to.
        runs: By node, the innermost module call.
        is_own: By node, whether it ran in its call: not for it in a backward.
        is_automatic: By node, whether it is a `detach` of autograd's own.
        operators: By node, the operator of an op; empty of others.
        functions: By node, the function of its call.
        phases: By node, the part of a training step, empty of what comes from outside.
    """

    def __init__(self, recording: Recording, passes: Sequence[LayerPass]) -> None:
        self.recording = recording = with_numbers_made(recording)
        self.passes = passes
        self.skeleton = skeleton = Skeleton(recording, passes)
        self.kinds = list(skeleton.kinds())
        self.numbers = skeleton.numbers
        self.edges: list[list[Edge]] = []
        for node in range(len(skeleton)):
            self.edges.append([
                Edge(skeleton.sources[at], skeleton.values[at], skeleton.arguments[at])
                for at in skeleton.edges_to(node)
                if skeleton.edge_kinds[at] != OVERWRITE
            ])  # fmt: skip
        self.shapes: Sequence[tuple[int, ...]] = list(column(recording.values, "shape"))
        self.dtypes: Sequence[str] = list(column(recording.values, "dtype"))
        self._add_columns()

    def _add_columns(self) -> None:
        ops, calls = self.recording.ops, self.recording.layer_calls
        call_of_op, forward = column(ops, "layer_call"), column(ops, "forward_op")
        run_of_op, operator, phase = (column(ops, n) for n in ("module_call", "operator", "phase"))
        again, automatic = column(ops, "recomputed"), column(ops, "by_autograd")
        run_of_call, function = column(calls, "module_call"), column(calls, "function")
        phase_of_call = column(calls, "phase")
        self.calls: list[int | None] = []
        self.runs: list[int | None] = []
        self.operators: list[str] = []
        self.functions: list[str] = []
        self.phases: list[str] = []
        self.is_automatic = bytearray(len(self))
        self.is_own = bytearray(len(self))
        for node, (kind, number) in enumerate(zip(self.kinds, self.numbers, strict=True)):
            call = run = None
            name = part = ""
            if kind == "op":
                source = forward[number]
                call = call_of_op[number if source is None else source]
                run, name = run_of_op[number], operator[number]
                part = "recomputed" if again[number] else phase[number]
                self.is_automatic[node] = automatic[number]
                self.is_own[node] = source is None and call is not None
            elif kind == "call":
                call, run, part = number, run_of_call[number], phase_of_call[number]
                self.is_own[node] = 1
            self.calls.append(call)
            self.runs.append(run)
            self.operators.append(name)
            self.functions.append("" if call is None else function[call])
            self.phases.append(part)

    def __len__(self) -> int:
        return len(self.kinds)

    @cached_property
    def origins(self) -> list[tuple[Origin, ...]]:
        """By node, what it reads: where that was only passed through, what was passed."""
        found: list[tuple[Origin, ...]] = []
        for edges in self.edges:
            origins: list[Origin] = []
            for source, value, argument in edges:
                if self.kinds[source] == "call" and found[source]:
                    origins.append(found[source][0]._replace(argument=argument))
                else:
                    outputs = self.outputs(source)
                    place = outputs.index(value) if value in outputs else len(outputs)
                    origins.append(Origin(source, place, argument))
            found.append(tuple(origins))
        return found

    @cached_property
    def children(self) -> list[list[int]]:
        """By node, the nodes that read what it gave, in the sense of `origins`."""
        found: list[list[int]] = [[] for _ in range(len(self))]
        for node, origins in enumerate(self.origins):
            for source in {origin.source for origin in origins}:
                found[source].append(node)
        return found

    @cached_property
    def call_kinds(self) -> list[str]:
        """By layer call, what kind it is of."""
        return list(column(self.recording.layer_calls, "kind"))

    @cached_property
    def parameters(self) -> Mapping[int, tuple[int, ...]]:
        """By layer call, the parameters (not buffers) that it used."""
        pairs = zip(column(self.passes, "call"), column(self.passes, "parameters"), strict=True)
        return {call: used for call, used in pairs if call is not None}

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """By layer call, the label of its pass."""
        pairs = zip(column(self.passes, "call"), labels(self.passes), strict=True)
        return {call: label for call, label in pairs if call is not None}

    def outputs(self, node: int) -> tuple[int, ...]:
        """Return the values that a node gave, those that it wrote last."""
        kind, number = self.kinds[node], self.numbers[node]
        if kind == "op":
            return self._made[number]
        if kind == "call":
            return (self.recording.layer_calls[number].returned[self.skeleton.place(node)],)
        return (self.skeleton.parameter_value(node),) if kind in ("value", "parameter") else ()

    @cached_property
    def _made(self) -> list[tuple[int, ...]]:
        """By op, the values that it gave, and those that it wrote besides."""
        outputs, writes = (column(self.recording.ops, name) for name in ("outputs", "writes"))
        found: list[tuple[int, ...]] = []
        for given, written in zip(outputs, writes, strict=True):
            made = tuple([value for value in given if value is not None])
            found.append((*made, *(v for v in written if v not in made)) if written else made)
        return found

    def form(self, node: int) -> tuple[Hashable, ...]:
        """Return the operator of an op, or what kind of call another node is."""
        if self.kinds[node] == "op":
            return self.operators[node], self.phases[node]
        call = self.recording.layer_calls[self.numbers[node]]
        return call.kind, call.function, call.path, self.skeleton.place(node)

    def sizes(self, node: int) -> tuple[int, ...] | None:
        """Return the sizes of the first that a node gives, None if it gives nothing."""
        outputs = self.outputs(node)
        return self.shapes[outputs[0]] if outputs else None

    def amount(self, node: int) -> int:
        """Return how many elements the first has that a node gives."""
        sizes = self.sizes(node)
        return 0 if sizes is None else prod(sizes)

    def address(self, run: int | None) -> str | None:
        """Return the address of the module that runs in a call, None outside of all."""
        if run is None:
            return None
        return self.recording.modules[self.recording.module_calls[run].module].address


@dataclass(slots=True)
class Alignment:
    """What is the same in two programs.

    Attributes:
        nodes: By node of the first, that of the second.
        back: The other way.
        calls: By layer call of the first, that of the second, where their nodes are not the same.
        calls_back: The other way.
        exact: The nodes of the first that compute the same from the same.
        values: In each program, by node, a number that is the same where the values are, if known.
        in_both: The numbers of values that both programs have.
    """

    nodes: dict[int, int] = field(default_factory=dict)
    back: dict[int, int] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
    calls_back: dict[int, int] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    values: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))
    in_both: set[int] = field(default_factory=set)

    def contradicts(self, x: int, y: int) -> bool:
        """Whether one of two nodes gave what the other did not, and something else did."""
        ours, theirs = self.values[0].get(x), self.values[1].get(y)
        return ours != theirs and (ours in self.in_both or theirs in self.in_both)

    def add(self, x: int, y: int) -> bool:
        """Note that two nodes are the same; return whether both had no partner."""
        if x in self.nodes or y in self.back:
            return False
        self.nodes[x] = y
        self.back[y] = x
        return True
