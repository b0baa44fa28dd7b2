"""A trace in so many characters, for readers with a budget: people in a hurry, and programs."""

from __future__ import annotations

from collections.abc import Sequence

from opscope import notation
from opscope.errors import OptionError
from opscope.records.recording import Recording
from opscope.records.sums.breakdown import Share
from opscope.records.sums.findings import Finding
from opscope.records.sums.totals import Totals
from opscope.records.sums.work import PartWork
from opscope.views.rows.row import Row

LEAST = 400
_FOR_HINT = 900
_STRUCTURE, _COSTS = 0.75, 1.0  # of what is left after the first lines, how far each may go
_ASK = (
    'ask on: trace["LABEL or ADDRESS"], trace.summary(depth=…, expand=["ADDRESS"]), '
    'trace.breakdown("line"), trace.costs.modules["ADDRESS"]'
)


def check_budget(budget: int) -> None:
    """Raise an `OptionError` for a budget in which nothing can be said."""
    if type(budget) is not int or budget < LEAST:
        message = f"budget: {budget!r} (must be a whole number of characters from {LEAST})"
        raise OptionError(message)


def short_report(
    recording: Recording,
    sums: Totals,
    costs: PartWork,
    found: Sequence[Finding],
    shares: Sequence[Share],
    rows: Sequence[Row],
    *,
    memory: str,
    budget: int,
) -> str:
    """Return its size and costs, what is worth a look, the structure and the top costs.

    Args:
        recording: What happened.
        sums: Counts and sizes.
        costs: What is computed.
        found: What is worth a look.
        shares: Ops added up by operator, the longest first.
        rows: The tree of modules, blocks that repeat as one row.
        memory: The peak of memory in words, empty if it was not noted.
        budget: How many characters there may be at most.
    """
    lines = _size(recording, sums, costs, memory)
    lines += [f"! {notation.sentence(one.said, 300)}" for one in found]
    ask = [_ASK] if budget >= _FOR_HINT else []
    left = budget - sum(map(len, ask)) - 2
    lines = _fitting(lines, left)
    left -= sum(len(line) + 1 for line in lines)
    structure = _structure(rows, int(left * _STRUCTURE))
    lines += structure
    left -= sum(len(line) + 1 for line in structure)
    lines += _fitting(_top(shares), int(left * _COSTS))
    return notation.encodable("\n".join([*lines, *ask])[:budget])


def _size(recording: Recording, sums: Totals, costs: PartWork, memory: str) -> list[str]:
    phases = ", ".join(f"{count:,} {phase}" for phase, count in sums.ops_by_phase.items())
    flops = ", ".join(
        f"{notation.amount(work.flops, work.unknown)} {part}"
        for part, work in costs
        if work.flops or work.unknown
    )
    frozen = sums.params - sums.trainable
    return [
        f"{notation.foreign(recording.model_name or 'program')}: {notation.plural(sums.layers, 'layer')}, "
        f"{notation.plural(sums.ops, 'op')} ({phases or 'none'}), "
        f"{notation.duration(recording.duration_ns)} under the trace",
        f"parameters: {notation.count(sums.params)} ({notation.size(sums.param_bytes)})"
        + f", {notation.count(frozen)} frozen" * bool(frozen),
        *([f"FLOPs: {flops} (a multiply-add is 2)"] if flops else []),
        *([f"memory: {memory}"] if memory else []),
    ]


def _structure(rows: Sequence[Row], room: int) -> list[str]:
    """Return the tree of modules, as deep as there is room for."""
    deepest = max((row.depth for row in rows), default=0)
    for depth in range(deepest, -1, -1):
        lines = [_line(row) for row in rows if row.depth <= depth]
        if depth < deepest:
            lines.append(f"… deeper than {depth}: trace.summary()")
        if sum(len(line) + 1 for line in lines) <= room:
            return lines
    return _fitting([_line(row) for row in rows if row.depth <= 1], room)


def _line(row: Row) -> str:
    name = f"{row.name}–{row.last}" if row.blocks > 1 and row.is_module else row.name
    many = " × ".join(f"{n}" for n in (row.blocks, row.passes) if n > 1)
    output = notation.listed(
        notation.tensors([v.dtype for v in row.outputs], [v.shape for v in row.outputs], ())[:1]
    )
    parts = [
        notation.foreign(name, 60) + f" (×{many})" * bool(many),
        notation.foreign(row.kind, 40) if row.is_module and row.kind != row.name else "",
        f"→ {output}" if output else "",
        f"{notation.amount(row.params)} params" if row.params else "",
        f"{notation.amount(row.work.flops, row.work.unknown)} FLOPs"
        if row.work.flops or row.work.unknown
        else "",
        "FAILED" if row.failed else "",
    ]
    return "  " * row.depth + "  ".join(filter(None, parts))


def _top(shares: Sequence[Share]) -> list[str]:
    whole = sum(share.time_ns for share in shares) or 1
    return [
        "top operators by time:",
        *(
            f"  {notation.foreign(share.name, 60)} ×{share.calls}: {share.time_ns / whole:.1%}"
            + (f", {notation.amount(share.work.flops, share.work.unknown)} FLOPs" if share.work.flops or share.work.unknown else "")
            for share in shares[:8]
        ),
    ]  # fmt: skip


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    """Return lines as far as there is room, with how many there are besides."""
    found: list[str] = []
    for at, line in enumerate(lines):
        rest = f"… {notation.plural(len(lines) - at, 'more line')}"
        if len(line) + 1 + (len(rest) + 1) * (at + 1 < len(lines)) > room:
            if len(rest) + 1 <= room:
                found.append(rest)
            break
        found.append(line)
        room -= len(line) + 1
    return found
