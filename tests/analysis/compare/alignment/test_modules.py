import pytest
from tests.builders import Sketch

from opscope.analysis.compare.alignment.modules import module_pairs
from opscope.errors import OptionError


def net(*blocks, root="Net"):
    """Return a program that runs modules: address, class, and the sizes of their weights."""
    sketch = Sketch(root)
    x = sketch.outside(2, 4)
    weights = {
        address: [sketch.parameter(f"{address}.weight", *shape) for shape in shapes]
        for address, _, *shapes in blocks
    }
    with sketch.module("", root, x):
        for address, class_name, *_ in blocks:
            with sketch.module(address, class_name, x):
                x = sketch.call("linear", x, *weights[address])
    return sketch.build()


def addresses(a, b, pairs):
    def address(recording, run):
        return recording.modules[recording.module_calls[run].module].address

    return {address(a, i): address(b, j) for i, j in pairs.runs.items()}


def test_modules_of_one_address_are_the_same():
    a = net(("fc", "Linear", (4, 4)), ("out", "Linear", (2, 4)))
    b = net(("out", "Linear", (2, 4)), ("fc", "Linear", (4, 4)))

    assert addresses(a, b, module_pairs(a, b, {})) == {"": "", "fc": "fc", "out": "out"}


def test_a_map_names_what_is_called_otherwise_and_all_that_is_below():
    a = net(("enc.0", "Linear", (4, 4)), ("enc.1", "Linear", (4, 4)))
    b = net(("body.1", "Linear", (4, 4)), ("body.0", "Linear", (4, 4)))

    pairs = module_pairs(a, b, {"enc": "body"})

    assert addresses(a, b, pairs) == {"": "", "enc.0": "body.0", "enc.1": "body.1"}
    assert pairs.parameters == {0: 1, 1: 0}


def test_the_longest_name_of_a_map_counts():
    a = net(("enc.0", "Linear", (4, 4)), ("enc.1", "Linear", (4, 4)))
    b = net(("x.0", "Linear", (4, 4)), ("y", "Linear", (4, 4)))

    pairs = module_pairs(a, b, {"enc": "x", "enc.1": "y"})

    assert addresses(a, b, pairs) == {"": "", "enc.0": "x.0", "enc.1": "y"}


def test_what_no_map_names_is_found_by_class_and_sizes():
    a = net(("one", "Linear", (4, 4)), ("two", "LayerNorm", (4,)), ("three", "Linear", (8, 4)))
    b = net(("p", "Linear", (4, 4)), ("q", "LayerNorm", (4,)), ("r", "Linear", (8, 4)))

    expected = {"": "", "one": "p", "two": "q", "three": "r"}
    assert addresses(a, b, module_pairs(a, b, {})) == expected


def test_a_transposed_weight_has_the_same_sizes():
    a = net(("fc", "Conv1D", (4, 16)))
    b = net(("up", "Linear", (16, 4)))

    assert addresses(a, b, module_pairs(a, b, {})) == {"": "", "fc": "up"}


def test_sizes_that_do_not_tell_decide_nothing_and_what_the_weights_hold_does():
    a = net(("proj", "Conv1D", (4, 4)))
    b = net(("q", "Linear", (4, 4)), ("k", "Linear", (4, 4)), ("out", "Linear", (4, 4)))
    norms = (lambda number: 3.0), [1.0, 2.0, 3.0].__getitem__

    assert addresses(a, b, module_pairs(a, b, {})) == {"": ""}
    assert addresses(a, b, module_pairs(a, b, {}, norms)) == {"": "", "proj": "out"}


def test_a_wrapper_that_is_like_nothing_is_looked_through():
    sketch = Sketch("Net")
    x = sketch.outside(2, 4)
    weight = sketch.parameter("body.fc.weight", 4, 4)
    with sketch.module("", "Net", x), sketch.module("body", "Body", x):
        with sketch.module("body.drop", "Dropout", x):
            sketch.call("dropout", x)
        with sketch.module("body.fc", "Linear", x):
            sketch.call("linear", x, weight)
    a, b = sketch.build(), net(("drop", "Dropout"), ("lin", "Linear", (4, 4)))

    found = addresses(a, b, module_pairs(a, b, {}))

    assert found["body.drop"] == "drop"
    assert found["body.fc"] == "lin"


@pytest.mark.parametrize("names", [{"fx": "fc"}, {"fc": "fx"}])
def test_an_address_that_there_is_not_is_refused_with_the_nearest(names):
    a = net(("fc", "Linear", (4, 4)))

    with pytest.raises(OptionError, match=r"no module 'fx'; the nearest: .*fc"):
        module_pairs(a, a, names)
