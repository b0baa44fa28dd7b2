"""The memory of a trace, as its user sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opscope import notation
from opscope.errors import NotSaved, OptionError, check_choice
from opscope.exporters.tables.fit.fitted import Fitted, Printed
from opscope.exporters.tables.fit.fitting import wrapped
from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.sums.memory import CATEGORIES, Category, Held, Memory

if TYPE_CHECKING:
    from rich.text import Text

    from opscope.exporters.tables.fit.writer import Writer

_ROWS = 20


class MemoryUse(Printed):
    """The memory of tensors after each op, on one device; it prints what there is at the peak.

    Counted is what torch allocates for tensors that an op gives, or that were there before and
    are used, from their allocation to the moment when nobody has them: views and what is written in
    place are nothing new. What an op takes and gives back within itself is not seen.

    Attributes:
        device: The device.

    >>> import torch, opscope
    >>> model, x = torch.nn.Linear(256, 256), torch.ones(64, 256)
    >>> with opscope.trace(model, memory=True) as trace:
    ...     model(x).relu().sum().backward()
    >>> memory = trace.memory
    >>> memory.peak, memory.layer, memory.phase
    (657416, 'linear_1_1', 'backward')
    >>> memory.by_category()
    {'parameters': 263168, 'gradients': 263168, 'activations': 65536, 'temporaries': 65544}
    """

    def __init__(self, memory: Memory, devices: Sequence[str]) -> None:
        self._memory = memory
        self._devices = tuple(devices)
        self.device = memory.device

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that there was memory on, that with the highest peak first."""
        return self._devices

    def on(self, device: str) -> MemoryUse:
        """Return the same of another device.

        Raises:
            OptionError: If there was no memory on it; lists those on which there was.
        """
        check_choice("device", device, self._devices)
        recording, passes = self._memory.recording, self._memory.passes
        return MemoryUse(Memory(recording, passes, device), self._devices)

    # ---------------------------------------------------------------------------- the peak

    @cached_property
    def peak(self) -> int:
        """The most bytes that there were at the end of an op."""
        return max([self._memory.before, *self._memory.live])

    @property
    def op(self) -> int | None:
        """Index of the op at whose end there was most; None if there was before all of them."""
        return self._memory.peak_op

    @property
    def layer(self) -> str | None:
        """Label of the layer that this op ran in, or in backward for."""
        return None if self.op is None else self._memory.label_of(self.op)

    @property
    def module(self) -> str | None:
        """Address of the module that it ran in, or in backward for."""
        return None if self.op is None else self._memory.module_of(self.op)

    @property
    def phase(self) -> str | None:
        """Which part of a training step it is in."""
        return None if self.op is None else self._memory.recording.ops[self.op].phase

    @property
    def source(self) -> str:
        """The line of code that it ran for, empty where there is none."""
        return "" if self.op is None else self._memory.source_of(self.op)

    # ------------------------------------------------------------------------ any moment

    @property
    def live(self) -> Sequence[int]:
        """Bytes at the end of each op."""
        return self._memory.live

    @property
    def before(self) -> int:
        """Bytes that were there before the first op."""
        return self._memory.before

    def held(self, op: int | None = None) -> list[Held]:
        """Return what is there at the end of an op, by default at the peak, the largest first.

        Raises:
            OptionError: If there is no op of this index.
        """
        return self._memory.held(self._moment(op))

    def by_category(self, op: int | None = None) -> dict[Category, int]:
        """Return bytes by category at the end of an op, by default at the peak."""
        sums = self._sums(self._moment(op), "category")
        return {name: sums[name] for name in CATEGORIES if sums.get(name)}

    def by_layer(self, op: int | None = None) -> dict[str, int]:
        """Return bytes by what made them, a layer or a parameter's name, the largest first."""
        return self._sums(self._moment(op), "name")

    def by_module(self, op: int | None = None) -> dict[str, int]:
        """Return bytes by the address of the module in which they were made."""
        return self._sums(self._moment(op), "module")

    def by_line(self, op: int | None = None) -> dict[str, int]:
        """Return bytes by the line of code that made them; empty for what was there before."""
        return self._sums(self._moment(op), "source")

    def by_phase(self) -> dict[str, int]:
        """Return the most bytes in each part of a training step."""
        found: dict[str, int] = {}
        phases = column(self._memory.recording.ops, "phase")
        for phase, nbytes in zip(phases, self.live, strict=True):
            found[phase] = max(nbytes, found.get(phase, 0))
        return found

    def _moment(self, op: int | None) -> int | None:
        if op is None:
            return self.op
        count = len(self.live)
        if type(op) is not int or not -count <= op < count:
            message = (
                f"op: {op!r} (must be the index of one of {count:,} ops, or None for the peak)"
            )
            raise OptionError(message)
        return op % count

    def _sums(self, op: int | None, field: str) -> dict[str, int]:
        sums: dict[str, int] = {}
        for one in self._memory.held(op):
            name = getattr(one, field)
            sums[name] = sums.get(name, 0) + one.nbytes
        return dict(sorted(sums.items(), key=lambda entry: -entry[1]))

    # ------------------------------------------------------------------------ how it is shown

    def said(self) -> str:
        """Return the peak in a few words."""
        when = f" in {self.phase}" if self.phase else ""
        where = f", at {self._near}" if self._near else ""
        return f"{notation.size(self.peak)} at most on {self.device}{when}{where}"

    def draw(self, path: str | PathLike[str]) -> Path:
        """Write the curve of memory by category, its peak marked, as an SVG; return its path.

        Raises:
            OptionError: For another suffix, or a place that cannot be written to.
        """
        from opscope.exporters.files import check_place, write_whole
        from opscope.exporters.over_time.memory_curve import memory_svg

        place = check_place(path, (".svg",))
        text = memory_svg(
            {str(name): curve for name, curve in self._memory.by_category().items()},
            list(column(self._memory.recording.ops, "phase")),
            title=notation.foreign(self._title()),
            peak=f"peak {notation.size(self.peak)}",
        )
        write_whole(place, notation.encodable(text, "utf-8").encode())
        return place

    @property
    def _near(self) -> str:
        return " in ".join(filter(None, (self.layer, self.module)))

    def _title(self) -> str:
        return f"{self._memory.recording.model_name or 'program'}: memory on {self.device}"

    def _table(self, width: int, writer: Writer) -> Fitted:
        from opscope.exporters.tables.memory import memory_table

        title = f"{self._title()} at the peak, {notation.size(self.peak)}"
        return memory_table(self.held(), width, writer, title=title, row_limit=_ROWS)

    def _footer(self, width: int, writer: Writer) -> Text:
        from rich.text import Text

        where = "before the first op"
        if self.op is not None:
            op = self._memory.recording.ops[self.op]
            near = f" of {self._near}" if self._near else ""
            where = f"after op {self.op:,}, {op.name} ({op.phase}){near}"
        lines = {
            "peak": notation.foreign(where).split(),
            "made of": _listed(self.by_category()),
            "most in": _listed(self.by_phase()),
        }
        if self.source:
            lines["line"] = [notation.foreign(notation.file_name(self.source))]
        return Text("\n").join(
            wrapped(name, phrases, width, writer) for name, phrases in lines.items() if phrases
        )


def _listed(sizes: Mapping[Any, int]) -> list[str]:
    """Return sizes by name as phrases."""
    texts = [f"{name} {notation.size(size)}" for name, size in sizes.items()]
    return [*(f"{text}," for text in texts[:-1]), *texts[-1:]]


def memory_use(recording: Recording, passes: Sequence[LayerPass]) -> MemoryUse:
    """Return the memory of a recording on the device where there was most.

    Raises:
        NotSaved: If it was not noted.
    """
    if recording.storages is None:
        message = "memory was not noted; trace with opscope.trace(..., memory=True)"
        raise NotSaved(message)
    names = dict.fromkeys(column(recording.storages, "device")) or {"cpu": None}
    found = [Memory(recording, passes, name) for name in names]
    found.sort(key=lambda one: -max([one.before, *one.live]))
    return MemoryUse(found[0], [one.device for one in found])
