"""Which layers of a forward read what others gave, without the graph of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from opscope.graph.build import OpGraph
from opscope.graph.skeleton import OVERWRITE, Skeleton
from opscope.records.columns.columns import NONE
from opscope.records.columns.table import column
from opscope.records.passes.layers import LayerPass


def branches(ops: OpGraph) -> bool:
    """Whether several layers of the forward use what one of them gave."""
    skeleton = ops.skeleton
    layers = array("i", _layers(skeleton, ops.passes))
    # By layer, the one that uses what it gave.
    user = array("i", [NONE]) * len(ops.passes)
    start = 0
    for target, end in zip(layers, skeleton.ends, strict=True):
        for edge in range(start, end) if target != NONE else ():
            source = layers[skeleton.sources[edge]]
            if source in (NONE, target) or skeleton.edge_kinds[edge] == OVERWRITE:
                continue
            if edge in skeleton.stands_for:  # it is a parameter that flows there
                continue
            if user[source] not in (NONE, target):
                return True
            user[source] = target
        start = end
    return False


def _layers(skeleton: Skeleton, passes: Sequence[LayerPass]) -> Iterator[int]:
    """Yield, for each node, the layer pass of the forward that it is of, `NONE` for none."""
    recording = skeleton.recording
    of_call = array("i", [NONE]) * len(recording.layer_calls)
    bare: dict[tuple[str, int], int] = {}
    for at, call in enumerate(column(passes, "call")):
        if call is None:
            bare[passes[at].kind, passes[at].values[0]] = at
        else:
            of_call[call] = at
    calls, forward = column(recording.ops, "layer_call"), column(recording.ops, "forward_op")
    phases = column(recording.ops, "phase")
    call_phases = column(recording.layer_calls, "phase")
    call_kinds = column(recording.layer_calls, "kind")
    for kind, number in zip(skeleton.kinds(), skeleton.numbers, strict=True):
        layer = NONE
        if kind == "op" and phases[number] == "forward":
            behind = forward[number]
            call = calls[number if behind is None else behind]
            layer = NONE if call is None else of_call[call]
        elif kind == "call":
            is_border = call_kinds[number] in ("input", "output")
            layer = of_call[number] if is_border or call_phases[number] == "forward" else NONE
        elif kind in ("value", "end"):
            layer = bare.get(("input" if kind == "value" else "output", number), NONE)
        yield layer
