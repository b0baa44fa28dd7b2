from copy import deepcopy

import networkx as nx
import pydot
import pytest
import torch
from rich.console import Console
from tests import invariants
from torch import nn

import opscope
from opscope.errors import AmbiguousLayer, LayerNotFound, OptionError, TraceStateError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.block(x)) + 1


def traced(*, backward=False):
    model, x = Net().eval(), torch.ones(2, 4)
    with opscope.trace(model) as trace:
        y = model(x)
        if backward:
            y.sum().backward()
    invariants.check(trace)
    return trace


@pytest.fixture(scope="module")
def trace():
    return traced()


def read_every_attribute(trace):
    return [
        lambda: trace.recording, lambda: trace.layer_labels, lambda: trace["relu"],
        trace.__len__, lambda: [*trace], lambda: trace.ops, trace.graph,
        trace.summary, trace.to_dot, lambda: trace.draw("net.dot"),
        lambda: trace.totals, lambda: trace.failure,
    ]  # fmt: skip


def test_a_trace_that_was_never_entered_cannot_be_read():
    for read in read_every_attribute(opscope.trace()):
        with pytest.raises(TraceStateError, match=r"^this trace was never entered; read it after "):
            read()


def test_a_trace_cannot_be_read_inside_its_block():
    with opscope.trace() as trace:
        for read in read_every_attribute(trace):
            with pytest.raises(TraceStateError, match=r"^this trace is still being recorded; "):
                read()


def test_a_trace_entered_again_records_on():
    model, x = Net().eval(), torch.ones(2, 4)
    trace = opscope.trace(model)
    for run in (1, 2, 3):
        with trace:
            model(x)
        invariants.check(trace)
        assert {item.passes for item in trace.passes} == {run}

    with opscope.trace(model) as once:
        model(x)
    rolled, single = (t.graph("layer", rolled=True) for t in (trace, once))
    assert list(rolled.edges) == list(single.edges)
    assert len(trace.ops) == 3 * len(once.ops)


def test_a_trace_entered_again_keeps_what_it_saved_though_the_model_went_on():
    model, x = Net().eval(), torch.ones(2, 4)
    trace = opscope.trace(model, save="all", replayable=True)
    seen = []
    for _ in range(3):
        with trace:
            seen.append(model(x))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)

    outputs = [layer.activation for layer in trace.layers if layer.type == "output"]
    assert all(map(torch.equal, outputs, seen))
    assert trace.validate()


@pytest.mark.parametrize("show", [repr, str])
def test_a_trace_that_is_not_finished_shows_its_state(show):
    trace = opscope.trace()
    assert show(trace) == "<opscope.Trace, not entered>"
    with trace:
        assert show(trace) == "<opscope.Trace, recording>"
        assert trace._repr_html_() is None


def test_a_trace_that_is_not_finished_prints_its_state():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(opscope.trace())

    assert capture.get() == "<opscope.Trace, not entered>\n"


def test_the_repr_is_one_line(trace):
    assert repr(trace) == f"<opscope.Trace of Net: {len(trace.ops)} ops, 6 layers>"


def test_the_text_is_the_articles(trace):
    text = str(trace)

    assert text.startswith("Log of Net forward pass:\n    Model structure: purely feedforward, ")
    assert (
        "    Module Hierarchy:\n        block:\n            block.0, block.1\n        norm\n"
        in text
    )
    assert text.endswith("        4: add_1_4 \n        5: output_1_5 ")


def test_rich_and_notebooks_get_the_table(trace):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(trace)

    assert "├─ block Sequential" in capture.get()
    assert trace._repr_html_() == trace.summary()._repr_html_()


def test_a_trace_is_a_sequence_of_layers(trace):
    assert len(trace) == len(list(trace)) == 6
    assert [layer.label for layer in trace] == trace.layer_labels
    assert [trace[i] for i in range(len(trace))] == list(trace)


def test_what_was_recorded_is_plain_records(trace):
    assert [op.operator for op in trace.ops][:3] == [
        "aten.t.default", "aten.addmm.default", "aten.relu.default",
    ]  # fmt: skip
    assert [m.address for m in trace.modules] == ["", "block", "block.0", "block.1", "norm"]
    assert [p.name for p in trace.parameters if p.kind == "buffer"] == [
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    ]  # fmt: skip
    assert trace.failure is None
    assert trace.totals.params == 15 + 6


@pytest.mark.parametrize("key", ["conv", "", 99])
def test_an_unknown_key_is_an_error_that_a_key_error_catches(trace, key):
    with pytest.raises(KeyError) as error:
        trace[key]

    assert isinstance(error.value, LayerNotFound)


def test_an_ambiguous_key_lists_the_layers():
    with opscope.trace() as trace:
        torch.ones(2).sin().cos().sin()

    with pytest.raises(AmbiguousLayer, match="'sin_1_1', 'sin_2_3'"):
        trace["sin"]


@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("rolled", [False, True])
def test_a_graph_is_networkx_own_and_the_users_to_change(level, rolled):
    trace = traced()
    before = deepcopy(list(trace.graph(level, rolled=rolled).nodes(data=True)))
    graph = trace.graph(level, rolled=rolled)
    assert type(graph) is nx.DiGraph
    for _, data in graph.nodes(data=True):
        data["shapes"].append("changed")
        data.clear()
    graph.graph["modules"].clear()

    assert list(trace.graph(level, rolled=rolled).nodes(data=True)) == before
    assert trace.graph(level).graph["modules"]


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_a_graph_shows_the_phase_that_is_asked_for_and_forward_by_itself(level):
    trace = traced(backward=True)

    def phases(**options):
        graph = trace.graph(level, buffers=False, **options)
        return {data["phase"] for _, data in graph.nodes(data=True) if data["kind"] != "external"}

    assert phases() == phases(phase="forward") == {"forward"}
    assert phases(phase="backward", parameters=False, inputs=False) == {"backward"}
    assert phases(phase="all") == {"forward", "backward"}


def test_the_nodes_of_a_graph_come_in_the_order_of_execution_whatever_is_left_out():
    trace = traced(backward=True)

    assert [n for n, d in trace.graph("layer").nodes(data=True) if d["layer"]] == trace.layer_labels


def test_a_picture_is_pydots_own_and_its_path_comes_back(trace, tmp_path):
    assert isinstance(trace.to_dot(), pydot.Dot)
    assert (
        trace.draw(tmp_path / "net.dot").read_text(encoding="utf-8") == trace.to_dot().to_string()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.graph("modul"), "unknown level: 'modul' (must be one of "),
        (lambda t: t.graph(depth=0), "depth: 0 (must be None, "),
        (
            lambda t: t.graph(module="blok"),
            "no module ran at 'blok'; the nearest addresses: 'block'",
        ),
        (lambda t: t.graph(collapse={"blok"}), "collapse: no module ran at 'blok'"),
        (lambda t: t.summary("modul"), "unknown level: 'modul' (must be one of "),
        (lambda t: t.summary(depth="1"), "depth: '1' (must be None, "),
        (lambda t: t.summary(columns=["nam"]), "unknown column: 'nam' (must be one of "),
        (lambda t: t.to_dot(direction="TB"), "unknown direction: 'TB' (must be one of "),
        (lambda t: t.draw("net.jpg"), "cannot tell the format from 'net.jpg'"),
    ],
)
def test_what_there_is_not_is_refused(trace, call, message):
    with pytest.raises(OptionError) as error:
        call(trace)

    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet"}, "model: str object (must be a torch.nn.Module or None; "),
        ({"model": nn.ReLU}, "model: type object (must be a torch.nn.Module or None; "),
        ({"layers": 1}, "layers: 1 (must be True or False)"),
        ({"save": "conv"}, "save: 'conv' (must be 'all', 'none', None or a list such as ['conv'])"),
        ({"save": {"a"}}, "save: {'a'} (must be 'all', 'none', None or a list of keys, or a Save)"),
        ({"save": [1.5]}, "save: 1.5 is no key (a key is a label, an address or a position)"),
        ({"save": [""]}, "save: '' is no key"),
    ],
)
def test_a_trace_refuses_what_it_cannot_use(options, message):
    with pytest.raises(OptionError) as error:
        opscope.trace(**options)

    assert str(error.value).startswith(message)


def test_a_failed_trace_is_still_read_and_tells_what_failed(tmp_path):
    model = Net()
    with pytest.raises(RuntimeError, match="multiplied"), opscope.trace(model) as trace:
        model(torch.ones(2, 5))

    assert trace.failure.exception == "RuntimeError"
    assert "Failed: RuntimeError: " in str(trace)
    assert "✗" in str(trace.summary())
    assert trace.draw(tmp_path / "net.dot").exists()
