"""What is watched of the autograd graph of the tensors that calls return."""

from __future__ import annotations

from weakref import ref

import torch

from opscope.capture.gradients import Gradients
from opscope.capture.saved_tensors import SavedTensors


class Returned:
    """Tensors that calls returned, to be looked at once they have their autograd node.

    Inside an op they have none yet, and what ran below autograd, as in a custom function,
    gets its node only later.
    """

    def __init__(self, gradients: Gradients | None, saved: SavedTensors | None) -> None:
        self.gradients = gradients
        self.saved = saved
        self._waiting: list[tuple[ref[torch.Tensor], int]] = []

    def start(self) -> None:
        """Note where the autograd graph of the block begins."""
        first = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        for watcher in (self.gradients, self.saved):
            if watcher is not None:
                watcher.first = first

    def offer(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor, now or when it has its node."""
        with torch._C.DisableTorchFunction():  # a class of the user's is not to see it
            has_node = tensor.requires_grad and _node_of(tensor) is not None
        if has_node:
            self._look(tensor, row)
        else:
            self._waiting.append((ref(tensor), row))

    def wait(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor later: an op is running, and a node it has is of what was before."""
        self._waiting.append((ref(tensor), row))

    def flush(self) -> None:
        """Look again at what had no node, before an op can change it."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        with torch._C.DisableTorchFunction():
            for live, row in waiting:
                tensor = live()
                if tensor is not None and tensor.requires_grad:
                    self._look(tensor, row)

    def _look(self, tensor: torch.Tensor, row: int) -> None:
        if self.gradients is not None:
            self.gradients.listen(tensor, row)
        if self.saved is not None:
            self.saved.visit(tensor, row)


def _node_of(tensor: torch.Tensor) -> object:
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view made in no_grad, whose base was written with grad on
        return None
