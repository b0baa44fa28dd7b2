"""What a test suite pins of a program: its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

from opscope.analysis.structure.fingerprints import (
    LEVELS,
    OF_LEVEL,
    FingerprintLevel,
    fingerprint_of,
)
from opscope.analysis.structure.wiring import PARTS, Part
from opscope.errors import OptionError, check_choice
from opscope.record import Record


def fingerprint(
    record: Record, level: FingerprintLevel = "layer", *, include: Sequence[Part] | None = None
) -> str:
    """Return a hash of a program's structure: what it consists of, and how that is wired.

    It is the same in every process, on every machine and device, for other weights and data, and
    for another order of what does not depend on one another; and another one where a function, the
    wiring, or something that is included changes.

    Args:
        record: A trace, or the record of one.
        level: What a step is: ``"layer"``, a call of a torch function in the forward, told by what it
            is given and gives, which another version of torch may make other ops of; or ``"op"``,
            every aten op of all phases, exactly.
        include: What is told of steps: ``"shapes"`` and ``"dtypes"`` of what they give,
            ``"parameters"`` (names, shapes) of the model and of each step, ``"arguments"`` that
            are no tensors. By default all, but arguments with layers only where asked for, as they
            are those of ops. Without ``"shapes"`` and ``"arguments"`` it is the same for every batch
            size with which the program does the same.

    Returns:
        32 hex digits.

    Raises:
        OptionError: For a level, or something to include, that there is not.

    >>> import torch, opscope
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> def traced(rows):
    ...     with opscope.trace(model) as trace:
    ...         model(torch.rand(rows, 4))
    ...     return trace
    >>> opscope.fingerprint(traced(1)) == opscope.fingerprint(traced(1))
    True
    >>> opscope.fingerprint(traced(1)) == opscope.fingerprint(traced(8))
    False
    >>> parts = ["dtypes", "parameters"]
    >>> opscope.fingerprint(traced(1), include=parts) == opscope.fingerprint(
    ...     traced(8), include=parts
    ... )
    True
    """
    if not isinstance(record, Record):
        message = f"record: {type(record).__name__} object (must be a trace, or the record of one)"
        raise OptionError(message)
    check_choice("level", level, LEVELS)
    if include is not None and (isinstance(include, str) or not isinstance(include, Sequence)):
        message = f"include: {include!r} (must be None, or a list of some of {', '.join(PARTS)})"
        raise OptionError(message)
    for part in include or ():
        check_choice("part to include", part, PARTS)
    return fingerprint_of(record.recording, level, OF_LEVEL[level] if include is None else include)
