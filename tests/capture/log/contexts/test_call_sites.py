"""Calling contexts: files, lines, and what counts as the same place."""

import pytest
import torch
from tests import witness
from torch import nn

import opscope


def helper(x):
    return torch.sigmoid(x)  # <- sigmoid


class Lined(nn.Module):
    """Each line that calls torch carries the name of the layer that it makes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.inner = nn.Sequential(nn.Tanh(), nn.Softmax(dim=-1))

    def forward(self, x):
        x = self.fc(x)  # <- linear
        x = x + 1  # <- add
        x = helper(x).clamp(  # <- clamp
            min=0.0
        )
        x = self.inner(x)  # <- inner
        y = [torch.exp(item) for item in x]  # <- exp
        x[0] = 0  # <- setitem
        return torch.stack(y)  # <- stack


@pytest.fixture
def trace(layers):
    model, x = Lined(), torch.ones(2, 3)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(x)
    return trace


LINES = {
    # operator: marker of its line
    "addmm": "linear", "add": "add", "clamp": "clamp", "tanh": "inner", "_softmax": "inner",
    "exp": "exp", "unbind": "exp", "stack": "stack",
}  # fmt: skip


@pytest.mark.parametrize(("operator", "marker"), LINES.items())
def test_the_source_of_a_layer_is_the_line_that_called_it(trace, operator, marker):
    found = [layer for layer in trace.layers if operator in [op.name for op in layer.ops]]
    assert found
    for layer in found:
        assert (layer.source.file, layer.source.line) == witness.line_of(Lined, marker)
        assert witness.text_at(layer.source).endswith(f"# <- {marker}")


def test_the_source_of_an_indexed_write_is_its_line(trace):
    lines = {layer.source.line for layer in trace.layers if layer.type in {"setitem", "fill"}}
    assert lines == {witness.line_of(Lined, "setitem")[1]}


def test_the_stack_goes_from_the_innermost_line_out_to_the_block(trace):
    (layer,) = [item for item in trace.layers if item.type == "sigmoid"]
    inner, middle, outer = layer.stack[:3]
    assert (inner.file, inner.line) == witness.line_of(helper, "sigmoid")
    assert inner.function == "helper"
    assert (middle.line, middle.function) == (witness.line_of(Lined, "clamp")[1], "forward")
    assert outer.function == "trace"
    assert len(layer.stack) == 3


def test_no_frame_is_torchs_or_opscopes(trace):
    files = {frame.file for frames in trace.recording.call_sites for frame in frames}
    assert files == {__file__}


def test_a_line_in_a_loop_is_one_place_and_two_lines_are_two(layers):
    x = torch.ones(2)
    with opscope.trace(layers=layers) as trace:
        for _ in range(3):
            x = x.sin()
        x = x.sin()
        x.sin().sin()
    places = [layer.record.layer for layer in trace.layers if layer.type == "sin"]
    first, last = places[0], places[3:]
    assert places[:3] == [first] * 3
    assert len({first, *last}) == 4


def test_the_same_helper_called_on_two_lines_is_two_places(layers):
    x = torch.ones(2)
    with opscope.trace(layers=layers) as trace:
        helper(x)
        helper(x)
    first, second = (layer for layer in trace.layers if layer.type == "sigmoid")
    assert first.source == second.source
    assert first.stack != second.stack
    assert first.record.layer != second.record.layer


def test_code_made_and_dropped_on_the_way_does_not_confuse_places():
    """Code objects are known by their ids, which would be reused if they were not held."""
    x = torch.ones(2)
    with opscope.trace() as trace:
        for line in range(1, 60):
            scope = {}
            exec(compile("\n" * line + "def f(x): return x.cos()", f"made_{line}", "exec"), scope)
            scope["f"](x)
            del scope
    found = [layer.source for layer in trace.layers if layer.type == "cos"]
    assert [(f.file, f.line) for f in found] == [(f"made_{n}", n + 1) for n in range(1, 60)]
