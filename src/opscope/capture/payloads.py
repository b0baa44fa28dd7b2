"""Saved activations: by reference, copied just before they would be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from weakref import ref

import torch
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from opscope.capture.identity import Values, is_transformed, physical
from opscope.capture.originals import has_own_dispatch, unseen


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How activations are saved.

    Attributes:
        detach: Whether they are cut from the autograd graph.
        device: Where they are moved to; None for where they are.
        dtype: What they are cast to; None for what they are.
        transform: What is applied to each activation; what it returns is saved.
        gradient_transform: The same for gradients.
    """

    detach: bool = True
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    gradient_transform: Callable[[torch.Tensor], torch.Tensor] | None = None


class Payloads:
    """The tensors saved in one trace, by row.

    What is saved is the tensor, or a detached alias of it. It shares the tensor's memory
    until an op is about to write that memory, and is cloned then.

    Args:
        values: Where rows are looked up.
        every_op: Whether what ops return is saved, for want of layers.
        options: How they are saved.
    """

    def __init__(self, values: Values, *, every_op: bool, options: SaveOptions) -> None:
        self.every_op = every_op
        self.settled = False
        self._values = values
        self._options = options
        self._aliases: dict[int, torch.Tensor] = {}
        self._sharing: dict[int, list[int]] = {}
        self._versions: dict[int, tuple[ref[torch.Tensor], int]] = {}

    def keep(self, tensor: torch.Tensor, row: int) -> None:
        """Save a tensor, whose row this is, as it is now."""
        if row in self._aliases:
            return
        if is_transformed(tensor):
            with torch._C._DisableFuncTorch():
                self.keep(physical(tensor), row)
            return
        options = self._options
        storage = self._values.storages[row]
        with torch._C.DisableTorchFunction(), unseen(tensor):
            kept = tensor.detach() if options.detach else tensor
            if options.device is not None or options.dtype is not None:
                kept = kept.to(device=options.device, dtype=options.dtype)
            if storage < 0:  # a sparse tensor, whose memory no write can be told to be in
                kept = kept.clone()
            if options.transform is not None:
                kept = options.transform(kept)
            shares = storage >= 0 and _shares_memory(kept, tensor)
        self._aliases[row] = kept
        if shares:
            self._sharing.setdefault(storage, []).append(row)

    def before_write(self, tensors: Iterable[torch.Tensor]) -> None:
        """Clone what shares memory with tensors that an op is about to write."""
        for tensor in _with_parts(tensors):
            row = self._values.find(tensor)
            if row is None:
                continue
            for shared in self._sharing.pop(self._values.storages[row], ()):
                alias = self._aliases[shared]
                if _is_there(alias):
                    self._aliases[shared] = self._copy(alias, in_op=True)

    def _copy(self, alias: torch.Tensor, *, in_op: bool) -> torch.Tensor:
        if self._options.detach:
            with unseen(alias), torch.no_grad():
                return alias.clone()
        # In an op back above autograd, so that the copy is in the graph like the tensor itself.
        with enable_reentrant_dispatch() if in_op else nullcontext(), unseen(alias):
            return alias.clone()

    def seal(self, uncounted: Iterable[int] = ()) -> None:
        """Note the state of what shares memory with saved tensors, as the block ends.

        From here on no dispatch tells of a write, but a tensor's version counter does. Not so
        for ``uncounted`` storages, of which copies are made now: those of buffers, as batch
        norm writes its statistics past the counter.
        """
        for storage in uncounted:
            for row in self._sharing.pop(storage, ()):
                if _is_there(self._aliases[row]):
                    self._aliases[row] = self._copy(self._aliases[row], in_op=False)
        with torch._C.DisableTorchFunction():
            for row in range(len(self._values) - 1, -1, -1):
                storage = self._values.storages[row]
                if storage in self._sharing and storage not in self._versions:
                    tensor = self._values.tensor(row)
                    if tensor is not None and not tensor.is_inference():
                        self._versions[storage] = (ref(tensor), tensor._version)

    def part(self) -> None:
        """Have all that is saved in memory of its own: writes to the rest will not be noticed."""
        for row in [row for rows in self._sharing.values() for row in rows]:
            alias = self._aliases.get(row)
            if alias is not None and _is_there(alias) and not self._was_written(row):
                self._aliases[row] = self._copy(alias, in_op=False)
            else:
                self._aliases.pop(row, None)
        self._sharing.clear()
        self._versions.clear()
        self.settled = False

    def _was_written(self, row: int) -> bool:
        """Whether the memory of a saved tensor was written after the block."""
        if row not in self._sharing.get(self._values.storages[row], ()):
            return False
        live, version = self._versions.get(self._values.storages[row], (None, 0))
        tensor = None if live is None else live()
        return tensor is not None and tensor._version != version

    def retain(self, rows: Iterable[int]) -> None:
        """Drop all but these rows, once and for all."""
        wanted = set(rows)
        self.settled = True
        self._aliases = {row: kept for row, kept in self._aliases.items() if row in wanted}

    def rows(self) -> set[int]:
        """Return the rows that are saved."""
        return set(self._aliases)

    def get(self, row: int) -> torch.Tensor | None:
        """Return the tensor saved for a row.

        None if there is none, or if its memory was freed, or written after the block.
        """
        alias = self._aliases.get(row)
        if alias is None or not _is_there(alias) or self._was_written(row):
            return None
        return alias


def _with_parts(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield tensors, and those that a subclass wraps, which it writes unseen."""
    for tensor in tensors:
        yield tensor
        if has_own_dispatch(tensor):
            yield from _with_parts(_parts(tensor))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    if not is_traceable_wrapper_subclass(tensor):
        return []
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _shares_memory(kept: torch.Tensor, tensor: torch.Tensor) -> bool:
    if kept is tensor:
        return True
    try:
        return bool(kept.untyped_storage()._cdata == tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return False


def _is_there(alias: torch.Tensor) -> bool:
    """Whether a tensor's storage still has the memory for it: FSDP and others resize it to 0.

    Reading past the end of a storage is a segmentation fault.
    """
    if has_own_dispatch(alias):
        return all(map(_is_there, _parts(alias)))
    try:
        storage = alias.untyped_storage()
        reach = alias.storage_offset() + 1
        reach += sum((n - 1) * s for n, s in zip(alias.shape, alias.stride(), strict=True))
    except (RuntimeError, NotImplementedError):
        return True  # no plain storage to be resized
    return alias.numel() == 0 or storage.nbytes() >= reach * alias.element_size()
