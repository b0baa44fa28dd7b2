"""Saved activations: by reference, copied just before they would be overwritten."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from opscope.capture.identity import Values


class Payloads:
    """The tensors saved in one trace, by row.

    What is saved is a detached alias of the tensor. It shares the tensor's memory until
    an op is about to write that memory, and is cloned then.

    Args:
        values: Where rows are looked up.
        every_op: Whether what ops return is saved, for want of layers.
    """

    def __init__(self, values: Values, *, every_op: bool) -> None:
        self.every_op = every_op
        self.settled = False
        self._values = values
        self._aliases: dict[int, torch.Tensor] = {}
        self._sharing: dict[int, list[int]] = {}

    def keep(self, tensor: torch.Tensor, row: int) -> None:
        """Save a tensor, whose row this is, as it is now."""
        if row in self._aliases:
            return
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            self._aliases[row] = tensor.detach()
        storage = self._values.storages[row]
        if storage >= 0:
            self._sharing.setdefault(storage, []).append(row)

    def before_write(self, tensors: Iterable[torch.Tensor]) -> None:
        """Clone what shares memory with tensors that an op is about to write."""
        for tensor in tensors:
            row = self._values.find(tensor)
            if row is None:
                continue
            for shared in self._sharing.pop(self._values.storages[row], ()):
                alias = self._aliases[shared]
                if _is_there(alias):
                    with torch._C._DisableTorchDispatch(), torch.no_grad():
                        self._aliases[shared] = alias.clone()

    def retain(self, rows: Iterable[int]) -> None:
        """Drop all but these rows, once and for all."""
        wanted = set(rows)
        self.settled = True
        self._aliases = {row: kept for row, kept in self._aliases.items() if row in wanted}

    def rows(self) -> set[int]:
        """Return the rows that are saved."""
        return set(self._aliases)

    def get(self, row: int) -> torch.Tensor | None:
        """Return the tensor saved for a row; None if there is none, or its memory is gone."""
        alias = self._aliases.get(row)
        return alias if alias is not None and _is_there(alias) else None


def _is_there(alias: torch.Tensor) -> bool:
    """Whether a tensor's storage still has the memory for it: FSDP and others resize it to 0.

    Reading past the end of a storage is a segmentation fault.
    """
    try:
        storage = alias.untyped_storage()
        reach = alias.storage_offset() + 1
        reach += sum((n - 1) * s for n, s in zip(alias.shape, alias.stride(), strict=True))
    except (RuntimeError, NotImplementedError):
        return True  # no plain storage to be resized
    return alias.numel() == 0 or storage.nbytes() >= reach * alias.element_size()
