"""Global module hooks: which module is running, at which address."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from threading import get_ident
from time import perf_counter_ns
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import _get_current_function_mode, _pop_mode, _push_mode
from torch.utils.hooks import RemovableHandle

from opscope.capture.compiling import Compiling, is_fused, is_wrapper, step_aside, wrapped
from opscope.capture.tape import NONE, CallRow, ModuleRun, Tape, stay
from opscope.capture.tracers import is_tracing

if TYPE_CHECKING:
    from opscope.capture.function_calls import FunctionCalls
    from opscope.records.recording import CallKind

_Tensor = torch.Tensor
_dispatch_modes = torch._C._len_torch_dispatch_stack
_graph_task = torch._C._current_graph_task_id
_DEEPEST = 8  # containers one inside the other
_DEEPEST_IN_OBJECTS, _MOST_IN_OBJECTS = 4, 1000  # one may refer to a whole data set
_NOT_DATA = (nn.Module, type, ModuleType)
_MOST_ALIASES = 16  # of one module; a model that shares itself over and over has no end of them
# These leave their fused kernels when they see a function mode.
_FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class Known:
    """A module that has an address."""

    __slots__ = ("active", "address", "aliases", "calls", "class_name", "index", "live", "training")

    def __init__(self, index: int, module: nn.Module, address: str) -> None:
        self.index = index
        self.live = ref(module)
        self.address = address
        self.aliases: tuple[str, ...] = ()
        self.class_name = type(module).__name__
        # A frozen scripted module is never in training, and does not even say so.
        self.training = getattr(module, "training", False)
        self.calls = 0
        self.active: ModuleRun | None = None


class _Path(NamedTuple):
    """One way to a module from the model."""

    name: str
    module: nn.Module
    parent: _Path | None

    def is_cyclic(self) -> bool:
        """Whether the way passes through the module before."""
        at = self.parent
        while at is not None:
            if at.module is self.module:
                return True
            at = at.parent
        return False


class ModuleCalls:
    """Records every module call of this thread while its hooks are installed.

    Args:
        tape: Where to write.
        functions: The function mode, which steps aside where a fused kernel would run.
        model: The module that gives the addresses; without one the first that runs does.
    """

    def __init__(
        self, tape: Tape, functions: FunctionCalls | None, model: nn.Module | None
    ) -> None:
        self._tape = tape
        self._functions = functions
        self._known: dict[int, Known] = {}
        self._stack: list[ModuleRun] = []
        self._handles: list[Any] = []
        self._compiling: Compiling | None = None
        self.modules: list[Known] = []
        self.root: Known | None = None
        # The frame around the `with` block, where the calling context of a bare call ends.
        self.outermost: FrameType | None = None
        if model is not None:
            self._learn(wrapped(model), "")

    def install(self) -> None:
        """Register the hooks, for all modules; other threads' calls are passed over."""
        self._tape.unwind = self._unwind
        self._hook()
        self._compiling = Compiling(self._hook, self._unhook)
        self._compiling.start()

    def _hook(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()

    def remove(self) -> int | None:
        """Take the hooks away and end the calls that a BaseException left open.

        Returns:
            The innermost call that was still open.
        """
        if self._compiling is not None:
            self._compiling.stop()
        self._compiling = None  # nor this cycle
        self._unhook()
        innermost = self._stack[-1].index if self._stack else None
        while self._stack:
            self._close(self._stack[-1], failed=True)
        self._tape.unwind = stay  # without this cycle a trace is gone as soon as it is let go of
        return innermost

    def _learn(self, model: nn.Module, address: str) -> Known:
        """Give addresses to a module and all below it, as `named_modules` would."""
        first = len(self.modules)
        pending = [_Path(address, model, None)]
        while pending:
            path = pending.pop()
            name, module = path.name, path.module
            known = self._known.get(id(module))
            if known is None or known.live() is not module:
                known = Known(len(self.modules), module, name)
                self._known[id(module)] = known
                self.modules.append(known)
            elif len(known.aliases) < _MOST_ALIASES and not path.is_cyclic():
                known.aliases += (name,)
            else:
                continue
            if module._parameters or module._buffers:
                self._tape.parameters.learn(module, name)
            if module._modules:
                prefix = f"{name}." if name else ""
                pending += [
                    _Path(f"{prefix}{child}", wrapped(inner), path)
                    for child, inner in reversed(module._modules.items())
                    if inner is not None
                ]
        if self.root is None:
            self.root = self.modules[first]
        return self.modules[first]

    def _address_of_stranger(self, module: nn.Module) -> str:
        """Return an address for a module outside the model's tree: its class and a number."""
        if self.root is None:
            return ""
        taken = {known.address for known in self.modules}
        name, count = type(module).__name__, 1
        while name in taken:
            count += 1
            name = f"{type(module).__name__}#{count}"
        return name

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or get_ident() != self._tape.thread:
            return
        if self._tape.hidden or (_dispatch_modes() > 1 and is_tracing()):
            return
        if _graph_task() != -1:  # a checkpoint runs it again: `links` says for which ops
            return
        tape = self._tape
        called = module
        if self._compiling is not None and is_wrapper(module):
            self._compiling.listen()
            module = wrapped(module)
        known = self._known.get(id(module))
        if known is not None and known.active is not None and known.active.inner is called:
            return  # by the compiled module that stands for it, which was told of
        if known is None or known.live() is not module:
            known = self._learn(module, self._address_of_stranger(module))
        frame = sys._getframe(1)
        self._unwind(frame)
        known.calls += 1
        run = ModuleRun(len(tape.runs), known.index, known.calls, tape.module)
        site = tape.places.of(frame, tape.boundary, tape.place, known.index)
        run.is_root = known is self.root and known.active is None
        if known.active is not None:  # recursion: another pass through the same context
            run.place = known.active.place
        else:
            run.place = tape.places.root(known.index, site) if run.is_root else site
            known.active = run
        run.boundary = frame
        run.op_start, run.call_start = tape.op_count, tape.call_count
        given: Any = args[0] if len(args) == 1 else args
        compiled = called is not module or module._compiled_call_impl is not None
        # A global hook is not handed the keyword arguments; the calling frame has them.
        if (run.is_root or compiled) and (named := frame.f_locals.get("kwargs")):
            given = {**{str(i): value for i, value in enumerate(args)}, **named}
        run.inputs = self._rows(given)
        if run.is_root:
            run.inputs = [(path, tape.given_to_model(row)) for path, row in run.inputs]
            run.inputs = self._pass_border(run, "input", run.inputs, given)
            run.call_start = tape.call_count
        tape.runs.append(run)
        self._stack.append(run)
        if module._forward_hooks and not compiled:
            self._wait_for_hooks(run, module)
        self._set_current()
        if isinstance(module, _FAST_PATHS) and _may_be_fused(module):
            run.resume = self._step_aside()
        elif compiled:
            run.inner = None if called is module else module
            run.resume = self._step_aside()
            if is_fused(called):
                run.region = step_aside(tape, module, list(leaves(given)))
        run.start = perf_counter_ns()

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or get_ident() != self._tape.thread:
            return
        if _dispatch_modes() > 1 and is_tracing():
            return
        if _graph_task() != -1:  # a checkpoint runs it again: `links` says for which ops
            return
        called, module = module, wrapped(module)
        known = self._known.get(id(module))
        if known is None or not self._stack:
            return
        if self._tape.hidden and self._stack[-1].region is None:
            return
        if known.active is not None and known.active.inner is called:
            return
        if self._stack[-1].module != known.index and all(
            run.module != known.index for run in self._stack
        ):
            return
        while self._stack[-1].module != known.index:  # left open by a BaseException
            self._close(self._stack[-1], failed=True)
        run = self._stack[-1]
        # After an exception torch calls the hooks from another frame than it does otherwise.
        failed = sys._getframe(1) is not run.boundary
        error = sys.exc_info()[1] if failed else None
        if error is not None:
            self._tape.failed_runs.note(error, run.index)
        if run.region is not None:
            run.region.record([t for _, t in leaves(output)], run.index, run.place, error)
            run.region.come_back()
            run.region = None
        if run.last_hook is not None and not failed:
            return  # the module's own hooks come next, and may give another output
        self._end(run, output, failed=failed)

    def _wait_for_hooks(self, run: ModuleRun, module: nn.Module) -> None:
        """Have the run end after the module's own forward hooks, by one more while it runs.

        Global hooks are called before those, and what they compute and replace is part of
        what the module gives.
        """

        # A function, as a copy of the model that its forward makes must not copy the tape.
        def last(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if get_ident() == self._tape.thread and self._stack and self._stack[-1] is run:
                self._end(run, output, failed=False)

        run.last_hook = RemovableHandle(module._forward_hooks)
        module._forward_hooks[run.last_hook.id] = last

    def _end(self, run: ModuleRun, output: Any, *, failed: bool) -> None:
        """Note what a run gives, and close it."""
        run.outputs = self._rows(output)
        if run.outputs and run.call_start == self._tape.call_count:
            self._hand_on(run, output)
        self._close(run, failed=failed)
        if run.is_root:
            self._pass_border(run, "output", run.outputs, output)

    def _hand_on(self, run: ModuleRun, output: Any) -> None:
        """Record a module that returned just what it was given, as a call without ops."""
        tape = self._tape
        if run.op_start != tape.op_count:
            return
        received = {row for _, row in run.inputs}
        if not all(row in received for _, row in run.outputs):
            return
        row = CallRow(
            "identity", run.index, run.place, tape.op_count, tape.op_count,
            run.start, perf_counter_ns(), None, kind="identity",
            received=tuple(row for _, row in run.outputs),
        )  # fmt: skip
        new = tape.hand_on(row, [tensor for _, tensor in leaves(output)])
        run.outputs = [(path, row) for (path, _), row in zip(run.outputs, new, strict=True)]

    def _pass_border(
        self, run: ModuleRun, kind: CallKind, rows: list[tuple[str, int]], value: Any
    ) -> list[tuple[str, int]]:
        """Record each tensor that enters or leaves the model as a call of its own.

        One that is given twice enters once: nobody can tell which of the two is read.
        """
        tape = self._tape
        now, op = perf_counter_ns(), tape.op_count
        result = []
        entered: dict[int, int] = {}
        for (path, row), (_, tensor) in zip(rows, leaves(value), strict=True):
            if row in entered:
                result.append((path, entered[row]))
                continue
            call = CallRow(
                kind, run.parent, run.place, op, op, now, now, None,
                received=(row,), kind=kind, path=path,
            )  # fmt: skip
            result.append((path, tape.hand_on(call, [tensor])[0]))
            if kind == "input":
                entered[row] = result[-1][1]
        return result

    def _unwind(self, frame: FrameType | None) -> None:
        """End the calls that a BaseException left open: those not running below ``frame``."""
        while self._stack and not _is_below(frame, self._stack[-1].boundary):
            self._close(self._stack[-1], failed=True)

    def _close(self, run: ModuleRun, *, failed: bool) -> None:
        run.end = perf_counter_ns()
        run.op_end, run.call_end = self._tape.op_count, self._tape.call_count
        run.failed = failed
        run.boundary = run.inner = None
        if run.last_hook is not None:
            run.last_hook.remove()
            run.last_hook = None
        if run.region is not None:
            run.region.come_back()
            run.region = None
        known = self.modules[run.module]
        if known.active is run:
            known.active = None
        self._stack.pop()
        if run.resume and self._functions is not None:
            _push_mode(self._functions)
        self._set_current()

    def _set_current(self) -> None:
        tape = self._tape
        if self._stack:
            run = self._stack[-1]
            tape.module, tape.module_number = run.index, run.module
            tape.boundary, tape.place = run.boundary, run.place
        else:
            tape.module = tape.module_number = tape.place = NONE
            tape.boundary = self.outermost

    def _step_aside(self) -> bool:
        """Take the function mode off the stack if it is the one on top."""
        if self._functions is None or _get_current_function_mode() is not self._functions:
            return False
        _pop_mode()
        return True

    def _rows(self, value: Any) -> list[tuple[str, int]]:
        values = self._tape.values
        if value.__class__ is _Tensor and (row := values.find(value)) is not None:
            return [("", row)]  # nearly always
        found = []
        for path, tensor in leaves(value):
            row = values.find(tensor)
            if row is None:
                with torch._C.DisableTorchFunction():
                    row = values.seen(tensor)
            found.append((path, row))
        return found


def _is_below(frame: FrameType | None, boundary: FrameType | None) -> bool:
    """Whether a frame was called, over whatever others, from the frame of a module call."""
    while frame is not None:
        if frame is boundary:
            return True
        frame = frame.f_back
    return False


def _may_be_fused(module: nn.Module) -> bool:
    """Whether a module's fused kernel could run: never in training or under autograd."""
    if module.training:
        return False
    return not (
        torch.is_grad_enabled()
        and any(parameter.requires_grad for parameter in module.parameters())
    )


def leaves(
    value: Any,
    path: str = "",
    depth: int = _DEEPEST,
    above: tuple[int, ...] = (),
    most: int | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested containers and objects, each with the path that leads to it."""
    if isinstance(value, _Tensor):
        yield path, value
        return
    if depth == 0 or value is None or isinstance(value, (int, float, str, bool)):
        return
    if id(value) in above:  # it contains itself
        return
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list, deque)):
        items = enumerate(value)
    elif isinstance(value, _NOT_DATA):
        return
    elif dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        items = ((field.name, getattr(value, field.name, None)) for field in fields)
    elif type(value).__dictoffset__:  # a plain object, such as a cache of keys and values
        items = list(vars(value).items())
        depth, most = min(depth, _DEEPEST_IN_OBJECTS), _MOST_IN_OBJECTS
    above = (*above, id(value))
    for key, item in islice(items, most):
        yield from leaves(item, f"{path}.{key}" if path else str(key), depth - 1, above, most)
