"""What is known of one module."""

from __future__ import annotations

import sys
from typing import NamedTuple
from weakref import ref

from torch import nn


class Kind(NamedTuple):
    """What is known of a class of modules.

    Attributes:
        name: Its name.
        most: How many arguments its ``forward`` takes.
        is_fast: Whether it has fused kernels.
        may_pack: Whether one of it may hold parameters inside objects of C++.
    """

    name: str
    most: int
    is_fast: bool
    may_pack: bool


class ModuleInfo:
    """A module that has an address.

    Attributes:
        top: What was met by itself and has it somewhere below: the model, or a module outside of
            its tree.
        most: How many arguments its ``forward`` takes.
        is_special: Whether more is to be done when it runs than to write it down.
    """

    __slots__ = (
        "address",
        "aliases",
        "class_name",
        "index",
        "is_special",
        "live",
        "most",
        "top",
        "training",
    )  # fmt: skip

    def __init__(self, index: int, module: nn.Module, address: str, top: Top, kind: Kind) -> None:
        self.aliases: tuple[str, ...] = ()
        self.index = index
        self.live = ref(module)
        self.address = address
        self.top = top
        self.class_name, self.most, self.is_special, _ = kind
        if "forward" in module.__dict__:
            self.most = sys.maxsize
        # A frozen scripted module is never in training, and does not even say so.
        self.training = getattr(module, "training", False)


class Top(ModuleInfo):
    """A module that was met by itself.

    Attributes:
        holds: The numbers of the parameters and buffers that it, and those below it, have and no
            module before had.
        first: The number of the first of those.
    """

    __slots__ = ("first", "holds")

    def __init__(self, index: int, module: nn.Module, address: str, first: int, kind: Kind) -> None:
        super().__init__(index, module, address, self, kind)
        self.first = first
        self.holds: list[range] = []
