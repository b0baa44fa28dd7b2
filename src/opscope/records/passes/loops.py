"""Whether two visits of one place in the program are passes of one layer.

They are if the same modules run from one visit to the next each time: a loop that runs the same
modules at each turn folds, one that goes over blocks with their own weights does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opscope.records.columns.table import column
from opscope.records.recording import Recording

Segment = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Visits of a place in one module run, between which no module ran.

    Attributes:
        calls: The visits.
        before: What ran before them, since the last visit or the beginning of the module run.
        after: What ran after them, until the next visit or its end.
    """

    calls: tuple[int, ...]
    before: Segment
    after: Segment


class Turns:
    """What ran directly in each module run: modules, and functions that use parameters.

    Args:
        recording: What happened.
        parameters: By call, the parameters that it used, if any.
    """

    def __init__(self, recording: Recording, parameters: Mapping[int, tuple[int, ...]]) -> None:
        self._run_of_call = column(recording.layer_calls, "module_call")
        found: defaultdict[int | None, list[tuple[int, Hashable]]] = defaultdict(list)
        for run in recording.module_calls:
            # One that called nothing ran before the call that came next.
            found[run.parent].append((_position(run.layer_calls.start) - 1, ("module", run.module)))
        for call, used in parameters.items():
            found[self._run_of_call[call]].append((_position(call), ("parameters", used)))
        self._ran = {run: sorted(entries, key=_at) for run, entries in found.items()}

    def groups(self, visits: Sequence[int]) -> dict[int, int]:
        """Return, for each visit of one place, the number of the layer that it is a pass of."""
        clusters: list[_Cluster] = []
        layer = _Union()
        for run, calls in self._by_run(visits).items():
            own = list(self._clusters(run, calls))
            first = len(clusters)
            clusters += own
            for i in range(1, len(own)):
                if _is_next_turn(own[i - 1], own[i]):
                    layer.join(first + i - 1, first + i)
        for side in ("before", "after"):
            known: dict[Segment, int] = {}
            for number, cluster in enumerate(clusters):
                layer.join(known.setdefault(getattr(cluster, side), number), number)
        return {
            call: layer.of(number)
            for number, cluster in enumerate(clusters)
            for call in cluster.calls
        }

    def _by_run(self, visits: Sequence[int]) -> dict[int | None, list[int]]:
        runs: defaultdict[int | None, list[int]] = defaultdict(list)
        for call in visits:
            runs[self._run_of_call[call]].append(call)
        return runs

    def _clusters(self, run: int | None, calls: Sequence[int]) -> Iterable[_Cluster]:
        ran = self._ran.get(run, [])
        if not ran:
            yield _Cluster(tuple(calls), (), ())
            return
        together: list[int] = []
        before: list[Hashable] = []
        since: list[Hashable] = []
        at = 0
        for call in calls:
            while at < len(ran) and ran[at][0] < _position(call):
                since.append(ran[at][1])
                at += 1
            if together and since:
                yield _Cluster(tuple(together), tuple(before), tuple(since))
                together = []
            if not together:
                before = since
            since = []
            together.append(call)
        yield _Cluster(tuple(together), tuple(before), tuple(entry for _, entry in ran[at:]))


def _position(call: int) -> int:
    """Return where a call is among calls and what runs between them."""
    return 2 * call


def _at(entry: tuple[int, Hashable]) -> int:
    return entry[0]


def _is_next_turn(one: _Cluster, other: _Cluster) -> bool:
    """Whether what ran between two visits is a whole turn of a loop around them.

    It consists of what follows the visit in the loop and of what precedes it: the one must then
    follow the second visit too, and the other precede the first.
    """
    between = one.after
    return any(
        _ends(one.before, between[cut:]) and _begins(other.after, between[:cut])
        for cut in range(len(between) + 1)
    )


def _ends(whole: Segment, part: Segment) -> bool:
    return not part or whole[-len(part) :] == part


def _begins(whole: Segment, part: Segment) -> bool:
    return whole[: len(part)] == part


class _Union:
    """Numbers that have been joined, by the smallest of them."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def of(self, number: int) -> int:
        while (above := self._above.get(number, number)) != number:
            self._above[number] = self._above.get(above, above)
            number = above
        return number

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self._above[second] = first
