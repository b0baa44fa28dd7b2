import json
from dataclasses import replace
from math import inf

import pytest
from rich.cells import cell_len
from tests.builders import HOSTILE_NAMES

import opscope
from opscope.exporters.side_by_side.comparison import Comparison
from opscope.records.differences.difference import Difference, Differences

ROWS = (
    Difference("only in a", "no effect", "view_1_1", "", "", None, "view only in a"),
    Difference("values", "follows", "relu_1_3", "relu_1_3", "act", "act", "values differ", 0.25, 0.5),
    Difference(
        "settings", "first", "layernorm_1_2", "layernorm_3_9", "norm", "ln", "eps 1e-05 → 1e-06",
        0.5, 0.0, 1e-5, 2.0, 4, 17, "/a/net.py:12", "/b/port.py:30",
    ),
    Difference("shape", "follows", "add_1_4", "add_1_4", "", "", "f32[2] → f32[3]", inf, 0.25),
)  # fmt: skip


def comparison(*rows, compared=3, **more):
    found = Differences(rows, {("a", "b"): 0.5}, (5, 7), 4, compared)
    return Comparison(found, ("Net", "Port"), **more)


def test_what_differs_first_is_shown_first_and_what_has_no_effect_is_counted():
    text = comparison(*ROWS).as_text(80)

    assert text.splitlines()[0] == "Net against Port: they differ"
    layers = [line.split()[0] for line in text.splitlines()[3:6]]
    assert layers == ["layernorm_1_2", "relu_1_3", "add_1_4"]
    assert "1 otherwise, with the same result" in text
    assert "first      layernorm_1_2 | layernorm_3_9: eps 1e-05 → 1e-06 in norm" in text
    assert "net.py:12, port.py:30" in text
    assert "3 values; 4 of 5 ops are among 7" in text


def test_programs_that_are_the_same_say_so_with_what_is_otherwise_in_them():
    same = comparison(ROWS[0])

    assert same
    assert same.first is None
    assert same.as_text(80).startswith("Net against Port: the same\n")
    assert "view only in a" in same.as_text(80)
    assert comparison().as_text(80).startswith("Net against Port: the same\n")


def test_without_values_structure_and_costs_are_told():
    row = Difference("function", "structure", "relu_1_1", "gelu_1_1", what="relu → gelu")
    found = comparison(row, compared=0, flops=(1000, 2_000_000))

    assert found.first is row
    assert "structure, no values" in found.as_text(80)
    assert "1000 → 2 M FLOPs" in found.as_text(80) or "1 k → 2 M FLOPs" in found.as_text(80)


@pytest.mark.parametrize("width", range(30, 160, 13))
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_whatever_the_names_are(width, encoding):
    rows = [
        Difference("values", "first", name, "", name, None, name, 0.5, 0.1, source=f"{name}:1")
        for name in HOSTILE_NAMES.values()
    ]

    text = comparison(*rows).as_text(width, encoding)

    assert max(map(cell_len, text.splitlines())) <= width
    text.encode(encoding)


def test_it_is_frozen_and_gives_plain_data():
    found = comparison(*ROWS)

    with pytest.raises(AttributeError):
        found.names = ("x", "y")
    with pytest.raises(TypeError):
        found.errors["a", "b"] = 1
    assert [row["a"] for row in found.to_dicts()] == [row.a for row in ROWS]
    data = json.loads(found.to_json())
    assert (data["format"], data["same"], data["ops"]) == ("opscope.comparison", False, [5, 7])
    assert data["rows"][3]["error"] is None
    assert data["rows"][2]["source"] == "/a/net.py:12"


def test_a_data_frame_takes_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)

    with pytest.raises(opscope.OptionError, match="pandas, which is not installed"):
        comparison(*ROWS).to_pandas()


def test_long_comparisons_are_cut_and_say_so():
    rows = [replace(ROWS[2], a=f"layernorm_1_{place}") for place in range(50)]

    assert "… 30 more" in comparison(*rows).as_text(100)
