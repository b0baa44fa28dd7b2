"""What a tensor is that came into the program: a parameter, a buffer, an input, or other data."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any
from weakref import ref

import torch
from torch import nn

from opscope.capture.collect.nonfinite.looking import describe
from opscope.capture.log.snapshots import storage_ref
from opscope.capture.tables.parameters import Kind
from opscope.capture.tables.tables import Tables
from opscope.capture.tables.values import FRESH, VIEW
from opscope.operators.known import is_uninitialised
from opscope.records.columns.columns import NONE
from opscope.records.flow.origins import Arrival

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class CameIn:
    """Says what tensors are, from what is known of the trace so far.

    Args:
        tables: Where that is written; it is not held, as it holds this.
    """

    def __init__(self, tables: Tables) -> None:
        self._log, self._values, self._parameters = tables.log, tables.values, tables.parameters
        self._runs, self._ops = tables.runs, tables.ops
        self.model: ref[nn.Module] | None = None

    def parameter(self, tensor: torch.Tensor) -> tuple[Kind, str, torch.Tensor] | None:
        """Return the parameter or buffer that a tensor is, or lies in: its kind, name and self."""
        number = self._parameters.number(tensor)
        storage = storage_ref(tensor)
        for place, row in enumerate(self._parameters.rows()):
            if place == number:
                return row.kind, row.name, tensor
            held = row.live() if number == -1 and storage is not None else None
            if held is not None and storage_ref(held) is storage:
                return row.kind, row.name, held
        return None

    def arrival(self, tensor: torch.Tensor) -> Arrival:
        """Return what a tensor is that holds what no op was seen to put there."""
        if (found := self.parameter(tensor)) is not None:
            kind, name, whole = found
            return Arrival(kind, name, text=None if whole is tensor else describe(whole))
        self._log.ingest()
        row = self._values.rows.get(id(ref(tensor)))
        if row is None:
            return Arrival("data")
        maker, operator = self._brought(row), ""
        if maker is not None:
            operator = str(self._ops[3 * maker].plan.name)
        if (given := self._input(row)) is not None:
            return Arrival("input", given, maker, operator)
        return Arrival("memory" if is_uninitialised(operator) else "data", None, maker, operator)

    def _brought(self, row: int) -> int | None:
        """Return the op that brought the memory of a row, or was the first to look at it."""
        values = self._values
        storage = values.storages[row]
        rows = range(len(values.storages)) if storage != NONE else [values.source(row)]
        for at in rows:
            if values.storages[at] == storage and values.origins[at] in (FRESH, VIEW):
                return values.makers[at]
        return None

    def _input(self, row: int) -> str | None:
        """Return the name of the model's input that a row is, or lies in."""
        values = self._values
        storage = values.storages[row]
        for run in self._runs:
            for path, given in run.inputs if run.is_root else ():
                same = values.storages[given] == storage != NONE
                if same or values.source(given) == values.source(row):
                    return self.input_name(path)
        return None

    def input_name(self, path: str) -> str:
        """Return what the model calls the input at a path."""
        model = None if self.model is None else self.model()
        return input_name(path, None if model is None else model.forward)


def input_name(path: str, forward: Callable[..., Any] | None) -> str:
    """Return what a model calls the input at a path among those that it was given.

    >>> input_name("1.mask", lambda x, batch: None), input_name("", lambda x: None)
    ('batch.mask', 'x')
    """
    head, dot, rest = path.partition(".")
    if head and not head.isdigit():
        return path
    try:
        parameters = signature(forward).parameters.values() if forward is not None else ()
    except (TypeError, ValueError):  # it is scripted
        parameters = ()
    names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    place = int(head or 0)
    return f"{names[place]}{dot}{rest}" if place < len(names) else path or "0"
