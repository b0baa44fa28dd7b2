"""Gradients of what layers gave, taken by hooks on autograd's graph.

The hooks live as long as that graph, so that a backward after the block is heard too. They
hold this table by a weak reference only: what nobody will ask for is not copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import finalize, ref

import torch

from opscope.capture.identity import Values
from opscope.capture.payloads import SaveOptions


class Gradients:
    """The gradients that reached values, by row, one for each backward that did.

    Args:
        values: Where tensors are looked up.
        options: How they are saved.
    """

    def __init__(self, values: Values, options: SaveOptions) -> None:
        self._values = values
        self._options = options
        self._kept: dict[int, list[torch.Tensor]] = {}
        self._wanted: set[int] | None = None
        self._reached: set[int] = set()
        # Autograd's edges between rows, and the row of each ``(node's number, output)``.
        self._sources: dict[int, set[int]] = {}
        self._row_of: dict[tuple[int, int], int] = {}
        self._hooked: set[int] = set()
        self.first = 0  # autograd's number for the first node of the block
        self._handles: list[Any] = []
        finalize(self, _remove, self._handles)

    def listen(self, tensor: torch.Tensor, row: int) -> None:
        """Listen for the gradient of a tensor that a call returned."""
        if row in self._hooked or isinstance(tensor, torch.nn.Parameter):  # it has its `.grad`
            return
        self._hooked.add(row)
        table = ref(self)

        def hook(gradient: torch.Tensor) -> None:
            gradients = table()
            if gradients is not None:
                gradients._take(gradient, row)

        with torch._C.DisableTorchFunction():
            try:
                node = tensor.grad_fn
                handle = tensor.register_hook(hook)
            except RuntimeError:  # a view made in no_grad, whose base was written with grad on
                return
            if node is None:
                self._handles.append(handle)  # on a tensor of the user's, not on a graph
                key = id(tensor), 0
            else:
                key = node._sequence_nr(), tensor.output_nr
            known = self._row_of.get(key)
            if known is not None:  # handed on as it was
                self._sources[row] = {known}
            elif node is not None:
                self._sources[row] = self._behind(node)
            self._row_of[key] = row

    def _behind(self, node: Any) -> set[int]:
        """Return the rows to which a node gives gradients, over nodes that are no row's."""
        found: set[int] = set()
        pending, seen = [node], set()
        while pending:
            for following, output in pending.pop().next_functions:
                if following is None:
                    continue
                number = following._sequence_nr()
                if following.__class__.__name__ == "AccumulateGrad":
                    number = id(following.variable)
                row = self._row_of.get((number, output))
                if row is not None:
                    found.add(row)
                elif number not in seen and number >= self.first:
                    seen.add(number)
                    pending.append(following)
        return found

    def _take(self, gradient: torch.Tensor, row: int) -> None:
        self._reached.add(row)
        if self._wanted is not None and row not in self._wanted:
            return
        options = self._options
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            kept = gradient.detach() if options.detach else gradient
            if options.gradient_transform is not None:
                kept = options.gradient_transform(kept)
            else:  # a copy: autograd may go on to add to this very tensor
                kept = kept.clone()
            if options.device is not None or options.dtype is not None:
                kept = kept.to(device=options.device, dtype=options.dtype)
        self._kept.setdefault(row, []).append(kept)

    def resume(self) -> None:
        """Keep all gradients again, until it is known whose are wanted."""
        self._wanted = None

    def retain(self, rows: Iterable[int]) -> None:
        """Keep the gradients of these rows only, from now on too."""
        self._wanted = set(rows)
        self._kept = {row: kept for row, kept in self._kept.items() if row in self._wanted}

    def get(self, row: int) -> tuple[torch.Tensor, ...]:
        """Return the gradients that reached a row, one for each backward."""
        return tuple(self._kept.get(row, ()))

    def flows(self) -> set[tuple[int, int]]:
        """Return the pairs of rows ``(source, result)`` between which a gradient flowed."""
        return {
            (source, row)
            for row in self._reached
            for source in self._sources.get(row, ())
            if source in self._reached
        }

    def reached(self) -> set[int]:
        """Return the rows that a gradient reached."""
        return set(self._reached)


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
