"""What stands below a table: sums, and what is worth a look; in phrases, between which a line may end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opscope import notation
from opscope.records.sums.findings import Finding
from opscope.records.sums.totals import Totals
from opscope.records.sums.work import PartWork

Lines = dict[str, list[str]]

# How the kinds of findings are headed where that is not their name.
_HEADINGS = {"tied": "tied (*)", "without gradient": "no gradient"}


def total_lines(sums: Totals, *, brackets: bool) -> Lines:
    """Return what the model holds and what was computed.

    Args:
        sums: All of it.
        brackets: Whether the parameters of some row are in brackets, as all are frozen.
    """
    frozen = sums.params - sums.trainable
    others = sums.other_params
    return {
        "parameters": [
            f"{notation.count(sums.params)} ({notation.size(sums.param_bytes)}),",
            f"{notation.count(sums.trainable)} trainable,",
            f"{notation.count(frozen)} frozen{' (in brackets)' * brackets}{',' * bool(others)}",
            *([f"and {notation.count(others)} of other modules"] if others else ()),
        ],
        "buffers": [f"{sums.buffers} ({notation.size(sums.buffer_bytes)})"],
        "computed": [
            f"{notation.plural(sums.tensors, 'tensor')} "
            f"({notation.size(sums.tensor_bytes)} newly allocated)",
            f"by {notation.plural(sums.layers, 'layer')},",
            f"{notation.plural(sums.ops, 'aten op')}",
            *_by_phase(sums),
        ],
    }


def _by_phase(sums: Totals) -> list[str]:
    if len(sums.ops_by_phase) < 2:
        return []
    counts = [f"{count:,} {phase}," for phase, count in sums.ops_by_phase.items()]
    return [f"({counts[0]}", *counts[1:-1], f"{counts[-1][:-1]})"]


def size_line(sums: Totals) -> list[str]:
    """Return what torchinfo estimates of the memory that it takes, with what that is good for."""
    parts = sums.input_bytes, sums.tensor_bytes, sums.param_bytes
    inputs, computed, params = map(notation.size, parts)
    return [
        f"{inputs} of inputs",
        f"+ {computed} computed",
        f"+ {params} of parameters",
        f"= {notation.size(sum(parts))}",
        "if nothing is freed; memory=True tells the peak",
    ]


def found_lines(found: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield what is worth a look, each after its heading."""
    for one in found:
        yield _HEADINGS.get(one.kind, one.kind), notation.sentence(one.said, 300)


def cost_lines(parts: PartWork, known: Sequence[str]) -> Lines:
    """Return what is computed in each part of a step, and of what it is known; nothing for nothing."""
    each = [
        f"{notation.amount(work.flops, work.unknown)} {part},"
        for part, work in parts
        if work.flops or work.unknown
    ]
    if not each:
        return {}
    return {"FLOPs": [*each[:-1], f"{each[-1][:-1]} (a multiply-add is 2);", *known]}
