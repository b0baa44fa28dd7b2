"""The model's parameters and buffers: which tensor has which name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal
from weakref import ref

import torch
from torch import nn

Kind = Literal["parameter", "buffer"]


class ParameterEntry:
    """One parameter or buffer, however many names it has, as it is when the block is entered."""

    aliases: tuple[str, ...] = ()
    is_lazy = False

    def __init__(
        self, live: ref[torch.Tensor], tensor: torch.Tensor, name: str, kind: Kind
    ) -> None:
        self.live = live
        self.name = name
        self.kind: Kind = kind
        self.measure(tensor)

    def measure(self, tensor: torch.Tensor) -> None:
        """Take down its shape and whether it is trained."""
        self.trainable = self.kind == "parameter" and tensor.requires_grad
        self.dtype = tensor.dtype
        try:
            self.shape = tensor.shape
        except RuntimeError:  # it has none until it is used
            self.shape, self.is_lazy = torch.Size(), True


class Parameters:
    """The parameters and buffers of all modules with an address, and the rows they are."""

    def __init__(self) -> None:
        self.entries: list[ParameterEntry] = []
        self.of_row: dict[int, int] = {}
        self._numbers: dict[int, int] = {}

    def learn(self, module: nn.Module, address: str) -> None:
        """Name what a module itself holds."""
        prefix = f"{address}." if address else ""
        if module._parameters:
            self._add(module._parameters, prefix, "parameter")
        if module._buffers:
            self._add(module._buffers, prefix, "buffer")

    def sighted(self, live: ref[torch.Tensor], row: int) -> None:
        """Note that a row is a parameter, if it is one."""
        number = self._numbers.get(id(live))
        if number is not None:
            self.of_row[row] = number

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of a parameter, -1 for any other tensor."""
        return self._numbers.get(id(ref(tensor)), -1)

    def buffers(self) -> Iterator[torch.Tensor]:
        """Return the buffers that are there."""
        for entry in self.entries:
            if entry.kind == "buffer" and (tensor := entry.live()) is not None:
                yield tensor

    def measure(self, *, lazy_only: bool = False) -> None:
        """Take down again what changed since: shapes, and what is trained."""
        for entry in self.entries:
            if not lazy_only or entry.is_lazy:
                tensor = entry.live()
                if tensor is not None:
                    entry.measure(tensor)

    def _add(self, tensors: Mapping[str, torch.Tensor | None], prefix: str, kind: Kind) -> None:
        numbers, entries = self._numbers, self.entries
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            live = ref(tensor)  # the only one there is, while it is held
            number = numbers.setdefault(id(live), len(entries))
            if number < len(entries):
                entries[number].aliases += (prefix + name,)
            else:
                entries.append(ParameterEntry(live, tensor, prefix + name, kind))
