"""What a program returns: the containers of the model, with nodes where it has tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from opscope.errors import TraceStateError
from opscope.exporters.fx.names import is_quotable
from opscope.records.containers import (
    Container,
    Key,
    Opaque,
    Structure,
    TensorAt,
    key_text,
    tensor_keys,
)


def assemble(
    structure: Structure, node: Callable[[int], fx.Node], above: tuple[Key, ...] = ()
) -> Any:
    """Return a structure as torch.fx takes it: in tuples, lists and dictionaries.

    A container of a class of its own is not made, as that would run code of its class: what
    inherits from a dictionary is one with the same keys, a named tuple a tuple, and any other
    object a dictionary of its attributes, without those that are no data.

    Raises:
        TraceStateError: If it holds something that is no tensor, number or text.
    """
    if isinstance(structure, TensorAt):
        return node(structure.number)
    if isinstance(structure, Opaque):
        message = (
            f"the output{_at(above)} is of class {structure.class_name}, which a program cannot "
            "give; return tensors, numbers and texts, or ask for a module inside: to_fx(address)"
        )
        raise TraceStateError(message)
    if not isinstance(structure, Container):
        if isinstance(structure, str) and not is_quotable(structure):
            raise _unquotable(structure)
        return structure
    found = {}
    for key, item in zip(structure.keys, structure.items, strict=True):
        if structure.kind == "object" and not _is_data(item):
            continue
        if isinstance(key, Opaque):
            message = (
                f"the output{_at(above)} is a dictionary with a key of class {key.class_name}, which "
                "a program cannot give; let keys be texts, numbers, or tuples of them"
            )
            raise TraceStateError(message)
        if not is_quotable(repr(key)):
            raise _unquotable(repr(key))
        found[key] = assemble(item, node, (*above, key))
    if structure.kind == "list":
        return list(found.values())
    if structure.kind in ("tuple", "named tuple"):
        return tuple(found.values())
    return found


def _is_data(item: Structure) -> bool:
    """Whether an attribute is given: it holds a tensor, or nothing that cannot be given."""
    return not _is_opaque(item) or any(True for _ in tensor_keys(item))


def _is_opaque(item: Structure) -> bool:
    if isinstance(item, Container):
        return any(map(_is_opaque, item.items)) and item.kind != "object"
    return isinstance(item, Opaque)


def _at(keys: tuple[Key, ...]) -> str:
    return f" at {'.'.join(map(key_text, keys))}" if keys else ""


def _unquotable(text: str) -> TraceStateError:
    return TraceStateError(f"the output has the text {text!r}, which torch.fx takes for its own")
