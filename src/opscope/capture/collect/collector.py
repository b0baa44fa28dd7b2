"""What is looked at while torch runs, beyond ops and calls: each thing by a collector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from opscope.capture.log.hooks import Error, Given, ReturnedCall, RunningOp, Snapshot


class Collector(Protocol):
    """Looks at what runs inside a block, and gives what it made of that in the end.

    To be given to `opscope.trace` as ``collectors=[...]``. A class has those of the methods that
    it needs; what it has none for costs nothing. What they run is not recorded and changes
    nothing: modes, grad mode and random numbers are put back. They may look at tensors, and are
    not to write them. One that raises is called no more, and `Trace.collected` raises a
    `CollectorError`; with an attribute ``stops`` that is true, the program is stopped with that.

    >>> import torch, opscope
    >>> class Additions:
    ...     def start(self):
    ...         self.count = 0
    ...     def after_op(self, op):
    ...         self.count += op.name == "aten.add.Tensor"
    ...     def result(self):
    ...         return self.count
    >>> with opscope.trace(collectors=[Additions()]) as trace:
    ...     y = torch.ones(2) + 1 + 1
    >>> trace.collected
    (2,)
    """

    def start(self) -> None:
        """Begin: the block is entered."""

    def resume(self) -> None:
        """Go on: it is entered again, after a time in which nothing was seen."""

    def before_op(self, op: RunningOp) -> None:
        """Look at an operator that is about to run."""

    def after_op(self, op: RunningOp) -> None:
        """Look at one that ran."""

    def returned(self, call: ReturnedCall) -> None:
        """Look at a torch function, or a module, that returned."""

    def stop(self) -> None:
        """End: the block is left."""

    def result(self) -> Any:
        """Return what was made of it all."""


class Editor(Protocol):
    """Gives the program other results than its torch functions and modules returned.

    To be given to `opscope.trace` as ``editors=[...]``. A collector looks, and can change nothing;
    an editor is part of the program: what it runs is recorded, below the module that returned or
    after the function, and what it raises ends the program as its own error would. It is asked in
    the forward: not for what the autograd engine runs, what a compiled region or a fused kernel
    runs inside, nor for what an editor runs itself; with ``layers=False`` only for modules.

    >>> import torch, opscope
    >>> class Halve:
    ...     def replace(self, call):
    ...         return call.result / 2 if call.name == "0" else None
    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Identity())
    >>> x = torch.ones(2)
    >>> with opscope.trace(model, editors=[Halve()]) as trace:
    ...     y = model(x)
    >>> y
    tensor([0.5000, 0.5000])
    >>> [(layer.label, layer.module) for layer in trace][1:3]
    [('relu_1_1', '0'), ('div_1_2', '0')]
    """

    def replace(self, call: ReturnedCall) -> Any:
        """Return what the program is to be given in the place of ``call.result``; None for that."""


class InnerCollector:
    """A collector of opscope's own, which may tie what it keeps to values.

    The methods that a class does not have itself are never called.

    Attributes:
        eager: Whether each op and call is ingested at once, so that values are known.
    """

    eager: ClassVar[bool] = False

    def hears(self, moment: str) -> bool:
        """Whether it has a method of this name."""
        return getattr(type(self), moment) is not getattr(InnerCollector, moment)

    # ------------------------------------------------------------------- the block

    def start(self) -> None:
        """Begin: the block is entered."""

    def resume(self) -> None:
        """Go on: it is entered again, after a time in which nothing was seen."""

    def stop(self, buffers: Iterable[torch.Tensor], known: Iterable[Any]) -> None:
        """End: from here on no op is seen.

        Args:
            buffers: The buffers that are there.
            known: Weak references to the tensors that were seen.
        """

    def joined(self, rows: Mapping[int, int]) -> None:
        """Take values for others, which are the same tensors."""

    def swept(self) -> None:
        """Drop what is known of tensors that are gone."""

    # ------------------------------------------------------------------------- ops

    def first_seen(self, tensor: torch.Tensor, snapshot: Snapshot) -> None:
        """Look at a tensor from outside, before any op can change it."""

    def before_op(self, op: RunningOp) -> Error:
        """Look at an op that is about to run; return the error to raise instead."""

    def before_write(self, tensors: Iterable[torch.Tensor]) -> None:
        """Look at tensors that an op is about to write."""

    def after_op(self, op: RunningOp) -> Error:
        """Look at an op that ran; return the error to raise."""

    def before_region(self, tensors: Iterable[torch.Tensor]) -> None:
        """Look at what a compiled region is given, in which no op is seen."""

    def after_region(self, op: RunningOp, wrote: list[torch.Tensor]) -> Error:
        """Look at what it gave, as the one op that it is."""

    # ----------------------------------------------------------------------- calls

    def returned(self, call: ReturnedCall) -> Error:
        """Look at a torch function or module that returned."""

    def model_entered(self, model: nn.Module, inputs: Given) -> None:
        """Look at what the model is given, by path."""

    def model_returned(self, outputs: Given) -> Error:
        """Look at what it returned; return the error to raise."""

    # ---------------------------------------------------- values, once they are known

    def numbered(self, snapshot: Snapshot, row: int, storage: int) -> None:
        """Take the numbers of a tensor from outside and of its storage."""

    def stored(self, live: Any, number: int) -> None:
        """Take the number of a storage, known by the weak reference to it."""

    def noted(self, row: int, note: Any) -> None:
        """Take back a note, with the value that it is of."""

    def called(self, tensor: torch.Tensor, row: int) -> None:
        """Look at a tensor that a call returned."""

    def gave(self, tensor: torch.Tensor, row: int) -> None:
        """Look at one that an op outside of all calls gave."""


class NoteTaker(InnerCollector):
    """One that makes a note of each tensor that a call returns, which comes back with its value.

    A note goes into the log, as long as it is not known which value the tensor is. There may be
    one note taker.

    Attributes:
        every_op: Whether it makes one of what each op gives, too.
    """

    every_op = False

    def take(self, tensor: torch.Tensor) -> Any:
        """Return a note of a tensor."""

    def take_again(self, tensor: torch.Tensor) -> Any:
        """Return the last one if the tensor is as it was then, else a new one."""

    def take_written(self, known: Iterable[Any]) -> list[Any]:
        """Return one of each tensor that was written since it came to be, None of the others.

        Args:
            known: Weak references to them.
        """
        raise NotImplementedError
