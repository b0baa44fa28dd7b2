"""Which op each one that runs again repeats, or goes with. The rules are in `reruns`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from opscope.capture.keys import Key, Keys
from opscope.capture.pairing import paired
from opscope.capture.spans import Span
from opscope.capture.tape import BACKWARD, NONE, ModuleRun, OpRow, Tape

_FEW_RUNS = 8


class Twins:
    """Finds them among all ops.

    Args:
        tape: What was recorded.
        rows: Its ops.
        keys: Their keys.
    """

    def __init__(self, tape: Tape, rows: Sequence[OpRow], keys: Keys) -> None:
        self._tape = tape
        self._rows = rows
        self._keys = keys
        self._runs = tape.backward_run_of

    def repeated(self, again: Iterable[int], span: Span | None, left: int | None) -> dict[int, int]:
        """Return what ops repeat of a span, and of the last runs of the modules that run them.

        Args:
            again: The ops, in order.
            span: What they can repeat, if that is known.
            left: The op at which what they most likely repeat has ended, if that is known.
        """
        steps = {op: self._keys.of(op) for op in again if self._keys.is_step(op)}
        found: dict[int, int] = {}
        if span is not None:
            found = self._among(self._keys.of_span(span), steps, left)
        others = {op: key for op, key in _without(steps, found).items() if op in self._runs}
        if others:
            start = min(steps)
            once = {op: self._keys.of(op) for op in self._in_last_runs(others, start)}
            found |= self._among(once, others, None)
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
            near = _Near(self, self._keys, again, found)
            for place, op in enumerate(again):
                if op not in found:
                    twin = self._without(place, op, again[0], near)
                    if twin is None and of_checkpoint:
                        twin = near.any(place)
                    if twin is not None:
                        twins[op] = twin
        return twins

    # ------------------------------------------------------------------ in order, or not

    def _among(
        self, once: Mapping[int, Key], steps: Mapping[int, Key], left: int | None
    ) -> dict[int, int]:
        """Pair ops that run again with those that ran once, by ever less that they share."""
        found: dict[int, int] = {}
        anchor = self._anchor(steps, once)
        modules = {key.module for key in once.values()}
        for shared in (_all, _but_line, _operator):
            if len(found) == len(steps):
                break
            fits = _Gaps(found).fits
            pairs = self._paired(steps, once, shared, anchor, left)
            found |= {
                op: twin
                for op, twin in pairs.items()
                if fits(op, twin)
                and (shared is not _operator or _may_be_same(steps[op], once[twin], modules))
            }
        return found | self._by_key(_without(steps, found), once, found)

    def _paired(
        self,
        steps: Mapping[int, Key],
        once: Mapping[int, Key],
        shared: Callable[[Key], Key],
        anchor: tuple[int, int] | None,
        left: int | None,
    ) -> dict[int, int]:
        ops, before = list(steps), list(once)
        ours, theirs = list(map(shared, steps.values())), list(map(shared, once.values()))
        found: dict[int, int] = {}
        if left is not None and anchor is None:
            found = paired(ours, theirs[: bisect_left(before, left)])
        if len(found) < len(ours):
            all_of_it = paired(ours, theirs, anchor)
            found = all_of_it if len(all_of_it) > len(found) else found
        return {ops[a]: before[b] for a, b in found.items()}

    def _anchor(self, steps: Mapping[int, Key], once: Mapping[int, Key]) -> tuple[int, int] | None:
        """Return a pair of places where both read the same tensors, if that tells passes apart."""
        keys = [key.anywhere for key in once.values()]
        counts = Counter(keys)
        places: dict[Any, list[int]] = {}
        for place, (op, key) in enumerate(zip(once, keys, strict=True)):
            if counts[key] > 1:
                for tensor in self._keys.tensors(op):
                    places.setdefault((key, tensor), []).append(place)
        for place, (op, key) in enumerate(steps.items()):
            if counts[key.anywhere] < 2:
                continue
            read = self._keys.tensors(op)
            shared = Counter(at for t in read for at in places.get((key.anywhere, t), ()))
            most = max(shared.values(), default=0)
            nearest = [at for at, count in shared.items() if count == most]
            if len(nearest) == 1:
                return place, nearest[0]
        return None

    def _by_key(
        self, steps: Mapping[int, Key], once: Mapping[int, Key], taken: Mapping[int, int]
    ) -> dict[int, int]:
        """Pair what is out of order, or runs more often than before, where keys are enough."""
        used = set(taken.values())
        places: dict[Key, list[int]] = {}
        free: dict[Key, list[int]] = {}
        for op, key in once.items():
            places.setdefault(key.anywhere, []).append(op)
            if op not in used:
                free.setdefault(key.anywhere, []).append(op)
        found: dict[int, int] = {}
        counts: Counter[Key] = Counter()
        for op, exact in steps.items():
            key = exact.anywhere
            if key.is_particular and key in places:
                of_key = free.get(key, places[key])
                found[op] = of_key[counts[key] % len(of_key)]
                counts[key] += 1
        return found

    # ------------------------------------------------------------- what repeats none

    def _without(self, place: int, op: int, start: int, near: _Near) -> int | None:
        """Return what an op goes with that repeats none."""
        key = self._keys.of(op).anywhere
        names: list[Any] = []
        if key.parameters and self._keys.is_step(op):
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
                key = self._keys.of(op).anywhere
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

    def runs_around(self, op: int) -> list[int]:
        """Return the runs of modules in a backward that an op is in, the innermost first."""
        runs = [self._runs.get(op, NONE)]
        while runs[-1] != NONE:
            runs.append(self._tape.backward_runs[runs[-1]][1])
        return runs[:-1]

    @cached_property
    def _runs_of(self) -> dict[int, list[ModuleRun]]:
        found: dict[int, list[ModuleRun]] = {}
        for run in self._tape.runs:
            found.setdefault(run.module, []).append(run)
        return found


def _without(steps: Mapping[int, Key], found: Mapping[int, int]) -> dict[int, Key]:
    return {op: key for op, key in steps.items() if op not in found}


def _all(key: Key) -> Key:
    return key


def _but_line(key: Key) -> Key:
    return key.anywhere


def _operator(key: Key) -> Key:
    return key.alone


def _may_be_same(again: Key, once: Key, modules: Container[int]) -> bool:
    """Whether the one may repeat the other in another form.

    A parameter may be read as a copy of another type, and what a module ran before may now be
    run by a module that did not run before, or by a function.
    """
    if again.anywhere == once.anywhere:  # then it would be the same
        return False
    if again.parameters and once.parameters - again.parameters:
        return False
    return again.module in {NONE, once.module} or again.module not in modules


class _Gaps:
    """Tells whether further pairs are in order with those that there are."""

    def __init__(self, found: Mapping[int, int]) -> None:
        self._ops = sorted(found)
        self._twins = [found[op] for op in self._ops]

    def fits(self, op: int, twin: int) -> bool:
        at = bisect_left(self._ops, op)
        if at < len(self._ops) and (self._ops[at] == op or self._twins[at] <= twin):
            return False
        return at == 0 or self._twins[at - 1] < twin


class _Near:
    """What the ops next to one repeat: the one before it, else the one after it."""

    def __init__(
        self, twins: Twins, keys: Keys, again: Sequence[int], found: Mapping[int, int]
    ) -> None:
        self._again = again
        self._found = found
        self._codes = [keys.code_of(op) for op in again]
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
