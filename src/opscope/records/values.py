"""Tensors at one moment, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Origin = Literal["outside", "fresh", "view", "write", "passed_through", "rewritten"]
"""How a value came to be: it was there before, an op made it in new memory, an op
made it as a view of older memory, an op wrote it over older memory, a call that
dispatched nothing passed its input through, or an op wrote some of its bytes through another
tensor, such as a slice of it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor at one moment, between two writes.

    Attributes:
        index: Place in `Recording.values`.
        shape: Sizes in elements.
        stride: Strides in elements; empty where the layout has none.
        offset: Offset into the storage, in elements.
        dtype: The element type's name, such as ``"float32"``.
        itemsize: Bytes per element.
        device: Such as ``"cpu"`` or ``"cuda:0"``.
        storage: Number of the storage it lives in, None where the layout has none.
        origin: How it came to be.
        made_by: Index of the op that made it, or for ``origin="rewritten"`` of the last that
            wrote some of it; None where no op did.
        earlier: For ``origin="passed_through"``, the value that was passed through; for ``"rewritten"``,
            the value that the same tensor was before.
    """

    index: int
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    dtype: str = "float32"
    itemsize: int = 4
    device: str = "cpu"
    storage: int | None = None
    origin: Origin = "fresh"
    made_by: int | None = None
    earlier: int | None = None

    @property
    def numel(self) -> int:
        """The number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take; expanded elements count each time."""
        return self.numel * self.itemsize


SAMPLES = 64
"""How many elements of a value are kept at most."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A tensor at one moment, in a few numbers.

    Two values that differ in a bit, in sizes or in type have different hashes: by chance two of them
    have one at most once in 2³² pairs, and far less often for nearly all; `exact_hash` says when.
    What else is here tells how far apart two are. NaN and infinities are counted, and left out of
    the numbers, not of the sample. Complex elements are two numbers each throughout.

    Attributes:
        hash: Of its sizes, type and elements in their order, whatever its strides; 32 hex digits,
            the same on every machine and device.
        norm: Square root of the sum of the squares.
        mean: Mean of the elements.
        minimum: The least of them.
        maximum: The greatest.
        nonfinite: How many are NaN or infinite.
        sample: Elements at places spread evenly over it, the first and the last among them: all where
            there are at most `SAMPLES`.
    """

    hash: str
    norm: float = 0.0
    mean: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    nonfinite: int = 0
    sample: tuple[float, ...] = ()


def before_writes(values: Sequence[Value], index: int) -> Value:
    """Return the value that a tensor was before it was written through another tensor.

    It is the same tensor at an earlier moment, and any but a ``"rewritten"`` value itself.
    """
    value = values[index]
    while value.origin == "rewritten" and value.earlier is not None:
        value = values[value.earlier]
    return value


def each_before_writes(values: Sequence[Value]) -> list[Value]:
    """Return the same for every value: in one pass, where each may have been written often."""
    found: list[Value] = []
    for value in values:
        earlier = value.earlier
        if value.origin != "rewritten" or earlier is None:
            found.append(value)
        elif earlier < len(found):
            found.append(found[earlier])
        else:
            found.append(before_writes(values, earlier))
    return found
