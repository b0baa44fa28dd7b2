"""The first op that makes a NaN or an infinity out of numbers that were none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from opscope.capture.operators import SCRATCH, Plan, is_uninitialised
from opscope.errors import NonFiniteError


class Kinds(NamedTuple):
    """Which numbers that are not finite are among some."""

    nan: bool = False
    inf: bool = False

    def __or__(self, other: Kinds) -> Kinds:
        return Kinds(self.nan or other.nan, self.inf or other.inf)

    def new(self, before: Kinds) -> str | None:
        """Return what is here that was not before, in words.

        A NaN may come of infinities; an infinity that comes of one or of a NaN is not new.
        """
        if self.nan and not before.nan:
            return "NaN"
        return "Inf" if self.inf and not (before.nan or before.inf) else None


def kinds_of(tensor: torch.Tensor) -> Kinds:
    """Return which numbers that are not finite a tensor holds."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.device.type == "meta":
        return Kinds()
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(), torch.no_grad():
        try:
            values = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
            # A sum is not finite if a term is not; the other way round it may overflow.
            total = values.sum().item()
            if math.isfinite(abs(total)):
                return Kinds()
            return Kinds(bool(values.isnan().any()), bool(values.isinf().any()))
        except (RuntimeError, NotImplementedError):
            return Kinds()  # quantised, nested: nothing to be said


def kinds_of_numbers(arguments: Iterable[object]) -> Kinds:
    """Return which numbers that are not finite are among an op's other arguments."""
    numbers = [item for item in arguments if isinstance(item, float)]
    return Kinds(any(map(math.isnan, numbers)), any(map(math.isinf, numbers)))


class FiniteCheck:
    """Looks at what each op is given and gives, and raises at the first bad number.

    Memory that nobody wrote yet is passed over, and so is what an argument of minus infinity
    (of a mask) puts there.
    """

    def __init__(self) -> None:
        # What an op overwrites, by id: what it was, and in words.
        self._overwritten: dict[int, tuple[Kinds, str]] = {}

    def before(self, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look at what an op is about to overwrite."""
        self._overwritten.clear()
        if plan.writes:
            written = plan.written(args, dict(kwargs))
            self._overwritten.update((id(t), (kinds_of(t), describe(t))) for t in written)

    def after(
        self, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> NonFiniteError | None:
        """Look at what it gave; return the error to raise where it made a bad number."""
        if is_uninitialised(plan.name):
            return None
        given = [] if result is None else list(_numbered(result))
        given = [(i, t) for i, t in given if i not in SCRATCH.get(plan.name, ())]
        if plan.writes:
            given += [(len(given), tensor) for tensor in plan.written(args, dict(kwargs))]
        found = Kinds()
        for _, tensor in given:
            found |= kinds_of(tensor)
        if not (found.nan or found.inf):
            return None
        inputs = dict(_tensors((*zip(plan.arguments, args, strict=False), *kwargs.items())))
        scalars = kinds_of_numbers(_flat((*args, *kwargs.values())))
        before, old = scalars, self._overwritten
        for tensor in inputs.values():
            before |= old[id(tensor)][0] if id(tensor) in old else kinds_of(tensor)
        what = found.new(before)
        if what is None:
            return None
        ranges = [
            f"{name} {old[id(tensor)][1] if id(tensor) in old else describe(tensor)}"
            for name, tensor in inputs.items()
        ]
        return NonFiniteError(kind=what, operator=plan.name, ranges=tuple(ranges))


def describe(tensor: torch.Tensor) -> str:
    """Return a tensor's type, sizes and range: ``"float32[2, 3] from -1.5 to 2"``."""
    text = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    if tensor.numel() == 0 or tensor.is_complex() or tensor.layout != torch.strided:
        return text
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(), torch.no_grad():
        try:
            least, most = tensor.detach().aminmax()
        except (RuntimeError, NotImplementedError):
            return text
        return f"{text} from {least.item():.4g} to {most.item():.4g}"


def _numbered(result: Any) -> Iterator[tuple[int, torch.Tensor]]:
    for place, item in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
        for tensor in _flat((item,)):
            if isinstance(tensor, torch.Tensor):
                yield place, tensor


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, (tuple, list)):
            yield from _flat(item)
        else:
            yield item


def _tensors(arguments: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, item in arguments:
        several = isinstance(item, (tuple, list))
        for place, tensor in enumerate(item if several else (item,)):
            if isinstance(tensor, torch.Tensor):
                yield (f"{name}[{place}]" if several else name), tensor
