"""Where a calling context passes through torch code that runs what it was given.

That is the code that applies a custom function, that calls a function for a checkpoint, and
that calls it again in the backward.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from types import CodeType
from typing import Literal, NamedTuple

import torch
import torch.utils.checkpoint

from opscope.capture.log.contexts.call_sites import CallSites
from opscope.capture.log.contexts.custom_functions import APPLY
from opscope.torch_api import CALL_MODULE

Kind = Literal["function", "checkpoint", "recomputation"]
Chain = tuple[int, ...]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_DYNAMO = _TORCH + "_dynamo" + os.sep
_IN_CHECKPOINT: dict[str, Kind] = {
    "checkpoint": "checkpoint", "recompute_fn": "recomputation",
}  # fmt: skip


class Entry(NamedTuple):
    """One such frame.

    Attributes:
        kind: What it does.
        chain: The call site's chain from there outwards.
        in_module: Whether a module was called further in, as far as the chain tells: that of a
            call site in a module begins inside the module.
        unpackings: In how many unpackings of a checkpoint's tensors, one inside the other, it is.
    """

    kind: Kind
    chain: Chain
    in_module: bool
    unpackings: int


class Entries:
    """What the chains of call sites pass through.

    Args:
        sites: The call sites.
    """

    def __init__(self, sites: CallSites) -> None:
        self._code = sites.code
        self._chains = tuple(sites.chains())
        self._kind = cache(self._kind_of)

    @cached_property
    def of_site(self) -> tuple[tuple[Entry, ...], ...]:
        """Per call site, the entries in its own chain, the innermost first."""
        return tuple(tuple(self._entries(chain)) for chain in self._chains)

    @cached_property
    def line_of_site(self) -> tuple[Chain, ...]:
        """Per call site, the innermost position in code that is not torch's.

        It is empty where that is outside of a module of torch's, or of what torch applies.
        """
        return tuple(map(self._line, self._chains))

    @cached_property
    def caller_of_site(self) -> tuple[Chain, ...]:
        """Per call site, its own chain, without a checkpoint's code that keeps a tensor.

        Such code runs within the call that is about to save the tensor.
        """
        return tuple(map(self._caller, self._chains))

    def _entries(self, chain: Chain) -> Iterator[Entry]:
        kinds = [self._kind(code) for code in chain[::2]]
        if not any(kinds):
            return
        codes = [self._code(code) for code in chain[::2]]
        for at, kind in enumerate(kinds):
            # A reentrant checkpoint is a custom function.
            if kind is None or (kind == "checkpoint" and at and codes[at - 1] is APPLY):
                continue
            unpackings = sum(_is_checkpoints(code, "unpack_hook") for code in codes[at:])
            yield Entry(kind, chain[2 * at :], CALL_MODULE in codes[:at], unpackings)

    def _kind_of(self, number: int) -> Kind | None:
        code = self._code(number)
        if code is APPLY:
            return "function"
        kind = _IN_CHECKPOINT.get(code.co_name)
        return kind if _is_checkpoints(code, code.co_name) else None

    def _line(self, chain: Chain) -> Chain:
        for at in range(0, len(chain), 2):
            code = self._code(chain[at])
            if code is CALL_MODULE or code is APPLY:
                break
            if not code.co_filename.startswith(_TORCH):
                return chain[at : at + 2]
        return ()

    def _caller(self, chain: Chain) -> Chain:
        codes = [self._code(code) for code in chain[::2]]
        packing = [at for at, code in enumerate(codes) if _is_checkpoints(code, "pack_hook")]
        start = packing[-1] + 1 if packing else 0
        while start and start < len(codes) and codes[start].co_filename.startswith(_DYNAMO):
            start += 1  # it is wrapped
        return chain[2 * start :]


def _is_checkpoints(code: CodeType, name: str) -> bool:
    """Whether code is that of a function of torch.utils.checkpoint's."""
    return code.co_name == name and code.co_filename == torch.utils.checkpoint.__file__
