"""The views that torch makes of an input that a custom function returns: the function's own.

Where torch applies functions in C++ (see `custom_functions`) no frame tells of them, and they
look as if the program had taken a view without gradients just there.
"""

from __future__ import annotations

from opscope.capture.log.contexts.custom_functions import IN_CPP
from opscope.capture.tables.rows import BACKWARD, GRAD, CallColumns, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.operators.known import VIEW
from opscope.records.columns.columns import NONE


def place_input_views(tables: Tables) -> None:
    """Put such views where they would be with a frame; done again it changes nothing."""
    if not IN_CPP:
        return
    plans = [slots.plan.name for slots in tables.ops[::3]]
    views = _Views(tables, tables.op_columns(), tables.call_columns())
    for at, flags in enumerate(views.ops.flags):
        if plans[at] == VIEW and not flags & (GRAD | BACKWARD):
            views.look_at(at)


class _Views:
    """Moves the views, the first op first.

    Attributes:
        ops: The numbers of the ops as they are then; so are those of the calls.
    """

    def __init__(self, tables: Tables, ops: OpColumns, calls: CallColumns) -> None:
        self._tables = tables
        self._sites = tables.call_sites
        self._starts = dict(tables.starts)
        self._functions = tables.calls[::2]
        self.ops = ops
        self._calls = calls
        spans = enumerate(zip(calls.ops_start, calls.ops_end, strict=True))
        self._call_of = {op: at for at, span in spans for op in range(*span)}

    def look_at(self, at: int) -> None:
        """Move a view, or the call that it is in, if it is a function's own."""
        call, site = self._call_of.get(at), self._site(at)
        if call is not None and self._functions[call] != "view_as":
            return
        if site == NONE or self._sites.begins_applied(site) or not self._is_own(at, site):
            return
        applied = self._sites.applied(site)
        if call is None:
            self.ops.call_site[at] = applied
            self._tables.move_op(at, applied)
        else:
            self._calls.call_site[call] = applied
            self._tables.move_call(call, applied)

    def _is_own(self, at: int, site: int) -> bool:
        """Whether a function was applied just before an op, or ran the one before from there."""
        before = self._starts.get(at, self.ops.sequence[max(at - 1, 0)])
        # A function takes one of autograd's numbers, and no op does without gradients.
        if self.ops.sequence[at] > before:
            return True
        return at > 0 and self._sites.is_applied_at(self._site(at - 1), site)

    def _site(self, op: int) -> int:
        site, call = self.ops.call_site[op], self._call_of.get(op)
        return site if site != NONE or call is None else self._calls.call_site[call]
