"""The model's parameters and buffers: which tensor has which name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple
from weakref import ref

import torch
from torch import nn

from opscope.capture.packed import Packed, Size, may_pack, packed_in, tensors_in

Kind = Literal["parameter", "buffer"]


class ParameterRow(NamedTuple):
    """One parameter or buffer, however many names it has, as it is when the block is entered."""

    live: ref[torch.Tensor]
    name: str
    kind: Kind
    trainable: bool
    dtype: torch.dtype
    shape: tuple[int, ...]


_WIDTH = len(ParameterRow._fields)
_MEASURED = 3  # from here on it is what `_measured` says


class Parameters:
    """The parameters and buffers of all modules with an address, and the rows they are.

    Attributes:
        of_row: By the row of a value, the number of the parameter that it is.
        aliases: By number, the other names that it has.
    """

    def __init__(self) -> None:
        self.of_row: dict[int, int] = {}
        self.aliases: dict[int, tuple[str, ...]] = {}
        self._rows: list[Any] = []  # flat: an object for each would cost as much as an op
        self._numbers: dict[int, int] = {}
        self._lazy: set[int] = set()
        self._frozen: set[int] = set()
        self._packed: dict[int, tuple[ref[nn.Module], list[Packed]]] = {}

    def learn(self, module: nn.Module, address: str) -> None:
        """Name what a module itself holds."""
        prefix = f"{address}." if address else ""
        if module._parameters:
            self._add(module._parameters, prefix, "parameter")
        frozen = self._learn_packed(module, address) if may_pack(module) else None
        if module._buffers:
            buffers = module._buffers
            if frozen:
                buffers = {n: t for n, t in buffers.items() if n not in frozen}
            self._add(buffers, prefix, "buffer")

    def _learn_packed(self, module: nn.Module, address: str) -> Mapping[str, torch.Tensor]:
        """Name what a quantised module holds, and return what of it is plain tensors."""
        frozen = tensors_in(module)
        if frozen:
            first = len(self._numbers)
            self._frozen.update(range(first, first + len(frozen)))
            self._add(frozen, f"{address}." if address else "", "parameter")
        packed = packed_in(module, address)
        if packed:
            live, known = self._packed.setdefault(id(module), (ref(module), packed))
            if known is not packed and live() is module:  # by another name
                for one, other in zip(known, packed, strict=False):
                    one.names += other.names
            else:
                self._packed[id(module)] = ref(module), packed
        return frozen

    def packed(self) -> Iterator[tuple[int | None, Size]]:
        """Yield the parameters inside objects of C++, each with what tells the object apart."""
        for _, packed in self._packed.values():
            for one in packed:
                for size in one.sizes():
                    yield one.identity, size

    def sighted(self, live: ref[torch.Tensor], row: int) -> None:
        """Note that a row is a parameter, if it is one."""
        number = self._numbers.get(id(live))
        if number is not None:
            self.of_row[row] = number

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of a parameter, -1 for any other tensor."""
        return self._numbers.get(id(ref(tensor)), -1)

    def rows(self) -> Iterator[ParameterRow]:
        """Return all of them, by number."""
        return map(ParameterRow._make, zip(*[iter(self._rows)] * _WIDTH, strict=True))

    def tensor(self, number: int) -> torch.Tensor | None:
        """Return one of them while it is alive."""
        live: ref[torch.Tensor] = self._rows[number * _WIDTH]
        return live()

    def buffers(self) -> Iterator[torch.Tensor]:
        """Return the buffers that are there."""
        for row in self.rows():
            if row.kind == "buffer" and (tensor := row.live()) is not None:
                yield tensor

    def measure(self, *, lazy_only: bool = False) -> None:
        """Take down again what changed since: shapes, and what is trained."""
        for number in list(self._lazy) if lazy_only else range(len(self._rows) // _WIDTH):
            tensor = self.tensor(number)
            if tensor is not None:
                at = number * _WIDTH
                kind = ParameterRow(*self._rows[at : at + _WIDTH]).kind
                self._rows[at + _MEASURED : at + _WIDTH] = self._measured(tensor, kind, number)

    def _add(self, tensors: Mapping[str, torch.Tensor | None], prefix: str, kind: Kind) -> None:
        numbers, count = self._numbers, len(self._numbers)
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            live = ref(tensor)  # the only one there is, while it is held
            number = numbers.setdefault(id(live), count)
            if number < count:
                self.aliases[number] = (*self.aliases.get(number, ()), prefix + name)
            else:
                count += 1
                self._rows += (live, prefix + name, kind, *self._measured(tensor, kind, number))

    def _measured(
        self, tensor: torch.Tensor, kind: Kind, number: int
    ) -> tuple[bool, torch.dtype, tuple[int, ...]]:
        """Return whether it is trained, its type and its shape."""
        try:
            shape = tuple(tensor.shape)
        except RuntimeError:  # it has none until it is used
            shape = ()
            self._lazy.add(number)
        trainable = kind == "parameter" and tensor.requires_grad and number not in self._frozen
        return trainable, tensor.dtype, shape
