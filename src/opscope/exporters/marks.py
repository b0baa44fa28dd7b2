"""Marks on a picture: nodes in colours, with what these mean."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from opscope.errors import OptionError, nearest

Marks = Mapping[str, str | tuple[str, str]]
"""By the label of a layer, the address of a module or the name of a parameter, a colour: alone, or
with what it means."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|[a-z]+\d?")


def check_marks(marks: Marks | None, known: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return marks as colours with what they mean, none for None.

    Args:
        marks: By key, a colour such as ``"#ff8800"`` or ``"orange"``, alone or with its meaning.
        known: The keys that there are.

    Raises:
        OptionError: For a key that there is not, or what is no colour.

    >>> check_marks({"conv2d_1_1": "red", "fc": ("#ff8800", "slow")}, ["conv2d_1_1", "fc"])
    {'conv2d_1_1': ('red', ''), 'fc': ('#ff8800', 'slow')}
    """
    if marks is not None and not isinstance(marks, Mapping):
        message = (
            f"marks: {type(marks).__name__} object (must be a dict of colours by label, or None)"
        )
        raise OptionError(message)
    found: dict[str, tuple[str, str]] = {}
    for key, mark in (marks or {}).items():
        colour, meaning = (mark, "") if isinstance(mark, str) else _pair(key, mark)
        if not _COLOUR.fullmatch(colour):
            message = (
                f"marks: {colour!r} for {key!r} (must be a colour such as '#ff8800' or 'orange')"
            )
            raise OptionError(message)
        if key not in known:
            near = ", ".join(map(repr, nearest(str(key), known)))
            message = f"marks: nothing is called {key!r}; the nearest: {near or 'there is nothing'}"
            raise OptionError(message)
        found[key] = colour, meaning
    return found


def _pair(key: object, mark: object) -> tuple[str, str]:
    if isinstance(mark, tuple) and len(mark) == 2 and all(isinstance(part, str) for part in mark):
        return mark
    message = f"marks: {mark!r} for {key!r} (must be a colour, or a colour and what it means)"
    raise OptionError(message)


def mark_of(
    marks: Mapping[str, tuple[str, str]], attributes: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return the mark of a node: of its layer, of that in all its passes, of its module, or parameter."""
    if attributes["kind"] == "module":
        keys = [attributes["module"]]
    else:
        label = str(attributes["layer"] or attributes["label"])
        keys = [label, label.partition(":")[0]]
    return next((marks[key] for key in keys if key in marks), None)


def legend(marks: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Return each colour that means something, with that.

    >>> legend({"a": ("red", "differs first"), "b": ("red", "differs first"), "c": ("blue", "")})
    [('red', 'differs first')]
    """
    return list(dict.fromkeys(mark for mark in marks.values() if mark[1]))
