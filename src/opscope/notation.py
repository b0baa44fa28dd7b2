"""How shapes, types, sizes, counts and times are written, once for all outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What no output can show: control characters, half surrogates, and what XML refuses.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")

_SHORT_TYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "complex64": "c64", "complex128": "c128", "complex32": "c32",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint64": "u64", "uint32": "u32", "uint16": "u16", "uint8": "u8", "bool": "b8",
}  # fmt: skip


def shape(sizes: Sequence[int]) -> str:
    """Write a shape.

    >>> shape([1, 64, 55, 55]), shape([])
    ('1×64×55×55', 'scalar')
    """
    return "×".join(map(str, sizes)) if sizes else "scalar"


def one_line(text: str) -> str:
    r"""Write a name that may hold anything: what cannot be shown in a line is a space.

    >>> one_line("two\nlines\x1b[31m")
    'two lines [31m'
    """
    return _UNPRINTABLE.sub(" ", text)


def short_dtype(dtype: str) -> str:
    """Write an element type in the notation of torch's DebugMode.

    >>> short_dtype("float32"), short_dtype("float8_e4m3fn")
    ('f32', 'float8_e4m3fn')
    """
    return _SHORT_TYPES.get(dtype, dtype)


def tensor(dtype: str, sizes: Sequence[int]) -> str:
    """Write a tensor's type and shape in the notation of torch's DebugMode.

    >>> tensor("float32", [1, 64, 55, 55])
    'f32[1, 64, 55, 55]'
    """
    return f"{short_dtype(dtype)}[{', '.join(map(str, sizes))}]"


def tensors(dtypes: Sequence[str], shapes: Sequence[Sequence[int]]) -> str:
    """Write several tensors: the first, and how many more there are.

    >>> tensors(["float32"] * 3, [[2], [3], [4]])
    'f32[2] +2'
    """
    if not shapes:
        return ""
    more = f" +{len(shapes) - 1}" if len(shapes) > 1 else ""
    return tensor(dtypes[0], shapes[0]) + more


def size(count: int) -> str:
    """Write a number of bytes, in powers of 1024.

    >>> size(259584), size(12), size(61100840 * 4)
    ('253.5 KiB', '12 B', '233.1 MiB')
    """
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1023.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:,.1f} PiB"


def count(number: int) -> str:
    """Write a whole number.

    >>> count(61100840)
    '61,100,840'
    """
    return f"{number:,}"


def duration(nanoseconds: int) -> str:
    """Write a time, to three figures.

    >>> duration(567_000), duration(28_800_000), duration(1_234_000_000)
    ('567 µs', '28.8 ms', '1.23 s')
    """
    amount = nanoseconds / 1000
    for unit in ("µs", "ms"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} s" if amount < 999.5 else f"{amount:,.0f} s"


def plural(number: int, noun: str) -> str:
    """Write a count with its noun.

    >>> plural(1, "op"), plural(24, "tensor")
    ('1 op', '24 tensors')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers, runs of them as ranges.

    >>> ranges([1, 2, 3, 5])
    '1-3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)
