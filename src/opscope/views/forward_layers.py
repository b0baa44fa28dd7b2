"""Which layers of a forward read what others gave, without the graph of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from opscope.graph.build import OpGraph
from opscope.graph.dataflow import Reader, dependencies
from opscope.graph.memory import Dependency
from opscope.graph.skeleton import is_meant, with_numbers_made
from opscope.records.columns import NONE, Column
from opscope.records.layers import LayerPass
from opscope.records.recording import Recording
from opscope.records.stand_ins import stand_ins
from opscope.records.table import column


def branches(ops: OpGraph) -> bool:
    """Whether several layers of the forward use what one of them gave."""
    recording = with_numbers_made(ops.recording)
    layers, copies = _Layers(recording, ops.passes), stand_ins(recording)
    # By layer, the one that uses what it gave.
    user = array("i", [NONE]) * len(ops.passes)
    for reader, found in dependencies(recording):
        target = layers.of_reader(reader)
        if target == NONE:
            continue
        used = _without_copies(recording, copies, reader, found) if copies else found
        for dependency in used:
            source = layers.of_value(dependency.source)
            if source in (NONE, target) or dependency.kind == "overwrite":
                continue
            if user[source] not in (NONE, target):
                return True
            user[source] = target
    return False


def _without_copies(
    recording: Recording, copies: dict[int, int], reader: Reader, found: Sequence[Dependency]
) -> Iterator[Dependency]:
    """Yield dependencies but for those on ops that copied a parameter, which is what is meant."""
    makers = {
        recording.values[dependency.source].made_by
        for dependency in found
        if is_meant(recording, copies, dependency, reader)
    }
    for dependency in found:
        if not makers or recording.values[dependency.source].made_by not in makers:
            yield dependency


class _Layers:
    """The layer passes of the forward that values and readers are of, `NONE` for none."""

    def __init__(self, recording: Recording, passes: tuple[LayerPass, ...]) -> None:
        calls = column(passes, "call")
        self._of_call = array("i", [NONE]) * len(recording.layer_calls)
        without_call = []
        for at, call in enumerate(calls):
            if call is None:
                without_call.append(passes[at])
            else:
                self._of_call[call] = at
        self._inputs = {i.values[0]: i.index for i in without_call if i.kind == "input"}
        self._outputs = {i.values[0]: i.index for i in without_call if i.kind == "output"}
        self._of_op = self._ops(recording)
        self._makers: Column[int | None] = column(recording.values, "made_by")
        self._of_handed = self._handed(recording)

    def of_reader(self, reader: Reader) -> int:
        """Return that of one that reads."""
        if reader.kind == "op":
            return self._of_op[reader.number]
        if reader.kind == "call":
            return self._of_call[reader.number]
        return self._outputs.get(reader.number, NONE)

    def of_value(self, value: int) -> int:
        """Return that of what a value comes from."""
        handed = self._of_handed.get(value)
        if handed is not None:
            return handed
        maker = self._makers[value]
        return self._inputs.get(value, NONE) if maker is None else self._of_op[maker]

    def _ops(self, recording: Recording) -> array[int]:
        """Return the layer of each op, which in a forward may belong to another op's call."""
        names = ("layer_call", "forward_op", "phase")
        calls = column(recording.ops, "layer_call")
        rows = zip(*[column(recording.ops, name) for name in names], strict=True)
        found = array("i")
        for call, behind, phase in rows:
            known = call if behind is None else calls[behind]
            found.append(NONE if known is None or phase != "forward" else self._of_call[known])
        return found

    def _handed(self, recording: Recording) -> dict[int, int]:
        """Return the layer of each value that a call handed on; other phases than it are none."""
        names = ("ops", "returned", "kind", "phase")
        rows = zip(*[column(recording.layer_calls, name) for name in names], strict=True)
        found: dict[int, int] = {}
        for call, (ops, returned, kind, phase) in enumerate(rows):
            if ops:
                continue
            if phase != "forward" and kind not in ("input", "output"):
                self._of_call[call] = NONE
            found.update(dict.fromkeys(returned, self._of_call[call]))
        return found
