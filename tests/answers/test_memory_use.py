"""What is answered of memory: at the peak, after any op, by category, layer, module and line."""

import pytest
import torch
from torch import nn

import opscope
from opscope.errors import OptionError


@pytest.fixture(scope="module")
def memory():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
    optimizer = torch.optim.Adam(model.parameters())
    with opscope.trace(model, memory=True) as trace:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(128, 64)).sum().backward()
            optimizer.step()
    return trace.memory


def test_the_peak_names_its_op_layer_module_phase_and_line(memory):
    assert memory.live[memory.op] == memory.peak == max(memory.live)
    assert memory.phase == "backward"
    assert memory.layer.startswith(("linear", "relu"))
    assert memory.module in {"0", "1", "2"}
    assert "test_memory_use.py:" in memory.source


@pytest.mark.parametrize("op", [None, 0, 5, -1])
def test_each_way_to_add_up_gives_the_same_sum(memory, op):
    whole = memory.peak if op is None else memory.live[op]

    assert sum(one.nbytes for one in memory.held(op)) == whole
    for way in (memory.by_category, memory.by_layer, memory.by_module, memory.by_line):
        assert sum(way(op).values()) == whole


def test_parameters_gradients_and_the_state_of_the_optimizer_are_what_they_are(memory):
    sizes = 4 * (64 * 256 + 256 + 256 * 8 + 8)
    at_end = memory.by_category(-1)

    assert at_end["parameters"] == at_end["gradients"] == sizes
    assert at_end["optimizer"] == 2 * sizes + 4 * 4  # and how many steps there were
    assert memory.by_category(0)["activations"] > 0


def test_it_prints_the_peak_and_what_is_there(memory):
    text = str(memory)

    assert text.startswith("Sequential: memory on cpu at the peak, ")
    assert "0.weight" in text
    assert "made of    parameters" in text
    assert "most in    forward" in text
    for width in (30, 60, 200):
        assert max(map(len, memory.as_text(width).splitlines())) <= width
    assert "0.weight" in memory._repr_html_()


def test_the_curve_is_written_as_an_svg_without_graphviz(memory, tmp_path, monkeypatch):
    monkeypatch.setattr("opscope.exporters.picture.can_render", lambda _: False)
    path = memory.draw(tmp_path / "curve.svg")

    assert path.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize("path", ["curve.png", "curve", "nowhere/curve.svg"])
def test_a_place_or_format_that_cannot_be_is_refused(memory, tmp_path, path):
    with pytest.raises(OptionError):
        memory.draw(tmp_path / path)


@pytest.mark.parametrize("op", [10**6, -(10**6), 1.5, "peak", True])
def test_an_op_that_there_is_not_is_refused(memory, op):
    with pytest.raises(OptionError, match="op: "):
        memory.held(op)


def test_devices_are_listed_and_another_one_is_refused(memory):
    assert memory.devices == ("cpu",)
    assert memory.on("cpu").peak == memory.peak
    with pytest.raises(OptionError, match="'cpu'"):
        memory.on("cuda:0")
    with opscope.trace(memory=True) as trace:
        torch.ones(4), torch.ones(400, device="meta")
    assert trace.memory.devices == ("meta", "cpu")
    assert trace.memory.on("cpu").peak == 16


def test_a_program_that_allocates_nothing_has_a_memory_too():
    x = torch.ones(4)
    with opscope.trace(memory=True) as trace:
        x.view(2, 2)
    assert (trace.memory.op, trace.memory.peak, trace.memory.layer) == (None, 16, None)
    assert trace.memory.by_category() == {"inputs": 16}
    assert "before the first op" in str(trace.memory)
    with opscope.trace(memory=True) as trace:
        pass
    assert trace.memory.peak == 0
    assert "0 B" in str(trace.memory)
