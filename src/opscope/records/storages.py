"""When the memory of tensors was allocated and freed, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorageLife:
    """The memory behind some tensors, while the program ran.

    Attributes:
        nbytes: Its size, as it was allocated.
        device: Where it is, such as ``"cpu"`` or ``"cuda:0"``.
        number: What `Value.storage` calls it; None where no op was given it.
        born: Index of the op that allocated it, None if it was there before.
        freed: How many ops had ended when it was freed: it was there as the op before ended, and
            no longer as that of this index did. None if it was there as the block was left.
        parameter: Index of the parameter or buffer of the model that it is, or whose gradient.
        is_gradient: Whether it is the gradient that the parameter had before.
    """

    nbytes: int
    device: str = "cpu"
    number: int | None = None
    born: int | None = None
    freed: int | None = None
    parameter: int | None = None
    is_gradient: bool = False
