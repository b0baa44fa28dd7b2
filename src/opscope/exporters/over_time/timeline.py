"""The run as a timeline: for Perfetto and Chrome, or for speedscope."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from opscope.exporters.files import check_place, write_whole
from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.sums.memory import Memory
from opscope.records.values import Value

SPEEDSCOPE = "https://www.speedscope.app/file-format-schema.json"


class Span(NamedTuple):
    """A stretch of time in which something ran.

    Attributes:
        start: When it began, in nanoseconds since the trace did.
        end: When it ended.
        rank: How far out it is: a module 0, a layer 1, an op 2.
        name: What it is.
        kind: ``"module"``, ``"layer"`` or ``"op"``.
        place: Its place in the recording.
    """

    start: int
    end: int
    rank: int
    name: str
    kind: str
    place: int


def spans(recording: Recording, passes: Sequence[LayerPass]) -> list[Span]:
    """Return what ran, each inside what it ran in, in the order of beginning."""
    found = [
        Span(run.started_ns, run.started_ns + run.duration_ns, 0, name, "module", run.index)
        for run in recording.module_calls
        if (name := _module(recording, run.module))
    ]
    labels = {item.call: item.label for item in passes}
    found += [
        Span(start, start + took, 1, labels.get(index, ""), "layer", index)
        for index, (start, took, kind) in _columns(recording.layer_calls, "kind")
        if kind == "function"
    ]
    found += [
        Span(start, start + took, 2, operator, "op", index)
        for index, (start, took, operator) in _columns(recording.ops, "operator")
    ]
    found.sort(key=lambda span: (span.start, span.rank, -span.end))
    return list(_nested(found))


def chrome_trace(
    recording: Recording,
    passes: Sequence[LayerPass],
    memory: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Return the run in Chrome's trace format, which https://ui.perfetto.dev opens.

    Args:
        recording: What happened.
        passes: The layers' passes.
        memory: By category, bytes after each op, for a counter of memory.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": recording.model_name or "program"}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "modules, layers, ops"}},
    ]  # fmt: skip
    events += [
        {
            "ph": "X", "pid": 1, "tid": 1, "ts": span.start / 1000,
            "dur": (span.end - span.start) / 1000, "name": span.name, "cat": span.kind,
            "args": _details(recording, span),
        }
        for span in spans(recording, passes)
    ]  # fmt: skip
    curves = {name: curve for name, curve in (memory or {}).items() if any(curve)}
    ops = recording.ops
    ends = map(sum, zip(column(ops, "started_ns"), column(ops, "duration_ns"), strict=True))
    for at, end in enumerate(ends if curves else ()):
        sizes = {name: curve[at] for name, curve in curves.items()}
        events.append({"ph": "C", "pid": 1, "ts": end / 1000, "name": "memory", "args": sizes})
    return {"displayTimeUnit": "ms", "traceEvents": events}


def speedscope(recording: Recording, passes: Sequence[LayerPass]) -> dict[str, Any]:
    """Return the run as an evented profile of https://www.speedscope.app."""
    frames: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    running: list[tuple[int, int]] = []  # when each ends, and its frame

    def close(until: int) -> None:
        while running and running[-1][0] <= until:
            end, frame = running.pop()
            events.append({"type": "C", "at": end, "frame": frame})

    found = spans(recording, passes)
    for span in found:
        close(span.start)
        frame = frames.setdefault(span.name, len(frames))
        events.append({"type": "O", "at": span.start, "frame": frame})
        running.append((span.end, frame))
    last = max((span.end for span in found), default=0)
    close(last)
    name = recording.model_name or "program"
    return {
        "$schema": SPEEDSCOPE,
        "name": name,
        "exporter": "opscope",
        "shared": {"frames": [{"name": frame} for frame in frames]},
        "profiles": [{
            "type": "evented", "name": name, "unit": "nanoseconds", "startValue": 0,
            "endValue": last, "events": events,
        }],
    }  # fmt: skip


def write_timeline(
    recording: Recording, passes: Sequence[LayerPass], path: str | PathLike[str]
) -> Path:
    """Write the run as JSON and return the path.

    ``.speedscope.json`` is for https://www.speedscope.app, any other ``.json`` is in Chrome's format,
    for https://ui.perfetto.dev, with the memory of the CPU, or of the first other device, if it was
    noted.

    Raises:
        OptionError: For another suffix, or a place that cannot be written to.
    """
    place = check_place(path, (".json",))
    if place.name.lower().endswith(".speedscope.json"):
        data = speedscope(recording, passes)
    else:
        devices = sorted({life.device for life in recording.storages or ()}, key=_cpu_last)
        memory = Memory(recording, passes, devices[0]).by_category() if devices else None
        named = None if memory is None else {str(name): curve for name, curve in memory.items()}
        data = chrome_trace(recording, passes, named)
    write_whole(place, json.dumps(data, ensure_ascii=True).encode())
    return place


def _cpu_last(device: str) -> tuple[bool, str]:
    return device == "cpu", device


def _columns(records: Sequence[Any], name: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield when each record began, how long it took, and one field more."""
    names = ("started_ns", "duration_ns", name)
    return enumerate(zip(*(column(records, one) for one in names), strict=True))


def _nested(found: Sequence[Span]) -> Iterator[Span]:
    """Yield spans so that each lies in those around it, however clocks were read."""
    around: list[int] = []
    for span in found:
        while around and around[-1] <= span.start:
            around.pop()
        end = min(span.end, around[-1]) if around else span.end
        end = max(end, span.start)
        yield span._replace(end=end)
        around.append(end)


def _module(recording: Recording, number: int) -> str:
    module = recording.modules[number]
    return f"{module.address} {module.class_name}" if module.address else module.class_name


def _details(recording: Recording, span: Span) -> dict[str, Any]:
    values = recording.values
    if span.kind == "op":
        op = recording.ops[span.place]
        outputs = [value for value in (op.outputs or op.writes) if value is not None]
        frames = recording.frames_of(op)
        return {
            "op": op.index, "phase": op.phase, "output": [_tensor(values[v]) for v in outputs],
            "source": str(frames[0]) if frames else "",
        }  # fmt: skip
    if span.kind == "layer":
        call = recording.layer_calls[span.place]
        return {"function": call.function, "output": [_tensor(values[v]) for v in call.returned]}
    run = recording.module_calls[span.place]
    return {"run": run.number, "output": [_tensor(values[leaf.value]) for leaf in run.outputs]}


def _tensor(value: Value) -> str:
    return f"{value.dtype}{list(value.shape)}"
