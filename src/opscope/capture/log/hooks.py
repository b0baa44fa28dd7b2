"""Whom the watchers call besides, at which moment, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import nn

from opscope.operators.plans import Plan

Error = Exception | None
Snapshot = tuple[Any, ...]
Given = Iterable[tuple[str, torch.Tensor]]


class RunningOp:
    """One run of an aten operator.

    Attributes:
        args: What it is given by place.
        kwargs: And by name.
        result: What it gave, once it ran.
        plan: What is known of the operator.
        chain: The frames that called it, None where the autograd engine did.
    """

    __slots__ = ("args", "chain", "kwargs", "plan", "result")

    def __init__(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any = None,
        chain: tuple[Any, ...] | None = None,
    ) -> None:
        self.plan = plan
        self.args = args
        self.kwargs = kwargs
        self.result = result
        self.chain = chain

    @property
    def name(self) -> str:
        """The operator: ``"aten.add.Tensor"``."""
        return self.plan.name

    def arguments(self) -> list[tuple[str, Any]]:
        """Return what it is given, each with its name."""
        names = self.plan.arguments or [f"arg{place}" for place in range(len(self.args))]
        return [*zip(names, self.args, strict=False), *self.kwargs.items()]

    def written(self) -> list[torch.Tensor]:
        """Return the tensors among its arguments that it writes."""
        return self.plan.written(self.args, dict(self.kwargs)) if self.plan.writes else []


class ReturnedCall(NamedTuple):
    """A torch function or a module that has just returned.

    Attributes:
        kind: Which of the two.
        name: The function's name, or the module's address.
        of: The function, or the module.
        result: What it returned.
    """

    kind: Literal["function", "module"]
    name: str
    of: Any
    result: Any


class Listener(Protocol):
    """One who may want to be called."""

    def hears(self, moment: str) -> bool:
        """Whether it has a method of this name."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom to call at which moment; empty where nobody wants to know."""

    joined: tuple[Callable[[Mapping[int, int]], None], ...] = ()
    swept: tuple[Callable[[], None], ...] = ()
    first_seen: tuple[Callable[[torch.Tensor, Snapshot], None], ...] = ()
    before_op: tuple[Callable[[RunningOp], Error], ...] = ()
    before_write: tuple[Callable[[Iterable[torch.Tensor]], None], ...] = ()
    after_op: tuple[Callable[[RunningOp], Error], ...] = ()
    before_region: tuple[Callable[[Iterable[torch.Tensor]], None], ...] = ()
    after_region: tuple[Callable[[RunningOp, list[torch.Tensor]], Error], ...] = ()
    returned: tuple[Callable[[ReturnedCall], Error], ...] = ()
    model_entered: tuple[Callable[[nn.Module, Given], None], ...] = ()
    model_returned: tuple[Callable[[Given], Error], ...] = ()
    stored: tuple[Callable[[Any, int], None], ...] = ()
    numbered: tuple[Callable[[Snapshot, int, int], None], ...] = ()
    noted: tuple[Callable[[int, Any], None], ...] = ()
    called: tuple[Callable[[torch.Tensor, int], None], ...] = ()
    gave: tuple[Callable[[torch.Tensor, int], None], ...] = ()

    @classmethod
    def of(cls, collectors: Sequence[Listener]) -> Hooks:
        """Return what these want to be called for."""
        if not collectors:
            return _NOBODY
        return cls(
            **{
                moment.name: tuple(
                    getattr(collector, moment.name)
                    for collector in collectors
                    if collector.hears(moment.name)
                )
                for moment in fields(cls)
            }
        )


_NOBODY = Hooks()


def first_error(errors: Iterable[Error]) -> Error:
    """Return the first error of what several said, having asked them all."""
    return next((error for error in list(errors) if error is not None), None)
