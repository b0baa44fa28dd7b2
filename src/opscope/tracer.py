"""The front desk: `trace`, and the block that makes a record."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from torch import nn

from opscope.analysis.nonfinite import locate
from opscope.answers.reading import Reading
from opscope.capture.assemble.recording import build_recording
from opscope.capture.block import Block, Exit, Kind, Raised, Where
from opscope.capture.collect.collector import Collector, Editor
from opscope.capture.collect.nonfinite.checker import NonFiniteChecker
from opscope.capture.collect.user_collectors import UserCollector
from opscope.capture.collect.wanted import Wanted, check_collectors, check_editors
from opscope.capture.session import Session
from opscope.errors import (
    CALL_IT,
    LayerNotFound,
    NonFiniteError,
    OptionError,
    TraceStateError,
    check_flags,
    check_model,
)
from opscope.exporters.progress import waiting
from opscope.keeping.live import LiveTensors
from opscope.layer import Layers
from opscope.record import Record
from opscope.records.recording import Failure, Recording
from opscope.saving import Save, What, as_save, check_plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from typing_extensions import Self


def trace(
    model: nn.Module | None = None,
    *inputs: object,
    layers: bool = True,
    save: What | Save = None,
    gradients: What | Save = None,
    replayable: bool = False,
    saved_for_backward: bool = False,
    memory: bool = False,
    digests: bool = False,
    stop_on_nonfinite: bool = False,
    collectors: Sequence[Collector] = (),
    editors: Sequence[Editor] = (),
) -> Trace:
    """Record every aten operator that runs inside a ``with`` block.

    Args:
        model: The module that gives names to parameters and modules; without one, the first that
            runs. It is called inside the block, and so can be any code that runs torch.
        inputs: None.
        layers: Whether to record torch functions; without, each op is a layer of its own.
        save: What activations to keep: ``"all"``, ``None`` or ``"none"``, a list of keys, see
            `Trace.__getitem__`, or a `Save`, which also says in which form.
        gradients: Whose gradients to keep, in the same words, of any backward through the program,
            inside the block or after it, see `Layer.gradient`.
        replayable: Whether to keep what `Trace.validate` needs: every result, and copies of
            all that comes from outside, parameters included.
        saved_for_backward: Whether to note what `Trace.saved_for_backward` tells.
        memory: Whether to note what `Trace.memory` tells.
        digests: Whether to note each value in a few numbers, see `Recording.digests`.
        stop_on_nonfinite: Whether to raise a `NonFiniteError` where the program gets to see a bad
            number: a NaN, or an infinity that no argument and no data put there. It names the op
            that made it out of good ones, or the parameter, buffer, input or data it came in with:
            `Trace.first_nonfinite` has the rule. It costs a pass over memory for each result.
        collectors: What else is to look at what runs, see `Collector`.
        editors: What may give it other results than it computed, see `Editor`.

    Returns:
        A `Trace`, to be read after its ``with`` block; entered again it records further passes.

    Raises:
        OptionError: For an argument of the wrong kind, before anything is recorded.

    >>> import torch, opscope
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(1, 4)
    >>> with opscope.trace(model) as trace:
    ...     y = model(x)
    >>> trace.layer_labels
    ['input_1_0', 'linear_1_1', 'relu_1_2', 'output_1_3']
    """
    hint = " or None; a function: call it inside `with opscope.trace():`"
    check_model(model, (nn.Module, type(None)), hint)
    if inputs:
        raise OptionError("trace takes the model alone" + CALL_IT)
    flags = {
        "replayable": replayable, "saved_for_backward": saved_for_backward, "memory": memory,
        "digests": digests, "stop_on_nonfinite": stop_on_nonfinite,
    }  # fmt: skip
    check_flags(layers=layers, **flags)
    kept, kept_gradients = as_save(save, "save"), as_save(gradients, "gradients")
    if replayable:
        check_plain(kept)
    wanted = Wanted(
        save=kept.options if kept.keys else None,
        every_op=replayable or not layers,
        gradients=kept_gradients.options if kept_gradients.keys else None,
        collectors=check_collectors(collectors),
        **flags,
    )
    makes = partial(Session, model, layers, wanted.make, check_editors(editors))
    return Trace(Block(makes), kept, kept_gradients)


class Trace(Record):
    """A block that is recorded, and then its record, with the tensors that were kept.

    `trace` makes one. No tensor is kept alive but those that ``save`` asked for.
    """

    def __init__(self, block: Block, save: Save, gradients: Save) -> None:
        self._block = block
        self._save = save
        self._save_gradients = gradients
        self._read: Layers | None = None  # once it was read

    def _op_count(self) -> int:
        return self._block.session.tables.log.op_count if hasattr(self, "_block") else 0

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raise an error: not the trace is called, but the model in its block."""
        raise TraceStateError("a trace is not called" + CALL_IT)

    # ------------------------------------------------------------------ entering and leaving

    def __enter__(self) -> Self:
        self._read = None
        before = self._block.state
        try:
            self._block.enter(sys._getframe(1))
            return self  # noqa: TRY300 (an interrupt may come here too)
        except TraceStateError:
            raise
        except BaseException:
            self._block.go_back(before)
            raise

    def _leave(self, kind: Kind, error: Raised, trace_back: Where) -> None:
        """End what `__enter__` began."""
        if self._block.leave(error, trace_back):
            self._end(error)
        self._block.forget_exit()

    __exit__ = Exit(_leave, lambda trace: trace._block)

    def _end(self, error: BaseException | None) -> None:
        """Raise what is to be told of the block, and let go of what nobody asked for."""
        session = self._block.session
        finite = session.find(NonFiniteChecker)
        left = None
        if error is None and finite is not None and finite.has_left():
            left = finite.left(self.recording, scaled=bool(session.scaler_sites()))
        for found in () if finite is None else finite.raised():
            locate(found, self.recording, self.passes)
        if isinstance(bad := left or error, NonFiniteError):
            known = self.recording.failure or Failure(type(bad).__name__, "")
            self._take(replace(self.recording, failure=replace(known, message=str(bad))))
        both = self._save.keys, self._save_gradients.keys
        is_selective = any(keys and keys != "all" for keys in both)
        if is_selective:
            self.tensors.drop_unwanted()
        if left is not None:
            raise left
        if is_selective and error is None and (unknown := self._reading.unknown()):
            raise LayerNotFound("; ".join(unknown))

    # ------------------------------------------------------------------ what was recorded

    @property
    def _layers(self) -> Layers:
        read = self._read
        if read is None:
            if self._block.state != "closed":
                is_open = self._block.state == "open"
                when = "is still being recorded" if is_open else "was never entered"
                message = f"this trace {when}; read it after `with opscope.trace(...) as trace:`"
                raise TraceStateError(message)
            with waiting("reading") as track:
                read = self._take(build_recording(self._block.session, track))
        return read

    def _take(self, recording: Recording) -> Layers:
        """Have this be what was recorded."""
        reading = Reading(recording, self._save.keys, self._save_gradients.keys)
        self._read = Layers(reading, LiveTensors(self._block.session, reading))
        return self._read

    @property
    def tensors(self) -> LiveTensors:
        """What was kept beside the record, by value."""
        tensors = self._layers.tensors
        assert isinstance(tensors, LiveTensors)
        return tensors

    @property
    def collected(self) -> tuple[Any, ...]:
        """What each of the ``collectors`` made of what ran, in their order.

        Raises:
            CollectorError: If one of them raised.
        """
        known = self._block.session.collectors
        return tuple(one.result() for one in known if isinstance(one, UserCollector))

    # ----------------------------------------------------------------- how it is shown

    def __str__(self) -> str:
        return super().__str__() if self._block.state == "closed" else repr(self)

    def __repr__(self) -> str:
        if self._block.state == "closed":
            return super().__repr__()
        return f"<opscope.Trace, {'recording' if self._block.state == 'open' else 'not entered'}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.summary() if self._block.state == "closed" else repr(self)

    def _repr_html_(self) -> str | None:
        return super()._repr_html_() if self._block.state == "closed" else None
