"""One stretch of watching: the mode, the function mode and the hooks, on and off together."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from threading import Lock, get_ident, local
from time import perf_counter_ns
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from opscope.capture.collect.collector import Editor, InnerCollector, NoteTaker
from opscope.capture.log import event_log
from opscope.capture.log.contexts import call_sites
from opscope.capture.log.events import End, GradMode
from opscope.capture.log.grad_modes import grad_mode
from opscope.capture.log.hooks import Hooks
from opscope.capture.tables.ingest import Ingest
from opscope.capture.tables.tables import Tables
from opscope.capture.unchanged import fused_kernels
from opscope.capture.unchanged.stacks import OnDispatchStack, OnStack
from opscope.capture.unchanged.warning_lines import WarningLines
from opscope.capture.watch import compiled
from opscope.capture.watch.dispatch import Interceptor
from opscope.capture.watch.edits import Edits
from opscope.capture.watch.functions import FunctionCalls
from opscope.capture.watch.modules.calls import ModuleCalls
from opscope.errors import TraceStateError
from opscope.records.calls import Frame
from opscope.records.columns.columns import NONE
from opscope.records.recording import Failure
from opscope.torch_api import DisableTorchFunction

T = TypeVar("T", bound=InnerCollector)
_warning_lines = WarningLines(compiled.HOOKS_WARNING)


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
        collectors: Makes the collectors that look at more, given where all is written.
        editors: What may give the program other results.

    Attributes:
        collectors: The collectors.
    """

    def __init__(
        self,
        model: nn.Module | None,
        layers: bool,
        collectors: Callable[[Tables], Sequence[InnerCollector]] = lambda _: (),
        editors: Sequence[Editor] = (),
    ) -> None:
        self.tables = Tables()
        self._edits = self.tables.log.edit = Edits(editors) if editors else None
        self.collectors = collectors(self.tables)
        self.layers = layers
        self.seed = 0
        self.duration_ns = 0
        self.started_ns = self._entered_ns = 0
        self.failure: Failure | None = None
        self._functions = FunctionCalls(self.tables.log) if layers else None
        self.tables.log.sees_assignments = layers
        self.ingest = Ingest(self.tables)
        self.reading = Lock()  # what reads a trace first ingests it, and several threads may
        self._interceptor = OnDispatchStack(Interceptor(self.tables))
        self._function_mode = None if self._functions is None else OnStack(self._functions)
        # Entered and left as the block is entered; left again it puts back what there was then.
        self._torch_function: Any = DisableTorchFunction()
        self._was_interrupted = False
        # Whether anything of it may be on; what is left to do as the block is left, the last first.
        self.is_on = False
        self._to_do: list[Callable[[], None]] = []
        self._error: tuple[BaseException | None, TracebackType | None] = None, None
        self.modules = ModuleCalls(self.tables, self._functions, model)
        self._listen()

    def _listen(self) -> None:
        """Have the watchers call the collectors for what they want to be called for."""
        log_, tables = self.tables.log, self.tables
        hooks = tables.hooks = Hooks.of(self.collectors)
        log_.first_seen, log_.returned = hooks.first_seen, hooks.returned
        log_.has_listeners = bool(hooks.returned or log_.edit)
        tables.values.numbered, tables.values.stored = hooks.numbered, hooks.stored
        log_.has_before_op = bool(hooks.before_op or hooks.before_write or hooks.after_op)
        if any(collector.eager for collector in self.collectors):
            log_.eager, log_.ingest_at = True, 0
        for collector in self.collectors:
            if isinstance(collector, NoteTaker):
                log_.keep, log_.keep_again = collector.take, collector.take_again
                log_.keeps_every_op = collector.every_op

    def find(self, kind: type[T]) -> T | None:
        """Return the collector of a kind, None if there is none."""
        return next(
            (collector for collector in self.collectors if isinstance(collector, kind)), None
        )

    def start(self, frame: FrameType | None) -> None:
        """Begin to watch; ``frame`` is the one with the ``with`` block.

        Whatever raises here, torch is left as it was.

        Raises:
            TraceStateError: If another task of this thread is being traced.
        """
        try:
            self._start(frame)
        except BaseException:
            self.abandon()
            raise

    def _start(self, frame: FrameType | None) -> None:
        if not set(_open.sessions) <= set(_started_here.get()):
            message = (
                "another task of this thread is being traced, and would have the ops of both; "
                "let no `await` be inside a trace, or trace around all of the tasks"
            )
            raise TraceStateError(message)
        compiled.keep_dynamo_out()
        self._torch_function.__enter__(), self._torch_function.__exit__()
        self.is_on, self._was_interrupted = True, False
        self._to_do.clear()
        log_ = self.tables.log
        log_.in_call = log_.inside_op = False
        if self._edits is not None:
            self._edits.begin()
        if self.started_ns:
            self._resume()
        else:
            self.seed = torch.initial_seed()
        self.tables.log.thread = get_ident()
        self.tables.log.ingest = self.ingest
        self.tables.note_start()
        self.tables.log.write(GradMode(NONE, *grad_mode()))
        outermost = None if frame is None else frame.f_back
        self.modules.running.outermost = self.tables.log.boundary = outermost
        for collector in self.collectors:
            collector.resume() if self.started_ns else collector.start()
        _warning_lines.start(id(self))
        self.modules.install()
        if self._function_mode is not None:
            self._function_mode.put_on()
        self._interceptor.put_on()
        _open.sessions.append(id(self))
        _started_here.set(tuple(_open.sessions))
        self._entered_ns = perf_counter_ns()
        self.started_ns = self.started_ns or self._entered_ns

    def _resume(self) -> None:
        """Go on after a time in which nothing was watched."""
        self.failure = None
        self.ingest()
        if not self.tables.log.eager:
            self.tables.log.ingest_at = self.tables.log.op_count + event_log.FIRST
        self.tables.values.forget_all()
        with DisableTorchFunction():
            self.tables.parameters.measure()

    def join(self, rows: Mapping[int, int]) -> None:
        """Take what was kept of rows for that of others, which are the same tensors."""
        for tell in self.tables.hooks.joined:
            tell(rows)

    def scaler_sites(self) -> frozenset[int]:
        """Return the call sites of what a `GradScaler` ran, if there is one."""
        with self.reading:
            self.ingest()
        contexts = self.tables.call_sites.contexts()
        return frozenset(place for place, found in enumerate(contexts) if found == "scaler")

    def can_stop(self) -> bool:
        """Whether this is the thread that it watches, the only one that can take modes off."""
        return self.tables.log.thread == get_ident()

    def stop(self, error: BaseException | None, trace_back: TracebackType | None) -> None:
        """End watching, whatever happened, and keep what is known of a failure.

        If this is interrupted, `finish` does what is left.
        """
        if self.is_on:
            self._error = error, trace_back
            self._was_interrupted = error is not None
            self._to_do = [self._let_go, *self._noting(), *self._undoing()]
            self.is_on = False
        try:
            self._go_on()
        except BaseException:
            self._was_interrupted = True
            raise

    def abandon(self) -> None:
        """End watching, if it has begun in any way, and do what is left to do."""
        self._was_interrupted = True
        if self.is_on:
            notes = self._noting() if self._entered_ns else ()
            self._to_do = [self._let_go, *notes, *self._undoing()]
            self.is_on = False
        self.finish()

    def finish(self) -> None:
        """Do what is left to do as the block is left; what cannot be done is left out."""
        try:
            self._go_on()
        except BaseException:
            self._was_interrupted = True
            del self._to_do[-1:]
            self.finish()
            raise

    def _go_on(self) -> None:
        while self._to_do:
            self._to_do[-1]()  # which may be done twice
            del self._to_do[-1:]

    def _undoing(self) -> tuple[Callable[[], None], ...]:
        """Return what puts torch back as it was, the first to be done last."""
        return (self._forget_watching, self.modules.remove, self._leave_warnings, self._leave_modes)

    def _noting(self) -> tuple[Callable[[], None], ...]:
        """Return what ends the record, once torch is as it was; the first to be done last."""
        return (self._note_failure, self._note_state, self.modules.end_runs, self._note_time)

    def _note_time(self) -> None:
        """Note how long it took, and count the ops: an interrupt may have come just before that."""
        if self._entered_ns:
            took = perf_counter_ns() - self._entered_ns
            self.duration_ns, self._entered_ns = self.duration_ns + took, 0
        self.tables.log.in_call = self.tables.log.inside_op = False
        if self._error[0] is not None:
            self.ingest()
            self.tables.log.op_count = self.tables.op_count

    def _leave_modes(self) -> None:
        self._put_back()
        self._interceptor.take_off()
        fused_kernels.stop()
        if self._function_mode is not None:
            self._function_mode.take_off()

    def _put_back(self) -> None:
        """Have torch functions be heard as before: an interrupt may come before that is done."""
        if self._was_interrupted:
            self._torch_function.__exit__()

    def _leave_warnings(self) -> None:
        _warning_lines.stop(id(self))

    def _forget_watching(self) -> None:
        """Take the session off the list of what watches this thread."""
        _open.sessions = [number for number in _open.sessions if number != id(self)]
        _started_here.set(tuple(_open.sessions))

    def _note_state(self) -> None:
        """Note what is there when the block ends, and what the model has by which name."""
        log_, tables = self.tables.log, self.tables
        self.modules.running.outermost = log_.boundary = None
        if not self.modules.is_bordered:  # what it gives is what is left of it
            alive = [live for live in log_.known.values() if live() is not None]
            takers = (
                collector for collector in self.collectors if isinstance(collector, NoteTaker)
            )
            kept = next((taker.take_written(alive) for taker in takers), None)
            log_.write(End(alive, kept))
        with DisableTorchFunction():  # a user's mode around the block is not to see it
            tables.parameters.measure()
            self.modules.look_again()
            for collector in self.collectors:
                collector.stop(tables.parameters.buffers(), log_.known.values())

    def _note_failure(self) -> None:
        error, trace_back = self._error
        if error is not None:
            self.failure = self._describe(error, trace_back, self.modules.innermost)

    def _let_go(self) -> None:
        """Let go of what would keep a trace that nobody has, and of the error, last of all."""
        self._put_back()
        self.tables.log.ingest = event_log.never
        self._error = None, None
        for mark in (self.tables.failed_ops, self.tables.failed_calls, self.tables.failed_runs):
            mark.forget()

    def _describe(
        self,
        error: BaseException,
        trace_back: TracebackType | None,
        still_running: int | None,
    ) -> Failure:
        tables = self.tables
        try:
            message = str(error)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 (it is the user's code, and its failure not ours)
            message = ""
        frames = (
            Frame(frame.f_code.co_filename, line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(trace_back)
        )
        own = [frame for frame in frames if not call_sites.is_internal(frame)]
        return Failure(
            exception=type(error).__name__,
            message=message,
            op=tables.failed_ops.of(error),
            layer_call=tables.failed_calls.of(error),
            module_call=tables.failed_runs.of(error) if still_running is None else still_running,
            frame=own[-1] if own else None,
        )
