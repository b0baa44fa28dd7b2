"""What is told of a whole record: its ops added up, and all of it in so many characters."""

from __future__ import annotations

from opscope.errors import check_choice, check_row_limit
from opscope.exporters.digest import check_budget, digest
from opscope.exporters.tables.breakdown import Breakdown
from opscope.memory_use import memory_use
from opscope.reading import Reading
from opscope.records.sums.breakdown import BY, By, breakdown
from opscope.records.sums.findings import findings
from opscope.views.rows.table_rows import table_rows
from opscope.views.select import PHASES, Phase


def breakdown_of(reading: Reading, by: By, phase: Phase, row_limit: int | None) -> Breakdown:
    """Return a record's ops added up, see `Record.breakdown`."""
    check_choice("by", by, BY)
    check_choice("phase", phase, PHASES)
    check_row_limit(row_limit)
    recording = reading.recording
    return Breakdown(
        breakdown(recording, reading.costs.ops, by, phase), by,
        title=recording.model_name or "program", block_ns=recording.duration_ns,
        row_limit=row_limit,
    )  # fmt: skip


def text_of(reading: Reading, budget: int) -> str:
    """Return a record in so many characters, see `Record.text`."""
    check_budget(budget)
    recording, passes, work = reading.recording, reading.passes, reading.costs.ops
    rows = table_rows(recording, passes, "module", None, "forward", work, expand=())
    memory = "" if recording.storages is None else memory_use(recording, passes).said()
    return digest(
        recording, reading.totals, reading.costs.parts, findings(recording, passes),
        breakdown(recording, work, "operator"), rows, memory=memory, budget=budget,
    )  # fmt: skip
