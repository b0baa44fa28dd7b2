import io
import json
import os
import subprocess
import sys

import pytest
import torch
from rich.cells import cell_len

import opscope
from opscope import cli
from opscope.cli import main
from opscope.exporters import picture

TARGETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x, *others):
        return torch.relu(self.fc(x.float())) if not self.training else self.fc(x)

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids):
        return self.table(ids)

ready = Net()

def make():
    return Net()

def needs(size):
    return Net()

def number():
    return 3

class Hostile(nn.Module):
    def forward(self, x):
        raise type("E\\x1b[2J", (Exception,), {})("two\\nlines\\x07\\u202e" + "x" * 100_000)

class Box:
    Inner = Net

broken = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with a package of targets."""
    (tmp_path / "some_models.py").write_text(TARGETS, encoding="utf-8")
    (tmp_path / "broken_models.py").write_text("raise ValueError('two\\nlines')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("some_models", "broken_models"):
        sys.modules.pop(name, None)


def run(*arguments):
    """Return the exit status, also where argparse leaves by itself."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code


@pytest.mark.parametrize("name", ["Net", "ready", "make", "Box.Inner"])
def test_a_target_is_a_class_an_instance_or_a_function(name, capsys):
    assert run("summary", f"some_models:{name}", "--input", "1x4") == 0
    assert "fc Linear" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["torch.nn:Identity", "torch.nn.modules.activation:ReLU"])
def test_a_target_of_a_library(target, capsys):
    assert run("summary", target, "--input", "2x3") == 0
    assert target.rpartition(":")[2] in capsys.readouterr().out


@pytest.mark.parametrize("text", ["1x4", "float32:1x4", "bfloat16:1x4", "float64:1x4"])
def test_inputs_of_any_shape_and_type(text, capsys):
    assert run("summary", "some_models:Net", "--input", text) == 0
    assert "f32[1, 2]" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["int64:1x16", "int32:16", "int64:scalar"])
def test_whole_numbers_as_input(text):
    assert run("summary", "some_models:Words", "--input", text) == 0


def test_several_inputs_are_positional_arguments(capsys):
    assert (
        run("summary", "some_models:Net", "--input", "1x4", "--input", "2x2", "--level", "layer")
        == 0
    )
    assert "input_2_1" in capsys.readouterr().out


def test_the_model_is_in_evaluation_mode_unless_asked(capsys):
    run("summary", "some_models:Net", "--input", "1x4", "--level", "layer")
    evaluated = capsys.readouterr().out
    run("summary", "some_models:Net", "--input", "1x4", "--level", "layer", "--train")

    assert ("relu" in evaluated, "relu" in capsys.readouterr().out) == (True, False)


@pytest.mark.parametrize("width", [30, 60, 80, 100])
def test_the_table_is_as_wide_as_asked(width, capsys):
    assert run("summary", "some_models:Net", "--input", "1x4", "--width", str(width)) == 0
    assert max(cell_len(line) for line in capsys.readouterr().out.splitlines()) <= width


@pytest.mark.parametrize("columns", ["name,params", "name, params"])
def test_columns_are_chosen_and_sorted(columns, capsys):
    assert run("summary", "some_models:Net", "--input", "1x4", "--columns", columns,
               "--sort-by", "params", "--row-limit", "1") == 0  # fmt: skip
    out = capsys.readouterr().out

    assert "memory" not in out
    assert "more row" in out


@pytest.mark.parametrize("name", ["net.dot", "two words.dot", "[bold]net.dot", "[", ":smile:.gv"])
def test_a_picture_is_written_and_its_path_printed(name, folder, capsys):
    name = name if "." in name else f"{name}/b].dot"
    (folder / name).parent.mkdir(exist_ok=True)

    assert run("draw", "some_models:Net", "--input", "1x4", "-o", name, "--rolled") == 0
    assert (folder / name).read_text(encoding="utf-8").startswith("digraph")
    assert capsys.readouterr().out == f"Picture written to {folder / name}\n"


@pytest.mark.parametrize("can", [True, False])
def test_the_demo_prints_its_table_and_writes_its_picture(can, folder, capsys, monkeypatch):
    monkeypatch.setattr(picture, "_with_system", lambda text, suffix: b"<svg/>")
    monkeypatch.setattr(picture.shutil, "which", lambda name: "dot" if can else None)
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    name = f"opscope-demo.{'svg' if can else 'dot'}"

    assert run("demo") == 0
    assert (folder / name).exists()
    out = capsys.readouterr().out
    assert "11,689,512" in out
    assert out.endswith(f"Picture written to {folder / name}\n")


BAD = {
    "no colon": (["some_models"], "target 'some_models' is not of the form PACKAGE.MODULE:CALLABLE"),
    "no module": ([":Net"], "target ':Net' is not of the form"),
    "unknown module": (["no_such:Net"], "cannot import 'no_such': ModuleNotFoundError: "),
    "module that fails": (["broken_models:Net"], "cannot import 'broken_models': ValueError: two lines"),
    "unknown name": (["some_models:Nett"], "'some_models' has no 'Nett'; the nearest names: Net"),
    "no callable": (["some_models:broken"], "some_models:broken is neither a module nor callable, but int"),
    "needs arguments": (["some_models:needs"], "calling some_models:needs without arguments failed: TypeError"),
    "gives no module": (["some_models:number"], "some_models:number() gave int, not a torch.nn.Module"),
    "wrong shape": (["some_models:Net", "--input", "1x5"], "some_models:Net failed on input 1x5: RuntimeError"),
    "bad input": (["some_models:Net", "--input", "1,4"], "--input '1,4' is not a shape such as"),
    "bad dtype": (["some_models:Net", "--input", "float99:4"], "--input 'float99:4' is not a shape such as"),
    "too large": (["some_models:Net", "--input", "99999999x99999999x9999"], "--input '99999999x99999999x9999'"),
    "bad depth": (["some_models:Net", "--depth", "0"], "depth: 0 (must be None"),
    "no number": (["some_models:Net", "--depth", "two"], "argument --depth: invalid int value: 'two'"),
    "bad level": (["some_models:Net", "--level", "modul"], "argument --level: invalid choice: 'modul'"),
    "bad column": (["some_models:Net", "--columns", "nam"], "unknown column: 'nam' (must be one of"),
    "bad sort": (["some_models:Net", "--sort-by", "nam"], "unknown sort_by: 'nam' (must be one of"),
    "bad limit": (["some_models:Net", "--row-limit", "0"], "row_limit: 0 (must be"),
    "bad width": (["some_models:Net", "--width", "29"], "--width: 29 (must be a whole number of characters from 30)"),
    "no width": (["some_models:Net", "--width", "2.5"], "argument --width: invalid int value: '2.5'"),
    "unknown option": (["some_models:Net", "--colour", "red"], "unrecognized arguments: --colour red"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_bad_request_is_one_line_and_status_2(arguments, message, capsys):
    given = arguments if "--input" in arguments else [*arguments, "--input", "1x4"]

    assert run("summary", *given) == 2
    assert_one_line(capsys, message)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("net.jpg", "cannot tell the format from 'net.jpg'"),
        ("missing/net.dot", "cannot write 'missing/net.dot': the folder 'missing' does not exist"),
        ("folder.dot", "cannot write 'folder.dot'"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_import(
    path, message, folder, capsys
):
    (folder / "folder.dot").mkdir()

    assert run("draw", "broken_models:Net", "--input", "1x4", "-o", path) == 2
    assert_one_line(capsys, message)


@pytest.mark.parametrize(
    "arguments", [[], ["sumary"], ["summary"], ["draw", "some_models:Net", "--input", "1x4"]]
)
def test_a_request_that_lacks_something_is_one_line_and_status_2(arguments, capsys):
    assert run(*arguments) == 2
    assert_one_line(capsys, "")


def assert_one_line(capsys, message):
    out, err = capsys.readouterr()

    assert out == ""
    assert err.startswith("opscope")
    assert "error: " + message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["demo"], ["summary"], ["draw"]])
def test_help_is_printed(arguments, capsys):
    assert run(*arguments, "--help") == 0
    assert capsys.readouterr().out.startswith("usage: opscope")


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "opscope", "--help"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("usage: opscope")
    assert all(command in done.stdout for command in ("demo", "summary", "draw"))


def test_a_table_in_a_pipe_has_no_colour_and_its_own_width(capsys):
    run("summary", "some_models:Net", "--input", "1x4")

    assert "\x1b" not in capsys.readouterr().out
    assert cli._console(None).width == 120


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("command", ["summary", "draw"])
def test_an_answer_is_printed_in_any_encoding(encoding, command, folder, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    given = ["--width", "40"] if command == "summary" else ["-o", "größe_注意.dot"]

    assert run(command, "some_models:Net", "--input", "1x4", *given) == 0
    stream.flush()
    out = stream.buffer.getvalue().decode(encoding)
    if command == "summary":
        assert "fc Linear" in out
        assert max(map(cell_len, out.splitlines())) <= 40
    else:
        assert out.startswith("Picture written to ")
        assert (folder / "größe_注意.dot").exists()


def test_a_program_prints_its_table_where_only_ascii_is(folder):
    program = (
        "import opscope, torch\n"
        "with opscope.trace() as t: torch.ones(2) * 2\n"
        "print(t.summary()); print(t.summary().as_text(60)); print(t, t[0], repr(t))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, check=True,
    )  # fmt: skip

    assert done.stdout.decode("ascii").count("mul") > 2


def test_a_reader_that_closes_the_pipe_gets_no_traceback(folder):
    command = f"{sys.executable} -m opscope summary some_models:Net --input 1x4 | head -c 1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)

    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["summary", "some_models:N\x1b[2J\u202e", "--input", "1x4"],
        ["summary", "some\x07:Net", "--input", "1x4"],
        ["summary", "some_models:Net", "--input", "1x4", "--\x1b[2J"],
        ["summary", "some_models:Net", "--input", "1x\r4"],
        ["summary", "some_models:Net", "--input", "1x4", "--columns", "\x1b[2J"],
        ["summary", "some_models:Hostile", "--input", "1x4"],
        ["draw", "some_models:Net", "--input", "1x4", "-o", "\x1b[2J.jpg"],
        ["\x1b[2J"],
        ["summary", "some_models:" + "x" * 100_000, "--input", "1x4"],
    ],
    ids=ascii,
)
def test_what_is_said_of_odd_requests_commands_no_terminal(arguments, capsys):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.removesuffix("\n").isprintable()
    assert len(err) < 2200


@pytest.mark.parametrize("name", ["\x1b[2Jnet.dot", "two\nlines.dot", "\u202enet.dot"])
def test_the_path_of_a_picture_commands_no_terminal(name, folder, capsys):
    assert run("draw", "some_models:Net", "--input", "1x4", "-o", name) == 0
    assert (folder / name).exists()
    assert capsys.readouterr().out.removesuffix("\n").isprintable()


def test_show_says_what_matters_or_gives_json(capsys):
    target = ["show", "opscope.demo:ResNet18", "--input", "1x3x32x32"]
    assert main([*target, "--budget", "900"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("ResNet18: ")
    assert len(text) <= 901
    assert main([*target, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["title"] == "ResNet18"
    assert main([*target, "--budget", "3"]) == 2
    assert "budget: 3" in capsys.readouterr().err


@pytest.fixture
def runs(tmp_path):
    model, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    for name in "ab":
        with torch.no_grad(), opscope.trace(model, save="all", replayable=True) as trace:
            model(x)
        trace.save(tmp_path / f"{name}.opscope")
        with torch.no_grad():
            model.bias += 1
    return [str(tmp_path / f"{name}.opscope") for name in "ab"]


def test_two_files_are_compared_and_the_exit_status_says_whether_they_differ(runs, capsys):
    a, b = runs
    assert run("diff", a, b, "--width", "80") == 1
    assert "parameter bias differs" in capsys.readouterr().out
    assert run("diff", a, a) == 0
    assert capsys.readouterr().out.startswith("Linear against Linear: the same\n\ncompared")
    assert run("diff", a, b, "--rtol", "100") == 0


def test_what_is_no_run_cannot_be_compared(runs, tmp_path, capsys):
    other = tmp_path / "text.opscope"
    other.write_text("no run")
    assert run("diff", runs[0], str(other)) == 2
    assert run("diff", runs[0], str(tmp_path / "nowhere.opscope")) == 2
    assert run("diff", *runs, "--rtol", "-1") == 2
    assert "rtol" in capsys.readouterr().err
