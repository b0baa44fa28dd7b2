"""What is to be saved, and how: an argument of `opscope.trace`, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from opscope.answers.reading import Key, Keys
from opscope.capture.collect.kept.transforms import Failed, SaveOptions
from opscope.errors import NotSaved, OptionError, check_flag
from opscope.operators.devices import device_named

What = Literal["all", "none"] | Sequence[Key] | None


@dataclass(frozen=True, slots=True)
class Save:
    """What is to be kept of activations, or of gradients, and in which form.

    Attributes:
        what: ``"all"``, ``None`` or ``"none"``, or a list of labels, module addresses, positions
            and substrings, see `Trace.__getitem__`.
        detach: Whether what is saved is cut from the autograd graph. If not, a backward can
            start from any saved activation.
        device: Where it is moved to, such as ``"cpu"``; None for where it is.
        dtype: What floating point tensors are cast to, and complex ones if it is a complex type.
            Integers, booleans and quantised tensors keep their type.
        transform: A function applied to each tensor; whatever it returns is saved, a number, a
            tuple or None too. What it runs is not recorded, and the random numbers that it draws
            the program draws too. If it raises, the program goes on, and `Layer.activation` or
            `Layer.gradient` raises an `OptionError`.
        copy: Whether the transform is given a copy, which it may keep or change. One that only
            reads can do without, and costs less.

    Raises:
        OptionError: For a value of the wrong kind.

    >>> import torch, opscope
    >>> with opscope.trace(save=opscope.Save("all", transform=torch.Tensor.tolist)) as trace:
    ...     y = torch.ones(2) + 1
    >>> trace["add"].activation
    [2.0, 2.0]
    """

    what: What = "all"
    detach: bool = True
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    transform: Callable[[torch.Tensor], Any] | None = None
    copy: bool = True

    def __post_init__(self) -> None:
        checked = {"what": _keys(self.what, "what"), "device": as_device(self.device)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        check_flag("detach", self.detach)
        check_flag("copy", self.copy)
        if self.dtype is not None and not isinstance(self.dtype, torch.dtype):
            message = (
                f"dtype: {self.dtype!r} (must be a torch.dtype such as torch.float16, or None)"
            )
            raise OptionError(message)
        if self.transform is not None and not callable(self.transform):
            message = f"transform: {self.transform!r} (must be a function of a tensor, or None)"
            raise OptionError(message)

    @property
    def keys(self) -> Keys:
        """``"all"``, or the keys of what is to be saved; none for nothing."""
        return self.what  # type: ignore[return-value]  # since it was checked

    @property
    def options(self) -> SaveOptions:
        """In which form."""
        return SaveOptions(self.detach, self.device, self.dtype, self.transform, self.copy)  # type: ignore[arg-type]

    @property
    def is_plain(self) -> bool:
        """Whether tensors are saved as they are."""
        return self.options == SaveOptions()


def as_save(given: What | Save, name: str) -> Save:
    """Return an argument of `opscope.trace` by its name, in its long form."""
    if given is None:
        return _NOTHING
    return given if isinstance(given, Save) else Save(_keys(given, name))


def check_plain(save: Save) -> None:
    """Raise an `OptionError` unless values are kept as they are, as a replay needs them."""
    if not save.is_plain:
        message = "replayable=True saves every value as it is: no device, dtype or transform"
        raise OptionError(message)


def _keys(what: object, name: str) -> Keys:
    """Return ``"all"`` or the keys of what is to be saved; ``name`` is the argument's."""
    if what is None or (isinstance(what, str) and what == "none"):
        return ()
    if isinstance(what, str):
        if what == "all":
            return "all"
        message = f"{name}: {what!r} (must be 'all', 'none', None or a list such as [{what!r}])"
        raise OptionError(message)
    if not isinstance(what, Sequence) or isinstance(what, (bytes, bytearray, memoryview)):
        message = f"{name}: {what!r} (must be 'all', 'none', None or a list of keys, or a Save)"
        raise OptionError(message)
    for key in what:
        if isinstance(key, bool) or not isinstance(key, (str, int)) or key == "":
            message = f"{name}: {key!r} is no key (a key is a label, an address or a position)"
            raise OptionError(message)
    return tuple(what)


def as_device(device: Any) -> torch.device | None:
    """Return a device of that name, None for None.

    Raises:
        OptionError: If there is none.
    """
    if device is None:
        return None
    found = device_named(device)
    if found is None:
        message = f"device: {device!r} (must be a device that is there, such as 'cpu', or None)"
        raise OptionError(message)
    return found


def unwrapped(saved: Any, what: str) -> Any:
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


_NOTHING = Save(None)
