"""What a test suite pins of a program: its fingerprint, or a file of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from opscope.analysis.structure.fingerprints import (
    LEVELS,
    OF_LEVEL,
    FingerprintLevel,
    fingerprint_of,
)
from opscope.analysis.structure.wiring import PARTS, Part
from opscope.errors import OptionError, ProgramChanged, check_choice, check_flag
from opscope.loading import load
from opscope.notation import foreign
from opscope.record import Record
from opscope.verbs.comparing import compare

UPDATE = "OPSCOPE_UPDATE"
"""An environment variable: whether files of programs are renewed where it was not said."""


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


def assert_same(
    record: Record,
    path: str | PathLike[str],
    level: FingerprintLevel = "layer",
    *,
    include: Sequence[Part] | None = None,
    update: bool | None = None,
) -> None:
    """Raise, with what differs, unless a program has the structure that is kept in a file.

    Args:
        record: A trace, or the record of one.
        path: A file that `Record.save` wrote, or that is to be made by ``update``; its name ends in
            ``.opscope``. Tensors are not kept in it.
        level: What is compared, as by `fingerprint`.
        include: Likewise.
        update: Whether the file is to be made, or made anew if it is of another structure. None
            for what the environment variable ``OPSCOPE_UPDATE`` says, as in
            ``OPSCOPE_UPDATE=1 pytest``.

    Raises:
        ProgramChanged: An `AssertionError`, if the structure is another.
        OptionError: If there is no such file, or as by `fingerprint`.
        UnreadableFile: If it is no such file.

    >>> import tempfile, torch, opscope
    >>> with opscope.trace() as trace:
    ...     y = torch.relu(torch.ones(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     opscope.assert_same(trace, f"{folder}/golden.opscope", update=True)
    ...     opscope.assert_same(trace, f"{folder}/golden.opscope")
    """
    found = fingerprint(record, level, include=include)
    if update is None:
        update = os.environ.get(UPDATE, "") not in ("", "0")
    check_flag("update", update)
    if not Path(path).exists():
        if not update:
            message = (
                f"path: there is no {foreign(str(path))}: make it with {UPDATE}=1, or update=True"
            )
            raise OptionError(message)
        record.save(path, tensors=False)
        return
    pinned = load(path)
    if fingerprint(pinned, level, include=include) == found:
        return
    if update:
        record.save(path, tensors=False)
        return
    comparison = compare(pinned, record)
    what = str(comparison)
    if comparison.same:
        what = f"What gives what to what, in its {level}s, is not what it was."
    message = (
        f"this program (b) is not the one in {foreign(Path(path).name)} (a); where that is meant, "
        f"{UPDATE}=1 or update=True renews the file"
    )
    raise ProgramChanged(message, difference=what)
