"""A long record is read by column: what nobody looks at is not made, and all of it is let go of."""

import gc
import pickle
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Exhibit
from tests.records.columns.test_table import as_tables
from tests.strategies import recordings
from torch import nn

import opscope
from opscope import record
from opscope.capture.assemble.recording import build_recording
from opscope.garbage import give_back
from opscope.graph.build import OpGraph, op_graph
from opscope.records.ops import Op
from opscope.views.compose import ViewOptions, view
from opscope.views.quotients.levels import at_level
from opscope.views.rows.layer_rows import LayerRows
from opscope.views.rows.row import Rows
from opscope.views.rows.table_rows import table_rows
from opscope.views.select import select
from opscope.views.structure import structure

RUNS, STEPS = 60, 100


class Adds(nn.Module):
    def forward(self, x):
        for _ in range(STEPS):
            x = x + 1
        return x


class Long(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Adds()

    def forward(self, x):
        for _ in range(RUNS):
            x = self.block(x)
        return x


def long_trace():
    model, x = Long(), torch.ones(2)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(x)
    return trace


@pytest.fixture(scope="module")
def trace():
    return long_trace()


@pytest.fixture
def made(monkeypatch):
    """Count what is made of rows, ops and graphs."""
    counts = {"rows": 0, "ops": 0, "graphs": 0}

    def counted(kind, name, what):
        known = getattr(kind, name)

        def method(*args, **kwargs):
            counts[what] += 1
            return known(*args, **kwargs)

        monkeypatch.setattr(kind, name, method)

    counted(LayerRows, "layer", "rows")
    counted(LayerRows, "_op", "rows")
    counted(Op, "__init__", "ops")
    counted(OpGraph, "build", "graphs")
    return counts


@pytest.mark.parametrize("sort_by", [None, "time", "-memory"])
def test_a_table_of_ten_rows_makes_ten(trace, made, sort_by):
    text = str(trace.summary("layer", row_limit=10, sort_by=sort_by))

    assert f"… {RUNS * STEPS + 2 - 10:,} more rows" in text
    assert made["rows"] == 10
    assert made["ops"] <= 10


def test_a_table_of_ops_likewise(trace, made):
    assert "more rows" in str(trace.summary("op", row_limit=10))
    assert made["rows"] == 10


def test_the_words_of_a_trace_need_no_graph_and_no_ops(trace, made):
    text = str(trace)

    assert f"recurrent (at most {RUNS * STEPS} passes), without branching" in text
    assert made["ops"] < 10
    assert made["graphs"] == 0


@pytest.mark.parametrize(("level", "nodes"), [("layer", 3), ("module", 3)])
def test_folded_passes_need_no_graph_of_ops(made, level, nodes):
    graph = long_trace().graph(level, rolled=True)

    assert len(graph) == nodes
    assert made["graphs"] == 0
    assert made["ops"] < STEPS + 10  # those of one run of the module


def test_a_trace_is_gone_when_it_is_dropped(monkeypatch):
    graphs = []
    init = OpGraph.__init__

    def noted(self, *args):
        init(self, *args)
        graphs.append(weakref.ref(self))

    monkeypatch.setattr(OpGraph, "__init__", noted)
    was_on = gc.isenabled()
    gc.disable()  # it must not have to come by
    try:
        trace = long_trace()
        known = weakref.ref(trace)
        str(trace)
        str(trace.summary("layer", row_limit=10))
        trace.graph("layer", rolled=True)
        trace.graph("layer")
        del trace
        assert known() is None
        assert graphs
        assert all(graph() is None for graph in graphs)
    finally:
        if was_on:
            gc.enable()


def plainly(graph):
    """Return all that a graph says."""
    return list(graph.nodes(data=True)), list(graph.edges(data=True)), graph.graph


@given(recordings(), st.booleans(), st.sampled_from(["layer", "module"]), st.booleans())
def test_what_is_folded_at_once_is_what_is_folded_in_steps(recording, overwritten, level, inputs):
    passes = Exhibit(recording).passes
    options = ViewOptions(rolled=True, overwritten=overwritten, inputs=inputs)
    addresses = [module.address for module in recording.modules]
    depths = (None, 1)
    eager = [view(op_graph(recording, passes), level, d, options, addresses) for d in depths]
    graph = op_graph(recording, passes).built
    in_steps = [view(graph, level, depth, options, addresses) for depth in depths]

    assert list(map(plainly, eager)) == list(map(plainly, in_steps))


@given(recordings())
def test_branches_are_found_without_the_graph(recording):
    passes = Exhibit(recording).passes

    def layers(graph):
        return at_level(select(graph, phase="forward"), "layer")

    eager = layers(op_graph(recording, passes))
    text = structure(eager, passes)
    assert not eager.is_built
    built = layers(op_graph(recording, passes).built)
    assert structure(built, passes) == text
    assert plainly(eager) == plainly(built)


@given(recordings(), st.sampled_from(["op", "layer"]), st.sampled_from(["forward", "all"]))
def test_rows_of_columns_are_rows_of_records(recording, level, phase):
    passes = Exhibit(recording).passes
    rows = table_rows(recording, passes, level, 1, phase)

    assert table_rows(as_tables(recording), passes, level, 1, phase) == list(rows)
    assert isinstance(rows, Rows)
    assert rows[:2] == list(rows)[:2]
    for name in ("time_ns", "memory"):
        expected = [getattr(row, name) for row in rows]
        assert rows.ranks(name, lambda row, name=name: getattr(row, name)) == expected
    with pytest.raises(IndexError):
        rows[len(rows)]


@given(recordings())
def test_the_graph_of_columns_is_that_of_records(recording):
    passes = Exhibit(recording).passes
    columns = as_tables(recording)

    assert plainly(op_graph(columns, passes)) == plainly(op_graph(recording, passes))


def test_memory_of_a_large_record_is_given_back_once_it_is_let_go_of(monkeypatch):
    given_back, held = [], []
    monkeypatch.setattr(record, "LARGE", 10)
    monkeypatch.setattr(record, "give_back", lambda: given_back.append(held[0]() is None))
    for ops in (5, 50):
        with opscope.trace() as trace:
            for _ in range(ops):
                torch.ones(1)
        held[:] = [weakref.ref(trace._block)]
        assert len(pickle.loads(pickle.dumps(trace)).ops) == ops
        del trace
    assert given_back == [False, True]  # the copy, and then the trace itself


def test_memory_is_given_back_where_the_c_library_can():
    give_back()  # glibc or not, it raises nothing


def test_one_who_waits_for_a_recording_is_told_how_many_calls_are_read():
    told = []
    with opscope.trace() as trace:
        (torch.ones(1) + 1).sin()
    build_recording(trace._block.session, lambda items: told.append(len(items)) or items)

    assert told == [3]


def test_memory_of_a_large_trace_that_was_never_read_is_given_back_too(monkeypatch):
    given_back = []
    monkeypatch.setattr(record, "LARGE", 10)
    monkeypatch.setattr(record, "give_back", lambda: given_back.append(True))
    for ops in (5, 50):
        with opscope.trace() as trace:
            for _ in range(ops):
                torch.ones(1)
        del trace
    assert given_back == [True]
