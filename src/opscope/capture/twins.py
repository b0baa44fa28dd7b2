"""Which op each one that runs again repeats, or goes with. The rules are in `reruns`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from opscope.capture.identity import NO_STORAGE
from opscope.capture.pairing import paired
from opscope.capture.spans import Span, Spans
from opscope.capture.tape import BACKWARD, NONE, ModuleRun, OpRow, Tape

_FEW_RUNS = 8
# Autograd adds these where it records, and a checkpoint where it keeps what is saved.
_NO_STEP = "aten.detach.default"


class _Key(NamedTuple):
    """What an op has in common with one that repeats it.

    Attributes:
        operator: Its ``id``.
        module: The innermost module that runs, NONE for none.
        parameters: The parameters and buffers that it reads.
    """

    operator: int
    module: int
    parameters: frozenset[int]

    @property
    def is_particular(self) -> bool:
        """Whether it tells layers apart, wherever they are."""
        return self.module != NONE or bool(self.parameters)

    @property
    def bare(self) -> _Key:
        """The operator alone."""
        return _Key(self.operator, NONE, frozenset())


class Twins:
    """Finds them among all ops.

    Args:
        tape: What was recorded.
        rows: Its ops.
        spans: Which of them ran in one call of a checkpoint or custom function.
    """

    def __init__(self, tape: Tape, rows: Sequence[OpRow], spans: Spans) -> None:
        self._tape = tape
        self._rows = rows
        self._spans = spans
        self._runs = tape.backward_run_of

    def repeated(self, again: Iterable[int], span: Span | None, left: int | None) -> dict[int, int]:
        """Return what ops repeat of a span, and of the last runs of the modules that run them.

        Args:
            again: The ops, in order.
            span: What they can repeat, if that is known.
            left: The op at which what they most likely repeat has ended, if that is known.
        """
        steps = {op: self._again_key(op) for op in again if self._is_step(op)}
        start = min(steps, default=0)
        found: dict[int, int] = {}
        if span is not None:
            once = {
                op: self._key(op, self._module_in(span, op))
                for op in span.ops
                if self._is_step(op) and self._is_of(span, op)
            }
            found = self._in_order(steps, once, left)
            found |= self._by_key(_without(steps, found), once, found)
            found |= self._loosely(steps, once, found)
        others = {op: key for op, key in _without(steps, found).items() if op in self._runs}
        if others:
            once = {op: self._key(op, self._module(op)) for op in self._in_last_runs(others, start)}
            found |= self._in_order(others, once, None)
            found |= self._by_key(_without(others, found), once, found)
        return found

    def all_of(
        self, again: Sequence[int], found: Mapping[int, int], *, of_checkpoint: bool
    ) -> dict[int, int]:
        """Return what all ops go with, also those that repeat none, as far as there is any.

        Args:
            again: The ops, in order.
            found: What those repeat that repeat one.
            of_checkpoint: Whether any of them belongs to what is next to it.
        """
        twins = {op: found[op] for op in again if op in found}
        if len(twins) < len(again):
            near = _Near(self, again, found)
            for place, op in enumerate(again):
                if op not in found:
                    twin = self._without(place, op, again[0], near)
                    if twin is None and of_checkpoint:
                        twin = near.any(place)
                    if twin is not None:
                        twins[op] = twin
        return twins

    def reads(self, op: int) -> list[int]:
        """Return the values that an op read."""
        start = self._rows[op - 1].reads_end if op else 0
        values, source = (
            self._tape.reads[start : self._rows[op].reads_end],
            self._tape.values.source,
        )
        return [source(value) for value in values if value != NONE]

    # ------------------------------------------------------------------ in order, or not

    def _in_order(
        self, steps: Mapping[int, _Key], once: Mapping[int, _Key], left: int | None
    ) -> dict[int, int]:
        found: dict[int, int] = {}
        if left is not None:
            found = self._paired(steps, {op: key for op, key in once.items() if op < left})
        if len(found) < len(steps):
            all_of_it = self._paired(steps, once)
            found = all_of_it if len(all_of_it) > len(found) else found
        return found

    def _loosely(
        self, steps: Mapping[int, _Key], once: Mapping[int, _Key], found: Mapping[int, int]
    ) -> dict[int, int]:
        """Pair what is left on both sides by operator and order alone.

        A parameter may be read as a copy of another type, and what a module ran before may now
        be run by another, or by a function.
        """
        if len(found) == len(steps):
            return {}
        modules = {key.module for key in once.values()}
        taken = set(found.values())
        pairs = self._paired(
            {op: key.bare for op, key in steps.items()}, {op: key.bare for op, key in once.items()}
        )
        return {
            op: twin
            for op, twin in pairs.items()
            if op not in found
            and twin not in taken
            and steps[op] != once[twin]
            and (steps[op].module in {NONE, once[twin].module} or steps[op].module not in modules)
            and not (steps[op].parameters and once[twin].parameters - steps[op].parameters)
        }

    def _paired(self, steps: Mapping[int, _Key], once: Mapping[int, _Key]) -> dict[int, int]:
        if not steps or not once:
            return {}
        ops, before = list(steps), list(once)
        pairs = paired(list(steps.values()), list(once.values()), self._anchor(steps, once))
        return {ops[a]: before[b] for a, b in pairs.items()}

    def _anchor(
        self, steps: Mapping[int, _Key], once: Mapping[int, _Key]
    ) -> tuple[int, int] | None:
        """Return a pair of places where both read the same tensors, if that tells passes apart."""
        counts = Counter(once.values())
        places: dict[Any, list[int]] = {}
        for place, (op, key) in enumerate(once.items()):
            if counts[key] > 1:
                for tensor in self._tensors(op):
                    places.setdefault((key, tensor), []).append(place)
        best: tuple[int, int] | None = None
        for place, (op, key) in enumerate(steps.items()):
            if counts[key] < 2:
                continue
            shared = Counter(at for t in self._tensors(op) for at in places.get((key, t), ()))
            most = max(shared.values(), default=0)
            nearest = [at for at, count in shared.items() if count == most]
            if len(nearest) == 1:
                return place, nearest[0]
            if nearest and best is None:
                best = place, max(nearest)
        return best

    def _by_key(
        self, steps: Mapping[int, _Key], once: Mapping[int, _Key], taken: Mapping[int, int]
    ) -> dict[int, int]:
        """Pair what is out of order, or runs more often than before, where keys are enough."""
        used = set(taken.values())
        places: dict[_Key, list[int]] = {}
        free: dict[_Key, list[int]] = {}
        for op, key in once.items():
            places.setdefault(key, []).append(op)
            if op not in used:
                free.setdefault(key, []).append(op)
        found: dict[int, int] = {}
        counts: Counter[_Key] = Counter()
        for op, key in steps.items():
            if key.is_particular and key in places:
                of_key = free.get(key, places[key])
                found[op] = of_key[counts[key] % len(of_key)]
                counts[key] += 1
        return found

    # ------------------------------------------------------------- what repeats none

    def _without(self, place: int, op: int, start: int, near: _Near) -> int | None:
        """Return what an op goes with that repeats none."""
        key = self._again_key(op)
        names: list[Any] = []
        if key.parameters and self._is_step(op):
            names = [key, key._replace(module=NONE), *sorted(key.parameters)]
        runs = self.runs_around(op)
        twin = near.in_call(place)
        if twin is None and runs:
            twin = near.in_run(place, runs[0])
        if twin is None:
            twin = self._last(names, start)
        for run in runs:
            if twin is None:
                twin = near.below_run(place, run)
            if twin is None:
                twin = self._last([("in", self._tape.backward_runs[run][0])], start)
        return twin

    def _last(self, names: Iterable[Any], start: int) -> int | None:
        """Return the last forward op before another that has the first of the names there is."""
        for name in names:
            ops = self._index.get(name, ())
            if at := bisect_left(ops, start):
                return ops[at - 1]
        return None

    @cached_property
    def _index(self) -> dict[Any, list[int]]:
        """The forward ops, by key, by parameter, and by module."""
        found: dict[Any, list[int]] = {}
        for op, row in enumerate(self._rows):
            if not row.flags & BACKWARD:
                key = self._key(op, self._module(op))
                for name in {key, key._replace(module=NONE), ("in", key.module), *key.parameters}:
                    found.setdefault(name, []).append(op)
        found.pop(("in", NONE), None)
        return found

    def _in_last_runs(self, ops: Iterable[int], start: int) -> list[int]:
        """Return the forward ops in the last runs of the outermost modules that run ops again."""
        backward_runs = self._tape.backward_runs
        once: set[int] = set()
        runs = {self._runs[op] for op in ops}
        while any(backward_runs[run][1] != NONE for run in runs):
            runs = {run if backward_runs[run][1] == NONE else backward_runs[run][1] for run in runs}
        for module in {backward_runs[run][0] for run in runs}:
            ran = [run for run in self._runs_of.get(module, ()) if run.op_end <= start]
            for run in ran[-_FEW_RUNS:]:
                once.update(range(run.op_start, run.op_end))
        return sorted(op for op in once if not self._rows[op].flags & BACKWARD)

    # ------------------------------------------------------------------- what ops are

    def _is_step(self, op: int) -> bool:
        return self._rows[op].slots.plan.name != _NO_STEP

    def _is_of(self, span: Span, op: int) -> bool:
        """Whether an op is none of a backward that ran inside a span."""
        return not self._rows[op].flags & BACKWARD or span.call in self._spans.around(op)

    def _again_key(self, op: int) -> _Key:
        return self._key(op, self._module(op))

    def _module_in(self, span: Span, op: int) -> int:
        return self._module(op) if self._spans.is_inside(span.call, op) else NONE

    def _module(self, op: int) -> int:
        """Return the innermost module that runs an op; in a backward, that runs there."""
        if self._rows[op].flags & BACKWARD:
            run = self._runs.get(op, NONE)
            return NONE if run == NONE else self._tape.backward_runs[run][0]
        run = self._spans.run_of(op)
        return NONE if run == NONE else self._tape.runs[run].module

    def _key(self, op: int, module: int) -> _Key:
        found = (self._parameter(value) for value in self.reads(op))
        parameters = frozenset(number for number in found if number is not None)
        return _Key(id(self._rows[op].slots.plan), module, parameters)

    def _parameter(self, value: int) -> int | None:
        """Return the parameter or buffer that a value is, or is a view of."""
        known = self._tape.parameters.of_row.get(value)
        return self._parameter_in.get(self._tape.values.storages[value]) if known is None else known

    @cached_property
    def _parameter_in(self) -> dict[int, int | None]:
        """By storage, the parameter in it, if it is the only one."""
        storages = self._tape.values.storages
        found: dict[int, int | None] = {NO_STORAGE: None}
        for value, number in self._tape.parameters.of_row.items():
            if found.setdefault(storages[value], number) != number:
                found[storages[value]] = None
        return found

    def _tensors(self, op: int) -> set[Any]:
        """Return what an op read, but for parameters, as places in memory."""
        values = self._tape.values
        return {
            (values.storages[value], values.offsets[value], values.layouts[value])
            for value in self.reads(op)
            if values.storages[value] != NO_STORAGE and self._parameter(value) is None
        }

    def code_of(self, op: int) -> tuple[Any, ...]:
        """Return the code that called a function of torch's in a backward, and in which run."""
        return self._runs.get(op), self._callers[self._rows[op].place]

    def runs_around(self, op: int) -> list[int]:
        """Return the runs of modules in a backward that an op is in, the innermost first."""
        runs = [self._runs.get(op, NONE)]
        while runs[-1] != NONE:
            runs.append(self._tape.backward_runs[runs[-1]][1])
        return runs[:-1]

    @cached_property
    def _callers(self) -> tuple[tuple[int, ...], ...]:
        return self._tape.places.callers()

    @cached_property
    def _runs_of(self) -> dict[int, list[ModuleRun]]:
        found: dict[int, list[ModuleRun]] = {}
        for run in self._tape.runs:
            found.setdefault(run.module, []).append(run)
        return found


def _without(steps: Mapping[int, _Key], found: Mapping[int, int]) -> dict[int, _Key]:
    return {op: key for op, key in steps.items() if op not in found}


class _Near:
    """What the ops next to one repeat: the one before it, else the one after it."""

    def __init__(self, twins: Twins, again: Sequence[int], found: Mapping[int, int]) -> None:
        self._again = again
        self._found = found
        self._codes = [twins.code_of(op) for op in again]
        self._in_run: dict[int, list[int]] = {}
        self._below_run: dict[int, list[int]] = {}
        self._all: list[int] = []
        for place, op in enumerate(again):
            if op in found:
                self._all.append(place)
                for run in (around := twins.runs_around(op)):
                    self._below_run.setdefault(run, []).append(place)
                for run in around[:1]:
                    self._in_run.setdefault(run, []).append(place)

    def in_call(self, place: int) -> int | None:
        """Return it for the same call of a function."""
        code = self._codes[place]
        for step in (-1, 1):
            at = place + step
            while 0 <= at < len(self._codes) and self._codes[at] == code:
                if self._again[at] in self._found:
                    return self._found[self._again[at]]
                at += step
        return None

    def in_run(self, place: int, run: int) -> int | None:
        """Return it for the same run of a module."""
        return self._nearest(place, self._in_run.get(run, []))

    def below_run(self, place: int, run: int) -> int | None:
        """Return it for a run of a module and those inside it."""
        return self._nearest(place, self._below_run.get(run, []))

    def any(self, place: int) -> int | None:
        """Return it for whatever there is."""
        return self._nearest(place, self._all)

    def _nearest(self, place: int, places: list[int]) -> int | None:
        at = bisect_left(places, place)
        return self._found[self._again[places[max(at - 1, 0)]]] if places else None
