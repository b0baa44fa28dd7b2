"""Which of what ran once each of what runs again repeats, by the order in which both ran."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence

_FAR = 64  # so many may be new before something is repeated again
_ANCHORS = 4  # so many places to begin at are tried
_NEAR = 4  # what is no further from the next is not alone


def paired(
    again: Sequence[Hashable], once: Sequence[Hashable], anchor: tuple[int, int] | None = None
) -> dict[int, int]:
    """Pair equal items of two sequences in order; both may lack some of the other's.

    Where several would do, it is those next to the anchor, or without one the last.

    Args:
        again: What ran again.
        once: What ran before.
        anchor: A place in the one and the place in the other that are known to be a pair.

    Returns:
        By places in ``again``, places in ``once``.

    >>> paired("ab", "abxab")
    {0: 3, 1: 4}
    >>> paired("ab", "abxab", (0, 0))
    {0: 0, 1: 1}
    >>> paired("zabzcz", "yabcy")
    {1: 1, 2: 2, 4: 3}
    """
    best: dict[int, int] = {}
    for each in [anchor] if anchor is not None else _anchors(again, once):
        found = _without_coincidences(_around(each, again, once), len(again))
        if _score(found) > _score(best):
            best = found
        if len(best) == len(again):
            break
    return best


def _anchors(again: Sequence[Hashable], once: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return pairs of places to begin at: of the items that were rarest before.

    They are in the order in which they ran again, as what is new comes rather after than before.
    """
    in_again, in_once = Counter(again), Counter(once)
    first_again, last_again = _firsts(again), _lasts(again)
    first_once, last_once = _firsts(once), _lasts(once)
    rarest = sorted((in_once[item], place) for item, place in first_again.items() if in_once[item])
    anchors = []
    for _, place in rarest[:_ANCHORS]:
        item = again[place]
        if in_again[item] <= in_once[item]:
            anchors.append((last_again[item], last_once[item]))
        else:
            anchors.append((first_again[item], first_once[item]))
    return sorted(anchors)


def _firsts(items: Sequence[Hashable]) -> dict[Hashable, int]:
    return {items[place]: place for place in reversed(range(len(items)))}


def _lasts(items: Sequence[Hashable]) -> dict[Hashable, int]:
    return {item: place for place, item in enumerate(items)}


def _around(
    anchor: tuple[int, int], again: Sequence[Hashable], once: Sequence[Hashable]
) -> dict[int, int]:
    i, j = anchor
    before = _followed(again[:i][::-1], once[:j][::-1])
    after = _followed(again[i + 1 :], once[j + 1 :])
    pairs = {i - 1 - a: j - 1 - b for a, b in before.items()}
    pairs |= {i: j} | {i + 1 + a: j + 1 + b for a, b in after.items()}
    return dict(sorted(pairs.items()))


def _score(pairs: dict[int, int]) -> int:
    """Return how many pairs there are, those that follow on others twice."""
    return len(pairs) + sum(pairs.get(i - 1) == j - 1 for i, j in pairs.items())


def _followed(again: Sequence[Hashable], once: Sequence[Hashable]) -> dict[int, int]:
    """Pair from the first items on, leaving out as few as can be where they differ."""
    places: dict[Hashable, list[int]] = {}
    for place, item in enumerate(once):
        places.setdefault(item, []).append(place)
    pairs: dict[int, int] = {}
    i = j = 0
    while i < len(again) and j < len(once):
        if again[i] == once[j]:
            pairs[i] = j
            i, j = i + 1, j + 1
            continue
        fewest, best = len(once) + _FAR, None
        for new in range(i, min(i + _FAR, len(again))):
            if new - i >= fewest:
                break
            of_item = places.get(again[new], ())
            at = bisect_left(of_item, j)
            if at < len(of_item) and new - i + of_item[at] - j < fewest:
                fewest, best = new - i + of_item[at] - j, (new, of_item[at])
        if best is None:
            break
        i, j = best
    return pairs


def _without_coincidences(pairs: dict[int, int], count: int) -> dict[int, int]:
    """Drop lone pairs at either end: what is new may by chance be like something far away.

    It is lone if it is not the only one, and there is something new on the other side of it.
    """
    kept = list(pairs.items())
    while len(kept) > 1 and kept[-1][0] < count - 1 and kept[-1][1] - kept[-2][1] > _NEAR:
        kept.pop()
    while len(kept) > 1 and kept[0][0] > 0 and kept[1][1] - kept[0][1] > _NEAR:
        kept.pop(0)
    return dict(kept)
