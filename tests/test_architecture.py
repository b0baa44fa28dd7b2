"""What ARCHITECTURE.md says of the files is so."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "opscope", ROOT / "tests"
MOST = {
    ".": 16,  # the front desk, and what all rooms stand on
    "graph": 8,
    "exporters": 7,
    "exporters/fx": 10,
}  # each of these is one thing in parts
LINES = {"record.py": 500}  # all that a record can be asked, with its arguments
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def files(text):
    """Return the files that are named in backticks, with braces written out."""
    for names in re.findall(r"`([^`]+)`", text):
        for name in re.findall(r"[\w/.]*\{[^}]*\}[\w.]*|[\w/.]+", names):
            brace = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
            parts = brace[2].split(",") if brace else [None]
            yield from (name if part is None else brace[1] + part + brace[3] for part in parts)


def tried_elsewhere():
    """Return each file that is tested through others, and those tests."""
    section = PAGE.split("## Tested through others", 1)[1]
    rows = re.findall(r"^\| (`.*?`) \| (`[^|]*) \|$", section, re.MULTILINE)
    return {name: list(files(tests)) for named, tests in rows for name in files(named)}


def test_every_file_has_its_test_or_is_said_to_be_tried_by_another():
    elsewhere = tried_elsewhere()
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE)
        if name.name.startswith("__"):
            continue
        own = TESTS / name.parent / f"test_{name.name}"
        assert own.exists() or name.as_posix() in elsewhere, name


def test_what_is_said_to_be_tried_by_another_is_there_and_so_is_that():
    for name, tests in tried_elsewhere().items():
        assert (SOURCE / name).exists(), name
        assert tests, name
        for test in tests:
            if test.endswith(".py"):
                assert (TESTS / test).exists(), test


def test_every_folder_has_a_handful_of_files_and_says_what_it_is():
    rooms = [SOURCE, *(folder for folder in SOURCE.rglob("*") if folder.is_dir())]
    for folder in (room for room in rooms if room.name != "__pycache__"):
        own = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(own) <= MOST.get(folder.relative_to(SOURCE).as_posix(), 6), folder
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""')


def test_no_file_has_more_than_350_lines_but_the_one_with_all_that_can_be_asked():
    for path in SOURCE.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= LINES.get(path.relative_to(SOURCE).as_posix(), 350), path


def test_no_function_has_more_than_50_lines_without_its_docstring():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                text = node.body[0].end_lineno - node.body[0].lineno + 1
                body = node.end_lineno - node.lineno + 1 - text * bool(ast.get_docstring(node))
                assert body <= 50, f"{path}: {node.name} has {body} lines"


def test_every_room_is_on_the_page():
    for folder in (p for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert f"`{folder.name}/`" in PAGE
    for folder in (p for p in (SOURCE / "capture").iterdir() if p.is_dir()):
        if folder.name != "__pycache__":
            assert f"`{folder.name}/`" in PAGE


# Each has a word of the field's in its stead: snapshot, tables, ingest, call site, activation ...
DIALECT = {
    "sight", "tape", "settle", "settling", "develop", "at_once", "prepares", "hand_on", "handed",
    "handed_from", "offer", "physical", "seal", "retain", "payload", "payloads", "originals",
    "Kept", "FiniteCheck", "Known", "Odd", "odd_calls", "facts", "NO_PLACE", "NO_STORAGE", "Returned",
}  # fmt: skip


def test_no_name_in_the_code_is_of_a_dialect_of_its_own():
    for path in SOURCE.rglob("*.py"):
        names = set(re.findall(r"\b[A-Za-z_]\w*\b", path.read_text(encoding="utf-8")))
        assert not names & DIALECT, path
