"""The zip that a run is kept in: its members, written one after the other, and read with distrust."""

from __future__ import annotations

import json
import platform
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from opscope.errors import UnreadableFile
from opscope.notation import foreign
from opscope.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT, VERSION = "opscope run", 1
HEADER = "header.json"
# A file stands for no more than so many bytes, and so many records, by its size: a zip of nothing
# but zeros holds a thousand times as much.
_LEAST, _TIMES = 1 << 20, 100


def proportion(size: int) -> int:
    """Return how many bytes, or records, a file of so many bytes may hold.

    >>> proportion(1000)
    1148576
    """
    return _LEAST + _TIMES * size


class ArchiveWriter:
    """Writes the members of a run, the header last; a context, which ends the zip.

    Attributes:
        length: The bytes of all members, as they are read.
        size: Those of the file, once it is finished.

    Args:
        file: Where to.
        compress: Whether columns are made smaller.
    """

    def __init__(self, file: BinaryIO, *, compress: bool = True) -> None:
        self._zip = zipfile.ZipFile(file, "w")
        self._method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._members: dict[str, dict[str, Any]] = {}
        self.length = self.size = 0

    @contextmanager
    def member(self, name: str, *, stored: bool = False) -> Iterator[Callable[[Any], None]]:
        """Yield what writes a member, which there is once something is written.

        Args:
            name: Its name.
            stored: Whether it is kept as it is, so that parts of it can be read by themselves.
        """
        # Always of the same time, so that what was the same is the same file.
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_STORED if stored else self._method
        info.external_attr = 0o644 << 16
        stream, digest, length = None, sha256(), 0

        def write(data: Any) -> None:
            nonlocal stream, length
            stream = stream or self._zip.open(info, "w", force_zip64=True)
            stream.write(data)
            digest.update(data)
            length += len(data)

        try:
            yield write
        finally:
            if stream is not None:
                stream.close()
        if stream is not None:
            self._members[name] = {"bytes": length, "sha256": digest.hexdigest()}
            self.length += length

    def json(self, name: str, value: object) -> None:
        """Write a member of JSON."""
        with self.member(name) as write:
            write(json.dumps(value, separators=(",", ":")).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def finish(self, **known: object) -> None:
        """Write the header, which says what there is.

        Args:
            known: What else it is to say.
        """
        info = zipfile.ZipInfo(HEADER)
        info.external_attr = 0o644 << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        header = {
            "format": FORMAT, "version": VERSION, "opscope": __version__,
            "torch": torch.__version__, "python": platform.python_version(),
            **known, "members": self._members,
        }  # fmt: skip
        self._zip.writestr(info, json.dumps(header, indent=1))
        self.size = self._zip.start_dir


class ArchiveReader:
    """Reads them: the header first, and nothing that is not as that says.

    Args:
        file: Where from.
        known: The names of the members that there may be.

    Attributes:
        header: What it says.
        most: How many bytes, or records, there may be.

    Raises:
        UnreadableFile: If it is no such file, of a newer opscope, or not as its header says.
    """

    def __init__(self, file: BinaryIO, known: Collection[str]) -> None:
        size = file.seek(0, 2)
        self.most = proportion(size)
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            message = f"it is no zip, or its end is missing ({error})"
            raise UnreadableFile(message) from error
        infos = self._zip.infolist()
        self._infos = {info.filename: info for info in infos}
        stored = sum(i.file_size for i in infos if i.compress_type == zipfile.ZIP_STORED)
        packed = sum(i.file_size for i in infos if i.compress_type != zipfile.ZIP_STORED)
        methods = {info.compress_type for info in infos}
        if stored > size or packed > self.most or len(self._infos) < len(infos):
            message = "it is said to hold more than such a file can"
            raise UnreadableFile(message)
        if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            message = "it is compressed in a way that no opscope compresses"
            raise UnreadableFile(message)
        if HEADER not in self._infos:
            message = f"it has no {HEADER}, so that it is none that `Record.save` wrote"
            raise UnreadableFile(message)
        self.header: Mapping[str, Any] = self._header()
        self._check_members(known)

    def _header(self) -> Mapping[str, Any]:
        header = json.loads(self._read(HEADER))
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            message = f"its {HEADER} is that of another format"
            raise UnreadableFile(message)
        version, maker = header.get("version"), foreign(str(header.get("opscope")))
        if type(version) is not int or version < 1:
            message = f"its {HEADER} has no version"
            raise UnreadableFile(message)
        if version > VERSION:
            message = (
                f"it has version {version} of the format, and this opscope reads up to {VERSION}: "
                f"install the one that wrote it, {maker}, or a newer one"
            )
            raise UnreadableFile(message)
        return header

    @property
    def names(self) -> set[str]:
        """The names of the members but the header, as this is read by itself."""
        return set(self._infos) - {HEADER}

    def _check_members(self, known: Collection[str]) -> None:
        """Raise unless the members are those that the header lists, and are known."""
        listed = self.header["members"]
        for name in sorted(self.names ^ set(listed)):
            where = f"in {HEADER} alone" if name in listed else f"not in {HEADER}"
            message = f"its member {foreign(name)!r} is {where}"
            raise UnreadableFile(message)
        for name in sorted(self.names.difference(known)):
            message = f"no run has a member {foreign(name)!r}"
            raise UnreadableFile(message)
        for name, said in listed.items():
            if said["bytes"] != self._infos[name].file_size:
                message = f"its member {name!r} has not the size that {HEADER} says"
                raise UnreadableFile(message)

    def read(self, name: str) -> bytes:
        """Return a member, if it has the bytes that it was written with."""
        content = self._read(name)
        if sha256(content).hexdigest() != self.header["members"][name]["sha256"]:
            message = f"its member {name!r} has other bytes than it was written with"
            raise UnreadableFile(message)
        return content

    def json(self, name: str) -> Any:
        """Return what a member of JSON holds."""
        return json.loads(self.read(name))

    def place(self, name: str) -> tuple[int, int]:
        """Return where a member that is kept as it is begins in the file, and how long it is."""
        info = self._infos[name]
        with self._zip.open(name) as stream:
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                message = f"its member {name!r} is compressed"
                raise UnreadableFile(message)
            # Where the zip says that it begins is before a header of its own, which `open` has read.
            file: Any = self._zip.fp
            del stream
            return int(file.tell()), info.file_size

    def _read(self, name: str) -> bytes:
        info = self._infos[name]
        with self._zip.open(name) as stream:
            content = stream.read(info.file_size + 1)
        if len(content) != info.file_size:
            message = f"its member {name!r} ends too early"
            raise UnreadableFile(message)
        return content
