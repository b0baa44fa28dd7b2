"""Tensors in the format of safetensors, one after the other, each read by itself when it is asked for.

The format is eight bytes, a header of JSON and the bytes of the tensors. It is written and read here:
the library that it is named after makes one block of bytes of all tensors, so that they would be in
memory twice, and reads no part of a larger file.

Names: ``activation.V`` and ``gradient.V.N`` of value ``V``, by the N-th backward; of what came from
outside ``outside.V`` as it was read, or for a replay ``storage.S`` with all bytes of storage ``S`` and
``input.V`` of what has no storage; ``generator.D`` and ``draw.O.D``, the states of the random number
generator of device ``D`` at the start and before op ``O``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from ctypes import c_char
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch

from opscope.errors import NotSaved, UnreadableFile
from opscope.notation import foreign
from opscope.operators.devices import device_named
from opscope.storage import plain
from opscope.storage.archive import ArchiveReader, ArchiveWriter
from opscope.storage.forms import dtype_named, is_described, is_name, kept_as
from opscope.torch_api import DisableTorchFunction, disable_current_modes

MEMBER, DESCRIBED = "tensors.safetensors", "tensors.json"

_CHUNK = 1 << 24
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class NotThere:
    """Stands for what was asked for and cannot be kept.

    Attributes:
        reason: Why, in words.
    """

    reason: str


@dataclass(slots=True)
class _Sorted:
    """What was kept, by the way in which it is written."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Put something where it belongs."""
        if isinstance(value, NotThere):
            self.missing[name] = value.reason
        elif isinstance(value, torch.UntypedStorage):
            whole = torch.empty(0, dtype=torch.uint8, device=value.device)
            self.tensors[name] = whole.set_(value)
        elif isinstance(value, torch.Tensor):
            why = _why_not(value)
            if why is None:
                self.tensors[name] = value.detach()
            else:
                self.missing[name] = why
        elif plain.is_plain(value):
            self.plain[name] = plain.encode(value)
        else:
            kind = foreign(type(value).__name__)
            self.missing[name] = f"a {kind} is no tensor, number, text or container of these"


def _why_not(tensor: torch.Tensor) -> str | None:
    """Return why a tensor cannot be written as its elements, None if it can."""
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"a {foreign(type(tensor).__name__)} is no plain tensor"
    if tensor.is_quantized:
        return "it is quantised"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"it is {'nested' if tensor.is_nested else str(tensor.layout)}, not strided"
    if tensor.device.type == "meta":
        return "it is on the device meta, and has no elements"
    if sys.byteorder == "big":
        return "this machine has its bytes the other way round"
    return None


# ---------------------------------------------------------------------------- writing


def write_tensors(archive: ArchiveWriter, kept: Iterable[tuple[str, Any]], **known: object) -> None:
    """Write tensors one after the other, and what else a transform made.

    Args:
        archive: Where to.
        kept: What, by its name: tensors, storages, plain data, and `NotThere`.
        known: What else the description is to say.
    """
    found = _Sorted()
    described: dict[str, Any] = {}
    with DisableTorchFunction(), disable_current_modes(), torch.no_grad():
        for name, value in kept:
            found.add(name, value)
        if found.tensors:
            described = _write(archive, found.tensors)
    archive.json(
        DESCRIBED,
        {**known, "tensors": described, "plain": found.plain, "missing": found.missing},
    )


def _write(archive: ArchiveWriter, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    header, described, at = {}, {}, 0
    for name, tensor in tensors.items():
        kind, shape = _as_kept(tensor)
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with archive.member(MEMBER, stored=True) as write:
        write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            digest = sha256()
            for chunk in _chunks(tensor):
                digest.update(chunk)
                write(chunk)
            described[name] = {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "device": str(tensor.device),
                "sha256": digest.hexdigest(),
            }
    return described


def _as_kept(tensor: torch.Tensor) -> tuple[str, list[int]]:
    """Return the type and shape that a tensor has in the file."""
    return kept_as(tensor.dtype, list(tensor.shape))


def _chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor's elements in order."""
    plain_tensor = tensor.resolve_conj().resolve_neg().to("cpu").contiguous()
    size = plain_tensor.numel() * plain_tensor.element_size()
    if size:
        whole = memoryview((c_char * size).from_address(plain_tensor.data_ptr())).cast("B")
        for start in range(0, size, _CHUNK):
            yield whole[start : start + _CHUNK]


# ---------------------------------------------------------------------------- reading


class StoredTensors:
    """The tensors of a file, each read when it is asked for, and only believed if it is what was written.

    Attributes:
        known: What else their description says.

    Args:
        archive: The file, to see what there is.
        path: Where it is, to be opened again.
    """

    def __init__(self, archive: ArchiveReader, path: Path) -> None:
        self._path = path
        self.known: Mapping[str, Any] = {}
        self._described: dict[str, Any] = {}
        self._plain: dict[str, Any] = {}
        self._missing: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}
        if DESCRIBED in archive.names:
            self.known = archive.json(DESCRIBED)
            self._described = dict(self.known["tensors"])
            self._plain = {n: plain.decode(value) for n, value in self.known["plain"].items()}
            self._missing = {name: str(why) for name, why in self.known["missing"].items()}
        self._check_names()
        if MEMBER in archive.names:
            start, size = archive.place(MEMBER)
            with path.open("rb") as file:
                file.seek(start)
                self._places = _places(file, start, size, self._described)
        elif self._described:
            message = f"it has no {MEMBER}"
            raise UnreadableFile(message)

    def _check_names(self) -> None:
        """Raise unless each name is one of something that there may be."""
        for name in self.names:
            if not is_name(name, is_plain=name in self._plain):
                message = f"its {DESCRIBED} has {foreign(name)!r}, which is nothing that is kept"
                raise UnreadableFile(message)

    @property
    def names(self) -> Iterable[str]:
        """The names of all that was kept, or was to be."""
        return [*self._described, *self._plain, *self._missing]

    def __contains__(self, name: object) -> bool:
        return name in self._described or name in self._plain

    def numbers(self, group: str) -> list[tuple[str, ...]]:
        """Return what follows in the names of a group, such as ``("3", "0")`` of ``gradient.3.0``."""
        split = (name.split(".", name.count(".") if group != "draw" else 2) for name in self.names)
        return [tuple(parts[1:]) for parts in split if parts[0] == group]

    def all(self) -> Iterator[tuple[str, Any]]:
        """Yield all of it, with the reasons for what is not there."""
        for name in self.names:
            is_missing = name in self._missing
            yield name, NotThere(self._missing[name]) if is_missing else self.get(name, name)

    def get(self, name: str, what: str) -> Any:
        """Return what was kept under a name.

        Args:
            name: It.
            what: What that is, for a message.

        Raises:
            NotSaved: If it is not there.
            UnreadableFile: If the file is not as it was when it was loaded.
        """
        if name in self._plain:
            return self._plain[name]
        if name not in self._described:
            why = self._missing.get(name, "it was not there when the file was written")
            message = f"{what} is not in {str(self._path)!r}: {why}"
            raise NotSaved(message)
        described, (start, size) = self._described[name], self._places[name]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = bytearray(file.read(size))
        except OSError as error:
            message = f"cannot read {str(self._path)!r}, which has {what}: {error}"
            raise UnreadableFile(message) from error
        if sha256(data).hexdigest() != described["sha256"]:
            message = f"{str(self._path)!r} was changed: {what} has other bytes than were written"
            raise UnreadableFile(message)
        return _tensor(data, described)


def _places(
    file: BinaryIO, start: int, size: int, described: Mapping[str, Any]
) -> dict[str, tuple[int, int]]:
    """Return where each tensor begins in the file, and its bytes, if all is as it is described."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        message = f"its {MEMBER} ends in its header"
        raise UnreadableFile(message)
    header = json.loads(file.read(length))
    if set(header) != set(described):
        message = f"its {DESCRIBED} and {MEMBER} have different tensors"
        raise UnreadableFile(message)
    found, end = {}, 0
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        if first != end or not is_described(entry, described[name]):
            message = f"its tensor {foreign(name)!r} is not as it is described"
            raise UnreadableFile(message)
        end = last
        found[name] = start + 8 + length + first, last - first
    if end != size - 8 - length:
        message = f"its {MEMBER} has other bytes than its tensors"
        raise UnreadableFile(message)
    return found


def _tensor(data: bytearray, described: Mapping[str, Any]) -> torch.Tensor:
    """Return a tensor of its bytes, on the device where it was if that is here."""
    dtype, shape = dtype_named(described["dtype"]), described["shape"]
    with DisableTorchFunction(), disable_current_modes(), torch.no_grad():
        if not data:
            found = torch.empty(shape, dtype=dtype)
        else:
            found = torch.frombuffer(data, dtype=torch.uint8).view(dtype).view(shape)
        device = described["device"]
        is_there = device not in ("cpu", "meta") and device_named(device) is not None
        return found.to(device) if is_there else found
