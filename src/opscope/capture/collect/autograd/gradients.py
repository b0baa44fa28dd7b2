"""Gradients of what layers gave, taken by hooks on autograd's graph.

The hooks live as long as that graph, so that a backward after the block is heard too. They
hold this table by a weak reference only: what nobody will ask for is not copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any
from weakref import finalize, ref

import torch

from opscope.capture.collect.autograd.post_call_queue import PostCallQueue
from opscope.capture.collect.kept.transforms import SaveOptions, saved_form
from opscope.records.recording import GradientFlow
from opscope.torch_api import DisableTorchDispatch, DisableTorchFunction


class Gradients(PostCallQueue):
    """The gradients that reached values, by row, one for each backward that did.

    Args:
        options: How they are saved.
    """

    def __init__(self, options: SaveOptions) -> None:
        super().__init__()
        self._options = options
        self._kept: dict[int, list[Any]] = {}
        self._wanted: set[int] | None = None
        self._reached: set[int] = set()
        # Autograd's edges between rows, and the row of each ``(node's number, output)``.
        self._sources: dict[int, set[int]] = {}
        self._row_of: dict[tuple[int, int], int] = {}
        self._hooked: set[int] = set()
        self._flow: tuple[tuple[int, int], GradientFlow] | None = None
        self._same: dict[int, int] = {}
        self._handles: list[Any] = []
        # By row, what was copied last: the tensor, and how often it had been written.
        self._latest: dict[int, tuple[ref[torch.Tensor], int]] = {}
        finalize(self, _remove, self._handles)

    def inspect(self, tensor: torch.Tensor, row: int) -> None:
        """Listen for the gradient of a tensor that a call returned."""
        if row in self._hooked or isinstance(tensor, torch.nn.Parameter):  # it has its `.grad`
            return
        self._hooked.add(row)
        table = ref(self)

        def hook(gradient: torch.Tensor | None) -> None:
            gradients = table()
            if gradients is not None and gradient is not None:
                gradients._take(gradient, row)

        with DisableTorchFunction():
            try:
                node: Any = tensor.grad_fn
            except RuntimeError:  # a view made in no_grad, whose base was written with grad on
                return
            if node is None:
                # On a tensor of the user's, not on a graph.
                self._handles.append(tensor.register_hook(hook))
                key = id(tensor), 0
            else:
                key = node._sequence_nr(), tensor.output_nr
                self._hook_node(node, tensor.output_nr, hook, row)
            known = self._row_of.get(key)
            if known is not None:  # passed through as it was
                self._sources[row] = {known}
            elif node is not None:
                self._sources[row] = self._behind(node)
            self._row_of[key] = row

    def _hook_node(self, node: Any, output: int, hook: Callable[..., None], row: int) -> None:
        """Hear of the gradient of one output of a node, before and after the tensor's own hooks.

        `Tensor.register_hook` would leave its mark on the tensor, and a hook of the user's on
        what a custom function made of that tensor would not be called. The first hook also
        hears where a gradient is only asked for, and the node does not run.
        """
        bearer = _bearer(output)
        bearer._backward_hooks = OrderedDict([(0, hook)])
        node._register_hook_dict(bearer)
        table = ref(self)

        def before_node(given: tuple[torch.Tensor | None, ...]) -> None:
            gradients, gradient = table(), given[output]
            if gradients is not None and gradient is not None:
                gradients._correct(gradient, row)

        node.register_prehook(before_node)

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

    def joined(self, rows: Mapping[int, int]) -> None:
        """Take what reached rows for what reached others, which are the same tensors."""
        self._same.update(rows)
        for row, other in rows.items():
            if row in self._kept:
                self._kept.setdefault(other, self._kept.pop(row))

    def _take(self, gradient: torch.Tensor, row: int) -> None:
        other = self._same.get(row, row)
        if other != row and other in self._hooked:
            return  # it is heard there
        row = other
        self._reached.add(row)
        if self._wanted is not None and row not in self._wanted:
            return
        self._latest[row] = ref(gradient), gradient._version
        self._kept.setdefault(row, []).append(self._copy(gradient))

    def _correct(self, gradient: torch.Tensor, row: int) -> None:
        """Take what the user's hooks made of a gradient in the place of what it was."""
        row = self._same.get(row, row)
        live, version = self._latest.pop(row, (None, 0))
        if live is None or (live() is gradient and gradient._version == version):
            return
        if row in self._kept:
            self._kept[row][-1] = self._copy(gradient)

    def _copy(self, gradient: torch.Tensor) -> Any:
        """Return what is saved of a gradient, to which autograd may go on to add."""
        transform = self._options.transform
        return saved_form(gradient, self._options, transform, copy=transform is None)

    def resume(self) -> None:
        """Keep all gradients again, until it is known whose are wanted."""
        self._wanted = None

    def keep_only(self, rows: Iterable[int]) -> None:
        """Keep the gradients of these rows only, from now on too."""
        self._wanted = set(rows)
        self._kept = {row: kept for row, kept in self._kept.items() if row in self._wanted}

    def get(self, row: int) -> tuple[Any, ...]:
        """Return the gradients that reached a row, one for each backward."""
        return tuple(self._kept.get(row, ()))

    def flow(self) -> GradientFlow:
        """Return where gradients have flowed so far."""
        seen = len(self._reached), len(self._same)
        if self._flow is not None and self._flow[0] == seen:
            return self._flow[1]
        same = self._same
        reached = {same.get(row, row) for row in self._reached}
        pairs = (
            (same.get(source, source), same.get(row, row))
            for row in self._reached
            for source in self._sources.get(row, ())
            if source in self._reached
        )
        flow = GradientFlow(frozenset(reached), frozenset((a, b) for a, b in pairs if a != b))
        self._flow = seen, flow  # it is asked for at each layer, and only ever grows
        return flow


@cache
def _bearer(output: int) -> torch.Tensor:
    """Return a tensor that is the output of this number of some node, to bear hooks."""
    with DisableTorchDispatch(), torch.enable_grad(), torch.inference_mode(mode=False):
        return torch.empty(output + 1, requires_grad=True).unbind()[output]


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
