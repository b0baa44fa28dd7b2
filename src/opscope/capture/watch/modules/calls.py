"""Global module hooks: which module is running, at which address."""

from __future__ import annotations

import sys
from functools import partial
from threading import get_ident
from time import perf_counter_ns
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from opscope.capture.log.containers import arguments, contents, tensors_of
from opscope.capture.log.event_log import stay
from opscope.capture.log.events import GradMode, Leave
from opscope.capture.log.grad_modes import grad_mode
from opscope.capture.log.hooks import ReturnedCall, first_error
from opscope.capture.tables.tables import Tables
from opscope.capture.unchanged.fused_kernels import FAST_PATHS, may_be_fused
from opscope.capture.unchanged.global_hooks import put_on, take_off
from opscope.capture.unchanged.tracers import is_tracing
from opscope.capture.watch.compiled import (
    Compiling,
    is_fused,
    is_wrapper,
    step_aside,
    wrapped,
)
from opscope.capture.watch.modules.in_backward import InBackward
from opscope.capture.watch.modules.module_info import ModuleInfo
from opscope.capture.watch.modules.names import ModuleNames
from opscope.capture.watch.modules.running import (
    RunCleanup,
    Running,
    call_last,
    function_mode_aside,
    is_below,
)
from opscope.capture.watch.modules.values import ModuleValues, by_path, named_in
from opscope.capture.watch.recursion import explain
from opscope.records.columns.columns import NONE
from opscope.torch_api import (
    CALL_MODULE,
    DisableTorchFunction,
    count_dispatch_modes,
)

if TYPE_CHECKING:
    from opscope.capture.watch.functions import FunctionCalls

_Tensor = torch.Tensor
_is_compiling = torch.compiler.is_dynamo_compiling


class ModuleCalls:
    """Records every module call of this thread while its hooks are installed.

    Args:
        tables: Where to write.
        functions: The function mode, which steps aside where a fused kernel would run.
        model: The module that gives the addresses; without one the first that runs does.
    """

    def __init__(
        self, tables: Tables, functions: FunctionCalls | None, model: nn.Module | None
    ) -> None:
        self._tables = tables
        self._log = tables.log
        self._values = ModuleValues(tables.log)
        self._functions = functions
        self.names = ModuleNames(tables, is_named=model is not None)
        self._known = self.names.by_id
        self.running = Running(tables.log)
        self._stack, self._is_elsewhere = self.running.stack, self.running.is_elsewhere
        # By run, for some, what is to be done at the end.
        self._cleanups: dict[int, RunCleanup] = {}
        self._compiling: Compiling | None = None
        self._in_backward = InBackward(tables)
        self.modules = self.names.modules
        self.is_named = model is not None
        self.innermost: int | None = None  # the run that was still going on at the end
        self.ran_compiled = False  # modules, whose functions no function mode saw
        self._model = model
        # Whether several of the modules that ran in no other one are models.
        self.are_several = False

    @property
    def root(self) -> ModuleInfo | None:
        """The model."""
        return self.names.root

    @property
    def is_bordered(self) -> bool:
        """Whether what entered and left the program is known: the model's inputs and outputs."""
        ran = self.root is not None and self.root.index in self.running.tops
        return ran and (self.is_named or len(self.running.tops) == 1)

    def install(self) -> None:
        """Register the hooks, for all modules; other threads' calls are passed over."""
        if self._model is not None:
            with DisableTorchFunction():
                self.names.meet(wrapped(self._model))
            self._model = None
        self._log.unwind = self._unwind
        self.innermost = None
        self._hook()
        self._compiling = Compiling(self._hook, partial(take_off, self))
        self._compiling.start()

    def _hook(self) -> None:
        edit = None if self._log.edit is None else self._edit
        put_on(self._enter, self._leave, self._registered, edit)

    def remove(self) -> None:
        """Take the hooks away; twice is harmless."""
        if self._compiling is not None:
            self._compiling.stop()
        self._compiling = None  # nor this cycle
        take_off(self)
        self._log.in_backward.clear()

    def end_runs(self) -> None:
        """End the runs that a BaseException left open, the innermost of which is ``innermost``."""
        if self.innermost is None and self._stack:
            self.innermost = self._stack[-1][2]
        for cleanup in self._cleanups.values():  # the modes were left
            cleanup.resume, cleanup.region = False, None
        while self._stack:
            self._close(None, failed=True)
        self._log.unwind = stay  # without this cycle a trace is gone as soon as it is let go of

    def look_again(self) -> None:
        """Name all modules as they are once the program has run."""
        ran = map(self.modules.__getitem__, self.running.tops)
        models = [known.top for known in ran if known.top is known and known.top.holds]
        self.are_several = not self.is_named and (
            len(models) > 1 or (len(self.running.tops) > 1 and self.root not in models)
        )
        self.names.look_again(models if self.are_several else ())

    # Both hooks have a short way for nearly all calls: what runs right after an op runs with
    # cold caches, and costs the more the more code there is.

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        log = self._log
        if _is_compiling() or log.inside_op:
            return
        if self._is_elsewhere():
            self._in_backward.enter(module, self._known.get(id(wrapped(module))))
            return
        frame = sys._getframe(1)
        known = self._known.get(id(module))
        if (
            known is None
            or known.is_special
            or self._cleanups
            or module._forward_hooks
            or module._compiled_call_impl is not None
            or known.live() is not module
        ):
            self._enter_special(module, args, frame)
            return
        chain = log.chain(frame)  # first, as it may end modules
        items = self._values.given(args, frame if len(args) < known.most else None)
        self.running.begin(known, chain, items, None, (module, frame, log.run_count))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stack, log = self._stack, self._log
        if _is_compiling():
            return
        if not stack:
            self._in_backward.leave(module)
            return
        called, boundary, run = stack[-1]
        # The same frame: it was entered, so it is watched, and it did not fail.
        if called is not module or sys._getframe(1) is not boundary or self._cleanups:
            frame = sys._getframe(1)
            try:
                self._leave_special(module, output, frame)
            except RecursionError:
                # An error passes through here and there is no room to note that, of which torch
                # would warn; a module further out ends this run too.
                if frame.f_code is not CALL_MODULE:
                    raise
            return
        items = self._values.gave(output)
        notes = None if log.keep is None else self._values.notes(output)
        # What `_end` does, without the call.
        log.events += (Leave, log.op_count, run, items, perf_counter_ns(), False, notes)
        _, log.boundary, log.run = (
            stack[-2] if len(stack) > 1 else (None, self.running.outermost, NONE)
        )
        stack.pop()  # last: what is interrupted before is ended once more, as failed
        if log.eager:
            log.ingest()
        if log.returned:
            self._tell(called, run, output)

    def _edit(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return what editors make of what a module gave that is about to return."""
        if _is_compiling() or not self._stack or self._is_elsewhere():
            return output
        called, _, run = self._stack[-1]
        cleanup = self._cleanups.get(run)
        if called is not module or (cleanup is not None and cleanup.last_hook is not None):
            return output  # the module's own hooks come next, and may give another output
        return self._edited(module, output)

    def _edited(self, module: nn.Module, output: Any) -> Any:
        edit = self._log.edit
        if edit is None:
            return output
        return edit(ReturnedCall("module", self.names.address(module), module, output))

    def _registered(self, module: nn.Module, name: str, item: Any) -> None:
        """Note that a module is given a module, a parameter or a buffer while it is watched."""
        if get_ident() == self._log.thread and not (count_dispatch_modes() > 1 and is_tracing()):
            self.names.registered(module, name, item)

    def _enter_special(self, module: nn.Module, args: tuple[Any, ...], frame: FrameType) -> None:
        """Enter the model itself, or a module that is compiled, fused or has hooks of its own."""
        called, log = module, self._log
        if self._cleanups and any(one.inner is called for one in self._cleanups.values()):
            return  # by the compiled module that stands for it, which was told of
        known = self._known.get(id(module))
        if known is None or known.live() is not module:
            module, known = self._meet(module)
        chain = log.chain(frame)
        compiled = called is not module or module._compiled_call_impl is not None
        run, items = log.run_count, self._values.given(args, frame)
        notes = None
        if known is self.root:
            if log.keep_again is not None:
                notes = self._values.notes((args, named_in(frame)))
            log.write(GradMode(run, *grad_mode()))
        self.running.begin(known, chain, items, notes, (called, frame, run))
        cleanup = RunCleanup(None if called is module else module)
        if compiled:
            cleanup.resume = function_mode_aside(self._functions)
            self.ran_compiled = True
            if is_fused(called):
                cleanup.region = step_aside(self._tables, module, arguments(args, named_in(frame)))
        elif module._forward_hooks:
            cleanup.last_hook = self._wait_for_hooks(module, run)
        if isinstance(module, FAST_PATHS) and may_be_fused(module):
            cleanup.resume = cleanup.resume or function_mode_aside(self._functions)
        hooks = self._tables.hooks
        if known is self.root and (hooks.model_entered or hooks.model_returned):
            given = by_path(arguments(args, named_in(frame)))
            for look_at in hooks.model_entered:
                look_at(module, given)
            cleanup.is_result = self.is_named and all(op != NONE for *_, op in self._stack[:-1])
        if cleanup.is_needed:
            self._cleanups[run] = cleanup

    def _meet(self, module: nn.Module) -> tuple[nn.Module, ModuleInfo]:
        """Return a module that is called by another name or the first time, and what is known."""
        if self._compiling is not None and is_wrapper(module):
            self._compiling.listen()
            module = wrapped(module)
            if (known := self.names.known(module)) is not None:
                return module, known
        with DisableTorchFunction():  # to name parameters is to read their sizes
            return module, self.names.meet(module)

    def _leave_special(self, module: nn.Module, output: Any, frame: FrameType) -> None:
        """Leave what was entered so, or failed, or was never entered."""
        if self._is_elsewhere():
            self._in_backward.leave(module)
            return
        if self._stack[-1][0] is not module and all(one[0] is not module for one in self._stack):
            return
        if self._log.inside_op:  # below an op, unless Inductor made it of a module that ends
            called, _, run = self._stack[-1]
            cleanup = self._cleanups.get(run)
            if called is not module or cleanup is None or cleanup.region is None:
                return
        while self._stack[-1][0] is not module:  # left open by a BaseException
            self._close(None, failed=True)
        _, boundary, run = self._stack[-1]
        cleanup = self._cleanups.get(run)
        # After an exception torch calls the hooks from another frame than it does otherwise.
        failed = frame is not boundary
        error = sys.exc_info()[1] if failed else None
        if error is not None:
            self._tables.failed_runs.note(error, run)
            if len(self._stack) == 1:  # where there is room for it
                explain(error)
        if cleanup is not None and cleanup.region is not None:
            cleanup.bad = cleanup.region.record(tensors_of(output), run, error)
            cleanup.region.come_back()
            cleanup.region = None
        if cleanup is not None and cleanup.last_hook is not None and not failed:
            return  # the module's own hooks come next, and may give another output
        self._close(output, failed=failed)

    def _wait_for_hooks(self, module: nn.Module, run: int) -> RemovableHandle:
        """Have a run end after the module's own forward hooks, by one more while it runs.

        Global hooks are called before those, and what they compute and replace is part of
        what the module gives.
        """

        def last(module: nn.Module, output: Any) -> Any:
            ours = get_ident() == self._log.thread
            if ours and self._stack and self._stack[-1][2] == run:
                output = self._edited(module, output)
                self._close(output, failed=False)
            return output

        return call_last(module, last)

    def _unwind(self, frame: FrameType | None) -> None:
        """End the runs that a BaseException left open: those not running below ``frame``."""
        while self._stack and not is_below(frame, self._stack[-1][1]):
            self._close(None, failed=True)

    def _close(self, output: Any, *, failed: bool) -> None:
        """End the innermost run."""
        log, stack = self._log, self._stack
        items, notes = self._values.gave(output), self._values.notes(output)
        called, _, run = stack[-1]
        cleanup = self._cleanups.get(run)
        if cleanup is not None:
            cleanup.undo(None if self._functions is None else self._functions.on_stack)
        self.running.end(run, items, notes, failed=failed)
        self._cleanups.pop(run, None)
        if not failed and log.returned:
            self._tell(called, run, output)
        if cleanup is None or failed:
            return
        bad = cleanup.bad
        if bad is None and cleanup.is_result:
            outputs, hooks = by_path(contents(output)), self._tables.hooks
            bad = first_error(look_at(outputs) for look_at in hooks.model_returned)
        if bad is not None:
            self._tables.failed_runs.note(bad, run)
            raise bad

    def _tell(self, module: nn.Module, run: int, output: Any) -> None:
        """Tell collectors that a module returned."""
        try:
            self._log.tell("module", self.names.address(module), module, output)
        except Exception as error:
            self._tables.failed_runs.note(error, run)
            raise
