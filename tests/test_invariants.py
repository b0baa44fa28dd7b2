"""What is true of every record is true of real models', and a broken record is found out."""

from dataclasses import replace

import pytest
import torch
from tests import zoo
from tests.invariants import Broken, check
from tests.witness import tensors
from torch import nn

import opscope

FAST = [name for name in zoo.NAMES if name not in {"googlenet"}]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", FAST)
def test_every_invariant_holds_for_real_models(name, layers, backward):
    program = zoo.build(name, training=backward)
    with torch.set_grad_enabled(backward), opscope.trace(program.module, layers=layers) as trace:
        found = [t.sum() for t in tensors(program.run()) if t.requires_grad]
        if found:
            sum(found).backward()

    assert any(op.phase == "backward" for op in trace.ops) == (backward and name != "function")
    check(trace)


@pytest.mark.parametrize("name", [pytest.param("swin_v2_b", marks=pytest.mark.slow), "googlenet"])
def test_every_invariant_holds_for_large_models(name):
    program = zoo.shared(name)
    with torch.no_grad(), opscope.trace(program.module) as trace:
        program.run()

    check(trace)


def test_every_invariant_holds_for_a_failed_trace(layers):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(4, 3))
    trace = opscope.trace(model, layers=layers)
    with pytest.raises(RuntimeError), trace:
        model(torch.rand(2, 3))

    assert trace.failure is not None
    check(trace)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3))

    def forward(self, x):
        return self.blocks(self.blocks(x)).softmax(-1)


@pytest.fixture
def trace():
    model, x = Net(), torch.rand(2, 3)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(x)
    return trace


def change(trace, room, place, **fields):
    """Put a recording in which one record is another in the place of the right one."""
    records = list(getattr(trace.recording, room))
    records[place] = replace(records[place], **fields)
    trace._reading.recording = replace(trace.recording, **{room: tuple(records)})


def index_that_is_wrong(trace):
    change(trace, "ops", 1, index=2)


def value_that_is_not_there(trace):
    change(trace, "ops", 1, outputs=(len(trace.recording.values),))


def value_made_twice(trace):
    change(trace, "ops", 3, outputs=trace.ops[1].outputs)


def value_made_by_nothing(trace):
    change(trace, "ops", 1, outputs=())


def value_with_another_maker(trace):
    change(trace, "values", trace.ops[1].outputs[0], made_by=0)


def value_read_before_it_is_made(trace):
    read = replace(trace.ops[0].reads[0], value=trace.ops[1].outputs[0])
    change(trace, "ops", 0, reads=(read,))


def layer_calls_that_overlap(trace):
    place = trace.ops[2].layer_call
    ops = trace.recording.layer_calls[place].ops
    change(trace, "layer_calls", place, ops=range(ops.start - 1, ops.stop))


def layer_call_in_another_module(trace):
    run = trace.ops[-2].module_call
    change(trace, "layer_calls", trace.ops[0].layer_call, module_call=run)


def op_of_another_layer(trace):
    change(trace, "ops", 1, layer_call=trace.ops[2].layer_call)


def op_of_another_module(trace):
    change(trace, "ops", 1, module_call=0)


def module_call_longer_than_its_parent(trace):
    change(trace, "module_calls", 1, ops=range(len(trace.ops) + 1))


def module_call_with_another_number(trace):
    change(trace, "module_calls", 1, number=2)


def module_call_inside_a_later_one(trace):
    change(trace, "module_calls", 1, parent=2)


def two_layers_of_one_label(trace):
    first = next(item for item in trace.passes if item.type == "linear")
    trace._reading.passes = tuple(
        replace(item, type="linear", type_number=first.type_number, layer=first.layer,
                number=first.number, passes=first.passes)
        if item.type == "relu" and item.number == 1 else item
        for item in trace.passes
    )  # fmt: skip


def key_that_leads_to_another_layer(trace):
    first, second, *rest = trace.layers
    trace._layers.all = (second, first, *rest)


def edge_against_the_order(trace):
    trace._reading.op_graph.add_edge("op_3", "op_1", kind="data", argument="x", value=0)


def edge_that_closes_a_cycle(trace):
    trace._reading.op_graph.add_edge("op_2", "op_1", kind="data", argument="x", value=0)


def edge_that_a_level_lost(trace):
    right = trace.graph

    def graph(level="op", **options):
        found = right(level=level, **options)
        if level == "layer":
            found.remove_edge(*next(iter(found.edges)))
        return found

    trace.graph = graph


BREAKS = {
    index_that_is_wrong: "ops.1. says it is number 2",
    value_that_is_not_there: "op 1 speaks of value",
    value_made_twice: "is made by op 1, op 3",
    value_made_by_nothing: r"fresh, is made by \[\]",
    value_with_another_maker: "says op 0",
    value_read_before_it_is_made: "op 0 reads value",
    layer_calls_that_overlap: "begins within the one before",
    layer_call_in_another_module: "has ops outside its module",
    op_of_another_layer: "op 1 says layer call",
    op_of_another_module: "op 1 says module call 0",
    module_call_longer_than_its_parent: "module call 1 has ops outside its parent",
    module_call_with_another_number: "module call 1 is run 2",
    module_call_inside_a_later_one: "module call 1 is older than its parent",
    two_layers_of_one_label: "several layer passes are called",
    key_that_leads_to_another_layer: "leads to",
    edge_against_the_order: "op_3 comes after op_1",
    edge_that_closes_a_cycle: "cycle",
    edge_that_a_level_lost: "level layer does not have the edges",
}
"""Each with what the check says of it."""


def test_the_record_is_right_before_it_is_broken(trace):
    check(trace)

    assert [op.name for op in trace.ops[:4]] == ["t", "addmm", "relu_", "t"]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda break_it: break_it.__name__)
def test_a_broken_record_is_found_out(break_it, trace):
    trace._reading.op_graph, trace._reading.index  # noqa: B018  # worked out while the record is right
    break_it(trace)

    with pytest.raises(Broken, match=BREAKS[break_it]):
        check(trace)
