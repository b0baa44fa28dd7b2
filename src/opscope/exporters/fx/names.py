"""Names of arguments and attributes that the text of a program can hold.

torch.fx writes a program as Python, and some names into it as they are. None that comes from a
model may end up as code there, or as another name than it was.
"""

from __future__ import annotations

import inspect
import keyword
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx, nn

from opscope import notation
from opscope.program import node_name, restores_grad_mode
from opscope.records.containers import Key, key_text

_NAMES_OF_TORCH = ("torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree")
_OF_THE_CODE = frozenset(
    {*_NAMES_OF_TORCH, "self", "getattr", "slice", restores_grad_mode.__name__}
)
_DEEPEST = 50  # modules one in the other: to walk them takes that many calls
_LONGEST = 100
# Between quotes torch.fx writes text as it is, and takes lines with such a comment for its own.
_UNQUOTABLE = re.compile(r'["\\]|# COUNTER: \d')


def is_quotable(text: str) -> bool:
    """Whether a text can stand in a program, where torch writes its ``repr``."""
    return re.search(r"# COUNTER: \d", text) is None


def quotable(text: str) -> str:
    """Return a text for a message, as it can stand in a program."""
    return re.sub(r"#(?= COUNTER: \d)", "", notation.foreign(text))


# -------------------------------------------------------------------------------- arguments


def parameters_of(forward: Callable[..., Any] | None) -> list[inspect.Parameter]:
    """Return the parameters of a ``forward``, also of a scripted one; none if it does not tell."""
    if forward is None:
        return []
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        pass
    named: Any = getattr(forward, "schema", None)
    names = [] if named is None else [argument.name for argument in named.arguments[1:]]
    return [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in names
        if name.isidentifier() and not keyword.iskeyword(name)
    ]


def argument(key: Key, parameters: Sequence[inspect.Parameter]) -> tuple[int, str]:
    """Return which parameter an argument is for, by its place, and what to call the argument.

    Args:
        key: The argument's place in the call, or its name.
        parameters: Those of the signature.
    """
    last = len(parameters)
    if not isinstance(key, int):
        places = {parameter.name: place for place, parameter in enumerate(parameters)}
        return places.get(str(key), last), str(key)
    position = key
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return place, f"{parameter.name}_{position}"
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if position == 0:
                return place, parameter.name
            position -= 1
    return last, f"input_{key}"


def argument_names(
    inputs: Sequence[tuple[Key, ...]], parameters: Sequence[inspect.Parameter]
) -> list[tuple[int, str]]:
    """Return, in the order of the signature, the number of each input and a name for it.

    Args:
        inputs: The keys that lead to each, the first of which is the argument.
        parameters: Those of the signature.
    """
    found = []
    for number, (first, *rest) in enumerate(inputs):
        place, head = argument(first, parameters)
        found.append((place, number, "_".join([head, *map(key_text, rest)])))
    taken: set[str] = set()
    result = []
    for _, number, text in sorted(found, key=lambda item: item[:2]):
        name = _free(_identifier(text), taken)
        taken.add(name)
        result.append((number, name))
    return result


def _identifier(text: str) -> str:
    """Return a text as the name of an argument, as Python reads it."""
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text))
    if not name.isidentifier():
        name = f"input_{name}"
        name = name if name.isidentifier() else re.sub(r"[^0-9a-zA-Z_]", "_", name)
    return f"{name}_" if keyword.iskeyword(name) or name in _OF_THE_CODE else name


def _free(name: str, taken: set[str]) -> str:
    number, free = 0, name
    while free in taken:
        number, free = number + 1, f"{name}_{number + 1}"
    return free


def add_placeholders(graph: fx.Graph, names: Sequence[str]) -> list[fx.Node]:
    """Add an argument for each name."""
    return [graph.create_node("placeholder", name, name=node_name(name, names)) for name in names]


# ------------------------------------------------------------------------------- attributes


class Attributes:
    """The tensors that a program holds, by names that it can have.

    Attributes:
        tensors: By name; the parts between dots are modules one inside the other.
        renamed: By the name of an attribute the name that the tensor has in the model.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.renamed: dict[str, str] = {}
        self._holders: set[str] = set()
        self._count: dict[str, int] = {}  # of names made of one text

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """Hold a tensor, under its name if that can be; return the name."""
        written = name
        if not self._is_free(name):
            base = written = "_parameter_" + re.sub(r"[^0-9a-zA-Z_]", "_", name)[-_LONGEST:]
            while not self._is_free(written):
                self._count[base] = self._count.get(base, 0) + 1
                written = f"{base}_{self._count[base]}"
            self.renamed[written] = name
        self.tensors[written] = tensor
        self._holders.update(_holders(written))
        return written

    def _is_free(self, name: str) -> bool:
        parts = name.split(".")
        return (
            len(parts) <= _DEEPEST
            and all(map(_is_writable, parts))
            and parts[0] not in _names_of_a_program()
            and name.lower() != "self"  # as torch.fx would call the variable
            and _names_of_a_module().isdisjoint(parts)
            and name not in self.tensors
            and name not in self._holders
            and not any(holder in self.tensors for holder in _holders(name))
        )


def _is_writable(name: str) -> bool:
    if not name or not name.isprintable() or _UNQUOTABLE.search(name) or keyword.iskeyword(name):
        return False
    return not name.isidentifier() or unicodedata.normalize("NFKC", name) == name


def _holders(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@cache
def _names_of_a_module() -> frozenset[str]:
    return frozenset(dir(nn.Module()))


@cache
def _names_of_a_program() -> frozenset[str]:
    return frozenset(dir(fx.GraphModule({}, fx.Graph())))
