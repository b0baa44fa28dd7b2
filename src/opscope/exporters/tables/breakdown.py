"""Ops added up, as a rich table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

        def short(name: str) -> str:
            return notation.file_name(name) if self._by == "line" else name

        names = [writer.foreign(short(share.name) or "–") for share in shown]
        columns = [
            Column(self._by, Words(names, writer), 0, "bold", enough=40, leads=True),
            *(
                Column(title, Numbers([writer(write(share)) for share in shown]), rank, style)
                for title, write, rank, style in self._numbers()
            ),
        ]
        rest = len(self.shares) - len(shown)
        more = f"… {rest:,} more" if rest else ""
        return fit_table(
            columns, width, writer, title=writer.foreign(f"{self._title}: by {self._by}"), more=more
        )

    def _numbers(self) -> Iterator[tuple[str, Callable[[Share], str], int, str]]:
        """Yield the columns of numbers: title, what writes one, rank and style."""
        every = self.shares
        whole = sum(share.time_ns for share in every) or 1
        has_below = any(s.total_ns != s.time_ns for s in every)
        yield "calls", lambda s: notation.count(s.calls), 3, ""
        yield "own time" if has_below else "time", lambda s: notation.duration(s.time_ns), 1, ""
        yield "share", lambda s: f"{s.time_ns / whole:.1%}", 2, "green"
        if has_below:
            yield "total time", lambda s: notation.duration(s.total_ns), 3, ""
        if any(0 < s.backward_ns < s.time_ns for s in every):
            yield "backward", lambda s: notation.duration(s.backward_ns), 9, ""
        yield "mean", _mean, 6, ""
        yield "FLOPs", _flops, 4, "yellow"
        yield "read", lambda s: notation.size(s.read), 7, ""
        yield "given", lambda s: notation.size(s.given), 5, ""
        if any(s.bound for s in every):
            yield "bound by", _bound, 3, "cyan"

    def _footer(self, width: int, writer: Writer) -> Text:
        ops = sum(share.calls for share in self.shares)
        took = notation.duration(sum(share.time_ns for share in self.shares))
        phrases = [f"{took} in {notation.plural(ops, 'op')},"]
        phrases.append(f"of {notation.duration(self._block_ns)} in the block, under the trace")
        lines = [wrapped("time", phrases, width, writer)]
        least = sum(share.bound.least_ns for share in self.shares if share.bound)
        if least:
            phrases = [f"{notation.duration(round(least))} would do at the limits of the device;"]
            phrases.append("a percentage says how near ops come to theirs")
            lines.append(wrapped("limits", phrases, width, writer))
        return Text("\n").join(lines)


def _mean(share: Share) -> str:
    return notation.duration(share.time_ns // share.calls) if share.calls else "–"


def _flops(share: Share) -> str:
    work = share.work
    return notation.amount(work.flops, work.unknown) if work.flops or work.unknown else "–"


def _bound(share: Share) -> str:
    if share.bound is None:
        return "–"
    unknown = "?" * bool(share.work.unknown)
    return f"{share.bound.kind}{unknown} {share.bound.reached:.0%}"
