"""What is to be saved, and how: the arguments of `opscope.trace`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from opscope.capture.transforms import Failed, SaveOptions
from opscope.errors import NotSaved, OptionError, check_flag

Key = str | int
Save = Literal["all", "none"] | Sequence[Key] | None


def save_options(detach: object, device: object, dtype: object, transform: object) -> SaveOptions:
    """Return the options of saved activations, checked."""
    check_flag("detach", detach)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        message = f"dtype: {dtype!r} (must be a torch.dtype such as torch.float16, or None)"
        raise OptionError(message)
    if transform is not None and not callable(transform):
        message = f"transform: {transform!r} (must be a function of a tensor, or None)"
        raise OptionError(message)
    if device is not None:
        try:
            device = torch.device(device)  # type: ignore[call-overload]
            with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
                torch.empty(0, device=device)  # type: ignore[call-overload]
        except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
            message = f"device: {device!r} (must be a device that is there, such as 'cpu', or None)"
            raise OptionError(message) from error
    return SaveOptions(detach, device, dtype, transform)  # type: ignore[arg-type]


def check_save(save: object, name: str = "save") -> Literal["all"] | tuple[Key, ...]:
    """Return ``"all"`` or the keys of what is to be saved; ``name`` is the argument's."""
    if save is None or (isinstance(save, str) and save == "none"):
        return ()
    if isinstance(save, str):
        if save == "all":
            return "all"
        message = f"{name}: {save!r} (must be 'all', 'none', None or a list such as [{save!r}])"
        raise OptionError(message)
    if not isinstance(save, Sequence) or isinstance(save, (bytes, bytearray, memoryview)):
        message = f"{name}: {save!r} (must be 'all', 'none', None or a list of keys)"
        raise OptionError(message)
    for key in save:
        if isinstance(key, bool) or not isinstance(key, (str, int)) or key == "":
            message = f"{name}: {key!r} is no key (a key is a label, an address or a position)"
            raise OptionError(message)
    return tuple(save)


def told(saved: Any, what: str) -> Any:
    """Return what was saved, or raise the error that says why it could not be.

    Args:
        saved: What was saved, or a `Failed`.
        what: What it is of, in words.

    Raises:
        OptionError: If an option cannot be applied to it.
        NotSaved: If it cannot be saved at all.
    """
    if not isinstance(saved, Failed):
        return saved
    if saved.option is None:
        message = f"{what} could not be saved, which raised {saved}"
        raise NotSaved(message) from saved.error
    message = f"{saved.option}: cannot be applied to {what}, which raised {saved}"
    raise OptionError(message) from saved.error
