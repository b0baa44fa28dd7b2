"""How much each op computes, and what it moves; sums over ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod

from opscope import notation
from opscope.operators.known import (
    asks_for_form,
    is_uninitialised,
    lookup_arguments,
    placed_argument,
    takes_part,
)
from opscope.records.columns.table import bytes_in_memory, column
from opscope.records.ops import Read
from opscope.records.recording import Recording

UNKNOWN = -1
PARTS = ("forward", "backward", "recomputed", "optimizer", "other")


@dataclass(frozen=True, slots=True)
class Work:
    """What some ops compute together.

    Attributes:
        flops: Floating-point operations of products, a multiplication and an addition being two;
            of the ops for which it is known.
        elements: How many elements ops take by themselves, sums and norms included: no products,
            and no part of ``flops``.
        unknown: How many ops there are of which it is not known.
    """

    flops: int = 0
    elements: int = 0
    unknown: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds: half the ``flops``."""
        return self.flops // 2

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops, self.elements + other.elements, self.unknown + other.unknown
        )


@dataclass(frozen=True, slots=True)
class Unknown:
    """An operator of which it is not known how much it computes.

    Attributes:
        operator: Such as ``"mylib.product.default"``.
        calls: How often it ran.
        duration_ns: How long that took.
    """

    operator: str
    calls: int
    duration_ns: int


@dataclass(frozen=True)
class OpWork:
    """What each op of a recording computes.

    Attributes:
        flops: By op, as in `Work`; `UNKNOWN` where it is not known.
        elements: By op, as in `Work`.
        kinds: How many kinds of operators ran.
        unknown: Those of which it is not known, that with the most time first.
        share_unknown: Their share of the time of all ops.
    """

    flops: Sequence[int]
    elements: Sequence[int]
    kinds: int = 0
    unknown: tuple[Unknown, ...] = ()
    share_unknown: float = 0.0

    def of(self, ops: Iterable[int]) -> Work:
        """Return what some ops compute together."""
        if isinstance(ops, range) and ops.step == 1:  # of a module there may be many
            flops, elements, unknown = (
                sums[max(ops.start, ops.stop)] - sums[ops.start] for sums in self._sums
            )
            return Work(flops, elements, unknown)
        numbers = list(ops)
        found = [self.flops[op] for op in numbers]
        missing = found.count(UNKNOWN)
        return Work(sum(found) + missing, sum(map(self.elements.__getitem__, numbers)), missing)

    def known_kinds(self) -> list[str]:
        """Say of how many kinds of operators it is known, and of which it is not, in phrases.

        >>> unknown = (Unknown("mylib.product.default", 3, 100),)
        >>> OpWork([], [], 98, unknown, 0.02).known_kinds()
        ['97 of 98 kinds of op known,', 'not mylib.product.default ×3', '(2.0% of the time of all ops)']
        >>> OpWork([], [], 12).known_kinds()
        ['all 12 kinds of op known']
        """
        if not self.unknown:
            return [f"all {notation.plural(self.kinds, 'kind')} of op known"]
        named = [f"{notation.foreign(one.operator, 60)} ×{one.calls}" for one in self.unknown[:3]]
        more = [f"and {len(self.unknown) - 3} more"] if len(self.unknown) > 3 else []
        return [
            f"{self.kinds - len(self.unknown)} of {notation.plural(self.kinds, 'kind')} of op known,",
            f"not {', '.join([*named, *more])}",
            f"({self.share_unknown:.1%} of the time of all ops)",
        ]

    @cached_property
    def _sums(self) -> tuple[list[int], list[int], list[int]]:
        """What all ops before one compute."""
        known = [max(count, 0) for count in self.flops]
        missing = [count == UNKNOWN for count in self.flops]
        flops, elements, unknown = (
            [0, *accumulate(numbers)] for numbers in (known, self.elements, missing)
        )
        return flops, elements, unknown

    def by(self, keys: Iterable[str]) -> dict[str, Work]:
        """Return the sums by a key of each op, in the order in which these come."""
        flops: Counter[str] = Counter()
        elements: Counter[str] = Counter()
        unknown: Counter[str] = Counter()
        for key, count, size in zip(keys, self.flops, self.elements, strict=True):
            unknown[key] += count == UNKNOWN
            flops[key] += max(count, 0)
            elements[key] += size
        return {key: Work(flops[key], elements[key], unknown[key]) for key in unknown}


@dataclass(frozen=True, slots=True)
class PartWork:
    """What is computed in the parts of a training step.

    Attributes:
        forward: In the forward.
        backward: What the autograd engine ran, but for the next.
        recomputed: What a checkpoint, or the backward of a custom function, ran again.
        optimizer: In the optimizer.
        other: By what works on the results of these, such as clipping.
    """

    forward: Work = field(default_factory=Work)
    backward: Work = field(default_factory=Work)
    recomputed: Work = field(default_factory=Work)
    optimizer: Work = field(default_factory=Work)
    other: Work = field(default_factory=Work)

    @property
    def total(self) -> Work:
        """All of them together."""
        return sum((work for _, work in self), Work())

    def __iter__(self) -> Iterator[tuple[str, Work]]:
        """Yield those in which anything is computed, with their names."""
        named = ((name, getattr(self, name)) for name in PARTS)
        return ((name, work) for name, work in named if work != Work())

    @classmethod
    def of(cls, parts: Mapping[str, Work]) -> PartWork:
        """Return the parts of these names, the others empty."""
        return cls(**parts)


class Traffic:
    """Tells the bytes of memory that ops read and fill, as far as their tensors say.

    What lies in memory once counts once, however often it is expanded; of a table from which some
    elements are taken, or into which some are put, these count and not the table. A view does
    neither, and memory that is only allocated is not filled.

    >>> from opscope.records.values import Value
    >>> table, rows, taken = Value(0, (1000, 8)), Value(1, (3,), itemsize=8), Value(2, (3, 8))
    >>> traffic = Traffic(Recording(values=(table, rows, taken)))
    >>> traffic.of("aten.embedding.default", [2], [], [Read(0, "weight"), Read(1, "indices")])
    (120, 96)
    """

    def __init__(self, recording: Recording) -> None:
        self._values = recording.values
        self._bytes = bytes_in_memory(recording.values)
        self._origins = column(recording.values, "origin")

    def of(
        self,
        operator: str,
        outputs: Sequence[int | None],
        writes: Sequence[int],
        reads: Collection[Read],
    ) -> tuple[int, int]:
        """Return how many bytes an op read, and how many it filled.

        Args:
            operator: Such as ``"aten.add.Tensor"``.
            outputs: The values that it gave, None for what is no tensor.
            writes: The values that it wrote.
            reads: What it was given.
        """
        nbytes = self._bytes
        filled = {v for v in outputs if v is not None and self._origins[v] == "fresh"}
        filled.update(writes)
        if (outputs and not filled) or is_uninitialised(operator):
            return 0, 0
        given = sum(nbytes[value] for value in filled)
        if asks_for_form(operator):
            return 0, given
        part, most = self._part(operator, given, reads)
        if part == "self" and writes:
            given = min(given, most)
        read = sum(
            min(nbytes[r.value], most) if r.argument == part else nbytes[r.value]
            for r in reads
            if not r.overwritten
        )
        return read, given

    def _part(self, operator: str, given: int, reads: Collection[Read]) -> tuple[str, int]:
        """Return which argument is only read or written in part, and how many bytes of it."""
        if takes_part(operator):
            return "self", given
        looked_up, put = lookup_arguments(operator), placed_argument(operator)
        if looked_up is None and put is None:
            return "", 0
        value = {read.argument: read.value for read in reads}
        if put in value:
            return "self", self._values[value[put]].nbytes  # expanded elements are put each time
        table, indices = (value.get(argument) for argument in looked_up or ("", ""))
        if looked_up is None or table is None or indices is None:
            return "", 0
        known = self._values[table]
        row = prod(known.shape[1:]) if looked_up[0] == "weight" else 1
        return looked_up[0], self._values[indices].numel * row * known.itemsize
