"""Calling contexts: the chain of code positions that leads to a call.

A *place* is a number for one such chain, from the calling frame up to the frame that
runs the enclosing module (or the ``with`` block), on top of that module's own place.
Files and lines are worked out where they are asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Literal, NamedTuple

import torch
from torch import nn

from opscope.capture.log import Chain
from opscope.records.recording import Frame

NO_PLACE = -1
Context = Literal["backward", "checkpoint", "optimizer"]
_TORCH = str(Path(torch.__file__).parent) + os.sep
_OPSCOPE = str(Path(__file__).parents[1]) + os.sep
_WRAPPERS = _TORCH + "_dynamo" + os.sep
_APPLY = torch.autograd.Function.apply.__code__
_MODULE_CALL = nn.Module._call_impl.__code__


class Entry(NamedTuple):
    """A frame of torch's, somewhere in a place's chain, that runs what it was handed.

    Attributes:
        kind: ``"function"`` if it applies a custom one, ``"checkpoint"`` if it runs what one is
            of, ``"recomputation"`` if it runs that again.
        chain: The place's chain from there outwards.
        in_module: Whether a module was called further in, as far as the chain tells: that of a
            place in a module begins inside the module.
        unpackings: In how many unpackings of a checkpoint's tensors, one inside the other, it is.
    """

    kind: str
    chain: tuple[int, ...]
    in_module: bool
    unpackings: int


class Places:
    """Numbers for calling contexts."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self._chains: dict[tuple[int, ...], int] = {}  # without the compiler's duplicates
        # Code objects are keyed by id (their own hash reads the bytecode) and held here.
        self._codes: dict[int, CodeType] = {}
        self._site_of_root: dict[int, int] = {}

    def of(self, frames: Chain, parent: int, module: int) -> int:
        """Return the number of a chain of frames, see `Log.chain`, in a module at a place."""
        codes = frames[::2]
        chain = (parent, module, *map(id, codes), *frames[1::2])
        number = self._numbers.get(chain)
        if number is None:
            written = [parent, module]
            for code, lasti in zip(codes, frames[1::2], strict=True):
                self._codes[id(code)] = code
                written += (id(code), _first_copies(code)[lasti // 2])
            number = self._numbers[chain] = self._number(tuple(written))
        return number

    def _number(self, chain: tuple[int, ...]) -> int:
        return self._chains.setdefault(chain, len(self._chains))

    def root(self, module: int, site: int) -> int:
        """Return the place of a root module: the same wherever it is called from.

        Its first call site stands for all of them where a source line is asked for.
        """
        number = self._number((NO_PLACE, module))
        self._site_of_root.setdefault(number, site)
        return number

    def contexts(self) -> tuple[Context | None, ...]:
        """Return, per place, which part of torch called it, if one that matters did."""
        part = cache(lambda code: _context(self._codes[code].co_filename))
        return tuple(next(filter(None, map(part, chain[2::2])), None) for chain in self._chains)

    def entries(self) -> tuple[tuple[Entry, ...], ...]:
        """Return, per place, the entries in its own chain, the innermost first."""
        kind_of = cache(lambda code: _entry_kind(self._codes[code]))
        return tuple(
            tuple(self._entries(chain[2:], kind_of)) if any(map(kind_of, chain[2::2])) else ()
            for chain in self._chains
        )

    def _entries(
        self, chain: tuple[int, ...], kind_of: Callable[[int], str | None]
    ) -> Iterator[Entry]:
        codes = [self._codes[code] for code in chain[::2]]
        kinds = [kind_of(code) for code in chain[::2]]
        for at, kind in enumerate(kinds):
            # A reentrant checkpoint is a custom function.
            reentrant = kind == "checkpoint" and at and codes[at - 1] is _APPLY
            if kind in ("function", "checkpoint", "recomputation") and not reentrant:
                yield Entry(
                    kind, chain[2 * at :], _MODULE_CALL in codes[:at], kinds[at:].count("unpacking")
                )

    def lines(self) -> tuple[tuple[int, ...] | None, ...]:
        """Return, per place, the innermost position in code that is not torch's.

        It is None where that is outside of a module of torch's, or of what torch applies.
        """
        return tuple(self._line(chain[2:]) for chain in self._chains)

    def _line(self, chain: tuple[int, ...]) -> tuple[int, ...] | None:
        for at in range(0, len(chain), 2):
            code = self._codes[chain[at]]
            if code is _MODULE_CALL or code is _APPLY:
                return None
            if not code.co_filename.startswith(_TORCH):
                return chain[at : at + 2]
        return None

    def callers(self) -> tuple[tuple[int, ...], ...]:
        """Return, per place, its own chain, without a checkpoint's code that keeps a tensor.

        Such code runs within the call that is about to save the tensor.
        """
        packs = cache(lambda code: _entry_kind(self._codes[code]) == "packing")
        wraps = cache(lambda code: self._codes[code].co_filename.startswith(_WRAPPERS))
        result = []
        for _, _, *chain in self._chains:
            start = max((i + 2 for i in range(0, len(chain), 2) if packs(chain[i])), default=0)
            while start and start < len(chain) and wraps(chain[start]):
                start += 2
            result.append(tuple(chain[start:]))
        return tuple(result)

    def frames(self) -> tuple[tuple[Frame, ...], ...]:
        """Return, per place, its frames outside torch and opscope, the innermost first."""
        result: list[tuple[Frame, ...]] = []
        frame_at = cache(lambda code, lasti: _frame(self._codes[code], lasti))
        for number, (parent, _, *chain) in enumerate(self._chains):
            own = (frame_at(chain[i], chain[i + 1]) for i in range(0, len(chain), 2))
            outer = self._site_of_root.get(number, parent)
            rest = result[outer] if 0 <= outer < number else ()
            result.append((*(frame for frame in own if not is_internal(frame)), *rest))
        return tuple(result)


def _context(file: str) -> Context | None:
    """Return what code of torch's it is that calls others."""
    name = file.removeprefix(_TORCH).replace(os.sep, "/")
    if name == "utils/checkpoint.py":
        return "checkpoint"
    if name == "autograd/__init__.py":
        return "backward"
    # Averages of weights live among the optimizers, and are none.
    return "optimizer" if name.startswith("optim/") and name != "optim/swa_utils.py" else None


def _entry_kind(code: CodeType) -> str | None:
    if code is _APPLY:
        return "function"
    if _context(code.co_filename) != "checkpoint":
        return None
    kinds = {
        "recompute_fn": "recomputation", "unpack_hook": "unpacking", "pack_hook": "packing",
    }  # fmt: skip
    return kinds.get(code.co_name, "checkpoint" if code.co_name == "checkpoint" else None)


def is_internal(frame: Frame) -> bool:
    """Whether a frame is torch's or opscope's own."""
    return frame.file.startswith((_TORCH, _OPSCOPE, "<frozen"))


# By id, with the code to keep it alive: once a process, since a code is read in milliseconds.
_copies: dict[int, tuple[CodeType, tuple[int, ...]]] = {}


def _first_copies(code: CodeType) -> tuple[int, ...]:
    known = _copies.get(id(code))
    if known is None:
        known = _copies[id(code)] = (code, _read_copies(code))
    return known[1]


def _read_copies(code: CodeType) -> tuple[int, ...]:
    """Return for each instruction the first one that was compiled from the same text.

    The condition of a ``while`` loop and the block of a ``finally`` are compiled twice.
    Before Python 3.11 code does not know its columns: there each stands for itself.
    """
    count = len(code.co_code) // 2
    if sys.version_info < (3, 11):
        return tuple(range(0, 2 * count, 2))
    first: dict[object, int] = {}
    return tuple(
        2 * i if text[2] is None else first.setdefault((text, code.co_code[2 * i]), 2 * i)
        for i, text in enumerate(code.co_positions())
    )


def _frame(code: CodeType, lasti: int) -> Frame:
    if sys.version_info >= (3, 11):
        line = next(islice(code.co_positions(), lasti // 2, None), (None,))[0]
    else:
        line = next((line for start, end, line in code.co_lines() if start <= lasti < end), None)
    return Frame(code.co_filename, line or code.co_firstlineno, code.co_name)
