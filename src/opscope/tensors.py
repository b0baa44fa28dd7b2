"""What is asked of a record and was kept beside it: activations, gradients, what came from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch

from opscope.answers.reading import Reading
from opscope.capture.collect.kept.replay_inputs import StartsReplay
from opscope.errors import NotSaved
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import GradientFlow, Recording


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a trace was made, as far as what takes tensors has to know.

    Attributes:
        is_model_named: Whether the trace was told which module the model is.
        saw_functions: Whether every torch function was seen, and so where the grad mode was set.
        scaler_sites: The call sites of what a `GradScaler` ran.
        saves_every_op: Whether what each op gave was saved.
        saves_as_it_was: Whether it was saved as it was, and not what a ``transform`` made of it.
    """

    is_model_named: bool = False
    saw_functions: bool = True
    scaler_sites: frozenset[int] = frozenset()
    saves_every_op: bool = False
    saves_as_it_was: bool = True


class Tensors(Protocol):
    """What is asked of a record that no recording holds; raises `NotSaved` where it was not kept."""

    @property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients have flowed so far."""

    def activation(self, item: LayerPass) -> Any:
        """Return what was saved of what a layer gave; raises `NotSaved` if nothing was."""

    def gradients(self, item: LayerPass) -> list[tuple[Any, ...]]:
        """Return per tensor that a layer gave the gradients that reached it, likewise."""

    def instead(self, item: LayerPass) -> str | None:
        """Return what to show for an activation that was asked for and is elsewhere."""

    @property
    def circumstances(self) -> Circumstances:
        """How the trace was made."""

    def known_values(self) -> Callable[[int], torch.Tensor | None]:
        """Return what gives the tensor that a value was, None where that is not known."""

    @property
    def replay_inputs(self) -> StartsReplay:
        """Copies of all that came from outside, and the states of random number generators."""

    def saved(self, value: int) -> torch.Tensor | None:
        """Return what was saved for a value, None for nothing."""

    def parameter(self, number: int) -> torch.Tensor | None:
        """Return a parameter or buffer by its index, None if it is gone."""

    def outside(self, value: int) -> tuple[torch.Tensor | None, bool]:
        """Return a tensor from outside, None if it is gone, and whether it is as it is now."""

    def forward(self, module: int) -> Callable[..., Any] | None:
        """Return the ``forward`` of a module by its index, None if it is gone."""

    @property
    def model_forward(self) -> Callable[..., Any] | None:
        """The ``forward`` of the model, None if there is none, or it is gone."""

    def kept(self) -> Iterator[tuple[str, Any]]:
        """Yield what goes into a file, by the name that it has there, see `opscope.storage.tensors`."""


class NoTensors:
    """None: those of a record that stands by itself."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    @property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients had flowed when the record was taken."""
        return self._reading.recording.gradient_flow

    def activation(self, item: LayerPass) -> NoReturn:
        """Raise a `NotSaved`."""
        raise are_elsewhere()

    def gradients(self, item: LayerPass) -> NoReturn:
        """Raise a `NotSaved`."""
        raise are_elsewhere()

    def instead(self, item: LayerPass) -> str | None:
        """Return what to show for an activation that was asked for."""
        was_saved = self._reading.was_saved(item)
        return "(values stayed with the original trace)" if was_saved else None

    @property
    def circumstances(self) -> NoReturn:
        """Raise a `NotSaved`, as all that follows does."""
        raise are_elsewhere()

    def known_values(self) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    @property
    def replay_inputs(self) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    def saved(self, value: int) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    def parameter(self, number: int) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    def outside(self, value: int) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    def forward(self, module: int) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    @property
    def model_forward(self) -> NoReturn:
        """Raise it."""
        raise are_elsewhere()

    def kept(self) -> Iterator[tuple[str, Any]]:
        """Yield nothing."""
        yield from ()


def activation_not_saved(item: LayerPass) -> NotSaved:
    """Return the error for an activation that was not asked for."""
    message = (
        f"the activation of {item.label} was not saved; trace with save='all' "
        f"or save=[{item.layer_label!r}]"
    )
    return NotSaved(message)


def gradient_not_saved(item: LayerPass) -> NotSaved:
    """Return the error for a gradient that was not asked for."""
    message = (
        f"the gradient of {item.label} was not asked for; trace with "
        f"gradients='all' or gradients=[{item.layer_label!r}]"
    )
    return NotSaved(message)


def check_values(ran: Circumstances, reading: Reading) -> None:
    """Raise a `NotSaved` if not all layers were saved, or not as they were."""
    if not (ran.saves_every_op or reading.saved == "all"):
        message = "the values were not saved; trace with save='all' or replayable=True"
        raise NotSaved(message)
    if not ran.saves_as_it_was:
        message = "the values were not saved as they were; trace without a transform"
        raise NotSaved(message)


def not_replayable() -> NotSaved:
    """Return the error for a trace that kept nothing of what came from outside."""
    message = "a trace can be replayed if made with opscope.trace(..., replayable=True)"
    return NotSaved(message)


def written_storages(recording: Recording) -> set[int | None]:
    """Return the storages that ops wrote to: what is in them now may not be what was."""
    values = recording.values
    return {values[value].storage for op in recording.ops for value in op.writes}


def are_elsewhere() -> NotSaved:
    """Return the error for what a record has no tensors for."""
    message = (
        "this trace was pickled or copied, which takes the record and no tensors; "
        "ask the original, or keep what you need of it"
    )
    return NotSaved(message)
