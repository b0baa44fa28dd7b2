"""What memory there was at some moment, as a rich table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opscope import notation
from opscope.exporters.tables.fit.column import Column, Numbers, Words
from opscope.exporters.tables.fit.fitted import Fitted
from opscope.exporters.tables.fit.fitting import fit_table
from opscope.exporters.tables.fit.writer import Writer
from opscope.records.sums.memory import Held


def memory_table(
    held: Sequence[Held], width: int, writer: Writer, *, title: str, row_limit: int | None
) -> Fitted:
    """Return a table of what was there, the largest first.

    Args:
        held: All of it.
        width: In characters.
        writer: Writes its texts.
        title: Stands above it.
        row_limit: How many rows to show at most.
    """
    shown = held[:row_limit]
    whole = sum(one.nbytes for one in held) or 1

    def words(texts: Iterable[str]) -> Words:
        return Words(list(map(writer.foreign, texts)), writer)

    def numbers(texts: Iterable[str]) -> Numbers:
        return Numbers([writer(text) for text in texts])

    columns = [
        Column("made by", words(one.name or "–" for one in shown), 0, "bold", leads=True),
        Column("for", words(one.category for one in shown), 2, "cyan"),
        Column("memory", numbers(notation.size(one.nbytes) for one in shown), 1),
        Column("share", numbers(f"{one.nbytes / whole:.1%}" for one in shown), 3),
        Column("module", words(one.module for one in shown), 4),
        Column("source", words(notation.file_name(one.source) for one in shown), 5, "dim"),
    ]
    rest = held[len(shown) :]
    more = ""
    if rest:
        size = notation.size(sum(one.nbytes for one in rest))
        more = f"… {notation.plural(len(rest), 'more')} ({size})".replace("mores", "more")
    return fit_table(columns, width, writer, title=writer.foreign(title), more=more)
