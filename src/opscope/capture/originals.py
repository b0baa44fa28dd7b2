"""What came from outside, as it was when it was first seen: what a replay starts from."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from opscope.capture.log import Sight

_PLAIN: Any = torch.Tensor.__torch_dispatch__
_no_dispatch = torch._C._DisableTorchDispatch


def has_own_dispatch(tensor: torch.Tensor) -> bool:
    """Whether a tensor's class says what operators do with it: it may have no memory itself."""
    own: Any = tensor.__class__.__torch_dispatch__
    return own is not _PLAIN


def unseen(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which no dispatch mode sees what is done with a tensor.

    A tensor whose class has its own dispatch is nothing without it: only the modes go.
    """
    return _disable_current_modes() if has_own_dispatch(tensor) else _no_dispatch()


class Originals:
    """Copies of the storages that the program did not make itself, and of random states.

    A storage is copied once, whole, so that tensors that shared memory share it again.

    Attributes:
        storages: By storage number, a copy of its bytes.
        tensors: By row, a copy of a tensor that has no plain storage, or a class of its own.
        generators: The state of each device's random number generator at the start.
        draws: The same before each op that draws from it, by op: the program may seed it
            between ops, as checkpointing does.
        objects: By op, the objects of C++ that it was given, by argument.
    """

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        self.generators: dict[str, torch.Tensor] = {}
        self.draws: dict[int, dict[str, torch.Tensor]] = {}
        self.objects: dict[int, dict[str, Any]] = {}
        # What has no number yet: by the weak references in a sight, and those to keep the keys.
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._copied: dict[int, object] = {}

    def keep(self, tensor: torch.Tensor, sight: Sight) -> None:
        """Copy a tensor from outside, unless its storage was copied before."""
        live, storage = sight[:2]
        with unseen(tensor), torch._C.DisableTorchFunction(), torch.no_grad():
            if storage is None or has_own_dispatch(tensor):
                self._tensors[id(live)] = tensor.detach().clone()
            elif id(storage) not in self._copied:
                self._copied[id(storage)] = storage
                self._storages[id(storage)] = tensor.untyped_storage().clone()

    def forget_all(self) -> None:
        """Copy again what is seen again: the program went on unseen, and may have written it."""
        self._copied.clear()

    def number(self, sight: Sight, row: int, number: int) -> None:
        """Give a copy the numbers that the tensor and its storage have got."""
        live, storage = sight[:2]
        if id(live) in self._tensors:
            self.tensors[row] = self._tensors[id(live)]
            del self._tensors[id(live)]
        if id(storage) in self._storages:
            self.storages[number] = self._storages[id(storage)]
            del self._storages[id(storage)]

    def keep_generators(self) -> None:
        """Take down the state of the default generators."""
        self.generators = generators()

    def keep_objects(self, op: int, objects: dict[str, Any]) -> None:
        """Keep what an op is given of packed parameters, which nothing changes."""
        self.objects[op] = objects

    def keep_draw(self, op: int) -> None:
        """Take it down again before an op that draws."""
        self.draws[op] = generators()


def generators() -> dict[str, torch.Tensor]:
    """Return the state of each device's default random number generator."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            states[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, torch.Tensor]) -> None:
    """Put back the states of random number generators."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, name)
