"""Tables that fit a width: numbers are whole or not there, and what is cut looks cut.

Columns are chosen by their rank and share what room there is; then the texts in them are
shortened, so that rows still read differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Protocol

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from opscope import notation
from opscope.exporters.tables.writer import Writer

_GAPS = (3, 2)  # between columns: the second where the first leaves no room for all
_LEAST = 12  # of a column of text, in characters
_SHARE = 0.4  # of the width, for a column that says what a row is


class Cells(Protocol):
    """What a column shows: how wide it would be, how narrow it may be, and what it shows then."""

    natural: int
    least: int

    def fit(self, width: int) -> list[Text]:
        """Return the cells for a width from ``least`` to ``natural``."""


class Numbers:
    """Cells that are shown whole or not at all."""

    def __init__(self, cells: Sequence[Text], at_least: int = 0) -> None:
        self._cells = list(cells)
        self.natural = self.least = max([at_least, *(cell_len(cell.plain) for cell in cells)])

    def fit(self, width: int) -> list[Text]:
        """Return the cells."""
        return self._cells


class Words:
    """Cells of text, shortened in the middle."""

    def __init__(self, cells: Sequence[str], writer: Writer) -> None:
        self._cells, self._writer = cells, writer
        self.natural = max(map(cell_len, cells), default=0)
        self.least = min(self.natural, _LEAST)

    def fit(self, width: int) -> list[Text]:
        """Return the cells, shortened."""
        return list(map(Text, self._writer.apart(self._cells, [width] * len(self._cells))))


class Lists:
    """Cells with several entries each, of which the last are left out first."""

    def __init__(self, cells: Sequence[Sequence[notation.Entry]], writer: Writer) -> None:
        self._cells, self._writer = cells, writer
        whole = [writer.list(entries, 10**6) for entries in cells]
        self.natural = max(map(cell_len, whole), default=0)
        first = [
            cell_len(cell[0][1]) + 2 * bool(cell[0][0]) + 3 * (len(cell) > 1)
            for cell in cells if cell
        ]  # fmt: skip
        self.least = min(self.natural, max([_LEAST, *(min(width, 2 * _LEAST) for width in first)]))

    def fit(self, width: int) -> list[Text]:
        """Return the cells, with fewer entries where there are too many."""
        return [Text(self._writer.list(entries, width)) for entries in self._cells]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: Stands above it.
        cells: What it shows.
        rank: Says which columns there is room for first: the lowest.
        style: Rich's.
        enough: How wide it should be before there is room for columns that are extra.
        is_extra: Whether it is there only where it, and those before it, have enough.
        leads: Whether it says what a row is.
    """

    title: str
    cells: Cells
    rank: int = 0
    style: str = ""
    enough: int = 24
    is_extra: bool = False
    leads: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it is never cut."""
        return isinstance(self.cells, Numbers)

    @property
    def natural(self) -> int:
        """How wide it is where there is room."""
        return max(self.cells.natural, cell_len(self.title))

    def least(self, share: int = 0) -> int:
        """Return how narrow it may be; no narrower than ``share`` without need."""
        return min(self.natural, max(self.cells.least, cell_len(self.title), share))


def fit_table(
    columns: Sequence[Column],
    width: int,
    writer: Writer,
    *,
    title: str,
    more: str = "",
    names_missing: bool = False,
) -> Table:
    """Return a table no wider than ``width``, with the columns that there is room for.

    Args:
        columns: From left to right.
        width: In characters.
        writer: What its texts were written by.
        title: Stands above it.
        more: Stands below it, such as how many rows there are besides.
        names_missing: Whether the columns that there is no room for are named below, too.
    """
    gap, widths = _chosen(columns, width)
    _share_out(columns, widths, width - gap * (len(widths) - 1))
    missing = [column.title for place, column in enumerate(columns) if place not in widths]
    below = [writer(more)] if more else []
    if missing and names_missing:
        below.append(writer(f"… no room for {', '.join(missing)}"))
    whole = sum(widths.values()) + gap * (len(widths) - 1)
    spare = min(width, max(map(cell_len, [title, *below]))) - whole
    if spare > 0:  # a narrow table with a long title
        widths[min(widths)] += spare
        whole += spare
    rule = writer("─")
    table = Table(
        title=Text(writer.shorten(title, whole), style="bold"), title_justify="left",
        # The flag is for rich, which would draw another box where it thinks this cannot be.
        box=Box(f"    \n    \n {rule}{rule} \n" + "    \n" * 5, ascii=True),
        padding=(0, 1) if gap == 3 else (0, 1, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip
    cells = []
    for place in sorted(widths):
        column = columns[place]
        title, shown = _filled(column, widths[place])
        table.add_column(
            title, justify="right" if column.is_number else "left", style=column.style,
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
        cells.append(shown)
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    if below:
        lines = [wrapped("", line.split(), whole, writer) for line in below]
        table.caption, table.caption_justify = Text("\n").join(lines), "left"
    return table


def _filled(column: Column, width: int) -> tuple[str, list[Text]]:
    """Return title and cells, at least one of which is as wide as the column.

    So rich finds the width by itself: some versions add to one that they are given.
    """
    title, cells = column.title, list(column.cells.fit(width))
    if width == max(map(cell_len, [title, *(cell.plain for cell in cells)])):
        return title, cells
    if not cells:
        return (f"{title:>{width}}" if column.is_number else f"{title:<{width}}"), cells
    first = cells[0] = cells[0].copy()
    pad = first.pad_left if column.is_number else first.pad_right
    pad(width - cell_len(first.plain))
    return title, cells


def _chosen(columns: Sequence[Column], width: int) -> tuple[int, dict[int, int]]:
    """Return the gap between columns, and how narrow those may be that there is room for."""
    ranked = sorted(range(len(columns)), key=lambda place: columns[place].rank)
    for gap in _GAPS:
        chosen: dict[int, int] = {}
        room = width + gap
        for place in ranked:
            column = columns[place]
            least = column.least(int(width * _SHARE) if column.leads else 0)
            wanted = gap + least
            if column.is_extra:
                wanted = gap + column.least(column.enough) + sum(
                    max(0, columns[i].least(columns[i].enough) - chosen[i]) for i in chosen
                )  # fmt: skip
            if not chosen or wanted <= room:
                chosen[place] = min(least, width)
                room -= gap + chosen[place]
        if len(chosen) == len(columns):
            break
    return gap, chosen


def _share_out(columns: Sequence[Column], widths: dict[int, int], width: int) -> None:
    """Widen the columns in the order of their rank, none more than it needs."""
    ranked = sorted(widths, key=lambda place: columns[place].rank)
    # First all get what they need, and the one that tells the rows apart no more than half.
    limits = [(ranked[0], width // 2), *((place, width) for place in ranked), (ranked[0], width)]
    for place, limit in limits:
        column = columns[place]
        if column.is_number:
            continue
        room = width - sum(widths.values())
        most = widths[place] + min(room, max(0, min(column.natural, limit) - widths[place]))
        used = max([cell_len(cell.plain) for cell in column.cells.fit(most)], default=0)
        widths[place] = min(most, max(used, cell_len(column.title)))


def wrapped(label: str, phrases: Sequence[str], width: int, writer: Writer) -> Text:
    """Return phrases after a label, with new lines between them where one is too long."""
    indent = 0 if not label else 11 if width >= 60 else 2
    lines = [writer(f"{label:<11}" if label else "")]
    for phrase in map(writer, phrases):
        fits = cell_len(phrase) <= width - indent
        for word in [phrase] if fits else phrase.split():
            start = lines[-1] if lines[-1].endswith(" ") or not lines[-1] else f"{lines[-1]} "
            if cell_len(start + word) <= width or not start.strip():
                lines[-1] = start + writer.shorten(word, width - cell_len(start))
            else:
                lines.append(" " * indent + writer.shorten(word, width - indent))
    text = Text("\n".join(line.rstrip() for line in lines), no_wrap=True, overflow="ellipsis")
    text.stylize("dim", 0, len(label))
    return text


def as_text(*parts: RenderableType, width: int) -> str:
    """Return what a console shows, without colour and spaces at the ends."""
    file = StringIO()
    console = Console(
        file=file, width=width, color_system=None, force_terminal=False, force_jupyter=False,
        legacy_windows=False, no_color=True,
    )  # fmt: skip
    console.print(*parts, sep="\n")
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def as_html(*parts: RenderableType) -> str:
    """Return what a console `NOTEBOOK` characters wide shows, with colours."""
    console = Console(
        record=True, width=NOTEBOOK, file=StringIO(), force_jupyter=False, legacy_windows=False
    )
    for part in parts:
        console.print(part)
    return console.export_html(inline_styles=True, code_format=_HTML)


NOTEBOOK = 140
_HTML = '<pre style="line-height:normal;font-family:monospace;overflow-x:auto">{code}</pre>'
