"""Parameters that quantised and oneDNN modules keep where `named_parameters` does not see them.

They are inside objects of C++, in attributes that are plain tensors, or among the buffers. Here
they have the names that they had in the float model. To look into an object takes as long as
to compute with it, so that is done when the record is read, or when its module goes before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import nn

from opscope.operators.plans import identity_of
from opscope.torch_api import DisableTorchDispatch, DisableTorchFunction

_KNOWN = tuple(
    f"__torch__.torch.classes.{room}."
    for room in ("quantized", "rnn", "sparse", "mkldnn", "xnnpack")
)
_LAYERS = "_all_weight_values"  # of an LSTM or GRU
_TENSORS = ("weight", "bias", "bias_ih", "bias_hh")
# Attributes whose names say no more than that they hold what is packed.
_HOLDS = ("_packed_params", "_packed_weight")
_CELL = {"_packed_weight_ih": "_ih", "_packed_weight_hh": "_hh"}
_HALF = (torch.float16, 5)  # the number is what a scripted module says


class Size(NamedTuple):
    """One parameter: its names, element type, shape and bytes per element."""

    names: tuple[str, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    itemsize: float


class Packed:
    """What one object of C++ holds.

    Attributes:
        names: What the names of its parameters begin with, and end with.
        identity: What tells it from other objects.
        of_model: Whether it is in a module of the model.

    Args:
        module: The module that has it.
        held: It.
        name: What the names of its parameters begin with, and end with.
        only: The one parameter in it that counts, if not all.
    """

    def __init__(
        self, module: nn.Module, held: Any, name: tuple[str, str], only: str | None = None
    ) -> None:
        self.names = [name]
        self.identity = identity_of(held)
        self.of_model = False
        self._held = held
        self._only = only
        self._is_half = getattr(module, "dtype", getattr(module, "weight_dtype", None)) in _HALF
        sizes = getattr(module, "kernel_size", None)
        self._is_1d = isinstance(sizes, tuple) and len(sizes) == 1
        self._found: list[tuple[str, torch.dtype, tuple[int, ...]]] | None = None
        me = ref(self)  # no cycle: what is held goes with the trace
        self._module = ref(module, lambda _: None if (one := me()) is None else one._look())

    def sizes(self) -> Iterator[Size]:
        """Yield its parameters."""
        self._look()
        for part, dtype, shape in self._found or ():
            names = tuple(f"{first}{part}{last}" for first, last in self.names)
            # Two elements of four bits share a byte.
            yield Size(names, dtype, shape, 0.5 if dtype is torch.quint4x2 else dtype.itemsize)

    def _look(self) -> None:
        """Look into it, and let go of it."""
        if self._found is None:
            found = _contents(self._held)
            self._held = None
            self._found = [
                (part, self._dtype_of(part, tensor), self._shape_of(tensor))
                for part, tensor in found.items()
                if self._only in (None, part)
            ]

    def _shape_of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        shape = tuple(tensor.shape)
        if self._is_1d and len(shape) == 4:  # a Conv1d is packed as a Conv2d
            return shape[:2] + shape[3:]
        return shape

    def _dtype_of(self, part: str, tensor: torch.Tensor) -> torch.dtype:
        # Weights of half precision say that they are of single precision.
        return torch.float16 if self._is_half and part == "weight" else tensor.dtype


def packed_in(module: nn.Module, address: str) -> list[Packed]:
    """Return what is packed in a module itself, named by its address."""
    if _LAYERS in module._modules:
        return list(_packed_in_layers(module, address))
    objects = _objects(module)
    if not objects or _is_called(module, "PackedParameter"):  # the LSTM or GRU has it
        return []
    found = []
    for name, held in objects:
        where, only, last = address.split("."), None, ""
        if where[-1] == "_packed_params":  # a module that is there to hold it
            where.pop()
        if name in _CELL:  # which has its biases as tensors too
            last, only = _CELL[name], "weight"
        elif name not in _HOLDS:
            where.append(name)
        found.append(Packed(module, held, (_prefix(where), last), only))
    return found


def _packed_in_layers(module: nn.Module, address: str) -> Iterator[Packed]:
    """Yield what is packed in an LSTM or GRU: one object for each layer and direction."""
    both = 1 + bool(getattr(module, "bidirectional", False))
    cells: Any = module._modules[_LAYERS]
    for number, cell in enumerate(cells.children()):
        last = f"_l{number // both}" + ("_reverse" if number % both else "")
        yield Packed(cell, cell.param, (_prefix(address.split(".")), last))


def tensors_in(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters of a module that are plain tensors or buffers."""
    rooms = [kind.__module__ for kind in module.__class__.__mro__]
    if any(room.startswith("torch.ao.") for room in rooms):
        found = {name: module.__dict__.get(name) for name in _TENSORS}
    elif "torch.utils.mkldnn" in rooms:
        found = {name: item for name, item in module._buffers.items() if name in _TENSORS}
    else:
        return {}
    return {name: item for name, item in found.items() if isinstance(item, torch.Tensor)}


def never_packs(kind: type) -> bool:
    """Whether no module of a class holds such parameters: torch's ordinary ones do not."""
    return kind.__module__.startswith("torch.nn.")


def may_pack(module: nn.Module) -> bool:
    """Whether a module may hold such parameters."""
    if module.__class__.__module__.startswith("torch."):
        return not never_packs(module.__class__)
    # Of a class of the user's, which may be made of one of those.
    return _LAYERS in module._modules or torch.ScriptObject in map(type, module.__dict__.values())


def _objects(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the objects of C++ with parameters among a module's attributes."""
    if isinstance(module, torch.jit.ScriptModule):
        kinds = getattr(module, "_concrete_type", None)  # a frozen one has none
        attributes = {} if kinds is None else kinds.get_attributes()
        names = [name for name, (kind, _) in attributes.items() if str(kind).startswith(_KNOWN)]
        return [(name, getattr(module, name)) for name in names]
    return [
        (name, held)
        for name, held in module.__dict__.items()
        if held.__class__ is torch.ScriptObject
        and str(held._type().qualified_name()).startswith(_KNOWN)
    ]


def _contents(held: Any) -> dict[str, torch.Tensor]:
    """Return the parameters that an object of C++ holds, by name."""
    with DisableTorchDispatch(), DisableTorchFunction(), torch.no_grad():
        try:
            if _is_sparse(held) or "unpack" in held._method_names():
                return _unpacked(held)
            (kind, biases, *_, weights), _ = held.__getstate__()
            found = {}
            for side, weight in zip(("ih", "hh"), weights, strict=True):
                parts = _unpacked(weight)
                half = "fp16" in kind
                found[f"weight_{side}"] = parts["weight"].half() if half else parts["weight"]
                if "bias" in parts:
                    found[f"bias_{side}"] = parts["bias"]
            found.update(zip(("bias_ih", "bias_hh"), biases, strict=False))
        except (RuntimeError, ValueError, TypeError, KeyError):
            return {}  # of an engine that cannot say
    return found


def _unpacked(held: Any) -> dict[str, torch.Tensor]:
    found = torch.ops.sparse.qlinear_unpack(held) if _is_sparse(held) else held.unpack()
    parts = found if isinstance(found, tuple) else (found,)
    pairs = zip(("weight", "bias"), parts, strict=False)
    return {name: part for name, part in pairs if isinstance(part, torch.Tensor)}


def _is_sparse(held: Any) -> bool:
    return ".sparse." in str(held._type().qualified_name())


def _is_called(module: nn.Module, name: str) -> bool:
    """Whether it is of a class of this name, or was before it was scripted."""
    return name in (module.__class__.__name__, getattr(module, "original_name", None))


def _prefix(names: list[str]) -> str:
    return "".join(f"{name}." for name in names if name)
