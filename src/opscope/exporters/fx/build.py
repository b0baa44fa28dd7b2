"""From a record to a program: one node for each op, on the tensors of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from opscope.errors import NotSaved, TraceStateError
from opscope.exporters.fx import names
from opscope.exporters.fx.baked import baked_arguments, baked_numbers, baked_ops
from opscope.exporters.fx.calls import Calls
from opscope.exporters.fx.grad import OpMode, op_modes
from opscope.exporters.fx.outputs import assemble
from opscope.exporters.fx.scope import called
from opscope.program import (
    ProgramTracer,
    RestoringCode,
    check_input,
    check_same,
    set_grad_mode,
    without_derivative,
)
from opscope.records.containers import tensor_keys
from opscope.records.layers import loose_ends, outside_values
from opscope.records.recording import ModuleCall, Op, Recording


@dataclass(frozen=True, slots=True)
class Live:
    """What a program needs that is no part of a record.

    Attributes:
        overload: Gives the operator overload of a name, None if there is none.
        parameter: Gives the tensor of a parameter or buffer by its index, None if it is gone.
        outside: Gives the tensor of any other value from outside, likewise.
        forward: Gives the ``forward`` of a module by its index, for the names of its arguments.
    """

    overload: Callable[[str], Any]
    parameter: Callable[[int], torch.Tensor | None]
    outside: Callable[[int], torch.Tensor | None]
    forward: Callable[[int], Callable[..., Any] | None]


def to_fx(
    recording: Recording, live: Live, module: str | None, *, is_named: bool, check_inputs: bool
) -> fx.GraphModule:
    """Return the forward ops of a module call, or of the whole block, as a program.

    Parameters and buffers have their names, inputs those of ``forward``, and each node's meta has
    ``opscope_op`` (its index), ``nn_module_stack`` and ``stack_trace``. Other tensors from outside
    become buffers ``_constant_0`` and so on. The program's meta has ``"baked"``, what it fixes
    although something else decided it, and ``"renamed"``, the names in the model of attributes
    that could not keep them.

    Args:
        recording: What happened.
        live: The tensors and modules that it was recorded of.
        module: The address of the module, None for the model.
        is_named: Whether the trace was told which module the model is.
        check_inputs: Whether the program is to check the sizes and types of its inputs.

    Raises:
        OptionError: If there is not just one call of the module.
        TraceStateError: If the record holds something that no program can repeat.
        NotSaved: If a tensor that the program needs is gone.
    """
    call = called(recording, module, is_named=is_named)
    return _Program(recording, live, call, check_inputs=check_inputs).build()


class _Program:
    def __init__(
        self, recording: Recording, live: Live, call: ModuleCall | None, *, check_inputs: bool
    ) -> None:
        self.recording = recording
        self.live = live
        self.call = call
        self.check_inputs = check_inputs
        self.stretch = range(len(recording.ops)) if call is None else call.ops
        self.ops = [
            op
            for op in recording.ops[self.stretch.start : self.stretch.stop]
            if op.phase == "forward" and not op.failed
        ]
        self.graph = fx.Graph(tracer_cls=ProgramTracer)
        self.calls = Calls(recording, live.overload, self.graph, self.node)
        self.attributes = names.Attributes()
        self.nodes: dict[int, fx.Node] = {}
        self.of_parameter: dict[int, fx.Node] = {}
        self.enabled: bool | None = None  # the grad mode, None for the caller's
        self.of_caller: fx.Node | None = None
        # The first op that made each storage here: what lies there is no tensor from outside.
        self.made_here: dict[int | None, int | None] = {}
        for value in recording.values:
            if value.origin == "fresh":
                self.made_here.setdefault(value.storage, value.made_by)
        self.lifted = {
            read.value for op in self.ops if op.name == "lift_fresh" for read in op.reads
        }

    def build(self) -> fx.GraphModule:
        parameters = self._parameters()
        self._inputs(parameters)
        modes = op_modes(self.recording, self.ops, self.call)
        last_reads = self._last_reads()
        region: list[tuple[Op, OpMode]] = []
        for op, mode in zip(self.ops, modes, strict=True):
            if region and not mode.custom:
                self._leave_custom_function(region, last_reads)
                region = []
            self._set_mode(mode.enabled)
            self.nodes.update(self.calls.add(op))
            if mode.custom:
                region.append((op, mode))
        if region:
            self._leave_custom_function(region, last_reads)
        self._set_mode(None)
        self.graph.output(self._output())
        return self._module(parameters)

    def _module(self, parameters: Sequence[Any]) -> fx.GraphModule:
        recording, call = self.recording, self.call
        if self.of_caller is not None:
            self.graph.set_codegen(RestoringCode())
        known = None if call is None else recording.modules[call.module]
        name = recording.model_name if known is None else known.class_name
        module = fx.GraphModule(
            self.attributes.tensors, self.graph, re.sub(r"\W", "_", name) or "Program"
        )
        module.training = known is not None and known.training
        given = () if call is None else baked_arguments(call.input_structure, parameters)
        module.meta["baked"] = [
            baked.as_dict()
            for found in (given, baked_ops(recording, self.ops), baked_numbers(recording, call))
            for baked in found
        ]
        module.meta["renamed"] = self.attributes.renamed
        return module

    # ------------------------------------------------------------------ inputs and outputs

    def _parameters(self) -> Sequence[Any]:
        """Return the parameters of the signature of ``forward``."""
        if self.call is None:
            return []
        return names.parameters_of(self.live.forward(self.call.module))

    def _inputs(self, parameters: Sequence[Any]) -> None:
        """Add a placeholder for each tensor that is given, and what checks it."""
        if self.call is None:
            values = list(outside_values(self.recording))
            found = [(number, f"input_{number}") for number in range(len(values))]
        else:
            values = [leaf.value for leaf in self.call.inputs]
            keys = list(tensor_keys(self.call.input_structure, ()))
            found = names.argument_names(keys, parameters)
        placeholders = names.add_placeholders(self.graph, [name for _, name in found])
        first: dict[int, fx.Node] = {}
        for (number, name), node in zip(found, placeholders, strict=True):
            value = self.recording.values[values[number]]
            source = self._source(value.index)
            if self.check_inputs:
                dtype = getattr(torch, value.dtype)
                self._check(check_input, node, name, value.shape, dtype)
            other = first.setdefault(source, node)
            self.nodes[value.index] = other
            if other is not node and self.check_inputs:
                self._check(check_same, node, name, other, str(other.target))
        if self.check_inputs:
            self._check_parameters_given(first)

    def _check_parameters_given(self, inputs: dict[int, fx.Node]) -> None:
        """Have an input be the parameter that it was, where the module itself may read that."""
        for source, node in inputs.items():
            number = self.recording.parameter_of_value.get(source)
            if number is None or self.call is None:
                continue
            record = self.recording.parameters[number]
            address = self.recording.modules[self.call.module].address
            prefix = f"{address}." if address else ""
            held = [name for name in (record.name, *record.aliases) if name.startswith(prefix)]
            if held:
                other = self._parameter(number)
                self._check(check_same, node, str(node.target), other, f"parameter {held[0]!r}")

    def _check(self, function: Callable[..., None], *arguments: Any) -> None:
        self.graph.call_function(function, arguments).meta["is_wrapped"] = True

    def _output(self) -> Any:
        if self.call is not None:
            leaves = [leaf.value for leaf in self.call.outputs]
            return assemble(self.call.output_structure, lambda number: self.node(leaves[number]))
        emitted = {op.index for op in self.ops}
        values = self.recording.values
        ends = [
            self.node(value)
            for value in loose_ends(self.recording)
            if values[value].made_by is None or values[value].made_by in emitted
        ]
        return ends[0] if len(ends) == 1 else tuple(ends)

    # ----------------------------------------------------------------- tensors from outside

    def node(self, value: int) -> fx.Node:
        """Return the node that gives a value; one that comes from outside is added."""
        while value not in self.nodes:
            older = self.recording.values[value].handed_from
            if older is None:
                self.nodes[value] = self._from_outside(value)
                break
            value = older
        return self.nodes[value]

    def _source(self, value: int) -> int:
        """Return what a value was before it was handed on."""
        while (older := self.recording.values[value].handed_from) is not None:
            value = older
        return value

    def _from_outside(self, value: int) -> fx.Node:
        record = self.recording.values[value]
        number = self.recording.parameter_of_value.get(value)
        maker = record.made_by
        if maker is None and record.origin == "outside":
            maker = self.made_here.get(record.storage)
            if maker is not None and maker in self.stretch:
                raise self._refuse(
                    "reads", maker, "gave, as another tensor: it was given other data, or made a "
                    "parameter or another class of tensor, which no op shows",
                )  # fmt: skip
        if maker is not None and maker in self.stretch:
            phase = self.recording.ops[maker].phase
            raise self._refuse("needs", maker, f"gave in the {phase} pass, and is of the forward only")
        if number is not None:
            return self._parameter(number)
        if maker is not None:
            raise self._refuse(
                "needs", maker, "gave before; make it outside of the block, hand it to the module "
                "as an argument, or ask for a module around both",
            )  # fmt: skip
        tensor = self.live.outside(value)
        if tensor is None:
            raise _gone(f"value {value}, which came from outside")
        node = self._attribute(f"_constant_{value}", tensor)
        if value in self.lifted:  # made of Python numbers at each run, and perhaps written to
            node = self.graph.call_function(torch.ops.aten.clone.default, (node,))
        return node

    def _refuse(self, verb: str, op: int, why: str) -> TraceStateError:
        what = f"op {op}, {self.recording.ops[op].operator},"
        return TraceStateError(f"the program {verb} what {what} {why}")

    def _parameter(self, number: int) -> fx.Node:
        if number not in self.of_parameter:
            name, tensor = self.recording.parameters[number].name, self.live.parameter(number)
            if tensor is None:
                raise _gone(repr(name))
            self.of_parameter[number] = self._attribute(name, tensor)
        return self.of_parameter[number]

    def _attribute(self, name: str, tensor: torch.Tensor) -> fx.Node:
        return self.graph.create_node("get_attr", self.attributes.add(name, tensor))

    # ---------------------------------------------------------------------------- grad modes

    def _set_mode(self, enabled: bool | None) -> None:
        if enabled is self.enabled:
            return
        wanted = self.of_caller if enabled is None else enabled
        after = next(iter(reversed(self.graph.nodes)), None)
        node = self.graph.call_function(set_grad_mode, (wanted, after))
        node.meta["is_wrapped"] = True
        if self.enabled is None:
            self.of_caller = node
        self.enabled = enabled

    def _last_reads(self) -> dict[int, int]:
        """Return which op reads each value last; what the program gives is read after all."""
        last = {self._source(read.value): op.index for op in self.ops for read in op.reads}
        ends = loose_ends(self.recording) if self.call is None else ()
        given = ends if self.call is None else [leaf.value for leaf in self.call.outputs]
        return last | {self._source(value): self.stretch.stop for value in given}

    def _leave_custom_function(
        self, region: Sequence[tuple[Op, OpMode]], last_reads: dict[int, int]
    ) -> None:
        """Have what a custom autograd function gave raise where it is differentiated."""
        ops = [op for op, _ in region]
        made = {v for op in ops for v in (*op.outputs, *op.writes) if v is not None}
        reads = (read.value for op in ops for read in op.reads)
        read = [value for value in reads if self._source(value) not in made]
        given = list(dict.fromkeys(self.node(value) for value in self._floating(read)))
        self._set_mode(region[-1][1].outer)
        frames = self.recording.frames_of(ops[0])
        where = f"at {frames[0]}" if frames else f"in op {ops[0].index}"
        for value in self._floating(sorted(made)):
            if last_reads.get(value, -1) > ops[-1].index:
                arguments = (self.nodes[value], where, *given)
                node = self.graph.call_function(without_derivative, arguments)
                node.meta["is_wrapped"] = True
                self.nodes[value] = node

    def _floating(self, values: Iterable[int]) -> list[int]:
        kinds = ("float", "bfloat", "complex")
        return [v for v in values if self.recording.values[v].dtype.startswith(kinds)]


def _gone(what: str) -> NotSaved:
    return NotSaved(
        f"the tensor {what} is gone; keep the model alive, or trace with replayable=True"
    )
