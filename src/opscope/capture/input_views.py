"""The views that torch makes of an input that a custom function returns: the function's own.

Where torch applies functions in C++ (see `custom_functions`) no frame tells of them, and they
look as if the program had taken a view without gradients just there.
"""

from __future__ import annotations

from opscope.capture.custom_functions import IN_CPP
from opscope.capture.tape import BACKWARD, GRAD, NONE, CallRow, OpRow, Tape


def placed(tape: Tape, ops: list[OpRow], calls: list[CallRow]) -> tuple[list[OpRow], list[CallRow]]:
    """Return the rows with such views in the place where they would be with a frame."""
    if IN_CPP:
        views = _Views(tape, ops, calls)
        for at, row in enumerate(ops):
            if row.slots.plan.name == "aten.view.default" and not row.flags & (GRAD | BACKWARD):
                views.look_at(at)
    return ops, calls


class _Views:
    """Moves the views in the rows, the first op first."""

    def __init__(self, tape: Tape, ops: list[OpRow], calls: list[CallRow]) -> None:
        self._places = tape.places
        self._starts = dict(tape.starts)
        self._ops = ops
        self._calls = calls
        self._call_of = {
            op: at for at, row in enumerate(calls) for op in range(row.ops_start, row.ops_end)
        }

    def look_at(self, at: int) -> None:
        """Move a view, or the call that it is in, if it is a function's own."""
        call, place = self._call_of.get(at), self._place(at)
        if call is not None and self._calls[call].function != "view_as":
            return
        if place == NONE or not self._is_own(at, place):
            return
        applied = self._places.applied(place)
        if call is None:
            self._ops[at] = self._ops[at]._replace(place=applied)
        else:
            self._calls[call] = self._calls[call]._replace(place=applied)

    def _is_own(self, at: int, place: int) -> bool:
        """Whether a function was applied just before an op, or ran the one before from there."""
        before = self._starts.get(at, self._ops[max(at - 1, 0)].sequence)
        # A function takes one of autograd's numbers, and no op does without gradients.
        if self._ops[at].sequence > before:
            return True
        return at > 0 and self._places.is_applied_at(self._place(at - 1), place)

    def _place(self, op: int) -> int:
        place, call = self._ops[op].place, self._call_of.get(op)
        return place if place != NONE or call is None else self._calls[call].place
