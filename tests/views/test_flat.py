"""Flat graphs go through every file format of networkx that takes attributes."""

import networkx as nx
import pytest
import torch
from tests.builders import RECORDINGS, Exhibit
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.views.flat import flat
from opscope.views.quotients.levels import LEVELS, at_level
from opscope.views.quotients.rolled import fold_passes


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("level", LEVELS)
def test_any_graph_is_written_as_graphml_and_gexf_and_read_again(name, level, tmp_path):
    graph = flat(fold_passes(at_level(Exhibit(RECORDINGS[name]()).ops, level)))
    for write, read, suffix in (
        (nx.write_graphml, nx.read_graphml, "graphml"),
        (nx.write_gexf, nx.read_gexf, "gexf"),
    ):
        path = tmp_path / f"net.{suffix}"
        write(graph, path)
        again = read(path)
        assert set(again) == set(graph)
        assert set(again.edges) == set(graph.edges)


def test_a_trace_gives_one_and_leaves_the_other_as_it_is():
    with opscope.trace() as trace:
        nn.Linear(2, 2)(torch.ones(1, 2))
    whole, plain = trace.graph("layer"), trace.graph("layer", flat=True)

    assert list(plain) == list(whole)
    assert all(
        isinstance(value, (str, int, float))
        for _, data in plain.nodes(data=True)
        for value in data.values()
    )
    assert any(isinstance(data["shapes"], list) for _, data in whole.nodes(data=True))
    with pytest.raises(OptionError, match="flat"):
        trace.graph(flat="yes")
