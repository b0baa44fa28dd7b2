"""A table that fits: as rich shows it, as plain text, as HTML."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.box import Box
from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from opscope.errors import check_encoding, check_width
from opscope.exporters.tables.fit.column import Cell, Column, plain
from opscope.exporters.tables.fit.writer import Writer, cell_len

_MANY = 500  # rows


class Fitted:
    """A table whose columns and texts are chosen for a width.

    It prints itself with `rich.print`, as `table` does, and as plain text: both look the same. Rich
    takes half a millisecond for a row, so of long ones the lines are made here.

    Args:
        title: Stands above it.
        columns: From left to right, each with its title as wide as it is, and its cells.
        gap: Between columns.
        below: Stands below it.
        writer: What its texts were written by.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[tuple[Column, str, list[Cell]]],
        gap: int,
        below: Text | None,
        writer: Writer,
    ) -> None:
        self._title = title
        self._columns = columns
        self._gap = gap
        self._below = below
        self._rule = writer("─")
        self._widths = [
            max(map(cell_len, [head, *(plain(cell) for cell in cells)]))
            for _, head, cells in columns
        ]
        self._count = len(columns[0][2])

    def table(self) -> Table:
        """Return it as rich's own object."""
        rule = self._rule
        table = Table(
            title=Text(self._title, style="bold"), title_justify="left",
            # The flag is for rich, which would draw another box where it thinks this cannot be.
            box=Box(f"    \n    \n {rule}{rule} \n" + "    \n" * 5, ascii=True),
            padding=(0, 1) if self._gap == 3 else (0, 1, 0, 0), pad_edge=False, show_edge=False,
        )  # fmt: skip
        for column, head, _ in self._columns:
            table.add_column(
                head, justify="right" if column.is_number else "left", style=column.style,
                no_wrap=True, overflow="ellipsis",
            )  # fmt: skip
        for row in zip(*(cells for *_, cells in self._columns), strict=True):
            table.add_row(*map(_as_text, row))
        if self._below is not None:
            table.caption, table.caption_justify = self._below, "left"
        return table

    def lines(self) -> Iterator[str]:
        """Yield its lines, without colour and spaces at the ends."""
        gap = " " * self._gap
        yield self._title
        yield gap.join(self._padded(head, place) for place, (_, head, _) in self._each()).rstrip()
        yield self._rule * (sum(self._widths) + self._gap * (len(self._widths) - 1))
        texts = [
            [self._padded(plain(cell), place) for cell in cells]
            for place, (_, _, cells) in self._each()
        ]
        for row in zip(*texts, strict=True):
            yield gap.join(row).rstrip()
        if self._below is not None:
            yield from self._below.plain.split("\n")

    def _each(self) -> Iterator[tuple[int, tuple[Column, str, list[Cell]]]]:
        return enumerate(self._columns)

    def _padded(self, text: str, place: int) -> str:
        spaces = " " * (self._widths[place] - cell_len(text))
        return spaces + text if self._columns[place][0].is_number else text + spaces

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._count <= _MANY:
            yield self.table()
            return
        lines = self.lines()
        styles = [console.get_style(column.style) for column, *_ in self._columns]
        for number in range(3):
            style = Style(bold=True) if number < 2 else None
            yield from (Segment(next(lines), style), Segment.line())
        for at in range(self._count):
            for place, (column, _, cells) in self._each():
                if place:
                    yield Segment(" " * self._gap)
                cell = _as_text(cells[at])
                spaces = Segment(" " * (self._widths[place] - cell_len(cell.plain)), styles[place])
                style = styles[place] + console.get_style(cell.style)
                shown = Segment.apply_style(cell.render(console), style)
                yield from (spaces, *shown) if column.is_number else (*shown, spaces)
            yield Segment.line()
        if self._below is not None:
            yield self._below


def _as_text(cell: Cell) -> Text:
    """Return a cell for rich, which would take a plain string for markup."""
    return Text(cell) if isinstance(cell, str) else cell


class Printed(ABC):
    """What prints itself as a table and lines below it: with `rich.print`, in a notebook, as ``str``.

    It is no wider than where it is shown: columns that there is no room for are left out.
    """

    @abstractmethod
    def _table(self, width: int, writer: Writer) -> Fitted:
        """Return the table for a width."""

    @abstractmethod
    def _footer(self, width: int, writer: Writer) -> Text:
        """Return what stands below it."""

    def table(self, width: int = 120, encoding: str | None = None) -> Table:
        """Return the table as rich's own object.

        Columns that there is no room for are left out, the least important first; texts are
        shortened in the middle, and numbers never.

        Args:
            width: In characters, 30 at least.
            encoding: What it must be possible to write it in, such as ``"ascii"``; by default
                that of the standard output.

        Raises:
            OptionError: For a width that is no whole number, or less, or an encoding that
                Python does not know.
        """
        check_width(width)
        check_encoding(encoding)
        return self._table(width, Writer(encoding)).table()

    def as_text(self, width: int = 120, encoding: str | None = None) -> str:
        """Return the table without colour, no wider than ``width``; arguments as for `table`.

        Raises:
            OptionError: As `table` does.
        """
        check_width(width)
        check_encoding(encoding)
        return as_text(*self._parts(width, encoding), width=width)

    def _parts(self, width: int, encoding: str | None) -> list[RenderableType]:
        writer = Writer(encoding)
        return [self._table(width, writer), Text(), self._footer(width, writer)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._parts(options.max_width, options.encoding)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return as_html(*self._parts(NOTEBOOK, "utf-8"))


def as_text(*parts: RenderableType, width: int) -> str:
    """Return what a console shows, without colour and spaces at the ends."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Fitted):  # which is no wider, where that is wide enough for one column
            lines += (
                set_cell_size(ln, width) if cell_len(ln) > width else ln for ln in part.lines()
            )
        else:
            lines += _shown(part, width)
    text = "\n".join(lines).rstrip("\n")
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _shown(part: RenderableType, width: int) -> list[str]:
    """Return the lines that a console shows."""
    file = StringIO()
    console = Console(
        file=file, width=width, color_system=None, force_terminal=False, force_jupyter=False,
        legacy_windows=False, no_color=True,
    )  # fmt: skip
    console.print(part)
    return file.getvalue().removesuffix("\n").split("\n")


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
