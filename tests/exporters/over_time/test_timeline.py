"""Timelines are well-formed: each span lies in what it ran in, and all ops are there."""

import json

import pytest
import torch
from hypothesis import given
from tests.builders import RECORDINGS, Exhibit
from tests.strategies import recordings
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.exporters.over_time.timeline import chrome_trace, spans, speedscope


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    with opscope.trace(model, memory=True) as trace:
        for _ in range(2):
            model(torch.ones(3, 4)).sum().backward()
    return trace


def check(found):
    """Each span lies in those around it, and begins no earlier than the one before."""
    around = []
    for span in found:
        while around and around[-1].end <= span.start:
            around.pop()
        assert span.start <= span.end
        if around:
            assert around[-1].start <= span.start
            assert span.end <= around[-1].end
        around.append(span)


def test_ops_lie_in_layers_and_these_in_modules(trace):
    found = spans(trace.recording, trace.passes)
    check(found)

    assert sum(span.kind == "op" for span in found) == len(trace.ops)
    assert sum(span.kind == "module" for span in found) == len(trace.recording.module_calls)
    names = [span.name for span in found]
    assert "Sequential" in names
    assert "1.1 Linear" in names
    assert "aten.addmm.default" in names
    by_name = {span.name: span for span in found}
    module, op = by_name["1.0 ReLU"], by_name["aten.relu.default"]
    assert module.start <= op.start
    assert op.end <= module.end


@given(recordings())
def test_spans_of_any_recording_are_nested(recording):
    check(spans(recording, Exhibit(recording).passes))


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_kind_of_recording_has_both_forms(name):
    exhibit = Exhibit(RECORDINGS[name]())
    for make in (chrome_trace, speedscope):
        json.dumps(make(exhibit.recording, exhibit.passes))


def test_what_perfetto_opens_has_spans_and_a_counter_of_memory(trace, tmp_path):
    path = trace.timeline(tmp_path / "run.json")
    events = json.loads(path.read_text())["traceEvents"]
    kinds = {event["ph"] for event in events}

    assert kinds == {"M", "X", "C"}
    counters = [event for event in events if event["ph"] == "C"]
    assert len(counters) == len(trace.ops)
    assert max(sum(event["args"].values()) for event in counters) == trace.memory.peak
    spans_ = [event for event in events if event["ph"] == "X"]
    assert {event["cat"] for event in spans_} == {"module", "layer", "op"}
    assert all(event["dur"] >= 0 for event in spans_)


def test_what_speedscope_opens_is_closed_in_order(trace, tmp_path):
    path = trace.timeline(tmp_path / "run.speedscope.json")
    found = json.loads(path.read_text())
    profile, frames = found["profiles"][0], found["shared"]["frames"]
    stack, last = [], 0
    for event in profile["events"]:
        assert event["at"] >= last
        last = event["at"]
        if event["type"] == "O":
            stack.append(event["frame"])
        else:
            assert stack.pop() == event["frame"]
    assert not stack
    assert last <= profile["endValue"]
    assert {"Sequential", "aten.addmm.default"} <= {frame["name"] for frame in frames}


@pytest.mark.parametrize("path", ["run.txt", "run", "nowhere/run.json", ""])
def test_a_place_or_format_that_cannot_be_is_refused(trace, tmp_path, path):
    with pytest.raises(OptionError):
        trace.timeline(tmp_path / path)


def test_a_trace_without_memory_has_a_timeline_without_it(tmp_path):
    with opscope.trace() as trace:
        torch.ones(2)
    path = trace.timeline(tmp_path / "run.json")
    assert '"C"' not in path.read_text()
