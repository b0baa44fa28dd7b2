import json
import re
from contextlib import contextmanager

import networkx as nx
import pytest
import torch
from hypothesis import given
from tests.builders import RECORDINGS, Exhibit, Sketch, in_place, nested, recurrent
from tests.strategies import recordings
from torch import nn

import opscope
from opscope.graph import build

KINDS = {"op", "passed_through", "input", "output", "parameter", "buffer", "external"}


class Small(nn.Module):
    """A convolution, batch norm with its buffers, an identity and a backward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.rest = nn.Identity()

    def forward(self, x):
        return self.rest(self.norm(self.conv(x)).relu_()).sum() * torch.tensor(2.0)


@pytest.fixture(scope="module")
def traced():
    model = Small().eval()
    with opscope.trace(model) as trace:
        model(torch.rand(1, 3, 5, 5)).backward()
    return trace


@pytest.fixture(params=[*RECORDINGS, "traced"])
def graph(request):
    if request.param == "traced":
        trace = request.getfixturevalue("traced")
        return build.op_graph(trace.recording, trace.passes)
    return Exhibit(RECORDINGS[request.param]()).ops


def test_every_node_has_the_documented_attributes_and_no_other(graph):
    expected = set(re.findall(r"^``(\w+)``  ", build.__doc__, re.MULTILINE)) | {"passes"}

    assert expected >= {"kind", "label", "source", "failed"}
    assert all(set(attributes) == expected for _, attributes in graph.nodes(data=True))


def test_every_edge_has_the_documented_attributes_and_no_other(graph):
    assert all(
        set(edge) == {"kind", "argument", "value", "gradient"}
        for _, _, edge in graph.edges(data=True)
    )
    assert {edge["kind"] for _, _, edge in graph.edges(data=True)} <= {"data", "alias", "write"}


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_all_that_views_add_is_documented_too(traced, level, rolled):
    """`Trace.graph` sends its readers to this docstring."""
    view = traced.graph(level, rolled=rolled)
    used = {name for _, attributes in view.nodes(data=True) for name in attributes}
    used |= {name for _, _, attributes in view.edges(data=True) for name in attributes}

    assert used <= set(re.findall(r"``\"?(\w+)\"?``", build.__doc__))


def test_every_node_is_of_a_documented_kind(graph):
    assert {kind for _, kind in graph.nodes(data="kind")} <= KINDS


def test_a_traced_model_has_nodes_of_nearly_every_kind(traced):
    assert {kind for _, kind in traced.graph().nodes(data="kind")} == KINDS - {"external"}


def test_a_graph_survives_json(graph):
    text = json.dumps(nx.node_link_data(graph, edges="edges"), allow_nan=False)
    back = nx.node_link_graph(json.loads(text), edges="edges")

    assert list(back.nodes(data=True)) == list(graph.nodes(data=True))
    assert list(back.edges(data=True)) == list(graph.edges(data=True))
    assert back.graph == graph.graph


@given(recordings())
def test_the_order_of_nodes_is_an_order_of_execution(recording):
    graph = Exhibit(recording).ops
    position = {node: place for place, node in enumerate(graph)}

    assert all(position[source] < position[target] for source, target in graph.edges)
    assert [index for _, index in graph.nodes(data="index")] == list(range(len(graph)))


@given(recordings())
def test_every_op_and_every_call_without_ops_is_a_node(recording):
    nodes = set(Exhibit(recording).ops)

    assert {f"op_{op.index}" for op in recording.ops} <= nodes
    assert {f"call_{call.index}" for call in recording.layer_calls if not call.ops} <= nodes


@given(recordings())
def test_every_parameter_that_was_read_is_one_node(recording):
    graph = Exhibit(recording).ops
    labels = [graph.nodes[n]["label"] for n, kind in graph.nodes(data="kind")
              if kind in ("parameter", "buffer")]  # fmt: skip
    read = {read.value for op in recording.ops for read in op.reads}
    read |= {value for call in recording.layer_calls for value in call.received}

    assert sorted(labels) == sorted(p.name for p in recording.parameters if p.value in read)


def test_an_op_knows_its_layer_its_modules_and_its_parameters():
    node = Exhibit(nested()).ops.nodes["op_1"]

    assert node | {"source": None} == {
        "kind": "op", "label": "linear", "step": 1, "index": 4, "operator": "aten.linear.default", "arguments": {},
        "layer": "linear_1_1", "layer_type": "linear", "pass": 1, "passes": 1,
        "module": "blocks.0.fc", "module_pass": 1, "module_class": "Linear",
        "module_stack": [["", 1, "Nested"], ["blocks.0", 1, "Block"], ["blocks.0.fc", 1, "Linear"]],
        "shapes": [[2, 3]], "dtypes": ["float32"], "bytes": 24, "parameters": [], "buffers": [],
        "path": "", "source": None, "duration_ns": 1000, "phase": "forward", "failed": False,
        "forward": None, "accumulates": None, "recomputed": False,
    }  # fmt: skip


def test_only_the_op_that_reads_a_parameter_has_it():
    nodes = Exhibit(nested()).ops.nodes

    assert nodes["op_0"]["parameters"] == [
        ["blocks.0.fc.weight", [3, 3]],
        ["blocks.0.fc.bias", [3]],
    ]
    assert nodes["op_1"]["parameters"] == []


def test_a_parameters_node_says_whose_it_is():
    node = Exhibit(nested()).ops.nodes["parameter_0"]

    assert (node["label"], node["module"]) == ("blocks.0.fc.weight", "blocks.0.fc")
    assert node["parameters"] == [["blocks.0.fc.weight", [3, 3]]]


def test_a_written_value_hides_what_it_was_before_but_not_the_view():
    graph = Exhibit(in_place()).ops

    assert {s: d["kind"] for s, _, d in graph.in_edges("op_3", data=True)} == {
        "op_1": "alias",
        "op_2": "write",
    }


def test_passes_are_told_on_nodes():
    graph = Exhibit(recurrent(passes=2)).ops
    passes = [(d["pass"], d["passes"], d["module_pass"]) for _, d in graph.nodes(data=True)
              if d["module"] == "fc" and d["kind"] == "op"]  # fmt: skip

    assert passes == [(1, 2, 1)] * 2 + [(2, 2, 2)] * 2


def test_arguments_fed_by_one_tensor_are_named_on_one_edge():
    sketch = Sketch()
    x = sketch.outside()
    sketch.call("mul", x, x)
    graph = Exhibit(sketch.build()).ops

    assert graph.edges[f"value_{x}", "op_0"]["argument"] == "self,other"


def test_a_failed_op_is_a_node_that_says_so():
    graph = Exhibit(RECORDINGS["failed"]()).ops

    assert [n for n, failed in graph.nodes(data="failed") if failed] == ["op_1"]


def test_what_the_graph_says_of_module_runs_is_documented_facts():
    facts = Exhibit(nested()).ops.graph["modules"]["blocks.0:1"]

    assert facts == {
        "class": "Block", "runs": 1, "leaf": False, "layers": 3, "shapes": [[2, 3]],
        "dtypes": ["float32"], "bytes": 24, "paths": [""], "input_shapes": [[2, 3]],
        "duration_ns": 4000, "failed": False,
    }  # fmt: skip


def test_what_the_graph_says_of_a_layer_are_documented_facts():
    facts = Exhibit(nested()).ops.graph["layers"]["relu_1_2"]

    assert facts == {
        "shapes": [[2, 3]], "dtypes": ["float32"], "bytes": 24, "duration_ns": 1000,
        "failed": False, "path": "", "exits": [["blocks.0.act", 1, True]],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["input", "output", "parameter", "buffer"])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_each_kind_can_be_left_out_and_nothing_else_goes(traced, kind, level):
    everything = traced.graph(level)
    without = traced.graph(level, **{f"{kind}s": False})
    gone = [n for n, data in everything.nodes(data=True) if data["kind"] == kind]

    assert gone
    assert list(without) == [n for n in everything if n not in gone]


def test_an_outside_tensor_that_no_input_brought_is_external():
    outside = torch.ones(3)
    model = nn.Identity()
    with opscope.trace(model) as trace:
        model(torch.ones(3)) + outside
    graph = trace.graph()

    assert [n for n, kind in graph.nodes(data="kind") if kind == "external"]
    assert "external" not in dict(trace.graph(inputs=False).nodes(data="kind")).values()


def test_one_who_waits_for_a_graph_is_told_how_far_it_is():
    told = []

    @contextmanager
    def waiting(what):
        yield lambda items: told.append((what, len(items))) or items

    exhibit = Exhibit(nested())
    graph = build.op_graph(exhibit.recording, exhibit.passes, waiting)
    assert not told
    assert len(graph.built) == len(graph)
    (first, count), again = told
    assert (first, count) == again
    assert first == "building the graph"
    assert count >= len(graph)
