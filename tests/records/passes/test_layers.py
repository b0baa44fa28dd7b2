import pytest
from tests.builders import Exhibit, Sketch, branch, nested, recurrent

from opscope.records.flow.ends import loose_ends
from opscope.records.passes.layers import layer_passes, layer_type, outside_values


def labels(recording):
    return [item.label for item in layer_passes(recording)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("conv2d", "conv2d"),
        ("max_pool2d", "maxpool2d"),
        ("add_", "add"),
        ("__add__", "add"),
        ("__iadd__", "add"),
        ("__rpow__", "pow"),
        ("__rand__", "and"),
        ("rand", "rand"),
        ("__getitem__", "getitem"),
        ("__invert__", "invert"),
        ("_scaled_mm", "scaledmm"),
        ("GELU", "gelu"),
        ("___", "___"),
    ],
)
def test_a_layers_type_is_the_functions_name_as_the_article_writes_it(function, expected):
    assert layer_type(function) == expected


def test_both_numbers_of_a_label_start_with_the_input_and_advance_in_order():
    assert labels(branch()) == [
        "input_1_0", "relu_1_1", "sin_1_2", "cos_1_3", "add_1_4", "output_1_5",
    ]  # fmt: skip


def test_passes_of_a_loop_share_a_label_and_advance_no_number():
    assert labels(recurrent(passes=2)) == [
        "input_1_0", "linear_1_1:1", "add_1_2:1", "linear_1_1:2", "add_1_2:2", "relu_1_3",
        "output_1_4",
    ]  # fmt: skip


def test_a_pass_says_which_it_is_and_how_many_there_are():
    second = layer_passes(recurrent(passes=3))[3]

    assert (second.number, second.passes) == (2, 3)
    assert (second.short_label, second.layer_label) == ("linear_1", "linear_1_1")


def test_functions_with_their_own_parameters_are_layers_of_their_own_even_in_one_place():
    sketch = Sketch()
    x = sketch.outside()
    for name in ("a.weight", "b.weight"):
        x = sketch.call("linear", x, sketch.parameter(name, 3, 3), call_site="loop")

    assert labels(sketch.build())[1:3] == ["linear_1_1", "linear_2_2"]


def test_functions_that_share_parameters_are_one_layer_wherever_they_are_called():
    sketch = Sketch()
    x, weight = sketch.outside(), sketch.parameter("weight", 3, 3)
    for place in ("first line", "second line"):
        x = sketch.call("linear", x, weight, call_site=place)

    assert labels(sketch.build())[1:3] == ["linear_1_1:1", "linear_1_1:2"]


def test_a_buffer_does_not_tell_layers_apart():
    sketch = Sketch()
    x = sketch.outside()
    for name in ("a.mean", "b.mean"):
        x = sketch.call("sub", x, sketch.parameter(name, 3, kind="buffer"), call_site="loop")

    assert labels(sketch.build())[1:3] == ["sub_1_1:1", "sub_1_1:2"]


def test_different_functions_in_one_place_are_different_layers():
    sketch = Sketch()
    sketch.call("cos", sketch.call("sin", sketch.outside(), call_site="line"), call_site="line")

    assert labels(sketch.build())[1:3] == ["sin_1_1", "cos_1_2"]


def test_a_parameter_that_was_handed_on_still_tells_layers_apart():
    sketch = Sketch()
    x = sketch.outside()
    for name in ("a.weight", "b.weight"):
        weight = sketch.pass_through("identity", sketch.parameter(name, 3, 3))
        x = sketch.call("mul", x, weight, call_site="loop")

    assert [item.parameters for item in layer_passes(sketch.build()) if item.type == "mul"] == [
        (0,),
        (1,),
    ]


def test_a_bare_program_gets_inputs_and_outputs_numbered_where_there_are_several():
    sketch = Sketch("")
    sketch.call("sin", sketch.outside())
    sketch.call("cos", sketch.outside())
    passes = layer_passes(sketch.build())

    assert [(item.kind, item.path) for item in passes] == [
        ("input", "0"), ("input", "1"), ("function", ""), ("function", ""),
        ("output", "0"), ("output", "1"),
    ]  # fmt: skip


def test_a_model_has_only_the_inputs_and_outputs_that_were_recorded():
    kinds = [item.kind for item in layer_passes(nested())]

    assert (kinds.count("input"), kinds.count("output")) == (1, 1)


def test_parameters_and_buffers_are_not_outside_values_and_used_values_no_loose_ends():
    sketch = Sketch()
    x, weight = sketch.outside(), sketch.parameter("weight", 3, 3)
    y = sketch.call("linear", x, weight)
    z = sketch.call("relu", y)
    recording = sketch.build()

    assert outside_values(recording) == (x,)
    assert loose_ends(recording) == (z,)


def test_an_empty_recording_has_no_layers():
    assert Exhibit(Sketch().build()).passes == ()
