"""A file that is written whole, or stays what it was."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from opscope.errors import OptionError

# What has a name there is a device, or a file that somebody has open.
_OPEN = ("/dev/fd", "/dev/std", "/proc/")


def check_place(path: str | PathLike[str], suffixes: Sequence[str]) -> Path:
    """Return a path if a file can be written there, else raise.

    Args:
        path: The path.
        suffixes: What its name may end in, which says in which format.

    Raises:
        OptionError: For another suffix, or a place that cannot be written to.
    """
    if not isinstance(path, (str, PathLike)) or not isinstance(os.fspath(path), str):
        message = f"path: {path!r} (must be a string or a pathlib.Path)"
        raise OptionError(message)
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        choices = f"one of {', '.join(suffixes)}" if len(suffixes) > 1 else suffixes[0]
        message = f"cannot tell the format from {str(path)!r} (the name must end in {choices})"
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
    return target


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file as ``path.write_bytes`` does, but put it in its place when all of it is there.

    The content is bytes, or a function that writes them to the file which it is given.

    It is written beside its place, under a name of its own, and renamed. So whoever reads the
    file, or writes it too, has one or the other, and where the disk is full the old one stays.
    A symbolic link stays one, and the file that it leads to is replaced. What is no ordinary
    file, such as ``/dev/stdout`` or a named pipe, is written to as it is, and so is a file whose
    folder takes no other.

    Raises:
        OSError: If it cannot be written.
    """
    place = _followed(path)
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if str(place).startswith(_OPEN) or not (old is None or stat.S_ISREG(old.st_mode)):
        _write_over(path, content)
        return
    try:
        _replace(place, content, old)
    except PermissionError:
        if old is None:
            raise
        _write_over(place, content)


def _write_over(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        _write(file, content)


def _write(file: BinaryIO, content: bytes | Callable[[BinaryIO], object]) -> None:
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)


def _followed(path: Path) -> Path:
    """Return where symbolic links lead, as far as to the name of something that is open."""
    path = path.absolute()
    for _ in range(40):  # as far as Linux goes, too
        if not path.is_symlink() or str(path).startswith(_OPEN):
            break
        target = path.parent.resolve() / path.readlink()
        path = target.parent.resolve() / target.name
    return path


def _replace(
    place: Path, content: bytes | Callable[[BinaryIO], object], old: os.stat_result | None
) -> None:
    beside = place.with_name(f".opscope-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        # Who may read it is up to the process's mask, as with `open`.
        with os.fdopen(os.open(beside, flags, 0o666), "wb") as file:
            _write(file, content)
            file.flush()
            os.fsync(file.fileno())  # some disks say only now that they are full
        if old is not None:
            _take_after(beside, old)
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _take_after(path: Path, old: os.stat_result) -> None:
    """Give a file the permissions of the one that it replaces, and its owner where that may be."""
    new = path.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    path.chmod(stat.S_IMODE(old.st_mode))
