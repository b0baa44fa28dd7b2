"""One run of an op as far as its numbers matter: what it read, gave, and only showed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from opscope.capture.collect.nonfinite.came_in import CameIn
from opscope.capture.collect.nonfinite.looking import Lying, describe, is_wrapper, look, lying
from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import storage_of
from opscope.operators.known import UNDECLARED_VIEW, is_scratch, is_uninitialised
from opscope.operators.plans import Plan, results
from opscope.records.flow.origins import Arrival, Extent, Kinds

Gives = Literal["new numbers", "views", "unwritten memory"]
_gives: dict[int, Gives] = {}  # by the id of an overload, of which torch has one


def gives_of(plan: Plan) -> Gives:
    """Return what an op gives: it may only show memory that it was given another way."""
    return _gives.get(id(plan.func)) or _learn(plan)


def _learn(plan: Plan) -> Gives:
    schema = getattr(plan.func, "_schema", None)
    shown = schema is not None and any(item.alias_info is not None for item in schema.returns)
    found: Gives = "new numbers"
    if is_uninitialised(plan.name):
        found = "unwritten memory"
    elif not plan.writes and (shown or plan.name == UNDECLARED_VIEW):
        found = "views"
    _gives[id(plan.func)] = found
    return found


def with_parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a tensor, and those that one of a class of its own wraps: they are read with it."""
    yield name, tensor
    if is_wrapper(tensor):
        for attribute, part in vars(tensor).items():
            if isinstance(part, torch.Tensor) and part is not tensor:
                yield from with_parts(f"{name}.{attribute}", part)


def reads(op: RunningOp) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that an op is given and reads, with the names of the arguments."""
    for name, item in op.arguments():
        if name in op.plan.overwrites:
            continue
        several = isinstance(item, (tuple, list))
        for place, tensor in enumerate(results(item) if several else (item,)):
            if isinstance(tensor, torch.Tensor):
                yield from with_parts(f"{name}[{place}]" if several else name, tensor)


def given(op: RunningOp, wrote: list[torch.Tensor]) -> Iterator[tuple[int | None, torch.Tensor]]:
    """Yield what it made, with its number, and wrote: not what it showed, nor scratch memory."""
    known = set(map(id, wrote))
    made = () if only_shows(op) else enumerate(results(op.result))
    outputs = ((output, tensor) for output, tensor in made if id(tensor) not in known)
    for output, tensor in (*outputs, *((None, tensor) for tensor in wrote)):
        if tensor is not None and not is_scratch(op.plan.name, output):
            yield output, tensor


def only_shows(op: RunningOp) -> bool:
    """Whether all that it gave lies in the memory of what it was given."""
    if gives_of(op.plan) != "views":
        return False
    known = {storage_number(tensor) for tensor in results(op.args) if tensor is not None}
    given = (tensor for tensor in results(op.result) if tensor is not None)
    return all(storage_number(tensor) in known for tensor in given)


def gives_only(op: RunningOp) -> Literal["whole numbers", "truths"] | None:
    """Return what it gave, if that is all of a kind that cannot be NaN."""
    dtypes = {tensor.dtype for tensor in results(op.result) if tensor is not None}
    if dtypes == {torch.bool} or isinstance(op.result, bool):
        return "truths"
    whole = dtypes and not any(d.is_floating_point or d.is_complex for d in dtypes)
    return "whole numbers" if whole or isinstance(op.result, int) else None


class Watched:
    """A tensor that an op reads or gave, looked at when and as far as that is asked for.

    Args:
        tensor: It.
        came_in: Says what it is if it came in.
        before: What was in it before the op wrote it, in words and as kinds.
        kinds: What is in it, where that is known.
    """

    __slots__ = ("_before", "_came_in", "_kinds", "_lying", "tensor")

    def __init__(
        self,
        tensor: torch.Tensor,
        came_in: CameIn,
        before: tuple[str, Kinds] | None = None,
        kinds: Kinds | None = None,
    ) -> None:
        self.tensor = tensor
        self._came_in = came_in
        self._before = before
        self._kinds = kinds if before is None else before[1]
        self._lying: tuple[Extent, Lying] | None = None

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        self._lying = self._lying or lying(self.tensor)
        return self._lying[0]

    @property
    def handle(self) -> Lying:
        """How it lies there."""
        self._lying = self._lying or lying(self.tensor)
        return self._lying[1]

    def kinds(self) -> Kinds:
        """Return which bad numbers are in it."""
        if self._kinds is None:
            self._kinds = look(self.tensor)
        return self._kinds

    def text(self) -> str:
        """Return its type, sizes and range."""
        return describe(self.tensor) if self._before is None else self._before[0]

    def arrival(self) -> Arrival:
        """Return what it is, if no op was seen to put them there."""
        return self._came_in.arrival(self.tensor)


def storage_number(tensor: torch.Tensor) -> int:
    """Return the number of a tensor's storage, as long as that lives; of one without, its own."""
    storage = storage_of(tensor)
    return id(tensor) if storage is None else int(storage._cdata)
