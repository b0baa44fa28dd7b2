"""The first column of a table: a tree of names, each with its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from opscope.exporters.tables.fit.column import Cell
from opscope.exporters.tables.fit.writer import Writer, cell_len
from opscope.views.rows.table_rows import Row

_LEAST = 18  # characters
_SHORT = 9
_DEEPEST = 40  # levels that are ever drawn
# Characters per level, the most that there is room for, and the lines of the tree.
_INDENTS = {
    3: {"│": "│  ", " ": "   ", "├": "├─ ", "└": "└─ "},
    2: {"│": "│ ", " ": "  ", "├": "├ ", "└": "└ "},
    1: {"│": "│", " ": " ", "├": "├", "└": "└"},
}


@dataclass(frozen=True, slots=True)
class _Label:
    """A row's name, what is said of it (passes, failure) and its class.

    ``guide`` has one sign per level, of the innermost levels only.
    """

    guide: str
    depth: int
    name: str
    after: str
    kind: str
    style: str

    @property
    def width(self) -> int:
        """How wide it is where there is room, without its guide."""
        return cell_len(self.name + self.after) + (cell_len(self.kind) + 1 if self.kind else 0)


class Names:
    """Cells that keep what tells rows apart: the class and the ends of a name, not its middle."""

    def __init__(self, rows: Sequence[Row], writer: Writer, *, is_tree: bool) -> None:
        self._writer = writer
        guides = _guides(rows) if is_tree else [""] * len(rows)
        self._labels = [
            self._label(row, guide, is_tree=is_tree)
            for row, guide in zip(rows, guides, strict=True)
        ]
        self.natural = max(self._widths(max(_INDENTS), _DEEPEST), default=0)
        self.least = min(self.natural, _LEAST)

    def _label(self, row: Row, guide: str, *, is_tree: bool) -> _Label:
        name = row.name
        if is_tree and row.is_module and row.depth and row.below:
            name = name.removeprefix(f"{row.below}.")
        if row.blocks > 1 and row.is_module:
            below = f"{row.below}." if is_tree and row.depth and row.below else ""
            name = _from_to(name, row.last.removeprefix(below))
        many = " × ".join(f"{n}" for n in (row.blocks, row.passes) if n > 1)
        after = (f" (×{many})" if many else "") + (" ✗" if row.failed else "")
        has_kind = row.is_module and name != row.kind
        return _Label(
            guide,
            row.depth,
            self._writer.foreign(name),
            self._writer(after),
            self._writer.foreign(row.kind) if has_kind else "",
            "bold red" if row.failed else "bold" if row.is_module else "",
        )

    def fit(self, width: int) -> list[Cell]:
        """Return the cells, with narrower guides and shortened names where they are too wide."""
        indent, levels = self._guides_for(width)
        guides = [self._guide(label, indent, levels) for label in self._labels]
        rooms = [width - cell_len(guide) for guide in guides]
        shares = [self._share(*pair) for pair in zip(self._labels, rooms, strict=True)]
        names = self._writer.apart([x.name for x in self._labels], [name for name, _ in shares])
        kinds = self._writer.apart([x.kind for x in self._labels], [kind for _, kind in shares])
        cells: list[Cell] = []
        for label, guide, name, kind in zip(self._labels, guides, names, kinds, strict=True):
            cell = Text(guide, "dim", no_wrap=True, overflow="ellipsis")
            cell.append(name + label.after, label.style)
            if kind:
                cell.append(" ").append(kind, "cyan")
            cells.append(cell)
        return cells

    def _widths(self, indent: int, levels: int) -> list[int]:
        return [
            cell_len(self._guide(label, indent, levels)) + label.width for label in self._labels
        ]

    def _guides_for(self, width: int) -> tuple[int, int]:
        """Return how far each level is indented, and how many levels there is room for."""
        for indent in _INDENTS:
            if max(self._widths(indent, _DEEPEST), default=0) <= width:
                return indent, _DEEPEST
        deepest = max(label.depth for label in self._labels)
        indent = next((n for n in _INDENTS if n * deepest <= width // 5), 1)
        room = width - max(cell_len(label.after) for label in self._labels)
        return indent, max(1, min(width // 2, room - _LEAST // 2) // indent)

    def _guide(self, label: _Label, indent: int, levels: int) -> str:
        """Return the lines of the tree before a name, without the outermost if too many."""
        shown, mark = label.guide, ""
        if label.depth > levels:
            mark = self._writer.mark
            shown = shown[-max(1, levels - cell_len(mark)) :]
        return mark + self._writer("".join(_INDENTS[indent][sign] for sign in shown))

    def _share(self, label: _Label, room: int) -> tuple[int, int]:
        """Return how much room of a cell the name gets, and how much its class."""
        room -= cell_len(label.after)
        name, kind = cell_len(label.name), cell_len(label.kind)
        if not kind:
            return room, 0
        room, mark = room - 1, cell_len(self._writer.mark)
        if room < 2 * mark:
            return room, 0
        kind = min(kind, max(room - name, room * 2 // 5, mark))
        return room - kind, kind


def _from_to(first: str, last: str) -> str:
    """Name blocks by the first and the last, of long names only the numbers of the last."""
    prefix = first.rstrip("0123456789")
    if len(first) > _SHORT and prefix and last.startswith(prefix):
        last = last.removeprefix(prefix)
    return f"{first}–{last}"


def _guides(rows: Sequence[Row]) -> list[str]:
    """Return the signs of a tree before each row, one per level, of the innermost levels."""
    guides: list[str] = []
    follows: list[bool] = []  # by depth, whether a sibling follows
    for row in reversed(rows):
        del follows[row.depth + 1 :]
        follows += [False] * (row.depth + 1 - len(follows))
        if row.depth:
            start = max(1, row.depth - _DEEPEST)
            trunk = "".join("│" if follows[level] else " " for level in range(start, row.depth))
            guides.append(trunk + ("├" if follows[row.depth] else "└"))
            follows[row.depth] = True
        else:
            guides.append("")
    return guides[::-1]
