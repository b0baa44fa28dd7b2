"""Calling contexts: the chain of code positions that leads to a call.

A *call site* is a number for one such chain, from the calling frame up to the frame that
runs the enclosing module (or the ``with`` block), on top of that module's own call site.
Files and lines are worked out where they are asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, MethodWrapperType
from typing import Any, Literal

import torch

from opscope.capture.log.contexts.custom_functions import APPLY, with_applications
from opscope.capture.log.events import Chain
from opscope.records.calls import Frame
from opscope.records.columns.columns import NONE

Context = Literal["backward", "checkpoint", "optimizer", "scaler"]
_TORCH = str(Path(torch.__file__).parent) + os.sep
_OPSCOPE = str(Path(__file__).parents[3]) + os.sep
_LIBRARY = str(Path(_TORCH) / "_library" / "autograd.py")


class CallSites:
    """Numbers for calling contexts."""

    def __init__(self) -> None:
        # By chain as it was logged: the same without the compiler's duplicates, and the numbers
        # that it has in modules at call sites.
        self._known: dict[tuple[int, ...], tuple[tuple[int, ...], dict[tuple[int, int], int]]] = {}
        self._chains: dict[tuple[int, ...], int] = {}
        # Code objects are keyed by id (their own hash reads the bytecode) and held here.
        self._codes: dict[int, CodeType] = {}
        self._site_of_root: dict[int, int] = {}

    def of(self, frames: Chain, parent: int, module: int) -> int:
        """Return the number of a chain of frames, see `Log.chain`, in a module at a call site."""
        logged = (*map(id, frames[::2]), *frames[1::2])
        known = self._known.get(logged)
        if known is None:
            known = self._known[logged] = self._written(frames), {}
        chain, numbers = known
        number = numbers.get((parent, module))
        if number is None:
            number = numbers[parent, module] = self._number((parent, module, *chain))
        return number

    def _written(self, frames: Chain) -> tuple[int, ...]:
        """Return a chain as its codes, by number, and positions, without the compiler's duplicates."""
        written: list[int] = []
        whole = with_applications(frames)
        for code, lasti in zip(whole[::2], whole[1::2], strict=True):
            self._codes[id(code)] = code
            written += (id(code), _first_copies(code)[lasti // 2])
        return tuple(written)

    def _number(self, chain: tuple[int, ...]) -> int:
        return self._chains.setdefault(chain, len(self._chains))

    def root(self, module: int, site: int) -> int:
        """Return the call site of a root module: the same wherever it is called from.

        Its first call site stands for all of them where a source line is asked for.
        """
        number = self._number((NONE, module))
        self._site_of_root.setdefault(number, site)
        return number

    def contexts(self) -> tuple[Context | None, ...]:
        """Return, per call site, which part of torch called it, if one that matters did."""
        part = cache(lambda code: _context(self._codes[code].co_filename))
        return tuple(next(filter(None, map(part, chain[2::2])), None) for chain in self._chains)

    def in_custom_functions(self) -> list[bool]:
        """Return, per call site, whether it is in the forward of a custom autograd function."""
        result: list[bool] = []
        for parent, _, *chain in self._chains:
            outer = 0 <= parent < len(result) and result[parent]
            result.append(outer or is_custom_function([self._codes[i] for i in chain[::2]]))
        return result

    def applied(self, site: int) -> int:
        """Return the call site of what torch itself does as it applies a function at a call site."""
        parent, module, *chain = self._chain(site)
        self._codes[id(APPLY)] = APPLY
        return self._number((parent, module, id(APPLY), 0, *chain))

    def begins_applied(self, site: int) -> bool:
        """Whether torch itself is at a call site, as it applies a function."""
        return self._chain(site)[2:3] == (id(APPLY),)

    def is_applied_at(self, site: int, outside: int) -> bool:
        """Whether a call site is in what is called to apply a function at another call site."""
        if site == NONE:
            return False
        parent, module, *chain = self._chain(site)
        codes = chain[::2]
        if id(APPLY) not in codes:
            return False
        rest = chain[2 * codes.index(id(APPLY)) + 2 :]
        return (parent, module, *rest) == self._chain(outside)

    def _chain(self, site: int) -> tuple[int, ...]:
        return next(islice(self._chains, site, None))

    def chains(self) -> Iterator[tuple[int, ...]]:
        """Yield, per call site, its own chain: by turns the number of a code and a position in it."""
        return (chain[2:] for chain in self._chains)

    def code(self, number: int) -> CodeType:
        """Return a code by its number in a chain."""
        return self._codes[number]

    def frames(self) -> tuple[tuple[Frame, ...], ...]:
        """Return, per call site, its frames outside torch and opscope, the innermost first."""
        result: list[tuple[Frame, ...]] = []
        frame_at = cache(lambda code, lasti: _frame(self._codes[code], lasti))
        for number, (parent, _, *chain) in enumerate(self._chains):
            own = (frame_at(chain[i], chain[i + 1]) for i in range(0, len(chain), 2))
            outer = self._site_of_root.get(number, parent)
            rest = result[outer] if 0 <= outer < number else ()
            result.append((*(frame for frame in own if not is_internal(frame)), *rest))
        return tuple(result)


def is_custom_function(codes: Sequence[CodeType]) -> bool:
    """Whether the forward of a custom autograd function is in a chain, the innermost first."""
    # Operators that `torch.library` gave a derivative are applied as well.
    applied = [at for at, code in enumerate(codes) if code is APPLY]
    return any(at + 1 == len(codes) or codes[at + 1].co_filename != _LIBRARY for at in applied)


def _context(file: str) -> Context | None:
    """Return what code of torch's it is that calls others."""
    name = file.removeprefix(_TORCH).replace(os.sep, "/")
    if name == "utils/checkpoint.py":
        return "checkpoint"
    if name == "autograd/__init__.py":
        return "backward"
    if name == "amp/grad_scaler.py":
        return "scaler"
    # Averages of weights live among the optimizers, and are none.
    return "optimizer" if name.startswith("optim/") and name != "optim/swa_utils.py" else None


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


def function_name(func: Any) -> str:
    """Return a torch function's name; a property's for the read of a property."""
    if func.__class__ is MethodWrapperType:
        owner: Any = func.__self__
        name = getattr(owner, "__name__", None) or getattr(owner.fget, "__name__", "property")
        return str(name)
    return str(getattr(func, "__name__", func.__class__.__name__))
