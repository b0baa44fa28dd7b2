"""Where a custom autograd function is applied, as far as a chain of frames tells.

Up to torch 2.13 what applies one is Python and has a frame. From 2.14 on it is C++, and only
what it calls has one: a stand-in is put where the frame would be, for all others to find.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import chain as joined
from types import CodeType
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from opscope.capture.log.events import Chain


def _stand_in() -> None:
    """Stand for what is not Python."""


_IN_PYTHON: CodeType | None = getattr(torch.autograd.Function.apply, "__code__", None)
IN_CPP = _IN_PYTHON is None
APPLY = _IN_PYTHON or _stand_in.__code__.replace(
    co_filename=torch.autograd.function.__file__, co_name="apply"
)
# Python that the C++ calls, whatever the function is: below torch.func, and for forward mode.
_TORCHS: tuple[Any, ...] = (
    getattr(torch.autograd.function, "_call_custom_function_call", None),
    BackwardCFunction.apply_jvp,
)
# By id, with the code to keep it alive: whether it is what is called to apply a function.
_known: dict[int, tuple[CodeType, bool]] = {}


def with_applications(chain: Chain) -> Chain:
    """Return a chain, see `Log.chain`, in which `APPLY` is there where torch applies a function.

    Only what is called a first time while its class is there is told, and a call of it by its
    own name, as that of a base class's, is taken for one by torch.
    """
    if not IN_CPP:
        return chain
    _look_at(chain[::2])
    pairs = zip(chain[::2], chain[1::2], strict=True)
    return tuple(joined.from_iterable(_with_application(*pair) for pair in pairs))


def _with_application(code: CodeType, lasti: int) -> tuple[Any, ...]:
    return (code, lasti, APPLY, 0) if _known[id(code)][1] else (code, lasti)


def _look_at(codes: tuple[Any, ...]) -> None:
    new = [code for code in codes if id(code) not in _known]
    if new:
        applied = {id(code): code for code in _applied()}
        _known.update((id(code), (code, id(code) in applied)) for code in new)


def _applied() -> Iterator[CodeType]:
    """Yield the code that torch calls to apply the functions that there are."""
    functions = [getattr(found, name) for found in _classes() for name in _CALLED]
    for function in (*functions, *_TORCHS):
        # Decorators share their code with what else they decorate.
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            yield code


_CALLED = ("forward", "setup_context")


def _classes() -> Iterator[type[torch.autograd.Function]]:
    waiting = [torch.autograd.Function]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += found.__subclasses__()
