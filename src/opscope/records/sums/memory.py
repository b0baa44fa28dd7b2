"""How much memory there is after each op, of which kind, and whose it is."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.storages import StorageLife

Category = Literal[
    "parameters", "buffers", "optimizer", "gradients", "activations", "inputs", "temporaries"
]
CATEGORIES: tuple[Category, ...] = (
    "parameters", "buffers", "optimizer", "gradients", "activations", "inputs", "temporaries",
)  # fmt: skip
"""``"gradients"`` are those that parameters accumulate, ``"optimizer"`` is what an optimizer keeps
from step to step, ``"activations"`` what autograd keeps for the backward, ``"inputs"`` any other
that was there before, and ``"temporaries"`` the rest."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory that is there at some moment.

    Attributes:
        nbytes: Its size.
        category: What it is for, one of `CATEGORIES`.
        name: Label of the layer that made it, ``.backward`` added where it was made for it then;
            the parameter's or input's name; or the operator.
        module: Address of the module in which it was made.
        source: The line of code that made it, empty where none did.
        born: Index of the op that allocated it, None if it was there before.
        freed: The op as whose predecessor ended it was still there, None if it stays.
    """

    nbytes: int
    category: Category
    name: str
    module: str = ""
    source: str = ""
    born: int | None = None
    freed: int | None = None


class Memory:
    """The memory of tensors as it was after each op of a recording, on one device.

    Args:
        recording: What happened, `Recording.storages` among it.
        passes: The layers' passes.
        device: The device.
    """

    def __init__(self, recording: Recording, passes: Sequence[LayerPass], device: str) -> None:
        self.recording = recording
        self.device = device
        self.passes = passes
        self._lives = [life for life in recording.storages or () if life.device == device]

    @cached_property
    def categories(self) -> list[Category]:
        """What each storage of the device is for."""
        kinds = _Kinds(self.recording)
        return [kinds.of(life) for life in self._lives]

    @cached_property
    def before(self) -> int:
        """Bytes that were there before the first op."""
        return sum(life.nbytes for life in self._lives if life.born is None)

    @cached_property
    def live(self) -> Sequence[int]:
        """Bytes after each op."""
        return self._curve(self._lives)

    def by_category(self) -> dict[Category, Sequence[int]]:
        """Return the bytes after each op of each category."""
        found: dict[Category, list[StorageLife]] = {name: [] for name in CATEGORIES}
        for life, category in zip(self._lives, self.categories, strict=True):
            found[category].append(life)
        return {name: self._curve(lives) for name, lives in found.items()}

    @cached_property
    def peak_op(self) -> int | None:
        """The first op after which there was most, None if there was before all of them."""
        most = max(self.live, default=0)
        return None if most <= self.before else self.live.index(most)

    def held(self, op: int | None) -> list[Held]:
        """Return what is there after an op, the largest first; for None before the first."""
        found = [
            self._held(life, category)
            for life, category in zip(self._lives, self.categories, strict=True)
            if _is_there(life, op)
        ]
        return sorted(found, key=lambda one: -one.nbytes)

    def label_of(self, op: int) -> str | None:
        """Return the label of the layer that an op ran in, or in backward for."""
        return self._labels.get(self.recording.call_of(self.recording.ops[op]))

    def module_of(self, op: int) -> str | None:
        """Return the address of the module likewise."""
        run = self.recording.ops[op].module_call
        if run is None:
            return None
        return self.recording.modules[self.recording.module_calls[run].module].address

    def source_of(self, op: int) -> str:
        """Return the line of code likewise."""
        frames = self.recording.frames_of(self.recording.ops[op])
        return str(frames[0]) if frames else ""

    def _curve(self, lives: Iterable[StorageLife]) -> Sequence[int]:
        """Return the bytes of some storages after each op."""
        changes = array("q", bytes(8 * (len(self.recording.ops) + 1)))
        for life in lives:
            changes[life.born or 0] += life.nbytes
            if life.freed is not None:
                changes[min(life.freed, len(changes) - 1)] -= life.nbytes
        return array("q", accumulate(changes[:-1]))

    def _held(self, life: StorageLife, category: Category) -> Held:
        recording = self.recording
        module, source = "", ""
        if life.born is None:
            name = self._name_from_outside(life)
        else:
            op, label = recording.ops[life.born], self.label_of(life.born)
            name = op.name if label is None else label + ".backward" * (op.phase == "backward")
            module, source = self.module_of(life.born) or "", self.source_of(life.born)
        return Held(life.nbytes, category, name, module, source, life.born, life.freed)

    @cached_property
    def _labels(self) -> dict[int | None, str]:
        return {item.call: item.label for item in self.passes if item.call is not None}

    def _name_from_outside(self, life: StorageLife) -> str:
        parameters = self.recording.parameters
        if life.parameter is not None:
            return parameters[life.parameter].name + ".grad" * life.is_gradient
        return self._names.get(life.number, "")

    @cached_property
    def _names(self) -> dict[int | None, str]:
        """Names of the storages that were there before."""
        values, parameters = self.recording.values, self.recording.parameters
        found: dict[int | None, str] = {}
        for item in self.passes:
            for value in item.values if item.kind == "input" else ():
                found.setdefault(values[value].storage, item.label)
        for value, number in self.recording.parameter_of_value.items():
            found[values[value].storage] = parameters[number].name
        return found


class _Kinds:
    """Tells what storages are for."""

    def __init__(self, recording: Recording) -> None:
        values = recording.values
        self._parameters = recording.parameters
        self._storage = column(values, "storage")
        self._parameter_of = {
            self._storage[value]: number for value, number in recording.parameter_of_value.items()
        }
        self._saved = {item.storage for item in recording.saved_tensors or () if not item.packed}
        self._gradients, self._optimizer, self._ends = self._by_phase(recording)

    def of(self, life: StorageLife) -> Category:
        """Return the category of a storage."""
        if life.is_gradient:
            return "gradients"
        number = life.parameter if life.parameter is not None else self._of(life.number)
        if number is not None:
            return "parameters" if self._parameters[number].kind == "parameter" else "buffers"
        if life.number in self._gradients:
            return "gradients"
        if life.number in self._optimizer and self._outlives_its_step(life):
            return "optimizer"
        if life.number in self._saved:
            return "activations"
        return "inputs" if life.born is None else "temporaries"

    def _of(self, storage: int | None) -> int | None:
        return None if storage is None else self._parameter_of.get(storage)

    def _by_phase(self, recording: Recording) -> tuple[set[int | None], set[int | None], list[int]]:
        """Return the storages of gradients, those that optimizers wrote, and where steps end."""
        gradients: set[int | None] = set()
        written: set[int | None] = set()
        ends: list[int] = []
        names = ("phase", "accumulates", "outputs", "writes")
        rows = zip(*(column(recording.ops, name) for name in names), strict=True)
        before = ""
        for op, (phase, accumulates, outputs, writes) in enumerate(rows):
            if before == "optimizer" != phase:
                ends.append(op)
            before = phase
            if accumulates is None and phase != "optimizer":
                continue
            touched = {self._storage[value] for value in (*outputs, *writes) if value is not None}
            (gradients if accumulates is not None else written).update(touched)
        return gradients - {None}, written - {None}, ends

    def _outlives_its_step(self, life: StorageLife) -> bool:
        """Whether it was there before an optimizer's step, or stays after it."""
        if life.born is None or life.freed is None:
            return True
        return any(life.born < end <= life.freed - 1 for end in self._ends)


def _is_there(life: StorageLife, op: int | None) -> bool:
    if op is None:
        return life.born is None
    return (life.born is None or life.born <= op) and (life.freed is None or life.freed > op)
