from copy import deepcopy
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Exhibit, Sketch, branch, nested, recurrent
from tests.strategies import recordings

from opscope.errors import OptionError
from opscope.views.quotients.levels import LEVELS, at_level
from opscope.views.select import select

depths = st.none() | st.integers(1, 4)
addresses = st.sets(st.sampled_from(["a", "b", "a.a", "a.b", "b.a"]))


def names(graph, *, kinds=("op", "passed_through", "layer", "module")):
    return [name for name, kind in graph.nodes(data="kind") if kind in kinds]


def membership(fine, coarse):
    """Return the coarse node of each fine one, worked out from labels and module stacks."""
    found = {}
    for node, data in fine.nodes(data=True):
        boxes = [f"@{address}{suffix}" for address, run, _ in data["module_stack"]
                 for suffix in (f":{run}", "")] if data["kind"] in ("op", "passed_through") else []  # fmt: skip
        owners = [name for name in (*boxes, data["layer"], node) if name in coarse]
        found[node] = owners[0]
    return found


@given(recordings(), st.sampled_from(LEVELS), depths, addresses, addresses)
def test_a_level_is_a_quotient_of_the_op_graph(recording, level, depth, collapse, expand):
    fine = select(Exhibit(recording).ops, phase="forward")
    coarse = at_level(
        fine, level, depth, collapse=collapse.__contains__, expand=expand.__contains__
    )
    owner = membership(fine, coarse)

    assert set(owner.values()) == set(coarse)
    assert set(coarse.edges) == {(owner[a], owner[b]) for a, b in fine.edges} - {
        (name, name) for name in coarse
    }


@given(recordings(), st.sampled_from(LEVELS), depths)
def test_no_op_is_lost_or_counted_twice(recording, level, depth):
    fine = select(Exhibit(recording).ops, phase="forward")
    coarse = at_level(fine, level, depth)
    ops = sum(data.get("ops", data["operator"] is not None) for _, data in coarse.nodes(data=True))

    assert ops == sum(op.phase != "backward" for op in recording.ops)


@pytest.mark.parametrize("attribute", ["parameters", "buffers"])
@given(recording=recordings(), level=st.sampled_from(LEVELS), depth=depths)
def test_no_parameter_or_buffer_is_lost(attribute, recording, level, depth):
    fine = select(Exhibit(recording).ops, phase="forward")
    coarse = at_level(fine, level, depth)

    def used(graph):
        return {name for _, held in graph.nodes(data=attribute) for name, _ in held}

    assert used(coarse) == used(fine)


@given(recordings(), st.sampled_from(LEVELS), depths)
def test_the_op_graph_is_left_as_it_was(recording, level, depth):
    graph = Exhibit(recording).ops
    before = deepcopy((list(graph.nodes(data=True)), list(graph.edges(data=True)), graph.graph))
    view = at_level(graph, level, depth)
    for _, data in view.nodes(data=True):
        data.clear()

    assert before == (list(graph.nodes(data=True)), list(graph.edges(data=True)), graph.graph)


@given(recordings(), st.sampled_from(LEVELS))
def test_a_greater_depth_never_shows_fewer_modules_opened(recording, level):
    graph = select(Exhibit(recording).ops, phase="forward")
    seen = [set(names(at_level(graph, level, depth), kinds=("op", "passed_through", "layer")))
            for depth in (1, 2, 3, 4, None)]  # fmt: skip

    assert all(shallow <= deep for shallow, deep in pairwise(seen))


@given(recordings())
def test_the_op_level_without_depth_is_the_op_graph(recording):
    graph = Exhibit(recording).ops
    same = at_level(graph, "op")

    assert list(same.nodes(data=True)) == list(graph.nodes(data=True))
    assert list(same.edges) == list(graph.edges)


def test_a_graph_of_layers_has_each_pass_as_a_node_in_order():
    exhibit = Exhibit(nested())

    assert [n for n, d in exhibit.layers.nodes(data=True) if d["layer"]] == exhibit.labels


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, ["@blocks.0", "@blocks.1", "linear_3_7"]),
        (2, ["linear_1_1", "relu_1_2", "add_1_3", "linear_2_4", "relu_2_5", "add_2_6", "linear_3_7"]),
    ],
)  # fmt: skip
def test_depth_closes_modules_but_shows_those_of_one_layer_as_that_layer(depth, expected):
    assert names(at_level(Exhibit(nested()).ops, "layer", depth)) == expected


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, ["@blocks.0", "@blocks.1", "@head"]),
        (None, ["@blocks.0.fc", "@blocks.0.act", "add_1_3", "@blocks.1.fc", "@blocks.1.act",
                "add_2_6", "@head"]),
    ],
)  # fmt: skip
def test_the_module_level_closes_leaves_and_keeps_what_containers_compute(depth, expected):
    assert names(at_level(Exhibit(nested()).ops, "module", depth)) == expected


def test_the_op_level_can_close_modules_too():
    assert names(at_level(Exhibit(nested()).ops, "op", 1)) == ["@blocks.0", "@blocks.1", "@head"]


@pytest.mark.parametrize(
    "choice", [{"blocks.0"}, ["blocks.0"], "blocks.0", lambda address: address == "blocks.0"]
)
def test_a_module_is_collapsed_by_name_or_by_a_test(choice):
    found = names(at_level(Exhibit(nested()).ops, "layer", collapse=choice))

    assert found == ["@blocks.0", "linear_2_4", "relu_2_5", "add_2_6", "linear_3_7"]


@pytest.mark.parametrize("choice", [{"blocks.1"}, lambda address: address.endswith("1")])
def test_a_module_is_expanded_by_name_or_by_a_test(choice):
    found = names(at_level(Exhibit(nested()).ops, "layer", 1, expand=choice))

    assert found == ["@blocks.0", "linear_2_4", "relu_2_5", "add_2_6", "linear_3_7"]


def test_expand_wins_over_collapse():
    view = at_level(Exhibit(nested()).ops, "layer", collapse=lambda _: True, expand={"blocks.0"})

    assert names(view) == ["@blocks.0.fc", "@blocks.0.act", "add_1_3", "@blocks.1", "@head"]


def test_a_leaf_can_be_expanded_at_the_module_level():
    assert names(at_level(Exhibit(nested()).ops, "module", 1, expand={"head"}))[-1] == "linear_3_7"


def test_the_model_itself_is_never_closed():
    assert names(at_level(Exhibit(branch()).ops, "layer", 1, collapse=lambda _: True)) == [
        "relu_1_1",
        "sin_1_2",
        "cos_1_3",
        "add_1_4",
    ]


def test_a_module_beside_the_model_lies_at_depth_one():
    sketch = Sketch("")
    x = sketch.outside()
    with sketch.module("loose", "Loose", x):
        sketch.call("cos", sketch.call("sin", x))

    assert names(at_level(Exhibit(sketch.build()).ops, "layer", 1)) == ["@loose"]


def test_runs_of_a_module_are_nodes_of_their_own():
    assert names(at_level(Exhibit(recurrent(passes=2)).ops, "module")) == [
        "@fc:1", "add_1_2:1", "@fc:2", "add_1_2:2", "relu_1_3",
    ]  # fmt: skip


def test_modules_whose_names_look_like_runs_stay_apart():
    sketch = Sketch()
    x = sketch.outside()
    for address in ("a", "a", "a:1"):
        with sketch.module(address, "Block", x):
            x = sketch.call("cos", sketch.call("sin", x))
    view = at_level(Exhibit(sketch.build()).ops, "module")

    assert [view.nodes[n]["module"] for n in names(view)] == ["a", "a", "a:1"]


def test_a_closed_module_tells_what_is_inside_and_what_it_gives():
    data = at_level(Exhibit(nested()).ops, "layer", 1).nodes["@blocks.0"]

    assert (data["label"], data["module"], data["module_class"]) == (
        "@blocks.0",
        "blocks.0",
        "Block",
    )
    assert (data["ops"], data["layers"], data["duration_ns"]) == (4, 3, 4000)
    assert data["parameters"] == [["blocks.0.fc.weight", [3, 3]], ["blocks.0.fc.bias", [3]]]
    assert data["module_stack"] == [["", 1, "Nested"], ["blocks.0", 1, "Block"]]
    assert (data["operator"], data["layer"], data["shapes"]) == (None, None, [[2, 3]])


def test_a_layer_tells_its_ops_and_its_parameters():
    data = Exhibit(nested()).layers.nodes["linear_1_1"]

    assert (data["kind"], data["ops"], data["duration_ns"]) == ("layer", 2, 2000)
    assert data["operator"] == "aten.linear.default, aten.linear.default"
    assert data["parameters"] == [["blocks.0.fc.weight", [3, 3]], ["blocks.0.fc.bias", [3]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "modules"},
         "unknown level: 'modules' (must be one of 'op', 'layer', 'module')"),
        ({"level": None}, "unknown level: None (must be one of 'op', 'layer', 'module')"),
        ({"depth": 0}, "depth: 0 (must be None, for all levels, or a whole number from 1)"),
        ({"depth": "2"}, "depth: '2' (must be None, for all levels, or a whole number from 1)"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(options, message):
    with pytest.raises(OptionError) as error:
        at_level(Exhibit(nested()).ops, **options)

    assert str(error.value) == message


@pytest.mark.parametrize("option", ["collapse", "expand"])
def test_an_address_to_open_or_close_that_is_none_is_refused(option):
    with pytest.raises(OptionError, match=rf"^{option}: .*'block\.0'.*'blocks\.0'"):
        at_level(Exhibit(nested()).ops, **{option: {"block.0"}})


@pytest.mark.parametrize("level", LEVELS)
def test_a_chain_without_modules_stays_acyclic(level):
    sketch = Sketch("")
    x = sketch.outside()
    for _ in range(3):
        x = sketch.call("relu", x, ops=2)

    assert nx.is_directed_acyclic_graph(at_level(Exhibit(sketch.build()).ops, level, 1))
