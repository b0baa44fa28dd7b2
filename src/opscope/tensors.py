"""What was kept beside a record: activations, gradients, parameters, what came from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import nn

from opscope.capture.collect.autograd.gradients import Gradients
from opscope.capture.collect.kept.activations import Activations
from opscope.capture.collect.kept.replay_inputs import ReplayInputs
from opscope.capture.session import Session
from opscope.errors import NotSaved
from opscope.reading import Reading
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import GradientFlow
from opscope.saving import unwrapped

# Transforms that leave a value what it is.
_COPIES = (None, torch.clone, torch.Tensor.clone)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a trace was made, as far as what takes tensors has to know.

    Attributes:
        is_model_named: Whether the trace was told which module the model is.
        saw_functions: Whether every torch function was seen, and so where the grad mode was set.
        scaler_sites: The call sites of what a `GradScaler` ran.
    """

    is_model_named: bool = False
    saw_functions: bool = True
    scaler_sites: frozenset[int] = frozenset()


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
    def replay_inputs(self) -> ReplayInputs:
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


def are_elsewhere() -> NotSaved:
    """Return the error for what a record has no tensors for."""
    message = (
        "this trace was pickled or copied, which takes the record and no tensors; "
        "ask the original, or keep what you need of it"
    )
    return NotSaved(message)


class LiveTensors:
    """Those that a trace has in memory, and weak references to those of the model.

    Args:
        session: What recorded them.
        reading: The record of it.
    """

    def __init__(self, session: Session, reading: Reading) -> None:
        self._session = session
        self._reading = reading
        self._values = session.tables.values
        self._activations = session.find(Activations)
        self._gradients = session.find(Gradients)
        self._originals = session.find(ReplayInputs)

    def drop_unwanted(self) -> None:
        """Let go of what was kept in case it should be asked for and was not."""
        activations, reading = self._activations, self._reading
        kept = activations is not None and not (activations.is_reduced or activations.every_op)
        if activations is not None and kept and reading.is_selective:
            activations.keep_only(reading.chosen.values)
        if self._gradients is not None and reading.saved_gradients != "all":
            self._gradients.keep_only(reading.chosen_gradients.values)

    # -------------------------------------------------------------------- activations

    def activation(self, item: LayerPass) -> Any:
        """Return what was saved of what a layer gave; of several tensors a tuple.

        Raises:
            NotSaved: If nothing was, or it is gone.
            OptionError: If the form in which it should be saved cannot be made of it.
        """
        if self._activations is None or not self._reading.was_saved(item):
            message = (
                f"the activation of {item.label} was not saved; trace with save='all' "
                f"or save=[{item.layer_label!r}]"
            )
            raise NotSaved(message)
        kept = [self._activations.find(value) for value in item.values]
        if item.kind == "input" and item.call is None and kept == [None]:
            return self._given_to_program(item)
        if any(one is None for one in kept):
            message = (
                f"the activation of {item.label} was saved, but its memory was freed, or "
                "written after the block; read it before, or save with "
                "opscope.Save(..., transform=torch.clone)"
            )
            raise NotSaved(message)
        what = f"the activation of {item.label}"
        found = tuple(unwrapped(one.value, what) for one in kept if one is not None)
        return found[0] if len(found) == 1 else found

    def _given_to_program(self, item: LayerPass) -> torch.Tensor:
        """Return what a program was given that is no module's, and of which no call tells."""
        tensor = None if self._originals is None else self._outside(*item.values)
        if tensor is None:
            message = (
                f"{item.label} is what a program without a model was given, which is not saved "
                "unless it was traced with replayable=True"
            )
            raise NotSaved(message)
        return tensor

    def instead(self, item: LayerPass) -> None:
        """Return None: what was saved is here."""

    def saved(self, value: int) -> torch.Tensor | None:
        """Return what was saved for a value if it is a tensor and is still there, None else."""
        return None if self._activations is None else self._activations.get(value)

    # ---------------------------------------------------------------------- gradients

    @property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients have flowed so far."""
        return GradientFlow() if self._gradients is None else self._gradients.flow()

    def gradients(self, item: LayerPass) -> list[tuple[Any, ...]]:
        """Return per tensor that a layer gave the gradients that reached it.

        Raises:
            NotSaved: If they were not asked for.
            OptionError: If the form in which they should be saved cannot be made of them.
        """
        if self._gradients is None or not self._reading.was_gradient_saved(item):
            message = (
                f"the gradient of {item.label} was not asked for; trace with "
                f"gradients='all' or gradients=[{item.layer_label!r}]"
            )
            raise NotSaved(message)
        what = f"the gradient of {item.label}"
        return [tuple(unwrapped(one, what) for one in self.reached(v)) for v in item.values]

    def reached(self, value: int) -> tuple[Any, ...]:
        """Return what was kept of the gradients that reached a value, one for each backward."""
        return () if self._gradients is None else self._gradients.get(value)

    # ----------------------------------------------------------- what the program stands on

    def parameter(self, number: int) -> torch.Tensor | None:
        """Return a parameter or buffer; as it was, if it is gone and was kept."""
        record = self._reading.recording.parameters[number]
        tensor = self._session.tables.parameters.tensor(number)
        if tensor is None and record.value is not None:
            tensor = self._outside(record.value)
            if tensor is not None and record.kind == "parameter":
                tensor = nn.Parameter(tensor, requires_grad=record.trainable)
        return tensor

    def outside(self, value: int) -> tuple[torch.Tensor | None, bool]:
        """Return a tensor from outside, as it was if it is gone, and whether it is alive."""
        tensor = None if value in self._values.constants else self._values.tensor(value)
        return (self._outside(value), False) if tensor is None else (tensor, True)

    def _outside(self, value: int) -> torch.Tensor | None:
        """Return a tensor from outside as it was, or as it is while it is alive."""
        if value in self._values.constants:
            return self._values.constants[value]
        if self._originals is None:
            return self._values.tensor(value)
        return self._originals.tensor(self._values, value)

    def forward(self, module: int) -> Callable[..., Any] | None:
        """Return the ``forward`` of a module by its number, None if it is gone."""
        known = self._session.modules.modules[module].live()
        return None if known is None else known.forward

    @property
    def model_forward(self) -> Callable[..., Any] | None:
        """The ``forward`` of the model, None if there is none, or it is gone."""
        root = self._session.modules.root
        return None if root is None else self.forward(root.index)

    @property
    def circumstances(self) -> Circumstances:
        """How the trace was made."""
        session = self._session
        return Circumstances(
            is_model_named=session.modules.is_named,
            saw_functions=session.layers and not session.modules.ran_compiled,
            scaler_sites=session.scaler_sites(),
        )

    # ------------------------------------------------------------------ what a replay needs

    @property
    def replay_inputs(self) -> ReplayInputs:
        """Copies of all that came from outside, and the states of random number generators.

        Raises:
            NotSaved: If they were not kept.
        """
        if self._originals is None:
            message = "a trace can be replayed if made with opscope.trace(..., replayable=True)"
            raise NotSaved(message)
        return self._originals

    def known_values(self) -> Callable[[int], torch.Tensor | None]:
        """Return what gives the tensor that a value was, None where that is not known.

        Raises:
            NotSaved: If not all layers were saved, or not as they were.
        """
        activations, recording = self._activations, self._reading.recording
        if activations is None or not (activations.every_op or self._reading.saved == "all"):
            message = "the values were not saved; trace with save='all' or replayable=True"
            raise NotSaved(message)
        if activations.options.transform not in _COPIES:
            message = "the values were not saved as they were; trace without a transform"
            raise NotSaved(message)
        # What was not copied can be read as it is now, unless the program has written it since.
        are_copied = self._originals is not None
        records = recording.values
        written = {records[value].storage for op in recording.ops for value in op.writes}

        def known(value: int) -> torch.Tensor | None:
            kept, record = activations.get(value), records[value]
            if kept is not None or record.origin != "outside":
                return kept
            is_as_it_was = are_copied or record.storage not in written
            return self._outside(value) if is_as_it_was else None

        return known
