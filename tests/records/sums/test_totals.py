from dataclasses import asdict

import pytest
import torch
from tests.builders import Exhibit, Sketch, empty, nested, recurrent
from torch import nn

import opscope
from opscope import notation


def test_an_empty_recording_has_nothing():
    sums = asdict(Exhibit(empty()).totals)

    assert sums.pop("ops_by_phase") == {}
    assert set(sums.values()) == {0}


def test_the_sums_of_a_nested_model():
    sums = Exhibit(nested()).totals

    assert (sums.ops, sums.layers, sums.passes, sums.modules) == (10, 9, 9, 7)
    assert (sums.tensors, sums.given_bytes) == (9, 9 * 6 * 4)
    assert sums.tensor_bytes == 7 * 6 * 4  # the input was there, the output is passed through
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

    assert (sums.tensors, sums.given_bytes) == (1, 32)


def test_each_byte_that_was_newly_allocated_is_counted_once():
    conv, image = nn.Conv2d(1, 4, 3), torch.rand(1, 1, 10, 10)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(), nn.Identity())
    with torch.no_grad(), opscope.trace(model.eval()) as trace:
        y = model(image)
    assert trace.totals.tensor_bytes == y.nbytes
    assert trace.totals.given_bytes == image.nbytes + 6 * y.nbytes


@pytest.mark.parametrize(
    ("program", "allocated"),
    [
        (lambda x: x.view(-1)[2:].t(), 0),
        (lambda x: x.expand(5, 2, 3), 0),
        (lambda x: x.chunk(2), 0),
        (lambda x: (x + 1).chunk(2), 24),
        (lambda x: (x + 1).expand(5, 2, 3), 24),
        (lambda x: x.mul_(2).relu_(), 0),
        (lambda x: torch.add(x, 1, out=x), 0),
        (lambda x: x.max(1), 2 * 4 + 2 * 8),
        (lambda x: x.to(torch.float64), 48),
        (lambda x: nn.functional.pad(x, (1, 1)), 2 * 5 * 4),
        (lambda x: [x * i for i in range(3)], 72),
    ],
)
def test_views_and_what_is_written_in_place_are_no_new_memory(program, allocated):
    x = torch.rand(2, 3)
    with torch.no_grad(), opscope.trace() as trace:
        kept = program(x)  # noqa: F841
    assert trace.totals.tensor_bytes == allocated


def test_the_table_and_the_picture_say_the_same():
    from tests import zoo

    program = zoo.build("resnet18")
    with torch.no_grad(), opscope.trace(program.module) as trace:
        program.run()
    size = notation.size(trace.totals.tensor_bytes)
    assert f"{len(trace)} tensors ({size} newly allocated)" in str(trace.summary())
    assert f"{len(trace)} tensors ({size} newly allocated)" in trace.to_dot().to_string()
