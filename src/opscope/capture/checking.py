"""What may stop a program: a look at all that it computes, as it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from opscope.capture.log import Chain
from opscope.capture.operators import Plan


class Checker(Protocol):
    """Looks at ops, and at what the model is given and gives; returns the error to raise, if any.

    It runs nothing that the program could notice, and writes no tensor.
    """

    def before(
        self, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Exception | None:
        """Look at what an op is about to read and change."""

    def after(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        chain: Chain | None = None,
    ) -> Exception | None:
        """Look at what an op gave; ``chain`` is the frames that called it."""

    def region(
        self,
        plan: Plan,
        reads: Mapping[str, torch.Tensor],
        made: list[torch.Tensor],
        wrote: list[torch.Tensor],
    ) -> Exception | None:
        """Look at what a compiled region gave, which ran unseen."""

    def entered(self, model: nn.Module, inputs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Look at what the model is given, by path."""

    def returned(self, outputs: Iterable[tuple[str, torch.Tensor]]) -> Exception | None:
        """Look at what the model returned, by path."""
