"""Which op each one that runs again repeats, or goes with. The rules are in `reruns`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from opscope.capture.assemble.reruns.candidates import Candidates
from opscope.capture.assemble.reruns.keys import Key, Keys
from opscope.capture.assemble.reruns.spans import Span, Spans
from opscope.capture.tables.rows import BACKWARD, ModuleRun, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.records.columns.columns import NONE

_FEW_RUNS = 8


class Twins:
    """Finds them among all ops.

    Args:
        tables: What was recorded.
        ops: The numbers of its ops.
        spans: Which of them ran in one call of a checkpoint or custom function.
        keys: Their keys.
    """

    def __init__(self, tables: Tables, ops: OpColumns, spans: Spans, keys: Keys) -> None:
        self._tables = tables
        self._ops = ops
        self._spans = spans
        self._keys = keys
        self._runs = tables.backward_run_of
        self._of_spans: dict[Span, Candidates] = {}

    def repeated(self, again: Iterable[int], span: Span | None, left: int | None) -> dict[int, int]:
        """Return what ops repeat of a span, and of the last runs of the modules that run them.

        Args:
            again: The ops, in order.
            span: What they can repeat, if that is known.
            left: The op at which what they most likely repeat has ended, if that is known.
        """
        steps = {op: self._keys.of(op) for op in again if self._keys.is_step(op)}
        found = {} if span is None else self._of_span(span).repeated_by(steps, left)
        others = {op: key for op, key in steps.items() if op not in found and op in self._runs}
        if others:
            once = self._in_last_runs(others, min(steps))
            found |= Candidates(self._keys, once).repeated_by(others, None)
        return found

    def all_of(self, again: Sequence[int], found: Mapping[int, int]) -> dict[int, int]:
        """Return what all ops go with, also those that repeat none, as far as there is any.

        Args:
            again: The ops, in order.
            found: What those repeat that repeat one.
        """
        twins = {op: found[op] for op in again if op in found}
        if len(twins) < len(again):
            near = _Near(self, self._keys, again, found)
            for place, op in enumerate(again):
                if op not in found:
                    twin = self._without(place, op, again[0], near)
                    if twin is not None:
                        twins[op] = twin
        return twins

    def of_checkpoint(
        self, again: Sequence[int], twins: Mapping[int, int], span: Span, made: int
    ) -> dict[int, int]:
        """Return what all ops of a checkpoint's go with: if nothing else, with those next to them.

        Args:
            again: The ops, in order.
            twins: What those go with that go with anything.
            span: What they can repeat.
            made: The op that made the node whose tensors are wanted.
        """
        known = [place for place, op in enumerate(again) if op in twins]
        if not known:
            return dict.fromkeys(again, made)
        # It stops as an op is about to save what it was given, which then does not run.
        stopped = self._of_span(span).after(twins[again[known[-1]]])
        found = dict(twins)
        for place, op in enumerate(again):
            at = bisect_left(known, place)
            if op not in twins:
                beside = again[known[max(at - 1, 0)]]
                found[op] = stopped if at == len(known) else twins[beside]
        return found

    def _of_span(self, span: Span) -> Candidates:
        if span not in self._of_spans:
            self._of_spans[span] = Candidates(self._keys, self._keys.of_span(span))
        return self._of_spans[span]

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
                twin = self._last([("in", self._tables.backward_runs[run][0])], start)
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
        contexts = (*self._tables.call_sites.contexts(), None)  # the last one is NONE's
        for op, flags in enumerate(self._ops.flags):
            if not flags & BACKWARD and contexts[self._spans.site_of(op)] != "optimizer":
                key = self._keys.of(op).anywhere
                for name in {key, key._replace(module=NONE), ("in", key.module), *key.parameters}:
                    found.setdefault(name, []).append(op)
        found.pop(("in", NONE), None)
        return found

    def _in_last_runs(self, ops: Iterable[int], start: int) -> dict[int, Key]:
        """Return the forward ops in the last runs of the outermost modules that run ops again."""
        backward_runs = self._tables.backward_runs
        once: set[int] = set()
        runs = {self._runs[op] for op in ops}
        while any(backward_runs[run][1] != NONE for run in runs):
            runs = {run if backward_runs[run][1] == NONE else backward_runs[run][1] for run in runs}
        for module in {backward_runs[run][0] for run in runs}:
            ran = [run for run in self._runs_of.get(module, ()) if run.op_end <= start]
            for run in ran[-_FEW_RUNS:]:
                once.update(range(run.op_start, run.op_end))
        ops = sorted(op for op in once if not self._ops.flags[op] & BACKWARD)
        return {op: self._keys.of(op) for op in ops}

    def runs_around(self, op: int) -> list[int]:
        """Return the runs of modules in a backward that an op is in, the innermost first."""
        runs = [self._runs.get(op, NONE)]
        while runs[-1] != NONE:
            runs.append(self._tables.backward_runs[runs[-1]][1])
        return runs[:-1]

    @cached_property
    def _runs_of(self) -> dict[int, list[ModuleRun]]:
        found: dict[int, list[ModuleRun]] = {}
        for run in self._tables.runs:
            found.setdefault(run.module, []).append(run)
        return found


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
        for place, op in enumerate(again):
            if op in found:
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

    def _nearest(self, place: int, places: list[int]) -> int | None:
        at = bisect_left(places, place)
        return self._found[self._again[places[max(at - 1, 0)]]] if places else None
