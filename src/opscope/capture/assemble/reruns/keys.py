"""What an op has in common with one that repeats it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from opscope.capture.assemble.reruns.spans import Span, Spans
from opscope.capture.log.contexts.entries import Entries
from opscope.capture.tables.rows import BACKWARD, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.operators.known import DETACH
from opscope.records.columns.columns import NONE

# Autograd adds these where it records, and a checkpoint where it keeps what is saved.
_NO_STEP = DETACH


class Key(NamedTuple):
    """What an op is, where it runs and what it reads.

    Attributes:
        operator: Its ``id``.
        module: The innermost module that runs, NONE for none.
        parameters: The parameters and buffers that it reads.
        line: The user's code that ran it, as far as it is inside that module, and the number of
            custom functions and checkpoints in which it did so.
    """

    operator: int
    module: int = NONE
    parameters: frozenset[int] = frozenset()
    line: tuple[int, ...] = ()

    @property
    def is_particular(self) -> bool:
        """Whether it tells layers apart, wherever they are."""
        return self.module != NONE or bool(self.parameters)

    @property
    def anywhere(self) -> Key:
        """The same in whatever line."""
        return self._replace(line=())

    @property
    def alone(self) -> Key:
        """The operator alone."""
        return Key(self.operator)


class Keys:
    """The keys of what was recorded.

    Args:
        tables: What was recorded.
        ops: The numbers of its ops.
        spans: Which of them ran in one call of a checkpoint or custom function.
        entries: What the calling contexts pass through.
    """

    def __init__(self, tables: Tables, ops: OpColumns, spans: Spans, entries: Entries) -> None:
        self._tables = tables
        self._ops = ops
        self._spans = spans
        self._entries = entries

    def of(self, op: int) -> Key:
        """Return the key of an op, with the module that runs it; in a backward, that runs there."""
        around = self._spans.around(op)
        depth = next(
            (i for i, call in enumerate(around) if call.kind == "recomputation"), len(around)
        )
        return self._key(op, self._module(op), depth)

    def of_span(self, span: Span) -> dict[int, Key]:
        """Return the keys of all ops of a span, with the modules that run inside it.

        Those of a backward that ran inside it are left out.
        """
        found = {}
        for op in span.ops:
            around = self._spans.around(op)
            depth = around.index(span.call) if span.call in around else None
            if self.is_step(op) and not (depth is None and self._ops.flags[op] & BACKWARD):
                module = self._module(op) if self._spans.is_inside(span.call, op) else NONE
                found[op] = self._key(op, module, depth or 0)
        return found

    def is_step(self, op: int) -> bool:
        """Whether an op is one that the program asked for."""
        return self._tables.plan(op).name != _NO_STEP

    def reads(self, op: int) -> list[int]:
        """Return the values that an op read."""
        start, end = self._ops.reads_end[op - 1] if op else 0, self._ops.reads_end[op]
        source = self._tables.values.source
        return [source(value) for value in self._tables.reads[start:end] if value != NONE]

    def tensors(self, op: int) -> set[Any]:
        """Return what an op read, but for parameters, as places in memory."""
        values = self._tables.values
        return {
            (values.storages[value], values.offsets[value], values.layouts[value])
            for value in self.reads(op)
            if values.storages[value] != NONE and self._parameter(value) is None
        }

    def _key(self, op: int, module: int, depth: int) -> Key:
        found = (self._parameter(value) for value in self.reads(op))
        parameters = frozenset(number for number in found if number is not None)
        site = self._spans.site_of(op)
        line = () if site == NONE else self._entries.line_of_site[site]
        return Key(id(self._tables.plan(op)), module, parameters, (depth, *line))

    def _module(self, op: int) -> int:
        if self._ops.flags[op] & BACKWARD:
            run = self._tables.backward_run_of.get(op, NONE)
            return NONE if run == NONE else self._tables.backward_runs[run][0]
        run = self._spans.run_of(op)
        return NONE if run == NONE else self._tables.runs[run].module

    def _parameter(self, value: int) -> int | None:
        """Return the parameter or buffer that a value is, or is a view of."""
        known = self._tables.parameters.of_row.get(value)
        return (
            self._parameter_in.get(self._tables.values.storages[value]) if known is None else known
        )

    @cached_property
    def _parameter_in(self) -> dict[int, int | None]:
        """By storage, the parameter in it, if it is the only one."""
        storages = self._tables.values.storages
        found: dict[int, int | None] = {NONE: None}
        for value, number in self._tables.parameters.of_row.items():
            if found.setdefault(storages[value], number) != number:
                found[storages[value]] = None
        return found

    def code_of(self, op: int) -> tuple[Any, ...]:
        """Return the code that called a function of torch's in a backward, and in which run."""
        site = self._ops.call_site[op]
        return self._tables.backward_run_of.get(op), self._entries.caller_of_site[site]
