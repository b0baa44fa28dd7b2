"""The record as a `torch.fx.GraphModule` of operator overloads, to be run again."""

from __future__ import annotations

import inspect
import keyword
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from opscope.errors import NotSaved, TraceStateError
from opscope.records.recording import ModuleCall, Op, Recording, before_writes

# What these give depends on the data, and is a constant in the program.
_BAKED = {
    "aten._local_scalar_dense": "a number taken out of a tensor",
    "aten.nonzero": "a shape that depends on the data",
    "aten.masked_select": "a shape that depends on the data",
    "aten._unique2": "a shape that depends on the data",
    "aten.unique_consecutive": "a shape that depends on the data",
    "aten.unique_dim": "a shape that depends on the data",
    "aten.bincount": "a shape that depends on the data",
    "aten.repeat_interleave": "a shape that depends on the data",
}

_UNWRITABLE = re.compile(r'["\\\x00-\x1f]')


def to_fx(
    recording: Recording,
    *,
    overload: Callable[[str], Any],
    parameter: Callable[[int], torch.Tensor | None],
    outside: Callable[[int], torch.Tensor | None],
    forward: Callable[..., Any] | None,
) -> fx.GraphModule:
    """Return the forward ops of a recording as a program.

    Parameters and buffers have their names, inputs those of the model's ``forward``, and
    each node's meta has ``opscope_op`` (its index), ``nn_module_stack`` and
    ``stack_trace``. Other tensors from outside become buffers ``_constant_0`` and so on.
    ``GraphModule.meta["baked"]`` lists what the program fixes although the data decided it.

    Args:
        recording: What happened, with one call of the model.
        overload: Gives the operator overload of a name.
        parameter: Gives the tensor of a parameter or buffer by its index.
        outside: Gives the tensor of any other value from outside.
        forward: The model's ``forward``, for the names of its arguments.

    Raises:
        TraceStateError: If the record has several calls of the model, or is of a failure.
        NotSaved: If a tensor that the program needs is gone.
    """
    return _Program(recording, overload, parameter, outside, forward).build()


def _argument(path: str, parameters: list[inspect.Parameter]) -> tuple[int, str, str]:
    """Return which parameter of ``forward`` an input's path leads into.

    Returns:
        Its place in the signature, what to call it, and the rest of the path.
    """
    head, _, rest = path.partition(".")
    last = len(parameters)
    if head and not head.isdigit():
        places = {parameter.name: place for place, parameter in enumerate(parameters)}
        return places.get(head, last), head, rest
    position = int(head or 0)
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return place, f"{parameter.name}_{position}", rest
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if position == 0:
                return place, parameter.name, rest
            position -= 1
    return last, f"input_{head or 0}", rest


def _writable(name: str) -> str:
    """Return a parameter's name, or another where the text of a program cannot hold it.

    torch.fx writes what is no identifier between quotes as it is, so that a quote in the
    name of a module would end the string, and what follows it would be run.
    """
    if _UNWRITABLE.search(name) or any(keyword.iskeyword(part) for part in name.split(".")):
        return "_parameter_" + re.sub(r"\W", "_", name)
    return name


def _nested(tree: Any) -> Any:
    """Return nested outputs: a tuple where the keys are places, else a dict."""
    if not isinstance(tree, dict):
        return tree
    if not all(key.isdigit() for key in tree):
        return {key: _nested(item) for key, item in tree.items()}
    return tuple(_nested(tree.get(str(i))) for i in range(1 + max(map(int, tree), default=-1)))


class _Program:
    def __init__(
        self,
        recording: Recording,
        overload: Callable[[str], Any],
        parameter: Callable[[int], torch.Tensor | None],
        outside: Callable[[int], torch.Tensor | None],
        forward: Callable[..., Any] | None,
    ) -> None:
        self.recording = recording
        self.overload = overload
        self.parameter = parameter
        self.outside = outside
        self.forward = forward
        self.graph = fx.Graph()
        self.root: dict[str, torch.Tensor] = {}
        self.nodes: dict[int, fx.Node] = {}
        self.named: dict[str, fx.Node] = {}
        self.baked: list[dict[str, Any]] = []

    def build(self) -> fx.GraphModule:
        run = self._root_call()
        for name, value in self._inputs(run):
            self.nodes[value] = self.graph.placeholder(name)
        calls = iter([call for call in self.recording.layer_calls if not call.ops])
        call = next(calls, None)
        first, last = (0, len(self.recording.ops)) if run is None else (run.ops.start, run.ops.stop)
        while call is not None and run is not None and call.ops.start <= first:
            if call.module_call is not None and call.index in run.layer_calls:
                break  # what is handed on before the model runs is none of its business
            call = next(calls, None)
        for op in self.recording.ops[first:last]:
            while call is not None and call.ops.start <= op.index:
                self._hand_on(call.received, call.returned)
                call = next(calls, None)
            if op.phase != "backward":
                self._op(op)
        while call is not None and call.ops.start <= last:
            self._hand_on(call.received, call.returned)
            call = next(calls, None)
        self.graph.output(self._outputs(run))
        module = fx.GraphModule(self._rooted(), self.graph, self.recording.model_name or "Traced")
        module.meta["baked"] = self.baked
        return module

    def _root_call(self) -> ModuleCall | None:
        if self.recording.failure is not None:
            message = "a program that failed has no outputs; trace one that runs to its end"
            raise TraceStateError(message)
        roots = [run for run in self.recording.module_calls if run.is_root]
        if len(roots) > 1:
            message = f"the model was called {len(roots)} times; to_fx needs a trace of one call"
            raise TraceStateError(message)
        return roots[0] if roots else None

    def _inputs(self, run: ModuleCall | None) -> list[tuple[str, int]]:
        """Return a name and a value for each placeholder, in the order of the signature."""
        from opscope.records.layers import outside_values

        if run is None:
            return [(f"input_{i}", v) for i, v in enumerate(outside_values(self.recording))]
        parameters = (
            []
            if self.forward is None
            else list(inspect.signature(self.forward).parameters.values())
        )
        found = []
        for leaf in run.inputs:
            place, head, rest = _argument(leaf.path, parameters)
            name = re.sub(r"\W", "_", f"{head}_{rest}" if rest else head)
            found.append((place, name, leaf.value))
        named: dict[str, int] = {}
        for _, name, value in sorted(found, key=lambda item: item[0]):
            number, free = 0, name
            while free in named or keyword.iskeyword(free):
                number, free = number + 1, f"{name}_{number + 1}"
            named[free] = value
        return list(named.items())

    def _op(self, op: Op) -> None:
        func = self.overload(op.operator)
        if func is None:
            message = f"op {op.index}, {op.operator}, is no operator overload and cannot be called"
            raise TraceStateError(message)
        if any(isinstance(item, torch.Generator) for _, item in op.arguments):
            message = f"op {op.index}, {op.operator}, draws from a generator of its own"
            raise TraceStateError(message)
        args, kwargs = self._arguments(op, func)
        node = self.graph.call_function(func, args, kwargs)
        self._describe(node, op)
        outputs = op.outputs
        schema = func._schema
        listed = len(schema.returns) == 1 and str(schema.returns[0].type).startswith("List")
        if len(schema.returns) > 1 or listed:
            for place, value in enumerate(outputs):
                if value is not None:
                    item = self.graph.call_function(operator.getitem, (node, place))
                    self._describe(item, op)
                    self.nodes[value] = item
        elif outputs and outputs[0] is not None:
            self.nodes[outputs[0]] = node
        self._rebind_writes(op, args, kwargs, func)
        reason = _BAKED.get(op.operator.rpartition(".")[0])
        if reason is None and op.name == "index" and self._by_mask(op):
            reason = "a shape that depends on the data"
        if reason is not None:
            self.baked.append({"op": op.index, "operator": op.operator, "reason": reason})

    def _rebind_writes(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], func: Any
    ) -> None:
        """Let what an op wrote be known by the node of the tensor that it wrote into."""
        given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
        by_value = {read.value: self._named(given, read.argument) for read in op.reads}
        for write in op.writes:
            if write in self.nodes:
                continue
            target = self.recording.values[write]
            for read in op.reads:
                source = self.recording.values[read.value]
                if (source.storage, source.offset, source.shape, source.stride) == (
                    target.storage, target.offset, target.shape, target.stride
                ):  # fmt: skip
                    self.nodes[write] = by_value[read.value]
                    break

    @staticmethod
    def _named(given: dict[str, Any], argument: str) -> Any:
        base, bracket, rest = argument.partition("[")
        return given[base][int(rest[:-1])] if bracket else given[base]

    def _by_mask(self, op: Op) -> bool:
        return any(
            self.recording.values[read.value].dtype in ("bool", "uint8")
            for read in op.reads
            if read.argument.startswith("indices")
        )

    def _arguments(self, op: Op, func: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return an op's arguments: positional as far as they go, the rest by name."""
        found: dict[str, Any] = op.named_arguments(self._node)
        args = []
        for argument in func._schema.arguments:
            if argument.kwarg_only or argument.name not in found:
                break
            args.append(found.pop(argument.name))
        return tuple(args), found

    def _hand_on(self, received: tuple[int, ...], returned: tuple[int, ...]) -> None:
        for old, new in zip(received, returned, strict=True):
            if new not in self.nodes:
                self.nodes[new] = self._node(old)

    def _node(self, value: int) -> fx.Node:
        value = before_writes(self.recording, value).index
        if value not in self.nodes:
            number = self.recording.parameter_of_value.get(value)
            if number is not None:
                name, tensor = self.recording.parameters[number].name, self.parameter(number)
            else:
                name, tensor = f"_constant_{value}", self.outside(value)
            if tensor is None:
                message = f"the tensor {name!r} is gone; keep the model alive, or trace with replayable=True"
                raise NotSaved(message)
            if name not in self.named:
                written = _writable(name)
                while written in self.root:
                    written += "_"
                self.root[written] = tensor
                node = self.graph.create_node("get_attr", written)
                if number is None:  # a constant must be the same at the next run
                    node = self.graph.call_function(torch.ops.aten.clone.default, (node,))
                self.named[name] = node
            self.nodes[value] = self.named[name]
        return self.nodes[value]

    def _outputs(self, run: ModuleCall | None) -> Any:
        from opscope.records.layers import loose_ends

        if run is None:
            ends = [self._node(value) for value in loose_ends(self.recording)]
            return ends[0] if len(ends) == 1 else tuple(ends)
        tree: dict[str, Any] = {}
        for leaf in run.outputs:
            *path, last = f".{leaf.path}".split(".") if leaf.path else [""]
            holder = tree
            for part in path:
                holder = holder.setdefault(part, {})
            holder[last] = self._node(leaf.value)
        return _nested(tree.get("", {}))

    def _describe(self, node: fx.Node, op: Op) -> None:
        recording = self.recording
        call = None if op.layer_call is None else recording.layer_calls[op.layer_call]
        place = op.place if op.place is not None or call is None else call.place
        frames = () if place is None else recording.places[place]
        node.meta["opscope_op"] = op.index
        node.meta["stack_trace"] = "".join(
            f'  File "{frame.file}", line {frame.line}, in {frame.function}\n'
            for frame in reversed(frames)
        )
        stack: dict[str, tuple[str, str]] = {}
        at = op.module_call
        while at is not None:
            run = recording.module_calls[at]
            module = recording.modules[run.module]
            stack[f"{module.address}@{run.number}"] = (module.address, module.class_name)
            at = run.parent
        node.meta["nn_module_stack"] = dict(reversed(stack.items()))

    def _rooted(self) -> nn.Module:
        """Return a module that holds the parameters, buffers and constants by their names."""
        root = nn.Module()
        for name, tensor in self.root.items():
            *path, last = name.split(".")
            holder = root
            for part in path:
                if not hasattr(holder, part):
                    holder.add_module(part, nn.Module())
                holder = getattr(holder, part)
            if isinstance(tensor, nn.Parameter):
                holder.register_parameter(last, tensor)
            else:
                holder.register_buffer(last, tensor)
        return root
