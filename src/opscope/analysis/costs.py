"""What a program computes: floating-point operations by op, layer, module and part of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

from opscope import notation
from opscope.operators.flops.counting import flops_of, work_of
from opscope.operators.flops.formulas import Call, TensorForm
from opscope.records.columns.columns import Coded, Column
from opscope.records.columns.table import column, read_values
from opscope.records.ops import Op
from opscope.records.passes.layers import LayerPass
from opscope.records.passes.runs import is_within_itself
from opscope.records.recording import Recording
from opscope.records.sums.work import UNKNOWN, OpWork, PartWork, Unknown, Work
from opscope.records.values import Value
from opscope.waiting import Track, Waiting, silent, untracked


class Costs:
    """The floating-point operations of a recording: those of products, two for a multiply-add.

    What matrices, convolutions, attention and recurrent layers multiply is counted by the shapes that
    each op had, as torch's `FlopCounterMode` does; what takes each element by itself is counted
    apart, in elements. An op of which it is not known is in ``unknown``, and never 0.

    >>> import torch, opscope
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(3, 4)
    >>> with opscope.trace(model) as trace:
    ...     model(x).sum().backward()
    >>> trace.costs.forward.macs, trace.costs.backward.macs
    (24, 24)
    >>> trace.costs.modules["0"].forward
    Work(flops=48, elements=0, unknown=0)
    """

    def __init__(
        self, recording: Recording, passes: Sequence[LayerPass], waiting: Waiting = silent
    ) -> None:
        self._recording = recording
        self._passes = passes
        self._waiting = waiting

    @cached_property
    def ops(self) -> OpWork:
        """What each op computes."""
        with self._waiting("counting FLOPs") as track:
            return op_work(self._recording, track)

    @cached_property
    def parts(self) -> PartWork:
        """What all ops compute, by the part of a training step."""
        return PartWork.of(self.ops.by(_parts(self._recording)))

    @property
    def flops(self) -> int:
        """Floating-point operations of all that ran, as far as they are known."""
        return self.parts.total.flops

    @property
    def macs(self) -> int:
        """Multiply-adds: half of them."""
        return self.parts.total.macs

    @property
    def forward(self) -> Work:
        """What the forward computes."""
        return self.parts.forward

    @property
    def backward(self) -> Work:
        """What the autograd engine computes, without what it runs again."""
        return self.parts.backward

    @property
    def recomputed(self) -> Work:
        """What a checkpoint, or the backward of a custom function, runs again."""
        return self.parts.recomputed

    @property
    def optimizer(self) -> Work:
        """What the optimizer computes."""
        return self.parts.optimizer

    @property
    def other(self) -> Work:
        """What works on gradients or parameters outside of the two before."""
        return self.parts.other

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """The operators of which it is not known, that with the most time first."""
        return self.ops.unknown

    @cached_property
    def operators(self) -> dict[str, Work]:
        """What the ops of each operator compute, by its name: ``"aten.addmm.default"``."""
        return self.ops.by(column(self._recording.ops, "operator"))

    @cached_property
    def layers(self) -> dict[str, PartWork]:
        """What each pass of a layer computes, by its label, and in backward what runs for it."""
        ops = self._recording.ops
        calls, forward = column(ops, "layer_call"), column(ops, "forward_op")
        labels = {item.call: item.label for item in self._passes if item.call is not None}
        sums: dict[str, dict[str, list[int]]] = {}
        for op, (call, source, part) in enumerate(
            zip(calls, forward, _parts(self._recording), strict=True)
        ):
            label = labels.get(call if source is None else calls[source])
            if label is not None:
                self._add(sums.setdefault(label, {}), part, op)
        return {label: _part_work(sums.get(label, {})) for label in labels.values()}

    @cached_property
    def own(self) -> dict[str, PartWork]:
        """What each module computes itself, by address, without the modules that it calls."""
        sums: dict[str, dict[str, list[int]]] = {}
        for run, parts in enumerate(self._by_run):
            _merge(sums.setdefault(self._address(run), {}), parts)
        return {address: _part_work(parts) for address, parts in sums.items()}

    @cached_property
    def modules(self) -> dict[str, PartWork]:
        """What each module computes, by address, with all modules that it calls."""
        runs = self._recording.module_calls
        whole: list[dict[str, list[int]]] = [{} for _ in runs]
        for run in range(len(runs) - 1, -1, -1):
            _merge(whole[run], self._by_run[run])
            parent = runs[run].parent
            if parent is not None:
                _merge(whole[parent], whole[run])
        sums: dict[str, dict[str, list[int]]] = {}
        for run, parts in enumerate(whole):
            found = sums.setdefault(self._address(run), {})
            if not is_within_itself(self._recording, run):
                _merge(found, parts)
        return {address: _part_work(parts) for address, parts in sums.items()}

    @cached_property
    def _by_run(self) -> list[dict[str, list[int]]]:
        """By run of a module, the sums of the ops that ran in it and in no module below."""
        sums: list[dict[str, list[int]]] = [{} for _ in self._recording.module_calls]
        runs = column(self._recording.ops, "module_call")
        for op, (run, part) in enumerate(zip(runs, _parts(self._recording), strict=True)):
            if run is not None:
                self._add(sums[run], part, op)
        return sums

    def _add(self, sums: dict[str, list[int]], part: str, op: int) -> None:
        flops = self.ops.flops[op]
        known = sums.setdefault(part, [0, 0, 0])
        known[0] += max(flops, 0)
        known[1] += self.ops.elements[op]
        known[2] += flops == UNKNOWN

    def _address(self, run: int) -> str:
        return self._recording.modules[self._recording.module_calls[run].module].address

    def __str__(self) -> str:
        lines = [
            f"{part:<10}  {notation.amount(work.flops, work.unknown):>9} FLOPs"
            f"  {notation.amount(work.macs, work.unknown):>9} MACs"
            f"  {notation.amount(work.elements):>7} elements apart"
            for part, work in self.parts
        ]
        return notation.encodable("\n".join([*lines, " ".join(self.ops.known_kinds())]))

    def __repr__(self) -> str:
        total = self.parts.total
        return f"<opscope.Costs: {notation.amount(total.flops, total.unknown)} FLOPs>"


def op_work(recording: Recording, track: Track = untracked) -> OpWork:
    """Return what each op of a recording computes; ``track`` tracks the loop over them."""
    ops, values = recording.ops, recording.values
    operators, failures = column(ops, "operator"), column(ops, "failed")
    sizes = _sizes(values)
    kinds = {operator: work_of(operator) for operator in set(operators)}
    flops, elements = [0] * len(ops), [0] * len(ops)
    known: dict[Hashable, int | None] = {}
    given = zip(read_values(ops), column(ops, "outputs"), strict=True)
    every = track(range(len(ops)))
    for at, operator, failed, (reads, outputs) in zip(
        every, operators, failures, given, strict=True
    ):
        kind = kinds[operator]
        if failed or kind == "moves":
            continue
        if kind == "elementwise":
            near = [*reads, *(value for value in outputs if value is not None)]
            elements[at] = max(map(sizes.__getitem__, near), default=0)
        else:
            count = _flops(ops[at], recording, known)
            flops[at] = UNKNOWN if count is None else count
    return OpWork(flops, elements, len(kinds), *_unknown(recording, flops))


def _flops(op: Op, recording: Recording, known: dict[Hashable, int | None]) -> int | None:
    """Return the floating-point operations of an op; those of another with the same shapes again."""
    values = recording.values
    reads = tuple((read.argument, _form(values[read.value])) for read in op.reads)
    outputs = tuple(None if value is None else _form(values[value]) for value in op.outputs)
    packed = tuple(recording.parameters[number].shape for number in op.packed)
    key = op.operator, reads, outputs, packed, op.arguments
    try:
        return known[key]
    except KeyError:
        is_hashable = True
    except TypeError:
        is_hashable = False
    arguments = op.named_arguments(lambda value: _form(values[value]))
    found = flops_of(Call(op.operator, arguments, outputs, packed))
    if is_hashable:
        known[key] = found
    return found


def _form(value: Value) -> TensorForm:
    return TensorForm(value.shape, value.dtype, len(value.stride) == len(value.shape))


def _sizes(values: Sequence[Value]) -> Column[int]:
    """Return the number of elements of each value."""
    shapes = column(values, "shape")
    if isinstance(shapes, Coded):
        return Coded(shapes.codes, list(map(prod, shapes.values)))
    return list(map(prod, shapes))


def _unknown(recording: Recording, flops: Sequence[int]) -> tuple[tuple[Unknown, ...], float]:
    """Return the operators of which it is not known, and their share of the time."""
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    ops = recording.ops
    durations = column(ops, "duration_ns")
    for operator, count, time in zip(column(ops, "operator"), flops, durations, strict=True):
        if count == UNKNOWN:
            calls[operator] += 1
            times[operator] += time
    found = [Unknown(operator, calls[operator], time) for operator, time in times.most_common()]
    return tuple(found), sum(times.values()) / (sum(durations) or 1)


def _parts(recording: Recording) -> Iterator[str]:
    """Yield the part of a training step that each op is in."""
    phases, again = column(recording.ops, "phase"), column(recording.ops, "recomputed")
    return (
        "recomputed" if is_again else phase for phase, is_again in zip(phases, again, strict=True)
    )


def _merge(sums: dict[str, list[int]], others: Mapping[str, Sequence[int]]) -> None:
    for part, numbers in others.items():
        known: Any = sums.setdefault(part, [0, 0, 0])
        for place, number in enumerate(numbers):
            known[place] += number


def _part_work(sums: Mapping[str, Sequence[int]]) -> PartWork:
    return PartWork.of({part: Work(*numbers) for part, numbers in sums.items()})
