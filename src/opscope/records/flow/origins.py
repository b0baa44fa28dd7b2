"""Bad numbers: which there are, where they lie, and what they came from."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from opscope.errors import NonFiniteError
from opscope.records.flow.regions import Region, last_writers, overlap

Kind = Literal["NaN", "Inf"]
CameInWith = Literal["parameter", "buffer", "input", "data", "argument", "memory"]
"""What bad numbers came in with; ``"memory"`` is what `torch.empty` gave and nothing wrote."""


class Kinds(NamedTuple):
    """Which numbers that are not finite are among some; false if none is."""

    nan: bool = False
    inf: bool = False

    def __bool__(self) -> bool:
        return self.nan or self.inf

    def __or__(self, other: Kinds) -> Kinds:
        return Kinds(self.nan or other.nan, self.inf or other.inf)


_WHOLE = Region(0, 1, dense=True, dims=(), itemsize=1)


class Extent(NamedTuple):
    """The memory a tensor lies in, and which bytes of it; all of what is no plain storage.

    A tensor without elements has no region.
    """

    memory: Hashable
    region: Region | None = _WHOLE

    def overlaps(self, other: Extent) -> bool:
        """Whether two extents of one memory share a byte."""
        if self.region is None or other.region is None:
            return False
        return overlap(self.region, other.region)

    def covers(self, other: Extent) -> bool:
        """Whether no byte of another lies outside of this one."""
        if self.region is None or other.region is None:
            return other.region is None
        return last_writers(other.region, [(0, self.region)])[1]


class Arrival(NamedTuple):
    """What a tensor is that came in.

    Attributes:
        kind: As what.
        name: By which name.
        op: The op that brought it, or looked at it first, if that is known.
        operator: That op's operator.
        text: Type, sizes and range of all of it, where the tensor may be a part.
    """

    kind: CameInWith
    name: str | None = None
    op: int | None = None
    operator: str = ""
    text: str | None = None


@dataclass(slots=True, eq=False)
class Origin:
    """Where bad numbers came from.

    Attributes:
        kind: What they were at first.
        op: The op that made them; of what came in, the one that brought it or first read it.
        operator: That op's operator.
        ranges: What it was given, in words; of what came in, that.
        came_in_with: What they came in with, None if the op made them.
        name: The name of that.
        out_of: Where the infinities came from of which the op made a NaN, if from elsewhere.
        is_reported: Whether an error has told of it.
        number: How many there were before it.
    """

    kind: Kind
    op: int
    operator: str = ""
    ranges: tuple[str, ...] = ()
    came_in_with: CameInWith | None = None
    name: str | None = None
    out_of: Origin | None = None
    is_reported: bool = False
    number: int = 0

    @property
    def is_meant(self) -> bool:
        """Whether it is an infinity that may be there by intention, as in a mask."""
        return self.kind == "Inf" and self.came_in_with not in (None, "parameter")

    def in_words(self) -> str:
        """Return what it is: ``"Inf that came in with input mask"``."""
        if self.came_in_with is None:
            return f"{self.kind} that {self.operator} made"
        if self.came_in_with == "argument":
            return f"{self.kind} that {self.operator} was given as {self.name}"
        return f"{self.kind} that came in with {self.came_in_with} {self.name or ''}".rstrip()

    def error(self, seen_in: str) -> NonFiniteError:
        """Return the error that tells of it."""
        self.is_reported = True
        return NonFiniteError(
            kind=self.kind,
            operator=self.operator,
            ranges=self.ranges,
            came_in_with=self.came_in_with,
            name=self.name,
            seen_in=seen_in,
            made_of=None if self.out_of is None else self.out_of.in_words(),
            first_op=self.op,
        )


@dataclass(slots=True, eq=False)
class Spot:
    """Memory that holds bad numbers, since some op.

    Attributes:
        extent: Which memory.
        op: The op since which they are there.
        output: Which of its outputs it is, None for what the op wrote.
        handle: What its owner needs to look at it again.
        nan: Where the NaN in it came from, if there are any.
        inf: Where the infinities in it came from, if there are any.
        gradient: Of what it is the gradient, in words.
        through: Through which gradient the bad numbers came, in words.
        taken: Whether an op has taken them up since.
        handled: Whether a `GradScaler` looked at them, or at what they come from.
    """

    extent: Extent
    op: int
    output: int | None = None
    handle: object = None
    nan: Origin | None = None
    inf: Origin | None = None
    gradient: str | None = None
    through: str | None = None
    taken: bool = False
    handled: bool = False

    def bad(self) -> Origin | None:
        """Return where what is bad in it came from; None if nothing is, or it was handled."""
        if self.handled:
            return None
        if self.nan is not None:
            return self.nan
        meant = self.inf is None or (self.inf.is_meant and self.gradient is None)
        return None if meant else self.inf

    def alarm(self) -> Origin | None:
        """Return the same, unless an error has told of it."""
        bad = self.bad()
        return None if bad is None or bad.is_reported else bad

    def error(self, seen_in: str) -> NonFiniteError | None:
        """Return the error to raise where the program sees it, None if there is no alarm."""
        alarm = self.alarm()
        return None if alarm is None else alarm.error(self.gradient or self.through or seen_in)


def kinds_of_numbers(item: object) -> Kinds:
    """Return which numbers that are not finite an argument is, or holds."""
    if isinstance(item, (tuple, list)):
        found = [kinds_of_numbers(inner) for inner in item]
        return Kinds(any(kinds.nan for kinds in found), any(kinds.inf for kinds in found))
    if not isinstance(item, (float, complex)):
        return Kinds()
    size = abs(item)
    return Kinds(math.isnan(size), math.isinf(size))
