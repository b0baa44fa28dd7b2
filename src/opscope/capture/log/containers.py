"""Looking into what a module is given and gives, without running any code of the user's.

Classes are asked for by ``type``, as ``__class__`` may lie, and items are taken as the built-in
containers hold them, as ``items()`` and ``__iter__`` may compute, or raise.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from types import MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from opscope.records.containers import (
    LONE,
    LONE_ARGUMENT,
    Container,
    ContainerKind,
    Key,
    Opaque,
    Structure,
    TensorAt,
)

_DEEPEST = 8  # containers one inside the other
_NEAR = 4  # so deep a look that is quick goes
_DEEPEST_IN_OBJECTS, _MOST_IN_OBJECTS = 4, 1000  # one may refer to a whole data set
_MOST_CONSTANTS = 1000  # what is longer and holds no tensor is data
_NOT_DATA = (nn.Module, type, ModuleType)
_CONSTANTS = frozenset({type(None), bool, int, float, complex, str, bytes})
_PLAIN = _CONSTANTS - {complex}
# The built-in containers, and what gives their items whatever a subclass says.
_ITEMS: dict[type, Callable[[Any], Iterable[Any]]] = {
    tuple: tuple.__iter__, list: list.__iter__, OrderedDict: OrderedDict.values, dict: dict.values,
    deque: deque.__iter__,
}  # fmt: skip


class Contents(NamedTuple):
    """What is in a value: its structure, and the tensors in order."""

    structure: Structure
    tensors: list[torch.Tensor]


def contents(value: Any) -> Contents:
    """Look into a value."""
    if issubclass(type(value), torch.Tensor):
        return Contents(LONE, [value])
    tensors: list[torch.Tensor] = []
    return Contents(_structure(value, tensors), tensors)


def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Contents:
    """Look into the arguments of a call."""
    if not kwargs and len(args) == 1 and issubclass(type(args[0]), torch.Tensor):
        return Contents(LONE_ARGUMENT, [args[0]])
    tensors: list[torch.Tensor] = []
    pairs = [*enumerate(args), *(kwargs or {}).items()]
    return Contents(_container("arguments", "", pairs, tensors, _DEEPEST, (), None), tensors)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, in order."""
    return contents(value).tensors


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in built-in containers: much quicker than `tensors_of`, and not as far."""
    tensors: list[torch.Tensor] = []
    _gather((value,), tensors, _NEAR)
    return tensors


def _gather(items: Iterable[Any], tensors: list[torch.Tensor], depth: int) -> None:
    for item in items:
        kind = type(item)
        if issubclass(kind, torch.Tensor):
            tensors.append(item)
        elif depth and kind not in _CONSTANTS:
            base = _container_class(kind)
            if base is not None:
                _gather(_ITEMS[base](item), tensors, depth - 1)


def _structure(
    value: Any,
    tensors: list[torch.Tensor],
    depth: int = _DEEPEST,
    above: tuple[int, ...] = (),
    most: int | None = None,
) -> Structure:
    kind = type(value)
    if issubclass(kind, torch.Tensor):
        tensors.append(value)
        return TensorAt(len(tensors) - 1)
    if kind in _CONSTANTS:
        constant: Structure = value
        return constant
    if depth == 0 or id(value) in above or issubclass(kind, _NOT_DATA):
        return Opaque(kind.__name__)
    try:
        shape, pairs = _items(value)
    except Exception:  # noqa: BLE001 (code of the user's: its failure is not the run's)
        return Opaque(kind.__name__)
    if shape is None:
        return Opaque(kind.__name__)
    if shape == "object":
        depth, most = min(depth, _DEEPEST_IN_OBJECTS), _MOST_IN_OBJECTS
    return _container(shape, kind.__name__, pairs, tensors, depth, (*above, id(value)), most)


def _container(
    kind: ContainerKind,
    name: str,
    pairs: Iterable[tuple[Any, Any]],
    tensors: list[torch.Tensor],
    depth: int,
    above: tuple[int, ...],
    most: int | None,
) -> Container | Opaque:
    before = len(tensors)
    keys: list[Key] = []
    items: list[Structure] = []
    for key, item in pairs if most is None else islice(pairs, most):
        keys.append(key if type(key) in _PLAIN else _key(key))
        is_constant = type(item) in _CONSTANTS  # nearly always
        items.append(item if is_constant else _structure(item, tensors, depth - 1, above, most))
    if len(items) > _MOST_CONSTANTS and len(tensors) == before:
        return Opaque(name)
    return Container(kind, name, tuple(keys), tuple(items))


def _items(value: Any) -> tuple[ContainerKind | None, Iterable[tuple[Any, Any]]]:
    """Return what sort of container something is, None for no such thing, and its items."""
    kind = type(value)
    base = _container_class(kind)
    if base is not None:
        items = _ITEMS[base](value)
        if issubclass(base, dict):
            return "dict", zip(base.keys(value), items, strict=True)
        if base is tuple and hasattr(kind, "_fields"):
            return "named tuple", zip(kind._fields, items, strict=True)
        return "tuple" if base is tuple else "list", enumerate(items)
    own = object.__getattribute__(value, "__dict__") if kind.__dictoffset__ else {}
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        return "object", [(name, own.get(name, _slot(value, name))) for name in names]
    return ("object", list(own.items())) if kind.__dictoffset__ else (None, ())


def _container_class(kind: type) -> type | None:
    """Return which of the built-in containers a class is."""
    if kind in _ITEMS:
        return kind
    for base in _ITEMS:
        if issubclass(kind, base):
            return base
    return None


def _slot(value: Any, name: str) -> Any:
    """Return what is in a slot, None where nothing is yet; a property is not read."""
    member = next((vars(c)[name] for c in type(value).__mro__ if name in vars(c)), None)
    try:
        return member.__get__(value) if isinstance(member, MemberDescriptorType) else None
    except AttributeError:
        return None


def _key(key: Any) -> Key:
    """Return a key as plain data; one of another class by the name of that."""
    plain: Key = key
    if type(key) in _PLAIN:
        return plain
    if issubclass(type(key), str):
        return str.__str__(key)
    if issubclass(type(key), int):
        return int.__int__(key)
    if type(key) is tuple and all(type(item) in _PLAIN for item in key):
        return plain
    return Opaque(type(key).__name__)
