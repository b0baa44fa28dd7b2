"""From a record to a program: one node for each op, on the tensors of the model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from opscope.exporters.fx import names
from opscope.exporters.fx.baked import baked_arguments, baked_ops, baked_unseen
from opscope.exporters.fx.calls import Calls
from opscope.exporters.fx.derivatives import Derivatives, mark
from opscope.exporters.fx.outputs import assemble
from opscope.exporters.fx.scope import called, calls_inside
from opscope.exporters.fx.unwritten import check_written
from opscope.exporters.fx.values import Live, Values, first_value, results_of_other_classes
from opscope.garbage import paused
from opscope.operators.known import DETACH
from opscope.program import ProgramTracer, RestoringCode, check_input, check_same
from opscope.records.calls import ModuleCall
from opscope.records.containers import tensor_keys
from opscope.records.flow.ends import loose_ends
from opscope.records.ops import Op
from opscope.records.passes.layers import outside_values
from opscope.records.recording import Recording


@paused()
def to_fx(
    recording: Recording, live: Live, module: str | None = None, *, check_inputs: bool = True
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
        check_inputs: Whether the program is to check the sizes and types of its inputs.

    Raises:
        OptionError: If there is not just one call of the module.
        TraceStateError: If the record holds something that no program can repeat.
        NotSaved: If a tensor that the program needs is gone.
    """
    call = called(recording, module, is_named=live.is_named)
    return _Program(recording, live, call, check_inputs=check_inputs).build()


class _Program:
    def __init__(
        self, recording: Recording, live: Live, call: ModuleCall | None, *, check_inputs: bool
    ) -> None:
        self.recording = recording
        self.live = live
        self.call = call
        self.check_inputs = check_inputs
        self.given = _given(recording, call)
        self.ops = _forward_ops(recording, call, self.given)
        self.graph = fx.Graph(tracer_cls=ProgramTracer)
        self.values = Values(recording, live, self.graph, self.ops, call)
        check_written(recording, self.ops, self.given)
        self.derivatives = Derivatives(
            recording, self.values, self.graph, self.ops, call, self.given
        )

    def build(self) -> fx.GraphModule:
        parameters: list[inspect.Parameter] = []
        if self.call is not None:
            parameters = names.parameters_of(self.live.forward(self.call.module))
        self._inputs(parameters)
        self.values.check_data(calls_inside(self.recording, self.call))
        calls = Calls(self.recording, self.live.overload, self.graph, self.values.node)
        for op in self.ops:
            self.derivatives.before(op)
            made = calls.add(op)
            self.values.nodes.update(made)
            self.derivatives.after(op, made)
        self.derivatives.end()
        self.graph.output(self._output())
        return self._module(parameters)

    def _module(self, parameters: Sequence[inspect.Parameter]) -> fx.GraphModule:
        recording, call = self.recording, self.call
        if self.derivatives.of_caller is not None:
            self.graph.set_codegen(RestoringCode())
        known = None if call is None else recording.modules[call.module]
        name = re.sub(r"\W", "_", recording.model_name if known is None else known.class_name)
        tensors = self.values.attributes.tensors
        module = fx.GraphModule(tensors, self.graph, name or "Program")
        module.training = known is not None and known.training
        given = () if call is None else baked_arguments(call.input_structure, parameters)
        found = (*given, *baked_ops(recording, self.ops), *baked_unseen(recording, call))
        module.meta["baked"] = [baked._asdict() for baked in found]
        module.meta["renamed"] = self.values.attributes.renamed
        return module

    # ---------------------------------------------------------------------------- inputs

    def _inputs(self, parameters: Sequence[inspect.Parameter]) -> None:
        """Add a placeholder for each tensor that is given, and what checks it."""
        if self.call is None:
            taken = list(outside_values(self.recording))
            found = [(number, f"input_{number}") for number in range(len(taken))]
        else:
            taken = [leaf.value for leaf in self.call.inputs]
            keys = list(tensor_keys(self.call.input_structure))
            found = names.argument_names(keys, parameters)
        placeholders = names.add_placeholders(self.graph, [name for _, name in found])
        of_tensor: dict[int, fx.Node] = {}
        for (number, name), node in zip(found, placeholders, strict=True):
            index = taken[number]
            value = self.recording.values[index]
            other = of_tensor.setdefault(first_value(self.recording, index), node)
            self._check(check_input, node, name, value.shape, getattr(torch, value.dtype))
            if other is not node:
                self._check(check_same, node, name, other, str(other.target))
            self.values.give(index, other)
        for index, node in of_tensor.items():
            self._check_parameter(index, node)
        for index in taken:
            self.derivatives.check_hooks(index)

    def _check_parameter(self, value: int, node: fx.Node) -> None:
        """Have an input be the parameter that it was, where the module itself may read that."""
        number = self.recording.parameter_of_value.get(value)
        if number is None or self.call is None or not self.check_inputs:
            return
        name = self.values.own_name(number)
        if name is not None:
            other = self.values.parameter(number)
            self._check(
                check_same, node, str(node.target), other, f"parameter {names.quotable(name)!r}"
            )

    def _check(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.check_inputs:
            self.graph.call_function(function, arguments).meta["is_wrapped"] = True

    # --------------------------------------------------------------------------- outputs

    def _output(self) -> Any:
        nodes = self._unknown_modes([self.values.node(value) for value in self.given])
        if self.call is None:
            return nodes[0] if len(nodes) == 1 else tuple(nodes)
        return assemble(self.call.output_structure, lambda number: nodes[number])

    def _unknown_modes(self, nodes: list[fx.Node]) -> list[fx.Node]:
        """Mark the outputs if parts of the program may have to be run without autograd."""
        entry = self.recording if self.call is None else self.call
        if self.live.sees_modes or entry.grad_enabled:
            return nodes
        reason = (
            "it was recorded without autograd, and with layers=False or compiled, so that what the "
            "model itself keeps from being differentiated is not known; trace it with autograd"
        )
        floating = set(self.values.floating(self.given))
        given = [node for node in self.graph.nodes if node.op in ("placeholder", "get_attr")]
        return [
            mark(self.graph, node, reason, given) if value in floating else node
            for value, node in zip(self.given, nodes, strict=True)
        ]


def _given(recording: Recording, call: ModuleCall | None) -> list[int]:
    """Return the values that a program gives."""
    if call is not None:
        return [leaf.value for leaf in call.outputs]
    makers = ((value, recording.values[value].made_by) for value in loose_ends(recording))
    return [v for v, op in makers if op is None or recording.ops[op].phase == "forward"]


def _forward_ops(recording: Recording, call: ModuleCall | None, given: Iterable[int]) -> list[Op]:
    """Return the ops of a program, without the aliases that autograd makes for its own use."""
    ops = recording.ops if call is None else recording.ops[call.ops.start : call.ops.stop]
    found = [op for op in ops if op.phase == "forward" and not op.failed]
    used = {first_value(recording, read.value) for op in found for read in op.reads}
    used.update(first_value(recording, value) for value in given)
    used.update(results_of_other_classes(recording).values())
    calls = recording.layer_calls
    return [
        op
        for op in found
        if op.operator != DETACH
        or not used.isdisjoint(op.outputs)
        or op.layer_call is None
        or len(calls[op.layer_call].ops) == 1  # a call of its own
    ]
