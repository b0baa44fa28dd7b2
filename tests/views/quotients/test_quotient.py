from copy import deepcopy

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from opscope.views.quotients.quotient import quotient, unique

KINDS = ("data", "write", "alias")


@st.composite
def graphs(draw):
    """Draw a graph with the attributes that a quotient merges, and a key for its nodes."""
    size = draw(st.integers(0, 8))
    graph = nx.DiGraph(model="M")
    for node in range(size):
        graph.add_node(f"n{node}", group=f"g{draw(st.integers(0, 3))}", **{"pass": node})
    pairs = draw(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
    for source, target in sorted(pairs):
        if source < target < size:
            argument = draw(st.sampled_from(["", "self", "other", "self,other"]))
            graph.add_edge(f"n{source}", f"n{target}", kind=draw(st.sampled_from(KINDS)),
                           argument=argument, value=source)  # fmt: skip
    return graph


def by_group(node, attributes):
    return attributes["group"]


def members(name, group):
    return {"members": [attributes["pass"] for attributes in group], "pass": 1}


@given(graphs(), st.booleans())
def test_each_edge_between_groups_is_represented_and_each_represents_some(graph, loops):
    coarse = quotient(graph, by_group, members, loops=loops)
    group = dict(graph.nodes(data="group"))
    crossing = {(group[a], group[b]) for a, b in graph.edges if loops or group[a] != group[b]}

    assert set(coarse.edges) == crossing


@given(graphs())
def test_counts_of_edges_add_up(graph):
    coarse = quotient(graph, by_group, members, loops=True)

    assert sum(count for _, _, count in coarse.edges(data="count")) == graph.number_of_edges()


@given(graphs())
def test_of_merged_edges_the_strongest_kind_and_all_arguments_stay(graph):
    coarse = quotient(graph, by_group, members, loops=True)
    for source, target, edge in coarse.edges(data=True):
        fine = [d for a, b, d in graph.edges(data=True)
                if (graph.nodes[a]["group"], graph.nodes[b]["group"]) == (source, target)]  # fmt: skip
        arguments = {name for d in fine for name in d["argument"].split(",")} - {""}

        assert edge["kind"] == min((d["kind"] for d in fine), key=KINDS.index)
        assert set(filter(None, edge["argument"].split(","))) == arguments


@given(graphs())
def test_every_node_is_a_member_of_one_group_in_order(graph):
    coarse = quotient(graph, by_group, members)
    found = [node for _, group in coarse.nodes(data="members") for node in group]

    assert sorted(found) == list(range(len(graph)))
    assert all(group == sorted(group) for _, group in coarse.nodes(data="members"))


@given(graphs())
def test_the_graph_is_left_as_it_was(graph):
    before = deepcopy(graph)
    quotient(graph, by_group, members, loops=True)

    assert nx.utils.graphs_equal(graph, before)


@given(graphs())
def test_a_quotient_by_name_is_the_graph_itself(graph):
    same = quotient(graph, lambda node, _: node, lambda _, group: dict(group[0]))

    assert list(same.nodes(data=True)) == list(graph.nodes(data=True))
    assert list(same.edges) == list(graph.edges)
    assert same.graph == graph.graph


def test_a_quotient_of_a_quotient_still_counts_the_finest_edges():
    graph = nx.DiGraph()
    for name in "abcd":
        graph.add_node(name, **{"pass": 1})
    for source, target in ("ac", "ad", "bc"):
        graph.add_edge(source, target, kind="data", argument="self", value=0)
    once = quotient(graph, lambda n, _: "ab" if n in "ab" else n, lambda *_: {"pass": 1})
    twice = quotient(once, lambda n, _: "cd" if n in "cd" else n, lambda *_: {"pass": 1})

    assert twice.edges["ab", "cd"]["count"] == 3


def test_an_edge_inside_a_group_vanishes_or_becomes_a_loop():
    graph = nx.DiGraph()
    graph.add_node("a", **{"pass": 1})
    graph.add_node("b", **{"pass": 2})
    graph.add_edge("a", "b", kind="data", argument="self", value=0)
    one = [quotient(graph, lambda *_: "x", lambda *_: {}, loops=loops) for loops in (False, True)]

    assert [list(found.edges) for found in one] == [[], [("x", "x")]]
    assert one[1].edges["x", "x"]["out_passes"] == [1]
    assert one[1].edges["x", "x"]["in_passes"] == [2]


def test_unique_keeps_the_order_of_what_cannot_be_hashed():
    assert unique([["b", [1]], ["a", [2]], ["b", [1]]]) == [["b", [1]], ["a", [2]]]
