"""Events have schemas: who writes one and who reads it go by the same fields."""

import inspect

import pytest
import torch

import opscope
from opscope.capture.log.event_log import Log
from opscope.capture.log.events import KINDS, WIDTHS, Call
from opscope.capture.tables.handlers import HANDLERS


def test_there_is_a_handler_for_each_kind_and_no_other():
    assert list(HANDLERS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_handler_takes_the_fields_of_its_kind(kind):
    handle, width = HANDLERS[kind]
    _, *taken = inspect.signature(handle).parameters.values()
    is_any = [p.kind is p.VAR_POSITIONAL for p in taken] == [True]
    assert is_any or len(taken) == len(kind._fields)
    assert width == WIDTHS[kind] == 2 + len(kind._fields)


def test_the_quick_writer_of_calls_writes_the_same_as_the_slow_one():
    quick, slow = Log(), Log()
    quick.run = slow.run = 3
    given = {name: object() for name in Call._fields if name != "run"}
    quick.write_call(**given)
    slow.write(Call(run=3, **given))
    assert quick.events == slow.events
    assert len(quick.events) == WIDTHS[Call]


def test_what_a_program_writes_is_whole_events_one_after_the_other(layers):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    with opscope.trace(model, layers=layers, save="all") as trace:
        with torch.no_grad():
            model(torch.ones(1, 2)).tolist()
        log = trace._block.session.tables.log
        at, found = 0, []
        while at < len(log.events):
            found.append(log.events[at])
            assert log.events[at + 1] <= log.op_count
            at += WIDTHS[log.events[at]]
        assert at == len(log.events)
    names = {kind.__name__ for kind in found}
    assert names >= {"GradMode", "Seen", "Enter", "Leave"}
    assert ("Call" in names) == layers
