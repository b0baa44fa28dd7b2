"""What a module is given and what it gives, as plain data: containers, with the tensors numbered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

ContainerKind = Literal["arguments", "tuple", "named tuple", "list", "dict", "object"]


class TensorAt(NamedTuple):
    """A tensor: the one of this number among all in the structure, in order."""

    number: int


class Opaque(NamedTuple):
    """Something that is no tensor, number, text or container, or could not be looked into."""

    class_name: str


Plain = str | int | float | bool | bytes | None
# A tuple of plain data is a key as it stands; what else may be one is known by its class only.
Key = Plain | tuple[Plain, ...] | Opaque


class Container(NamedTuple):
    """Items by their keys.

    Attributes:
        kind: ``"arguments"`` for those of a call, by place and then by name; ``"tuple"``,
            ``"list"`` and ``"dict"`` for these and what inherits from them; ``"named tuple"``,
            whose keys are its fields; ``"object"`` for attributes, such as those of a data class.
        class_name: Its class, such as ``"OrderedDict"``.
        keys: Places, keys or names, in order.
        items: What is there.
    """

    kind: ContainerKind
    class_name: str
    keys: tuple[Key, ...]
    items: tuple[Structure, ...]


# A constant stands for itself.
Structure = Container | TensorAt | Opaque | Plain | complex

LONE = TensorAt(0)
LONE_ARGUMENT = Container("arguments", "", (0,), (LONE,))


def tensor_paths(structure: Structure) -> list[str]:
    """Return the path to each tensor in a structure, in order; empty for a lone tensor.

    >>> pair = Container("tuple", "tuple", (0, 1), (TensorAt(0), TensorAt(1)))
    >>> tensor_paths(Container("dict", "dict", ("y", "rest"), (None, pair)))
    ['rest.0', 'rest.1']
    """
    if structure == LONE_ARGUMENT:
        return [""]
    return [".".join(map(key_text, keys)) for keys in tensor_keys(structure)]


def key_text(key: Key) -> str:
    """Return what stands for a key in a path: itself, or for what is no plain data its class."""
    if isinstance(key, tuple):
        return f"<{key.class_name if isinstance(key, Opaque) else 'tuple'}>"
    return str(key)


def tensor_keys(structure: Structure, above: tuple[Key, ...] = ()) -> Iterator[tuple[Key, ...]]:
    """Yield the keys that lead to each tensor in a structure, in order."""
    if isinstance(structure, TensorAt):
        yield above
    elif isinstance(structure, Container):
        for key, item in zip(structure.keys, structure.items, strict=True):
            yield from tensor_keys(item, (*above, key))
