"""Which recorded value a tensor is.

A tensor is recognised by its ``id`` and a live weak reference to that very object,
since ids are reused at once after a free; a storage likewise. Nothing is set on a
tensor and none is kept alive. A value is a *row*: the tensor object together with its
metadata at one moment, between two writes.
"""

from __future__ import annotations

from array import array
from typing import Any
from weakref import ref

import torch

from opscope.capture.originals import Originals
from opscope.capture.parameters import Parameters

OUTSIDE, FRESH, VIEW, WRITE, HANDED = range(5)
NO_STORAGE = -1
_FIRST_SWEEP = 4096

# `vmap`, `grad` and their kin hand Python a wrapper that is good inside them only.
is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


def physical(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor that ops see of one that torch.func wrapped; any other as it is."""
    while is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


class Values:
    """The table of values, one row each, and the live tensors that they are.

    Attributes:
        origins: Per row, one of OUTSIDE, FRESH, VIEW, WRITE, HANDED.
        makers: Per row, the op that made it, -1 for OUTSIDE; for HANDED the call.
        storages: Per row, its storage's number, or NO_STORAGE.
        offsets: Per row, the offset into the storage in elements.
        layouts: Per row, a number into ``layout_table``.
        originals: Where to keep what comes from outside as it was, if it is to be kept.
        constants: By row, copies of what was made of a few Python numbers.
        layout_table: Distinct ``(shape, stride, dtype, device, itemsize)``.
        handed_from: For HANDED rows, the row that was handed on.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.originals: Originals | None = None
        self.constants: dict[int, torch.Tensor] = {}
        self.origins = bytearray()
        self.makers = array("i")
        self.storages = array("i")
        self.offsets = array("q")
        self.layouts = array("i")
        self.layout_table: dict[tuple[Any, ...], int] = {}
        self.handed_from: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._tensors: list[Any] = []
        self._storage_rows: dict[int, int] = {}
        self._storage_refs: list[Any] = []
        self._sweep_at = _FIRST_SWEEP
        self._distinct_layouts: list[tuple[Any, ...]] = []
        # Whether `forget` is called at each `.data = `, which only a function mode sees.
        self.forgets = False

    def __len__(self) -> int:
        return len(self.origins)

    def seen(self, tensor: torch.Tensor) -> int:
        """Return the row of a tensor that is about to be read; a new one if it is unknown."""
        row = self._rows.get(id(tensor))
        if row is not None and self._tensors[row]() is tensor:
            storage = self.storages[row]
            # `.data = ` swaps the storage below a tensor without a dispatch.
            if storage < 0 or (
                self._storage_refs[storage]() is tensor.untyped_storage()
                and (self.forgets or self._as_it_was(tensor, row))
            ):
                return row
        return self._add(tensor, OUTSIDE, -1)

    def _as_it_was(self, tensor: torch.Tensor, row: int) -> bool:
        """Whether no `.data = ` moved a tensor within its storage, which nobody told us of."""
        shape, stride, dtype, _ = self._distinct_layouts[self.layouts[row]]
        return (
            self.offsets[row] == tensor.storage_offset()
            and shape == tensor.shape
            and stride == tensor.stride()
            and dtype is tensor.dtype
        )

    def find(self, tensor: torch.Tensor) -> int | None:
        """Return the row of a tensor if it is known, touching no attribute of it."""
        row = self._rows.get(id(tensor))
        return row if row is not None and self._tensors[row]() is tensor else None

    def made(self, tensor: torch.Tensor, op: int, *, written: bool = False) -> int:
        """Return the row of a tensor that an op returned or wrote."""
        row = self._rows.get(id(tensor))
        if row is not None and self._tensors[row]() is tensor:
            if self.makers[row] == op and self.origins[row] != HANDED:
                return row
            # Changed in place, or handed back as it was: a new value of the same tensor.
            return self._add(tensor, WRITE if written else VIEW, op)
        return self._add(tensor, WRITE if written else FRESH, op)

    def handed(self, tensor: torch.Tensor, row: int, call: int) -> int:
        """Return a new row for a tensor that a call without ops handed on."""
        tensor = physical(tensor)
        new = len(self.origins)
        self.origins.append(HANDED)
        self.makers.append(call)
        self.storages.append(self.storages[row])
        self.offsets.append(self.offsets[row])
        self.layouts.append(self.layouts[row])
        self._tensors.append(self._tensors[row])
        self.handed_from[new] = row
        self._rows[id(tensor)] = new
        return new

    def source(self, row: int) -> int:
        """Return the row behind one that was only handed on."""
        while row in self.handed_from:
            row = self.handed_from[row]
        return row

    def forget(self, tensor: torch.Tensor) -> None:
        """Have the next sight of this tensor make a new row: its metadata was replaced."""
        self._rows.pop(id(tensor), None)

    def tensor(self, row: int) -> torch.Tensor | None:
        """Return the tensor of a row while it is alive."""
        live = self._tensors[row]
        return None if live is None else live()

    def forget_all(self) -> None:
        """Have every tensor be new: the program went on unseen, and may have written any."""
        self._rows.clear()
        self._storage_rows.clear()

    def storage_of(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Return the number of a tensor's storage, NO_STORAGE if it is not known, and its bytes."""
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):
            return NO_STORAGE, tensor.numel() * tensor.element_size()
        known = self._storage_rows.get(id(storage))
        if known is None or self._storage_refs[known]() is not storage:
            return NO_STORAGE, storage.nbytes()
        return known, storage.nbytes()

    def outside(self, row: int) -> torch.Tensor | None:
        """Return a tensor from outside as it was, or as it is while it is alive."""
        if row in self.constants:
            return self.constants[row]
        tensor = self.tensor(row)
        if self.originals is None:
            return tensor
        shape, stride, dtype, device = list(self.layout_table)[self.layouts[row]]
        storage = self.originals.storages.get(self.storages[row])
        if storage is None:
            return self.originals.tensors.get(row, tensor)
        empty = torch.empty(0, dtype=dtype, device=device)
        return empty.set_(storage.clone(), self.offsets[row], shape, stride)

    def _add(self, tensor: torch.Tensor, origin: int, op: int) -> int:
        if origin == OUTSIDE and is_transformed(tensor):
            with torch._C._DisableFuncTorch():
                return self.seen(physical(tensor))
        try:
            storage = tensor.untyped_storage()
            layout = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
            offset = int(tensor.storage_offset())
        except (RuntimeError, NotImplementedError, ValueError):
            # Sparse, oneDNN, jagged and uninitialised tensors have no such storage.
            storage = None
            number, layout, offset = NO_STORAGE, _layout_without_storage(tensor), 0
        else:
            known = self._storage_rows.get(id(storage))
            if known is not None and self._storage_refs[known]() is storage:
                number = known
                if origin == FRESH:
                    origin = VIEW
            else:
                number = self._storage_rows[id(storage)] = len(self._storage_refs)
                self._storage_refs.append(ref(storage))
        row = len(self.origins)
        if row >= self._sweep_at:
            self._sweep()
        self.origins.append(origin)
        self.makers.append(op)
        self.storages.append(number)
        self.offsets.append(offset)
        table = self.layout_table
        try:
            known_layout = table.setdefault(layout, len(table))
        except TypeError:  # a size that is a symbol
            known_layout = len(self._distinct_layouts)
        if known_layout == len(self._distinct_layouts):
            known_layout = self._new_layout(layout, tensor)
        self.layouts.append(known_layout)
        self._tensors.append(ref(tensor))
        self._rows[id(tensor)] = row
        if origin in (OUTSIDE, WRITE):  # an optimizer writes parameters: they keep their name
            self._parameters.sighted(tensor, row)
        if origin == OUTSIDE and self.originals is not None:
            self.originals.keep(tensor, storage, row, number)
        return row

    def _new_layout(self, layout: tuple[Any, ...], tensor: torch.Tensor) -> int:
        table = self.layout_table
        if not all(isinstance(size, int) for sizes in layout[:2] for size in sizes):
            if tensor.is_nested:  # jagged
                table.pop(layout, None)
            layout = _in_numbers(layout, tensor)
            self.storages[-1] = NO_STORAGE
        number = table.setdefault(layout, len(table))
        if number == len(self._distinct_layouts):
            self._distinct_layouts.append(layout)
        return number

    def _sweep(self) -> None:
        """Drop dead entries; the next sweep comes when the table has grown by as much again."""
        tensors, storages = self._tensors, self._storage_refs
        for key, row in list(self._rows.items()):
            if tensors[row]() is None:
                del self._rows[key]
        keep = set(self._rows.values())
        for row, live in enumerate(tensors):
            if live is not None and row not in keep and live() is None:
                tensors[row] = None
        for key, row in list(self._storage_rows.items()):
            if storages[row]() is None:
                storages[row] = _gone
                del self._storage_rows[key]
        self._sweep_at = len(tensors) + max(_FIRST_SWEEP, len(tensors))


def _gone() -> None:
    """Stand in for the reference to a storage that was swept."""


def _in_numbers(layout: tuple[Any, ...], tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return a layout with symbols as numbers: of a jagged tensor, that of all its rows."""
    shape, stride, dtype, device = layout
    if tensor.is_nested:
        rows: Any = tensor._values
        return rows.shape, (), dtype, device
    return (*(tuple(map(_hint, sizes)) for sizes in (shape, stride)), dtype, device)


def _hint(size: int | torch.SymInt) -> int:
    """Return what a symbolic size was made from, 0 if from nothing, without a guard on it."""
    return size if isinstance(size, int) else int(size.node.hint or 0)


def _layout_without_storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    try:
        shape: Any = tensor.shape
    except (RuntimeError, ValueError):  # an uninitialised parameter
        shape = ()
    return shape, (), tensor.dtype, tensor.device
