"""Plain data as JSON from which the very same data comes back.

What JSON has no word for is an object of one key, its tag, such as ``{"tuple": [1, 2]}``; nothing
else is an object. What is no plain data, as an argument of an operator may be, is said in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args

import torch

from opscope.operators.known import InWords
from opscope.records.containers import Container, ContainerKind, Opaque, TensorAt

_LARGEST = 2**53  # up to here a number of JSON is the same number to every reader
_WORDS_OF_TORCH = (torch.dtype, torch.layout, torch.memory_format)


def encode(value: object) -> Any:
    """Return what stands for a value in JSON.

    >>> encode((1, 2.0, [None, float("inf"), torch.float16]))
    {'tuple': [1, 2.0, [None, {'float': 'inf'}, {'torch': 'float16'}]]}
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value)
    for base in _BASES:
        if isinstance(value, base):
            return _ENCODERS[base](value)
    return {"in words": f"object of class {kind.__name__}"}


def decode(found: Any) -> Any:
    """Return the value that JSON stands for.

    Raises:
        ValueError: For a tag that there is not.
        TypeError: For a tag with something else than it goes with.

    >>> decode({"tuple": [1, {"complex": [0.0, {"float": "-inf"}]}]})
    (1, -infj)
    """
    if isinstance(found, list):
        return [decode(item) for item in found]
    if not isinstance(found, dict):
        return found
    if "container" in found:
        return _container(found)
    if len(found) != 1:
        message = f"{sorted(found)!r} are no tag"
        raise ValueError(message)
    [(tag, inside)] = found.items()
    decoder = _DECODERS.get(tag)
    if decoder is None:
        message = f"unknown tag {tag!r}"
        raise ValueError(message)
    return decoder(inside)


def is_plain(value: object) -> bool:
    """Whether a value is one that comes back as it was.

    >>> is_plain([1, ("a", None)]), is_plain([object()])
    (True, False)
    """
    kind = type(value)
    if kind in (list, tuple):
        assert isinstance(value, (list, tuple))
        return all(map(is_plain, value))
    if kind is dict:
        assert isinstance(value, dict)
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    return value is None or kind is bool or kind in _ENCODERS


# ----------------------------------------------------------------------------- there


def _int(value: int) -> Any:
    value = int.__int__(value)
    return value if -_LARGEST <= value <= _LARGEST else {"int": hex(value)}


def _float(value: float) -> Any:
    value = float.__float__(value)
    return value if math.isfinite(value) else {"float": str(value)}


def _encode_container(value: Container) -> Any:
    return {
        "container": value.kind,
        "class": value.class_name,
        "keys": [encode(key) for key in value.keys],
        "items": [encode(item) for item in value.items],
    }


_ENCODERS: dict[type, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    complex: lambda value: {"complex": [_float(value.real), _float(value.imag)]},
    bytes: lambda value: {"bytes": value.hex()},
    InWords: lambda value: {"in words": str.__str__(value)},
    str: str.__str__,
    list: lambda value: [encode(item) for item in value],
    Container: _encode_container,
    TensorAt: lambda value: {"tensor": _int(value.number)},
    Opaque: lambda value: {"opaque": value.class_name},
    tuple: lambda value: {"tuple": [encode(item) for item in value]},
    dict: lambda value: {"dict": [[encode(key), encode(item)] for key, item in value.items()]},
    range: lambda value: {"range": [value.start, value.stop, value.step]},
    torch.device: lambda value: {"device": str(value)},
    **dict.fromkeys(_WORDS_OF_TORCH, lambda value: {"torch": str(value).removeprefix("torch.")}),
}
_BASES = (InWords, str, int, float, list, tuple, dict)  # of classes that inherit from these


# ------------------------------------------------------------------------- and back


def _container(found: Mapping[str, Any]) -> Container:
    kind, name = found["container"], _text(found["class"])
    keys, items = (tuple(map(decode, _list(found[part]))) for part in ("keys", "items"))
    is_known = kind in get_args(ContainerKind) and len(found) == 4
    if not is_known or len(keys) != len(items):
        message = "no container that there is"
        raise ValueError(message)
    return Container(kind, name, keys, items)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        message = f"{type(found).__name__} where there is a text"
        raise TypeError(message)
    return found


def _list(found: Any, length: int | None = None) -> list[Any]:
    if not isinstance(found, list) or length not in (None, len(found)):
        message = f"{type(found).__name__} where there is a list"
        raise TypeError(message)
    return found


def _number(found: Any) -> int:
    if type(found) is not int or found < 0:
        message = f"{type(found).__name__} where there is a number"
        raise TypeError(message)
    return found


def _decode_float(found: Any) -> float:
    if _text(found) not in ("nan", "inf", "-inf"):
        message = f"{found!r} where there is a number"
        raise ValueError(message)
    return float(found)


def _decode_complex(found: Any) -> complex:
    real, imaginary = (decode(item) for item in _list(found, 2))
    if type(real) is not float or type(imaginary) is not float:
        message = "no complex number"
        raise TypeError(message)
    return complex(real, imaginary)


def _decode_range(found: Any) -> range:
    return range(*_list(found, 3))


def _decode_dict(found: Any) -> dict[Any, Any]:
    pairs = [_list(pair, 2) for pair in _list(found)]
    return {decode(key): decode(item) for key, item in pairs}


def _of_torch(found: Any) -> object:
    return _words_of_torch()[_text(found)]


@cache
def _words_of_torch() -> dict[str, object]:
    """Return the types, layouts and memory formats of torch by their names."""
    found = (value for value in vars(torch).values() if isinstance(value, _WORDS_OF_TORCH))
    return {str(value).removeprefix("torch."): value for value in found}


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda found: int(_text(found), 16),
    "float": _decode_float,
    "complex": _decode_complex,
    "bytes": lambda found: bytes.fromhex(_text(found)),
    "in words": lambda found: InWords(_text(found)),
    "tensor": lambda found: TensorAt(_number(found)),
    "opaque": lambda found: Opaque(_text(found)),
    "tuple": lambda found: tuple(map(decode, _list(found))),
    "dict": _decode_dict,
    "range": _decode_range,
    "device": lambda found: torch.device(_text(found)),
    "torch": _of_torch,
}
