"""One layer of a trace, as its user sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, reduce
from itertools import islice
from operator import add
from typing import Any, Literal

import torch

from opscope.answers.reading import Keys, Reading
from opscope.errors import AmbiguousLayer, LayerNotFound, NotSaved, OptionError
from opscope.exporters.text_report import layer_text
from opscope.notation import encodable, foreign, sentence
from opscope.records.calls import Frame, LayerCall, ModuleCall
from opscope.records.ops import Op, Phase
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Parameter, Recording
from opscope.records.values import Value
from opscope.tensors import NoTensors, Tensors
from opscope.torch_api import DisableTorchFunction


class Layers:
    """The layers of one record, each made once.

    Args:
        reading: The record.
        tensors: What was kept beside it.
    """

    def __init__(self, reading: Reading, tensors: Tensors) -> None:
        self.reading = reading
        self.tensors = tensors
        # What modules gave and no layer gave just so, as far as it was asked for.
        self._given_by_modules: dict[tuple[str, tuple[int, ...]], Layer] = {}

    def __reduce__(self) -> tuple[object, ...]:
        reading = self.reading
        recording = replace(reading.recording, gradient_flow=self.tensors.gradient_flow)
        return layers_of, (recording, reading.saved, reading.saved_gradients)

    @cached_property
    def all(self) -> tuple[Layer, ...]:
        """Every pass of every layer, in the order of execution."""
        return tuple(Layer(self, item) for item in self.reading.passes)

    def find(self, key: str | int) -> Layer:
        """Return the one that answers to a key, see `Trace.__getitem__`."""
        found = self.reading.index.find(key)
        if not found.paths:
            return self.all[found.index]
        return self._given_by_modules.setdefault((found.label, found.values), Layer(self, found))

    def has(self, key: object) -> bool:
        """Return whether anything answers to a key: one, or several it does not tell apart."""
        if isinstance(key, Layer):
            return any(layer is key for layer in self.all)
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            return False
        try:
            self.reading.index.find(key)
        except AmbiguousLayer:
            return True
        except LayerNotFound:
            return False
        return True


def layers_of(recording: Recording, saved: Keys = (), saved_gradients: Keys = ()) -> Layers:
    """Return the layers of a record that stands by itself, see `Reading`."""
    reading = Reading(recording, saved, saved_gradients)
    return Layers(reading, NoTensors(reading))


class Layer:
    """One pass of one layer: a torch function that ran, or a tensor entering or leaving.

    Get one from a trace, by any key of `Trace.__getitem__`. Asking twice gives the same
    object.

    >>> import torch, opscope
    >>> with opscope.trace(save="all") as trace:
    ...     y = torch.relu(torch.tensor([-1.0, 2.0]))
    >>> trace["relu"].activation
    tensor([0., 2.])
    """

    __slots__ = ("_layers", "_reading", "_recording", "record")

    def __init__(self, layers: Layers, record: LayerPass) -> None:
        self._layers = layers
        self._reading = layers.reading
        self._recording = layers.reading.recording
        self.record = record

    def __reduce__(self) -> tuple[object, ...]:
        return Layer, (self._layers, self.record)

    @property
    def label(self) -> str:
        """Its label, with the pass where the layer has several: ``"linear_1_1:2"``."""
        return self.record.label

    @property
    def type(self) -> str:
        """The function's name in lower case, without underscores: ``"conv2d"``."""
        return self.record.type

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was set to: stride, eps, dimensions; as JSON has it, and not what is usual."""
        known, call = self._recording, self.record.call
        return {} if call is None else known.settings_of(known.layer_calls[call].ops, [call])

    @property
    def index(self) -> int:
        """Its position among all layer passes, from 0."""
        return self.record.index

    @property
    def passes(self) -> int:
        """How many passes the layer has."""
        return self.record.passes

    @property
    def activation(self) -> Any:
        """The tensor that it gave, as it was then; a tuple where it gave several.

        Asked for by a module's address, what that module gave: the tensors of a dictionary or
        of any other container in order, see `paths`.
        Where it was saved with a ``transform``, what that returned for each of them.

        Raises:
            NotSaved: If the trace did not save it.
            OptionError: If ``transform``, ``dtype`` or ``device`` could not be applied to it.
        """
        return self._layers.tensors.activation(self.record)

    tensor_contents = activation
    """The article's name for `activation`."""

    @property
    def gradient(self) -> Any:
        """The gradient of its `activation`; a tuple, with None for no gradient, of several.

        Where several backward calls reached it, their sum, as in a parameter's ``.grad``.

        Raises:
            NotSaved: If gradients were not asked for, or none has reached it.
        """
        kept = self._layers.tensors.gradients(self.record)
        found = [reduce(add, every) if every else None for every in kept]
        if all(gradient is None for gradient in found):
            message = (
                f"no gradient has reached {self.label}: it needs none, or no backward ran "
                "from what depends on it"
            )
            raise NotSaved(message)
        return found[0] if len(found) == 1 else tuple(found)

    grad_contents = gradient
    """The article's name for `gradient`."""

    @property
    def gradients(self) -> tuple[Any, ...]:
        """The gradient that each backward call brought, in order; none where none has come.

        Of a layer that gave several tensors only those of the first are listed.

        Raises:
            NotSaved: If gradients were not asked for.
        """
        kept = self._layers.tensors.gradients(self.record)
        return kept[0] if kept else ()

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient reached what it gave; known where gradients are asked for."""
        return not self._layers.tensors.gradient_flow.reached.isdisjoint(self.record.values)

    @property
    def is_saved(self) -> bool:
        """Whether its activation was saved."""
        return self._reading.was_saved(self.record)

    @property
    def outputs(self) -> Sequence[Value]:
        """The tensors that it gave, as records: shape, stride, dtype, device, bytes."""
        return tuple(self._recording.values[value] for value in self.record.values)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each of `outputs` is in what a module gave: ``("logits", "cache.0")``.

        Empty where it is what one layer gave.
        """
        return self.record.paths

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor that it gave."""
        return self.outputs[0].shape if self.outputs else ()

    @property
    def ops(self) -> Sequence[Op]:
        """The aten ops that it dispatched."""
        ran = self._ran
        return () if ran is None else tuple(self._recording.ops[i] for i in ran.ops)

    @property
    def _ran(self) -> LayerCall | ModuleCall | None:
        """The record of the call: of a function, or of a module where it is what one gave."""
        recording, record = self._recording, self.record
        if record.call is not None:
            return recording.layer_calls[record.call]
        if record.kind == "module" and record.module_call is not None:
            return recording.module_calls[record.module_call]
        return None

    @property
    def phase(self) -> Phase:
        """Which part of a training step called it."""
        call = self.record.call
        return "forward" if call is None else self._recording.layer_calls[call].phase

    @property
    def backward_ops(self) -> Sequence[Op]:
        """The aten ops that autograd ran for it, as far as the backward was inside the block."""
        return self._reading.backward_of(self.record)

    @property
    def function(self) -> str:
        """The torch function's name as torch spells it: ``"max_pool2d"``."""
        call = self.record.call
        return self.type if call is None else self._recording.layer_calls[call].function

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters that it used."""
        recording = self._recording
        return tuple(recording.parameters[index] for index in self.record.parameters)

    @property
    def module(self) -> str | None:
        """Address of the module that it ran in; ``""`` for the model, None outside of it."""
        if self.record.module_call is None:
            return None
        recording = self._recording
        return recording.modules[recording.module_calls[self.record.module_call].module].address

    @property
    def source(self) -> Frame | None:
        """File, line and function of the code that called it, outside torch."""
        frames = self.stack
        return frames[0] if frames else None

    @property
    def stack(self) -> tuple[Frame, ...]:
        """The frames that led to it, outside torch, the innermost first."""
        ran = self._ran
        if ran is None or ran.call_site is None:
            return ()
        return self._recording.call_sites[ran.call_site]

    @property
    def duration_ns(self) -> int:
        """How long its ops took, in nanoseconds; what Python, and the trace, do between is not in it."""
        return sum(op.duration_ns for op in self.ops)

    @property
    def parents(self) -> tuple[Layer, ...]:
        """The layers whose values it read."""
        return self._near("parents")

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers that read its values."""
        return self._near("children")

    def _near(self, side: Literal["parents", "children"]) -> tuple[Layer, ...]:
        return tuple(map(self._layers.find, self._reading.neighbours(self.record, side)))

    @property
    def output_of(self) -> tuple[str, ...]:
        """Addresses of the modules whose output it is, the innermost first."""
        return tuple(address for address, _ in self._reading.index.exits_of(self.record))

    @property
    def lookup_keys(self) -> tuple[str | int, ...]:
        """All keys that give this layer."""
        return tuple(self._reading.index.keys_of(self.record))

    def __str__(self) -> str:
        text = layer_text(
            self.record,
            self._recording,
            total=len(self._reading.passes),
            corner=self._corner(),
            parents=[layer.label for layer in self.parents],
            children=[layer.label for layer in self.children],
            exits=self._reading.index.exits_of(self.record),
            keys=self.lookup_keys,
        )
        return encodable(text)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{value.dtype}{list(value.shape)}" for value in self.outputs)
        text = f"<opscope.Layer {foreign(self.label)}: {foreign(outputs) or 'no tensor'}>"
        return encodable(text)

    def _corner(self) -> str | None:
        """Return a 5×5 corner of the activation, as torch prints it; what is no tensor, in short."""
        try:
            saved = self.activation
        except NotSaved:
            return self._layers.tensors.instead(self.record)
        except OptionError as error:
            return f"({sentence(str(error), 300)})"
        if not self.record.values:
            return None
        first = saved[0] if len(self.record.values) > 1 else saved
        if not isinstance(first, torch.Tensor):
            return _in_short(first)
        with DisableTorchFunction():
            return _corner_of(first)


def _corner_of(tensor: torch.Tensor) -> str:
    if str(tensor.layout) != "torch.strided" or tensor.numel() == 0:
        return str(tensor)
    whole = tensor.shape
    while tensor.dim() > 2:
        tensor = tensor[0]
    tensor = tensor[tuple(slice(5) for _ in tensor.shape)]
    cut = any(n > 5 for n in whole[-2:]) or any(n > 1 for n in whole[:-2])
    return str(tensor.detach()) + ("..." if cut else "")


def _in_short(value: object) -> str:
    """Return the first few lines of what a value says of itself."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 (it is the user's code)
        text = f"<{type(value).__name__} object>"
    lines = [foreign(line, 100) for line in islice(text.splitlines(), 6)]
    return "\n".join([*lines[:5], "..."] if len(lines) > 5 else lines)
