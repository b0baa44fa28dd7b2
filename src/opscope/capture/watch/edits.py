"""Results that editors replace: part of the program, and recorded as what it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opscope.capture.collect.collector import Editor
from opscope.capture.log.hooks import ReturnedCall


class Edits:
    """Asks editors for what the program is to be given, one after the other.

    Args:
        editors: Those of the user's.
    """

    def __init__(self, editors: Sequence[Editor]) -> None:
        self._editors = editors
        self._is_asking = False

    def begin(self) -> None:
        """Begin anew: an interrupt may have come while one was asked."""
        self._is_asking = False

    def __call__(self, call: ReturnedCall) -> Any:
        """Return what the program is to be given in the place of what a call returned."""
        if self._is_asking:  # what an editor runs itself
            return call.result
        self._is_asking = True
        try:
            for editor in self._editors:
                result = editor.replace(call)
                if result is not None:
                    call = call._replace(result=result)
        finally:
            self._is_asking = False
        return call.result
