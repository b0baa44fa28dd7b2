"""The columns of a table, and what they show at a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.text import Text

from opscope import notation
from opscope.exporters.tables.fit.writer import Writer, cell_len

_LEAST = 12  # of a column of text, in characters


# Of a long table most are plain: rich takes as long for a `Text` as all else for the row.
Cell = str | Text


def plain(cell: Cell) -> str:
    """Return the text of a cell."""
    return cell if isinstance(cell, str) else cell.plain


class Cells(Protocol):
    """What a column shows: how wide it would be, how narrow it may be, and what it shows then."""

    natural: int
    least: int

    def fit(self, width: int) -> list[Cell]:
        """Return the cells for a width from ``least`` to ``natural``."""


class Numbers:
    """Cells that are shown whole or not at all."""

    def __init__(self, cells: Sequence[Cell], at_least: int = 0) -> None:
        self._cells = list(cells)
        self.natural = self.least = max([at_least, *(cell_len(plain(cell)) for cell in cells)])

    def fit(self, width: int) -> list[Cell]:
        """Return the cells."""
        return self._cells


class Words:
    """Cells of text, shortened in the middle."""

    def __init__(self, cells: Sequence[str], writer: Writer) -> None:
        self._cells, self._writer = cells, writer
        self.natural = max(map(cell_len, cells), default=0)
        self.least = min(self.natural, _LEAST)

    def fit(self, width: int) -> list[Cell]:
        """Return the cells, shortened."""
        return list(self._writer.apart(self._cells, [width] * len(self._cells)))


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

    def fit(self, width: int) -> list[Cell]:
        """Return the cells, with fewer entries where there are too many."""
        return [self._writer.list(entries, width) for entries in self._cells]


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
    _fitted: dict[int, list[Cell]] = field(default_factory=dict, compare=False, repr=False)

    def fit(self, width: int) -> list[Cell]:
        """Return the cells for a width; for the same again, the same."""
        if width not in self._fitted:
            self._fitted[width] = self.cells.fit(width)
        return self._fitted[width]

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
