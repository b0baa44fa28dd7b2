"""How texts are written for an encoding and a width, so that rows can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from rich.cells import cell_len as cells_of

from opscope import notation

_TELLING = 5  # characters: of a name less says nothing


def cell_len(text: str) -> int:
    """Return how wide a text is in a terminal: of plain letters, which nearly all are, at once."""
    return len(text) if text.isascii() else cells_of(text)


class Writer:
    """Writes texts as an encoding can hold them, and as there is room for them."""

    def __init__(self, encoding: str | None = None) -> None:
        self._encoding = encoding
        self.mark = self("…")

    def __call__(self, text: str) -> str:
        """Return text of our own."""
        return notation.encodable(text, self._encoding)

    def foreign(self, text: str, limit: int = 200) -> str:
        """Return text from elsewhere, in one line."""
        return self(notation.foreign(text, limit))

    def shorten(self, text: str, width: int) -> str:
        """Return a text, without its middle if it is too wide."""
        return notation.shorten(text, width, self.mark, cell_len)

    def apart(self, texts: Sequence[str], widths: Sequence[int]) -> list[str]:
        """Return texts, shortened so that different ones read differently as far as they can.

        Where the middle tells them apart, what they have in common is left out instead.
        """
        short = list(map(self.shorten, texts, widths))
        for rows in _alike(texts, short):
            parts = _differences([texts[row] for row in rows])
            ends = [self._part(texts[row], len(texts[row]), len(texts[row]), widths[row])
                    for row in rows]  # fmt: skip
            middles = [self._part(texts[row], *parts[texts[row]], widths[row]) for row in rows]
            starts = [self._part(texts[row], 0, 0, widths[row]) for row in rows]
            ends_differ = all(
                cell_len(self.mark + texts[row][parts[texts[row]][0] :]) <= widths[row]
                for row in rows
            )
            choices = [ends, middles, starts] if ends_differ else [middles, ends, starts]
            group = set(rows)
            others = {text for row, text in enumerate(short) if row not in group}
            best = max(choices, key=lambda choice: len({*choice} - others))
            for row, text in zip(rows, best, strict=True):
                short[row] = text
        return short

    def _part(self, text: str, start: int, end: int, width: int) -> str:
        """Return a part of a text, and as much around it as there is room for."""
        if cell_len(text) <= width:
            return text
        start, end = notation.whole_numbers(text, start, end)
        left, right = self.mark if start else "", self.mark if end < len(text) else ""
        room = width - cell_len(left + right)
        inner = self.shorten(text[start:end], room)
        spare = room - cell_len(inner)
        before = notation.tail(text[:start], spare // 2 if right else spare, cell_len)
        after = notation.head(text[end:], room - cell_len(before + inner), cell_len)
        return self.shorten(left + before + inner + after + right, width)

    def list(self, entries: Sequence[notation.Entry], width: int) -> str:
        """Return entries with commas, and a mark for those that there is no room for."""
        whole = notation.listed(entries)
        if cell_len(whole) <= width:
            return whole
        more = f", {self.mark}" if len(entries) > 1 else ""
        ends = accumulate(cell_len(notation.listed([entry])) + 2 for entry in entries)
        shown = sum(end - 2 + cell_len(more) <= width for end in ends)
        if shown:
            return notation.listed(entries[:shown]) + more
        name, said = entries[0]
        room = width - cell_len(said and f" {said}") - cell_len(more)
        if name and room >= cell_len(self.mark):
            name = self.shorten(name, room) if room >= _TELLING else self.mark
            return notation.listed([(name, said)]) + more
        start = notation.head(said or name, width - cell_len(self.mark), cell_len).rstrip()
        return start + self.mark


def _alike(texts: Sequence[str], short: Sequence[str]) -> list[list[int]]:
    """Return the rows, group by group, that differ and are shortened to the same."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(short):
        groups.setdefault(text, []).append(row)
    return [rows for rows in groups.values() if len({texts[row] for row in rows}) > 1]


def _differences(texts: list[str]) -> dict[str, tuple[int, int]]:
    """Return for each text the part that the others do not share."""
    start = _in_common(texts)
    end = _in_common([text[start:][::-1] for text in texts])
    return {text: (start, len(text) - end) for text in texts}


def _in_common(texts: list[str]) -> int:
    """Return how many characters texts have in common at their beginning."""
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(first))
