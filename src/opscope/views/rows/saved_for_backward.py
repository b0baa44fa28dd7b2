"""What autograd keeps for the backward, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording, SavedTensor

Kind = Literal["activation", "parameter", "outside", "packed"]


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """One tensor that one layer keeps until its backward.

    Attributes:
        layer: Label of the layer whose autograd node keeps it, None where that is not known.
        module: Address of the module in which that layer ran.
        node: Class name of the node.
        name: What the node calls it: ``"input"``, ``"weight"``, ``"result"``.
        kind: ``"activation"`` (computed in the block), ``"parameter"`` (buffers too),
            ``"outside"`` (any other that was there before) or ``"packed"`` (a hook, such as a
            checkpoint's, keeps something in its stead).
        made_by: Label of the layer, or name of the parameter, whose memory it is.
        shape: Sizes in elements.
        dtype: The element type's name.
        nbytes: Bytes of the memory that stays because of it.
        shared: Whether a tensor before it in the list keeps the same memory.
    """

    layer: str | None
    module: str
    node: str
    name: str
    kind: Kind
    made_by: str | None
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    shared: bool

    @property
    def extra_bytes(self) -> int:
        """Bytes that would be free without it: none of a parameter's, nor of shared memory."""
        return 0 if self.shared or self.kind == "parameter" else self.nbytes


def kept_tensors(recording: Recording, passes: Sequence[LayerPass]) -> list[KeptTensor]:
    """Return every tensor that autograd keeps, the largest first, parameters last."""
    giver = {value: item for item in reversed(passes) for value in item.values}
    calls = {item.call: item for item in passes if item.call is not None}
    seen: set[int] = set()
    result = []
    for saved in (
        recording.saved_tensors or ()
    ):  # in the order of the forward, to tell who was first
        owner = giver.get(saved.owner)
        run = None if owner is None or owner.module_call is None else owner.module_call
        kind, made_by = _origin(recording, saved, calls)
        result.append(
            KeptTensor(
                layer=None if owner is None else owner.label,
                module="" if run is None else _address(recording, run),
                node=saved.node,
                name=saved.name,
                kind=kind,
                made_by=made_by,
                shape=saved.shape,
                dtype=saved.dtype,
                nbytes=saved.nbytes,
                shared=saved.storage in seen,
            )
        )
        if saved.storage is not None:
            seen.add(saved.storage)
    return sorted(
        result, key=lambda kept: (kept.kind == "parameter", -kept.extra_bytes, -kept.nbytes)
    )


def _address(recording: Recording, run: int) -> str:
    return recording.modules[recording.module_calls[run].module].address


def _origin(
    recording: Recording, saved: SavedTensor, calls: dict[int, LayerPass]
) -> tuple[Kind, str | None]:
    if saved.packed:
        return "packed", None
    if saved.parameter is not None:
        return "parameter", recording.parameters[saved.parameter].name
    if saved.maker is None:
        return "activation", None  # scratch memory of an op
    maker = recording.values[saved.maker].made_by
    if maker is None:
        return "outside", None
    call = recording.call_of(recording.ops[maker])
    return "activation", calls[call].label if call in calls else None
