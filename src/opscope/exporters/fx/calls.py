"""The nodes of one op: its call, what it gives, and the memory that it writes."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from opscope import notation
from opscope.errors import TraceStateError
from opscope.exporters.fx.names import is_quotable
from opscope.operators.known import COMPILED, DETACH, is_collective
from opscope.operators.plans import plan_of
from opscope.records.ops import Op
from opscope.records.recording import Recording

_PLAIN = (
    type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


_DEEPEST = 100  # frames in a stack trace, the innermost


class Calls:
    """Adds ops to a graph.

    Args:
        recording: What happened.
        overload: Gives the operator overload of a name, None if there is none.
        graph: The graph.
        node: Gives the node of a value.
    """

    def __init__(
        self,
        recording: Recording,
        overload: Callable[[str], Any],
        graph: fx.Graph,
        node: Callable[[int], fx.Node],
    ) -> None:
        self._recording = recording
        self._overload = overload
        self._graph = graph
        self._node = node
        self._stacks: dict[int | None, dict[str, tuple[str, str]]] = {None: {}}
        self._stack_traces: dict[int | None, str] = {None: ""}

    def add(self, op: Op) -> dict[int, fx.Node]:
        """Add an op; return the nodes of the values that it gave and wrote.

        Raises:
            TraceStateError: If it cannot be called again.
        """
        func = self._function(op)
        given: dict[str, Any] = op.named_arguments(self._node)
        self._check(op, func, given)
        if op.operator == DETACH and self._is_data(op):
            # Unlike `detach`, this shares no count of writes with the tensor.
            node = self._graph.call_function(getattr, (given["self"], "data"))
        else:
            args, kwargs = _in_order(func, given)
            node = self._graph.call_function(_target(func), args, kwargs)
        self._describe(node, op)
        found: dict[int, fx.Node] = {}
        for value, path in zip(op.outputs, _paths(op, func), strict=True):
            at = node
            if value is not None:
                for place in path:
                    at = self._graph.call_function(operator.getitem, (at, place))
                    self._describe(at, op)
                found[value] = at
        return self._written(op, func, given) | found

    def _function(self, op: Op) -> Any:
        name = f"op {op.index}, {notation.foreign(op.operator)},"
        func = self._overload(op.operator)
        if op.operator == COMPILED:
            message = f"{name} is what Inductor made of a module; trace it uncompiled"
            raise TraceStateError(message)
        if func is None:
            message = (
                f"{name} is no operator overload, but a higher-order operator or one that is not "
                "loaded here, and cannot be called from a program"
            )
            raise TraceStateError(message)
        if is_collective(op.operator):
            message = f"{name} is a collective, which other processes take part in"
            raise TraceStateError(message)
        *packet, overload = op.operator.split(".")
        if not all(map(_is_name, packet)) or not overload.isidentifier():
            message = f"{name} has a name that a program cannot hold"
            raise TraceStateError(message)
        return func

    def _check(self, op: Op, func: Any, given: dict[str, Any]) -> None:
        """Raise if a record does not hold an argument as it was."""
        kinds = {argument.name: str(argument.type) for argument in func._schema.arguments}
        objects = {name for name, kind in kinds.items() if "torch.classes" in kind}
        for name, item in given.items():
            message = f"op {op.index}, {op.operator}, "
            if isinstance(item, torch.Generator):
                message += (
                    "draws from a generator of its own, which is at another place at each run; "
                    "let it draw from the default one"
                )
            elif name in objects and item is not None:
                message += (
                    f"was given an object of C++, {item}, such as packed weights, which no record "
                    "holds; make the program of the model before it is packed"
                )
            elif not _is_plain(item) or "Storage" in kinds.get(name, ""):
                kind = "UntypedStorage" if isinstance(item, str) else type(item).__name__
                message += f"was given a {kind} as {name!r}, which a program cannot hold"
            else:
                continue
            raise TraceStateError(message)

    def _is_data(self, op: Op) -> bool:
        """Whether an op is the read of ``tensor.data``."""
        call = op.layer_call
        return call is not None and self._recording.layer_calls[call].function == "data"

    def _written(self, op: Op, func: Any, given: dict[str, Any]) -> dict[int, fx.Node]:
        """Let what an op wrote be known by the node of the tensor that it wrote into."""
        if not op.writes:
            return {}
        plan = plan_of(func)
        targets = []
        for name in plan.arguments:
            if name in plan.writes and name in given:
                item = given[name]
                targets += item if isinstance(item, list) else [item]
        targets = [target for target in targets if isinstance(target, fx.Node)]
        if len(targets) != len(op.writes):
            message = (
                f"op {op.index}, {op.operator}, wrote {len(op.writes)} tensors, where its schema "
                f"says {len(targets)}"
            )
            raise TraceStateError(message)
        return dict(zip(op.writes, targets, strict=True))

    def _describe(self, node: fx.Node, op: Op) -> None:
        recording = self._recording
        call = None if op.layer_call is None else recording.layer_calls[op.layer_call]
        site = op.call_site if op.call_site is not None or call is None else call.call_site
        if site is not None and site not in self._stack_traces:
            self._stack_traces[site] = "".join(
                f'  File "{notation.foreign(frame.file, 4000)}", line {frame.line}, '
                f"in {notation.foreign(frame.function)}\n"
                for frame in reversed(recording.call_sites[site][:_DEEPEST])
            )
        node.meta["opscope_op"] = op.index
        node.meta["stack_trace"] = self._stack_traces[site]
        node.meta["nn_module_stack"] = self._stack(op.module_call)

    def _stack(self, index: int | None) -> dict[str, tuple[str, str]]:
        """Return the modules around a module call, the outermost first; not to be changed."""
        missing = []
        at = index
        while at is not None and at not in self._stacks:
            missing.append(self._recording.module_calls[at])
            at = missing[-1].parent
        for run in reversed(missing):
            module = self._recording.modules[run.module]
            own = {f"{module.address}@{run.number}": (module.address, module.class_name)}
            self._stacks[run.index] = self._stacks[run.parent] | own
        return self._stacks[index]


def _target(func: Any) -> Any:
    """Return what a node calls: an overload, or all of them where its name is no Python."""
    return func if _is_name(func._overloadname) else func.overloadpacket


def _in_order(func: Any, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an op's arguments: positional as far as they go, the rest by name."""
    named = dict(given)
    args = []
    for argument in func._schema.arguments:
        if argument.kwarg_only or argument.name not in named:
            break
        args.append(named.pop(argument.name))
    return tuple(args), named


def _paths(op: Op, func: Any) -> list[tuple[int, ...]]:
    """Return where in what an op returns each of its tensors is."""
    kinds = [str(item.type) for item in func._schema.returns]
    lists = [kind for kind in kinds if "Tensor" in kind and "List" in kind]
    single = sum("Tensor" in kind for kind in kinds) - len(lists)
    if len(lists) > 1:
        message = f"op {op.index}, {op.operator}, returns several lists of tensors"
        raise TraceStateError(message)
    paths: list[tuple[int, ...]] = []
    for place, kind in enumerate(kinds):
        at = (place,) if len(kinds) > 1 else ()
        if "Tensor" in kind and "List" in kind:
            paths += [(*at, item) for item in range(len(op.outputs) - single)]
        elif "Tensor" in kind:
            paths.append(at)
    return paths if op.outputs else []


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _is_plain(item: Any) -> bool:
    """Whether the text of a program can hold an argument."""
    if isinstance(item, (list, tuple)):
        return all(map(_is_plain, item))
    if isinstance(item, str):
        return is_quotable(item)
    if isinstance(item, complex):
        return abs(item) < float("inf")
    return isinstance(item, (fx.Node, *_PLAIN)) and not isinstance(item, torch.SymInt)
