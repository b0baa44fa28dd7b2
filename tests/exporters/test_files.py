"""A file is written whole, or stays what it was."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from opscope.exporters import files
from opscope.exporters.files import write_whole

FOLDER = Path(files.__file__).parent
OLD, NEW = b"old", b"new" * 1000
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "net.svg"


def test_a_new_file_is_as_a_plain_write_makes_it(target):
    plain = target.with_name("plain")
    for umask in (0o022, 0o077, 0o002):
        before = os.umask(umask)
        try:
            plain.write_bytes(NEW)
            write_whole(target, NEW)
        finally:
            os.umask(before)
        assert target.read_bytes() == NEW
        assert mode(target) == mode(plain)
        target.unlink()
        plain.unlink()


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o755, 0o664])
def test_a_file_that_is_there_keeps_its_permissions(bits, target):
    target.write_bytes(OLD)
    target.chmod(bits)
    write_whole(target, NEW)

    assert (target.read_bytes(), mode(target)) == (NEW, bits)
    assert list(target.parent.iterdir()) == [target]


@posix
def test_who_has_the_old_file_open_reads_it_to_its_end(target):
    target.write_bytes(OLD)
    with target.open("rb") as reader:
        write_whole(target, NEW)
        assert reader.read() == OLD
    assert target.read_bytes() == NEW


@posix
@pytest.mark.parametrize("link", ["net.svg", "../pictures/net.svg", "absolute", "twice"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(link, tmp_path):
    folder, real = tmp_path / "links", tmp_path / "pictures" / "net.svg"
    folder.mkdir()
    real.parent.mkdir()
    real.write_bytes(OLD)
    (folder / "pictures").symlink_to(real.parent)
    target = folder / "link.svg"
    (folder / "second.svg").symlink_to("pictures/net.svg")
    target.symlink_to(
        {"absolute": real, "twice": "second.svg", "net.svg": "pictures/net.svg"}.get(link, link)
    )
    write_whole(target, NEW)

    assert target.is_symlink()
    assert not real.is_symlink()
    assert real.read_bytes() == NEW
    assert list(real.parent.iterdir()) == [real]


@posix
def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path):
    target, real = tmp_path / "link.svg", tmp_path / "real.svg"
    target.symlink_to("real.svg")
    write_whole(target, NEW)

    assert target.is_symlink()
    assert real.read_bytes() == NEW


@posix
@pytest.mark.parametrize("loop", ["link.svg", "other.svg"])
def test_a_link_in_a_circle_is_an_error_as_with_a_plain_write(loop, tmp_path):
    (tmp_path / "link.svg").symlink_to(loop)
    (tmp_path / "other.svg").symlink_to("link.svg")

    with pytest.raises(OSError, match="symbolic link"):
        write_whole(tmp_path / "link.svg", NEW)


@posix
def test_a_named_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, NEW)
    reader.join()

    assert read == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@posix
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "link"])
@pytest.mark.parametrize("into", ["pipe", "file"])
def test_the_standard_output_is_written_to(name, into, tmp_path):
    if not Path("/dev/stdout").exists():
        pytest.skip("no /dev/stdout on this system")
    path, taken = Path(name), tmp_path / "taken"
    if name == "link":
        path = tmp_path / "link.svg"
        path.symlink_to("/dev/stdout")
    program = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from pathlib import Path\n"
        "from files import write_whole\n"
        "write_whole(Path(sys.argv[1]), b'new')"
    )
    with taken.open("wb") as file:
        stdout = file if into == "file" else subprocess.PIPE
        done = subprocess.run(
            [sys.executable, "-c", program, path], stdout=stdout, check=True, timeout=60
        )
    assert (taken.read_bytes() if into == "file" else done.stdout) == b"new"
    assert path.is_symlink() or name != "link"


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_what_was_there(there, target):
    """A limit on the size of files stands for the disk."""
    if there:
        target.write_bytes(OLD)
    program = (
        f"import resource, sys; sys.path.insert(0, {str(FOLDER)!r}); from pathlib import Path\n"
        "from files import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole(Path(sys.argv[1]), b'x' * 2000)\n"
        "except OSError as error: sys.exit(0 if 'too large' in str(error) else 3)"
    )
    subprocess.run([sys.executable, "-c", program, target], check=True, timeout=60)

    assert list(target.parent.iterdir()) == ([target] if there else [])
    assert not there or target.read_bytes() == OLD


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_nothing_is_left_behind_whatever_is_raised(error, step, target, monkeypatch):
    def fail(*args):
        raise error

    target.write_bytes(OLD)
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(error):
        write_whole(target, NEW)

    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == OLD


def test_a_file_in_a_folder_that_takes_no_other_is_written_in_its_place(target, monkeypatch):
    target.write_bytes(OLD)

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(files.os, "open", refuse)
    write_whole(target, NEW)
    assert target.read_bytes() == NEW

    target.unlink()
    with pytest.raises(PermissionError):
        write_whole(target, NEW)


def test_two_who_write_at_once_leave_one_of_both(target):
    pictures = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    threads = [
        threading.Thread(target=lambda p=picture: [write_whole(target, p) for _ in range(10)])
        for picture in pictures
    ]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        if target.exists():
            seen.add(target.read_bytes())

    assert seen | {target.read_bytes()} <= set(pictures)
    assert list(target.parent.iterdir()) == [target]


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    target = tmp_path / ("x" * 250 + ".svg")
    write_whole(target, NEW)

    assert target.read_bytes() == NEW
