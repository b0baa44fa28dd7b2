"""Where two programs differ, as a rich table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Literal

from rich.console import RenderableType
from rich.text import Text

from opscope import notation
from opscope.errors import check_choice
from opscope.exporters.tables.data import data_frame
from opscope.exporters.tables.fit.column import Cell, Column, Numbers, Words
from opscope.exporters.tables.fit.fitted import Fitted, Printed
from opscope.exporters.tables.fit.fitting import fit_table, wrapped
from opscope.exporters.tables.fit.writer import Writer
from opscope.records.differences.difference import Difference, Differences

FORMAT, VERSION = "opscope.comparison", 1
_ROWS = 20
_MARKS = {
    "first": ("#ff6b5e", "differs first"),
    "structure": ("#d9a6ff", "differs in structure"),
    "follows": ("#ffd28a", "follows from that"),
    "no effect": ("#dfe7ef", "differs without an effect"),
}
_GRAVEST, _COLOURS = tuple(_MARKS), list(_MARKS.values())
_STYLES = {"first": "bold red", "follows": "yellow", "structure": "magenta", "no effect": "dim"}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Printed):
    """Two programs side by side: true if they are the same, and a table of where they differ.

    Attributes:
        differences: All that was found.
        names: What the two programs are called.
        flops: How many floating-point operations each computes, where no values were compared.
    """

    differences: Differences
    names: tuple[str, str]
    flops: tuple[int, int] | None = None

    @property
    def rows(self) -> tuple[Difference, ...]:
        """All in which they differ, in the order of execution, also what has no effect."""
        return self.differences.rows

    @property
    def first(self) -> Difference | None:
        """Where they differ first: of what depends on no other difference, what ran first.

        Where no values are known that tell, the first difference in structure; None if there is none.
        """
        for status in ("first", "structure"):
            found = next((row for row in self.rows if row.status == status), None)
            if found is not None:
                return found
        return None

    @property
    def same(self) -> bool:
        """Whether nothing differs that makes a difference."""
        return self.first is None

    def __bool__(self) -> bool:
        return self.same

    @property
    def errors(self) -> Mapping[tuple[str, str], float]:
        """By labels of layers, in a and in b, how far apart what they gave is: see `Difference`."""
        return MappingProxyType(self.differences.errors)

    def marks(self, which: Literal["a", "b"]) -> dict[str, tuple[str, str]]:
        """Return what differs in colours, as `Record.draw` takes them: layers, parameters, modules.

        A module has the colour of the gravest that is in it.

        Raises:
            OptionError: For another program than ``"a"`` or ``"b"``.
        """
        check_choice("which", which, ("a", "b"))
        found: dict[str, tuple[str, str]] = {}
        for status in reversed(_GRAVEST):
            for row in self.rows:
                if row.status == status:
                    name, module = (
                        (row.a, row.module) if which == "a" else (row.b, row.other_module)
                    )
                    around = _around(module) if name else ()
                    found |= dict.fromkeys(filter(None, (name, *around)), _MARKS[status])
        return dict(sorted(found.items(), key=lambda item: _COLOURS.index(item[1])))

    # ------------------------------------------------------------------------------ as data

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain data."""
        return [asdict(row) for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each difference.

        Raises:
            OptionError: If pandas is not installed.
        """
        return data_frame(self.to_dicts())

    def to_json(self) -> str:
        """Return the comparison as JSON; an error that is infinite is null there."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.to_dicts()]
        found = self.differences
        return json.dumps({
            "format": FORMAT, "version": VERSION, "a": self.names[0], "b": self.names[1],
            "same": self.same, "ops": found.ops, "aligned": found.aligned,
            "compared": found.compared, "rows": rows,
        })  # fmt: skip

    # ------------------------------------------------------------------------ how it is shown

    def _parts(self, width: int, encoding: str | None) -> list[RenderableType]:
        table, space, below = super()._parts(width, encoding)
        title = Text(Writer(encoding).shorten(self._title(), width))
        return [table if self.rows else title, space, below]

    def _shown(self) -> list[Difference]:
        """Return the rows to show: what differs first, and then what follows from it."""
        first = self.first
        if first is None:
            return list(self.rows)
        rows = [row for row in self.rows if row.status != "no effect" and row is not first]
        rows.sort(key=lambda row: row.status == "follows")
        return [first, *rows]

    def _title(self) -> str:
        a, b = (name or "program" for name in self.names)
        if self.same:
            return f"{a} against {b}: the same"
        return f"{a} against {b}: they differ"

    def _table(self, width: int, writer: Writer) -> Fitted:
        rows = self._shown()
        shown = rows[:_ROWS]

        def words(texts: Sequence[str]) -> Words:
            return Words([writer.foreign(text) for text in texts], writer)

        columns = [
            Column("layer", words([_name(row) for row in shown]), 0, "bold", enough=30, leads=True),
            Column("", Numbers([_status(row, writer) for row in shown]), 3),
            Column("what", words([row.what for row in shown]), 1, enough=40),
            Column("error", Numbers([_number(row.error, writer) for row in shown]), 2, "red"),
            Column("came in", Numbers([_number(row.error_before, writer) for row in shown]), 4),
            Column("module", words([_module(row) for row in shown]), 5, "cyan", is_extra=True),
            Column("source", words([_source(row) for row in shown]), 6, "dim", is_extra=True),
        ]
        rest = len(rows) - len(shown)
        more = f"… {rest:,} more" if rest else ""
        return fit_table(columns, width, writer, title=writer.foreign(self._title()), more=more)

    def _footer(self, width: int, writer: Writer) -> Text:
        found, first = self.differences, self.first
        lines: dict[str, list[str]] = {}
        if first is not None:
            said = [f"{_name(first)}: {first.what}"]
            where = _module(first)
            lines["first"] = [*notation.foreign(" ".join(said)).split(),
                              *([f"in {notation.foreign(where)}"] if where else [])]  # fmt: skip
            sources = dict.fromkeys(filter(None, (first.source, first.other_source)))
            if sources:
                files = [notation.foreign(notation.file_name(source)) for source in sources]
                lines["line"] = (
                    [" and ".join(files)] if len(files) == 1 else [f"{files[0]},", files[1]]
                )
        same = sum(row.status == "no effect" for row in self.rows)
        if same and first is not None:
            lines["besides"] = f"{same:,} otherwise, with the same result".split()
        lines["compared"] = [
            f"{notation.plural(found.compared, 'value')};"
            if found.compared
            else "structure, no values;",
            f"{found.aligned:,} of {found.ops[0]:,} ops are among {found.ops[1]:,}",
        ]
        if self.flops is not None and self.flops[0] != self.flops[1]:
            lines["costs"] = [
                f"{notation.amount(self.flops[0])} → {notation.amount(self.flops[1])} FLOPs"
            ]
        return Text("\n").join(
            wrapped(name, phrases, width, writer) for name, phrases in lines.items()
        )


def _name(row: Difference) -> str:
    """Return the labels of a row."""
    if row.a and row.b and row.a != row.b:
        return f"{row.a} | {row.b}"
    return row.a or row.b or "–"


def _module(row: Difference) -> str:
    return row.module or row.other_module or ""


def _source(row: Difference) -> str:
    return notation.file_name(row.source or row.other_source)


def _status(row: Difference, writer: Writer) -> Cell:
    return Text(writer(row.status), _STYLES[row.status])


def _number(number: float | None, writer: Writer) -> Cell:
    if number is None:
        return Text(writer("–"), style="dim")
    return Text("0" if not number else f"{number:.2g}")


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value


def _around(address: str | None) -> Iterator[str]:
    """Yield an address and those around it, but for the model's."""
    while address:
        yield address
        address = address.rpartition(".")[0]
