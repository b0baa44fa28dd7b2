"""Which tensors autograd keeps for the backward.

They are read off the nodes as these are made, without unpacking them: nothing is run, no
hook of the user's is called, and autograd's checks of versions stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch

from opscope.capture.collect.autograd.post_call_queue import PostCallQueue
from opscope.capture.log.snapshots import node_of
from opscope.capture.tables.values import Values
from opscope.records.columns.columns import NONE
from opscope.torch_api import DisableTorchFunction


class SavedRow(NamedTuple):
    """One tensor that one node keeps.

    Attributes:
        owner: The row that the call which made the node returned.
        node: The node's class name.
        name: What the node calls it: ``"self"``, ``"weight"``, ``"result"``.
        shape: Its sizes.
        dtype: Its element type.
        storage: The number of its storage, or NONE.
        nbytes: Bytes of the whole storage, which is what stays in memory.
        packed: Whether a hook (of a checkpoint, say) keeps something in its stead.
    """

    owner: int
    node: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    storage: int
    nbytes: int
    packed: bool


class SavedTensors(PostCallQueue):
    """What the nodes seen so far keep, one row for each tensor."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.rows: list[SavedRow] = []
        self._values = values
        self._visited: set[int] = set()

    def inspect(self, tensor: torch.Tensor, row: int) -> None:
        """Look at the nodes behind a tensor that were not there before."""
        with DisableTorchFunction():
            pending = [node_of(tensor)]
            while pending:
                node: Any = pending.pop()
                if node is None or not hasattr(node, "_sequence_nr"):
                    continue
                number = node._sequence_nr()
                if number in self._visited or number < self.first:
                    continue
                self._visited.add(number)
                self.rows.extend(self._read(node, row))
                pending += [following for following, _ in node.next_functions]

    def _read(self, node: Any, owner: int) -> Iterator[SavedRow]:
        kind = node.__class__
        for attribute in _attributes(kind):
            try:
                found = getattr(node, attribute)
            except RuntimeError:  # it was freed
                continue
            name = attribute.removeprefix("_raw_saved_")
            several = isinstance(found, (tuple, list))
            for place, saved in enumerate(found if several else (found,)):
                kept = getattr(saved, "data", None)
                if kept is not None:
                    label = f"{name}[{place}]" if several else name
                    yield self._row(owner, kind.__name__, label, kept)

    def _row(self, owner: int, node: str, name: str, kept: Any) -> SavedRow:
        if not isinstance(kept, torch.Tensor):
            return SavedRow(owner, node, name, (), None, NONE, 0, packed=True)
        storage, nbytes = self._values.storage_of(kept)
        shape = tuple(kept.shape)
        return SavedRow(owner, node, name, shape, kept.dtype, storage, nbytes, packed=False)


@cache
def _attributes(kind: type) -> tuple[str, ...]:
    """Return the attributes of a class of nodes that hold what it keeps."""
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
