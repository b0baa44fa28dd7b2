"""Which of what ran once each of what runs again repeats, by the order in which both ran."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence

_FAR = 64  # so many may be new before something is repeated again
_NEAR = 3  # a lone repetition counts if so few are left out before it


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
    anchor = anchor or _rarest(again, once)
    if anchor is None:
        return {}
    i, j = anchor
    before = _followed(again[:i][::-1], once[:j][::-1])
    after = _followed(again[i + 1 :], once[j + 1 :])
    pairs = {i - 1 - a: j - 1 - b for a, b in before.items()}
    pairs |= {i: j} | {i + 1 + a: j + 1 + b for a, b in after.items()}
    return dict(sorted(pairs.items()))


def _rarest(again: Sequence[Hashable], once: Sequence[Hashable]) -> tuple[int, int] | None:
    """Return the places of the item that was rarest before, the last ones there are.

    Of several, those that are as far apart as most.
    """
    in_again, in_once = Counter(again), Counter(once)
    counts = {item: in_once[item] for item, n in in_again.items() if n <= in_once[item]}
    counts = counts or {item: in_once[item] for item in in_again if in_once[item]}
    if not counts:
        return None
    fewest = min(counts.values())
    last = {item: place for place, item in enumerate(once)}
    places = {item: place for place, item in enumerate(again) if counts.get(item) == fewest}
    pairs = [(place, last[item]) for item, place in places.items()]
    ((apart, _),) = Counter(j - i for i, j in pairs).most_common(1)
    return max(pair for pair in pairs if pair[1] - pair[0] == apart)


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
        fewest = len(once) + _FAR
        best = None
        for new in range(i, min(i + _FAR, len(again))):
            if new - i >= fewest:
                break
            of_item = places.get(again[new], ())
            at = bisect_left(of_item, j)
            if at == len(of_item):
                continue
            left_out = new - i + of_item[at] - j
            goes_on = again[new + 1 : new + 2] == once[of_item[at] + 1 : of_item[at] + 2]
            if left_out < fewest and (goes_on or left_out <= _NEAR):
                fewest, best = left_out, (new, of_item[at])
        if best is None:
            break
        i, j = best
    return pairs
