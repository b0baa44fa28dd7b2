"""A record in a file: written there, and read from there without running anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from opscope.answers.reading import Keys, Reading
from opscope.errors import NotSaved, OpscopeError, OptionError, UnreadableFile, check_model
from opscope.exporters.files import check_place, write_whole
from opscope.keeping.from_file import FileTensors
from opscope.layer import Layers
from opscope.notation import foreign
from opscope.storage.archive import ArchiveReader, ArchiveWriter, proportion
from opscope.storage.recordings import member_names, read_recording, write_recording
from opscope.storage.tensors import DESCRIBED, MEMBER, StoredTensors, write_tensors
from opscope.tensors import Circumstances, Tensors

SUFFIX = ".opscope"


def save_record(layers: Layers, path: str | PathLike[str], *, tensors: bool = True) -> Path:
    """Write a record, see `Record.save`."""
    target = check_place(path, [SUFFIX])
    write_whole(target, lambda file: _write(file, layers, tensors=tensors))
    return target


def _write(file: BinaryIO, layers: Layers, *, tensors: bool) -> None:
    """Write a file that `load` takes, which refuses what is out of proportion to its size."""
    # Where that cannot be gone back over, such as a pipe, it is not compressed in the first place.
    for compress in (True, False) if file.seekable() else (False,):
        with ArchiveWriter(file, compress=compress) as archive:
            count = _write_members(archive, layers, tensors=tensors)
        if max(archive.length, count) <= proportion(archive.size):
            return
        if compress:
            file.seek(0)
            file.truncate()
    message = f"cannot save {count:,} records that are so much alike that they take no room"
    raise OptionError(message)


def _write_members(archive: ArchiveWriter, layers: Layers, *, tensors: bool) -> int:
    """Write all that is kept of a record; return how many records that are."""
    kept, reading = layers.tensors, layers.reading
    recording = replace(reading.recording, gradient_flow=kept.gradient_flow)
    lengths = write_recording(archive, recording)
    ran = _circumstances(kept)
    write_tensors(
        archive,
        kept.kept() if tensors else (),
        saved=reading.saved,
        saved_gradients=reading.saved_gradients,
        circumstances=None
        if ran is None
        else asdict(ran) | {"scaler_sites": sorted(ran.scaler_sites)},
    )
    archive.finish(model=recording.model_name, counts=lengths)
    return sum(lengths.values())


def _circumstances(tensors: Tensors) -> Circumstances | None:
    try:
        return tensors.circumstances
    except NotSaved:  # those of a copy, which does not know
        return None


def load_layers(path: str | PathLike[str], model: nn.Module | None = None) -> Layers:
    """Read a record, see `opscope.load`."""
    check_model(model, (nn.Module, type(None)), " or None")
    place = _readable(path)
    with _refusing(place), place.open("rb") as file:
        archive = ArchiveReader(file, member_names() | {MEMBER, DESCRIBED})
        recording = read_recording(archive)
        stored = StoredTensors(archive, place)
        saved, saved_gradients = (
            _keys(stored.known[what]) for what in ("saved", "saved_gradients")
        )
        ran = _known(stored.known["circumstances"])
    reading = Reading(recording, saved, saved_gradients)
    return Layers(reading, FileTensors(stored, reading, ran, model))


def _readable(path: str | PathLike[str]) -> Path:
    if not isinstance(path, (str, PathLike)) or not isinstance(os.fspath(path), str):
        message = f"path: {path!r} (must be a string or a pathlib.Path)"
        raise OptionError(message)
    place = Path(path)
    try:
        if place.is_file():
            return place.absolute()
    except (OSError, ValueError) as error:
        message = f"cannot read {str(path)!r}: {error}"
        raise OptionError(message) from error
    why = "it is no file" if place.exists() else "there is no such file"
    message = f"cannot read {str(path)!r}: {why}"
    raise OptionError(message)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read; what fails there fails because of the file."""
    try:
        yield
    except UnreadableFile as error:
        message = f"cannot read {str(path)!r}: {error}"
        raise UnreadableFile(message) from error
    except OpscopeError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {foreign(str(error), 200)}"
        message = f"cannot read {str(path)!r}: it is damaged ({what})"
        raise UnreadableFile(message) from error


def _keys(found: Any) -> Keys:
    """Return what was asked for: ``"all"``, or keys."""
    if found == "all":
        return "all"
    if not isinstance(found, list) or any(type(key) not in (str, int) for key in found):
        message = f"its {DESCRIBED} does not say what was saved"
        raise UnreadableFile(message)
    return tuple(found)


def _known(found: Any) -> Circumstances | None:
    if found is None:
        return None
    sites = frozenset(found.pop("scaler_sites"))
    flags = {**asdict(Circumstances()), **found}
    del flags["scaler_sites"]
    is_known = all(type(flag) is bool for flag in flags.values())
    if not is_known or any(type(site) is not int for site in sites):
        message = f"its {DESCRIBED} does not say how the trace was made"
        raise UnreadableFile(message)
    return Circumstances(**flags, scaler_sites=sites)
