"""An order of the steps of a program that data flow alone decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from heapq import heapify, heappop, heappush

from opscope.analysis.structure.wiring import Step

# How many steps are coloured again where some are alike, so that no program takes very long.
_WORK = 250_000


def canonical_order(steps: Sequence[Step]) -> list[int]:
    """Return the places of steps in an order that does not depend on that of independent ones.

    Each step has a colour: a hash of what it is and all that led to it, and of all that follows
    from it. Of the steps whose inputs are there, that of the least colour is next, of equals that
    whose inputs came first. Where some are still alike, all steps are coloured again, with the places
    so far and with what is known of their neighbours, until that tells no more; then any is next.
    Steps of one colour are then nearly always alike in all respects. Where they are not, or where too
    many are alike, the order in which they ran decides.

    >>> one, two = Step(("a",), ()), Step(("b",), ())
    >>> first, second = (
    ...     [steps[at] for at in canonical_order(steps)] for steps in ([one, two], [two, one])
    ... )
    >>> first == second
    True
    """
    readers: list[list[int]] = [[] for _ in steps]
    missing = [0] * len(steps)
    for number, step in enumerate(steps):
        before = {source.step for _, source in step.inputs}
        missing[number] = len(before)
        for source in before:
            readers[source].append(number)
    colours: Sequence[bytes] = _colours(steps, [b""] * len(steps))
    place: dict[int, int] = {}
    is_refined, left = False, _WORK

    def key(number: int) -> tuple[bytes, list[int], int]:
        return colours[number], [place[source.step] for _, source in steps[number].inputs], number

    ready = [key(number) for number, count in enumerate(missing) if not count]
    heapify(ready)
    while ready:
        *rank, number = heappop(ready)
        if ready and [*ready[0][:2]] == rank and readers[number]:
            if not is_refined and left > 0:
                colours, rounds = _refined(steps, colours, place)
                is_refined, left = True, left - rounds * len(steps)
                ready = [key(waiting) for waiting in (number, *(item[-1] for item in ready))]
                heapify(ready)
                continue
            is_refined = False  # which of their neighbours go with which is no longer the same
        place[number] = len(place)
        for reader in readers[number]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, key(reader))
    return list(place)


def hashed(*items: object) -> bytes:
    """Return 16 bytes that stand for plain data, in every process the same."""
    return blake2b(ascii(items).encode(), digest_size=16).digest()


def _refined(
    steps: Sequence[Step], colours: Sequence[bytes], place: Mapping[int, int]
) -> tuple[list[bytes], int]:
    """Return colours that tell apart what the places of some steps do, and after how many rounds."""
    found = [hashed(place.get(number), colour) for number, colour in enumerate(colours)]
    rounds, count = 0, 0
    while len(set(found)) > count:
        count = len(set(found))
        found = _colours(steps, found)
        rounds += 1
    return found, rounds


def _colours(steps: Sequence[Step], known: Sequence[bytes]) -> list[bytes]:
    """Return a hash of each step with all that leads to it and all that follows from it.

    Args:
        steps: They.
        known: What else is known of each.
    """
    above: list[bytes] = []
    for number, (form, inputs) in enumerate(steps):
        read = [(name, above[source.step], source.output) for name, source in inputs]
        above.append(hashed(known[number], form, read))
    below = [b""] * len(steps)
    heard: list[list[bytes]] = [[] for _ in steps]
    for number in reversed(range(len(steps))):
        below[number] = hashed(above[number], sorted(heard[number]))
        for place, (name, source) in enumerate(steps[number].inputs):
            heard[source.step].append(hashed(below[number], place, name, source.output))
    return below
