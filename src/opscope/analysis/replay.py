"""Running a record again, and comparing every value with what it was, bit for bit.

The ops run in the recorded order, below autograd, in the recorded grad mode, on copies of
all that came from outside, from the recorded state of the random number generators. Each
value is compared as soon as its op has run, before a later one overwrites it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from opscope.analysis.report import Difference, Report
from opscope.analysis.sameness import can_compare, can_fill, layout_problem, what_differs
from opscope.capture.unchanged.outside import set_generators
from opscope.operators.known import InWords, is_collective, is_scratch, is_uninitialised
from opscope.operators.plans import Plan, overload, plan_of, results
from opscope.records.flow.ends import loose_ends
from opscope.records.ops import Op
from opscope.records.recording import Recording
from opscope.records.values import Value, each_before_writes
from opscope.torch_api import (
    AutoDispatchBelowAutograd,
    DisableTorchFunction,
)
from opscope.waiting import Track, untracked

if TYPE_CHECKING:
    from opscope.capture.collect.kept.replay_inputs import StartsReplay

Saved = Callable[[int], torch.Tensor | None]


def replay(
    recording: Recording,
    replay_inputs: StartsReplay,
    saved: Saved,
    labels: dict[int, str],
    track: Track = untracked,
) -> Report:
    """Run a record again and compare.

    Args:
        recording: What happened.
        replay_inputs: Copies of what came from outside.
        saved: Gives what a value was, None where it was not saved.
        labels: The layers' labels by the index of their call.
        track: Hands on the ops as they run again, to one who waits for them.
    """
    run = _Replay(recording, replay_inputs, saved, labels)
    with _as_recorded(replay_inputs):
        return run.report(track(recording.ops))


@contextmanager
def _as_recorded(replay_inputs: StartsReplay) -> Iterator[None]:
    """Below autograd and classes of the user's, with the recorded random state; put back after."""
    names = {"cpu"}.union(replay_inputs.generators, *replay_inputs.draws.values()) - {"cpu"}
    devices = [int(name.split(":")[1]) for name in names]
    with (
        torch.random.fork_rng(devices),
        AutoDispatchBelowAutograd(),
        DisableTorchFunction(),
    ):
        set_generators(replay_inputs.generators)
        yield


class _Stop(Exception):
    """Ends a replay early."""

    def __init__(self, op: Op, reason: str) -> None:
        super().__init__(reason)
        self.op = op


class _Replay:
    def __init__(
        self,
        recording: Recording,
        replay_inputs: StartsReplay,
        saved: Saved,
        labels: dict[int, str],
    ) -> None:
        self.recording = recording
        self.replay_inputs = replay_inputs
        self.saved = saved
        self.labels = labels
        self.tensors: dict[int, torch.Tensor] = {}
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.ops = self.compared = self.uninitialised = self.lost = 0
        self.equal: set[int] = set()
        # Storages on which tensors turn up that no op returned, as autograd's saved ones do.
        self.rewritten = _rewritten(recording)
        self.turn_up = {v.storage for v in recording.values if v.origin == "outside"} - {None}
        self.before_writes = each_before_writes(recording.values)
        self.last_use = _last_use(recording, self.before_writes)
        self.plans: dict[str, Plan] = {}

    def report(self, ops: Iterable[Op]) -> Report:
        calls = iter([call for call in self.recording.layer_calls if not call.ops])
        call = next(calls, None)
        difference = refused = None
        try:
            for op in ops:
                while call is not None and call.ops.start <= op.index:
                    self._pass_through(call.received, call.returned)
                    call = next(calls, None)
                if not op.failed:
                    self._run(op)
            while call is not None:
                self._pass_through(call.received, call.returned)
                call = next(calls, None)
        except _Stop as stop:
            difference = self._difference(stop.op, str(stop))
        except _Refusal as refusal:
            refused = str(refusal)
        roots = [run for run in self.recording.module_calls if run.is_root]
        outputs = {leaf.value for run in roots for leaf in run.outputs}
        outputs.update(loose_ends(self.recording))
        return Report(
            ops=self.ops,
            compared=self.compared,
            uninitialised=self.uninitialised,
            lost=self.lost,
            outputs=len(outputs & self.equal),
            difference=difference,
            refused=refused,
        )

    def _pass_through(self, received: tuple[int, ...], returned: tuple[int, ...]) -> None:
        for old, new in zip(received, returned, strict=True):
            self.tensors[new] = self._tensor(old)
            if old in self.equal:
                self.equal.add(new)

    def _run(self, op: Op) -> None:
        plan = self.plans.get(op.operator) or self._plan(op)
        for read in op.reads:
            value = self.before_writes[read.value]
            if value.index not in self.tensors and value.origin != "outside":
                raise _Stop(op, f"it reads value {read.value}, which nothing made before it")
        arguments = self._arguments(op, plan)
        required = arguments.pop("self", None) if "self" in plan.arguments else None
        args = (required,) if plan.arguments[:1] == ("self",) else ()
        if required is not None and not args:
            arguments["self"] = required
        if op.index in self.replay_inputs.draws:
            set_generators(self.replay_inputs.draws[op.index])
        try:
            with _in_mode(op):
                result = plan.func(*args, **arguments)
        except Exception as error:
            reason = f"the op raised {type(error).__name__}: {error}"
            raise _Stop(op, reason) from error
        self.ops += 1
        written = plan.written(args, arguments)
        flat = list(results(result))
        if len(written) != len(op.writes) or len(flat) != len(op.outputs):
            reason = (
                f"it wrote {len(written)} and returned {len(flat)} tensors, "
                f"where {len(op.writes)} and {len(op.outputs)} were recorded"
            )
            raise _Stop(op, reason)
        made = dict(zip(op.writes, written, strict=True)) | dict(zip(op.outputs, flat, strict=True))
        outputs = {index: output for output, index in enumerate(op.outputs)}
        for index, tensor in made.items():
            if index is not None and tensor is not None:
                self._ingest(op, index, outputs.get(index), tensor)
        for index in self.rewritten.get(op.index, ()):
            self._check(op, index)
        for index in self.last_use.get(op.index, ()):
            self.tensors.pop(index, None)

    def _plan(self, op: Op) -> Plan:
        """Return how an operator reads its arguments, once for all of its ops."""
        func = overload(op.operator)
        if func is None:
            raise _Refusal(_name(op), "is no operator overload")
        if is_collective(op.operator):
            raise _Refusal(_name(op), "is a collective, which other processes take part in")
        plan = self.plans[op.operator] = plan_of(func)
        return plan

    def _ingest(self, op: Op, index: int, output: int | None, tensor: torch.Tensor) -> None:
        """Take a value as computed, an output or what was written, and compare it with what it was."""
        known = self.tensors.get(index)
        if known is None:
            self.tensors[index] = tensor
        storage = self.recording.values[index].storage
        if storage is not None and storage in self.turn_up:
            self.storages.setdefault(storage, tensor.untyped_storage())
        expected = self.saved(index)
        if is_uninitialised(op.operator) or is_scratch(op.operator, output):
            self.uninitialised += 1
            if expected is not None and can_fill(expected, tensor):
                with torch.inference_mode(op.inference):
                    tensor.copy_(expected)  # views of it show what lay there, until it is written
            return
        problem = layout_problem(self.recording.values[index], tensor)
        if problem is None and expected is None:
            self.lost += 1
            return
        if problem is None and expected is not None:
            if not can_compare(tensor):
                kind = type(tensor).__name__
                raise _Refusal(_name(op), f"gave a {kind}, which cannot be taken apart")
            problem = what_differs(expected, tensor)
        if problem is not None:
            raise _Stop(op, problem)
        self.compared += 1
        self.equal.add(index)

    def _check(self, op: Op, index: int) -> None:
        """Compare a tensor that was written through another with what it was then, if known."""
        expected, tensor = self.saved(index), self._tensor(index)
        if expected is None or not can_compare(tensor):
            return
        problem = what_differs(expected, tensor)
        if problem is not None:
            raise _Stop(op, problem)
        self.compared += 1
        self.equal.add(index)

    def _arguments(self, op: Op, plan: Plan) -> dict[str, Any]:
        """Return an op's arguments by name, its tensors as replayed."""
        if any(isinstance(item, torch.Generator) for _, item in op.arguments):
            raise _Refusal(_name(op), "draws from a generator of its own")
        found: dict[str, Any] = op.named_arguments(self._tensor)
        found.update(self.replay_inputs.objects.get(op.index, {}))
        unkept = next((item for item in found.values() if isinstance(item, InWords)), None)
        if unkept is not None:
            raise _Refusal(_name(op), f"takes a {unkept}, an object of C++ that was not kept")
        return {name: found[name] for name in plan.arguments if name in found} | found

    def _tensor(self, index: int) -> torch.Tensor:
        """Return a value; make it again from the replay inputs if it came from outside."""
        value = self.before_writes[index]
        if value.index not in self.tensors:
            self.tensors[value.index] = self._original(value)
        return self.tensors[value.index]

    def _original(self, value: Value) -> torch.Tensor:
        kept = self.replay_inputs.tensors.get(value.index)
        if kept is not None:
            return kept.clone()
        if value.storage is None:
            raise _Refusal(_value(value), "came from outside and was not kept")
        storage = self.storages.get(value.storage)
        if storage is None:
            kept_storage = self.replay_inputs.storages.get(value.storage)
            if kept_storage is None:
                raise _Refusal(_value(value), "came from outside and was not kept")
            storage = self.storages[value.storage] = kept_storage.clone()
        empty = torch.empty(0, dtype=getattr(torch, value.dtype), device=value.device)
        return empty.set_(storage, value.offset, value.shape, value.stride)

    def _difference(self, op: Op, reason: str) -> Difference:
        recording = self.recording
        call, frames = recording.call_of(op), recording.frames_of(op)
        module = None if op.module_call is None else recording.module_calls[op.module_call].module
        return Difference(
            op=op.index,
            operator=op.operator,
            layer=None if call is None else self.labels.get(call),
            module=None if module is None else recording.modules[module].address,
            source=str(frames[0]) if frames else None,
            reason=reason,
        )


def _in_mode(op: Op) -> AbstractContextManager[object]:
    """Return the grad mode of an op."""
    inference, grad = op.inference, op.grad_enabled
    if torch.is_inference_mode_enabled() is inference and torch.is_grad_enabled() is grad:
        return _AS_IT_IS  # nearly always, and to set it takes as long as a small op
    return _in_other_mode(inference, grad)


@contextmanager
def _in_other_mode(inference: bool, grad: bool) -> Iterator[None]:
    # In this order: leaving inference mode turns grad mode on.
    with torch.inference_mode(inference), torch.set_grad_enabled(grad):
        yield


_AS_IT_IS = nullcontext()


def _rewritten(recording: Recording) -> dict[int, list[int]]:
    """Return, per op, the values that came to be as it wrote some of their bytes."""
    found: dict[int, list[int]] = {}
    for value in recording.values:
        if value.origin == "rewritten" and value.made_by is not None:
            found.setdefault(value.made_by, []).append(value.index)
    return found


def _last_use(recording: Recording, tensors: list[Value]) -> dict[int, list[int]]:
    """Return, per op, the values that nothing needs after it; see `each_before_writes`."""
    last: dict[int, int] = {}
    for op in recording.ops:
        for read in op.reads:
            last[tensors[read.value].index] = op.index
        for index in (*op.writes, *op.outputs):
            if index is not None:
                last[index] = op.index
    for op_index, values in _rewritten(recording).items():
        for value in values:
            index = tensors[value].index
            last[index] = max(last.get(index, op_index), op_index)
    for call in recording.layer_calls:
        for received, returned in zip(call.received, call.returned, strict=False):
            if not call.ops:  # passed through: there is one tensor behind both
                given = tensors[received].index
                last[given] = last[returned] = len(recording.ops)
    result: dict[int, list[int]] = {}
    for index, end in last.items():
        result.setdefault(end, []).append(index)
    return result


class _Refusal(Exception):
    """Says why a record cannot be replayed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


def _value(value: Value) -> str:
    return f"value {value.index}"


def _name(op: Op) -> str:
    return f"op {op.index}, {op.operator},"
