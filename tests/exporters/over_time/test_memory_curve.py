"""The curve of memory is well-formed SVG, inside its frame, and shows the peak."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opscope.exporters.over_time.memory_curve import COLOURS, memory_svg
from opscope.records.sums.memory import CATEGORIES

SVG = "{http://www.w3.org/2000/svg}"


def drawn(curves, phases=None, **said):
    count = len(next(iter(curves.values()), []))
    said = {"title": "Net: memory on cpu", "peak": "peak 1 KiB"} | said
    return ET.fromstring(memory_svg(curves, phases or ["forward"] * count, **said))


def test_every_category_has_its_colour():
    assert set(COLOURS) == set(CATEGORIES)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_it_has_an_area_for_each_category_that_is_there_and_names_it():
    root = drawn({"parameters": [4, 4, 4], "buffers": [0, 0, 0], "gradients": [0, 2, 9]})

    assert [area.get("fill") for area in root.iter(f"{SVG}polygon")] == [
        COLOURS["parameters"], COLOURS["gradients"],
    ]  # fmt: skip
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "gradients" in texts
    assert "buffers" not in texts
    assert texts.count("peak 1 KiB") == 2  # its outline and itself
    assert "3 ops" in texts


def test_phases_are_named_where_there_is_room():
    phases = ["forward"] * 50 + ["backward"] * 49 + ["other"]
    texts = [text.text for text in drawn({"parameters": [1] * 100}, phases).iter(f"{SVG}text")]

    assert "forward" in texts
    assert "backward" in texts
    assert "other" not in texts


@pytest.mark.parametrize("said", ["<&>\"'", "a" * 300, "卷积"])
def test_foreign_text_is_text(said):
    root = drawn({"parameters": [1]}, title=said)
    assert said in [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("curves", [{}, {"parameters": []}, {"parameters": [0, 0]}])
def test_nothing_is_drawn_of_nothing(curves):
    assert not list(drawn(curves).iter(f"{SVG}polygon"))


@given(st.lists(st.tuples(*[st.integers(0, 10**12)] * 3), min_size=1, max_size=3000))
def test_all_is_inside_the_frame_and_the_peak_is_at_its_height(moments):
    curves = dict(
        zip(("parameters", "activations", "temporaries"), zip(*moments, strict=True), strict=True)
    )
    root = drawn(curves)
    width, height = map(float, root.get("viewBox").split()[2:])
    heights = []
    for area in root.iter(f"{SVG}polygon"):
        for x, y in (map(float, point.split(",")) for point in area.get("points").split()):
            assert 0 <= x <= width
            assert 0 <= y <= height
            heights.append(y)
    circle = next(root.iter(f"{SVG}circle"))
    if heights:
        assert float(circle.get("cy")) == pytest.approx(min(heights), abs=0.2)
    assert len(ET.tostring(root)) < 200_000


def test_ticks_are_round_and_few():
    for most in (1, 900, 1500, 10**6, 3 * 10**9, 10**14):
        root = drawn({"parameters": [most]})
        labels = [
            t.text for t in root.iter(f"{SVG}text") if re.fullmatch(r"[\d.,]+ [KMGTP]?i?B", t.text)
        ]
        assert 2 <= len(labels) <= 8, (most, labels)
