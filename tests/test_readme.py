"""The blocks of the README and the documentation run, and print what is said there."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from opscope.exporters.picture import can_render

README = Path(__file__).parents[1] / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIME = re.compile(r" *[\d.,]+ (?:µs|ms|s)\b")


def without_times(text):
    """Return text with its times, and the widths that follow from them, evened out."""
    text = TIME.sub(" TIME", text)
    text = re.sub(r" +time$", " time", text, flags=re.MULTILINE)
    return re.sub(r"─+", "─", text).strip()


@pytest.mark.skipif(not can_render(".svg"), reason="nothing here makes an SVG")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_runs_and_prints_the_text_block_after_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert sum(kind == "python" for kind, _ in blocks) >= 4
    namespace, printed, compared = {}, "", 0
    for kind, body in blocks:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, str(page), "exec"), namespace)
            printed = out.getvalue()
        elif kind == "text":
            assert without_times(printed) == without_times(body)
            compared += 1
    assert compared >= 3
    for path in tmp_path.glob("*.svg"):
        shown = {"memory.svg": "peak", "difference.svg": "differs first"}.get(path.name, "conv2d_")
        assert path.read_text(encoding="utf-8").count(shown) >= 1


@pytest.mark.parametrize("command", ["nox -s demo", "nox -s tests"])
def test_the_two_commands_name_sessions_that_exist(command):
    text = README.read_text(encoding="utf-8")
    assert f"python -m pip install nox && python -m {command}\n" in text
    noxfile = README.with_name("noxfile.py").read_text(encoding="utf-8")
    assert f"def {command.split()[-1]}(" in noxfile


def test_ci_runs_the_test_command_of_the_readme():
    script = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "python -m pip install nox && python -m nox -s tests" in script
