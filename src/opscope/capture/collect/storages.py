"""When the memory of tensors is allocated and freed.

A storage of torch's is one object of Python for as long as any tensor has it, so that the end of
that object is the end of the memory, whoever held it: a variable, autograd, an optimizer.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from weakref import ref

import torch

from opscope.capture.collect.collector import InnerCollector
from opscope.capture.log.event_log import Log
from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import Snapshot, storage_of
from opscope.capture.tables.tables import Tables
from opscope.operators.known import LIFT
from opscope.operators.plans import results
from opscope.records.columns.columns import NONE, Column, Optional
from opscope.records.columns.table import Table
from opscope.records.storages import StorageLife
from opscope.torch_api import is_wrapper_subclass


class Life:
    """What is known of one storage.

    Attributes:
        live: The weak reference to it that the log has too.
        nbytes: Its size.
        device: Where it is.
        born: The op that allocated it, NONE if it was there before.
        freed: The number of ops that had run when it was freed, NONE as long as it is there.
        number: What the tables call it, NONE until they have met it.
        parameter: The number of the parameter whose it is, or whose gradient, NONE for any other.
        is_gradient: Whether it is the gradient.
        end: The weak reference that tells when it ends, while the program is watched.
    """

    __slots__ = (
        "born", "device", "end", "freed", "is_gradient", "live", "nbytes", "number", "parameter",
    )  # fmt: skip

    def __init__(self, live: ref[Any], storage: Any, device: torch.device, born: int) -> None:
        self.live = live
        self.nbytes: int = storage.nbytes()
        self.device = str(device)
        self.born = born
        self.freed = self.number = self.parameter = NONE
        self.is_gradient = False
        self.end: ref[Any] | None = None

    def wait(self, log: ref[Log]) -> None:
        """Note when it ends."""
        storage = self.live()
        if storage is not None:
            self.end = ref(storage, partial(_ended, self, log))


class StorageLives(InnerCollector):
    """The storages that the program had, each once.

    Attributes:
        lives: By ``id`` of the weak reference to each.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = ref(tables)
        self._log = ref(tables.log)
        self.lives: dict[int, Life] = {}
        self._past: list[Life] = []  # of storages that got another size since
        self._parameters = 0  # how many are taken down
        self._numbers: dict[int, tuple[ref[Any], int]] = {}  # of those that are not taken down yet

    def resume(self) -> None:
        """Go on waiting for the ends of those that are there."""
        for life in self.lives.values():
            if life.freed == NONE and life.live() is None:
                _ended(life, self._log, None)
            elif life.freed == NONE:
                life.wait(self._log)

    def stop(self, buffers: Iterable[torch.Tensor], known: Iterable[Any]) -> None:
        """Leave nothing behind."""
        for life in self.lives.values():
            life.end = None

    def before_op(self, op: RunningOp) -> None:
        """Take down what the model holds, before the first op changes it."""
        self._hold_parameters()

    def first_seen(self, tensor: torch.Tensor, snapshot: Snapshot) -> None:
        """Take down the storage of a tensor from outside."""
        self._made(tensor, NONE)

    def after_op(self, op: RunningOp) -> None:
        """Take down the storages that an op made."""
        log = self._log()
        if log is None:
            return
        at = log.op_count - 1
        for tensor in (*results(op.result), *op.written()):
            self._made(tensor, at)
        if op.name == LIFT:  # of data that was made of Python's or NumPy's just now
            self._lifted(op.args[0], at)
        self._hold_parameters()

    def after_region(self, op: RunningOp, wrote: list[torch.Tensor]) -> None:
        """Take down those that a compiled region made."""
        self.after_op(op)

    def stored(self, live: ref[Any], number: int) -> None:
        """Take the number that a storage has got."""
        life = self.lives.get(id(live))
        if life is None:  # ops are ingested before collectors see them, if one of these asks for it
            self._numbers[id(live)] = live, number
        else:
            life.number = number

    def records(self, op_count: int) -> Sequence[StorageLife]:
        """Return all of them, those that were there before first, as plain data."""
        lives = sorted((*self._past, *self.lives.values()), key=lambda life: life.born)
        columns: dict[str, Column[Any]] = {
            "nbytes": [life.nbytes for life in lives],
            "device": [life.device for life in lives],
            "number": Optional(array("i", [life.number for life in lives])),
            "born": Optional(array("i", [life.born for life in lives])),
            "freed": Optional(array("i", [min(life.freed, op_count) for life in lives])),
            "parameter": Optional(array("i", [life.parameter for life in lives])),
            "is_gradient": [life.is_gradient for life in lives],
        }
        return Table(StorageLife, len(lives), columns)

    def _hold_parameters(self) -> None:
        """Take down the parameters and gradients that the model has, used or not."""
        tables = self._tables()
        if tables is None or tables.parameters.count == self._parameters:
            return
        first, self._parameters = self._parameters, tables.parameters.count
        for number in range(first, self._parameters):
            tensor = tables.parameters.tensor(number)
            for held, is_gradient in ((tensor, False), (_gradient(tensor), True)):
                life = self._made(held, NONE)
                if life is not None:
                    life.parameter, life.is_gradient = number, is_gradient

    def _lifted(self, tensor: Any, op: int) -> None:
        life = self._made(tensor, op)
        if life is not None and life.born == NONE:
            life.born = op

    def _made(self, tensor: torch.Tensor | None, op: int) -> Life | None:
        """Take down the storage of a tensor; return what is known of it."""
        if tensor is None or is_wrapper_subclass(tensor):  # which has its memory in others
            return None
        storage = storage_of(tensor)
        if storage is None:
            return None
        live, nbytes = ref(storage), storage.nbytes()
        known = self.lives.get(id(live))
        if known is None:
            return self._add(live, storage, tensor.device, op)
        if known.nbytes != nbytes and op != NONE:  # it got another size
            past = Life(live, storage, tensor.device, known.born)
            past.nbytes, past.freed, past.number = known.nbytes, op, known.number
            self._past.append(past)
            known.born, known.nbytes = op, nbytes
        return known

    def _add(self, live: ref[Any], storage: Any, device: torch.device, born: int) -> Life:
        life = self.lives[id(live)] = Life(live, storage, device, born)
        _, life.number = self._numbers.pop(id(live), (live, NONE))
        life.wait(self._log)
        return life


def _gradient(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.grad if tensor is not None and tensor.is_leaf else None


def _ended(life: Life, log: ref[Log], _: object) -> None:
    """Note that a storage is gone: called wherever its last tensor goes, so as little as can be."""
    found = log()
    if found is not None and life.freed == NONE:
        life.freed, life.end = found.op_count, None
