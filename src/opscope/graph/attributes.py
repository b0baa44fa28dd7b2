"""What is known of each node of the graph of ops; `build` says what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from opscope.graph.skeleton import Skeleton
from opscope.records.calls import Frame
from opscope.records.columns.table import column
from opscope.records.ops import Op
from opscope.records.passes.layers import LayerPass
from opscope.records.values import Value


class NodeAttributes:
    """Describes nodes. Of what ran in backward each is to be asked for once, in order.

    Args:
        skeleton: The nodes.
        passes: The layers' passes.
    """

    def __init__(self, skeleton: Skeleton, passes: Sequence[LayerPass]) -> None:
        self.recording = skeleton.recording
        self._skeleton = skeleton
        self._passes = passes
        self._calls = column(self.recording.ops, "layer_call")
        self._behind = column(self.recording.ops, "forward_op")
        calls = column(passes, "call")
        self._pass_of_call = {call: at for at, call in enumerate(calls) if call is not None}
        bare = [passes[at] for at, call in enumerate(calls) if call is None]
        self._inputs = {item.values[0]: item for item in bare if item.kind == "input"}
        self._ends = {item.values[0]: item for item in bare if item.kind == "output"}
        self.stacks: dict[int | None, list[list[Any]]] = {None: []}
        self.steps: dict[int, int] = {}  # ops of backward seen so far, per layer call
        self.accumulations = Counter(column(self.recording.ops, "accumulates"))
        self.accumulated: dict[int, int] = {}

    def of(self, node: int) -> dict[str, Any]:
        """Return all that is known of a node, but for its index."""
        kind, number = self._skeleton.kind(node), self._skeleton.numbers[node]
        if kind == "op":
            return self._op(self.recording.ops[number])
        if kind == "call":
            return self._call(number, self._skeleton.place(node))
        if kind == "parameter":
            return self._of_parameter(number, self._skeleton.parameter_value(node))
        value = self.recording.values[number]
        if kind == "value":
            return self._outside(value)
        attributes = self._blank("output", "output", (value,))
        self._add_layer(attributes, self._ends.get(number))
        return attributes

    def pass_of(self, node: int) -> int | None:
        """Return the layer pass that a node is of, by its place; None if it is of none."""
        kind, number = self._skeleton.kind(node), self._skeleton.numbers[node]
        if kind in ("op", "call"):
            call: int | None = number
            if kind == "op":
                behind = self._behind[number]
                call = self._calls[number if behind is None else behind]
            return None if call is None else self._pass_of_call.get(call)
        bare = self._ends if kind == "end" else self._inputs if kind == "value" else {}
        return bare[number].index if number in bare else None

    def _layer_of_call(self, call: int | None) -> LayerPass | None:
        at = None if call is None else self._pass_of_call.get(call)
        return None if at is None else self._passes[at]

    def _of_parameter(self, number: int, value: int) -> dict[str, Any]:
        parameter = self.recording.parameters[number]
        attributes = self._blank(parameter.kind, parameter.name, (self.recording.values[value],))
        attributes[f"{parameter.kind}s"] = [[parameter.name, list(parameter.shape)]]
        attributes["module"] = parameter.name.rpartition(".")[0]
        return attributes

    def _outside(self, value: Value) -> dict[str, Any]:
        entry = self._inputs.get(value.index)
        kind = "external" if entry is None else "input"
        attributes = self._blank(kind, kind, (value,))
        self._add_layer(attributes, entry)
        return attributes

    def _op(self, op: Op) -> dict[str, Any]:
        values = [self.recording.values[v] for v in op.outputs if v is not None]
        values = values or [self.recording.values[v] for v in op.writes]
        attributes = self._blank("op", op.name, values)
        attributes["operator"] = op.operator
        attributes["arguments"] = self.recording.settings_of([op.index])
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
        layer = self._layer_of_call(call)
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
        kind = call.kind if call.kind in ("input", "output") else "passed_through"
        attributes = self._blank(kind, call.function, values)
        attributes["phase"] = call.phase
        attributes["arguments"] = self.recording.settings_of((), [index])
        self._add_layer(attributes, self._layer_of_call(index))
        self._add_module(attributes, call.module_call)
        site = call.call_site
        self._add_source(attributes, () if site is None else self.recording.call_sites[site])
        return attributes

    def _blank(
        self, kind: str, label: str, values: Sequence[Value] | list[Value]
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "label": label,
            "step": 0,
            "index": 0,
            "operator": None,
            "arguments": {},
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
        bound, copies = self.recording.parameter_of_value, self._skeleton.copies
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
        stack = self.stack(call)
        attributes["module_stack"] = stack
        if stack:
            attributes["module"], attributes["module_pass"], attributes["module_class"] = stack[-1]

    def stack(self, call: int | None) -> list[list[Any]]:
        """Return address, run and class of the modules around what runs in a run."""
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
