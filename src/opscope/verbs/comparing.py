"""Two records side by side: `compare`, and what is known of the values of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import torch

from opscope.analysis.compare.alignment.sides import Side
from opscope.analysis.compare.distance import Held
from opscope.analysis.compare.divergence import differences
from opscope.errors import NotSaved, OptionError
from opscope.record import Record
from opscope.tensors import Tensors
from opscope.torch_api import DisableTorchFunction

if TYPE_CHECKING:
    from rich.console import Console

    from opscope.exporters.side_by_side.comparison import Comparison


def compare(
    a: Record,
    b: Record,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    modules: Mapping[str, str] | None = None,
) -> Comparison:
    """Return where two programs differ, and where first.

    They may be different programs, such as a port and its original: their layers and ops are aligned
    by module, function, parameters and data flow, and by values where these are known. Values are
    known of traces with ``save="all"``, of every op with ``replayable=True``, and where digests were
    taken; of parameters, what they are now unless there are copies of what they were, as
    ``replayable=True`` keeps. Where no values are known, structure is compared alone.

    1. The *error* of a pair of values is the norm of their difference by the greater norm.
    2. What *came in* is the greatest error of what it depends on, nearest in the data flow, inputs and
       parameters among it, as far as it is known.
    3. They differ if the error is above the tolerance of the coarser type (1e-12 for float64, 1e-5 for
       float32, 4e-3 for float16, 3e-2 for bfloat16, none for whole numbers), and above ten times
       what came in: rounding grows along a net, but slowly.
    4. Parameters and inputs, which nothing computed, differ if any element does by more than rounding.
    5. The first are those that depend on no other that differs.

    Args:
        a: A trace, or a record.
        b: Another.
        rtol: The tolerance of every type in the stead of (3) and (4).
        atol: How far apart two elements may be, however small their norms.
        modules: Addresses of modules in ``a`` with those in ``b``, where they are called otherwise; what
            is below goes along. Others are found by likeness.

    Raises:
        OptionError: For what is no record, a tolerance that is none, or an address that there is not.

    >>> import copy, torch, opscope
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.ones(1, 4)
    >>> other = copy.deepcopy(model)
    >>> other[0].bias.data[2] += 1
    >>> with opscope.trace(model, save="all") as a:
    ...     y = model(x)
    >>> with opscope.trace(other, save="all") as b:
    ...     z = other(x)
    >>> comparison = opscope.compare(a, b)
    >>> comparison.same, comparison.first.what
    (False, 'parameter 0.bias differs')
    """
    from opscope.exporters.side_by_side.comparison import Comparison  # which loads rich

    for which, record in (("a", a), ("b", b)):
        if not isinstance(record, Record):
            message = f"{which}: {type(record).__name__} object (must be a trace, or a record)"
            raise OptionError(message)
    _check_tolerance("rtol", rtol)
    _check_tolerance("atol", atol)
    if not isinstance(modules, (Mapping, type(None))):
        message = f"modules: {type(modules).__name__} object (must be a dict of addresses, or None)"
        raise OptionError(message)
    sides = Side(a.recording, a.passes), Side(b.recording, b.passes)
    with DisableTorchFunction(), torch.no_grad():  # a class of the user's is not to see it
        found = differences(sides, (RecordValues(a), RecordValues(b)), modules or {}, rtol, atol)
    flops = None
    if not found.compared:
        flops = a.costs.parts.total.flops, b.costs.parts.total.flops
    return Comparison(found, (a.recording.model_name, b.recording.model_name), flops)


def print_comparison(
    a: Record,
    b: Record,
    console: Console,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> int:
    """Print where two records differ, and return the exit status of a command that does so.

    Args:
        a: A record.
        b: Another.
        console: Where to print.
        rtol: As for `compare`.
        atol: Likewise.

    Returns:
        0 if they are the same, 1 if they differ; what cannot be compared raises.

    Raises:
        OptionError: As `compare` does.

    >>> import torch, opscope, rich.console
    >>> with opscope.trace() as trace:
    ...     y = torch.ones(2) + 1
    >>> print_comparison(trace, trace, rich.console.Console(quiet=True))
    0
    """
    comparison = compare(a, b, rtol=rtol, atol=atol)
    console.print(comparison)
    return 0 if comparison.same else 1


def _check_tolerance(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= float(value) < inf):  # type: ignore[arg-type]
        message = f"{name}: {value!r} (must be None or a number from 0)"
        raise OptionError(message)


class RecordValues:
    """The values that a record has, as tensors, or as digests where those were not kept.

    Args:
        record: It.
    """

    def __init__(self, record: Record) -> None:
        self._recording = record.recording
        self._digests = record.recording.digests or {}
        self._tensor = _tensors_of(record.tensors)

    def value(self, index: int) -> Held | None:
        """Return what a value was, None where that is not known."""
        found = self._tensor(index)
        return self._digests.get(index) if found is None else found

    def parameter(self, index: int) -> Held | None:
        """Return a parameter as it was when it was first read, or as it is if there is no copy."""
        value = self._recording.parameters[index].value
        return None if value is None else self.value(value)


def _tensors_of(tensors: Tensors) -> Callable[[int], torch.Tensor | None]:
    """Return what gives the tensor that a value was: of all values if that is known, else of some."""
    for ask in (tensors.known_values, partial(_as_it_was, tensors)):
        with suppress(NotSaved):
            return ask()
    return _nothing


def _as_it_was(tensors: Tensors) -> Callable[[int], torch.Tensor | None]:
    return tensors.saved if tensors.circumstances.saves_as_it_was else _nothing


def _nothing(_: int) -> None:
    """Return that a value was not saved."""
