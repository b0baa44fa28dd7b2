"""What is taken down while torch runs, and that nothing is worked out there."""

import gc
import threading
import weakref
from itertools import pairwise

import pytest
import torch
from tests import witness, zoo
from torch import nn

import opscope
from opscope.capture.log.event_log import FIRST, Log
from opscope.capture.log.events import SNAPSHOT_SIZE, Seen
from opscope.capture.log.snapshots import take_snapshot


def test_a_tensor_is_looked_at_once_until_its_data_is_replaced():
    log, x = Log(), torch.zeros(4)
    log.sees_assignments = True
    assert log.read(x) is log.read(x) is weakref.ref(x)
    assert log.events == [Seen, 0, *take_snapshot(x)]
    assert take_snapshot(x)[2:] == (x.shape, x.stride(), x.dtype, x.device, 0)
    log.forget(x)
    log.read(x)
    assert log.events == [Seen, 0, *take_snapshot(x)] * 2


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: torch.zeros(4),
        lambda x: x[1:].detach(),
        lambda x: x.reshape(2, 2).detach(),
        lambda x: x.view(torch.int32).detach(),
    ],
    ids=["another storage", "another offset", "another shape", "another type"],
)
def test_data_that_was_replaced_unheard_is_noticed(moved):
    log, x = Log(), torch.zeros(4)
    log.read(x)
    assert log.read(x) is weakref.ref(x)
    assert log.events == [Seen, 0, *take_snapshot(x)]
    x.data = moved(x)
    log.read(x)
    assert log.events[-SNAPSHOT_SIZE:] == [*take_snapshot(x)]
    assert len(log.events) == 2 * (2 + SNAPSHOT_SIZE)


def test_what_was_known_of_tensors_that_are_gone_is_dropped():
    log, kept = Log(), torch.ones(1)
    log.read(kept)
    for _ in range(5000):
        log.note(torch.empty(1))
        log.sweep()
    assert len(log.known) < 2000
    assert log.read(kept) is weakref.ref(kept)


def test_a_short_trace_is_settled_when_it_is_read_and_not_before(layers):
    built = zoo.build("resnet18")
    with torch.no_grad(), opscope.trace(built.module, layers=layers) as trace:
        built.run()
    tables = trace._block.session.tables
    assert tables.op_count == 0
    assert tables.log.op_count > 50
    assert len(trace.ops) == tables.op_count == tables.log.op_count
    assert not tables.log.ops
    assert not tables.log.events


def test_a_long_trace_is_settled_as_it_grows(layers):
    with opscope.trace(layers=layers) as trace:
        x = torch.zeros(2)
        for _ in range(FIRST + 10):
            x = x + 1
    assert trace._block.session.tables.op_count >= FIRST
    assert len(trace.ops) == FIRST + 11
    assert all(a.outputs[0] == b.reads[0].value for a, b in pairwise(trace.ops))


def test_what_is_not_settled_keeps_no_tensor_alive(layers):
    built = zoo.build("resnet18")
    gc.collect()
    watching = opscope.trace(built.module, layers=layers)
    with witness.Mortality() as seen, torch.no_grad(), watching as trace:
        built.run()
    assert trace._block.session.tables.op_count == 0
    assert seen.survivors() == []


def test_the_model_is_let_go_of_before_the_trace_is_read():
    model = nn.Linear(2, 2)
    gone = weakref.ref(model)
    with opscope.trace(model) as trace:
        model(torch.ones(2))
    del model
    assert gone() is None
    assert [parameter.name for parameter in trace.parameters] == ["weight", "bias"]
    assert [parameter.shape for parameter in trace.parameters] == [(2, 2), (2,)]


def test_several_threads_may_read_a_trace_first():
    with opscope.trace() as trace:
        x = torch.zeros(2)
        for _ in range(2000):
            x = x + 1
    seen, start = [], threading.Barrier(4)

    def read():
        start.wait()
        seen.append(len(trace.ops))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2001] * 4


def test_the_garbage_collector_visits_two_objects_an_op(layers):
    model = nn.Sequential(nn.Flatten(0), nn.Hardtanh())

    def visited(ops):
        gc.collect()
        before = len(gc.get_objects())
        with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
            x = torch.zeros(2, 3)
            for _ in range(ops // 4):
                x = model(x.view(3, 2) + 1)
        for generation in (0, 1):  # what holds nothing that is visited is found out
            gc.collect(generation)
        assert trace._block.session.tables.op_count == 0
        assert trace._block.session.tables.log.op_count == ops + 1
        return len(gc.get_objects()) - before

    gc.disable()
    try:
        visited(4)
        # Its weak reference and that to its storage, of which views have none of their own.
        assert (visited(1204) - visited(4)) / 1200 <= 2
    finally:
        gc.enable()
