"""The model's parameters and buffers: which tensor has which name."""

from __future__ import annotations

from typing import Any, Literal
from weakref import ref

import torch
from torch import nn
from torch.nn.parameter import is_lazy

Kind = Literal["parameter", "buffer"]


class ParameterEntry:
    """One parameter or buffer, however many names it has."""

    __slots__ = ("aliases", "kind", "layout", "live", "name", "trainable")

    def __init__(self, tensor: torch.Tensor, name: str, kind: Kind) -> None:
        self.live = ref(tensor)
        self.name = name
        self.aliases: tuple[str, ...] = ()
        self.kind: Kind = kind
        self.trainable = False
        self.layout: tuple[Any, ...] = ((), torch.float32)


class Parameters:
    """The parameters and buffers of all modules with an address, and the rows they are."""

    def __init__(self) -> None:
        self.entries: list[ParameterEntry] = []
        self.of_row: dict[int, int] = {}
        self._numbers: dict[int, int] = {}

    def learn(self, module: nn.Module, address: str) -> None:
        """Name what a module itself holds."""
        prefix = f"{address}." if address else ""
        for name, parameter in module._parameters.items():
            self._add(parameter, prefix + name, "parameter")
        for name, buffer in module._buffers.items():
            self._add(buffer, prefix + name, "buffer")

    def sighted(self, tensor: torch.Tensor, row: int) -> None:
        """Note that a row is a parameter, if it is one."""
        number = self._numbers.get(id(tensor))
        if number is not None and self.entries[number].live() is tensor:
            self.of_row[row] = number

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of a parameter, -1 for any other tensor."""
        number = self._numbers.get(id(tensor), -1)
        return number if number >= 0 and self.entries[number].live() is tensor else -1

    def measure(self) -> None:
        """Take down shapes; done last, when lazy ones have theirs."""
        with torch._C.DisableTorchFunction():
            for entry in self.entries:
                tensor = entry.live()
                if tensor is not None:
                    entry.trainable = entry.kind == "parameter" and tensor.requires_grad
                    shape = () if is_lazy(tensor) else tensor.shape
                    entry.layout = (shape, tensor.dtype)

    def _add(self, tensor: torch.Tensor | None, name: str, kind: Kind) -> None:
        if tensor is None:
            return
        number = self._numbers.get(id(tensor))
        if number is not None and self.entries[number].live() is tensor:
            self.entries[number].aliases += (name,)
            return
        self._numbers[id(tensor)] = len(self.entries)
        self.entries.append(ParameterEntry(tensor, name, kind))
