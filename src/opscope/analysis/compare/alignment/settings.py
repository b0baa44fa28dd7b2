"""What an op was asked for, in numbers and words, as far as two programs may be compared in it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from opscope.operators.settings import HOW_IT_RAN, SIZES
from opscope.records.ops import Op

# They follow from the sizes of what is read, of those that view or make tensors.
_SIZES = SIZES | {"stride", "storage_offset", "repeats"}
_VIEWS = frozenset({
    "view", "reshape", "expand", "as_strided", "split", "split_with_sizes", "_unsafe_view", "repeat",
    "empty", "new_empty", "empty_strided", "new_empty_strided", "full", "zeros", "ones", "new_zeros",
    "new_ones", "new_full", "rand", "randn", "select_backward", "slice_backward", "embedding_backward",
})  # fmt: skip
# The greatest number of each type: a mask is filled with the least.
_GREATEST = (65504.0, 3.3895313892515355e38, 3.4028234663852886e38, 1.7976931348623157e308)


def plain(arguments: Sequence[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """Return arguments as texts that are the same where what is asked for is."""
    return tuple([(name, repr(value)) for name, value in arguments if name not in HOW_IT_RAN])


def other_settings(a: Op, b: Op) -> list[tuple[str, object, object]]:
    """Return which arguments two ops of one operator were given otherwise: name and both values.

    Those that only tell of sizes are left out: the values show these.
    """
    ours, theirs = dict(a.arguments), dict(b.arguments)
    found = []
    for name in ours | theirs:
        if name in HOW_IT_RAN or (name in _SIZES and a.name in _VIEWS):
            continue
        left, right = ours.get(name), theirs.get(name)
        if not _same(left, right):
            found.append((name, left, right))
    return found


def _same(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        both_least = abs(a) in _GREATEST and abs(b) in _GREATEST and (a < 0) == (b < 0)
        return a == b or both_least or (isnan(a) and isnan(b))
    return a is b or repr(a) == repr(b)
