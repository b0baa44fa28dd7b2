"""Waiting for the autograd nodes of the tensors that calls return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from weakref import ref

import torch

from opscope.capture.collect.collector import InnerCollector
from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import node_of
from opscope.operators.known import DETACH
from opscope.torch_api import DisableTorchFunction, next_sequence_number


class PostCallQueue(InnerCollector, ABC):
    """A collector that looks at tensors that calls returned, once they have their autograd node.

    Inside an op they have none yet, and what ran below autograd, as in a custom function,
    gets its node only later.

    Attributes:
        first: Autograd's number for the first node of the block.
    """

    eager = True

    def __init__(self) -> None:
        self.first = 0
        self._waiting: list[tuple[ref[torch.Tensor], int]] = []

    @abstractmethod
    def inspect(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor that has its node, if it is to have one."""

    def start(self) -> None:
        """Note where the autograd graph of the block begins."""
        self.first = next_sequence_number()

    def called(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor, now or when it has its node."""
        with DisableTorchFunction():  # a class of the user's is not to see it
            has_node = tensor.requires_grad and node_of(tensor) is not None
        if has_node:
            self.inspect(tensor, row)
        else:
            self._waiting.append((ref(tensor), row))

    def gave(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor later: an op is running, and a node it has is of what was before."""
        self._waiting.append((ref(tensor), row))

    def before_op(self, op: RunningOp) -> None:
        """Look at what waits, before an op can change it."""
        # Autograd detaches what a node keeps before the node is whole.
        if self._waiting and op.plan.name != DETACH:
            self._flush()

    def before_region(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do so before a compiled region can."""
        self._flush()

    def stop(self, buffers: Iterable[torch.Tensor], known: Iterable[Any]) -> None:
        """Look at what still waits."""
        self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        with DisableTorchFunction():
            for live, row in waiting:
                tensor = live()
                if tensor is not None and tensor.requires_grad:
                    self.inspect(tensor, row)
