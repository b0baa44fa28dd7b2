from copy import deepcopy

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Exhibit, Sketch, chain, empty, nested
from tests.strategies import recordings

from opscope.errors import OptionError
from opscope.views.select import focus, in_phase, without_kinds

KINDS = ("op", "passed_through", "input", "output", "parameter", "buffer", "external")


def snapshot(graph):
    return deepcopy((list(graph.nodes(data=True)), list(graph.edges(data=True)), graph.graph))


@given(recordings(), st.sets(st.sampled_from(KINDS)))
def test_leaving_kinds_out_keeps_the_rest_as_it_was_and_in_order(recording, kinds):
    graph = Exhibit(recording).ops
    before = snapshot(graph)
    kept = without_kinds(graph, kinds)

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

    assert list(in_phase(graph, "forward")) == [n for n in graph if is_forward(n)]


def test_few_kept_of_many_are_still_in_order():
    """networkx walks a small selection of a large graph in the order of a set."""
    sketch = Sketch()
    x = sketch.outside()
    for _ in range(20):
        x = sketch.call("relu", x)
    for _ in range(50):
        x = sketch.backward("neg", x)
    graph = Exhibit(sketch.build()).ops

    assert list(in_phase(graph, "forward")) == [
        n for n in graph if graph.nodes[n]["phase"] == "forward"
    ]


def focused(graph, module):
    return focus(graph, module, ["", *_addresses(graph)])


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
