"""What autograd keeps, from records written by hand: who, what, whose, how many bytes."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tests import builders
from torch import nn

import opscope
from opscope.errors import NotSaved, OptionError
from opscope.exporters.tables.saved_for_backward import SavedForBackward
from opscope.records.recording import SavedTensor
from opscope.views.rows.saved_for_backward import kept_tensors


def exhibit(*saved):
    sketch = builders.Sketch("Net")
    x = sketch.outside(2, 3)
    with sketch.module("", "Net", x):
        weight = sketch.parameter("fc.weight", 3, 3)
        with sketch.module("fc", "Linear", x):
            y = sketch.call("linear", x, weight)
        z = sketch.call("relu", y)
    rows = tuple(
        SavedTensor(
            "AddmmBackward0", name, {"linear": y, "relu": z, "?": 99}[owner], (2, 3), "float32",
            nbytes, storage, maker, parameter, packed,
        )
        for name, owner, nbytes, storage, maker, parameter, packed in saved
    )  # fmt: skip
    recording = replace(sketch.build(), saved_tensors=rows)
    return builders.Exhibit(recording), {"x": x, "weight": weight, "y": y, "z": z}


def kept(*saved):
    found, _ = exhibit(*saved)
    return kept_tensors(found.recording, found.passes)


def test_the_largest_come_first_and_parameters_last():
    rows = kept(
        ("small", "linear", 8, 10, 2, None, False),
        ("weight", "linear", 999, 1, 1, 0, False),
        ("large", "relu", 80, 11, 3, None, False),
    )
    assert [row.name for row in rows] == ["large", "small", "weight"]


def test_memory_that_several_keep_is_counted_with_the_first_of_the_forward():
    rows = kept(
        ("first", "linear", 24, 10, 2, None, False),
        ("second", "relu", 24, 10, 2, None, False),
    )
    assert [(row.name, row.shared, row.extra_bytes) for row in rows] == [
        ("first", False, 24), ("second", True, 0),
    ]  # fmt: skip


def test_tensors_of_unknown_memory_are_not_shared_with_one_another():
    rows = kept(
        ("a", "linear", 24, None, None, None, False), ("b", "relu", 24, None, None, None, False)
    )
    assert [row.extra_bytes for row in rows] == [24, 24]


def test_each_kind_is_told():
    rows = {row.name: row for row in kept(
        ("result", "linear", 24, 10, 2, None, False),
        ("weight", "linear", 36, 1, 1, 0, False),
        ("input", "linear", 24, 0, 0, None, False),
        ("packed", "relu", 0, None, None, None, True),
        ("scratch", "relu", 5, None, None, None, False),
    )}  # fmt: skip
    assert {name: (row.kind, row.made_by) for name, row in rows.items()} == {
        "result": ("activation", "linear_1_1"),
        "weight": ("parameter", "fc.weight"),
        "input": ("outside", None),
        "packed": ("packed", None),
        "scratch": ("activation", None),
    }
    assert rows["result"].module == "fc"
    assert rows["packed"].module == ""


def test_what_no_layer_gave_is_kept_by_none():
    (row,) = kept(("result", "?", 24, None, None, None, False))
    assert (row.layer, row.module) == (None, "")


def test_the_sums_by_layer_leave_out_what_costs_nothing():
    found = SavedForBackward(kept(
        ("a", "linear", 24, 10, 2, None, False),
        ("b", "relu", 24, 10, 2, None, False),
        ("c", "relu", 48, 11, 3, None, False),
        ("weight", "linear", 36, 1, 1, 0, False),
    ), "Net")  # fmt: skip
    assert found.by_layer() == {"relu_1_2": 48, "linear_1_1": 24}
    assert (found.nbytes, len(found)) == (72, 4)
    assert found[0] is found.tensors[0]
    assert list(found) == list(found.tensors)


def test_the_text_names_makers_and_sums():
    found = SavedForBackward(kept(
        ("a", "linear", 2048, 10, 2, None, False),
        ("b", "relu", 2048, 10, 2, None, False),
        ("p", "relu", 0, None, None, None, True),
        ("weight", "linear", 36, 1, 1, 0, False),
    ), "Net")  # fmt: skip
    text = repr(found)
    assert "Net: saved for backward" in text
    assert "2.0 KiB kept alive by the backward" in text
    assert "1 parameter" in text
    assert "1 packed by hooks" in text
    assert "shared" in text
    assert "weight" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_prints_at_any_width(width):
    found = SavedForBackward(kept(("a", "linear", 24, 10, 2, None, False)), "Net [red] \n x")
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(found)
    assert all(len(line) <= width for line in capture.get().splitlines())
    assert "24 B" in capture.get()


def test_nothing_kept_prints_too():
    assert "0 B kept alive" in repr(SavedForBackward([], "Net"))


def test_a_trace_that_did_not_note_it_says_how():
    with opscope.trace() as trace:
        torch.ones(3)
    with pytest.raises(NotSaved, match="saved_for_backward=True"):
        _ = trace.saved_for_backward


def test_the_switch_must_be_one():
    with pytest.raises(OptionError, match="saved_for_backward: 1"):
        opscope.trace(saved_for_backward=1)


def test_the_sum_for_a_linear_and_a_relu_is_what_one_works_out_by_hand():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(16, 4)
    with opscope.trace(model, saved_for_backward=True) as trace:
        model(x)
    # The input for the first weight; what ReLU gave, for itself and the second weight.
    assert trace.saved_for_backward.nbytes == 16 * 4 * 4 + 16 * 8 * 4
    assert trace.saved_for_backward.by_layer() == {"relu_1_2": 512, "linear_1_1": 256}
