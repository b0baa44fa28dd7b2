from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Exhibit, nested, recurrent
from tests.strategies import recordings

from opscope.views.quotients.levels import LEVELS, at_level
from opscope.views.quotients.rolled import fold_passes
from opscope.views.select import select


def rolled(recording, level="layer", depth=None):
    return fold_passes(at_level(select(Exhibit(recording).ops, phase="forward"), level, depth))


def computed(graph):
    return [
        n
        for n, kind in graph.nodes(data="kind")
        if kind in ("op", "layer", "module", "passed_through")
    ]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("op", ["linear_1_1/0", "linear_1_1/1", "add_1_2/0", "relu_1_3/0"]),
        ("layer", ["linear_1_1", "add_1_2", "relu_1_3"]),
        ("module", ["@fc", "add_1_2", "relu_1_3"]),
    ],
)
def test_all_passes_of_a_layer_are_one_node(level, expected):
    assert computed(rolled(recurrent(), level)) == expected


def test_a_folded_node_lists_its_passes_and_adds_up_their_time():
    data = rolled(recurrent(passes=3)).nodes["linear_1_1"]

    assert (data["label"], data["pass_list"], data["passes"]) == ("linear_1_1", [1, 2, 3], 3)
    assert data["duration_ns"] == 3 * 2000


def test_an_edge_says_in_which_passes_it_was_there():
    graph = rolled(recurrent(passes=3))
    passes = {edge: (d["out_passes"], d["in_passes"]) for *edge_, d in graph.edges(data=True)
              for edge in [tuple(edge_)]}  # fmt: skip

    assert passes["linear_1_1", "add_1_2"] == ([1, 2, 3], [1, 2, 3])
    assert passes["add_1_2", "linear_1_1"] == ([1, 2], [2, 3])
    assert passes["add_1_2", "relu_1_3"] == ([3], [1])
    assert passes["input_1_0", "linear_1_1"] == ([1], [1])


def test_a_layer_that_feeds_itself_is_a_loop():
    from tests.builders import Sketch

    sketch = Sketch("")
    x = sketch.outside()
    for _ in range(3):
        x = sketch.call("relu", x, call_site="loop")
    graph = rolled(sketch.build())

    assert graph.edges["relu_1_1", "relu_1_1"]["count"] == 2
    assert list(graph) == ["input_1_0", "relu_1_1", "output_1_2"]


def test_a_graph_without_passes_keeps_its_nodes_and_edges():
    view = at_level(Exhibit(nested()).ops, "layer")
    folded = fold_passes(view)

    assert list(folded) == list(view)
    assert set(folded.edges) == set(view.edges)


@given(recordings(), st.sampled_from(LEVELS), st.none() | st.integers(1, 3))
def test_each_layer_is_one_node_and_no_time_is_lost(recording, level, depth):
    view = at_level(select(Exhibit(recording).ops, phase="forward"), level, depth)
    before = deepcopy(list(view.nodes(data=True)))
    folded = fold_passes(view)
    layers = [str(layer).partition(":")[0] for n, layer in view.nodes(data="layer")
              if view.nodes[n]["kind"] == "layer"]  # fmt: skip

    assert [n for n in folded if folded.nodes[n]["kind"] == "layer"] == list(dict.fromkeys(layers))
    assert sum(t for _, t in folded.nodes(data="duration_ns")) == sum(
        t for _, t in view.nodes(data="duration_ns")
    )
    assert list(view.nodes(data=True)) == before


@given(recordings(), st.sampled_from(LEVELS))
def test_each_edge_stands_for_passes_that_both_ends_have(recording, level):
    folded = rolled(recording, level)

    for source, target, edge in folded.edges(data=True):
        assert edge["count"] >= 1
        assert set(edge["out_passes"]) <= set(folded.nodes[source]["pass_list"])
        assert set(edge["in_passes"]) <= set(folded.nodes[target]["pass_list"])


@given(recordings())
def test_folding_twice_changes_nothing_but_counts(recording):
    once = rolled(recording)
    twice = fold_passes(once)

    assert list(twice) == list(once)
    assert set(twice.edges) == set(once.edges)


def operators(*passes):
    """Return, by operator and node, in which passes a rolled layer of these ops has it."""
    from tests.builders import Sketch

    sketch = Sketch("")
    x = sketch.outside()
    for names in passes:
        x = sketch.call("reshape", x, ops=len(names), call_site="loop")
        for at, name in zip(range(-len(names), 0), names, strict=True):
            sketch.ops[at] = replace(sketch.ops[at], operator=f"aten.{name}.default")
    graph = rolled(sketch.build(), "op")
    return {
        node: (data["operator"].split(".")[1], data["pass_list"])
        for node, data in graph.nodes(data=True)
        if data["kind"] == "op"
    }


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([["view"], ["view"]], [("view", [1, 2])]),
        ([["view"], ["clone", "view"]], [("view", [1, 2]), ("clone", [2])]),
        (
            [["clone", "_unsafe_view"], ["view"], ["clone", "_unsafe_view"]],
            [("clone", [1, 3]), ("_unsafe_view", [1, 3]), ("view", [2])],
        ),
        (
            [["t", "mm", "t"], ["t", "t"], ["mm", "t", "t", "t"]],
            [("t", [1, 2, 3]), ("mm", [1, 3]), ("t", [1, 2, 3]), ("t", [3])],
        ),
    ],
)
def test_ops_are_one_node_if_they_are_the_same_operator_the_same_time_in_each_pass(
    passes, expected
):
    assert sorted(operators(*passes).values()) == sorted(expected)
