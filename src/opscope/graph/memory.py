"""Who wrote the bytes that are read: the memory of a program, write by write.

A *writer* is a value that filled its bytes: one made in new memory, written in place, or brought
from outside. Views, and tensors that were passed through, only *show* what others wrote. A reader
depends on them as long as they lead to exactly the writers whose bytes it sees; where bytes
were written since, so that they would lead to others too, it depends on the writers directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from opscope.records.columns.columns import Column
from opscope.records.columns.table import column
from opscope.records.flow.regions import Region, last_writers, overlap, region
from opscope.records.ops import Read
from opscope.records.recording import Recording
from opscope.records.values import Value, before_writes

EdgeKind = Literal["data", "write", "alias", "overwrite"]
_Write = tuple[int, Region]


class Dependency(NamedTuple):
    """One thing that a reader's argument depends on.

    Attributes:
        source: The value behind it: what was read itself, or what a write made.
        argument: The reader's argument.
        kind: ``"data"`` for a value as it was made, ``"alias"`` for a tensor that a view op
            made, ``"write"`` for memory that another op wrote since, and ``"overwrite"`` for
            a tensor of whose contents the reader sees nothing: it writes all of it, or others
            have written it since.
    """

    source: int
    argument: str
    kind: EdgeKind


class Memory:
    """What was written to each storage so far."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._values = recording, recording.values
        self.storages: Column[int | None] = column(recording.values, "storage")
        self.origins: Column[str] = column(recording.values, "origin")
        self._twins = _twins(recording)
        self._logs: dict[int, list[_Write]] = {}
        # How long its storage's log was when a value came to be: only later writes matter.
        self._since: dict[int, int] = {}
        # What was in each storage when it turned up, as far as tensors showed it.
        self._outside: dict[int, list[_Write]] = {}
        # The storages that ops made: what turns up on one is not from outside.
        self._made_here: set[int] = set()
        # Of what shows other values, the writers that it leads to; and what shows a part only.
        self._behind: dict[int, frozenset[int]] = {}
        self._parts: set[int] = set()
        # What shows memory that no argument of its op did, as `set_` to a storage.
        self._unbased: set[int] = set()
        # What may show more of its memory than the arguments of its op did.
        self._widened: set[int] = set()
        # Of what was written, the writers whose bytes the op was given.
        self._given: dict[int, frozenset[int]] = {}

    @cached_property
    def alone(self) -> bytearray:
        """Which values are what they were made as, for ever: none else is in their memory."""
        storages, origins = self.storages, self.origins
        counts = Counter(storages)
        counts[None] = 1
        result = bytearray(
            origin in ("fresh", "outside") and counts[storage] == 1
            for storage, origin in zip(storages, origins, strict=True)
        )
        for value in self._twins:
            result[value] = 0
        return result

    def region_of(self, index: int) -> Region | None:
        """Return the bytes of its storage that a value covers, None for none."""
        value = self._values[index]
        return region(value.shape, value.stride, value.offset, value.itemsize)

    def come_to_be(self, index: int) -> None:
        """Note a value that was made, or turned up."""
        value = self._values[index]
        if index in self._since:
            return
        if value.storage is None:
            self._since[index] = 0
            return
        if value.origin == "fresh" and value.storage not in self._logs:
            self._made_here.add(value.storage)
        log = self._logs.setdefault(value.storage, [])
        covered = self.region_of(index)
        if covered is not None and value.origin in ("fresh", "write"):
            log.append((index, covered))
        elif covered is not None and value.origin == "outside":
            self._outside.setdefault(value.storage, []).append((index, covered))
        # A tensor that turns up from outside on a known storage sees all of its writes.
        self._since[index] = 0 if value.origin == "outside" else len(log)

    def write(self, written: Iterable[int], found: Iterable[Dependency]) -> None:
        """Note of what was written what the op was given that wrote it.

        Args:
            written: The values that it gave in place of others.
            found: What it depends on.
        """
        behind = frozenset[int]().union(*map(self._writers_behind, found))
        self._given.update((index, behind) for index in written)

    def show(
        self, made: Iterable[int], found: Iterable[Dependency], *, beyond: bool = False
    ) -> None:
        """Note views, or tensors passed through, of the memory that an op or call was given.

        Args:
            made: The values that it gave.
            found: What it depends on.
            beyond: Whether they may show more of it than it was given.
        """
        made = [index for index in made if self.storages[index] is not None]
        seen = [dependency for dependency in found if dependency.kind != "overwrite"]
        storages = {self.storages[dependency.source] for dependency in seen}
        behind = frozenset[int]().union(*map(self._writers_behind, seen))
        for index in made:
            if self.storages[index] in storages:
                self._behind[index] = behind
            else:
                self._unbased.add(index)
        if len(made) > 1:
            self._parts.update(made)
        if beyond or any(dependency.source in self._widened for dependency in seen):
            self._widened.update(made)

    def sources(
        self, read: Read, shown: tuple[Region, ...] | None = None, *, beyond: bool = False
    ) -> list[Dependency]:
        """Return what an argument depends on.

        Args:
            read: The argument.
            shown: The bytes that are looked at, None for all that the tensor covers.
            beyond: Whether there may be others among them than the tensor covers.
        """
        value = before_writes(self._recording.values, read.value)
        found = self._sources(value, read.argument, shown, beyond=beyond)
        if value.index in self._twins:
            twins = self._twins[value.index]
            found = [
                Dependency(source, d.argument, d.kind)
                for d in found
                for source in (twins if d.source == value.index else (d.source,))
            ]
        if read.overwritten:
            return [Dependency(d.source, d.argument, "overwrite") for d in found]
        return found

    def _sources(
        self, value: Value, argument: str, shown: tuple[Region, ...] | None, *, beyond: bool
    ) -> list[Dependency]:
        own = Dependency(value.index, argument, "alias" if value.origin == "view" else "data")
        whole = self.region_of(value.index)
        log = () if value.storage is None else self._logs.get(value.storage, ())
        everything = beyond or value.index in self._unbased
        since = 0 if everything else self._since[value.index]
        later = list(log[since:])
        if everything and value.storage is not None:
            later = [*self._outside.get(value.storage, ()), *later]
        if beyond and shown:
            return self._direct(own, _seen(shown, later)[0])
        if whole is None or not (later or shown or value.index in self._parts):
            return [own]
        seen, covered = _seen(shown or (whole,), later)
        writes = [Dependency(source, argument, "write") for source in seen]
        if value.origin not in ("view", "passed_through"):
            inside = value.origin == "outside" and value.storage in self._made_here
            return writes if covered or inside else [own, *writes]
        left = self._left(value, shown or (whole,), later, log[:since], covered=covered)
        behind = self._behind.get(value.index)
        if behind is None or self._led_to(behind, left.union(seen)):
            return [own, *writes]
        return [*self._direct(own, sorted(left)), *writes]

    def _direct(self, own: Dependency, writers: Collection[int]) -> list[Dependency]:
        """Return a dependency on writers themselves, past what showed them."""
        found = [
            Dependency(
                writer,
                own.argument,
                "write" if self.origins[writer] == "write" else "data",
            )
            for writer in writers
        ]
        if own.source not in writers:
            found.insert(0, Dependency(own.source, own.argument, "overwrite"))
        return found

    def _left(
        self,
        value: Value,
        shown: tuple[Region, ...],
        later: list[_Write],
        earlier: Sequence[_Write],
        *,
        covered: bool,
    ) -> frozenset[int]:
        """Return the writers of what a value shows that was not written since."""
        behind = self._behind.get(value.index, frozenset())
        if covered:
            return frozenset()
        is_whole = shown == (self.region_of(value.index),) and value.index not in self._parts
        if is_whole and not later:
            return behind
        if len(behind) == 1 and self._covers(min(behind), shown):
            return behind
        if value.storage is not None and value.index in self._widened:
            earlier = [*self._outside.get(value.storage, ()), *earlier]
        before = {index for index, _ in earlier}
        seen, everything = _seen(shown, [*earlier, *later])
        found = before.intersection(seen)
        if not everything:  # the rest was there before the program
            for index in behind - before:
                part = self.region_of(index)
                if part is not None and self.storages[index] == value.storage:
                    found.update(index for other in shown if overlap(part, other))
        return frozenset(found)

    def _led_to(self, writers: frozenset[int], others: frozenset[int]) -> bool:
        """Whether all of some writers are among others, or what those were made of."""
        missing, reached, pending = writers - others, set(others), list(others)
        while missing and pending:
            before = self._given.get(pending.pop(), frozenset()) - reached
            reached |= before
            missing -= before
            pending += before
        return not missing

    def _covers(self, index: int, shown: Iterable[Region]) -> bool:
        covers = self.region_of(index)
        return covers is not None and all(last_writers(r, [(index, covers)])[1] for r in shown)

    def _writers_behind(self, found: Dependency) -> frozenset[int]:
        if found.kind == "overwrite" or found.source in self._unbased:
            return frozenset()
        if self.origins[found.source] in ("fresh", "write", "outside"):
            return frozenset({found.source})
        return self._behind.get(found.source, frozenset({found.source}))


def _seen(shown: tuple[Region, ...], writes: list[_Write]) -> tuple[list[int], bool]:
    """Return the writes of which something is left in what is shown, and whether they cover it."""
    newest = writes[::-1]
    if len(shown) == 1:
        return last_writers(shown[0], newest)
    found: set[int] = set()
    everything = True
    for part in shown:
        seen, covered = last_writers(part, newest)
        found.update(seen)
        everything &= covered
    return [index for index, _ in newest if index in found], everything


def _twins(recording: Recording) -> dict[int, tuple[int, ...]]:
    """Return, for each input that was given several times, the values that it entered as.

    It is one tensor, and nobody can tell which of the arguments an op has read.
    """
    entered: dict[tuple[int, int | None], list[int]] = {}
    for run in recording.module_calls:
        for leaf in run.inputs if run.is_root else ():
            given = recording.values[leaf.value].earlier
            entered.setdefault((run.index, given), []).append(leaf.value)
    together = (tuple(values) for values in entered.values() if len(values) > 1)
    return {value: values for values in together for value in values}
