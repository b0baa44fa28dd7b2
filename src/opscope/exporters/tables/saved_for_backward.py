"""What autograd keeps for the backward, as a rich table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from opscope import notation
from opscope.exporters.tables.fit.column import Column, Lists, Numbers, Words
from opscope.exporters.tables.fit.fitted import Fitted, Printed
from opscope.exporters.tables.fit.fitting import fit_table, wrapped
from opscope.exporters.tables.fit.writer import Writer
from opscope.views.rows.saved_for_backward import KeptTensor


class SavedForBackward(Printed):
    """The tensors that autograd keeps for the backward: a sequence that prints as a table.

    The largest come first. Memory that several keep is counted with the first of them, and
    that of parameters, which are there in any case, not at all.

    Attributes:
        tensors: All of them, parameters too.
        nbytes: Bytes that the backward keeps alive in all.
    """

    def __init__(self, tensors: Sequence[KeptTensor], title: str) -> None:
        self.tensors = tuple(tensors)
        self.nbytes = sum(one.extra_bytes for one in tensors)
        self._title = title

    def by_layer(self) -> dict[str, int]:
        """Return bytes by label, the largest first, without layers that keep nothing more."""
        sums: dict[str, int] = {}
        for one in self.tensors:
            if one.extra_bytes:
                label = one.layer or ""
                sums[label] = sums.get(label, 0) + one.extra_bytes
        return dict(sorted(sums.items(), key=lambda entry: -entry[1]))

    def _table(self, width: int, writer: Writer) -> Fitted:
        shown = [one for one in self.tensors if one.kind != "parameter"]
        made_by = [one.made_by or ("outside" if one.kind == "outside" else "") for one in shown]
        tensors = [
            [(writer(a), writer(b)) for a, b in notation.tensors([one.dtype], [one.shape])]
            if one.kind != "packed" else []
            for one in shown
        ]  # fmt: skip

        def words(texts: Iterable[str]) -> Words:
            return Words(list(map(writer.foreign, texts)), writer)

        columns = [
            Column("kept by", words(one.layer or one.node for one in shown), 0, "bold", leads=True),
            Column("as", words(one.name for one in shown), 4),
            Column("made by", words(made_by), 3, "cyan"),
            Column("tensor", Lists(tensors, writer), 2, "green"),
            Column("memory", Numbers([writer(_memory(one)) for one in shown]), 1),
        ]
        title = writer.foreign(f"{self._title}: saved for backward")
        return fit_table(columns, width, writer, title=title)

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[KeptTensor]:
        return iter(self.tensors)

    def __getitem__(self, position: int) -> KeptTensor:
        return self.tensors[position]

    def _footer(self, width: int, writer: Writer) -> Text:
        parameters = sum(one.kind == "parameter" for one in self.tensors)
        packed = sum(one.kind == "packed" for one in self.tensors)
        phrases = [f"{notation.size(self.nbytes)} kept alive by the backward"]
        phrases += [f"besides {notation.plural(parameters, 'parameter')}"] if parameters else []
        phrases += [f"{packed:,} packed by hooks (checkpoints)"] if packed else []
        phrases[:-1] = [f"{phrase};" for phrase in phrases[:-1]]
        return wrapped("", phrases, width, writer)


def _memory(one: KeptTensor) -> str:
    if one.kind == "packed":
        return "packed"
    return "shared" if one.shared else notation.size(one.nbytes)
