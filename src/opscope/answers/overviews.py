"""What is told of a whole record: a table, its ops added up, and all of it in so many characters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from numbers import Real
from typing import Literal

from opscope.answers.memory_use import memory_use
from opscope.answers.reading import Reading
from opscope.errors import OptionError, check_choice, check_expand, check_row_limit
from opscope.exporters.progress import waiting
from opscope.exporters.short_report import check_budget, short_report
from opscope.exporters.tables.breakdown import Breakdown
from opscope.exporters.tables.console import Summary, check_table
from opscope.records.sums.breakdown import BY, By, Limits, breakdown
from opscope.records.sums.findings import findings, parameter_findings
from opscope.views.quotients.levels import Level
from opscope.views.rows.table_rows import table_rows
from opscope.views.select import PHASES, Phase


def table_of(
    reading: Reading,
    level: Level,
    depth: int | None,
    *,
    phase: Phase,
    columns: Sequence[str] | str | None,
    sort_by: str | None,
    row_limit: int | None,
    expand: Sequence[str] | Literal["all"],
) -> Summary:
    """Return a record's table, see `Record.summary`."""
    check_table(level, depth, phase, columns, sort_by, row_limit)
    recording, costs = reading.recording, reading.costs
    opened = check_expand(expand, [module.address for module in recording.modules])
    rows = table_rows(
        recording, reading.passes, level, depth, phase, costs.ops,
        None if sort_by is not None else opened,
    )  # fmt: skip
    return Summary(
        rows, reading.totals, title=recording.model_name or "program", level=level,
        costs=(costs.parts, costs.ops.known_kinds()), found=parameter_findings(recording),
        columns=columns, sort_by=sort_by, row_limit=row_limit,
    )  # fmt: skip


def breakdown_of(
    reading: Reading,
    by: By,
    phase: Phase,
    row_limit: int | None,
    peak_flops: float | None,
    bandwidth: float | None,
) -> Breakdown:
    """Return a record's ops added up, see `Record.breakdown`."""
    check_choice("by", by, BY)
    check_choice("phase", phase, PHASES)
    check_row_limit(row_limit)
    limits = _limits(peak_flops, bandwidth)
    recording = reading.recording
    work = reading.costs.ops
    with waiting("adding up") as track:
        shares = breakdown(recording, reading.passes, work, by, phase, limits, track)
    return Breakdown(
        shares, by, title=recording.model_name or "program", block_ns=recording.duration_ns,
        row_limit=row_limit,
    )  # fmt: skip


def _limits(peak_flops: float | None, bandwidth: float | None) -> Limits | None:
    """Return what a device can do, None if that was not said."""
    if peak_flops is None and bandwidth is None:
        return None
    return Limits(
        _rate("peak_flops", peak_flops, "floating-point operations"),
        _rate("bandwidth", bandwidth, "bytes"),
    )


def _rate(name: str, number: float | None, what: str) -> float:
    if isinstance(number, Real) and not isinstance(number, bool):
        with suppress(OverflowError):  # an integer that no float is
            rate = float(number)
            if isfinite(rate) and rate >= 1:
                return rate
    message = (
        f"{name}: {number!r} (must be a number of {what} per second, at least 1, and given with "
        "the other of peak_flops and bandwidth; opscope.measure_peaks() measures both)"
    )
    raise OptionError(message)


def text_of(reading: Reading, budget: int) -> str:
    """Return a record in so many characters, see `Record.text`."""
    check_budget(budget)
    recording, passes, work = reading.recording, reading.passes, reading.costs.ops
    rows = table_rows(recording, passes, "module", None, "forward", work, expand=())
    memory = "" if recording.storages is None else memory_use(recording, passes).said()
    with waiting("adding up") as track:
        shares = breakdown(recording, passes, work, "operator", track=track)
    return short_report(
        recording, reading.totals, reading.costs.parts, findings(recording, passes),
        shares, rows, memory=memory, budget=budget,
    )  # fmt: skip
