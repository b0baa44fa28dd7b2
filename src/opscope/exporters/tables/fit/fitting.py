"""Tables that fit a width: numbers are whole or not there, and what is cut looks cut.

Columns are chosen by their rank and share what room there is; then the texts in them are
shortened, so that rows still read differently.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from opscope.exporters.tables.fit.column import Cell, Column, plain
from opscope.exporters.tables.fit.fitted import Fitted
from opscope.exporters.tables.fit.writer import Writer, cell_len

_GAPS = (3, 2)  # between columns: the second where the first leaves no room for all
_SHARE = 0.4  # of the width, for a column that says what a row is


def fit_table(
    columns: Sequence[Column],
    width: int,
    writer: Writer,
    *,
    title: str,
    more: str = "",
    names_missing: bool = False,
) -> Fitted:
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
    lines = [wrapped("", line.split(), whole, writer) for line in below]
    return Fitted(
        writer.shorten(title, whole),
        [(columns[place], *_filled(columns[place], widths[place])) for place in sorted(widths)],
        gap, Text("\n").join(lines) if lines else None, writer,
    )  # fmt: skip


def _filled(column: Column, width: int) -> tuple[str, list[Cell]]:
    """Return title and cells, at least one of which is as wide as the column.

    So rich finds the width by itself: some versions add to one that they are given.
    """
    title, cells = column.title, list(column.fit(width))
    if width == max(map(cell_len, [title, *(plain(cell) for cell in cells)])):
        return title, cells
    if not cells:
        return (f"{title:>{width}}" if column.is_number else f"{title:<{width}}"), cells
    first = cells[0]
    spaces = " " * (width - cell_len(plain(first)))
    if isinstance(first, str):
        cells[0] = spaces + first if column.is_number else first + spaces
    else:
        cells[0] = Text.assemble(spaces, first) if column.is_number else first + spaces
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
        used = max([cell_len(plain(cell)) for cell in column.fit(most)], default=0)
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
