"""The rows of a table: one per op, per layer pass, or per module with its children below."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.sums.work import OpWork
from opscope.views.quotients.levels import Level
from opscope.views.rows.backward_ops import BackwardOps
from opscope.views.rows.layer_rows import LayerRows
from opscope.views.rows.module_rows import ModuleRows
from opscope.views.rows.row import Row
from opscope.views.select import Phase

__all__ = ["BackwardOps", "Row", "table_rows"]


def table_rows(
    recording: Recording,
    passes: Sequence[LayerPass],
    level: Level,
    depth: int | None = None,
    phase: Phase = "forward",
    work: OpWork | None = None,
    expand: Collection[str] | None = None,
) -> Sequence[Row]:
    """Return the rows at a level, of one phase of a training step.

    At level ``"module"`` the rows are the tree of calls: below each module what it called, as
    deep as ``depth``; what a container computes between its children is a row of its own. A
    module that one other calls several times is one row there, shown as in its first run, with
    the time and memory of these runs; one that several call has a row below each. At the others
    ``depth`` bounds how deep a row's module may lie; what is deeper is left out. In phase
    ``"backward"`` a layer's row, and a module's, tells of the ops that ran for it in backward;
    its outputs are what these gave to others. With ``work``, what each op computes, rows tell of it.
    With ``expand``, blocks that repeat are one row, but for those at these addresses.
    """
    layers = LayerRows(recording, passes, phase, work)
    if level == "module":
        return list(ModuleRows(layers, expand).rows(depth))
    return layers.ops(depth) if level == "op" else layers.layers(depth)
