"""Rows as a rich table, with the totals below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from opscope import notation
from opscope.errors import OptionError, check_choice
from opscope.records.totals import Totals
from opscope.views.rows import Row


@dataclass(frozen=True, slots=True)
class _Column:
    """How one column is headed, written, ordered and drawn.

    ``rank`` says which columns make room first where the console is narrow: the highest.
    """

    title: str
    write: Callable[[Row], str]
    order: Callable[[Row], Any]
    numeric: bool = False
    rank: int = 0
    style: str = ""


def _outputs(row: Row) -> str:
    return notation.tensors([v.dtype for v in row.outputs], [v.shape for v in row.outputs])


def _inputs(row: Row) -> str:
    return notation.tensors([v.dtype for v in row.inputs], [v.shape for v in row.inputs])


def _short_source(row: Row) -> str:
    return row.source.replace("\\", "/").rpartition("/")[2]


_COLUMNS: dict[str, _Column] = {
    "name": _Column("layer", lambda r: r.name, lambda r: r.name),
    "type": _Column("type", lambda r: r.kind, lambda r: r.kind, rank=2, style="cyan"),
    "module": _Column("module", lambda r: r.module, lambda r: r.module, rank=3),
    "op": _Column("aten ops", lambda r: r.op, lambda r: r.op, rank=4, style="dim"),
    "input": _Column("input", _inputs, _inputs, rank=5),
    "output": _Column("output", _outputs, _outputs, style="green"),
    "params": _Column(
        "params", lambda r: notation.count(r.params) if r.params else "–",
        lambda r: r.params, numeric=True, style="magenta",
    ),
    "trainable": _Column(
        "trainable", lambda r: notation.count(r.trainable) if r.trainable else "–",
        lambda r: r.trainable, numeric=True,
    ),
    "memory": _Column(
        "memory", lambda r: notation.size(r.memory), lambda r: r.memory, numeric=True, rank=1
    ),
    "time": _Column(
        "time", lambda r: notation.duration(r.time_ns) if r.time_ns else "–",
        lambda r: r.time_ns, numeric=True, rank=1,
    ),
    "backward": _Column(
        "backward", lambda r: notation.duration(r.backward_ns) if r.backward_ns else "–",
        lambda r: r.backward_ns, numeric=True, rank=3,
    ),
    "source": _Column("source", _short_source, _short_source, rank=3, style="dim"),
}  # fmt: skip

ColumnName = Literal[
    "name", "type", "module", "op", "input", "output", "params", "trainable", "memory", "time",
    "backward", "source",
]  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(_COLUMNS)
_DEFAULT = {
    "module": ("name", "input", "output", "params", "memory", "time", "backward"),
    "layer": ("name", "module", "op", "output", "params", "memory", "time", "backward"),
    "op": ("name", "type", "module", "output", "memory", "time"),
}
# Below so many characters the columns of this rank and above make room.
_ROOM = ((100, 3), (140, 5))


def check_columns(columns: Sequence[str] | None, sort_by: str | None) -> None:
    """Raise an `OptionError` that lists the choices for a column that there is not."""
    listed = isinstance(columns, Sequence) and not isinstance(columns, str)
    if columns is not None and not (listed and columns):
        message = f"columns: {columns!r} (must be a list of names such as ['name', 'output'])"
        raise OptionError(message)
    for column in columns or ():
        check_choice("column", column, COLUMNS)
    if sort_by is not None:
        name = sort_by.removeprefix("-") if isinstance(sort_by, str) else sort_by
        check_choice("sort_by", name, COLUMNS)


def _by_phase(sums: Totals) -> str:
    if len(sums.ops_by_phase) < 2:
        return ""
    return f" ({', '.join(f'{count:,} {phase}' for phase, count in sums.ops_by_phase.items())})"


def check_row_limit(row_limit: int | None) -> None:
    """Raise an `OptionError` unless ``row_limit`` is None or a whole number from 1."""
    if row_limit is not None and (type(row_limit) is not int or row_limit < 1):
        message = f"row_limit: {row_limit!r} (must be None, for all, or a whole number from 1)"
        raise OptionError(message)


class Summary:
    """A table that fits the console it is printed on.

    ``table()`` gives the `rich.table.Table` itself.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sums: Totals,
        *,
        title: str,
        level: str,
        columns: Sequence[str] | None = None,
        sort_by: str | None = None,
        row_limit: int | None = None,
    ) -> None:
        check_columns(columns, sort_by)
        check_row_limit(row_limit)
        self._chosen = None if columns is None else tuple(columns)
        self._level = level
        self._title = notation.foreign(title)
        self._sums = sums
        self._tree = level == "module" and sort_by is None
        ordered = list(rows)
        if sort_by is not None:
            column = _COLUMNS[sort_by.removeprefix("-")]
            descending = column.numeric != sort_by.startswith("-")
            ordered.sort(key=column.order, reverse=descending)
        self._left_out = max(0, len(ordered) - row_limit) if row_limit else 0
        self._rows = ordered[: row_limit or len(ordered)]

    def table(self, width: int = 120) -> Table:
        """Return the table as rich's own object, with the columns for a width in characters."""
        table = Table(
            title=Text(self._title, style="bold"), title_justify="left", title_style="bold",
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
        )  # fmt: skip
        names = self._columns(width)
        for name in names:
            column = _COLUMNS[name]
            title = self._level if name == "name" else column.title
            table.add_column(
                title,
                justify="right" if column.numeric else "left",
                style=column.style,
                no_wrap=column.numeric,  # the others make room: `_cell` cuts them
                min_width=len(title) if column.numeric else 16,
            )
        guides = _guides(self._rows) if self._tree else [""] * len(self._rows)
        for row, guide in zip(self._rows, guides, strict=True):
            table.add_row(*(self._cell(name, row, guide) for name in names))
        if self._left_out:
            table.add_row(Text(f"… {notation.plural(self._left_out, 'more row')}", style="dim"))
        return table

    def _columns(self, width: int) -> tuple[str, ...]:
        if self._chosen is not None:
            return self._chosen
        bound = next((rank for least, rank in _ROOM if width < least), 10)
        names = tuple(name for name in _DEFAULT[self._level] if _COLUMNS[name].rank < bound)
        has_backward = any(row.backward_ns for row in self._rows)
        return tuple(name for name in names if name != "backward" or has_backward)

    def _cell(self, name: str, row: Row, guide: str) -> Text:
        written = notation.foreign(_COLUMNS[name].write(row))
        if name != "name":
            return Text(written, no_wrap=True, overflow="ellipsis")
        if self._tree and row.is_module and row.depth:
            written = written.removeprefix(notation.foreign(f"{row.below}.") if row.below else "")
        if row.passes > 1:
            written += f" (×{row.passes})"
        style = "bold red" if row.failed else "bold" if row.is_module else ""
        cell = Text(no_wrap=True, overflow="ellipsis")
        cell.append(guide, "dim").append(written + (" ✗" if row.failed else ""), style)
        if row.is_module and written != row.kind:
            cell.append(f" {notation.foreign(row.kind)}", style="cyan")
        return cell

    def _footer(self) -> Text:
        sums = self._sums
        frozen = sums.params - sums.trainable
        lines = [
            ("parameters", f"{notation.count(sums.params)} ({notation.size(sums.param_bytes)}), "
             f"{notation.count(sums.trainable)} trainable, {notation.count(frozen)} frozen"),
            ("buffers", f"{sums.buffers} ({notation.size(sums.buffer_bytes)})"),
            ("computed", f"{notation.plural(sums.tensors, 'tensor')} "
             f"({notation.size(sums.tensor_bytes)}) by {notation.plural(sums.layers, 'layer')}, "
             f"{notation.plural(sums.ops, 'aten op')}{_by_phase(sums)}"),
        ]  # fmt: skip
        return Text("\n").join(
            Text.assemble((f"{name:<11}", "dim"), value) for name, value in lines
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(self.table(options.max_width), Text(), self._footer())

    def __repr__(self) -> str:
        return self.as_text()

    def as_text(self, width: int = 120) -> str:
        """Return the table without colour, ``width`` characters wide."""
        console = Console(width=width, color_system=None, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        console = Console(record=True, width=140, file=StringIO(), force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format=_HTML)


_HTML = '<pre style="line-height:normal;font-family:monospace;overflow-x:auto">{code}</pre>'


def _guides(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a tree to draw before each row."""
    guides: list[str] = []
    open_below: set[int] = set()  # depths at which a later sibling follows
    for row in reversed(rows):
        depth = row.depth
        open_below = {level for level in open_below if level <= depth}
        if depth:
            trunk = "".join("│  " if level in open_below else "   " for level in range(1, depth))
            guides.append(trunk + ("├─ " if depth in open_below else "└─ "))
            open_below.add(depth)
        else:
            guides.append("")
    return guides[::-1]
