"""How shapes, types, sizes, counts, times and foreign text are written, once for all outputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

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


Entry = tuple[str, str]
"""An entry of a list: a name, which may be shortened, and what is said of it; either may be empty."""


def tensors(
    dtypes: Sequence[str], shapes: Sequence[Sequence[int]], paths: Sequence[str] = ()
) -> list[Entry]:
    """Write several tensors as entries of a list: the path, if it holds a name, and the tensor.

    Neighbours that are written alike are counted, if they have no names, or the same ones before
    the first number in their paths. Paths that are not one for each tensor are left out.

    >>> tensors(["float32"] * 3, [[1, 5, 8], [1, 1, 8], [1, 1, 8]], ["0", "1.0", "1.1"])
    [('', 'f32[1, 5, 8]'), ('', '2 × f32[1, 1, 8]')]
    >>> tensors(["float32"] * 2, [[2, 4], [2, 5]], ["p", "q"])
    [('p', 'f32[2, 4]'), ('q', 'f32[2, 5]')]
    """
    named = paths if len(paths) == len(shapes) else [""] * len(shapes)
    written = zip(map(tensor, dtypes, shapes), named, strict=True)
    entries: list[Entry] = []
    for (text, common), group in groupby(written, lambda pair: (pair[0], _before_number(pair[1]))):
        members = [path for _, path in group]
        alone = len(members) == 1
        name = _named(members[0]) if alone else common
        entries.append((foreign(name, 60), text if alone else f"{len(members)} × {text}"))
    return entries


def listed(entries: Iterable[Entry]) -> str:
    """Write entries of a list in a line.

    >>> listed([("p", "f32[2]"), ("", "2 × f32[]")])
    'p f32[2], 2 × f32[]'
    """
    return ", ".join(" ".join(filter(None, entry)) for entry in entries)


def _named(path: str) -> str:
    """Return a path, but nothing for one of numbers alone."""
    return "" if all(part.isdecimal() for part in path.split(".")) else path


def _before_number(path: str) -> str:
    """Return a path up to its first number; all of one that begins with a number and has names."""
    parts = path.split(".")
    end = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts))
    return ".".join(parts[:end]) or _named(path)


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


def amount(number: int, unknown: int = 0) -> str:
    """Write a large number to three figures; what is not known of it is a question mark.

    Args:
        number: It.
        unknown: How many things there are that it does not count.

    >>> amount(3_628_146_688), amount(512), amount(48_000, 1), amount(0, 2), amount(0)
    ('3.63 G', '512', '48 k + ?', '?', '0')
    """
    if unknown:
        return f"{amount(number)} + ?" if number else "?"
    scaled = float(number)
    for unit in ("", " k", " M", " G", " T"):
        if scaled < 999.5:
            return f"{scaled:.3g}{unit}"
        scaled /= 1000
    return f"{scaled:,.3g} P" if scaled < 999.5 else f"{scaled:,.0f} P"


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


def settings(arguments: Mapping[str, object]) -> list[Entry]:
    """Write arguments by name, lists of equal numbers as one.

    >>> settings({"stride": [2, 2], "kernel_size": [3, 5], "eps": 1e-05})
    [('', 'stride=2'), ('', 'kernel_size=3×5'), ('', 'eps=1e-05')]
    """
    return [("", foreign(f"{name}={_setting(value)}", 40)) for name, value in arguments.items()]


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)) and value:
        items = list(map(_setting, value))
        return items[0] if len(set(items)) == 1 and len(items) > 1 else "×".join(items)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def file_name(source: str) -> str:
    """Write a line of code without the folders that its file is in.

    >>> file_name("/home/me/model.py:12")
    'model.py:12'
    """
    return source.replace("\\", "/").rpartition("/")[2]


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


# ------------------------------------------------------------------------------ foreign text

# A number, of which no part is shown alone.
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")
# How signs of ours are written where they cannot be.
_FALLBACK = {
    "─": "-", "│": "|", "├": "|", "└": "`", "×": "x", "–": "-", "µ": "u", "±": "+-",
    "…": "...", "✗": "!",
}  # fmt: skip


def whole_numbers(text: str, start: int, end: int) -> tuple[int, int]:
    """Return where a part of a text starts and ends if no number is cut.

    >>> whole_numbers("layer_101", 7, 8)
    (6, 9)
    """
    for number in _NUMBER.finditer(text):
        if number.start() < start < number.end():
            start = number.start()
        if number.start() < end < number.end():
            end = number.end()
    return start, end


Measure = Callable[[str], int]


def foreign(text: str, limit: int = 200) -> str:
    r"""Write text from elsewhere, such as a name: in one line that commands nothing.

    What Python's ``repr`` escapes is escaped: control characters, line ends, marks that turn the
    direction of writing, and whatever else cannot be seen. Of what is longer than ``limit``
    characters the middle is left out.

    >>> foreign("two\nlines\x1b[31m"), foreign("a" * 100_000, limit=9)
    ('two\\nlines\\x1b[31m', 'aaaa…aaaa')
    """
    if len(text) > 2 * limit:  # what follows takes the longer, the longer the text
        text = text[:limit] + text[-limit:]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return shorten(text, limit)


def sentence(text: str, limit: int = 2000) -> str:
    r"""Write a message that may quote anything: as `foreign` does, with line ends as spaces.

    >>> sentence("no\n    luck\x07")
    'no luck\\x07'
    """
    return foreign(" ".join(text.split()), limit)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def encodable(text: str, encoding: str | None = None) -> str:
    r"""Write a text so that an encoding can hold it, by default that of the standard output.

    >>> encodable("2 × 3 µs…", "ascii"), encodable("2 × 3 µs… ─", "cp1252"), encodable("é", "ascii")
    ('2 x 3 us...', '2 × 3 µs… -', '\\xe9')
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _can_hold(encoding, c) else _other_sign(c) for c in text)
    except LookupError:  # a stream of the user's own may call its encoding anything
        pass
    return text


def _can_hold(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _other_sign(character: str) -> str:
    return _FALLBACK.get(character) or _escaped(character)


def shorten(text: str, width: int, mark: str = "…", measure: Measure = len) -> str:
    """Write a text in so much room: whole, or with a mark in the place of its middle.

    Of a number at either side of the mark no part is shown alone, only of an address.

    Args:
        text: In one line.
        width: How much room there is.
        mark: Stands for what is left out.
        measure: How much room a text takes.

    >>> shorten("encoder_layer_10", 12), shorten("encoder_layer_10", 5), shorten("layer_10", 2)
    ('encod…yer_10', 'en…10', 'l…')
    """
    if measure(text) <= width:
        return text
    room = width - measure(mark)
    if room < 0:
        return head(mark, width, measure)
    end = tail(text, room - room // 2, measure, most=room)
    start = head(text, room - measure(end), measure)
    return start + mark + tail(text, room - measure(start), measure)


def head(text: str, width: int, measure: Measure = len) -> str:
    """Return as much of a text's beginning as there is room for, without part of a number."""
    end = min(len(text), max(width, 0))
    while end and measure(text[:end]) > width:
        end -= 1
    for number in _NUMBER.finditer(text):
        if number.start() < end < number.end():
            end = number.start()
    return text[:end]


def tail(text: str, width: int, measure: Measure = len, most: int = 0) -> str:
    """Return as much of a text's end as there is room for, without part of a number.

    A number that the room would cut is there if all of it fits into ``most``. Only an address such
    as ``"0.1.2"`` that is longer than the room is taken apart, at its dots.
    """
    start = max(0, len(text) - max(width, 0))
    while start < len(text) and measure(text[start:]) > width:
        start += 1
    for number in _NUMBER.finditer(text):
        if number.start() < start < number.end():
            if measure(text[number.start() :]) <= most:
                return text[number.start() :]
            dot = text.find(".", start - 1, number.end())
            if dot < 0 or measure(number[0]) <= width:
                dot = number.end() - 1
            start = dot + 1
    return text[start:]
