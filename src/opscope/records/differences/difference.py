"""One thing in which two programs differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DifferenceKind = Literal[
    "parameter", "buffer", "input", "data", "function", "settings", "arguments", "random",
    "nonfinite", "shape", "dtype", "values", "only in a", "only in b", "other ops",
]  # fmt: skip
"""In what: a tensor that was given, ``"data"`` being any that is none of the model's inputs; what was
called, with which settings and tensors; what was drawn; which elements are NaN or infinite; sizes;
types; numbers by nothing that is known; ops that have no partner, or that others stand for."""

Status = Literal["first", "follows", "structure", "no effect"]
"""``"first"``: all that it depends on agrees. ``"follows"``: some of that differs. ``"structure"``:
what it makes of the values is not known. ``"no effect"``: the values agree after all."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A layer, op or tensor in which two programs, a and b, differ.

    Attributes:
        kind: In what.
        status: Whether it is where the difference begins.
        a: Label of the layer in the first program, name of a parameter; empty where there is none.
        b: The same in the second.
        module: Address of the module in the first program, None outside of all.
        other_module: The same in the second.
        what: In words.
        error: How far apart the values are: the norm of the difference by the greater norm, of
            whole numbers the share of elements; infinite where they cannot be compared, None where
            they are not known.
        error_before: The same of the values that it depends on, the greatest.
        allowed: How far apart they may be.
        largest: The greatest difference of two elements, None where that is not known.
        op: Index of the op in the first program, None where it is none.
        other_op: The same in the second.
        source: File and line in the first program, empty where not known.
        other_source: The same in the second.
    """

    kind: DifferenceKind
    status: Status
    a: str = ""
    b: str = ""
    module: str | None = None
    other_module: str | None = None
    what: str = ""
    error: float | None = None
    error_before: float | None = None
    allowed: float | None = None
    largest: float | None = None
    op: int | None = None
    other_op: int | None = None
    source: str = ""
    other_source: str = ""


@dataclass(frozen=True, slots=True)
class Differences:
    """All in which two programs differ, and how much of them was compared.

    Attributes:
        rows: The differences, in the order of execution.
        errors: By layers (their labels in a and b) how far apart what they gave is.
        ops: How many ops the programs have.
        aligned: How many ops of the first have a partner in the second.
        compared: How many values were compared.
    """

    rows: tuple[Difference, ...] = ()
    errors: dict[tuple[str, str], float] = field(default_factory=dict)
    ops: tuple[int, int] = (0, 0)
    aligned: int = 0
    compared: int = 0
