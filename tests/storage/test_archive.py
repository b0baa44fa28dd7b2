"""A zip is believed as far as it was looked at."""

import io
import json
import zipfile

import pytest
from tests.builders import RECORDINGS
from tests.storage.keeping import changed, members, read, written, zipped

import opscope
from opscope.errors import UnreadableFile
from opscope.records.ops import Op
from opscope.records.recording import Recording
from opscope.storage.archive import HEADER, VERSION, proportion

CONTENT = written(RECORDINGS["nested"]())


def without(name):
    return {member: data for member, data in members(CONTENT).items() if member != name}


def refused(content):
    with pytest.raises(UnreadableFile) as error:
        read(content)
    return str(error.value)


def test_the_header_says_what_there_is():
    header = json.loads(members(CONTENT)[HEADER])
    assert (header["format"], header["version"]) == ("opscope run", VERSION)
    assert header["opscope"] == opscope.__version__
    assert set(header["members"]) == set(members(CONTENT)) - {HEADER}
    assert all(
        len(data) == header["members"][name]["bytes"] for name, data in without(HEADER).items()
    )


def test_what_is_no_zip_is_refused():
    assert "is no zip" in refused(b"")
    assert "is no zip" in refused(b"PK\x03\x04" + b"0" * 100)
    assert "is no zip" in refused(CONTENT[:-30])


def test_another_zip_is_refused():
    assert "has no header.json" in refused(zipped({"a.txt": b""}, signed=False))
    assert "of another format" in refused(zipped({HEADER: b"[]"}, signed=False))


def test_a_newer_version_is_refused_and_says_what_reads_it():
    newer = changed(CONTENT, HEADER, lambda h: h.update(version=VERSION + 1, opscope="9.1\x1b[0m"))
    message = refused(newer)
    assert f"has version {VERSION + 1} of the format" in message
    assert "install the one that wrote it, 9.1" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("version", [0, "1", None, True, 1.0])
def test_what_is_no_version_is_refused(version):
    assert "no version" in refused(changed(CONTENT, HEADER, lambda h: h.update(version=version)))


def test_a_member_that_is_missing_is_refused():
    assert "'ops.json' is in header.json alone" in refused(
        zipped(without("ops.json"), signed=False)
    )


def test_a_member_that_no_header_lists_is_refused():
    more = {**members(CONTENT), "extra.json": b"1"}
    assert "'extra.json' is not in header.json" in refused(zipped(more, signed=False))


@pytest.mark.parametrize("name", ["extra.json", "../../etc/passwd", "/ops.json", "a\x1b[31m"])
def test_a_member_that_no_run_has_is_refused(name):
    message = refused(zipped({**members(CONTENT), name: b"1"}))
    assert "no run has a member" in message
    assert "\x1b" not in message


def test_other_bytes_of_the_same_number_are_refused():
    found = members(CONTENT)
    found["ops.bin"] = bytes([found["ops.bin"][0] ^ 1]) + found["ops.bin"][1:]
    assert "'ops.bin' has other bytes" in refused(zipped(found, signed=False))


def test_a_member_of_another_size_is_refused():
    more = {**members(CONTENT), "ops.bin": members(CONTENT)["ops.bin"] + b"0"}
    assert "not the size that" in refused(zipped(more, signed=False))


def test_a_member_that_is_there_twice_is_refused():
    file = io.BytesIO(CONTENT)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("ops.json", b"1")
    assert "more than such a file can" in refused(file.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(method):
    assert "compressed in a way" in refused(zipped(members(CONTENT), compression=method))


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = zipped({**members(CONTENT), "ops.bin": bytes(200 << 20)})
    assert len(bomb) < 1 << 20
    assert "more than such a file can" in refused(bomb)


def test_a_table_of_more_records_than_there_can_be_is_refused():
    many = changed(CONTENT, "modules.json", lambda table: table.update(length=10**9))
    assert "more records than such a file can" in refused(many)


@pytest.mark.parametrize("items", [{"first": 5, "step": 0}, {"first": 0, "step": 1}], ids=str)
def test_tuples_of_more_numbers_than_there_can_be_are_refused(items):
    """A few bytes say that each of some tuples has a million numbers."""
    lengths = {"first": 500_000, "step": 0}
    column = {"lengths": lengths, "items": {"numbers": items}}
    long = lambda table: table["columns"].update(shape=column)  # noqa: E731
    assert "longer tuples than such a file can" in refused(changed(CONTENT, "values.json", long))


def test_what_was_written_is_never_out_of_proportion():
    content = written(Recording(ops=tuple(map(Op, range(10_000), ["f"] * 10_000))))
    assert sum(map(len, members(content).values())) < proportion(len(content))
