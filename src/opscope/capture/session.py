"""One stretch of watching: the mode, the function mode and the hooks, on and off together."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from threading import Lock, get_ident, local
from time import perf_counter_ns
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.overrides import _pop_mode as _pop_function_mode
from torch.overrides import _push_mode as _push_function_mode
from torch.utils._python_dispatch import (
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)

from opscope.capture import (
    came_in,
    compiling,
    containers,
    function_calls,
    fused_kernels,
    grad_modes,
    identity,
    in_backward,
    interceptor,
    log,
    looking,
    module_calls,
    module_names,
    op_call,
    originals,
    packed,
    parameters,
    payloads,
    places,
    settling,
    tracers,
    transforms,
    warning_lines,
)
from opscope.capture import finite as finite_room
from opscope.capture import gradients as gradients_room
from opscope.capture import operators as operators_room
from opscope.capture import returned as returned_room
from opscope.capture import saved_tensors as saved_tensors_room
from opscope.capture import tape as tape_room
from opscope.capture.finite import FiniteCheck
from opscope.capture.function_calls import FunctionCalls
from opscope.capture.grad_modes import grad_mode
from opscope.capture.gradients import Gradients
from opscope.capture.interceptor import Interceptor
from opscope.capture.module_calls import ModuleCalls
from opscope.capture.originals import Originals
from opscope.capture.payloads import Payloads
from opscope.capture.returned import Returned
from opscope.capture.saved_tensors import SavedTensors
from opscope.capture.settling import Settling
from opscope.capture.tape import NONE, Tape
from opscope.capture.transforms import SaveOptions
from opscope.capture.warning_lines import WarningLines
from opscope.errors import NonFiniteError, TraceStateError
from opscope.records.recording import Failure, Frame

_warning_lines = WarningLines(compiling.HOOKS_WARNING)


class _Open(local):
    """What watches this thread, the innermost last, by the numbers of the sessions."""

    def __init__(self) -> None:
        self.sessions: list[int] = []


_open = _Open()
# The same, of those that were started in this context: each task of asyncio has its own.
_started_here: ContextVar[tuple[int, ...]] = ContextVar("opscope_sessions", default=())


class Session:
    """Watches everything this thread runs through torch between start and stop.

    Args:
        model: The module that gives the addresses, or None.
        layers: Whether to record torch functions, which takes a function mode.
        save: How to keep the activations of layers; None for not at all.
        gradients: How to keep the gradients of what layers give; None for not at all.
        saved_for_backward: Whether to note what autograd keeps.
        stop_on_nonfinite: Whether to raise where the program sees a NaN or an infinity.
        replayable: Whether to keep what a replay needs: every op's results, and copies of
            all that comes from outside, with the state of the random number generators.
    """

    def __init__(
        self,
        model: nn.Module | None,
        *,
        layers: bool,
        save: SaveOptions | None,
        replayable: bool = False,
        gradients: SaveOptions | None = None,
        saved_for_backward: bool = False,
        stop_on_nonfinite: bool = False,
    ) -> None:
        self.tape = Tape()
        self.layers = layers
        self.seed = 0
        self.duration_ns = 0
        self.started_ns = self._entered_ns = 0
        self.failure: Failure | None = None
        self._functions = FunctionCalls(self.tape.log) if layers else None
        self.tape.log.told = layers
        self.settle = Settling(self.tape)
        self.reading = Lock()  # what reads a trace first settles it, and several threads may
        self._interceptor = Interceptor(self.tape)
        self.modules = ModuleCalls(self.tape, self._functions, model)
        if save is not None or replayable:
            every_op = replayable or not layers
            options = SaveOptions() if save is None or replayable else save
            self.tape.payloads = Payloads(self.tape.log, every_op=every_op, options=options)
            self.tape.log.keep = self.tape.payloads.take
            self.tape.log.keep_again = self.tape.payloads.take_again
        if replayable:
            self.tape.values.originals = Originals()
            self.tape.log.originals = self.tape.values.originals.keep
        values = self.tape.values
        self.gradients = None if gradients is None else Gradients(gradients)
        self.saved_tensors = SavedTensors(values) if saved_for_backward else None
        if self.gradients is not None or self.saved_tensors is not None:
            self.tape.returned = Returned(self.gradients, self.saved_tensors)
        if stop_on_nonfinite:
            self.tape.finite = FiniteCheck(self.tape)
        wanted = (self.tape.payloads, values.originals, self.tape.returned, self.tape.finite)
        self.tape.log.prepares = any(part is not None for part in wanted)
        if self.tape.returned is not None:
            self.tape.log.at_once, self.tape.log.settle_at = True, 0

    def start(self, frame: FrameType | None) -> None:
        """Begin to watch; ``frame`` is the one with the ``with`` block.

        Raises:
            TraceStateError: If another task of this thread is being traced.
        """
        if not set(_open.sessions) <= set(_started_here.get()):
            message = (
                "another task of this thread is being traced, and would have the ops of both; "
                "let no `await` be inside a trace, or trace around all of the tasks"
            )
            raise TraceStateError(message)
        _keep_dynamo_out()
        if self.started_ns:
            self._resume()
        else:
            self.seed = torch.initial_seed()
        self.tape.log.thread = get_ident()
        self.tape.log.settle = self.settle
        self.tape.note_start()
        self.tape.log.write((log.GRAD_MODE, self.tape.log.op_count, NONE, *grad_mode()))
        outermost = None if frame is None else frame.f_back
        self.modules.outermost = self.tape.log.boundary = outermost
        if self.tape.values.originals is not None and not self.started_ns:
            self.tape.values.originals.keep_generators()
        if self.tape.returned is not None:
            self.tape.returned.start()
        _warning_lines.start(id(self))
        self.modules.install()
        if self._functions is not None:
            self._functions.__enter__()  # type: ignore[no-untyped-call]
        self._interceptor.__enter__()  # type: ignore[no-untyped-call]
        _open.sessions.append(id(self))
        _started_here.set(tuple(_open.sessions))
        self._entered_ns = perf_counter_ns()
        self.started_ns = self.started_ns or self._entered_ns

    def _resume(self) -> None:
        """Go on after a time in which nothing was watched."""
        self.failure = None
        self.settle()
        if not self.tape.log.at_once:
            self.tape.log.settle_at = self.tape.log.op_count + log.FIRST
        self.tape.values.forget_all()
        with torch._C.DisableTorchFunction():
            self.tape.parameters.measure()
        if self.tape.payloads is not None:
            self.tape.payloads.part()
        if self.gradients is not None:
            self.gradients.resume()
        if self.tape.finite is not None:
            self.tape.finite.forget_all()

    def join(self, rows: Mapping[int, int]) -> None:
        """Take what was kept of rows for that of others, which are the same tensors."""
        if self.tape.payloads is not None:
            self.tape.payloads.join(rows)
        if self.gradients is not None:
            self.gradients.join(rows)

    def scaler_places(self) -> frozenset[int]:
        """Return the places of what a `GradScaler` ran, if there is one."""
        with self.reading:
            self.settle()
        contexts = self.tape.places.contexts()
        return frozenset(place for place, found in enumerate(contexts) if found == "scaler")

    def raised(self) -> list[NonFiniteError]:
        """Return the errors that were raised where bad numbers were seen."""
        return [] if self.tape.finite is None else self.tape.finite.raised()

    def can_stop(self) -> bool:
        """Whether this is the thread that it watches, the only one that can take modes off."""
        return self.tape.log.thread == get_ident()

    def stop(self, error: BaseException | None, trace_back: TracebackType | None) -> None:
        """End watching, whatever happened, and keep what is known of a failure."""
        self.duration_ns += perf_counter_ns() - self._entered_ns
        _open.sessions.remove(id(self))
        _started_here.set(tuple(_open.sessions))
        _warning_lines.stop(id(self))
        still_running = self.modules.remove()  # puts the modes back where they stepped aside
        fused_kernels.come_back()
        _leave(self._interceptor, _get_current_dispatch_mode_stack(), _pop_mode, _push_mode)
        if self._functions is not None:
            modes = _get_current_function_mode_stack()
            _leave(self._functions, modes, _pop_function_mode, _push_function_mode)
        self.modules.outermost = self.tape.log.boundary = None
        if not self.modules.is_bordered:  # what it gives is what is left of it
            found = self.tape.log.known.values()
            alive = [live for live in found if live() is not None]
            payloads = self.tape.payloads
            kept = None if payloads is None else payloads.take_written(alive)
            self.tape.log.write((log.END, self.tape.log.op_count, alive, kept))
        with torch._C.DisableTorchFunction():  # a user's mode around the block is not to see it
            self.modules.look_again()
            self.tape.parameters.measure()
            if self.tape.payloads is not None:
                buffers = self.tape.parameters.buffers()
                self.tape.payloads.seal(buffers, self.tape.log.known.values())
            if self.tape.returned is not None:
                self.tape.returned.flush()
        if error is not None:
            self.failure = self._describe(error, trace_back, still_running)
        self.tape.log.settle = log.never  # without this cycle it is gone when it is let go of
        for mark in (self.tape.failed_ops, self.tape.failed_calls, self.tape.failed_runs):
            mark.forget()

    def _describe(
        self,
        error: BaseException,
        trace_back: TracebackType | None,
        still_running: int | None,
    ) -> Failure:
        tape = self.tape
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 (it is the user's code, and its failure not ours)
            message = ""
        frames = (
            Frame(frame.f_code.co_filename, line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(trace_back)
        )
        own = [frame for frame in frames if not places.is_internal(frame)]
        return Failure(
            exception=type(error).__name__,
            message=message,
            op=tape.failed_ops.of(error),
            layer_call=tape.failed_calls.of(error),
            module_call=tape.failed_runs.of(error) if still_running is None else still_running,
            frame=own[-1] if own else None,
        )


def _leave(
    mode: Any, stack: list[Any], pop: Callable[[], Any], push: Callable[[Any], None]
) -> None:
    """Leave a mode, and leave those on that were entered after it and are still to be left.

    A mode leaves by taking the uppermost off its stack, whichever that is.
    """
    above: list[Any] = []
    if mode in stack and stack[-1] is not mode:
        while (popped := pop()) is not mode:
            above.append(popped)
        push(mode)
    mode.__exit__(None, None, None)
    for other in reversed(above):
        push(other)


_hidden_from_dynamo = False


def _keep_dynamo_out() -> None:
    """Tell Dynamo's frame evaluation to leave the watchers' own code alone, once.

    Without it, as `Interceptor` does without the wrapper that does the same at a price,
    a torch.compile inside the context would compile the handler itself.
    """
    global _hidden_from_dynamo  # noqa: PLW0603
    if _hidden_from_dynamo:
        return
    _hidden_from_dynamo = True
    frames = torch._C._dynamo.eval_frame
    skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
    rooms = (
        came_in, compiling, containers, finite_room, function_calls, fused_kernels, grad_modes,
        gradients_room, identity, in_backward, interceptor, log, looking, module_calls, module_names, op_call,
        operators_room, originals, packed, parameters, payloads, places, returned_room,
        saved_tensors_room, settling, tape_room, tracers, transforms, warning_lines,
    )  # fmt: skip
    for room in rooms:
        for function in _functions_of(room):
            frames.set_code_exec_strategy(function.__code__, skip)


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
