"""Programs that are captured inside the context rather than run."""

from __future__ import annotations

from typing import Any

import torch

_is_compiling = torch.compiler.is_compiling
_mode: Any = torch._C._get_dispatch_mode
_Key: Any = torch._C._TorchDispatchModeKey
_FAKE, _PROXY, _FUNCTIONAL = _Key.FAKE, _Key.PROXY, _Key.FUNCTIONAL


def is_tracing() -> bool:
    """Whether torch.export, make_fx or a compiler runs a program on fake tensors, to write it down.

    Under a user's own ``FakeTensorMode`` nothing is written down, and ``make_fx`` on real
    tensors computes: those are to be recorded.
    """
    if _is_compiling() or _mode(_FUNCTIONAL) is not None:
        return True
    return _mode(_PROXY) is not None and _mode(_FAKE) is not None
