"""What a replay found."""

from __future__ import annotations

from dataclasses import dataclass

from opscope import notation
from opscope.notation import encodable, foreign, sentence


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value that a replay did not reproduce.

    Attributes:
        op: Index of the op that made it.
        operator: Its operator.
        layer: Label of the layer it ran for.
        module: Address of the module it ran in.
        source: File and line.
        reason: What was wrong with it.
    """

    op: int
    operator: str
    layer: str | None
    module: str | None
    source: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay found.

    ``bool(report)`` says whether every value that can be compared was reproduced.

    Attributes:
        ops: Ops that ran again.
        compared: Values that were compared and equal, bit for bit.
        uninitialised: Values that cannot be compared: memory that nothing was written to
            yet (``aten.empty`` and its kin), and the scratch memory of oneDNN's LSTM.
        lost: Values that cannot be compared since their memory was freed, or written to after
            the block.
        outputs: Of the values compared, those that the model returned, or the program gave.
        difference: The first value that was not reproduced, None if all were.
        refused: Why the record cannot be replayed, None if it can.
    """

    ops: int
    compared: int
    uninitialised: int = 0
    lost: int = 0
    outputs: int = 0
    difference: Difference | None = None
    refused: str | None = None

    def __bool__(self) -> bool:
        return self.difference is None and self.refused is None

    def __str__(self) -> str:
        if self.refused is not None:
            return encodable(f"not replayed: {sentence(self.refused)}")
        done = f"{notation.plural(self.ops, 'op')} replayed"
        if self.difference is None:
            return (
                f"valid: {done}, {notation.plural(self.compared, 'value')} equal bit for bit, "
                f"{notation.plural(self.outputs, 'output')} among them"
                + (
                    f"; {self.lost:,} overwritten after the block, not compared"
                    if self.lost
                    else ""
                )
            )
        found = self.difference
        where = [f"op {found.op}, {foreign(found.operator)}"]
        where += [f"layer {foreign(found.layer)}"] if found.layer else []
        where += [f"module {foreign(found.module)}"] if found.module else []
        where += [f"at {foreign(found.source)}"] if found.source else []
        reason = sentence(found.reason)
        return encodable(f"not valid: {reason}\n    in {', '.join(where)}\n    after {done}")
