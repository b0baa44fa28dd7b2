"""The tensors of a trace: those that it has in memory, and weak references to those of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from opscope.answers.reading import Reading
from opscope.capture.collect.autograd.gradients import Gradients
from opscope.capture.collect.kept.activations import Activations
from opscope.capture.collect.kept.replay_inputs import ReplayInputs
from opscope.capture.collect.kept.transforms import Failed
from opscope.capture.session import Session
from opscope.errors import NotSaved
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import GradientFlow
from opscope.saving import unwrapped
from opscope.storage.tensors import NotThere
from opscope.tensors import (
    Circumstances,
    activation_not_saved,
    check_values,
    gradient_not_saved,
    not_replayable,
    written_storages,
)

# Transforms that leave a value what it is.
_COPIES = (None, torch.clone, torch.Tensor.clone)


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
            raise activation_not_saved(item)
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
            raise gradient_not_saved(item)
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
        session, activations = self._session, self._activations
        return Circumstances(
            is_model_named=session.modules.is_named,
            saw_functions=session.layers and not session.modules.ran_compiled,
            scaler_sites=session.scaler_sites(),
            saves_every_op=activations is not None and activations.every_op,
            saves_as_it_was=activations is None or activations.options.transform in _COPIES,
        )

    # ------------------------------------------------------------------ what a replay needs

    @property
    def replay_inputs(self) -> ReplayInputs:
        """Copies of all that came from outside, and the states of random number generators.

        Raises:
            NotSaved: If they were not kept.
        """
        if self._originals is None:
            raise not_replayable()
        return self._originals

    def known_values(self) -> Callable[[int], torch.Tensor | None]:
        """Return what gives the tensor that a value was, None where that is not known.

        Raises:
            NotSaved: If not all layers were saved, or not as they were.
        """
        activations, recording = self._activations, self._reading.recording
        check_values(self.circumstances, self._reading)
        assert activations is not None
        # What was not copied can be read as it is now, unless the program has written it since.
        are_copied = self._originals is not None
        records, written = recording.values, written_storages(recording)

        def known(value: int) -> torch.Tensor | None:
            kept, record = activations.get(value), records[value]
            if kept is not None or record.origin != "outside":
                return kept
            is_as_it_was = are_copied or record.storage not in written
            return self._outside(value) if is_as_it_was else None

        return known

    # ---------------------------------------------------------------- what goes into a file

    def kept(self) -> Iterator[tuple[str, Any]]:
        """Yield what goes into a file, by the name that it has there, see `opscope.storage.tensors`."""
        activations, inputs = self._activations, self._originals
        for value in () if activations is None else sorted(activations.rows()):
            found = activations.find(value) if activations is not None else None
            lost = NotThere("its memory was freed, or written after the block")
            yield f"activation.{value}", lost if found is None else _reason(found.value)
        if self._gradients is not None:
            for value in range(len(self._reading.recording.values)):
                for number, gradient in enumerate(self.reached(value)):
                    yield f"gradient.{value}.{number}", _reason(gradient)
        for value, tensor in self._values.constants.items():
            yield f"outside.{value}", tensor
        if inputs is not None:
            yield from inputs.kept()
        elif activations is not None:
            yield from self._still_outside()

    def _still_outside(self) -> Iterator[tuple[str, Any]]:
        """Yield what came from outside and is as it was, but for what the model has."""
        recording = self._reading.recording
        written = written_storages(recording)
        for record in recording.values:
            value = record.index
            if record.origin != "outside" or record.storage in written:
                continue
            if value in recording.parameter_of_value or value in self._values.constants:
                continue
            tensor = self._values.tensor(value)
            if tensor is not None:
                yield f"outside.{value}", tensor


def _reason(saved: Any) -> Any:
    """Return what was saved, or why it could not be."""
    return NotThere(f"saving it raised {saved}") if isinstance(saved, Failed) else saved
