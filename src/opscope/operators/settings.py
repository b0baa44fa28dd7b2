"""Which arguments of an operator tell what was asked for, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

from opscope.operators.known import InWords

HOW_IT_RAN = frozenset({
    "dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit", "copy",
    "output_mask", "half_to_float", "benchmark", "deterministic", "cudnn_enabled", "cudnn_enable",
    "cudnn", "allow_tf32", "requires_grad",
})  # fmt: skip
"""Arguments that say where or how fast a call ran, or in which numbers: its values show these."""
SIZES = frozenset({
    "size", "sizes", "shape", "split_size", "split_sizes", "input_sizes", "normalized_shape", "N", "C",
    "HxW",
})  # fmt: skip
"""Arguments that are sizes of tensors, or follow from them."""
# Arguments that say nothing of a call, for whoever looks at one.
_SAY_NOTHING = HOW_IT_RAN | SIZES | {
    "transposed", "training", "train", "count_include_pad", "self", "other", "index",
}  # fmt: skip
# What an argument is where nobody gave it.
_USUAL: dict[str, object] = {
    "stride": 1, "dilation": 1, "groups": 1, "padding": 0, "output_padding": 0, "alpha": 1, "beta": 1,
    "momentum": 0.1, "approximate": "none", "step": 1,
}  # fmt: skip


def says_something(argument: str, value: object) -> bool:
    """Whether an argument of an operator that is no tensor tells of what was asked for.

    >>> says_something("stride", [2, 2]), says_something("stride", [1, 1]), says_something("p", 0.5)
    (True, False, True)
    """
    if argument in _SAY_NOTHING or value is None or value is False or isinstance(value, InWords):
        return False
    items = value if isinstance(value, (list, tuple)) else [value]
    usual = _USUAL.get(argument)
    return bool(items) and not (argument in _USUAL and all(item == usual for item in items))


def plain(value: object) -> Any:
    """Return an argument as JSON has it: a number, a text, a bool, None or a list of these.

    Numbers that JSON does not have are texts.

    >>> plain((1, 2.5)), plain(complex(1, 2)), plain(float("-inf"))
    ([1, 2.5], '(1+2j)', '-inf')
    """
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    is_number = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    return value if value is None or is_number or isinstance(value, str) else str(value)


def settings(arguments: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """Return those arguments that tell what was asked for, as JSON has them.

    >>> settings([("p", 0.5), ("train", False), ("dims", (0, 2))])
    {'p': 0.5, 'dims': [0, 2]}
    """
    return {name: plain(value) for name, value in arguments if says_something(name, value)}
