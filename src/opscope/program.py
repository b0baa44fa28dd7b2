"""What a program made by `Trace.to_fx` calls while it runs, beyond operators of torch.

A program that is saved is loaded where these can be imported.
"""

from __future__ import annotations

import builtins
import functools
import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx
from torch.fx.graph import CodeGen
from torch.fx.node import has_side_effect
from torch.overrides import TorchFunctionMode

from opscope import notation
from opscope.errors import OptionError, TraceStateError
from opscope.torch_api import OpOverload, OpOverloadPacket, set_grad_enabled

_HINT = "trace the model with this input, or make the program with to_fx(check_inputs=False)"


@has_side_effect
def check_input(given: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise unless an input has the sizes and the type with which it was recorded.

    Raises:
        OptionError: If not; it names the input, and says what it was.
    """
    if not isinstance(given, torch.Tensor):
        found = type(given).__name__
        known = notation.tensor(_text(dtype), shape)
        message = f"{name}: {found} object given (must be a tensor, {known} as it was recorded)"
        raise OptionError(message)
    if given.is_nested or (given.shape == shape and given.dtype == dtype):
        return
    found, known = (
        notation.tensor(_text(t), sizes)
        for t, sizes in ((given.dtype, given.shape), (dtype, shape))
    )
    message = (
        f"{name}: {found} given, where {known} was recorded, which the program holds for; {_HINT}"
    )
    raise OptionError(message)


@has_side_effect
def check_same(given: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    """Raise unless two tensors are one, or equal and no gradient is asked for.

    Where one tensor was two inputs when it was recorded, which of them an op read is not known.

    Raises:
        OptionError: If not; it names the inputs.
    """
    if given is other:
        return
    differentiated = torch.is_grad_enabled() and (given.requires_grad or other.requires_grad)
    if not differentiated and given.shape == other.shape and _is_equal(given, other):
        return
    message = (
        f"{name}: was one tensor with {other_name} when it was recorded, and which of them an op "
        "read is not known; give the same tensor, or trace the model with different ones"
    )
    raise OptionError(message)


def _is_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = (one == other) | ((one != one) & (other != other))  # noqa: PLR0124 (what NaN is not)
    return bool(same.all())


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@has_side_effect
def set_grad_mode(enabled: bool, after: object = None) -> bool:
    """Have autograd record or not; return whether it did.

    Args:
        enabled: Whether it is to record.
        after: What ran before. It makes the call a part of the graph where it is traced again.
    """
    before = torch.is_grad_enabled()
    set_grad_enabled(enabled)
    return before


def restores_grad_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``forward`` that leaves the grad mode as it was, whatever it raises."""

    @functools.wraps(forward)
    def restored(*args: Any, **kwargs: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return forward(*args, **kwargs)
        finally:
            set_grad_enabled(before)

    return restored


class RestoringCode(CodeGen):
    """Writes a ``forward`` that leaves the grad mode as it was."""

    def gen_fn_def(self, *args: Any, **kwargs: Any) -> str:
        """Return the head of the function, under its decorator."""
        return f"@{restores_grad_mode.__name__}\n{super().gen_fn_def(*args, **kwargs)}"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """Return the decorator by its name."""
        return [(restores_grad_mode.__name__, restores_grad_mode)]


class _Unknown(torch.autograd.Function):
    """Hands a tensor on; its derivative raises."""

    @staticmethod
    def forward(ctx: Any, reason: str, result: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        ctx.reason = reason
        return result.detach()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        message = f"this program cannot be differentiated here: {ctx.reason}"
        raise TraceStateError(message)


def without_derivative(result: torch.Tensor, reason: str, *given: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose derivative is not known, so that a backward through it raises.

    Args:
        result: It, as the ops made it.
        reason: Why its derivative is not known, for the message.
        given: What it may have been made of.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        unknown: torch.Tensor = _Unknown.apply(reason, result, *given)  # type: ignore[no-untyped-call]
        return unknown
    return result


def node_name(name: str, names: Collection[str]) -> str:
    """Return a name for the node of an argument, among all names of arguments.

    It is the argument's own, but where that hides something built in, or is not ASCII. The code
    then renames the argument, and must not do so to the name of another one.
    """
    if name.isascii() and not hasattr(builtins, name):
        return name
    base, number = re.sub(r"[^0-9a-zA-Z_]", "_", name), 1
    while f"{base}_{number}" in names:
        number += 1
    return f"{base}_{number}"


class ProgramTracer(fx.Tracer):
    """Reads a program's code again when it is unpickled, as torch does it, and loses nothing.

    torch's own runs what is given no input, such as ``aten.rand``, once and for all, and what
    only writes to buffers as well.
    """

    proxy_buffer_attributes = True

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """Return the graph of a module's code."""
        with _Keeping(self):
            graph = super().trace(*args, **kwargs)
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        names = [str(node.target) for node in placeholders]
        for node, name in zip(placeholders, names, strict=True):
            node._rename(node_name(name, names))
        if any(node.target is set_grad_mode for node in graph.nodes):
            graph.set_codegen(RestoringCode())
        return graph


class _Keeping(TorchFunctionMode):
    """Makes a node of each operator that is called."""

    def __init__(self, tracer: fx.Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if isinstance(func, (OpOverload, OpOverloadPacket)):
            return self._tracer.create_proxy("call_function", func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
