"""The dispatch mode: every aten op becomes a row of the log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any
from weakref import ref

import torch

from opscope.capture.log.events import Chain
from opscope.capture.log.hooks import RunningOp, first_error
from opscope.capture.log.snapshots import ABSENT
from opscope.capture.tables.rows import BACKWARD, FAILED, GRAD, IN_CALL, INFERENCE, TensorSlot
from opscope.capture.tables.tables import Tables
from opscope.capture.unchanged.stacks import OnDispatchStack
from opscope.capture.unchanged.tracers import is_tracing
from opscope.capture.watch.engine import note_node
from opscope.operators.known import DETACH, LIFT
from opscope.operators.plans import Plan, Slots, described, plan_of, results, unnested
from opscope.torch_api import (
    AD_IN_PLACE_OR_VIEW,
    DisableTorchDispatch,
    DisableTorchFunction,
    EnableTorchFunction,
    TorchDispatchMode,
    count_dispatch_modes,
    count_function_modes,
    current_graph_task,
    is_key_excluded,
    next_sequence_number,
)

_Tensor = torch.Tensor
_FEW = 512
_EMPTY: dict[str, Any] = {}
_ONE = TensorSlot()
# What an op made and wrote that did not return, and what is noted of that.
_NOTHING: tuple[Sequence[Any], Sequence[Any], Sequence[Any] | None] = ((), (), None)

_grad_enabled = torch.is_grad_enabled
_inference = torch.is_inference_mode_enabled


class Interceptor(TorchDispatchMode):
    """Records every operator that the dispatcher runs while it is entered."""

    supports_higher_order_operators = True

    def __init__(self, tables: Tables) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_stack: OnDispatchStack | None = None
        self._tables = tables
        self._log = tables.log
        self._plans: dict[int, Plan] = {}

    def writes_to(self, tables: Tables) -> bool:
        """Whether it is the one that writes this tables."""
        return self._tables is tables

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave torch.compile alone while it compiles."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The default wraps the handler in torch._dynamo.disable: an import of 1.4 s at
        # the first op, and 0.6 to 0.9 µs at each. See _keep_dynamo_out.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        plan = self._plans.get(id(func))
        if plan is None:
            plan = self._learn(func)
        if plan.skip or (count_dispatch_modes() and is_tracing()):
            return plan.call(*args, **(kwargs or _EMPTY))
        log = self._log
        flags, chain = 0, None
        if log.in_call:
            flags = IN_CALL
        if current_graph_task() != -1:
            flags |= BACKWARD
            chain = note_node(self._tables, sys._getframe().f_back)
        elif not flags:
            chain = log.chain(sys._getframe(1))
        if _grad_enabled():
            flags |= GRAD
        elif _inference():
            flags |= INFERENCE
        if not count_function_modes():
            return self._run(plan, plan.call, args, kwargs, chain, flags)
        # A function mode is on, and reading `tensor.shape` would be a call that it sees.
        with DisableTorchFunction():

            def call(*args: Any, **kwargs: Any) -> Any:
                # Other function modes see the op; our own must not take it for a call.
                in_call, log.in_call = log.in_call, True
                try:
                    with EnableTorchFunction():
                        return plan.call(*args, **kwargs)
                finally:
                    log.in_call = in_call

            return self._run(plan, call, args, kwargs, chain, flags)

    def _learn(self, func: Any) -> Plan:
        plan = plan_of(func)
        if plan.name == LIFT:
            plan = Plan(func)
            plan.call = self._lift
        elif plan.name == DETACH:
            plan = Plan(func)
            plan.call = self._detach
        self._plans[id(func)] = plan
        return plan

    def _lift(self, number: torch.Tensor) -> torch.Tensor:
        """Run `lift_fresh`, keeping what `torch.tensor` made of a few Python numbers.

        Nothing else holds such a constant, and the program cannot be run again without it.
        """
        if number.numel() <= _FEW:
            with DisableTorchDispatch():
                self._log.constants[self._log.op_count] = number.detach().clone()
        lifted: torch.Tensor = torch.ops.aten.lift_fresh.default(number)
        return lifted

    def _detach(self, tensor: torch.Tensor) -> torch.Tensor:
        """Run `detach`, and note it where autograd does so to keep a tensor for itself."""
        if not is_key_excluded(AD_IN_PLACE_OR_VIEW):
            self._tables.own_detaches.append(self._log.op_count)
        detached: torch.Tensor = torch.ops.aten.detach.default(tensor)
        return detached

    def _run(
        self,
        plan: Plan,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        chain: Chain | None,
        flags: int,
    ) -> Any:
        log = self._log
        slots = plan.positional.get(len(args)) or plan.slots(len(args))
        reads = self._read_tensors(slots, args)
        constants = () if slots.constants is None else slots.constants(args)
        if slots.lists:
            constants += self._read_lists(slots.lists, args, reads)
        if plan.opaque:
            numbered = {f"arg{i}": item for i, item in enumerate(args)}
            named: dict[str, Any] | None = self._read_named(numbered | (kwargs or {}), reads)
        else:
            named = self._read_named(kwargs, reads, plan.objects) if kwargs else None
        op = self._prepare(plan, args, kwargs, chain) if log.has_before_op else None
        sequence = next_sequence_number()
        made, wrote, notes = _NOTHING
        started = ended = perf_counter_ns()
        try:
            log.inside_op = True
            result = call(*args, **kwargs) if kwargs else call(*args)
            ended = perf_counter_ns()
            if result.__class__ is _Tensor and not plan.writes and log.keep is None:
                made = log.note(result)  # nearly always
            else:
                made, wrote, notes = self._results(plan, args, kwargs, result, chain, flags)
        except BaseException as error:
            flags |= FAILED
            ended = perf_counter_ns()
            self._tables.failed_ops.note(error, log.op_count)
            raise
        finally:
            log.inside_op = False
            log.ops += (
                slots, constants, named, chain, log.run, flags, sequence, started, ended,
                notes, len(reads), len(made), len(wrote), *reads, *made, *wrote,
            )  # fmt: skip
            log.op_count += 1
            if log.op_count >= log.ingest_at:
                log.ingest()
        if op is not None:
            self._look_back(op, result)
        return result

    def _read_tensors(self, slots: Slots, args: tuple[Any, ...]) -> list[Any]:
        """Return what the log says of the tensors among the arguments."""
        log = self._log
        known, sees_assignments = log.known, log.sees_assignments
        reads: list[Any] = []
        for position in slots.tensors:
            tensor = args[position]
            if tensor is None:
                reads.append(None)
                continue
            try:
                live = ref(tensor)
            except TypeError:  # a number, which may stand for a tensor
                reads.append(tensor)
                continue
            reads.append(live if sees_assignments and id(live) in known else log.read(tensor))
        return reads

    def _prepare(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        chain: Chain | None,
    ) -> RunningOp | None:
        """Have collectors look at an op that is about to run, and return it if they also do after."""
        hooks, op = self._tables.hooks, None
        if hooks.before_op or hooks.after_op:
            op = RunningOp(plan, args, kwargs or _EMPTY, chain=chain)
            bad = first_error(look_at(op) for look_at in hooks.before_op)
            if bad is not None:
                raise bad
        if plan.writes:
            for look_at in hooks.before_write:
                look_at(plan.written(args, kwargs))
        return op

    def _look_back(self, op: RunningOp, result: Any) -> None:
        """Have collectors look at an op that returned."""
        op.result = result
        bad = first_error(look_at(op) for look_at in self._tables.hooks.after_op)
        if bad is not None:
            self._tables.failed_ops.note(bad, self._log.op_count - 1)
            raise bad

    def _results(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        result: Any,
        chain: Chain | None,
        flags: int,
    ) -> tuple[list[Any], list[Any], Sequence[Any] | None]:
        """Return the snapshots of what an op made and wrote, and what is saved of that."""
        note = self._log.note
        written = plan.written(args, kwargs) if plan.writes else ()
        made: list[Any] = []
        wrote: list[Any] = []
        for tensor in written:
            snapshot = note(tensor)
            wrote += snapshot
            if self._log.in_call:
                self._log.written += (self._log.op_count, snapshot[0], snapshot[1])
        for one in results(result):
            made += ABSENT if one is None else note(one)
        return made, wrote, self._keep(written, result, chain, flags)

    def _keep(
        self, written: Sequence[torch.Tensor], result: Any, chain: Chain | None, flags: int
    ) -> list[Any] | None:
        """Make notes of what an op wrote and returned, where no layer call does."""
        log, keep = self._log, self._log.keep
        if keep is None:
            return None
        # The layer's call keeps what it returns; and what the engine itself runs is no layer.
        is_no_layer = flags & IN_CALL or (flags & BACKWARD and chain is None)
        if is_no_layer and not log.keeps_every_op:
            return None
        known = {id(tensor) for tensor in written}
        return [keep(tensor) for tensor in written] + [
            None if one is None or id(one) in known else keep(one) for one in results(result)
        ]

    def _read_lists(
        self, lists: Any, args: tuple[Any, ...], reads: list[Any]
    ) -> tuple[int | None, ...]:
        """Read the lists of tensors among the arguments; return their lengths."""
        read = self._log.read
        lengths = []
        for position, _ in lists:
            items = unnested(args[position])
            lengths.append(None if items is None else len(items))
            reads += [None if tensor is None else read(tensor) for tensor in items or ()]
        return tuple(lengths)

    def _read_named(
        self, kwargs: dict[str, Any], reads: list[Any], objects: frozenset[int] = frozenset()
    ) -> dict[str, Any]:
        """Read the tensors among the named arguments; return the rest with slots for them."""
        read = self._log.read
        named: dict[str, Any] = {}
        for name, value in kwargs.items():
            if isinstance(value, _Tensor):
                reads.append(read(value))
                named[name] = _ONE
            elif isinstance(value, (list, tuple)) and any(isinstance(v, _Tensor) for v in value):
                reads += [read(v) if isinstance(v, _Tensor) else None for v in value]
                named[name] = TensorSlot(len(value))
            elif callable(value) and not isinstance(value, (torch.dtype, torch.device)):
                named[name] = getattr(value, "__name__", type(value).__name__)
            else:
                named[name] = value
        if objects:
            return {name: described(value) for name, value in named.items()}
        return named
