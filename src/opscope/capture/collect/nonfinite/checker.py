"""Looks for bad numbers in what each op gives, and raises where the program sees them.

What is bad, where it comes from and when it is an alarm is said in `records.bad_numbers`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import ref

import torch
from torch import nn

from opscope.capture.collect.collector import InnerCollector
from opscope.capture.collect.nonfinite.came_in import CameIn
from opscope.capture.collect.nonfinite.looking import (
    Lying,
    below_autograd,
    is_wrapper,
    look,
    lying,
    measured,
    memory_of,
    no_dispatch,
    no_functions,
    unseen,
)
from opscope.capture.collect.nonfinite.reads import (
    Watched,
    given,
    gives_of,
    gives_only,
    only_shows,
    reads,
    storage_number,
)
from opscope.capture.log.hooks import RunningOp
from opscope.capture.log.snapshots import unwrap_functorch
from opscope.capture.tables.tables import Tables
from opscope.errors import NonFiniteError
from opscope.operators.known import asks_for_form
from opscope.operators.plans import results
from opscope.records.flow.bad_numbers import LOSS, NUMBER, OUTPUT, BadNumbers, Step
from opscope.records.flow.origins import Kinds, Spot
from opscope.records.flow.results import left_behind
from opscope.records.recording import Recording
from opscope.torch_api import (
    MAKE_GRADIENTS,
    AccumulateGrad,
    current_autograd_node,
    current_graph_task,
)

_SCALING = torch.amp.GradScaler.scale.__code__
_OPTIMIZERS = str(Path(torch.optim.__file__).parent)
_OWN = str(Path(__file__).parents[3])
_FIRST_SWEEP = 64
_LISTS = frozenset({tuple, list})
_Tensor = torch.Tensor


class NonFiniteChecker(InnerCollector):
    """Looks at what each op gives, and follows bad numbers to where the program sees them.

    No tensor is kept alive: of one with bad numbers it is known in which memory it lies.

    Args:
        tables: What is recorded.
    """

    def __init__(self, tables: Tables) -> None:
        self._log = tables.log
        self._came_in = CameIn(tables)
        self._bad = BadNumbers(_look_again)
        # By the id of a tensor that an op reads and writes, what was in it before.
        self._before: dict[int, tuple[str, Kinds]] = {}
        self._raised: list[ref[NonFiniteError]] = []
        self._sweep_at = _FIRST_SWEEP

    def before_op(self, op: RunningOp) -> NonFiniteError | None:
        """Look at what an op is about to change; return the error to raise instead, if any."""
        self._before.clear()
        if self._bad.has_gradients and _is_of_an_optimizer(sys._getframe(1)):
            error = self._reads_a_gradient(op)
            if error is not None:
                return error
        if op.plan.writes:
            written = set(map(storage_number, op.written()))
            for _, tensor in reads(op):
                if storage_number(tensor) in written:
                    self._before[id(tensor)] = measured(tensor)
        return None

    def after_op(self, op: RunningOp) -> NonFiniteError | None:
        """Look at what an op gave; return the error to raise if the program sees bad numbers."""
        plan, args, result = op.plan, op.args, op.result
        gives = gives_of(plan)
        if gives == "unwritten memory":
            return None
        with no_dispatch(), no_functions(), below_autograd():  # `unseen`, in a third of the time
            touched = bool(self._bad) and self._is_bad_memory((args, *op.kwargs.values()))
            if result.__class__ is _Tensor and not plan.writes and not touched:  # nearly always
                if gives == "views" and args and storage_number(args[0]) == storage_number(result):
                    return None
                if not look(result):
                    return None
            return self._ran(op, op.written(), touched=touched)

    def after_region(self, op: RunningOp, wrote: list[torch.Tensor]) -> NonFiniteError | None:
        """Do the same for a region that ran unseen, as one op."""
        self._before.clear()
        with unseen():
            return self._ran(op, wrote, touched=bool(self._bad))

    def _ran(
        self, op: RunningOp, wrote: list[torch.Tensor], *, touched: bool
    ) -> NonFiniteError | None:
        """Follow what an op did, if it gave bad numbers, or ``touched`` memory that holds some."""
        bad = [
            (output, Watched(tensor, self._came_in, kinds=kinds))
            for output, tensor in given(op, wrote)
            if (kinds := look(tensor))
        ]
        number = isinstance(op.result, (float, complex)) and not math.isfinite(abs(op.result))
        if not (bad or number or touched):
            return None
        read = [
            (name, Watched(tensor, self._came_in, self._before.get(id(tensor))))
            for name, tensor in reads(op)
        ]
        self._bad.follow(
            Step(
                op=self._log.op_count - 1,
                operator=op.name,
                reads=read,
                writes=[lying(tensor)[0] for tensor in wrote],
                bad=bad,
                arguments=op.arguments(),
                is_view=only_shows(op),
                gives=gives_only(op),
                by_scaler=bool(bad) and _is_below(sys._getframe(1), _SCALING),
            )
        )
        self._note_gradient(op.result, wrote)
        if len(self._bad.spots) > self._sweep_at:
            self._bad.forget(_is_gone)
            self._sweep_at = 2 * len(self._bad.spots) + _FIRST_SWEEP
        if number:
            return self._first_error((NUMBER, tensor) for _, tensor in read)
        if op.name == "aten.ones_like.default" and op.chain and MAKE_GRADIENTS in op.chain:
            return self._first_error((LOSS, tensor) for _, tensor in read)
        return self._kept([tensor for output, tensor in bad if output is None], op.name)

    def _kept(self, wrote: list[Watched], operator: str) -> NonFiniteError | None:
        """Return the error to raise if an op wrote bad numbers into a parameter or buffer."""
        for tensor in wrote:
            if (named := self._came_in.parameter(tensor.tensor)) is not None:
                kind, name, _ = named
                error = self._bad.keep(tensor, kind, name, operator, self._log.op_count - 1)
                if error is not None:
                    return self._raise(error)
        return None

    def _is_bad_memory(self, items: tuple[Any, ...] | list[Any]) -> bool:
        """Whether any of an op's arguments lies in memory that holds bad numbers."""
        spots = self._bad.spots
        for item in items:
            if isinstance(item, _Tensor):
                if id(memory_of(item)) in spots or is_wrapper(item):
                    return True
            elif item.__class__ in _LISTS and self._is_bad_memory(item):
                return True
        return False

    def _note_gradient(self, result: Any, wrote: list[torch.Tensor]) -> None:
        """Note whose gradient it is that the engine has just accumulated, if it has."""
        node = None if current_graph_task() == -1 else current_autograd_node()
        if node.__class__ is AccumulateGrad:
            variable: torch.Tensor = node.variable  # type: ignore[union-attr]
            named = self._came_in.parameter(variable)
            dtype = str(variable.dtype).removeprefix("torch.")
            leaf = f"a {dtype}{list(variable.shape)} leaf" if named is None else named[1]
            for tensor in (*results(result), *wrote):
                if tensor is not None:
                    self._bad.accumulate(lying(tensor)[0], leaf)

    def _reads_a_gradient(self, op: RunningOp) -> NonFiniteError | None:
        """Return the error to raise if an optimizer is about to take up a bad gradient."""
        if asks_for_form(op.name) or gives_of(op.plan) == "views":
            return None
        with unseen():
            for _, tensor in reads(op):
                watched = Watched(tensor, self._came_in)
                if any(s.gradient and s.alarm() for s in self._bad.at(watched.extent)):
                    return self._first_error([("a gradient", watched)])
        return None

    def _first_error(self, seen: Iterable[tuple[str, Watched]]) -> NonFiniteError | None:
        """Return the error to raise where the program sees some tensors, None if there is none."""
        op = max(self._log.op_count - 1, 0)
        errors = (self._bad.seen(tensor, where, op) for where, tensor in seen)
        return self._raise(next((error for error in errors if error is not None), None))

    def _raise(self, error: NonFiniteError | None) -> NonFiniteError | None:
        if error is not None:
            self._raised.append(ref(error))
        return error

    # --------------------------------------------------------- around the model and the block

    def model_entered(self, model: nn.Module, inputs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Note that the model was called."""
        self._came_in.model = ref(model)
        if self._bad:
            for path, tensor in inputs:
                name = self._came_in.input_name(path)
                self._bad.enter(lying(unwrap_functorch(tensor))[0], "input", name)

    def model_returned(self, outputs: Iterable[tuple[str, torch.Tensor]]) -> NonFiniteError | None:
        """Return the error to raise if what the model returned is bad."""
        with unseen():
            return self._first_error(
                (
                    f"{OUTPUT} at {path}" if path else OUTPUT,
                    Watched(unwrap_functorch(given), self._came_in),
                )
                for path, given in outputs
            )

    def resume(self) -> None:
        """Begin anew: the program went on unseen."""
        self._bad = BadNumbers(_look_again)

    def has_left(self) -> bool:
        """Whether there are bad numbers that no op has taken up."""
        return bool(self._bad.left())

    def left(self, recording: Recording, *, scaled: bool) -> NonFiniteError | None:
        """Return the error to raise as the block ends."""
        return self._raise(left_behind(recording, self._bad, scaled=scaled))

    def raised(self) -> list[NonFiniteError]:
        """Return the errors that were raised, as far as somebody still holds them."""
        return [error for live in self._raised if (error := live()) is not None]


def _look_again(spot: Spot) -> Kinds | None:
    assert isinstance(spot.handle, Lying)
    with unseen():
        tensor = spot.handle.tensor()
        return None if tensor is None else look(tensor)


def _is_gone(spot: Spot) -> bool:
    return isinstance(spot.handle, Lying) and spot.handle.memory() is None


def _is_below(frame: FrameType | None, code: object) -> bool:
    """Whether a frame was called, over whatever others, from one that runs some code."""
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def _is_of_an_optimizer(frame: FrameType | None) -> bool:
    """Whether it is one of torch's optimizers that called, past opscope's own frames."""
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_OPTIMIZERS)
