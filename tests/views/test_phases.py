"""Which part of a training step is shown, at every level, and told apart in tables."""

import pytest
import torch
from tests import builders, invariants
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.views.quotients.levels import LEVELS
from opscope.views.rows.table_rows import BackwardOps, table_rows
from opscope.views.select import PHASES, select


@pytest.fixture(scope="module")
def trace():
    """Two whole steps: forward, loss, backward, clipping, optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    with opscope.trace(model, gradients="all") as trace:
        for _ in range(2):
            optimizer.zero_grad()
            loss = (model(torch.ones(5, 4)) ** 2).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return trace


def test_every_invariant_holds_of_whole_steps(trace):
    invariants.check(trace)


def test_the_phases_share_the_ops_out_among_them(trace):
    of = {phase: [op.index for op in trace.ops if op.phase == phase] for phase in PHASES}
    assert sorted(index for ops in of.values() for index in ops) == [*range(len(trace.ops))]
    assert all(of[phase] for phase in ("forward", "backward", "optimizer", "other"))


@pytest.mark.parametrize("phase", PHASES)
def test_a_graph_of_a_phase_has_its_ops_and_no_others(trace, phase):
    graph = trace.graph(level="op", phase=phase)
    ran = {int(n[3:]) for n, d in graph.nodes(data=True) if d["kind"] == "op"}
    wanted = {op.index for op in trace.ops if phase in {"all", op.phase}}
    assert ran == wanted


@pytest.mark.parametrize("phase", ["backward", "optimizer", "other"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_feeds_a_later_phase_comes_from_outside(trace, phase, level):
    graph = trace.graph(level, phase=phase)
    fed = [n for n, d in graph.nodes(data=True) if d["kind"] == "external"]
    if phase != "backward":  # what is accumulated is shown as a parameter's gradient
        fed += [n for n, d in graph.nodes(data=True) if d["kind"] == "gradient"]
    assert fed
    assert all(graph.in_degree(node) == 0 for node in fed)
    assert {graph.nodes[node]["phase"] for node in fed} != {phase}
    assert all(graph.out_degree(node) > 0 for node in fed)


@pytest.mark.parametrize("level", LEVELS)
def test_the_forward_is_not_fed_by_other_phases_at_any_level(trace, level):
    graph = trace.graph(level, phase="forward")
    assert graph.number_of_nodes() > 5
    assert {d["phase"] for _, d in graph.nodes(data=True)} == {"forward"}
    assert "external" not in {
        d["kind"] for _, d in graph.nodes(data=True) if d["layer_type"] is None and d["operator"]
    }


def test_a_phase_that_there_is_not_is_refused_with_the_choices(trace):
    for ask in (trace.graph, trace.summary, trace.to_dot):
        with pytest.raises(OptionError, match="'forward', 'backward', 'optimizer', 'other', 'all'"):
            ask(phase="backwards")


def test_at_level_layer_the_backward_has_a_node_for_each_layer_and_gradient(trace):
    graph = trace.graph("layer", phase="backward")
    kinds = {n: d["kind"] for n, d in graph.nodes(data=True)}
    for layer in trace:
        if layer.backward_ops and layer.phase == "forward":
            assert kinds[f"{layer.label}.backward"] == "layer"
    gradients = sorted(n for n, kind in kinds.items() if kind == "gradient")
    names = [parameter.name for parameter in trace.parameters]
    assert len(names) == 4
    assert gradients == sorted(f"{name}.grad:{n}" for name in names for n in (1, 2))


def test_at_level_layer_a_gradient_is_fed_by_its_layers_backward(trace):
    graph = trace.graph("layer", phase="backward")
    for number in (1, 2):
        linear = trace[f"linear_2:{number}"]
        assert [*graph.predecessors(f"2.weight.grad:{number}")] == [f"{linear.label}.backward"]


def test_at_level_module_the_backward_has_a_node_for_each_module(trace):
    graph = trace.graph("module", phase="backward")
    boxes = {d["label"] for _, d in graph.nodes(data=True) if d["kind"] == "module"}
    assert boxes == {"@0.backward", "@1.backward", "@2.backward"}


def test_the_ops_of_a_backward_node_are_counted(trace):
    graph = trace.graph("layer", phase="backward")
    for layer in trace:
        node = f"{layer.label}.backward"
        if node in graph:
            assert graph.nodes[node]["ops"] == len(layer.backward_ops)
            assert graph.nodes[node]["duration_ns"] == sum(
                op.duration_ns for op in layer.backward_ops
            )


def test_rolled_two_steps_have_the_nodes_of_one(trace):
    graph = trace.graph("layer", phase="all", rolled=True)
    assert "2.weight.grad" in graph
    assert graph.nodes["2.weight.grad"]["pass_list"] == [1, 2]
    linear = next(n for n in graph if n.startswith("linear_1") and n.endswith(".backward"))
    assert graph.nodes[linear]["pass_list"] == [1, 2]


def test_a_layers_backward_and_a_modules_are_the_same_ops(trace):
    ops = BackwardOps(trace.recording)
    for call in trace.recording.module_calls:
        direct = ops.of_run.get(call.index, [])
        of_layers = [
            op
            for layer in trace
            if layer.record.module_call == call.index
            for op in layer.backward_ops
        ]
        inner = [
            op
            for child in trace.recording.module_calls if child.parent == call.index
            for op in ops.of_run.get(child.index, [])
        ]  # fmt: skip
        assert sorted(op.index for op in direct) == sorted(op.index for op in (*of_layers, *inner))


# -------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("level", LEVELS)
def test_the_rows_of_the_phases_are_those_of_all_of_them(trace, level):
    def rows(phase):
        found = table_rows(trace.recording, trace.passes, level, None, phase)
        return sum(row.time_ns for row in found if not row.is_module), len(found)

    if level == "op":
        assert rows("all")[1] == sum(rows(phase)[1] for phase in PHASES if phase != "all")
    assert all(rows(phase)[1] > 0 for phase in PHASES)


def test_time_in_backward_of_a_layer_is_that_of_its_ops(trace):
    rows = {r.name: r for r in table_rows(trace.recording, trace.passes, "layer")}
    for layer in trace:
        if layer.phase == "forward":
            expected = sum(op.duration_ns for op in layer.backward_ops)
            assert rows[layer.label].backward_ns == expected
    assert any(row.backward_ns for row in rows.values())


def test_time_in_backward_of_a_module_is_that_of_all_inside(trace):
    rows = {r.name: r for r in table_rows(trace.recording, trace.passes, "module")}
    inside = sum(rows[name].backward_ns for name in ("0", "1", "2"))
    assert rows["Sequential"].backward_ns == inside > 0


def test_in_backward_a_row_gives_what_went_on_to_others(trace):
    rows = {r.name: r for r in table_rows(trace.recording, trace.passes, "layer", None, "backward")}
    layer = next(layer for layer in trace if layer.type == "relu")
    assert [tuple(v.shape) for v in rows[layer.label].outputs] == [(5, 3)]
    linear = next(layer for layer in trace if layer.type == "linear")
    shapes = {tuple(value.shape) for value in rows[linear.label].outputs}
    assert {(3, 4), (3,)} <= shapes
    assert rows["0.weight.grad"].kind == "accumulate"
    assert rows["0.weight.grad"].module == "0"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_table_and_picture_of_a_phase_is_made(trace, level, phase):
    assert len(str(trace.summary(level, phase=phase)).splitlines()) > 3
    for rolled in (False, True):
        assert trace.to_dot(level, phase=phase, rolled=rolled).to_string().startswith("digraph")


def test_a_program_without_a_backward_has_an_empty_graph_of_it():
    with opscope.trace() as trace:
        torch.ones(2).exp()
    for level in LEVELS:
        assert len(trace.graph(level, phase="backward")) == 0
        assert len(trace.graph(level, phase="all")) == len(trace.graph(level))
        assert trace.summary(level, phase="backward")


# -------------------------------------------------------------- recordings made by hand


def sketched():
    sketch = builders.Sketch("Net")
    x = sketch.outside()
    with sketch.module("", "Net", x):
        weight = sketch.parameter("fc.weight", 3, 3)
        with sketch.module("fc", "Linear", x):
            y = sketch.call("linear", x, weight)
        z = sketch.call("relu", y)
    g = sketch.backward("threshold_backward", z, forward=1)
    w = sketch.backward("mm", g, forward=0)
    sketch.backward("add_", w, accumulates=0)
    return builders.Exhibit(sketch.build())


def test_a_selection_does_not_change_the_graph_that_it_is_given():
    graph = sketched().ops
    before = {n: dict(d) for n, d in graph.nodes(data=True)}, set(graph.edges)
    for phase in PHASES:
        select(graph, phase=phase, flows={("relu_1_1", "relu_1_1")})
    assert before == ({n: dict(d) for n, d in graph.nodes(data=True)}, set(graph.edges))


def test_a_backward_by_hand_is_fed_by_the_forward():
    graph = select(sketched().ops, phase="backward")
    assert {n for n, d in graph.nodes(data=True) if d["kind"] == "op"} == {"op_2", "op_3", "op_4"}
    assert graph.nodes["op_1"]["kind"] == "external"
    assert graph.nodes["op_2"]["layer"] == graph.nodes["op_1"]["label"]
    assert graph.nodes["op_3"]["module"] == "fc"
    assert graph.nodes["op_4"]["accumulates"] == "fc.weight"
    assert {(a, b) for a, b in graph.edges} == {
        ("op_1", "op_2"),
        ("op_2", "op_3"),
        ("op_3", "op_4"),
    }


def test_gradients_mark_forward_edges_only():
    exhibit = sketched()
    first, second = exhibit.labels[-3:-1]
    marked = select(exhibit.ops, flows={(first, second)})
    assert {(a, b) for a, b, d in marked.edges(data=True) if d["gradient"]} == {("op_0", "op_1")}
    assert not any(d["gradient"] for _, _, d in exhibit.ops.edges(data=True))


def test_an_empty_recording_has_every_phase():
    exhibit = builders.Exhibit(builders.empty())
    for phase in PHASES:
        assert len(select(exhibit.ops, phase=phase)) == 0
        assert table_rows(exhibit.recording, exhibit.passes, "layer", None, phase) == []
