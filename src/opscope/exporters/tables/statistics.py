"""Statistics of activations and gradients as a rich table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from opscope.exporters.tables.fit.column import Column, Numbers, Words
from opscope.exporters.tables.fit.fitted import Fitted
from opscope.exporters.tables.fit.fitting import fit_table
from opscope.exporters.tables.fit.writer import Writer

# Of each activation, and then of its gradient: what it is called, its head, how wide it is at
# least (so that a live display does not jump), and its rank.
_COLUMNS = {
    "mean": ("mean", 9, 1),
    "std": ("± std", 8, 2),
    "min": ("min", 9, 8),
    "max": ("max", 9, 9),
    "zeros": ("zeros", 5, 4),
    "nonfinite": ("bad", 4, 3),
}
_OF_GRADIENT = {
    "mean": ("grad mean", 9, 5),
    "std": ("± std", 8, 6),
    "min": ("min", 9, 10),
    "max": ("max", 9, 11),
    "zeros": ("zeros", 5, 12),
    "nonfinite": ("bad", 4, 7),
}


def statistics_table(
    rows: Sequence[Mapping[str, Any]],
    step: int | None,
    title: str,
    width: int = 120,
    encoding: str | None = None,
) -> Fitted:
    """Return a table with one row for each layer: its activation, and its gradient.

    Args:
        rows: As `opscope.watch` gives them.
        step: Of which training step they are; None before the first.
        title: The model's name.
        width: In characters; columns that there is no room for are left out.
        encoding: What it must be possible to write it in; by default that of the standard output.
    """
    writer = Writer(encoding)
    when = "no step yet" if step is None else f"step {step:,}"
    names = [writer.foreign(row["layer"]) for row in rows]
    columns = [Column("layer", Words(names, writer), leads=True)]
    has_gradients = any(row["grad_mean"] is not None for row in rows)
    for prefix, heads in (("", _COLUMNS), ("grad_", _OF_GRADIENT)):
        if prefix and not has_gradients:
            break
        for name, (head, least, rank) in heads.items():
            cells = [_cell(name, row[prefix + name], writer) for row in rows]
            style = "blue" if prefix else "green"
            columns.append(Column(writer(head), Numbers(cells, least), rank, style))
    return fit_table(columns, width, writer, title=writer.foreign(f"{title}: {when}"))


def _cell(name: str, number: float | None, writer: Writer) -> Text:
    if number is None:
        return Text(writer("–"), style="dim")
    if name == "zeros":
        return Text(f"{number:.0%}" if number else writer("–"), "yellow" if number > 0.9 else "")
    if name == "nonfinite":
        return Text(f"{number:.1%}" if number else writer("–"), "bold red" if number else "")
    return Text(f"{number:.3g}")
