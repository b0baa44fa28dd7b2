"""Live statistics of activations and gradients in a training loop."""

from __future__ import annotations

import math
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from opscope.errors import OptionError, check_encoding, check_width
from opscope.records.passes.layers import LayerPass
from opscope.saving import Save
from opscope.tracer import Trace, trace

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from opscope.exporters.tables.fit.fitted import Fitted

STATISTICS = ("mean", "std", "min", "max", "zeros", "nonfinite")


def watch(model: nn.Module, *, every: int = 1, gradients: bool = True) -> Watch:
    """Watch how activations and gradients of every layer are distributed while a model trains.

    Enter it around each training step; each ``every``-th is looked at, the others run as if it
    was not there. Of each tensor six numbers are worked out on the fly, on its own device, and
    nothing else is kept. It prints as a rich table, which ``rich.live.Live(watch)`` updates in
    place.

    Args:
        model: The module that is trained.
        every: How many steps from one that is looked at to the next; the first one is.
        gradients: Whether to look at gradients too.

    Raises:
        OptionError: For an argument of the wrong kind.

    >>> import torch, opscope
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(8, 4)
    >>> watch = opscope.watch(model, every=10)
    >>> for step in range(20):
    ...     with watch:
    ...         model(x).sum().backward()
    >>> watch.step, watch.rows[1]["layer"], sorted(watch.rows[1])[:4]
    (10, 'linear_1_1', ['grad_max', 'grad_mean', 'grad_min', 'grad_nonfinite'])
    """
    if not isinstance(model, nn.Module):
        message = f"model: {type(model).__name__} object (must be a torch.nn.Module)"
        raise OptionError(message)
    if type(every) is not int or every < 1:
        message = f"every: {every!r} (must be a whole number from 1)"
        raise OptionError(message)
    if not isinstance(gradients, bool):
        message = f"gradients: {gradients!r} (must be True or False)"
        raise OptionError(message)
    return Watch(model, every, gradients=gradients)


class Watch:
    """The statistics of the last step that was looked at."""

    def __init__(self, model: nn.Module, every: int, *, gradients: bool) -> None:
        self._model = model
        self._every = every
        self._gradients = gradients
        self._entered = 0
        self._open: Trace | None = None
        self._closed: tuple[int, Trace] | None = None
        self._rows: list[dict[str, Any]] = []
        self._step: int | None = None
        self._lock = Lock()  # rich's live display asks from a thread of its own

    def __enter__(self) -> Watch:
        self._collect()
        if self._entered % self._every == 0:
            save = Save("all", transform=statistics, copy=False)
            gradients = save if self._gradients else None
            self._open = trace(self._model, save=save, gradients=gradients).__enter__()
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_back: TracebackType | None,
    ) -> None:
        if self._open is not None:
            self._open.__exit__(kind, error, trace_back)
            with self._lock:
                self._closed = self._entered - 1, self._open
            self._open = None

    @property
    def step(self) -> int | None:
        """Which step, counted from 0, the rows tell of."""
        self._collect()
        return self._step

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each layer pass of the last step looked at, ready to be logged.

        ``step``, ``layer``, ``module``, and of the activation ``mean``, ``std``, ``min``,
        ``max``, ``zeros`` and ``nonfinite`` (shares, from 0 to 1); the same of the gradient
        with ``grad_`` before it, None where no gradient came.
        """
        self._collect()
        return [dict(row) for row in self._rows]

    def _collect(self) -> None:
        """Read the numbers of a step that has ended, all at once."""
        with self._lock:
            if self._closed is None:
                return
            step, trace = self._closed
            self._closed = None
            tensors = trace.tensors
            found: list[tuple[LayerPass, torch.Tensor, torch.Tensor | None]] = []
            for item in trace.passes:
                if item.kind == "output" or trace[item.index].phase != "forward":
                    continue
                for value in item.values:
                    numbers = tensors.saved(value)
                    if numbers is not None and numbers.numel():
                        every = tensors.reached(value)
                        last = next((g for g in every[-1:] if isinstance(g, torch.Tensor)), None)
                        found.append((item, numbers, last))
                        break
            self._step, self._rows = step, _rows(step, trace, found)

    def table(self, width: int = 120, encoding: str | None = None) -> Table:
        """Return the statistics as a `rich.table.Table`.

        Args:
            width: In characters, 30 at least; columns that there is no room for are left out.
            encoding: What it must be possible to write it in, such as ``"ascii"``; by default
                that of the standard output.

        Raises:
            OptionError: For a width that is no whole number, or less, or an encoding that
                Python does not know.
        """
        check_width(width)
        check_encoding(encoding)
        return self._table(width, encoding).table()

    def _table(self, width: int, encoding: str | None) -> Fitted:
        from opscope.exporters.tables.statistics import statistics_table

        self._collect()
        title = type(self._model).__name__
        return statistics_table(self._rows, self._step, title, width, encoding)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width, options.encoding)

    def __repr__(self) -> str:
        from opscope.exporters.tables.fit.fitted import as_text

        return as_text(self._table(120, None), width=120)

    def _repr_html_(self) -> str:
        from opscope.exporters.tables.fit.fitted import NOTEBOOK, as_html

        return as_html(self._table(NOTEBOOK, "utf-8"))


def statistics(tensor: torch.Tensor) -> torch.Tensor:
    """Return `STATISTICS` of a tensor in one small one; empty where they make no sense.

    Those of complex numbers are of their absolute values. They are worked out in double
    precision, so that large numbers neither overflow nor drown what they differ by.
    """
    if tensor.is_complex():
        tensor = tensor.abs()
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.layout != torch.strided:
        return torch.empty(0)
    has_doubles = tensor.device.type != "mps"
    wide = (tensor.double() if has_doubles else tensor.float()).reshape(-1)
    count = wide.numel()
    least, most = wide.aminmax()
    mean = wide.sum() / count
    centred = wide - mean  # a dot product is ten times as fast as `torch.std`
    std = (centred.dot(centred) / count).sqrt()
    zeros = 1 - wide.count_nonzero() / count
    nonfinite = mean.new_zeros(())
    if wide.device.type != "cpu" or not math.isfinite(mean.item()):
        nonfinite = (~wide.isfinite()).sum() / count
    return torch.stack([mean, std, least, most, zeros.to(wide), nonfinite.to(wide)])


def _rows(
    step: int, trace: Trace, found: list[tuple[LayerPass, torch.Tensor, torch.Tensor | None]]
) -> list[dict[str, Any]]:
    if not found:
        return []
    blank = torch.full((len(STATISTICS),), float("nan"), dtype=torch.float64)
    both = [
        torch.stack(
            [n.to("cpu", torch.float64), blank if g is None else g.to("cpu", torch.float64)]
        )
        for _, n, g in found
    ]
    rows = []
    for (item, _, gradient), numbers in zip(found, torch.stack(both).tolist(), strict=True):
        row: dict[str, Any] = {
            "step": step,
            "layer": item.label,
            "module": trace[item.index].module,
        }
        row |= dict(zip(STATISTICS, numbers[0], strict=True))
        names = (f"grad_{name}" for name in STATISTICS)
        row |= {n: None if gradient is None else x for n, x in zip(names, numbers[1], strict=True)}
        rows.append(row)
    return rows
