"""Saved activations: by reference, copied just before they would be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from weakref import ref

import torch
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from opscope.capture.log import Live, is_transformed, physical
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


class Kept:
    """One saved tensor.

    Attributes:
        tensor: It; None where its memory was written since, unseen.
        storage: The storage that it shares with the program, by ``id`` of the weak reference;
            None once it has memory of its own.
        writes: How often the memory of what was saved had been written then.
    """

    __slots__ = ("storage", "tensor", "writes")

    def __init__(self, tensor: torch.Tensor | None, storage: int | None, writes: int) -> None:
        self.tensor = tensor
        self.storage = storage
        self.writes = writes


class Payloads:
    """The tensors saved in one trace, by row.

    What is saved is the tensor, or a detached alias of it. It shares the tensor's memory
    until an op is about to write that memory, and is cloned then. It is taken when a call
    returns, and given its row when that is known.

    Args:
        every_op: Whether what ops return is saved, for want of layers.
        options: How they are saved.
    """

    def __init__(self, *, every_op: bool, options: SaveOptions) -> None:
        self.every_op = every_op
        self.settled = False
        self._options = options
        self._rows: dict[int, Kept] = {}
        # By ``id`` of the weak reference to a storage, that, and what shares it.
        self._sharing: dict[int, tuple[ref[torch.UntypedStorage], list[Kept]]] = {}
        self._versions: dict[int, tuple[ref[torch.Tensor], int]] = {}
        # How often each storage was written, and what was saved last of each tensor.
        self._writes: dict[int, int] = {}
        self._last: dict[int, tuple[Live, Kept]] = {}

    def take_again(self, tensor: torch.Tensor) -> Kept:
        """Save a tensor as it is now, unless that was done."""
        live, kept = self._last.get(id(ref(tensor)), (None, None))
        if live is not None and kept is not None and live() is tensor:
            with torch._C.DisableTorchFunction():
                storage = _storage_of(tensor)
            if storage is not None and self._writes.get(id(storage), 0) == kept.writes:
                return kept
        return self.take(tensor)

    def sweep(self) -> None:
        """Drop what was known of tensors that are gone."""
        self._last = {key: pair for key, pair in self._last.items() if pair[0]() is not None}

    def take(self, tensor: torch.Tensor) -> Kept:
        """Save a tensor as it is now."""
        if is_transformed(tensor):
            with torch._C._DisableFuncTorch():
                return self.take(physical(tensor))
        options = self._options
        with torch._C.DisableTorchFunction(), unseen(tensor):
            storage = _storage_of(tensor)
            kept = tensor.detach() if options.detach else tensor
            if options.device is not None or options.dtype is not None:
                kept = kept.to(device=options.device, dtype=options.dtype)
            if storage is None:  # a sparse tensor, whose memory no write can be told to be in
                kept = kept.clone()
            if options.transform is not None:
                kept = options.transform(kept)
            writes = self._writes.get(id(storage), 0)
            if storage is None or _storage_of(kept) is not storage:
                found = Kept(kept, None, writes)
            else:
                found = Kept(kept, id(storage), writes)
                self._sharing.setdefault(id(storage), (storage, []))[1].append(found)
        live = ref(tensor)
        self._last[id(live)] = live, found
        return found

    def put(self, row: int, kept: Kept) -> None:
        """Note whose value was saved."""
        self._rows.setdefault(row, kept)

    def before_write(self, tensors: Iterable[torch.Tensor]) -> None:
        """Clone what shares memory with tensors that an op is about to write."""
        for tensor in _with_parts(tensors):
            storage = id(_storage_of(tensor))
            self._writes[storage] = self._writes.get(storage, 0) + 1
            _, sharing = self._sharing.pop(storage, (None, ()))
            for kept in sharing:
                self._part(kept, in_op=True)

    def _part(self, kept: Kept, *, in_op: bool = False) -> None:
        """Give a saved tensor memory of its own."""
        alias, kept.storage = kept.tensor, None
        if alias is None or not _is_there(alias):
            return
        if self._options.detach:
            with unseen(alias), torch.no_grad():
                kept.tensor = alias.clone()
        else:
            # In an op back above autograd, so that the copy is in the graph like the tensor itself.
            with enable_reentrant_dispatch() if in_op else nullcontext(), unseen(alias):
                kept.tensor = alias.clone()

    def seal(self, buffers: Iterable[torch.Tensor], known: Iterable[Live]) -> None:
        """Note the state of what shares memory with saved tensors, as the block ends.

        From here on no dispatch tells of a write, but a tensor's version counter does. Not so
        for ``buffers``, of which copies are made now: batch norm writes its statistics past
        the counter.
        """
        for buffer in buffers:
            _, sharing = self._sharing.pop(id(_storage_of(buffer)), (None, ()))
            for kept in sharing:
                self._part(kept)
        for live in known:
            tensor = live()
            if tensor is None or tensor.is_inference():
                continue
            storage = id(_storage_of(tensor))
            if storage in self._sharing and storage not in self._versions:
                self._versions[storage] = (live, tensor._version)

    def part(self) -> None:
        """Have all that is saved in memory of its own: writes to the rest will not be noticed."""
        for _, sharing in self._sharing.values():
            for kept in sharing:
                if self._was_written(kept):
                    kept.tensor = None
                self._part(kept)
        self._sharing.clear()
        self._versions.clear()
        self.settled = False

    def _was_written(self, kept: Kept) -> bool:
        """Whether the memory of a saved tensor was written after the block."""
        if kept.storage is None:
            return False
        live, version = self._versions.get(kept.storage, (None, 0))
        tensor = None if live is None else live()
        return tensor is not None and tensor._version != version

    def retain(self, rows: Iterable[int]) -> None:
        """Drop all but these rows, once and for all."""
        wanted = set(rows)
        self.settled = True
        self._rows = {row: kept for row, kept in self._rows.items() if row in wanted}
        self._sharing = {key: (storage, []) for key, (storage, _) in self._sharing.items()}
        for kept in self._rows.values():
            if kept.storage is not None:
                self._sharing[kept.storage][1].append(kept)

    def rows(self) -> set[int]:
        """Return the rows that are saved."""
        return set(self._rows)

    def get(self, row: int) -> torch.Tensor | None:
        """Return the tensor saved for a row.

        None if there is none, or if its memory was freed, or written after the block.
        """
        kept = self._rows.get(row)
        if kept is None or kept.tensor is None or self._was_written(kept):
            return None
        return kept.tensor if _is_there(kept.tensor) else None


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


def _storage_of(tensor: torch.Tensor) -> ref[torch.UntypedStorage] | None:
    """Return the weak reference to a tensor's storage, of which there is one while it is held."""
    try:
        return ref(tensor.untyped_storage())
    except (RuntimeError, NotImplementedError, ValueError):
        return None


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
