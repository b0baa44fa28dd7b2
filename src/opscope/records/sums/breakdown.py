"""What ops took and did, added up by operator, layer, line of code, module, its class or phase."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from opscope.records.columns.columns import Column
from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.sums.work import UNKNOWN, OpWork, Traffic, Work
from opscope.waiting import Track, untracked

By = Literal["operator", "layer", "line", "class", "module", "phase"]
BY: tuple[By, ...] = ("operator", "layer", "line", "class", "module", "phase")

_NANO = 1e9


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do at most.

    Attributes:
        peak_flops: Floating-point operations per second, of the type that is computed with.
        bandwidth: Bytes of its memory that it can read or write per second.
    """

    peak_flops: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time in which a device could run some ops: the roofline model.

    Attributes:
        kind: ``"compute"`` if most of it is that of ops which wait for arithmetic, ``"memory"`` if
            for bytes. Views, which do neither, are in none.
        least_ns: Nanoseconds: for each op the longer of the two.
        reached: Which part of the time that the ops took it is: 1 where they could not be quicker.
    """

    kind: Literal["compute", "memory"]
    least_ns: float
    reached: float


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the ops of a program together.

    Attributes:
        name: What they share.
        calls: How many they are; none for a module that only calls others.
        time_ns: How long they took, see `Op.duration_ns`: neither what Python does between ops nor
            what the trace costs is in it.
        work: What they compute.
        read: Bytes of memory that they read, see `opscope.records.sums.work.Traffic`.
        given: Bytes of the memory that they filled: a view fills none.
        total_ns: The same as ``time_ns`` with what ran below: in modules that the module called (of a
            class: that modules of it called), in lines that the line called.
        backward_ns: How much of ``time_ns`` was in backward.
        bound: What they wait for, where it is known what the device can do.
    """

    name: str
    calls: int
    time_ns: int
    work: Work
    read: int
    given: int
    total_ns: int = 0
    backward_ns: int = 0
    bound: Bound | None = None

    @property
    def intensity(self) -> float:
        """FLOPs for each byte read or given: what is low waits for memory."""
        return self.work.flops / ((self.read + self.given) or 1)


class _Sum:
    """A `Share` while ops are added to it."""

    __slots__ = (
        "backward_ns", "calls", "compute_ns", "elements", "flops", "given", "memory_ns", "read",
        "time_ns", "total_ns", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls = self.time_ns = self.flops = self.elements = self.unknown = 0
        self.read = self.given = self.total_ns = self.backward_ns = 0
        self.compute_ns = self.memory_ns = 0.0

    def add(self, other: _Sum) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def share(self, name: str, limits: Limits | None) -> Share:
        work = Work(self.flops, self.elements, self.unknown)
        least = self.compute_ns + self.memory_ns
        bound = None
        if limits is not None and least:
            kind: Any = "compute" if self.compute_ns >= self.memory_ns else "memory"
            bound = Bound(kind, least, least / (self.time_ns or 1))
        return Share(
            name, self.calls, self.time_ns, work, self.read, self.given, self.total_ns,
            self.backward_ns, bound,
        )  # fmt: skip


def breakdown(
    recording: Recording,
    passes: Sequence[LayerPass],
    work: OpWork,
    by: By,
    phase: str = "all",
    limits: Limits | None = None,
    track: Track = untracked,
) -> list[Share]:
    """Return the ops of a phase added up, those that took longest first.

    Args:
        recording: What happened.
        passes: The layers' passes.
        work: What each op computes.
        by: What those that are added up share. Ops of the backward have the layer, line, module
            and class of what they ran for.
        phase: Which part of a training step.
        limits: What the device can do at most, if it is to be said what ops wait for.
        track: Tracks the loop over all ops.
    """
    groups, names_of = _groups(recording, passes, by)
    sums: dict[Name, _Sum] = {}
    for group, found in _by_group(recording, work, groups, phase, limits, track).items():
        for place, name in enumerate(names_of(group)):
            total = sums.setdefault(name, _Sum())
            if place == 0:
                total.add(found)
            total.total_ns += found.time_ns
    shares = (found.share(str(name), limits) for name, found in sums.items())
    return sorted(shares, key=lambda share: (-share.time_ns, -share.total_ns))


def _by_group(
    recording: Recording,
    work: OpWork,
    groups: Column[Any],
    phase: str,
    limits: Limits | None,
    track: Track,
) -> dict[Hashable, _Sum]:
    """Return the ops of a phase added up by the group of each."""
    ops = recording.ops
    traffic = Traffic(recording)
    names = ("phase", "duration_ns", "operator", "outputs", "writes", "reads")
    columns = [column(ops, name) for name in names]
    every = track(range(len(ops)))
    rows = zip(every, groups, *columns, work.flops, work.elements, strict=True)
    per_flop = 0.0 if limits is None else _NANO / limits.peak_flops
    per_byte = 0.0 if limits is None else _NANO / limits.bandwidth
    sums: dict[Hashable, _Sum] = {}
    for _, group, part, took, *moved, flops, elements in rows:
        if phase not in ("all", part):
            continue
        found = sums.get(group)
        if found is None:
            found = sums[group] = _Sum()
        found.calls += 1
        found.time_ns += took
        found.unknown += flops == UNKNOWN
        found.flops += max(flops, 0)
        found.elements += elements
        if part == "backward":
            found.backward_ns += took
        read, given = traffic.of(*moved)
        found.read += read
        found.given += given
        if limits is not None:
            compute, memory = max(flops, 0) * per_flop, (read + given) * per_byte
            if compute > memory:
                found.compute_ns += compute
            else:
                found.memory_ns += memory
    return sums


@dataclass(frozen=True, slots=True)
class _Model:
    """The model itself, named after its class, as which a module of it may be called too."""

    class_name: str

    def __str__(self) -> str:
        return self.class_name


Name = str | _Model
Names = Callable[[Hashable], Sequence[Name]]


def _groups(recording: Recording, passes: Sequence[LayerPass], by: By) -> tuple[Column[Any], Names]:
    """Return the group of each op, and what gives the names of a group.

    The first name is what its ops share, the others what these ran below.
    """
    ops = recording.ops
    if by in ("operator", "phase"):
        return column(ops, by), lambda group: (str(group),)
    if by == "layer":
        labels = {p.call: p.layer_label for p in passes if p.call is not None}
        return list(_calls(recording)), lambda call: (labels.get(cast("int", call), ""),)
    if by == "line":
        return list(_sites(recording)), lambda site: _lines(recording, site)
    return column(ops, "module_call"), lambda run: _around(recording, run, by)


def _calls(recording: Recording) -> Iterator[int | None]:
    """Yield the layer call of each op; in backward, the one that it belongs to."""
    calls = column(recording.ops, "layer_call")
    for call, forward in zip(calls, column(recording.ops, "forward_op"), strict=True):
        yield call if forward is None else calls[forward]


def _sites(recording: Recording) -> Iterator[int | None]:
    """Yield the call site of each op; in backward, that of what it belongs to."""
    of_calls = column(recording.layer_calls, "call_site")
    for site, call in zip(column(recording.ops, "call_site"), _calls(recording), strict=True):
        yield of_calls[call] if site is None and call is not None else site


def _lines(recording: Recording, site: Hashable) -> Sequence[str]:
    """Return the lines of code of a call site, the innermost first, each once."""
    frames = recording.call_sites[site] if isinstance(site, int) else ()
    return tuple(dict.fromkeys(map(str, frames))) or ("",)


def _around(recording: Recording, run: Hashable, by: By) -> Sequence[Name]:
    """Return the modules that were running, or their classes, the innermost first, each once."""
    names: dict[Name, None] = {}
    while isinstance(run, int):
        call = recording.module_calls[run]
        module = recording.modules[call.module]
        own = module.address or _Model(module.class_name)
        names[module.class_name if by == "class" else own] = None
        run = call.parent
    return tuple(names) or ("",)
