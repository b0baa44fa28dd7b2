"""Recordings written to memory and read from there, with all that is in them as plain data."""

import io
import json
import zipfile
from dataclasses import fields, is_dataclass

from opscope.records.columns.table import Table
from opscope.storage.archive import HEADER, ArchiveReader, ArchiveWriter, sha256
from opscope.storage.recordings import member_names, read_recording, write_recording


def written(recording, **options):
    file = io.BytesIO()
    with ArchiveWriter(file, **options) as archive:
        write_recording(archive, recording)
        archive.finish()
    return file.getvalue()


def read(content):
    return read_recording(ArchiveReader(io.BytesIO(content), member_names()))


def as_plain(record):
    """Return a record as its class and fields, all the way down, each with its type."""
    if is_dataclass(record):
        return type(record), [as_plain(getattr(record, field.name)) for field in fields(record)]
    if isinstance(record, Table):
        record = tuple(record)
    if isinstance(record, (tuple, list)):
        return type(record), [as_plain(item) for item in record]
    if isinstance(record, dict):
        return type(record), [(as_plain(key), as_plain(item)) for key, item in record.items()]
    if isinstance(record, (float, complex, range)):
        return type(record), repr(record)
    return type(record), record


def members(content):
    """Return what is in a zip, by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(found, *, signed=True, compression=zipfile.ZIP_DEFLATED):
    """Return a zip of members, whose header says the truth of them if it is to be signed."""
    found = dict(found)
    if signed and HEADER in found:
        header = json.loads(found[HEADER])
        if isinstance(header, dict):
            header["members"] = {
                name: {"bytes": len(data), "sha256": sha256(data).hexdigest()}
                for name, data in found.items()
                if name != HEADER
            }
            found[HEADER] = json.dumps(header).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in found.items():
            is_stored = name.endswith(".safetensors")
            archive.writestr(name, data, zipfile.ZIP_STORED if is_stored else None)
    return file.getvalue()


def changed(content, name, change):
    """Return a zip with a member of JSON changed, and signed as if it had been written so."""
    found = members(content)
    known = json.loads(found[name])
    change(known)
    found[name] = json.dumps(known).encode()
    return zipped(found)
