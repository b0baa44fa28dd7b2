"""The global hooks of one watcher: all on, or all off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from opscope.torch_api import (
    ALWAYS_CALLED_HOOKS,
    BUFFER_REGISTRATION_HOOKS,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    MODULE_REGISTRATION_HOOKS,
    PARAMETER_REGISTRATION_HOOKS,
)

_HOOKS: tuple[dict[int, Any], ...] = (
    FORWARD_PRE_HOOKS,
    FORWARD_HOOKS,
    MODULE_REGISTRATION_HOOKS,
    PARAMETER_REGISTRATION_HOOKS,
    BUFFER_REGISTRATION_HOOKS,
)


def put_on(
    enter: Callable[..., None],
    leave: Callable[..., None],
    registered: Callable[..., None],
    edit: Callable[..., Any] | None = None,
) -> None:
    """Have bound methods be called, for all modules.

    Args:
        enter: Before each module runs.
        leave: After it, whatever it raised.
        registered: When one is given a module, a parameter or a buffer.
        edit: After it, if it raised nothing; what it returns is what the module gave.
    """
    register_module_forward_pre_hook(enter)
    if edit is not None:
        register_module_forward_hook(edit)
    register_module_forward_hook(leave, always_call=True)
    register_module_module_registration_hook(registered)
    register_module_parameter_registration_hook(registered)
    register_module_buffer_registration_hook(registered)


def take_off(owner: object) -> None:
    """Take off all that are an object's; an interrupt may have come before a handle was had."""
    for hooks in _HOOKS:
        for key in [key for key, hook in hooks.items() if getattr(hook, "__self__", 0) is owner]:
            ALWAYS_CALLED_HOOKS.pop(key, None)
            del hooks[key]
