"""What ops took and did, added up by operator, line of code, module class, module or phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from opscope.records.columns.table import column, value_bytes
from opscope.records.recording import Recording
from opscope.records.sums.work import UNKNOWN, OpWork, Work

By = Literal["operator", "line", "class", "module", "phase"]
BY: tuple[By, ...] = ("operator", "line", "class", "module", "phase")


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the ops of a program together.

    Attributes:
        name: What they share.
        calls: How many they are.
        time_ns: How long they took, under the dispatch mode.
        work: What they compute.
        read: Bytes of the tensors that they were given, views aside.
        given: Bytes of the memory that they filled: a view fills none.
    """

    name: str
    calls: int
    time_ns: int
    work: Work
    read: int
    given: int

    @property
    def intensity(self) -> float:
        """FLOPs for each byte read or given: what is low waits for memory."""
        return self.work.flops / ((self.read + self.given) or 1)


class _Sum:
    """A `Share` while ops are added to it."""

    __slots__ = ("calls", "elements", "flops", "given", "read", "time_ns", "unknown")

    def __init__(self) -> None:
        self.calls = self.time_ns = self.flops = self.elements = self.unknown = 0
        self.read = self.given = 0

    def share(self, name: str) -> Share:
        work = Work(self.flops, self.elements, self.unknown)
        return Share(name, self.calls, self.time_ns, work, self.read, self.given)


def breakdown(recording: Recording, work: OpWork, by: By, phase: str = "all") -> list[Share]:
    """Return the ops of a phase added up, those that took longest first.

    Args:
        recording: What happened.
        work: What each op computes.
        by: What those that are added up share. Ops of the backward have the line, module and class
            of what they ran for.
        phase: Which part of a training step.
    """
    ops = recording.ops
    nbytes, origins = value_bytes(recording.values), column(recording.values, "origin")
    names = ("phase", "duration_ns", "outputs", "writes", "reads")
    rows = zip(_keys(recording, by), *(column(ops, name) for name in names), strict=True)
    sums: dict[str, _Sum] = {}
    for op, (key, part, took, outputs, writes, reads) in enumerate(rows):
        if phase not in ("all", part):
            continue
        found = sums.get(key)
        if found is None:
            found = sums[key] = _Sum()
        flops = work.flops[op]
        found.calls += 1
        found.time_ns += took
        found.unknown += flops == UNKNOWN
        found.flops += max(flops, 0)
        found.elements += work.elements[op]
        fresh = {v for v in outputs if v is not None and origins[v] == "fresh"}
        if fresh or writes or not outputs:  # a view reads nothing, and gives nothing new
            found.read += sum(nbytes[read.value] for read in reads if not read.overwritten)
        found.given += sum(nbytes[v] for v in fresh.union(writes))
    shares = (found.share(name) for name, found in sums.items())
    return sorted(shares, key=lambda share: -share.time_ns)


def _keys(recording: Recording, by: By) -> Iterator[str]:
    """Yield what each op is counted with."""
    ops = recording.ops
    if by in ("operator", "phase"):
        yield from column(ops, by)
    elif by == "line":
        for op in ops:
            frames = recording.frames_of(op)
            yield str(frames[0]) if frames else ""
    else:
        for run in column(ops, "module_call"):
            if run is None:
                yield ""
                continue
            module = recording.modules[recording.module_calls[run].module]
            yield module.class_name if by == "class" else module.address or module.class_name
