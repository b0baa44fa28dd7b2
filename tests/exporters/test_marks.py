"""Nodes of a picture in colours, by the names that they have at each level."""

import pytest
import torch
from torch import nn

import opscope
from opscope.errors import OptionError


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2))
    x = torch.ones(1, 3)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(x)
    return trace


def colours(trace, marks, *view, **options):
    """Return the fill of each node that has one of the marks', by the first line of its label."""
    text = trace.to_dot(*view, marks=marks, **options).to_string()
    wanted = {mark if isinstance(mark, str) else mark[0] for mark in marks.values()}
    found = {}
    for line in text.split(";\n"):
        fills = [colour for colour in wanted if f'fillcolor="{colour}"' in line]
        if fills and "<b>" in line:
            found[line.partition("<b>")[2].partition("</b>")[0]] = fills[0]
    return found


def test_a_layer_a_parameter_and_a_module_are_marked_by_their_names(trace):
    marks = {"linear_1_1": "orange", "1.weight": "#00ff00"}
    assert colours(trace, marks, parameters=True) == {"linear_1_1": "orange", "1.weight": "#00ff00"}
    assert colours(trace, {"0": "red"}, depth=1) == {"@0": "red"}
    assert colours(trace, {"0": "red"}) == {}


def test_a_mark_of_a_layer_is_one_of_its_passes_and_of_its_ops():
    layer, x = nn.Linear(3, 3), torch.ones(1, 3)
    with torch.no_grad(), opscope.trace() as trace:
        layer(layer(x))
    found = colours(trace, {"linear_1_1": "red"})
    assert found == {"linear_1_1:1": "red", "linear_1_1:2": "red"}
    assert colours(trace, {"linear_1_1:2": "red"}) == {"linear_1_1:2": "red"}
    assert set(colours(trace, {"linear_1_1": "red"}, rolled=True).values()) == {"red"}
    assert set(colours(trace, {"linear_1_1": "red"}, "op").values()) == {"red"}


def test_what_a_colour_means_is_above_the_picture_once(trace):
    marks = {"linear_1_1": ("#ff0000", "slow & <hot>"), "relu_1_2": ("#ff0000", "slow & <hot>")}
    text = trace.to_dot(marks=marks).to_string()
    assert text.count("<slow &amp; &lt;hot&gt;>") == 1
    assert "legend" not in trace.to_dot(marks={"linear_1_1": "red"}).to_string()


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"linaer_1_1": "red"}, "linear_1_1"),
        ({"linear_1_1": "#12"}, "#ff8800"),
        ({"linear_1_1": 'red"];x'}, "colour"),
        ({"linear_1_1": ("red", 3)}, "what it means"),
        ({"linear_1_1": 3}, "what it means"),
        (["linear_1_1"], "dict"),
        ({3: "red"}, "nothing is called 3"),
    ],
)
def test_what_is_no_mark_is_refused_with_what_would_be_right(trace, marks, message):
    with pytest.raises(OptionError, match=message):
        trace.to_dot(marks=marks)


@pytest.mark.parametrize("which", ["a", "b"])
def test_what_differs_between_two_programs_is_marked_by_how_grave_it_is(which):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.GELU())),
        torch.ones(1, 3),
    )
    records = {}
    for name in "ab":
        with torch.no_grad(), opscope.trace(model, save="all", replayable=True) as trace:
            model(x)
        records[name] = trace
        with torch.no_grad():
            model[1][0].weight += 1
    marks = opscope.compare(records["a"], records["b"]).marks(which)

    assert {key: meaning for key, (_, meaning) in marks.items()} == {
        "1.0.weight": "differs first", "1.0": "differs first", "1": "differs first",
        "linear_2_2": "follows from that", "gelu_1_3": "follows from that",
        "1.1": "follows from that", "output_1_4": "follows from that",
    }  # fmt: skip
    assert "differs first" in records[which].to_dot(marks=marks).to_string()
    assert opscope.compare(records["a"], records["a"]).marks(which) == {}
    with pytest.raises(OptionError, match="'a', 'b'"):
        opscope.compare(records["a"], records["b"]).marks("c")
