"""Programs that are captured inside the context rather than run."""

from __future__ import annotations

import torch

from opscope.torch_api import DispatchModeKey, dispatch_mode_of

_is_compiling = torch.compiler.is_compiling
_FAKE, _PROXY, _FUNCTIONAL = DispatchModeKey.FAKE, DispatchModeKey.PROXY, DispatchModeKey.FUNCTIONAL


def is_tracing() -> bool:
    """Whether torch.export, make_fx or a compiler runs a program on fake tensors, to write it down.

    Under a user's own ``FakeTensorMode`` nothing is written down, and ``make_fx`` on real
    tensors computes: those are to be recorded.
    """
    if _is_compiling() or dispatch_mode_of(_FUNCTIONAL) is not None:
        return True
    return dispatch_mode_of(_PROXY) is not None and dispatch_mode_of(_FAKE) is not None
