"""A model that runs and is afterwards as it was: parameters, buffers, inputs, random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import storage_of
from opscope.capture.watch.compiled import wrapped


class Contents:
    """Copies what a model and its inputs hold before an op writes it; a collector.

    Nothing is copied of what is not written, and what is put back is bytes: no version of a tensor
    changes, so that a backward that is still to come works as before.

    Args:
        model: The model.
        inputs: Tensors that it is called with.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[torch.Tensor]) -> None:
        held = (*model.parameters(), *model.buffers(), *inputs)
        self._storages = {key: tensor for tensor in held if (key := _key(tensor)) is not None}
        self._copies: dict[int, torch.UntypedStorage] = {}
        if any(map(_is_compiled, model.modules())):  # of a compiled region no op is seen
            for buffer in model.buffers():
                self._copy(buffer)

    def before_op(self, op: RunningOp) -> None:
        """Copy what it is about to write, the first time."""
        for tensor in op.written():
            self._copy(tensor)

    def _copy(self, tensor: torch.Tensor) -> None:
        key = _key(tensor)
        if key in self._storages and key not in self._copies:
            self._copies[key] = tensor.untyped_storage().clone()

    def put_back(self) -> None:
        """Write back what was written."""
        for key, contents in self._copies.items():
            self._storages[key].untyped_storage().copy_(contents)


def _is_compiled(module: nn.Module) -> bool:
    return wrapped(module) is not module or module._compiled_call_impl is not None


def _key(tensor: torch.Tensor) -> int | None:
    """Return what tells the memory of a tensor from others; None where there is none to copy."""
    storage = storage_of(tensor)
    return None if storage is None or storage.device.type == "meta" else storage._cdata


@contextmanager
def untouched(model: nn.Module, inputs: Iterable[torch.Tensor]) -> Iterator[Contents]:
    """Have a model be as it was: contents, names, memory of parameters, random numbers."""
    contents = Contents(model, inputs)
    with ExitStack() as stack:
        stack.callback(_set_random, _random())
        stack.enter_context(torch.random.fork_rng(devices=_accelerators(model)))
        for module in model.modules():
            stack.callback(_rename, module, *(dict(names) for names in _names(module)))
        for parameter in model.parameters():
            stack.callback(_take_memory, parameter, parameter.detach())
        stack.callback(contents.put_back)
        yield contents


def _names(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def _rename(module: nn.Module, *before: dict[str, Any]) -> None:
    """Have a module have what it had, by the same names."""
    for names, known in zip(_names(module), before, strict=True):
        if names.keys() != known.keys() or any(names[key] is not known[key] for key in known):
            names.clear()
            names.update(known)


def _take_memory(parameter: nn.Parameter, before: torch.Tensor) -> None:
    """Have a parameter have the memory that it had, if ``.data =`` gave it other."""
    if not parameter.is_meta and parameter.data_ptr() != before.data_ptr():
        parameter.data = before


def _accelerators(model: nn.Module) -> list[int]:
    """Return the numbers of the devices, besides the CPU, that a model's weights are on."""
    found = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    return sorted(device.index for device in found if device.index is not None)


def _random() -> tuple[Any, Any]:
    """Return the state of Python's random numbers, and of NumPy's where it is loaded."""
    numpy = sys.modules.get("numpy")
    return random.getstate(), None if numpy is None else numpy.random.get_state()


def _set_random(states: tuple[Any, Any]) -> None:
    own, numpys = states
    random.setstate(own)
    if numpys is not None:
        sys.modules["numpy"].random.set_state(numpys)
