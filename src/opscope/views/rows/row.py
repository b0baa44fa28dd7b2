"""One row of a table, and all of them, each made as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from opscope.records.sums.work import Work
from opscope.records.values import Value


@dataclass(frozen=True, slots=True)
class Row:
    """One row, before it is written.

    Attributes:
        name: The label or address.
        kind: The module's class, the torch function or the operator.
        depth: How far it is indented.
        module: Address of the module it ran in.
        op: The aten operators that it ran, without namespace and overload.
        inputs: The tensors it was given.
        outputs: The tensors it gave.
        input_paths: Where in a module's arguments each input was, such as ``"x"`` or ``"1.0"``;
            empty of others.
        output_paths: Where in what a module gave each output was; empty of others.
        params: Elements of the parameters that it has or used.
        of_params: How many the whole model has.
        trainable: How many of these require a gradient.
        is_tied: Whether another module has one of them as well.
        memory: Bytes of the tensors that it gave, over all passes of the row.
        time_ns: How long its ops took, see `Op.duration_ns`, over all passes of the row.
        backward_ns: How long those took that ran for it in backward, likewise.
        work: What it computes, over all passes of the row; in backward, what ran for it then.
        passes: How many passes the row stands for.
        source: Where in the code it was called.
        is_module: Whether it stands for a module.
        below: Address of the module in which that module ran.
        failed: Whether it raised.
        settings: Returns what its ops were set to, if it is of one layer or innermost module.
        blocks: How many modules it stands for that are made alike, beside one another.
        last: The name of the last of these.
    """

    name: str
    kind: str = ""
    depth: int = 0
    module: str = ""
    op: str = ""
    inputs: Sequence[Value] = ()
    outputs: Sequence[Value] = ()
    input_paths: tuple[str, ...] = ()
    output_paths: tuple[str, ...] = ()
    params: int = 0
    of_params: int = 0
    trainable: int = 0
    is_tied: bool = False
    memory: int = 0
    time_ns: int = 0
    backward_ns: int = 0
    work: Work = field(default_factory=Work)
    passes: int = 1
    source: str = ""
    is_module: bool = False
    below: str = ""
    failed: bool = False
    settings: Callable[[], dict[str, object]] = field(default=dict, compare=False, repr=False)
    blocks: int = 1
    last: str = ""

    @property
    def share(self) -> float:
        """Which part of the model's parameters it has or used."""
        return self.params / self.of_params if self.of_params else 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are made in one way.

    Attributes:
        make: Makes one, of what it stands for.
        keys: What they stand for, in order.
        fields: Fields of them that are known without making them, by name.
    """

    make: Callable[[int], Row]
    keys: Sequence[int]
    fields: dict[str, Callable[[int], Any]] = field(default_factory=dict)


class Rows(Sequence[Row]):
    """Rows that are made as they are asked for: of a million a table shows ten.

    Args:
        parts: Those that are made in one way together.
    """

    def __init__(self, *parts: Part) -> None:
        self._parts = [part for part in parts if part.keys]

    def __len__(self) -> int:
        return sum(len(part.keys) for part in self._parts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        for part in self._parts:
            if 0 <= at < len(part.keys):
                return part.make(part.keys[at])
            at -= len(part.keys)
        message = f"index {index} of {len(self)} rows"
        raise IndexError(message)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (Rows, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def ranks(self, name: str, read: Callable[[Row], Any]) -> list[Any]:
        """Return what to sort each row by.

        Args:
            name: The field that it is.
            read: Reads it of a row, where it is not known without one.
        """
        found: list[Any] = []
        for part in self._parts:
            known = part.fields.get(name)
            if known is None:
                found += [read(part.make(key)) for key in part.keys]
            else:
                found += map(known, part.keys)
        return found
