from copy import deepcopy

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Exhibit, Sketch, chain, empty, nested
from tests.strategies import recordings

from opscope.errors import OptionError
from opscope.views.compose import ViewOptions, view
from opscope.views.select import edges_from_parameters, select

KINDS = ("op", "passed_through", "input", "output", "parameter", "buffer", "external")


def snapshot(graph):
    return deepcopy((list(graph.nodes(data=True)), list(graph.edges(data=True)), graph.graph))


@given(recordings(), st.sets(st.sampled_from(KINDS)))
def test_leaving_kinds_out_keeps_the_rest_as_it_was_and_in_order(recording, kinds):
    graph = Exhibit(recording).ops
    before = snapshot(graph)
    kept = select(graph, hidden=kinds, overwritten=True)

    assert snapshot(graph) == before
    assert list(kept.nodes(data=True)) == [
        (n, data) for n, data in graph.nodes(data=True) if data["kind"] not in kinds
    ]
    assert set(kept.edges) == {(a, b) for a, b in graph.edges if a in kept and b in kept}
    assert kept.graph == graph.graph


@given(recordings())
def test_the_forward_phase_leaves_out_the_other_ops_and_what_only_they_read(recording):
    graph = Exhibit(recording).ops
    phases = graph.nodes(data="phase")

    def is_forward(node):
        near = [*graph.predecessors(node), *graph.successors(node)]
        ran = graph.nodes[node]["kind"] in ("op", "passed_through")
        return phases[node] == "forward" and (
            ran or not near or any(phases[n] == "forward" for n in near)
        )

    shown = select(graph, phase="forward", overwritten=True)
    assert list(shown) == [n for n in graph if is_forward(n)]


def test_few_kept_of_many_are_still_in_order():
    """networkx walks a small selection of a large graph in the order of a set."""
    sketch = Sketch()
    x = sketch.outside()
    for _ in range(20):
        x = sketch.call("relu", x)
    for _ in range(50):
        x = sketch.backward("neg", x)
    graph = Exhibit(sketch.build()).ops

    assert list(select(graph, phase="forward")) == [
        n for n in graph if graph.nodes[n]["phase"] == "forward"
    ]


def focused(graph, module):
    return select(graph, module=module, addresses=["", *_addresses(graph)])


def _addresses(graph):
    return [key.rpartition(":")[0] for key in graph.graph["modules"]]


def test_a_focus_shows_one_module_and_what_it_used_from_outside():
    graph = focused(Exhibit(nested()).ops, "blocks.1.fc")

    assert [data["label"] for _, data in graph.nodes(data=True)] == [
        "add_1_3", "blocks.1.fc.weight", "blocks.1.fc.bias", "linear", "linear",
    ]  # fmt: skip


def test_a_focus_on_the_model_keeps_all_of_its_ops():
    graph = Exhibit(chain(4)).ops

    assert [kind for _, kind in focused(graph, "").nodes(data="kind")].count("op") == 4


@given(recordings(), st.data())
def test_a_focus_keeps_exactly_the_ops_inside(recording, data):
    graph = Exhibit(recording).ops
    module = data.draw(st.sampled_from([run.module for run in recording.module_calls]))
    address = recording.modules[module].address
    inside = {
        f"op_{i}" for run in recording.module_calls if run.module == module for i in run.ops
        if recording.ops[i].phase != "backward"
    }  # fmt: skip
    if not inside:
        return
    found = focused(graph, address)

    assert {n for n, kind in found.nodes(data="kind") if kind == "op"} == inside
    assert nx.is_directed_acyclic_graph(found)


def test_a_focus_on_a_module_that_is_none_lists_the_nearest():
    with pytest.raises(OptionError) as error:
        focused(Exhibit(nested()).ops, "block.1")

    assert str(error.value).startswith(
        "no module ran at 'block.1'; the nearest addresses: 'blocks.1'"
    )


def test_a_focus_in_a_program_without_modules_says_that_there_are_none():
    with pytest.raises(OptionError) as error:
        focused(Exhibit(empty()).ops, "fc")

    assert str(error.value) == "no module ran at 'fc': the trace has none"


def test_a_view_copies_the_graph_once_for_what_is_shown_and_once_for_its_level(monkeypatch):
    sketch = Sketch()
    weight, x = sketch.parameter("fc.weight"), sketch.outside()
    with sketch.module("", "Net", x):
        y = sketch.call("relu", x)
        with sketch.module("fc", "Linear", y):
            z = sketch.call("linear", y, weight)
    sketch.backward("mm", z, forward=1)
    graph = Exhibit(sketch.build()).ops
    len(graph)  # which builds it
    made = []
    init = nx.DiGraph.__init__
    monkeypatch.setattr(nx.DiGraph, "__init__", lambda *a, **k: (made.append(1), init(*a, **k))[1])
    options = ViewOptions(module="fc", parameters=False, outputs=False)
    found = view(graph, "layer", None, options, ["", "fc"], flows={("relu_1_1", "linear_1_2")})

    assert len(made) == 2
    assert [data["kind"] for _, data in found.nodes(data=True)] == ["external", "layer"]


def test_edges_of_copies_of_parameters_come_from_these():
    graph = nx.DiGraph()
    graph.add_nodes_from(["w", "cast", "a", "b"])
    graph.add_edge("w", "cast", kind="data")
    graph.add_edge("cast", "a", kind="data")
    graph.add_edge("cast", "b", kind="alias", stands_for="w")
    shown = {(a, b): edge for a, b, edge in edges_from_parameters(graph)}

    assert shown == {
        ("w", "cast"): {"kind": "data"}, ("w", "b"): {"kind": "data"}, ("cast", "a"): {"kind": "data"},
    }  # fmt: skip
    graph.remove_node("w")
    assert [ends[:2] for ends in edges_from_parameters(graph)] == [("cast", "a")]
