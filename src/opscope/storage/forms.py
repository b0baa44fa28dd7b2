"""What a tensor in a file may be: its name, type and sizes, and as what it is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from opscope.storage import plain

# What safetensors calls the types that it has; of any other, the bytes are kept.
_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16",
    torch.int16: "I16", torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
# No bytes alone make a tensor of these.
_QUANTISED = (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4)
# What there is by name; of a transform there may be plain data too.
_NUMBER = "[0-9]{1,18}"
_NAME = re.compile(
    rf"(activation|outside|storage|input)\.{_NUMBER}|gradient\.{_NUMBER}\.{_NUMBER}"
    rf"|generator\.[^.]+|draw\.{_NUMBER}\.[^.]+"
)
_OF_TRANSFORM = ("activation.", "gradient.")
_LARGEST = 2**63  # no more elements has a tensor


def is_name(name: str, *, is_plain: bool = False) -> bool:
    """Whether there may be something of a name.

    Args:
        name: It.
        is_plain: Whether plain data is kept under it, as a transform alone makes.

    >>> is_name("gradient.3.0"), is_name("gradient.3"), is_name("storage.3", is_plain=True)
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None and (not is_plain or name.startswith(_OF_TRANSFORM))


def kept_as(dtype: torch.dtype, shape: list[int]) -> tuple[str, list[int]]:
    """Return the type and shape that a tensor has in the file.

    >>> kept_as(torch.float32, [2, 3]), kept_as(torch.complex64, [2])
    (('F32', [2, 3]), ('F32', [2, 2]))
    """
    if dtype in _NAMES:
        return _NAMES[dtype], shape
    if dtype.is_complex and dtype.to_real() in _NAMES:
        return _NAMES[dtype.to_real()], [*shape, 2]
    return "U8", [*shape, dtype.itemsize]


def is_described(entry: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
    """Whether what the header of the tensors has of one is what its description says."""
    dtype, shape, (first, last) = (
        dtype_named(described["dtype"]),
        described["shape"],
        entry["data_offsets"],
    )
    if type(first) is not int or type(last) is not int or not is_shape(shape):
        return False
    is_whole = all(type(described[key]) is str for key in ("sha256", "device"))
    is_kept_so = (entry["dtype"], entry["shape"]) == kept_as(dtype, shape)
    return is_whole and is_kept_so and last - first == prod(shape) * dtype.itemsize


def is_shape(shape: Any) -> bool:
    """Whether a tensor may have such sizes.

    >>> is_shape([2, 0]), is_shape([-1]), is_shape([0, 2**70])
    (True, False, False)
    """
    if not isinstance(shape, (list, tuple)):
        return False
    is_known = all(type(size) is int and size >= 0 for size in shape)
    return is_known and prod(max(size, 1) for size in shape) < _LARGEST


def dtype_named(name: Any) -> torch.dtype:
    """Return the type of a tensor by its name; raises a `LookupError` or `TypeError` if it is none."""
    dtype = plain.decode({"torch": name})
    if not isinstance(dtype, torch.dtype) or dtype in _QUANTISED:
        message = f"{name!r} is no type of a tensor"
        raise TypeError(message)
    return dtype
