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
from opscope.capture.log.event_log import Log, Snapshot
from opscope.capture.log.hooks import RunningOp
from opscope.capture.tables.parameters import Parameters
from opscope.capture.tables.tables import Tables
from opscope.operators.plans import results
from opscope.records.columns.columns import NONE, Column, Optional
from opscope.records.columns.table import Table
from opscope.records.storages import StorageLife


class Life:
    """What is known of one storage.

    Attributes:
        live: The weak reference to it that the log has too.
        nbytes: Its size.
        device: Where it is.
        born: The op that allocated it, NONE if it was there before.
        freed: The number of ops that had run when it was freed, NONE as long as it is there.
        number: What the tables call it, NONE until they have met it.
        end: The weak reference that tells when it ends, while the program is watched.
    """

    __slots__ = ("born", "device", "end", "freed", "live", "nbytes", "number")

    def __init__(self, live: ref[Any], storage: Any, device: torch.device, born: int) -> None:
        self.live = live
        self.nbytes: int = storage.nbytes()
        self.device = str(device)
        self.born = born
        self.freed = self.number = NONE
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

    def __init__(self, log: Log) -> None:
        self._log = ref(log)
        self.lives: dict[int, Life] = {}
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

    def first_seen(self, tensor: torch.Tensor, snapshot: Snapshot) -> None:
        """Take down the storage of a tensor from outside."""
        live = snapshot[1]
        storage = None if live is None else live()
        if storage is not None:
            self._add(live, storage, tensor.device, NONE)

    def after_op(self, op: RunningOp) -> None:
        """Take down the storages that an op made."""
        log = self._log()
        if log is not None:
            for tensor in results(op.result):
                self._made(tensor, log.op_count - 1)

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

    def records(self, tables: Tables) -> Sequence[StorageLife]:
        """Return all of them, those that were there before first, as plain data."""
        unread = self._unread(tables.parameters)
        lives = sorted(self.lives.values(), key=lambda life: life.born)
        both, none = [*unread.values(), *lives], [NONE] * len(unread)
        columns: dict[str, Column[Any]] = {
            "nbytes": [life.nbytes for life in both],
            "device": [life.device for life in both],
            "number": Optional(array("i", [life.number for life in both])),
            "born": Optional(array("i", [life.born for life in both])),
            "freed": Optional(array("i", [*none, *(life.freed for life in lives)])),
            "parameter": Optional(array("i", [*unread, *([NONE] * len(lives))])),
        }
        return Table(StorageLife, len(both), columns)

    def _unread(self, parameters: Parameters) -> dict[int, Life]:
        """Return, by number, the model's parameters that no op was given, each storage once."""
        found: dict[int, Life] = {}
        known = set(self.lives)
        for number in sorted(parameters.of_model):
            tensor = parameters.tensor(number)
            try:
                storage = None if tensor is None else tensor.untyped_storage()
            except (RuntimeError, NotImplementedError):
                continue
            if tensor is None or storage is None:
                continue
            live = ref(storage)
            if id(live) not in known:
                known.add(id(live))
                found[number] = Life(live, storage, tensor.device, NONE)
        return found

    def _made(self, tensor: torch.Tensor | None, op: int) -> None:
        try:
            storage = None if tensor is None else tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # a sparse or an opaque one
            return
        if tensor is None or storage is None:
            return
        live = ref(storage)
        if id(live) not in self.lives:
            self._add(live, storage, tensor.device, op)

    def _add(self, live: ref[Any], storage: Any, device: torch.device, born: int) -> None:
        if id(live) not in self.lives:
            life = self.lives[id(live)] = Life(live, storage, device, born)
            _, life.number = self._numbers.pop(id(live), (live, NONE))
            life.wait(self._log)


def _ended(life: Life, log: ref[Log], _: object) -> None:
    """Note that a storage is gone: called wherever its last tensor goes, so as little as can be."""
    found = log()
    if found is not None and life.freed == NONE:
        life.freed, life.end = found.op_count, None
