"""Saved activations: by reference, copied just before they would be overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any
from weakref import ref

import torch
from torch.overrides import enable_reentrant_dispatch

from opscope.capture.collect.collector import NoteTaker
from opscope.capture.collect.kept.transforms import SaveOptions, in_class_of, parts_of, saved_form
from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Live
from opscope.capture.log.snapshots import is_transformed, storage_ref, unwrap_functorch
from opscope.capture.unchanged.outside import has_own_dispatch, unseen
from opscope.torch_api import DisableFuncTorch, DisableTorchDispatch, DisableTorchFunction

LOST = object()
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


class SavedValue:
    """What was saved of one tensor.

    Attributes:
        value: It, whatever a transform returned; LOST where its memory was written since,
            unseen; a `Failed` where it could not be made.
        storage: The storage that it shares with the program, by ``id`` of the weak reference;
            None once it has memory of its own.
        writes: How often the memory of what was saved had been written then.
    """

    __slots__ = ("storage", "value", "writes")

    def __init__(self, value: Any, storage: int | None, writes: int) -> None:
        self.value = value
        self.storage = storage
        self.writes = writes


class Activations(NoteTaker):
    """The tensors saved in one trace, by row.

    What is saved is the tensor, or a detached alias of it. It shares the tensor's memory
    until an op is about to write that memory, and is cloned then. It is taken when a call
    returns, and given its row when that is known.

    Args:
        log: Where what a transform runs is not written.
        every_op: Whether what ops return is saved, for want of layers.
        options: How they are saved.
    """

    def __init__(self, log: Log, *, every_op: bool, options: SaveOptions) -> None:
        self.every_op = every_op
        self.is_reduced = False
        self._log = ref(log)  # which refers to `take`
        self.options = options
        self._is_as_it_is = options == SaveOptions()
        self._rows: dict[int, SavedValue] = {}
        # By ``id`` of the weak reference to a storage, that, and what shares it.
        self._sharing: dict[int, tuple[ref[torch.UntypedStorage], list[SavedValue]]] = {}
        self._versions: dict[int, tuple[ref[torch.Tensor], int]] = {}
        # How often each storage was written, and what was saved last of each tensor.
        self._writes: dict[int, int] = {}
        self._last: dict[int, tuple[Live, SavedValue]] = {}

    def take_again(self, tensor: torch.Tensor) -> SavedValue:
        """Save a tensor as it is now, unless that was done."""
        live, kept = self._last.get(id(ref(tensor)), (None, None))
        if live is not None and kept is not None and live() is tensor:
            with DisableTorchFunction():
                storage = storage_ref(tensor)
            if storage is not None and self._writes.get(id(storage), 0) == kept.writes:
                return kept
        return self.take(tensor)

    def take_written(self, known: Iterable[Live]) -> list[SavedValue | None]:
        """Save those of some tensors whose memory was written since they came to be."""
        found: list[SavedValue | None] = []
        for live in known:
            tensor = live()
            is_written = False
            if tensor is not None:
                with DisableTorchFunction():  # a mode of the user's is not to see it
                    is_written = id(storage_ref(tensor)) in self._writes
            found.append(self.take_again(tensor) if is_written and tensor is not None else None)
        return found

    def swept(self) -> None:
        """Drop what was known of tensors that are gone."""
        self._last = {key: pair for key, pair in self._last.items() if pair[0]() is not None}

    def take(self, tensor: torch.Tensor) -> SavedValue:
        """Save a tensor as it is now."""
        if is_transformed(tensor):
            with DisableFuncTorch():
                return self.take(unwrap_functorch(tensor))
        if self._is_as_it_is and tensor.__class__ in _PLAIN:  # nearly always
            with DisableTorchFunction(), DisableTorchDispatch():
                storage = storage_ref(tensor)
                if storage is not None:
                    return self._note(tensor, tensor.detach(), storage, shares=True)
        options = self.options
        with DisableTorchFunction():
            storage = storage_ref(tensor)
        # That of a sparse tensor is none that a write can be told to be in.
        value = saved_form(tensor, options, options.transform, self._log(), copy=storage is None)
        with DisableTorchFunction():
            shares = storage is not None and _is_in(storage, value)
        return self._note(tensor, value, storage, shares=shares)

    def _note(
        self,
        tensor: torch.Tensor,
        value: Any,
        storage: ref[torch.UntypedStorage] | None,
        *,
        shares: bool,
    ) -> SavedValue:
        """Return what was saved of a tensor, and note whose memory that is."""
        writes = self._writes.get(id(storage), 0)
        kept = SavedValue(value, id(storage) if shares else None, writes)
        if shares and storage is not None:
            self._sharing.setdefault(id(storage), (storage, []))[1].append(kept)
        live = ref(tensor)
        self._last[id(live)] = live, kept
        return kept

    def noted(self, row: int, note: SavedValue) -> None:
        """Note whose value was saved."""
        self._rows.setdefault(row, note)

    def joined(self, rows: Mapping[int, int]) -> None:
        """Take what was saved of rows for that of others, which are the same tensors."""
        for row, other in rows.items():
            if row in self._rows:
                self.noted(other, self._rows[row])

    def before_write(self, tensors: Iterable[torch.Tensor]) -> None:
        """Clone what shares memory with tensors that an op is about to write."""
        for tensor in _with_parts(tensors):
            storage = id(storage_ref(tensor))
            self._writes[storage] = self._writes.get(storage, 0) + 1
            _, sharing = self._sharing.pop(storage, (None, ()))
            for kept in sharing:
                self._part(kept, in_op=True)

    before_region = before_write  # what it writes is known only afterwards

    def _part(self, kept: SavedValue, *, in_op: bool = False) -> None:
        """Give a saved tensor memory of its own."""
        alias, kept.storage = kept.value, None
        with DisableTorchFunction():
            if alias is LOST or not _is_there(alias):
                return
            if self.options.detach:
                with unseen(alias), torch.no_grad():
                    kept.value = in_class_of(alias, alias.clone())
            else:
                # In an op back above autograd, so that the copy is in the graph like the tensor.
                with enable_reentrant_dispatch() if in_op else nullcontext(), unseen(alias):
                    kept.value = in_class_of(alias, alias.clone())

    def stop(self, buffers: Iterable[torch.Tensor], known: Iterable[Live]) -> None:
        """Note the state of what shares memory with saved tensors, as the block ends.

        From here on no dispatch tells of a write, but a tensor's version counter does. Not so
        for ``buffers``, of which copies are made now: batch norm writes its statistics past
        the counter.
        """
        for buffer in buffers:
            _, sharing = self._sharing.pop(id(storage_ref(buffer)), (None, ()))
            for kept in sharing:
                self._part(kept)
        for live in known:
            tensor = live()
            if tensor is None or tensor.is_inference():
                continue
            storage = id(storage_ref(tensor))
            if storage in self._sharing and storage not in self._versions:
                self._versions[storage] = (live, tensor._version)

    def resume(self) -> None:
        """Have all that is saved in memory of its own: writes to the rest will not be noticed."""
        for _, sharing in self._sharing.values():
            for kept in sharing:
                if self._was_written(kept):
                    kept.value = LOST
                self._part(kept)
        self._sharing.clear()
        self._versions.clear()
        self.is_reduced = False

    def _was_written(self, kept: SavedValue) -> bool:
        """Whether the memory of a saved tensor was written after the block."""
        if kept.storage is None:
            return False
        live, version = self._versions.get(kept.storage, (None, 0))
        tensor = None if live is None else live()
        return tensor is not None and tensor._version != version

    def keep_only(self, rows: Iterable[int]) -> None:
        """Drop all but these rows, once and for all."""
        wanted = set(rows)
        self.is_reduced = True
        self._rows = {row: kept for row, kept in self._rows.items() if row in wanted}
        self._sharing = {key: (storage, []) for key, (storage, _) in self._sharing.items()}
        for kept in self._rows.values():
            if kept.storage is not None:
                self._sharing[kept.storage][1].append(kept)

    def rows(self) -> set[int]:
        """Return the rows that are saved."""
        return set(self._rows)

    def find(self, row: int) -> SavedValue | None:
        """Return what was saved for a row.

        None if nothing was, or if its memory was freed, or written after the block.
        """
        kept = self._rows.get(row)
        if kept is None or kept.value is LOST:
            return None
        with DisableTorchFunction():
            if self._was_written(kept):
                return None
            if isinstance(kept.value, torch.Tensor) and not _is_there(kept.value):
                return None
        return kept

    def get(self, row: int) -> torch.Tensor | None:
        """Return it if it is a tensor, None else."""
        kept = self.find(row)
        return kept.value if kept is not None and isinstance(kept.value, torch.Tensor) else None


def _with_parts(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield tensors, and those that a subclass wraps, which it writes unseen."""
    for tensor in tensors:
        yield tensor
        if has_own_dispatch(tensor):
            yield from _with_parts(parts_of(tensor))


def _is_in(storage: ref[torch.UntypedStorage], value: object) -> bool:
    return isinstance(value, torch.Tensor) and storage_ref(value) is storage


def _is_there(alias: torch.Tensor) -> bool:
    """Whether a tensor's storage still has the memory for it: FSDP and others resize it to 0.

    Reading past the end of a storage is a segmentation fault.
    """
    if has_own_dispatch(alias):
        return all(map(_is_there, parts_of(alias)))
    try:
        storage = alias.untyped_storage()
        first, count = alias.storage_offset(), alias.numel()
        if alias.is_contiguous():  # nearly always
            reach = first + count
        else:
            steps = zip(alias.shape, alias.stride(), strict=True)
            reach = first + 1 + sum((size - 1) * step for size, step in steps)
    except (RuntimeError, NotImplementedError):
        return True  # no plain storage to be resized
    return count == 0 or storage.nbytes() >= reach * alias.element_size()
