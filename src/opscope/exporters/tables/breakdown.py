"""Ops added up, as a rich table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from opscope import notation
from opscope.exporters.tables.fit.column import Column, Numbers, Words
from opscope.exporters.tables.fit.fitted import Fitted, Printed
from opscope.exporters.tables.fit.fitting import fit_table, wrapped
from opscope.exporters.tables.fit.writer import Writer
from opscope.records.sums.breakdown import By, Share


class Breakdown(Printed):
    """Ops added up by what they share: a sequence that prints as a table, the longest first.

    Attributes:
        shares: The sums, each with calls, time, FLOPs and bytes.
    """

    def __init__(
        self, shares: Sequence[Share], by: By, *, title: str, block_ns: int, row_limit: int | None
    ) -> None:
        self.shares = tuple(shares)
        self._by = by
        self._title = title
        self._block_ns = block_ns
        self._limit = row_limit

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the sums as plain data: nanoseconds, operations, bytes."""
        return [asdict(share) for share in self.shares]

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[Share]:
        return iter(self.shares)

    def __getitem__(self, position: int) -> Share:
        return self.shares[position]

    def _table(self, width: int, writer: Writer) -> Fitted:
        shown = self.shares[: self._limit]
        whole = sum(share.time_ns for share in self.shares) or 1

        def numbers(texts: Iterable[str]) -> Numbers:
            return Numbers(list(map(writer, texts)))

        def short(name: str) -> str:
            return notation.file_name(name) if self._by == "line" else name

        rows = [(share, share.work) for share in shown]
        columns = [
            Column(
                self._by, Words([writer.foreign(short(s.name) or "–") for s in shown], writer), 0,
                "bold", enough=40, leads=True,
            ),
            Column("calls", numbers(notation.count(s.calls) for s in shown), 3),
            Column("time", numbers(notation.duration(s.time_ns) for s in shown), 1),
            Column("share", numbers(f"{s.time_ns / whole:.1%}" for s in shown), 2, "green"),
            Column("mean", numbers(notation.duration(s.time_ns // s.calls) for s in shown), 6),
            Column(
                "FLOPs", numbers(
                    notation.amount(w.flops, w.unknown) if w.flops or w.unknown else "–"
                    for _, w in rows
                ), 4, "yellow",
            ),
            Column("read", numbers(notation.size(s.read) for s in shown), 7),
            Column("given", numbers(notation.size(s.given) for s in shown), 5),
        ]  # fmt: skip
        rest = len(self.shares) - len(shown)
        more = f"… {rest:,} more" if rest else ""
        return fit_table(
            columns, width, writer, title=writer.foreign(f"{self._title}: by {self._by}"), more=more
        )

    def _footer(self, width: int, writer: Writer) -> Text:
        ops = sum(share.calls for share in self.shares)
        took = notation.duration(sum(share.time_ns for share in self.shares))
        phrases = [f"{took} in {notation.plural(ops, 'op')},"]
        phrases.append(f"of {notation.duration(self._block_ns)} in the block, under the trace")
        return wrapped("time", phrases, width, writer)
