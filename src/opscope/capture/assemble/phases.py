"""Which phase of a training step an op is in."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from opscope.capture.assemble.links import Links, has_backward
from opscope.capture.tables.rows import BACKWARD, CallColumns, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.records.columns.columns import NONE, Column, Same
from opscope.records.ops import Phase


def phases(
    tables: Tables, ops: OpColumns, calls: CallColumns, found: Links
) -> tuple[Column[Phase], Column[Phase]]:
    """Return the phase of each op and of each recorded call.

    What runs in a module, or makes an autograd node, is forward. What reads the results of a
    backward or an optimizer outside of both is neither: clipping, averaging of weights.

    Args:
        tables: What was recorded.
        ops: Its ops.
        calls: Its calls.
        found: What `links` found.
    """
    contexts = (*tables.call_sites.contexts(), None)  # the last one is NONE's
    if not (has_backward(tables, ops) or "optimizer" in contexts):
        return Same("forward", len(ops.flags)), Same("forward", len(calls.call_site))
    source = tables.values.source
    late: set[int] = set()

    def outside_engine(module: int, site: int, read: Iterable[int]) -> Phase:
        if module != NONE:
            return "forward"
        if contexts[site] == "optimizer":
            return "optimizer"
        return (
            "other" if any(value != NONE and source(value) in late for value in read) else "forward"
        )

    of_ops: list[Phase] = []
    reads_at = made_at = wrote_at = 0
    rows = zip(
        ops.flags, ops.module, _sites(ops, calls), found.number,
        ops.reads_end, ops.made_end, ops.wrote_end, strict=True,
    )  # fmt: skip
    for flags, module, site, number, reads_end, made_end, wrote_end in rows:
        context = contexts[site]
        phase: Phase = "forward"
        if context == "backward" or (flags & BACKWARD and context != "optimizer"):
            phase = "backward"
        elif flags & BACKWARD or number == NONE:
            phase = outside_engine(module, site, tables.reads[reads_at:reads_end])
        if phase != "forward":
            late.update(tables.made[made_at:made_end], tables.wrote[wrote_at:wrote_end])
        of_ops.append(phase)
        reads_at, made_at, wrote_at = reads_end, made_end, wrote_end
    of_calls: list[Phase] = []
    for call, (start, stop) in enumerate(zip(calls.ops_start, calls.ops_end, strict=True)):
        passed = tables.pass_throughs.get(call)
        received = () if passed is None else passed.received
        of_calls.append(
            of_ops[start]
            if stop > start
            else outside_engine(calls.module[call], calls.call_site[call], received)
        )
    return of_ops, of_calls


def _sites(ops: OpColumns, calls: CallColumns) -> array[int]:
    """Return the call site of each op, which is that of its layer call where it has one."""
    sites = ops.call_site[:]
    for site, start, stop in zip(calls.call_site, calls.ops_start, calls.ops_end, strict=True):
        for op in range(start, stop):
            if sites[op] == NONE:
                sites[op] = site
    return sites
