"""The function mode: which torch function is running."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from time import perf_counter_ns
from types import FrameType, MethodWrapperType
from typing import Any
from weakref import ref

import torch
from torch.overrides import TorchFunctionMode

from opscope.capture.log.containers import tensors_in
from opscope.capture.log.contexts.call_sites import function_name, is_custom_function
from opscope.capture.log.contexts.custom_functions import with_applications
from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Call, Live, PassedThrough, SetGradMode, UnseenCall, Written
from opscope.capture.log.grad_modes import step_of
from opscope.capture.log.hooks import ReturnedCall
from opscope.capture.log.snapshots import node_of, storage_ref
from opscope.capture.unchanged.fused_kernels import ATTENTION, ENCODER, LAYER, wait_for_question
from opscope.capture.unchanged.stacks import OnStack
from opscope.capture.unchanged.tracers import is_tracing
from opscope.torch_api import (
    MAKE_GRADIENTS,
    DisableTorchFunction,
    count_dispatch_modes,
    count_function_modes,
    current_graph_task,
    set_grad_enabled,
)

_Tensor = torch.Tensor
# What reading `.shape`, `.dim()`, `.device` or `.dtype` returns: no layer.
_PLAIN = frozenset({torch.Size, int, bool, torch.device, torch.dtype})
# Arguments that are noted where no op shows them.
_GIVEN = frozenset({bool, int, float, str})
# Results of which nobody hears what is read of them, if no argument has a class of its own.
_UNHEARD = frozenset({_Tensor, torch.nn.Parameter, tuple, list, type(None)})
_DATA = torch.Tensor.data
# What asks whether a fused kernel can run, by `id`, as the hash of a code reads the bytecode.
_ASKING = frozenset(map(id, (ATTENTION, LAYER, ENCODER)))
_is_compiling = torch.compiler.is_dynamo_compiling
# Calls that run other code rather than compute: what runs inside has its own place.
_TRANSPARENT = frozenset({torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad})
# With `ones_like`, `backward` makes the gradient that it starts from.
_SPECIAL = _TRANSPARENT | {torch.ones_like}
# No op shows what these do: numbers become Python's, a gradient may become another.
_UNSEEN = frozenset({torch.Tensor.tolist, torch.Tensor.register_hook})
# Calls that return their input only so that they can be chained.
_ANNOTATIONS = frozenset({torch.Tensor.requires_grad_, torch.Tensor.share_memory_})


class FunctionCalls(TorchFunctionMode):
    """Records every torch function that dispatches ops or hands its input on."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.on_stack: OnStack | None = None
        self._log = log

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        log = self._log
        if (
            _is_compiling()
            or log.in_call
            or current_graph_task() != -1  # it is the layer of the autograd node that runs
            or (func in _SPECIAL and _has_no_place(func, sys._getframe(1)))
        ):
            return func(*args, **(kwargs or {}))
        op, started = log.op_count, perf_counter_ns()
        try:
            log.in_call = True
            result = func(*args, **kwargs) if kwargs else func(*args)
            ended = perf_counter_ns()
        except BaseException as error:
            log.in_call = False
            self._write_failed(func, op, started, error, sys._getframe(1))
            raise
        log.in_call = False  # nothing can interrupt between this and the above
        frame = sys._getframe(1)
        if log.op_count == op:
            if result.__class__ in _PLAIN:
                if id(frame.f_code) in _ASKING:
                    wait_for_question(frame, FunctionCalls)
                return result
        elif (
            result.__class__ is _Tensor and frame.f_code is not _OWN and not count_function_modes()
        ):
            live = ref(result)  # nearly always, and short, as caches are cold
            item = live if id(live) in log.known else log.read(result)
            made_by, chain = node_of(result), log.chain(frame)
            node = None if made_by is None else made_by.__class__
            notes = None if log.keep is None else log.keep(result)
            # What `Log.write_call` does, without the call.
            log.events += (
                Call, log.op_count, func, item, notes, node, log.run, chain, op, started, ended, None,
            )  # fmt: skip
            if log.eager:
                log.ingest()
            return self._told(func, result) if log.has_listeners else result
        is_heard = types or result.__class__ not in _UNHEARD or count_function_modes()
        write = self._write_unheard if is_heard else self._write
        write(func, args, kwargs, op, started, ended, result, frame)
        return self._told(func, result) if log.has_listeners else result

    def _told(self, func: Any, result: Any) -> Any:
        """Tell collectors of a function that returned, and return what editors make of that."""
        log, name = self._log, function_name(func)
        log.tell("function", name, func, result)
        if log.edit is None:
            return result
        with self:  # torch takes the mode off while it is asked
            return log.edit(ReturnedCall("function", name, func, result))

    def _write_failed(
        self, func: Any, op: int, started: int, error: BaseException, frame: FrameType
    ) -> None:
        """Write a call that raised."""
        log, ended = self._log, perf_counter_ns()
        log.write_call(func, [], None, None, log.chain(_not_ours(frame)), op, started, ended, error)
        log.ingest()  # and lets go of the error

    def _write_unheard(self, *call: Any) -> None:
        """Write one without modes and classes of the user's seeing what is read."""
        with DisableTorchFunction():
            self._write(*call)

    def _write(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        op: int,
        started: int,
        ended: int,
        result: Any,
        frame: FrameType,
    ) -> None:
        """Write a call that returned, if it dispatched anything or passed its input through."""
        log = self._log
        if func.__class__ is MethodWrapperType and func.__self__ is _DATA and result is None:
            self._note_unseen(func, args[0])
            log.forget(args[0])  # `x.data = y` gives x other metadata unseen
        if log.op_count == op:
            self._write_without_ops(func, args, kwargs, started, ended, result, frame)
            return
        tensors = tensors_in(result)
        items: list[Live] | Written = list(map(log.read, tensors))
        if not tensors:
            tensors = self._written(args, kwargs, op)
            items = Written(list(map(log.read, tensors)))
        log.written.clear()
        node = _first_node_class(tensors)
        notes = None if log.keep is None else list(map(log.keep, tensors))
        chain = log.chain(_not_ours(frame))
        # Only now, as a chain that is longer than it should be ends modules.
        log.write_call(func, items, notes, node, chain, op, started, ended)

    def _written(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, op: int
    ) -> list[torch.Tensor]:
        """Return the tensors among the arguments that a call may have written.

        They share a storage with what its ops wrote: an assignment to a slice writes the slice.
        """
        log = self._log
        marks = {
            id(mark)
            for number, *marks in zip(*[iter(log.written)] * 3, strict=True)
            if number >= op
            for mark in marks
            if mark is not None
        }
        given = tensors_in((args, kwargs)) if marks else ()
        found = {id(t): t for t in given if not marks.isdisjoint((id(ref(t)), id(storage_ref(t))))}
        return list(found.values())

    def _write_without_ops(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        started: int,
        ended: int,
        result: Any,
        frame: FrameType,
    ) -> None:
        """Write a call that dispatched nothing, if what it returned is what it was given."""
        log = self._log
        if func is set_grad_enabled:
            chain = log.chain(_not_ours(frame))
            hidden = is_custom_function(with_applications(chain)[::2])
            step = step_of(_not_ours(frame))
            log.write(SetGradMode(log.run, bool(args[0]), step, hidden))
            return
        if func in _UNSEEN:
            self._note_unseen(func, args[0])
            return
        if not isinstance(result, (_Tensor, tuple, list)) or func in _ANNOTATIONS:
            return
        if count_dispatch_modes() > 1 and is_tracing():
            return
        tensors = tensors_in(result)
        given = {id(tensor) for tensor in tensors_in((args, kwargs))}
        if not tensors or not all(id(tensor) in given for tensor in tensors):
            return
        items, node = list(map(log.read, tensors)), _first_node_class(tensors)
        notes = None if log.keep is None else list(map(log.keep, tensors))
        chain = log.chain(_not_ours(frame))
        plain = {key: item for key, item in _by_key(args, kwargs) if _is_noted(item)}
        log.write(PassedThrough(func, plain, items, notes, node, log.run, chain, started, ended))

    def _note_unseen(self, func: Any, tensor: torch.Tensor) -> None:
        """Note a call that no op shows, of a tensor that the program has."""
        log, live = self._log, ref(tensor)
        if id(live) in log.known:
            log.write(UnseenCall(log.run, func, live))


def _by_key(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Iterator[tuple[int | str, Any]]:
    """Yield the arguments of a call, each with its place or name."""
    yield from enumerate(args)
    yield from (kwargs or {}).items()


def _is_noted(item: Any) -> bool:
    """Whether an argument is a number or a text; no integer that is too long for an op, or to write."""
    return item.__class__ in _GIVEN and not (item.__class__ is int and item.bit_length() > 63)


_OWN = FunctionCalls.__torch_function__.__code__


def _not_ours(frame: FrameType | None) -> FrameType | None:
    """Return the caller, past the function mode of another trace inside this one."""
    while frame is not None and frame.f_code is _OWN:
        frame = frame.f_back
    return frame


def _has_no_place(func: Any, frame: FrameType) -> bool:
    """Whether a special function is to be passed over, called from this frame."""
    return func in _TRANSPARENT or frame.f_code is MAKE_GRADIENTS


def _first_node_class(tensors: Sequence[torch.Tensor]) -> type | None:
    node = next(filter(None, map(node_of, tensors)), None)
    return None if node is None else node.__class__
