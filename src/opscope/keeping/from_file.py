"""The tensors of a record that was loaded: those in its file, and those of a model that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from opscope.answers.reading import Reading
from opscope.capture.collect.kept.replay_inputs import StartsReplay
from opscope.errors import NotSaved, OptionError, UnreadableFile
from opscope.notation import foreign
from opscope.operators.devices import device_named
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import GradientFlow, Parameter, Recording
from opscope.records.values import Value
from opscope.storage.forms import dtype_named, is_shape
from opscope.storage.tensors import StoredTensors
from opscope.tensors import (
    Circumstances,
    activation_not_saved,
    check_values,
    gradient_not_saved,
    not_replayable,
    written_storages,
)

_SHOWN = 3  # differences of a model


class FileTensors:
    """What was kept in a file.

    Args:
        stored: The tensors there.
        reading: The record that they go with.
        ran: How the trace was made, None where a copy was saved, which does not know.
        model: The model that was traced, or one of the same parameters; None for none.
    """

    def __init__(
        self,
        stored: StoredTensors,
        reading: Reading,
        ran: Circumstances | None,
        model: nn.Module | None,
    ) -> None:
        self._stored = stored
        self._reading = reading
        self._ran = ran
        self._model = model
        self._parameters = {} if model is None else parameters_in(model, reading.recording)

    @property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients had flowed when the record was saved."""
        return self._reading.recording.gradient_flow

    @property
    def circumstances(self) -> Circumstances:
        """How the trace was made.

        Raises:
            NotSaved: If that was not known to what was saved.
        """
        if self._ran is None:
            message = "this file was saved from a copy of a trace, which had no tensors"
            raise NotSaved(message)
        return self._ran

    # -------------------------------------------------------------------- activations

    def activation(self, item: LayerPass) -> Any:
        """Return what was saved of what a layer gave; of several tensors a tuple.

        Raises:
            NotSaved: If nothing was, or it could not be kept in a file.
            UnreadableFile: If the file was changed since it was loaded.
        """
        what = f"the activation of {item.label}"
        names = [f"activation.{value}" for value in item.values]
        if item.kind == "input" and item.call is None and names[0] not in self._stored:
            tensor = self._outside(*item.values)
            if tensor is not None:
                return tensor
        if not self._reading.was_saved(item):
            raise activation_not_saved(item)
        found = tuple(self._stored.get(name, what) for name in names)
        return found[0] if len(found) == 1 else found

    def instead(self, item: LayerPass) -> str | None:
        """Return what to show for an activation that was asked for and is not in the file."""
        is_missing = any(f"activation.{value}" not in self._stored for value in item.values)
        return "(not in the file)" if is_missing and self._reading.was_saved(item) else None

    def saved(self, value: int) -> torch.Tensor | None:
        """Return what was saved for a value if it is a tensor, None else."""
        found = self._tensor(f"activation.{value}", f"value {value}")
        return found if isinstance(found, torch.Tensor) else None

    def gradients(self, item: LayerPass) -> list[tuple[Any, ...]]:
        """Return per tensor that a layer gave the gradients that reached it, likewise."""
        if not self._reading.was_gradient_saved(item):
            raise gradient_not_saved(item)
        what = f"the gradient of {item.label}"
        return [
            tuple(self._stored.get(f"gradient.{v}.{n}", what) for n in self._backwards.get(v, ()))
            for v in item.values
        ]

    @cached_property
    def _backwards(self) -> Mapping[int, list[int]]:
        """The numbers of the gradients that reached each value."""
        found: dict[int, list[int]] = {}
        for value, number in sorted((int(v), int(n)) for v, n in self._stored.numbers("gradient")):
            found.setdefault(value, []).append(number)
        return found

    def _tensor(self, name: str, what: str) -> Any:
        return self._stored.get(name, what) if name in self._stored else None

    # ----------------------------------------------------------- what the program stands on

    def parameter(self, number: int) -> torch.Tensor | None:
        """Return a parameter or buffer of the model; without one as it was, if that was kept."""
        record = self._reading.recording.parameters[number]
        if self._model is not None or record.value is None:
            return self._parameters.get(number)
        tensor = self._outside(record.value)
        if tensor is not None and record.kind == "parameter":
            tensor = nn.Parameter(tensor, requires_grad=record.trainable)
        return tensor

    def outside(self, value: int) -> tuple[torch.Tensor | None, bool]:
        """Return a tensor from outside as it was."""
        return self._outside(value), False

    def _outside(self, value: int) -> torch.Tensor | None:
        record, what = self._reading.recording.values[value], f"value {value}"
        for name in (f"outside.{value}", f"input.{value}"):
            if name in self._stored:
                return _as_tensor(self._stored.get(name, what))
        storage = self._tensor(f"storage.{record.storage}", what)
        return None if storage is None else _view(storage, record)

    def forward(self, module: int) -> Callable[..., Any] | None:
        """Return the ``forward`` of a module of the model by its number, None without one."""
        address = self._reading.recording.modules[module].address
        try:
            found = None if self._model is None else self._model.get_submodule(address)
        except AttributeError:  # made on the way
            return None
        return None if found is None else found.forward

    @property
    def model_forward(self) -> Callable[..., Any] | None:
        """The ``forward`` of the model, None without one."""
        return None if self._model is None else self._model.forward

    # ------------------------------------------------------------------ what a replay needs

    @property
    def replay_inputs(self) -> StartsReplay:
        """Copies of all that came from outside, and the states of random number generators.

        Raises:
            NotSaved: If they were not kept, or are of a device that is not here.
        """
        if not self._stored.numbers("generator"):
            raise not_replayable()
        for device in sorted({value.device for value in self._reading.recording.values}):
            if device_named(device) is None:
                message = f"this record can be replayed where there is a device {device!r} only"
                raise NotSaved(message)
        return _ReplayInputs(self._stored)

    def known_values(self) -> Callable[[int], torch.Tensor | None]:
        """Return what gives the tensor that a value was, None where that is not known.

        Raises:
            NotSaved: If not all layers were saved, or not as they were, or the parameters are needed
                and neither kept nor given.
        """
        check_values(self.circumstances, self._reading)
        recording = self._reading.recording
        is_replayable = bool(self._stored.numbers("generator"))
        if recording.parameter_of_value and not is_replayable and self._model is None:
            message = (
                "the file has no parameters; load it with opscope.load(path, model=model), or "
                "trace with replayable=True"
            )
            raise NotSaved(message)
        records, written = recording.values, written_storages(recording)

        def known(value: int) -> torch.Tensor | None:
            kept, record = self.saved(value), records[value]
            if kept is not None or record.origin != "outside":
                return kept
            number = recording.parameter_of_value.get(value)
            if number is None or is_replayable:
                return self._outside(value)
            return None if record.storage in written else self.parameter(number)

        return known

    def kept(self) -> Iterator[tuple[str, Any]]:
        """Yield what is in the file, to be written to another."""
        yield from self._stored.all()


class _ReplayInputs:
    """Those of a file, each read when it is asked for."""

    def __init__(self, stored: StoredTensors) -> None:
        self.objects: dict[int, dict[str, Any]] = {}  # no file can hold them
        self.storages: Mapping[int, torch.UntypedStorage] = _Storages(stored)
        self.tensors: Mapping[int, torch.Tensor] = _Inputs(stored, "input")
        self.generators = {
            device: stored.get(f"generator.{device}", "the state of a generator").cpu()
            for (device,) in stored.numbers("generator")
        }
        self.draws: dict[int, dict[str, torch.Tensor]] = {}
        for op, device in stored.numbers("draw"):
            state = stored.get(f"draw.{op}.{device}", "the state of a generator").cpu()
            self.draws.setdefault(int(op), {})[device] = state


class _Inputs(Mapping[int, Any]):
    """What is in a file under names of one group, by number."""

    def __init__(self, stored: StoredTensors, group: str) -> None:
        self._stored = stored
        self._group = group
        self._numbers = [int(number) for (number,) in stored.numbers(group)]

    def __getitem__(self, number: int) -> Any:
        name = f"{self._group}.{number}"
        if name not in self._stored:
            raise KeyError(number)
        return self._stored.get(name, f"{self._group} {number}")

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class _Storages(_Inputs):
    def __init__(self, stored: StoredTensors) -> None:
        super().__init__(stored, "storage")

    def __getitem__(self, number: int) -> torch.UntypedStorage:
        storage: torch.UntypedStorage = super().__getitem__(number).untyped_storage()
        return storage


def _view(storage: torch.Tensor, record: Value) -> torch.Tensor:
    """Return a value out of the bytes of its storage."""
    try:
        dtype = dtype_named(record.dtype)
    except (LookupError, TypeError):
        dtype = None
    if dtype is None or not _lies_within(record, storage.nbytes // dtype.itemsize):
        message = (
            f"value {record.index} lies outside of its storage: the file is not one that was saved"
        )
        raise UnreadableFile(message)
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    return empty.set_(storage.untyped_storage(), record.offset, record.shape, record.stride)


def _lies_within(record: Value, count: int) -> bool:
    """Whether a value is one of so many elements at most."""
    shape, steps, offset = record.shape, record.stride, record.offset
    if not is_shape(shape) or len(shape) != len(steps):
        return False
    if any(type(number) is not int or not 0 <= number < 2**63 for number in (offset, *steps)):
        return False
    reach = offset + 1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    return 0 in shape or reach <= count


def _as_tensor(found: Any) -> torch.Tensor | None:
    return found if isinstance(found, torch.Tensor) else None


# ------------------------------------------------------------------- a model for a record


def parameters_in(model: nn.Module, recording: Recording) -> dict[int, torch.Tensor]:
    """Return the parameters of a record in a model, by their index.

    Raises:
        OptionError: If the model has not all of them, by name, shape and type.
    """
    named: dict[str, torch.Tensor] = {}
    named.update(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    packed = {number for op in recording.ops for number in op.packed}  # inside objects of C++
    found, wrong = {}, []
    for record in recording.parameters:
        if not record.of_model or record.index in packed:
            continue
        tensor = next((named[n] for n in (record.name, *record.aliases) if n in named), None)
        problem = _problem(record, tensor)
        if problem is not None:
            wrong.append(problem)
        elif tensor is not None:
            found[record.index] = tensor
    if wrong:
        raise OptionError(_differences(model, wrong))
    return found


def _problem(record: Parameter, tensor: torch.Tensor | None) -> str | None:
    """Return how a tensor differs from a parameter, None if it does not."""
    name = foreign(record.name)
    if tensor is None:
        return f"has no {record.kind} {name!r}"
    if not record.initialised or nn.parameter.is_lazy(tensor):
        return None
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if (shape, dtype) == (record.shape, record.dtype):
        return None
    return f"has {name!r} as {dtype}{list(shape)}, not {record.dtype}{list(record.shape)}"


def _differences(model: nn.Module, wrong: Sequence[str]) -> str:
    more = f" and {len(wrong) - _SHOWN} more differences" if len(wrong) > _SHOWN else ""
    return (
        f"model: this {foreign(type(model).__name__)} is not the one that was traced: it "
        f"{', '.join(wrong[:_SHOWN])}{more}"
    )
