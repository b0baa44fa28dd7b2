"""The function mode: which torch function is running."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from time import perf_counter_ns
from types import FrameType, MethodWrapperType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from opscope.capture.tape import NONE, CallRow, Tape
from opscope.capture.tracers import is_tracing

_Tensor = torch.Tensor
# What reading `.shape`, `.dim()`, `.device` or `.dtype` returns: no layer.
_PLAIN = frozenset({torch.Size, int, bool, torch.device, torch.dtype})
_is_compiling = torch.compiler.is_compiling
_other_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_graph_task = torch._C._current_graph_task_id
# Where `backward` makes the gradient that it starts from.
_FIRST_GRADIENTS = torch.autograd._make_grads.__code__
# Calls that run other code rather than compute: what runs inside has its own place.
_TRANSPARENT = frozenset({torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad})
# Calls that return their input only so that they can be chained.
_ANNOTATIONS = frozenset({torch.Tensor.requires_grad_, torch.Tensor.share_memory_})


class FunctionCalls(TorchFunctionMode):
    """Records every torch function that dispatches ops or hands its input on."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        tape = self._tape
        if (
            _is_compiling()
            or tape.layer != NONE
            or func in _TRANSPARENT
            or _graph_task() != -1  # it is the layer of the autograd node that runs
            or sys._getframe(1).f_code is _FIRST_GRADIENTS
        ):
            return func(*args, **(kwargs or {}))
        tape.layer = tape.call_count
        op = tape.op_count
        started = perf_counter_ns()
        try:
            result = func(*args, **(kwargs or {}))
        except BaseException as error:
            ended, tape.layer = perf_counter_ns(), NONE
            tape.failed_calls.note(error, tape.call_count)
            tape.add_call(self._row(func, op, started, ended, None)._replace(failed=True))
            raise
        ended, tape.layer = perf_counter_ns(), NONE
        if result.__class__ in _PLAIN and tape.op_count == op:
            return result
        if _other_modes():  # the user's: they are not to see what is read here
            with torch._C.DisableTorchFunction():
                self._write(func, args, kwargs, op, started, ended, result)
        else:
            self._write(func, args, kwargs, op, started, ended, result)
        return result

    def _write(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        op: int,
        started: int,
        ended: int,
        result: Any,
    ) -> None:
        """Record a call that returned, if it dispatched anything or handed its input on."""
        is_set = func.__class__ is MethodWrapperType and func.__name__ == "__set__"
        if is_set and function_name(func) == "data":
            self._tape.values.forget(args[0])  # `x.data = y` gives x other metadata unseen
        if self._tape.op_count != op:
            self._add(func, op, started, ended, result)
        elif isinstance(result, (_Tensor, tuple, list)) and func not in _ANNOTATIONS:
            self._hand_on(func, args, kwargs, started, ended, result)

    def _add(self, func: Any, op: int, started: int, ended: int, result: Any) -> None:
        tape = self._tape
        values = tape.values
        if result.__class__ is _Tensor and (row := values.find(result)) is not None:
            tensors: tuple[torch.Tensor, ...] = (result,)  # nearly always
            returned: tuple[int, ...] = (row,)
        else:
            tensors = tuple(tensors_in(result))
            returned = tuple(map(values.seen, tensors))
        if tape.payloads is not None or tape.returned is not None:
            tape.keep(tensors, returned)
        place = self._place()  # first, as it may end modules
        tape.write_call(
            function_name(func), _grad_fn(tensors), returned, tape.module, place, op,
            tape.op_count, started, ended,
        )  # fmt: skip

    def _hand_on(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        started: int,
        ended: int,
        result: Any,
    ) -> None:
        """Record a call that dispatched nothing, if what it returned is what it was given."""
        if _dispatch_modes() > 1 and is_tracing():
            return
        tape = self._tape
        tensors = list(tensors_in(result))
        given = {id(tensor) for tensor in tensors_in((args, kwargs))}
        if not tensors or not all(id(tensor) in given for tensor in tensors):
            return
        rows = tuple(tape.values.seen(tensor) for tensor in tensors)
        row = self._row(func, tape.op_count, started, ended, _grad_fn(tensors))
        tape.hand_on(row._replace(received=rows), tensors)

    def _row(self, func: Any, op: int, started: int, ended: int, grad_fn: str | None) -> CallRow:
        tape, place = self._tape, self._place()
        return CallRow(
            function_name(func), tape.module, place, op, tape.op_count, started, ended, grad_fn
        )

    def _place(self) -> int:
        frame: FrameType | None = sys._getframe(3)  # the caller is no nearer
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        return self._tape.place_of(frame)


def _grad_fn(tensors: Sequence[torch.Tensor]) -> str | None:
    for tensor in tensors:
        try:
            node = tensor.grad_fn
        except RuntimeError:  # a view made in no_grad, whose base was written with grad on
            continue
        if node is not None:
            return node.__class__.__name__
    return None


def function_name(func: Any) -> str:
    """Return a torch function's name; a property's for the read of a property."""
    if func.__class__ is MethodWrapperType:
        owner: Any = func.__self__
        name = getattr(owner, "__name__", None) or getattr(owner.fget, "__name__", "property")
        return str(name)
    return str(getattr(func, "__name__", func.__class__.__name__))


def tensors_in(value: Any, depth: int = 4) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, _Tensor):
        yield value
    elif depth and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
