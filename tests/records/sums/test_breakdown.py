"""Ops added up in different ways: each op once in each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import recordings
from torch import nn

import opscope
from opscope.analysis.costs import op_work
from opscope.errors import OptionError
from opscope.records.sums.breakdown import BY, breakdown


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opscope.trace(model) as trace:
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    return trace


@given(recordings(), st.sampled_from(BY))
def test_each_op_is_in_one_sum(recording, by):
    found = breakdown(recording, op_work(recording), by)

    assert sum(share.calls for share in found) == len(recording.ops)
    assert sum(share.time_ns for share in found) == sum(op.duration_ns for op in recording.ops)
    assert [share.time_ns for share in found] == sorted((s.time_ns for s in found), reverse=True)
    assert len({share.name for share in found}) == len(found)


@pytest.mark.parametrize("by", BY)
def test_sums_agree_with_the_costs(trace, by):
    found = trace.breakdown(by)

    assert sum(share.work.flops for share in found) == trace.costs.flops
    assert sum(share.calls for share in found) == len(trace.ops)


def test_what_ran_for_a_module_in_backward_is_the_module_s(trace):
    by_class = {share.name: share for share in trace.breakdown("class")}
    by_module = {share.name: share for share in trace.breakdown("module")}
    forward = {share.name: share for share in trace.breakdown("class", phase="forward")}

    assert by_class["Linear"].work.flops == trace.costs.flops
    assert forward["Linear"].work.flops == trace.costs.forward.flops
    assert by_class["Linear"].calls > forward["Linear"].calls
    assert by_module["0"].work.flops + by_module["2"].work.flops == trace.costs.flops


def test_bytes_are_those_of_the_tensors(trace):
    relu = next(share for share in trace.breakdown() if share.name == "aten.relu.default")

    assert (relu.read, relu.given, relu.intensity) == (3 * 8 * 4, 3 * 8 * 4, 0)
    product = next(share for share in trace.breakdown() if share.name == "aten.addmm.default")
    assert product.intensity == product.work.flops / (product.read + product.given)


def test_lines_of_code_are_told_apart():
    x = torch.ones(2)
    with opscope.trace() as trace:
        y = x + 1
        y = y * 2
        y = y * 3
    lines = trace.breakdown("line")

    assert len(lines) == 3
    assert all("test_breakdown.py" in share.name for share in lines)
    assert "/" not in str(lines).splitlines()[3].split()[0]


def test_it_prints_a_table_of_so_many_rows(trace):
    text = str(trace.breakdown("operator", row_limit=2))

    assert text.startswith("Sequential: by operator\n")
    assert "… " in text
    assert f"in {len(trace.ops)} ops, of " in text
    for width in (30, 80, 200):
        assert max(map(len, trace.breakdown().as_text(width).splitlines())) <= width
    assert trace.breakdown().to_dicts()[0]["calls"] >= 1
    assert len(trace.breakdown("operator", row_limit=2)) == len(trace.breakdown())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "layer"}, "operator"),
        ({"phase": "all of it"}, "forward"),
        ({"row_limit": 0}, "row_limit"),
    ],
)
def test_what_there_is_not_is_refused(trace, options, message):
    with pytest.raises(OptionError, match=message):
        trace.breakdown(**options)


def test_an_empty_program_has_an_empty_one():
    with opscope.trace() as trace:
        pass
    assert len(trace.breakdown()) == 0
    assert "0 ops" in str(trace.breakdown())
