"""An order of the steps of a program that data flow alone decides."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from heapq import heappop, heappush

from opscope.analysis.structure.wiring import Step


def canonical_order(steps: Sequence[Step]) -> list[int]:
    """Return the places of steps in an order that does not depend on that of independent ones.

    Each step has a colour: a hash of what it is and all that led to it, and of all that follows
    from it. Of the steps whose inputs are there, that of the least colour is next. Steps of one
    colour are nearly always alike in all respects, and then it does not matter which is first; where
    they are not, the order in which they ran decides.

    >>> one, two = Step(("a",), ()), Step(("b",), ())
    >>> [canonical_order(steps) for steps in ([one, two], [two, one])]
    [[0, 1], [1, 0]]
    """
    colours = _colours(steps)
    readers: list[list[int]] = [[] for _ in steps]
    missing = [0] * len(steps)
    for number, step in enumerate(steps):
        before = {source.step for _, source in step.inputs}
        missing[number] = len(before)
        for source in before:
            readers[source].append(number)
    ready: list[tuple[bytes, int]] = []
    for number, count in enumerate(missing):
        if not count:
            heappush(ready, (colours[number], number))
    order = []
    while ready:
        _, number = heappop(ready)
        order.append(number)
        for reader in readers[number]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, (colours[reader], reader))
    return order


def hashed(*items: object) -> bytes:
    """Return 16 bytes that stand for plain data, in every process the same."""
    return blake2b(ascii(items).encode(), digest_size=16).digest()


def _colours(steps: Sequence[Step]) -> list[bytes]:
    """Return a hash of each step with all that leads to it and all that follows from it."""
    above: list[bytes] = []
    for form, inputs in steps:
        read = [(name, above[source.step], source.output) for name, source in inputs]
        above.append(hashed(form, read))
    below = [b""] * len(steps)
    heard: list[list[bytes]] = [[] for _ in steps]
    for number in reversed(range(len(steps))):
        below[number] = hashed(above[number], sorted(heard[number]))
        for place, (name, source) in enumerate(steps[number].inputs):
            heard[source.step].append(hashed(below[number], place, name, source.output))
    return below
