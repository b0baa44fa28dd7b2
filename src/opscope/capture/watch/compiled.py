"""torch.compile inside the context: it is to compile what it would have compiled alone.

Dynamo guards what it compiles by the function modes that are on, and by the global module
hooks that there were. A model would be compiled again in each trace, until Dynamo gives up.
So the function mode steps aside for a compiled module, and the hooks while Dynamo compiles.

What Inductor made of a module runs its kernels past the dispatcher, all but a few. There the
dispatch mode steps aside too, and the module's call becomes one op.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from inspect import getclosurevars
from pkgutil import walk_packages
from threading import get_ident
from time import perf_counter_ns
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

import opscope.capture
from opscope.capture.log.containers import Contents
from opscope.capture.log.event_log import LogRow
from opscope.capture.log.hooks import RunningOp, first_error
from opscope.capture.tables.rows import FAILED, GRAD, INFERENCE, TensorSlot
from opscope.capture.tables.tables import Tables
from opscope.capture.watch.dispatch import Interceptor
from opscope.operators.known import COMPILED
from opscope.operators.plans import Plan
from opscope.records.containers import tensor_paths
from opscope.torch_api import (
    SKIP,
    DisableTorchFunction,
    FrameStrategy,
    current_dispatch_mode,
    next_sequence_number,
    set_code_strategy,
)

# What a compiled module says of global hooks at each call: it is ours that it means.
HOOKS_WARNING = (
    "ignore", re.compile(r"Using `torch\.compile\(module\)` when there are global hooks"),
    UserWarning, None, 0,
)  # fmt: skip


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module is what ``torch.compile(module)`` returned."""
    return "dynamo_ctx" in module.__dict__ and "_orig_mod" in module._modules


def wrapped(module: nn.Module) -> nn.Module:
    """Return the module that a compiled one stands for; any other as it is."""
    while "_orig_mod" in module._modules and is_wrapper(module):
        module = module.get_submodule("_orig_mod")
    return module


def is_fused(called: nn.Module) -> bool:
    """Whether Inductor compiles a module, and does not itself show what it made as an op."""
    backend = _backend(called)
    if getattr(backend, "compiler_name", None) != "inductor":
        return False
    shown = "wrap_inductor_compiled_regions"
    everywhere = getattr(sys.modules.get("torch._inductor.config"), shown, False)
    return not getattr(backend, "config", {}).get(shown, everywhere)


def _backend(called: nn.Module) -> Any:
    """Return what compiles a module.

    There is `get_compiler_config` for it, but with ``fullgraph=True`` it has nothing to say.
    """
    context = called.__dict__.get("dynamo_ctx")
    if context is None:  # compiled in place
        question = getattr(called._compiled_call_impl, "get_compiler_config", None)
        context = None if question is None else getclosurevars(question).nonlocals.get("self")
    at: Any = getattr(context, "callback", None)
    while hasattr(at, "_torchdynamo_orig_backend"):
        at = at._torchdynamo_orig_backend
    return at


class Compiling:
    """Keeps hooks away from Dynamo while this thread compiles, from start to stop.

    Args:
        install: Puts the hooks on.
        remove: Takes them off.
    """

    def __init__(self, install: Callable[[], None], remove: Callable[[], None]) -> None:
        self._install = install
        self._remove = remove
        self._thread = 0
        self._handler: Any = None
        self._away = False

    def start(self) -> None:
        """Begin to be told of compilations."""
        self._thread = get_ident()
        self.listen()

    def listen(self) -> None:
        """Register with Dynamo, once it was imported; it forgets us where it is reset."""
        room = sys.modules.get("torch._dynamo.callback")
        if room is not None and self._begin not in room.callback_handler.start_callbacks:
            self._handler = room.callback_handler
            self._handler.register_start_callback(self._begin)
            self._handler.register_end_callback(self._end)

    def stop(self) -> None:
        """Leave Dynamo as it was."""
        if self._handler is not None:
            with suppress(ValueError):
                self._handler.remove_start_callback(self._begin)
            with suppress(ValueError):
                self._handler.remove_end_callback(self._end)
            self._handler = None
        self._away = False

    def _begin(self, _: Any) -> None:
        if get_ident() == self._thread:
            self._remove()
            self._away = True

    def _end(self, _: Any) -> None:
        if self._away and get_ident() == self._thread:
            self._away = False
            self._install()


class _InductorCode:
    """Stands for the operator; named like torch's own, see `is_fused`."""

    def __str__(self) -> str:
        return COMPILED


_SLOTS = Plan(_InductorCode()).slots(0)


class Region:
    """One call of a module that Inductor compiled, recorded as a single op.

    Nothing that runs inside is seen, nor what Dynamo left uncompiled there. What it reads are
    the tensors given, the parameters and the buffers.

    Args:
        tables: Where to write.
        mode: The dispatch mode, which steps aside.
        module: The module.
        given: What was passed to it.
    """

    def __init__(
        self,
        tables: Tables,
        mode: Interceptor,
        module: nn.Module,
        given: Contents,
    ) -> None:
        self._tables = tables
        self._mode = mode
        paths = (path or "input" for path in tensor_paths(given.structure))
        tensors = dict(zip(paths, given.tensors, strict=True))
        tensors |= dict(module.named_buffers())
        with DisableTorchFunction():
            for look_at in tables.hooks.before_region:  # which it writes is known only afterwards
                look_at(tensors.values())
            self._versions = {
                name: (tensor, tensor._version)
                for name, tensor in tensors.items()
                if not tensor.is_inference()
            }
            tensors |= dict(module.named_parameters())
            self._reads = {name: tables.log.read(tensor) for name, tensor in tensors.items()}
        self._started = perf_counter_ns()
        tables.log.inside_op = True
        if mode.on_stack is not None:
            mode.on_stack.step_aside()

    def come_back(self) -> None:
        """Put the dispatch mode back."""
        if self._mode.on_stack is not None:  # it was not left meanwhile
            self._mode.on_stack.come_back()
        self._tables.log.inside_op = False

    def record(
        self, outputs: list[torch.Tensor], run: int, error: BaseException | None
    ) -> Exception | None:
        """Write the op that stands for all that ran in a module run.

        Returns:
            The error to raise once all is put back, if it gave bad numbers that are seen.
        """
        log, ended = self._tables.log, perf_counter_ns()
        flags = GRAD * torch.is_grad_enabled() | INFERENCE * torch.is_inference_mode_enabled()
        if error is not None:
            flags |= FAILED
            self._tables.failed_ops.note(error, log.op_count)
        with DisableTorchFunction():
            written = [t for t, version in self._versions.values() if t._version != version]
            made = [part for tensor in outputs for part in log.note(tensor)]
            wrote = [part for tensor in written for part in log.note(tensor)]
            row = LogRow(
                slots=_SLOTS,
                constants=(),
                named=dict.fromkeys(self._reads, TensorSlot()),
                chain=run,
                run=run,
                flags=flags,
                sequence=next_sequence_number(),
                started=self._started,
                ended=ended,
                notes=None if log.keep is None else list(map(log.keep, (*written, *outputs))),
                reads=len(self._reads),
                made=len(made),
                wrote=len(wrote),
            )
        log.ops += (*row, *self._reads.values(), *made, *wrote)
        log.op_count += 1
        if log.eager:
            log.ingest()
        hooks = self._tables.hooks
        if not hooks.after_region or error is not None:
            return None
        changed = {id(tensor) for tensor in written}
        reads = ((name, live()) for name, live in self._reads.items())
        known = {name: t for name, t in reads if t is not None and id(t) not in changed}
        op = RunningOp(_SLOTS.plan, (), known, outputs)
        return first_error(look_at(op, written) for look_at in hooks.after_region)


def step_aside(tables: Tables, module: nn.Module, given: Contents) -> Region | None:
    """Take the dispatch mode off the stack, if it is the one on top, for a compiled module."""
    mode = current_dispatch_mode()
    if isinstance(mode, Interceptor) and mode.writes_to(tables):
        return Region(tables, mode, module, given)
    return None


_hidden_from_dynamo = False


def keep_dynamo_out() -> None:
    """Tell Dynamo's frame evaluation to leave the watchers' own code alone, once.

    Without it, as `Interceptor` does without the wrapper that does the same at a price,
    a torch.compile inside the context would compile the handler itself.
    """
    global _hidden_from_dynamo  # noqa: PLW0603
    if _hidden_from_dynamo:
        return
    _hidden_from_dynamo = True
    skip = FrameStrategy(SKIP, SKIP)
    package = opscope.capture
    for found in walk_packages(package.__path__, f"{package.__name__}."):
        for function in _functions_of(import_module(found.name)):
            set_code_strategy(function.__code__, skip)


def _functions_of(room: ModuleType) -> list[FunctionType]:
    found: list[FunctionType] = []
    for item in vars(room).values():
        if getattr(item, "__module__", None) != room.__name__:
            continue
        members = vars(item).values() if isinstance(item, type) else (item,)
        for member in members:
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, FunctionType):
                found.append(function)
    return found
