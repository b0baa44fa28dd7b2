"""The rows of a table as data: dictionaries, pandas, CSV, JSON, Markdown, LaTeX."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from opscope import notation
from opscope.errors import OptionError
from opscope.records.sums.totals import Totals
from opscope.records.values import Value
from opscope.views.rows.row import Row

FORMAT, VERSION = "opscope.table", 1
UNITS = {
    "memory": "bytes", "time": "seconds", "backward": "seconds", "flops": "operations",
    "macs": "multiply-adds", "elements": "elements", "params": "elements", "trainable": "elements",
}  # fmt: skip


def _tensors(values: Sequence[Value], paths: Sequence[str]) -> list[dict[str, Any]]:
    named = paths or [""] * len(values)
    return [
        {"path": path, "dtype": value.dtype, "shape": list(value.shape)}
        for value, path in zip(values, named, strict=False)
    ]


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds * 1e-9, 9)


def _known(name: str) -> Callable[[Row], int | None]:
    """Return what reads a count that is None where nothing of it is known."""

    def read(row: Row) -> int | None:
        number: int = getattr(row.work, name)
        return None if row.work.unknown and not number else number

    return read


_FIELDS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.name,
    "type": lambda row: row.kind,
    "module": lambda row: row.module,
    "op": lambda row: row.op,
    "input": lambda row: _tensors(row.inputs, row.input_paths),
    "output": lambda row: _tensors(row.outputs, row.output_paths),
    "params": lambda row: row.params,
    "trainable": lambda row: row.trainable,
    "share": lambda row: round(row.share, 6),
    "kernel": lambda row: row.settings().get("kernel_size"),
    "arguments": lambda row: row.settings(),
    "flops": _known("flops"),
    "macs": _known("macs"),
    "elements": lambda row: row.work.elements,
    "memory": lambda row: row.memory,
    "time": lambda row: _seconds(row.time_ns),
    "backward": lambda row: _seconds(row.backward_ns),
    "source": lambda row: row.source,
}
# What every row says besides.
_ALWAYS: dict[str, Callable[[Row], Any]] = {
    "depth": lambda row: row.depth,
    "is_module": lambda row: row.is_module,
    "passes": lambda row: row.passes,
    "blocks": lambda row: row.blocks,
    "last": lambda row: row.last,
    "unknown_ops": lambda row: row.work.unknown,
}


class TableData:
    """What a table gives its rows as, besides printing them.

    Each of these has the table's columns, all of them if none were asked for, and for every row its
    ``depth`` in the tree, whether it ``is_module``, how many ``passes`` it stands for, how many
    ``blocks`` (to the ``last``), and of how many of its ops it is not known what they compute
    (``unknown_ops``).
    """

    _chosen: tuple[str, ...] | None
    _sums: Totals
    _title: str
    _level: str

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries of plain data.

        Tensors are lists of ``{"path", "dtype", "shape"}``, ``memory`` is in bytes, ``time`` and
        ``backward`` are in seconds, and ``flops`` is None where it is not known.

        >>> import torch, opscope
        >>> table = opscope.summary(torch.nn.Linear(4, 2), torch.ones(3, 4), columns=["name", "flops"])
        >>> table.to_dicts()[0]
        {'name': 'Linear', 'flops': 48, 'depth': 0, 'is_module': True, 'passes': 1, 'blocks': 1, 'last': '', 'unknown_ops': 0}
        """
        fields = {name: _FIELDS[name] for name in self._chosen or _FIELDS} | _ALWAYS
        return [{name: read(row) for name, read in fields.items()} for row in self._rows()]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`, tensors as text: ``"f32[1, 64]"``.

        Raises:
            OptionError: If pandas is not installed.
        """
        return data_frame(self._flat())

    def to_csv(self) -> str:
        """Return the rows as CSV, tensors as text."""
        rows = self._flat()
        names = [*(self._chosen or _FIELDS), *_ALWAYS]
        file = StringIO()
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def to_json(self) -> str:
        """Return the table as JSON: what `to_dicts` does, with totals, units and a version.

        The schema is in ``docs/table.schema.json``; ``version`` changes whenever that does.
        """
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "title": self._title,
                "level": self._level,
                "units": UNITS,
                "totals": asdict(self._sums),
                "rows": self.to_dicts(),
            },
            ensure_ascii=True,
        )

    def to_markdown(self) -> str:
        """Return the table as Markdown, as GitHub shows it."""
        titles, rows, numbers = self._texts()
        lines = [titles, ["---:" if is_number else "---" for is_number in numbers], *rows]
        return "\n".join(f"| {' | '.join(map(_in_markdown, line))} |" for line in lines) + "\n"

    def to_latex(self) -> str:
        r"""Return the table as a LaTeX ``tabular``, which takes ``\usepackage{booktabs}``."""
        titles, rows, numbers = self._texts()
        columns = "".join("r" if is_number else "l" for is_number in numbers)
        lines = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rf"{' & '.join(map(_in_latex, titles))} \\",
            r"\midrule",
            *(rf"{' & '.join(map(_in_latex, row))} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _flat(self) -> list[dict[str, Any]]:
        """Return the rows with tensors as text."""
        rows = self.to_dicts()
        for row in rows:
            if "arguments" in row:
                row["arguments"] = notation.listed(notation.settings(row["arguments"]))
            for name in {"input", "output"} & set(row):
                row[name] = notation.listed(
                    notation.tensors(
                        [item["dtype"] for item in row[name]],
                        [item["shape"] for item in row[name]],
                        [item["path"] for item in row[name]],
                    )
                )
        return rows

    def _rows(self) -> list[Row]:
        """Return the rows."""
        raise NotImplementedError

    def _texts(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Return titles, the texts of each row, and which columns are numbers."""
        raise NotImplementedError


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a `pandas.DataFrame`.

    Raises:
        OptionError: If pandas is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        message = "a DataFrame takes pandas, which is not installed: pip install pandas"
        raise OptionError(message) from error
    return pd.DataFrame(rows)


def _in_markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "×": r"$\times$", "–": "--", "µ": r"$\mu$", "…": r"\ldots{}", "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # fmt: skip


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
