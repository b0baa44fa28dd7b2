"""What autograd keeps for the backward, as a rich table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from opscope import notation
from opscope.views.kept import KeptTensor


class SavedForBackward:
    """The tensors that autograd keeps for the backward: a sequence that prints as a table.

    The largest come first. Memory that several keep is counted with the first of them, and
    that of parameters, which are there in any case, not at all.

    Attributes:
        tensors: All of them, parameters too.
        nbytes: Bytes that the backward keeps alive in all.
    """

    def __init__(self, tensors: Sequence[KeptTensor], title: str) -> None:
        self.tensors = tuple(tensors)
        self.nbytes = sum(kept.extra_bytes for kept in tensors)
        self._title = title

    def by_layer(self) -> dict[str, int]:
        """Return bytes by label, the largest first, without layers that keep nothing more."""
        sums: dict[str, int] = {}
        for kept in self.tensors:
            if kept.extra_bytes:
                label = kept.layer or ""
                sums[label] = sums.get(label, 0) + kept.extra_bytes
        return dict(sorted(sums.items(), key=lambda entry: -entry[1]))

    def table(self) -> Table:
        """Return the table as rich's own object: one row for each tensor but parameters."""
        table = Table(
            title=Text(f"{self._title}: saved for backward", style="bold"),
            title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
        )  # fmt: skip
        for name, style in (
            ("kept by", "bold"),
            ("as", ""),
            ("made by", "cyan"),
            ("tensor", "green"),
        ):
            table.add_column(name, style=style, no_wrap=True, overflow="ellipsis")
        table.add_column("memory", justify="right", no_wrap=True)
        for kept in self.tensors:
            if kept.kind != "parameter":
                table.add_row(*map(Text, _cells(kept)))
        return table

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[KeptTensor]:
        return iter(self.tensors)

    def __getitem__(self, position: int) -> KeptTensor:
        return self.tensors[position]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table()
        parameters = sum(kept.kind == "parameter" for kept in self.tensors)
        packed = sum(kept.kind == "packed" for kept in self.tensors)
        text = f"\n{notation.size(self.nbytes)} kept alive by the backward"
        text += f"; besides {notation.plural(parameters, 'parameter')}" if parameters else ""
        text += f"; {packed} packed by hooks (checkpoints)" if packed else ""
        yield Text(text)

    def __repr__(self) -> str:
        console = Console(width=120, color_system=None, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _cells(kept: KeptTensor) -> tuple[str, ...]:
    memory = {"packed": "packed"}.get(
        kept.kind, "shared" if kept.shared else notation.size(kept.nbytes)
    )
    made_by = kept.made_by or ("outside" if kept.kind == "outside" else "")
    tensor = "" if kept.kind == "packed" else notation.tensors([kept.dtype], [kept.shape])
    return tuple(
        map(notation.foreign, (kept.layer or kept.node, kept.name, made_by, tensor, memory))
    )
