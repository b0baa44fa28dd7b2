"""Where bad numbers come from, and whether the program gets to see them.

The rule of ``stop_on_nonfinite`` and of `first_nonfinite`, which both run on it:

1. A number is bad if it is NaN, or an infinity that neither an argument nor data put there.
2. It comes from the op that made it out of good ones, or it came in: with a parameter, a buffer,
   an input, other data, an argument.
3. What ops make of it that is bad comes from there too; what they make of it that is good is good.
4. It is an alarm where it is seen: in what the model returns, the loss of a backward, a gradient
   (of which any infinity is bad) that an optimizer reads, a parameter or buffer, a number that
   Python reads, or, when the block ends, a result that no op has taken up.
5. What a `GradScaler` has looked at is none: it skips that step.

Nothing here knows tensors: who watches a program, or walks a record, says what memory was read
and given, and which bad numbers were in it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, Protocol

from opscope.errors import NonFiniteError
from opscope.operators.known import COPIES_INTO, SCALER, asks_for_form, takes_lists_in_step
from opscope.records.flow.origins import (
    Arrival,
    CameInWith,
    Extent,
    Kind,
    Kinds,
    Origin,
    Spot,
    kinds_of_numbers,
)

# Where the program sees them.
OUTPUT, LOSS, NUMBER, LEFT = (
    "what the model returned", "the loss", "a number that Python read", "what the block left",
)  # fmt: skip
_MOST = 8  # of the tensors that an op was given are told of


class Tensor(Protocol):
    """A tensor that an op read or gave, as whoever watches it knows it."""

    @property
    def extent(self) -> Extent:
        """Where it lies."""

    @property
    def handle(self) -> object:
        """What its watcher needs to look at it again."""

    def kinds(self) -> Kinds:
        """Return which bad numbers were in it, before the op if it was read."""

    def text(self) -> str:
        """Return its type, sizes and range."""

    def arrival(self) -> Arrival:
        """Return what it is, if no op was seen to put them there."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run of an op.

    Attributes:
        op: Its number.
        operator: Its operator.
        reads: The tensors that it was given and reads, with the names of the arguments.
        writes: The memory that it wrote.
        bad: The tensors with bad numbers that it gave, with the number of the output, None for
            one that it wrote.
        arguments: Its other arguments, by name.
        is_view: Whether all it does is to show memory another way.
        gives: What it gives if it gives numbers that cannot be bad.
        by_scaler: Whether a `GradScaler` ran it, whose scale may be too large.
    """

    op: int
    operator: str
    reads: Sequence[tuple[str, Tensor]] = ()
    writes: Sequence[Extent] = ()
    bad: Sequence[tuple[int | None, Tensor]] = ()
    arguments: Iterable[tuple[str, object]] = ()
    is_view: bool = False
    gives: Literal["whole numbers", "truths"] | None = None
    by_scaler: bool = False

    def alone(self, tensor: Tensor, output: int | None) -> dict[str, Tensor]:
        """Return what it read for one tensor that it gave: of lists that go in step, one of each."""
        if not takes_lists_in_step(self.operator):
            return dict(self.reads)
        place = "" if output is None else f"[{output}]"
        for name, read in () if place else self.reads:
            if read.extent == tensor.extent:
                place = name[name.find("[") :]
        return {name: read for name, read in self.reads if name.endswith(place) or "[" not in name}


class BadNumbers:
    """All memory that holds bad numbers, and where they came from.

    Args:
        look_again: Says what is in a spot of which a part was written; None if that is unknown.
    """

    def __init__(self, look_again: Callable[[Spot], Kinds | None]) -> None:
        self.spots: dict[Hashable, list[Spot]] = {}
        self.has_gradients = False
        self._look_again = look_again
        self._gone: list[Spot] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self.spots)

    def at(self, extent: Extent) -> list[Spot]:
        """Return the spots in some memory, the latest first."""
        found = self.spots.get(extent.memory, ())
        return [spot for spot in reversed(found) if spot.extent.overlaps(extent)]

    def follow(self, step: Step) -> None:
        """Note what became of the bad numbers that an op read, and which it gave."""
        found = [(name, self._bring(tensor, step.op)) for name, tensor in step.reads if step.bad]
        if self.spots and not step.is_view and not asks_for_form(step.operator):
            self._take_up(step)
        gradients: dict[Extent, str | None] = {}
        for extent in step.writes if self.spots else ():
            gradients[extent] = next((s.gradient for s in self.at(extent) if s.gradient), None)
            self._overwrite(extent, step.op)
        for output, tensor in step.bad:
            spot = Spot(tensor.extent, step.op, output, tensor.handle)
            spot.gradient = gradients.get(spot.extent)
            alone = step.alone(tensor, output)
            sources = [source for name, spots in found if name in alone for source in spots]
            self._trace_back(spot, tensor.kinds(), sources, alone, step)
            self.spots.setdefault(spot.extent.memory, []).append(spot)
        if step.operator == SCALER:
            for extent in step.writes:
                for spot in self.at(extent):
                    spot.handled = True

    def _take_up(self, step: Step) -> None:
        """Note that an op made something of what it read.

        A whole number says nothing of the NaN that it was made of: that is still to be seen. A
        program that asks of one gradient whether it is finite sees to all of them.
        """
        asked = False
        for _, tensor in step.reads:
            for spot in self.at(tensor.extent):
                spot.taken |= step.gives != "whole numbers" or spot.nan is None
                asked |= step.gives == "truths" and spot.gradient is not None
        for spot in chain(self._gone, *self.spots.values()) if asked else ():
            spot.taken |= spot.gradient is not None

    def seen(self, tensor: Tensor, where: str, op: int) -> NonFiniteError | None:
        """Return the error to raise where the program sees a tensor, None if it is no alarm."""
        errors = (spot.error(where) for spot in self._bring(tensor, op))
        return next((error for error in errors if error is not None), None)

    def accumulate(self, extent: Extent, leaf: str) -> None:
        """Note that memory is the gradient of a leaf."""
        for spot in self.at(extent):
            spot.gradient, self.has_gradients = f"the gradient of {leaf}", True

    def keep(
        self,
        tensor: Tensor,
        kind: Literal["parameter", "buffer"],
        name: str,
        operator: str,
        op: int,
    ) -> NonFiniteError | None:
        """Return the error to raise where an op wrote a parameter or buffer.

        What is copied there from outside, as by `load_state_dict`, came in with it from then on.
        """
        if operator in COPIES_INTO:
            self.enter(tensor.extent, kind, name)
            alarms = [alarm for spot in self.at(tensor.extent) if (alarm := spot.alarm())]
            if all(alarm.came_in_with for alarm in alarms):
                return None
        return self.seen(tensor, f"{kind} {name}", op)

    def enter(self, extent: Extent, kind: CameInWith, name: str) -> None:
        """Note that memory entered the model, as an input, parameter or buffer of this name."""
        for spot in self.at(extent):
            for origin in (spot.nan, spot.inf):
                if origin is not None and origin.came_in_with == "data":
                    origin.came_in_with, origin.name = kind, name

    def left(self) -> list[Spot]:
        """Return what is bad and no op has taken up, the first origin first."""
        found = [
            (alarm.number, spot)
            for spot in chain(self._gone, *self.spots.values())
            if not spot.taken and (alarm := spot.alarm()) and alarm.came_in_with != "memory"
        ]
        return [spot for _, spot in sorted(found, key=lambda pair: pair[0])]

    def forget(self, is_gone: Callable[[Spot], bool]) -> None:
        """Let go of memory that was freed, but for what no op had taken up."""
        for memory, spots in list(self.spots.items()):
            if is_gone(spots[0]):
                self._gone += (s for s in spots if not s.taken and s.alarm() is not None)
                del self.spots[memory]

    def _bring(self, tensor: Tensor, op: int) -> list[Spot]:
        """Return the spots that a tensor holds bad numbers of; what came in unseen is a new one."""
        kinds = tensor.kinds()
        if not kinds:
            return []
        found = [
            spot
            for spot in self.at(tensor.extent)
            if (kinds.nan and spot.nan) or (kinds.inf and spot.inf)
        ]
        spot = Spot(tensor.extent, op, handle=tensor.handle, taken=True)
        if kinds.nan and not any(known.nan for known in found):
            spot.nan = self._arrived("NaN", tensor, op)
        if kinds.inf and not any(known.inf for known in found):
            spot.inf = self._arrived("Inf", tensor, op)
        if spot.nan or spot.inf:
            self.spots.setdefault(spot.extent.memory, []).append(spot)
            found.append(spot)
        return found

    def _arrived(self, kind: Kind, tensor: Tensor, op: int) -> Origin:
        came = tensor.arrival()
        op = op if came.op is None else came.op
        text = came.text or tensor.text()
        return self._number(Origin(kind, op, came.operator, (text,), came.kind, came.name))

    def _trace_back(
        self,
        spot: Spot,
        kinds: Kinds,
        sources: Sequence[Spot],
        reads: Mapping[str, Tensor],
        step: Step,
    ) -> None:
        """Say where the bad numbers came from that an op gave.

        A NaN may come of infinities; an infinity that comes of one or of a NaN is not new.
        """
        nans, infs = [source.nan for source in sources], [source.inf for source in sources]
        grown = [origin for origin in infs if origin is not None and not origin.is_meant]
        nan, inf = self._among(step.arguments, step)
        if kinds.nan:
            spot.nan = _first(nans) or nan or _first(grown)
            if spot.nan is None:
                spot.nan = self._made("NaN", step, reads)
                spot.handled = step.by_scaler
                spot.nan.out_of = _first(infs) or inf
        if kinds.inf:
            spot.inf = _first(grown) or _first(infs) or inf or _first(nans) or nan
            if spot.inf is None:
                spot.inf = self._made("Inf", step, reads)
                spot.handled = step.by_scaler
        bad = [source for source in sources if source.bad() is not None]
        spot.through = next(filter(None, (s.gradient or s.through for s in bad)), None)
        spot.handled |= not bad and any(source.handled for source in sources)

    def _made(self, kind: Kind, step: Step, reads: Mapping[str, Tensor]) -> Origin:
        ranges = [f"{name} {tensor.text()}" for name, tensor in islice(reads.items(), _MOST)]
        if len(reads) > _MOST:
            ranges.append(f"{len(reads) - _MOST} more")
        return self._number(Origin(kind, step.op, step.operator, tuple(ranges)))

    def _among(
        self, arguments: Iterable[tuple[str, object]], step: Step
    ) -> tuple[Origin | None, Origin | None]:
        """Return the NaN and the infinity among an op's arguments that are numbers."""
        nan: Origin | None = None
        inf: Origin | None = None
        for name, item in arguments:
            kinds = kinds_of_numbers(item)
            if kinds.nan and nan is None:
                nan = Origin("NaN", step.op, step.operator, (), "argument", name)
                self._number(nan)
            if kinds.inf and inf is None:
                inf = Origin("Inf", step.op, step.operator, (), "argument", name)
                self._number(inf)
        return nan, inf

    def _number(self, origin: Origin) -> Origin:
        origin.number = self._count = self._count + 1
        return origin

    def _overwrite(self, extent: Extent, op: int) -> None:
        """Drop what an op wrote over, and look again at that of which it wrote a part."""
        left = [
            spot
            for spot in self.spots.pop(extent.memory, ())
            if not spot.extent.overlaps(extent)
            or (not extent.covers(spot.extent) and self._is_still_bad(spot, op))
        ]
        if left:
            self.spots[extent.memory] = left

    def _is_still_bad(self, spot: Spot, op: int) -> bool:
        kinds = None if spot.alarm() is None else self._look_again(spot)
        if kinds is None:
            return True
        spot.nan = spot.nan if kinds.nan else None
        spot.inf = spot.inf if kinds.inf else None
        spot.op, spot.output, spot.taken = op, None, False
        return spot.nan is not None or spot.inf is not None


def _first(origins: Iterable[Origin | None]) -> Origin | None:
    found = [origin for origin in origins if origin is not None]
    return min(found, key=lambda origin: origin.number, default=None)
