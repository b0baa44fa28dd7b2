from dataclasses import asdict

from tests.builders import Exhibit, Sketch, empty, nested, recurrent


def test_an_empty_recording_has_nothing():
    sums = asdict(Exhibit(empty()).totals)

    assert sums.pop("ops_by_phase") == {}
    assert set(sums.values()) == {0}


def test_the_sums_of_a_nested_model():
    sums = Exhibit(nested()).totals

    assert (sums.ops, sums.layers, sums.passes, sums.modules) == (10, 9, 9, 7)
    assert (sums.tensors, sums.tensor_bytes) == (9, 9 * 6 * 4)
    assert (sums.parameter_tensors, sums.params, sums.param_bytes) == (6, 36, 144)
    assert (sums.trainable, sums.used_tensors) == (27, 6)


def test_buffers_are_counted_apart_from_parameters():
    sums = Exhibit(nested()).totals

    assert (sums.buffers, sums.buffer_bytes) == (1, 12)


def test_passes_of_one_layer_count_as_one_layer_and_their_parameters_once():
    sums = Exhibit(recurrent(passes=3)).totals

    assert (sums.layers, sums.passes, sums.params) == (5, 9, 9)


def test_parameters_that_were_never_read_are_counted_but_not_as_used():
    sketch = Sketch()
    sketch.parameter("weight", 4, read=False)
    sums = Exhibit(sketch.build()).totals

    assert (sums.params, sums.used_tensors) == (4, 0)


def test_buffers_that_were_read_are_not_used_parameters():
    sketch = Sketch()
    sketch.call("add", sketch.outside(), sketch.parameter("mean", 3, kind="buffer"))

    assert Exhibit(sketch.build()).totals.used_tensors == 0


def test_bytes_follow_the_item_size():
    sketch = Sketch()
    sketch.value((4,), origin="outside", dtype="float64", itemsize=8)
    sums = Exhibit(sketch.build()).totals

    assert (sums.tensors, sums.tensor_bytes) == (1, 32)
