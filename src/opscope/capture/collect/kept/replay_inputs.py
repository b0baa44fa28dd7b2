"""What came from outside, as it was when it was first seen: what a replay starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from weakref import ref

import torch

from opscope.capture.collect.collector import InnerCollector
from opscope.capture.log.event_log import Log
from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import Snapshot
from opscope.capture.tables.values import Values
from opscope.capture.unchanged.outside import generators, has_own_dispatch, unseen
from opscope.torch_api import DisableTorchFunction


class StartsReplay(Protocol):
    """What a replay starts from, live or out of a file."""

    @property
    def storages(self) -> Mapping[int, torch.UntypedStorage]:
        """By storage number, a copy of its bytes."""

    @property
    def tensors(self) -> Mapping[int, torch.Tensor]:
        """By value, a copy of a tensor that has no plain storage, or a class of its own."""

    @property
    def generators(self) -> Mapping[str, torch.Tensor]:
        """The state of each device's random number generator at the start."""

    @property
    def draws(self) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The same before each op that draws from it, by op."""

    @property
    def objects(self) -> Mapping[int, Mapping[str, Any]]:
        """By op, the objects of C++ that it was given, by argument."""


class ReplayInputs(InnerCollector):
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

    def __init__(self, log: Log) -> None:
        self._log = ref(log)  # which refers to `first_seen`
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        self.generators: dict[str, torch.Tensor] = {}
        self.draws: dict[int, dict[str, torch.Tensor]] = {}
        self.objects: dict[int, dict[str, Any]] = {}
        # What has no number yet: by the weak references in a snapshot, and those to keep the keys.
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._copied: dict[int, object] = {}

    def start(self) -> None:
        """Take down the state of the default generators."""
        self.generators = generators()

    def first_seen(self, tensor: torch.Tensor, snapshot: Snapshot) -> None:
        """Copy a tensor from outside, unless its storage was copied before."""
        live, storage = snapshot[:2]
        with unseen(tensor), DisableTorchFunction(), torch.no_grad():
            if storage is None or has_own_dispatch(tensor):
                self._tensors[id(live)] = tensor.detach().clone()
            elif id(storage) not in self._copied:
                self._copied[id(storage)] = storage
                self._storages[id(storage)] = tensor.untyped_storage().clone()

    def resume(self) -> None:
        """Copy again what is seen again: the program went on unseen, and may have written it."""
        self._copied.clear()

    def numbered(self, snapshot: Snapshot, row: int, storage: int) -> None:
        """Give a copy the numbers that the tensor and its storage have got."""
        number = storage
        live, storage = snapshot[:2]
        if id(live) in self._tensors:
            self.tensors[row] = self._tensors[id(live)]
            del self._tensors[id(live)]
        if id(storage) in self._storages:
            self.storages[number] = self._storages[id(storage)]
            del self._storages[id(storage)]

    def before_op(self, op: RunningOp) -> None:
        """Take that down again before an op that draws, and keep packed parameters.

        Nothing changes these.
        """
        log = self._log()
        if log is None:
            return
        if op.plan.draws:
            self.draws[log.op_count] = generators()
        if op.plan.objects:
            self.objects[log.op_count] = op.plan.objects_in(op.args, dict(op.kwargs))

    def tensor(self, values: Values, row: int) -> torch.Tensor | None:
        """Return a tensor from outside as it was; as it is while it is alive if it was not kept."""
        shape, stride, dtype, device = values.layout_of(row)
        storage = self.storages.get(values.storages[row])
        if storage is None:
            return self.tensors.get(row, values.tensor(row))
        empty = torch.empty(0, dtype=dtype, device=device)
        return empty.set_(storage.clone(), values.offsets[row], shape, stride)

    def kept(self) -> Iterator[tuple[str, Any]]:
        """Yield all that a replay starts from, by the name that it has in a file.

        Objects of C++ are not among it, which no file can hold.
        """
        for number, storage in self.storages.items():
            yield f"storage.{number}", storage
        for row, tensor in self.tensors.items():
            yield f"input.{row}", tensor
        for device, state in self.generators.items():
            yield f"generator.{device}", state
        for op, states in self.draws.items():
            for device, state in states.items():
                yield f"draw.{op}.{device}", state
