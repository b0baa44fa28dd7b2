"""Rows as a rich table, with the totals below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from rich.text import Text

from opscope import notation
from opscope.errors import OptionError, check_choice, check_depth, check_row_limit
from opscope.exporters.tables.data import TableData
from opscope.exporters.tables.fit.column import Cells, Column, Lists, Numbers, Words, plain
from opscope.exporters.tables.fit.fitted import Fitted, Printed
from opscope.exporters.tables.fit.fitting import fit_table, wrapped
from opscope.exporters.tables.fit.footer import cost_lines, found_lines, size_line, total_lines
from opscope.exporters.tables.fit.names import Names
from opscope.exporters.tables.fit.writer import Writer
from opscope.records.sums.findings import Finding
from opscope.records.sums.totals import Totals
from opscope.records.sums.work import PartWork
from opscope.views.quotients.levels import LEVELS
from opscope.views.rows.row import Row, Rows
from opscope.views.select import PHASES


@dataclass(frozen=True, slots=True)
class _Column:
    """How one column is headed, written, ordered and drawn.

    ``rank`` says which columns there is room for first where the console is narrow: the lowest.
    From `_EXTRA` on they are there only where the others have enough. ``field`` is that of a row by which it is ordered.
    """

    title: str
    order: Callable[[Row], Any]
    cells: Callable[[Sequence[Row], Writer], Cells]
    rank: int
    numeric: bool = False
    style: str = ""
    enough: int = 24
    field: str = ""


def _words(title: str, read: Callable[[Row], str], rank: int, style: str = "") -> _Column:
    def cells(rows: Sequence[Row], writer: Writer) -> Cells:
        return Words([writer.foreign(read(row)) for row in rows], writer)

    return _Column(title, read, cells, rank, style=style)


def _lists(
    title: str, read: Callable[[Row], list[notation.Entry]], rank: int, style: str = "",
    enough: int = 24,
) -> _Column:  # fmt: skip
    def cells(rows: Sequence[Row], writer: Writer) -> Cells:
        return Lists([[(writer(a), writer(b)) for a, b in read(row)] for row in rows], writer)

    return _Column(
        title, lambda row: notation.listed(read(row)), cells, rank, style=style, enough=enough
    )


def _numbers(
    title: str, field: str, write: Callable[[int], str], rank: int, style: str = ""
) -> _Column:
    read: Callable[[Row], int] = attrgetter(field)

    def cells(rows: Sequence[Row], writer: Writer) -> Cells:
        return Numbers([writer(write(read(row))) for row in rows])

    return _Column(title, read, cells, rank, numeric=True, style=style, field=field)


def _of_work(title: str, name: str, rank: int) -> _Column:
    """Return a column of what rows compute: ``"flops"``, ``"macs"`` or ``"elements"``."""

    def write(row: Row) -> str:
        number, unknown = getattr(row.work, name), row.work.unknown
        return notation.amount(number, unknown) if number or unknown else "–"

    def cells(rows: Sequence[Row], writer: Writer) -> Cells:
        return Numbers([writer(write(row)) for row in rows])

    return _Column(
        title, lambda row: getattr(row.work, name), cells, rank, numeric=True, style="yellow"
    )


def _percent(row: Row, writer: Writer) -> str:
    return f"{row.share:.1%}" if row.params else writer("–")


def is_frozen(row: Row) -> bool:
    """Whether a row has parameters, and none that is trained."""
    return row.params > 0 and not row.trainable


def _params(rows: Sequence[Row], writer: Writer) -> Cells:
    """Write how many parameters each has: in brackets if all are frozen, with a star if tied."""

    def write(row: Row) -> str:
        text = notation.count(row.params)
        return "*" * row.is_tied + (f"({text})" if is_frozen(row) else text)

    return Numbers([write(row) if row.params else writer("–") for row in rows])


def _or_dash(write: Callable[[int], str]) -> Callable[[int], str]:
    return lambda number: write(number) if number else "–"


def _inputs(row: Row) -> list[notation.Entry]:
    values = row.inputs
    return notation.tensors([v.dtype for v in values], [v.shape for v in values], row.input_paths)


def _outputs(row: Row) -> list[notation.Entry]:
    values = row.outputs
    return notation.tensors([v.dtype for v in values], [v.shape for v in values], row.output_paths)


def _operators(row: Row) -> list[notation.Entry]:
    parts = (entry.partition(" ×") for entry in row.op.split(", ") if entry)
    return [(notation.foreign(name, 60), cross.strip() + count) for name, cross, count in parts]


def _settings(row: Row) -> list[notation.Entry]:
    return notation.settings(row.settings())


def _kernel(row: Row) -> str:
    return next(
        (text.partition("=")[2] for _, text in _settings(row) if text.startswith("kernel_size=")),
        "",
    )


def _short_source(row: Row) -> str:
    return notation.file_name(row.source)


_COLUMNS: dict[str, _Column] = {
    "name": _Column("", lambda r: r.name, partial(Names, is_tree=False), 0, enough=40),
    "type": _words("type", lambda r: r.kind, 1, "cyan"),
    "module": _words("module", lambda r: r.module, 8),
    "op": _lists("aten ops", _operators, 11, "dim", enough=14),
    "input": _lists("input", _inputs, 12),
    "output": _lists("output", _outputs, 2, "green", enough=40),
    "params": _Column(
        "params", attrgetter("params"), _params, 3, numeric=True, style="magenta", field="params"
    ),
    "trainable": _numbers("trainable", "trainable", _or_dash(notation.count), 4),
    "share": _Column(
        "params %",
        attrgetter("share"),
        lambda rows, writer: Numbers([_percent(row, writer) for row in rows]),
        4,
        numeric=True,
        field="share",
    ),
    "kernel": _words("kernel", _kernel, 5),
    "arguments": _lists("arguments", _settings, 9, "dim"),
    "flops": _of_work("FLOPs", "flops", 5),
    "macs": _of_work("MACs", "macs", 5),
    "elements": _of_work("elements", "elements", 5),
    "memory": _numbers("memory", "memory", notation.size, 7),
    "time": _numbers("time", "time_ns", _or_dash(notation.duration), 6),
    "backward": _numbers("backward", "backward_ns", _or_dash(notation.duration), 9),
    "source": _words("source", _short_source, 10, "dim"),
}

_EXTRA = 10

PAGE = 1000
"""How many rows are printed where it was not said."""

ColumnName = Literal[
    "name", "type", "module", "op", "input", "output", "params", "trainable", "share", "kernel",
    "arguments", "flops", "macs", "elements", "memory", "time", "backward", "source",
]  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(_COLUMNS)
_DEFAULT = {
    "module": ("name", "input", "output", "params", "flops", "memory", "time", "backward"),
    "layer": ("name", "module", "op", "output", "params", "flops", "memory", "time", "backward"),
    "op": ("name", "type", "module", "output", "flops", "memory", "time"),
}
# Sets of columns for a purpose.
COLUMN_SETS: dict[str, tuple[str, ...]] = {
    "torchinfo": ("name", "input", "output", "params", "share", "kernel", "macs", "trainable"),
    "shapes": ("name", "input", "output", "arguments"),
    "costs": ("name", "params", "share", "flops", "macs", "elements", "time", "backward"),
    "memory": ("name", "output", "params", "memory"),
}
# Shown where any row has what they tell of.
_IF_ANY: dict[str, Callable[[Row], object]] = {
    "backward": lambda row: row.backward_ns,
    "flops": lambda row: row.work.flops or row.work.unknown,
}


def check_table(
    level: str,
    depth: int | None,
    phase: str,
    columns: Sequence[str] | str | None,
    sort_by: str | None,
    row_limit: int | None,
) -> None:
    """Raise an `OptionError` for what no table can be made of, see `Trace.summary`."""
    check_choice("level", level, LEVELS)
    check_depth(depth)
    check_choice("phase", phase, PHASES)
    check_columns(columns, sort_by)
    check_row_limit(row_limit)


def check_columns(columns: Sequence[str] | str | None, sort_by: str | None) -> None:
    """Raise an `OptionError` that lists the choices for a column that there is not."""
    if isinstance(columns, str) and columns in COLUMN_SETS:
        columns = COLUMN_SETS[columns]
    listed = isinstance(columns, Sequence) and not isinstance(columns, str)
    if columns is not None and not (listed and columns):
        message = (
            f"columns: {columns!r} (must be a list of names such as ['name', 'output'], or one of "
            f"{', '.join(map(repr, COLUMN_SETS))})"
        )
        raise OptionError(message)
    for column in columns or ():
        check_choice("column", column, COLUMNS)
    if sort_by is not None:
        name = sort_by.removeprefix("-") if isinstance(sort_by, str) else sort_by
        check_choice("sort_by", name, COLUMNS)


def _sorted(rows: Sequence[Row], sort_by: str) -> list[int]:
    """Return the places of rows as a column sorts them."""
    column = _COLUMNS[sort_by.removeprefix("-")]
    descending = column.numeric != sort_by.startswith("-")
    if isinstance(rows, Rows):  # most of which are not to be shown, and not to be made
        ranks = rows.ranks(column.field, column.order)
    else:
        ranks = list(map(column.order, rows))
    return sorted(range(len(rows)), key=ranks.__getitem__, reverse=descending)


class Summary(Printed, TableData):
    """A table that fits the console it is printed on.

    ``table()`` gives the `rich.table.Table` itself; ``to_dicts()``, ``to_pandas()``, ``to_csv()``,
    ``to_json()``, ``to_markdown()`` and ``to_latex()`` its rows in other forms, all of them where no
    ``row_limit`` was given. Printed are `PAGE` then.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sums: Totals,
        *,
        title: str,
        level: str,
        costs: tuple[PartWork, Sequence[str]] = (PartWork(), ()),
        found: Sequence[Finding] = (),
        columns: Sequence[str] | str | None = None,
        sort_by: str | None = None,
        row_limit: int | None = None,
    ) -> None:
        self._costs = costs
        self._found = found
        self._tells_size = columns == "torchinfo"
        check_columns(columns, sort_by)
        check_row_limit(row_limit)
        named = COLUMN_SETS.get(columns) if isinstance(columns, str) else columns
        self._chosen = None if named is None else tuple(named)
        self._level = level
        self._title = title
        self._sums = sums
        self._tree = level == "module" and sort_by is None
        order: Sequence[int] = range(len(rows))
        if sort_by is not None:
            order = _sorted(rows, sort_by)
        self._every = rows
        self._order = order[:row_limit]
        self._is_page = row_limit is None
        self._shown = [rows[at] for at in self._order[:PAGE]] if self._is_page else self._rows()

    def _rows(self) -> list[Row]:
        return [self._every[at] for at in self._order]

    def _table(self, width: int, writer: Writer) -> Fitted:
        left_out = len(self._every) - len(self._shown)
        more = f"… {notation.plural(left_out, 'more row')}" if left_out else ""
        if left_out and self._is_page:
            more += f": row_limit={len(self._every)}"
        return fit_table(
            self._columns(self._shown, writer), width, writer, title=writer.foreign(self._title),
            more=more, names_missing=self._chosen is not None,
        )  # fmt: skip

    def _columns(
        self, rows: Sequence[Row], writer: Writer, *, is_tree: bool = True
    ) -> list[Column]:
        names = self._chosen
        if names is None:
            names = tuple(
                name
                for name in _DEFAULT[self._level]
                if name not in _IF_ANY or any(map(_IF_ANY[name], rows))
            )
        columns = []
        for place, name in enumerate(names):
            column = _COLUMNS[name]
            # What was asked for has the rank in which it was.
            rank = column.rank if self._chosen is None or name == "name" else place + 1
            title, cells = column.title, column.cells(rows, writer)
            if name == "name":
                title, cells = (
                    self._level,
                    Names(rows, writer, is_tree=self._tree and is_tree),
                )
            is_extra = self._chosen is None and rank >= _EXTRA
            columns.append(
                Column(
                    title, cells, rank, column.style, column.enough, is_extra,
                    leads=name == "name" or (name == "type" and self._level == "op"),
                )
            )  # fmt: skip
        return columns

    def _texts(self) -> tuple[list[str], list[list[str]], list[bool]]:
        columns = self._columns(self._rows(), Writer("utf-8"), is_tree=False)
        cells = [list(map(plain, column.fit(column.cells.natural))) for column in columns]
        rows = [list(row) for row in zip(*cells, strict=True)]
        return [column.title for column in columns], rows, [column.is_number for column in columns]

    def _footer(self, width: int, writer: Writer) -> Text:
        parts, known = self._costs
        lines = total_lines(self._sums, brackets=any(map(is_frozen, self._shown)))
        if self._tells_size:
            lines["size"] = size_line(self._sums)
        lines |= {name: writer(said).split(" ") for name, said in found_lines(self._found)}
        lines |= cost_lines(parts, known)
        return Text("\n").join(
            wrapped(name, phrases, width, writer) for name, phrases in lines.items()
        )
