"""Statistics of activations and gradients as a rich table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from opscope import notation

# Below so many characters the columns with the range make room.
_ROOM = 136
_NAMES = ("mean", "std", "min", "max", "zeros", "nonfinite")


def statistics_table(
    rows: Sequence[Mapping[str, Any]], step: int | None, title: str, width: int = 120
) -> Table:
    """Return a table with one row for each layer: its activation, and its gradient.

    Args:
        rows: As `opscope.watch` gives them.
        step: Of which training step they are; None before the first.
        title: The model's name.
        width: Of the console, in characters.
    """
    when = "no step yet" if step is None else f"step {step:,}"
    table = Table(
        title=Text(f"{notation.foreign(title)}: {when}", style="bold"), title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
    )  # fmt: skip
    has_gradients = any(row["grad_mean"] is not None for row in rows)
    prefixes = ("", "grad_") if has_gradients else ("",)
    wide = width >= _ROOM or not has_gradients
    table.add_column("layer", no_wrap=True, overflow="ellipsis", min_width=12)
    for prefix in prefixes:
        style = "blue" if prefix else "green"
        for name, least in _heads(prefix, wide=wide):
            table.add_column(name, justify="right", no_wrap=True, min_width=least, style=style)
    for row in rows:
        cells = [Text(notation.foreign(row["layer"]))]
        for prefix in prefixes:
            cells += _cells({name: row[prefix + name] for name in _NAMES}, prefix, wide=wide)
        table.add_row(*cells)
    return table


def _heads(prefix: str, *, wide: bool) -> list[tuple[str, int]]:
    mean = "grad mean" if prefix else "mean"
    ends = [("min", 9), ("max", 9)] if wide else []
    zeros = [("zeros", 5)] if wide or not prefix else []
    return [(mean, 9), ("± std", 8), *ends, *zeros, ("bad", 4)]


def _cells(numbers: Mapping[str, float | None], prefix: str, *, wide: bool) -> list[Text]:
    if any(number is None for number in numbers.values()):
        return [Text("–", style="dim") for _ in _heads(prefix, wide=wide)]
    mean, std, least, most, zeros, bad = (float(numbers[name] or 0) for name in _NAMES)
    ends = [least, most] if wide else []
    share = Text(f"{zeros:.0%}" if zeros else "–", style="yellow" if zeros > 0.9 else "")
    return [
        *(Text(f"{number:.3g}") for number in (mean, std, *ends)),
        *([share] if wide or not prefix else []),
        Text(f"{bad:.1%}" if bad else "–", style="bold red" if bad else ""),
    ]
