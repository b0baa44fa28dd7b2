"""The dispatch mode: every aten op becomes a row of the tape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from threading import get_ident
from time import perf_counter_ns
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from opscope.capture.operators import Plan, plan_of, unnested
from opscope.capture.tape import BACKWARD, FAILED, GRAD, INFERENCE, NONE, PACK_OP, Tape, TensorSlot
from opscope.capture.tracers import is_tracing

_Tensor = torch.Tensor
_NOT_TENSORS = frozenset({type(None), int, float, bool, complex})
_FEW = 512
_EMPTY: dict[str, Any] = {}
_ONE = TensorSlot()

_AccumulateGrad = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
_ENGINE = torch.autograd.graph._engine_run_backward.__code__

_graph_task = torch._C._current_graph_task_id
_autograd_node = torch._C._current_autograd_node
_sequence_nr = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
_function_modes = torch._C._len_torch_function_stack
_other_modes = torch._C._len_torch_dispatch_stack
_grad_enabled = torch.is_grad_enabled
_inference = torch.is_inference_mode_enabled


class Interceptor(TorchDispatchMode):
    """Records every operator that the dispatcher runs while it is entered."""

    supports_higher_order_operators = True

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape = tape
        self._plans: dict[int, Plan] = {}

    def writes_to(self, tape: Tape) -> bool:
        """Whether it is the one that writes this tape."""
        return self._tape is tape

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
        if plan.skip or (_other_modes() and is_tracing()):
            return plan.call(*args, **(kwargs or _EMPTY))
        tape = self._tape
        flags = 0
        if _graph_task() != -1:
            flags = BACKWARD
            place = self._note_node(sys._getframe().f_back)
        elif tape.layer == NONE:
            place = tape.place_of(sys._getframe(1))
        else:
            place = NONE
        if not _function_modes():
            return self._run(plan, plan.call, args, kwargs, place, flags)
        # A function mode is on, and reading `tensor.shape` would be a call that it sees.
        with torch._C.DisableTorchFunction():

            def call(*args: Any, **kwargs: Any) -> Any:
                # Other function modes see the op; our own must not take it for a call.
                layer = tape.layer
                tape.layer = tape.call_count if layer == NONE else layer
                try:
                    with torch._C._EnableTorchFunction():
                        return plan.call(*args, **kwargs)
                finally:
                    tape.layer = layer

            return self._run(plan, call, args, kwargs, place, flags)

    def _note_node(self, frame: FrameType | None) -> int:
        """Note which autograd node the engine runs; return the place of Python code in it.

        There is such code in hooks, custom functions and checkpoints.
        """
        tape = self._tape
        node = _autograd_node()
        if node is not None:
            kind, number, parameter = node.__class__, node._sequence_nr(), NONE
            if kind is _AccumulateGrad:
                number = NONE
                parameter = tape.parameters.number(node.variable)  # type: ignore[attr-defined]
            tape.nodes.extend((tape.op_count, kind, number, parameter))
        if get_ident() != tape.thread:  # each device has a thread of its own
            tape.threads[tape.op_count] = get_ident()
        if frame is None or frame.f_code is _ENGINE:
            return NONE
        engine: FrameType | None = frame
        while engine is not None and engine.f_code is not _ENGINE:
            engine = engine.f_back
        return tape.places.of(frame, engine, NONE, NONE)

    def _learn(self, func: Any) -> Plan:
        plan = plan_of(func)
        if plan.name == "aten.lift_fresh.default":
            plan = Plan(func)
            plan.call = self._lift
        elif plan.opaque:
            plan = Plan(func)
            plan.call = partial(self._run_whole, func)
        self._plans[id(func)] = plan
        return plan

    def _run_whole(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a higher-order operator, whose subgraphs are modules that torch made."""
        tape = self._tape
        hidden, tape.hidden = tape.hidden, True
        try:
            return func(*args, **kwargs)
        finally:
            tape.hidden = hidden

    def _lift(self, number: torch.Tensor) -> torch.Tensor:
        """Run `lift_fresh`, keeping what `torch.tensor` made of a few Python numbers.

        Nothing else holds such a constant, and the program cannot be run again without it.
        """
        if number.numel() <= _FEW:
            with torch._C._DisableTorchDispatch():
                self._tape.values.constants[self._tape.reads[-1]] = number.detach().clone()
        lifted: torch.Tensor = torch.ops.aten.lift_fresh.default(number)
        return lifted

    def _run(
        self,
        plan: Plan,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        place: int,
        flags: int,
    ) -> Any:
        tape = self._tape
        slots = plan.positional.get(len(args)) or plan.slots(len(args))
        constants = slots.constants(args)
        reads, seen = tape.reads, tape.values.seen
        for tensor in slots.tensors(args):
            if tensor.__class__ in _NOT_TENSORS:
                if tensor is not None:
                    tape.numbers[len(reads)] = tensor
                reads.append(NONE)
            else:
                reads.append(seen(tensor))
        if slots.lists:
            constants += self._read_lists(slots.lists, args)
        if plan.opaque:
            numbered = {f"arg{i}": item for i, item in enumerate(args)}
            named: dict[str, Any] | None = self._read_named(numbered | (kwargs or {}))
        else:
            named = self._read_named(kwargs) if kwargs else None
        sequence = _sequence_nr()
        if _grad_enabled():
            flags |= GRAD
        if _inference():
            flags |= INFERENCE
        if tape.watches:
            self._prepare(plan, args, kwargs)
        result = None
        started = perf_counter_ns()
        try:
            result = call(*args, **kwargs) if kwargs else call(*args)
        except BaseException as error:
            flags |= FAILED
            tape.failed_ops.note(error, tape.op_count)
            raise
        finally:
            ended = perf_counter_ns()
            if result is not None or plan.writes:
                self._keep_results(plan, args, kwargs, result, flags)
            tape.ops += (slots, constants, named)
            tape.op_numbers += PACK_OP(
                tape.layer, tape.module, place, flags, len(reads), len(tape.made),
                len(tape.wrote), sequence, started, ended,
            )  # fmt: skip
            tape.op_count += 1
        if tape.finite is not None:
            bad = tape.finite.after(plan, args, kwargs or _EMPTY, result)
            if bad is not None:
                bad.op = tape.op_count - 1
                tape.failed_ops.note(bad, bad.op)
                raise bad
        return result

    def _prepare(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        """Look at what an op is about to change, as far as that is wanted."""
        tape = self._tape
        # Autograd detaches what a node keeps before the node is whole.
        if tape.returned is not None and plan.name != "aten.detach.default":
            tape.returned.flush()
        if tape.payloads is not None and plan.writes:
            tape.payloads.before_write(plan.written(args, kwargs))
        if plan.draws and tape.values.originals is not None:
            tape.values.originals.keep_draw(tape.op_count)
        if tape.finite is not None:
            tape.finite.before(plan, args, kwargs or _EMPTY)

    def _keep_results(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        result: Any,
        flags: int,
    ) -> None:
        tape = self._tape
        op, made = tape.op_count, tape.values.made
        payloads, returned = tape.payloads, tape.returned
        if tape.layer != NONE:  # the layer's call keeps what it returns
            returned = None
            if payloads is not None and not payloads.every_op:
                payloads = None
        if flags & BACKWARD:
            returned = None
        if plan.writes and not flags & FAILED:
            for tensor in plan.written(args, kwargs):
                row = made(tensor, op, written=True)
                tape.wrote.append(row)
                if payloads is not None:
                    payloads.keep(tensor, row)
                if returned is not None:
                    returned.wait(tensor, row)
        for output in (result,) if isinstance(result, _Tensor) else _flat(result):
            row = NONE if output is None else made(output, op)
            tape.made.append(row)
            if output is None:
                continue
            if payloads is not None:
                payloads.keep(output, row)
            if returned is not None:
                returned.wait(output, row)

    def _read_lists(self, lists: Any, args: tuple[Any, ...]) -> tuple[int | None, ...]:
        """Read the lists of tensors among the arguments; return their lengths."""
        reads, seen = self._tape.reads, self._tape.values.seen
        lengths = []
        for position, _ in lists:
            items = unnested(args[position])
            lengths.append(None if items is None else len(items))
            reads.extend(NONE if tensor is None else seen(tensor) for tensor in items or ())
        return tuple(lengths)

    def _read_named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Read the tensors among the named arguments; return the rest with slots for them."""
        reads, seen = self._tape.reads, self._tape.values.seen
        named: dict[str, Any] = {}
        for name, value in kwargs.items():
            if isinstance(value, _Tensor):
                reads.append(seen(value))
                named[name] = _ONE
            elif isinstance(value, (list, tuple)) and any(isinstance(v, _Tensor) for v in value):
                reads.extend(seen(v) if isinstance(v, _Tensor) else NONE for v in value)
                named[name] = TensorSlot(len(value))
            elif callable(value) and not isinstance(value, (torch.dtype, torch.device)):
                named[name] = getattr(value, "__name__", type(value).__name__)
            else:
                named[name] = value
        return named


def _flat(result: Any) -> Iterator[torch.Tensor | None]:
    """Yield the tensors of an op's result, None for each absent one."""
    if isinstance(result, (tuple, list)):
        for item in result:
            if item is None or isinstance(item, _Tensor):
                yield item
            else:
                yield from _flat(item)
