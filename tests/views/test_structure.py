import pytest
from tests.builders import Exhibit, Sketch, branch, chain, empty, nested, recurrent

from opscope.views.structure import structure


def described(recording):
    exhibit = Exhibit(recording)
    return structure(exhibit.layers, exhibit.passes)


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        (empty(), "purely feedforward, without branching"),
        (chain(), "purely feedforward, without branching"),
        (nested(), "purely feedforward, without branching"),
        (branch(), "purely feedforward, with branching"),
        (recurrent(passes=4), "recurrent (at most 4 passes), without branching"),
    ],
)
def test_a_program_is_described_in_the_articles_words(recording, expected):
    assert described(recording) == expected


def test_a_value_that_one_layer_reads_twice_does_not_branch():
    sketch = Sketch()
    x = sketch.outside()
    sketch.call("mul", x, x)

    assert described(sketch.build()) == "purely feedforward, without branching"


def test_a_shared_parameter_does_not_branch():
    sketch = Sketch()
    x, weight = sketch.outside(), sketch.parameter("weight", 3, 3)
    for name in ("linear", "bilinear"):
        x = sketch.call(name, x, weight)

    assert described(sketch.build()) == "purely feedforward, without branching"


def test_an_input_that_two_layers_read_branches():
    sketch = Sketch("")
    x = sketch.outside()
    sketch.call("add", sketch.call("sin", x), x)

    assert described(sketch.build()) == "purely feedforward, with branching"
