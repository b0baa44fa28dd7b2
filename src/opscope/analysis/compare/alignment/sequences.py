"""The longest common subsequence of two long sequences, in nearly linear time.

What occurs once in both is an anchor, as in a patience diff; what lies between anchors, and is short, is
compared with Myers's algorithm (*An O(ND) difference algorithm and its variations*, 1986), which is given up
after so many differences and begun again where it had come to.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence

_MOST_DIFFERENCES = 100

Pair = tuple[int, int]


def common(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Return the places of what two sequences have in common, in order.

    It is the longest common subsequence of short ones. Of long ones that are very different, or in which
    much that occurs once is in another order, it is a long one.

    >>> common("resnet", "rest")
    [(0, 0), (1, 1), (2, 2), (5, 3)]
    """
    found: list[Pair] = []
    waiting = [(0, len(a), 0, len(b))]
    while waiting:
        a_start, a_end, b_start, b_end = waiting.pop()
        while a_start < a_end and b_start < b_end and a[a_start] == b[b_start]:
            found.append((a_start, b_start))
            a_start, b_start = a_start + 1, b_start + 1
        while a_start < a_end and b_start < b_end and a[a_end - 1] == b[b_end - 1]:
            a_end, b_end = a_end - 1, b_end - 1
            found.append((a_end, b_end))
        if a_start == a_end or b_start == b_end:
            continue
        is_short = a_end - a_start + b_end - b_start <= _MOST_DIFFERENCES
        anchors = [] if is_short else _anchors(a, b, range(a_start, a_end), range(b_start, b_end))
        if anchors:
            found += anchors
            ends = [(a_start - 1, b_start - 1), *anchors, (a_end, b_end)]
            waiting += [(i + 1, j, k + 1, m) for (i, k), (j, m) in itertools.pairwise(ends)]
        else:
            found += _myers(a, b, range(a_start, a_end), range(b_start, b_end))
    return sorted(found)


def _anchors(a: Sequence[Hashable], b: Sequence[Hashable], in_a: range, in_b: range) -> list[Pair]:
    """Return what occurs once in both parts, as much of it as is in the same order in both."""
    counts_a, counts_b = Counter(a[i] for i in in_a), Counter(b[j] for j in in_b)
    places = {b[j]: j for j in in_b if counts_b[b[j]] == 1}
    pairs = [(i, places[a[i]]) for i in in_a if counts_a[a[i]] == 1 and a[i] in places]
    return _rising(pairs)


def _rising(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the longest part of pairs, sorted by the first place, in which the second rises."""
    ends: list[int] = []  # the least second place that a chain of each length ends with
    last: list[int] = []
    before: list[int] = []
    for at, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        before.append(last[length - 1] if length else -1)
        if length == len(ends):
            ends.append(place)
            last.append(at)
        else:
            ends[length], last[length] = place, at
    chain: list[Pair] = []
    at = last[-1] if last else -1
    while at >= 0:
        chain.append(pairs[at])
        at = before[at]
    return chain[::-1]


def _myers(a: Sequence[Hashable], b: Sequence[Hashable], in_a: range, in_b: range) -> list[Pair]:
    """Return what two parts have in common by the algorithm of Myers."""
    both = {a[i] for i in in_a} & {b[j] for j in in_b}
    left = [i for i in in_a if a[i] in both]
    right = [j for j in in_b if b[j] in both]
    found: list[Pair] = []
    x = y = 0
    while x < len(left) and y < len(right):
        pairs, x, y = _path(a, b, left, right, x, y)
        found += pairs
    return found


def _path(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    left: Sequence[int],
    right: Sequence[int],
    x0: int,
    y0: int,
) -> tuple[list[Pair], int, int]:
    """Return what is in common from some places on, and the places that it leads to."""
    n, m = len(left), len(right)
    furthest = {1: x0}  # by diagonal, x - y
    steps: list[dict[int, int]] = []
    best = (x0 + y0, 0)
    for d in range(_MOST_DIFFERENCES + 1):
        steps.append(dict(furthest))
        for k in range(-d, d + 1, 2):
            down = k == -d or (k != d and furthest.get(k - 1, -1) < furthest.get(k + 1, -1))
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = y0 + (x - x0) - k
            while x < n and y < m and a[left[x]] == b[right[y]]:
                x, y = x + 1, y + 1
            furthest[k] = x
            if x <= n and y <= m:
                best = max(best, (x + y, k))
            if x >= n and y >= m:
                return _traced(steps, left, right, (x0, y0), k, x), x, y
    total, k = best
    x = (total + k + x0 - y0) // 2
    # Without a step ahead there would be no end.
    pairs = _traced(steps, left, right, (x0, y0), k, x)
    return pairs, max(x, x0 + 1), max(total - x, y0 + 1)


def _traced(
    steps: Sequence[dict[int, int]],
    left: Sequence[int],
    right: Sequence[int],
    start: Pair,
    k: int,
    x: int,
) -> list[Pair]:
    """Return the pairs on the way to a place, back from it."""
    x0, y0 = start
    pairs: list[Pair] = []
    for d in range(_depth(steps, k, x), -1, -1):
        before = steps[d]
        y = y0 + (x - x0) - k
        down = k == -d or (k != d and before.get(k - 1, -1) < before.get(k + 1, -1))
        previous = k + 1 if down else k - 1
        come_from = before[previous] if down else before[previous] + 1
        while x > come_from and x > x0 and y > y0:
            x, y = x - 1, y - 1
            pairs.append((left[x], right[y]))
        if d:
            x, k = before[previous], previous
    return pairs[::-1]


def _depth(steps: Sequence[dict[int, int]], k: int, x: int) -> int:
    """Return after how many differences a place was come to."""
    for d in range(abs(k), len(steps) - 1, 2):
        if steps[d + 1].get(k) == x:
            return d
    last = len(steps) - 1
    return last if (last - k) % 2 == 0 else last - 1
