"""Ops added up in different ways: each op once in each."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import recordings
from torch import nn

import opscope
from opscope.analysis.costs import op_work
from opscope.errors import OptionError
from opscope.records.calls import Frame, ModuleCall
from opscope.records.ops import Op, Read
from opscope.records.passes.layers import layer_passes
from opscope.records.recording import Module, Recording
from opscope.records.sums.breakdown import BY, Limits, breakdown
from opscope.records.values import Value


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
    found = breakdown(recording, layer_passes(recording), op_work(recording), by)

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
        ({"by": "layers"}, "operator"),
        ({"peak_flops": 1e12}, "bandwidth: None"),
        ({"bandwidth": 1e12}, "peak_flops: None"),
        ({"peak_flops": 0, "bandwidth": 1e9}, "peak_flops: 0"),
        ({"peak_flops": 1e12, "bandwidth": float("nan")}, "bandwidth: nan"),
        ({"peak_flops": True, "bandwidth": 1}, "measure_peaks"),
        ({"peak_flops": 10**400, "bandwidth": 1e9}, "peak_flops: 1000"),
        ({"peak_flops": 1e9, "bandwidth": 1e-320}, "bandwidth: 1e-320"),
        ({"phase": "all of it"}, "forward"),
        ({"row_limit": 0}, "row_limit"),
    ],
)
def test_what_there_is_not_is_refused(trace, options, message):
    with pytest.raises(OptionError, match=message):
        trace.breakdown(**options)


@pytest.mark.parametrize("number", [10**9, 1e9, Fraction(10**9), np.int64(10**9), np.float32(1e9)])
def test_limits_may_be_any_real_number_and_give_plain_ones(trace, number):
    found = trace.breakdown(peak_flops=number, bandwidth=number)

    assert found.to_dicts() == trace.breakdown(peak_flops=1e9, bandwidth=1e9).to_dicts()
    assert {type(share.bound.least_ns) for share in found if share.bound} == {float}


def test_an_empty_program_has_an_empty_one():
    with opscope.trace() as trace:
        pass
    assert len(trace.breakdown()) == 0
    assert "0 ops" in str(trace.breakdown())


def nested():
    """A model with a block of two layers, a line of which is called by another."""
    outer, inner = Frame("model.py", 1, "forward"), Frame("layer.py", 9, "forward")
    values = tuple(Value(index, (25,)) for index in range(4))
    runs = [(0, 0), (2, 1), (2, 1)]  # module call and call site of each op
    return Recording(
        ops=tuple(
            Op(
                index, "aten.relu.default", (Read(index, "self"),), (index + 1,),
                module_call=run, call_site=site, duration_ns=10 ** (index + 1),
            )
            for index, (run, site) in enumerate(runs)
        ),
        values=values,
        modules=(Module(0, "", "Net"), Module(1, "block", "Block"), Module(2, "block.act", "ReLU")),
        module_calls=(
            ModuleCall(0, 0, ops=range(3), is_root=True),
            ModuleCall(1, 1, parent=0, ops=range(1, 3)),
            ModuleCall(2, 2, parent=1, ops=range(1, 3)),
        ),
        call_sites=((outer,), (inner, outer)),
    )  # fmt: skip


def of(recording, by, **options):
    work = op_work(recording)
    found = breakdown(recording, layer_passes(recording), work, by, **options)
    return {share.name: share for share in found}


@pytest.mark.parametrize(
    ("by", "own", "total"),
    [
        (
            "module",
            {"Net": 10, "block": 0, "block.act": 1100},
            {"Net": 1110, "block": 1100, "block.act": 1100},
        ),
        (
            "class",
            {"Net": 10, "Block": 0, "ReLU": 1100},
            {"Net": 1110, "Block": 1100, "ReLU": 1100},
        ),
        ("line", {"model.py:1": 10, "layer.py:9": 1100}, {"model.py:1": 1110, "layer.py:9": 1100}),
        ("operator", {"aten.relu.default": 1110}, {"aten.relu.default": 1110}),
    ],
)
def test_what_ran_below_is_in_the_total_and_not_in_the_own_time(by, own, total):
    found = of(nested(), by)

    assert {name: share.time_ns for name, share in found.items()} == own
    assert {name: share.total_ns for name, share in found.items()} == total


def test_the_times_of_modules_are_those_of_the_table_and_of_one_another(trace):
    rows = {row["name"]: row for row in trace.summary().to_dicts()}
    shares = {share.name: share for share in trace.breakdown("module", phase="forward")}
    whole = shares["Sequential"]

    assert whole.total_ns == sum(op.duration_ns for op in trace.ops if op.module_call is not None
                                 and op.phase == "forward")  # fmt: skip
    assert whole.total_ns == whole.time_ns + sum(shares[name].total_ns for name in "012")
    assert round(rows["0"]["time"] * 1e9) == shares["0"].total_ns
    assert round(rows["Sequential"]["time"] * 1e9) == whole.total_ns


def test_a_layer_s_time_has_what_ran_for_it_in_backward(trace):
    shares = {share.name: share for share in trace.breakdown("layer")}
    linear = trace["0"]
    backward = sum(op.duration_ns for op in linear.backward_ops)

    assert shares[linear.label].backward_ns == backward > 0
    assert shares[linear.label].time_ns == backward + sum(op.duration_ns for op in linear.ops)


def test_passes_of_a_layer_are_one():
    layer, x = nn.Linear(3, 3), torch.ones(2, 3)
    with opscope.trace(layer) as trace:
        for _ in range(4):
            layer(x)
    shares = {share.name: share for share in trace.breakdown("layer")}

    assert shares["linear_1_1"].name in trace["linear_1_1:2"].label
    assert shares["linear_1_1"].calls == 4 * len(trace["linear_1_1:1"].ops)


def product(rows, columns, inner, took):
    """One product of matrices of float32."""
    shapes = (rows, inner), (inner, columns), (rows, columns)
    values = tuple(
        Value(
            index, shape, (shape[1], 1), origin="outside" if index < 2 else "fresh",
            made_by=0 if index == 2 else None,
        )
        for index, shape in enumerate(shapes)
    )  # fmt: skip
    reads = (Read(0, "self"), Read(1, "mat2"))
    return Recording(ops=(Op(0, "aten.mm.default", reads, (2,), duration_ns=took),), values=values)


def test_a_product_waits_for_arithmetic_or_for_memory_by_the_roofline():
    # 2 * 100**3 operations, 3 * 100**2 * 4 bytes
    found = of(product(100, 100, 100, took=4000), "operator", limits=Limits(1e12, 1e12))
    bound = found["aten.mm.default"].bound
    assert (bound.kind, bound.least_ns, bound.reached) == ("compute", 2000, 0.5)

    slow = of(product(100, 100, 100, took=240_000), "operator", limits=Limits(1e12, 1e9))
    bound = slow["aten.mm.default"].bound
    assert (bound.kind, bound.least_ns, bound.reached) == ("memory", 120_000, 0.5)


def test_views_wait_for_neither_and_nothing_is_said_without_limits(trace):
    assert all(share.bound is None for share in trace.breakdown())

    found = {s.name: s for s in trace.breakdown(peak_flops=1e12, bandwidth=1e11)}
    assert found["aten.addmm.default"].bound is not None
    assert found["aten.t.default"].bound is None
    text = str(trace.breakdown(peak_flops=1e12, bandwidth=1e11))
    assert "bound by" in text
    assert "limits" in text


def test_a_model_whose_class_is_called_as_a_module_of_it_is_a_sum_of_its_own():
    recording = nested()
    modules = (Module(0, "", "block"), *recording.modules[1:])
    shares = breakdown(replace(recording, modules=modules), (), op_work(recording), "module")

    assert [(share.name, share.time_ns) for share in shares] == [
        ("block.act", 1100), ("block", 10), ("block", 0),
    ]  # fmt: skip
