"""One layer of a trace, as its user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opscope.errors import NotSaved
from opscope.exporters.article import layer_text
from opscope.notation import encodable, foreign
from opscope.records.layers import LayerPass
from opscope.records.recording import Frame, Op, Parameter, Phase, Value

if TYPE_CHECKING:
    import torch

    from opscope.recorded import Recorded


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

    __slots__ = ("_trace", "record")

    def __init__(self, trace: Recorded, record: LayerPass) -> None:
        self._trace = trace
        self.record = record

    @property
    def label(self) -> str:
        """Its label, with the pass where the layer has several: ``"linear_1_1:2"``."""
        return self.record.label

    @property
    def type(self) -> str:
        """The function's name in lower case, without underscores: ``"conv2d"``."""
        return self.record.type

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

        Raises:
            NotSaved: If the trace did not save it.
        """
        return self._trace._activation(self.record)

    tensor_contents = activation
    """The article's name for `activation`."""

    @property
    def gradient(self) -> Any:
        """The gradient of its `activation`; a tuple, with None for no gradient, of several.

        Where several backward calls reached it, their sum, as in a parameter's ``.grad``.

        Raises:
            NotSaved: If gradients were not asked for, or none has reached it.
        """
        return self._trace._gradient(self.record)

    grad_contents = gradient
    """The article's name for `gradient`."""

    @property
    def gradients(self) -> tuple[Any, ...]:
        """The gradient that each backward call brought, in order; none where none has come.

        Of a layer that gave several tensors only those of the first are listed.

        Raises:
            NotSaved: If gradients were not asked for.
        """
        kept = self._trace._gradients(self.record)
        return kept[0] if kept else ()

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient reached what it gave; known where gradients are asked for."""
        return self._trace._has_gradient(self.record)

    @property
    def is_saved(self) -> bool:
        """Whether its activation was saved."""
        return self._trace._is_saved(self.record)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The tensors that it gave, as records: shape, stride, dtype, device, bytes."""
        return tuple(self._trace.recording.values[value] for value in self.record.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor that it gave."""
        return self.outputs[0].shape if self.outputs else ()

    @property
    def ops(self) -> tuple[Op, ...]:
        """The aten ops that it dispatched."""
        if self.record.call is None:
            return ()
        recording = self._trace.recording
        return tuple(recording.ops[index] for index in recording.layer_calls[self.record.call].ops)

    @property
    def phase(self) -> Phase:
        """Which part of a training step called it."""
        call = self.record.call
        return "forward" if call is None else self._trace.recording.layer_calls[call].phase

    @property
    def backward_ops(self) -> tuple[Op, ...]:
        """The aten ops that autograd ran for it, as far as the backward was inside the block."""
        return self._trace._backward_ops(self.record)

    @property
    def function(self) -> str:
        """The torch function's name as torch spells it: ``"max_pool2d"``."""
        call = self.record.call
        return self.type if call is None else self._trace.recording.layer_calls[call].function

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters that it used."""
        recording = self._trace.recording
        return tuple(recording.parameters[index] for index in self.record.parameters)

    @property
    def module(self) -> str | None:
        """Address of the module that it ran in; ``""`` for the model, None outside of it."""
        if self.record.module_call is None:
            return None
        recording = self._trace.recording
        return recording.modules[recording.module_calls[self.record.module_call].module].address

    @property
    def source(self) -> Frame | None:
        """File, line and function of the code that called it, outside torch."""
        frames = self.stack
        return frames[0] if frames else None

    @property
    def stack(self) -> tuple[Frame, ...]:
        """The frames that led to it, outside torch, the innermost first."""
        recording = self._trace.recording
        call = self.record.call
        place = None if call is None else recording.layer_calls[call].place
        return () if place is None else recording.places[place]

    @property
    def duration_ns(self) -> int:
        """How long it took under the trace, in nanoseconds."""
        call = self.record.call
        return 0 if call is None else self._trace.recording.layer_calls[call].duration_ns

    @property
    def parents(self) -> tuple[Layer, ...]:
        """The layers whose values it read."""
        return self._trace._neighbours(self.record, "parents")

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers that read its values."""
        return self._trace._neighbours(self.record, "children")

    @property
    def output_of(self) -> tuple[str, ...]:
        """Addresses of the modules whose output it is, the innermost first."""
        return tuple(address for address, _ in self._trace._exits(self.record))

    @property
    def lookup_keys(self) -> tuple[str | int, ...]:
        """All keys that give this layer."""
        return tuple(self._trace._index.keys_of(self.record))

    def __str__(self) -> str:
        text = layer_text(
            self.record,
            self._trace.recording,
            total=len(self._trace),
            corner=self._corner(),
            parents=[layer.label for layer in self.parents],
            children=[layer.label for layer in self.children],
            exits=self._trace._exits(self.record),
            keys=self.lookup_keys,
        )
        return encodable(text)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{value.dtype}{list(value.shape)}" for value in self.outputs)
        text = f"<opscope.Layer {foreign(self.label)}: {foreign(outputs) or 'no tensor'}>"
        return encodable(text)

    def _corner(self) -> str | None:
        """Return a 5×5 corner of the activation, as torch prints it."""
        try:
            saved = self.activation
        except NotSaved:
            return None
        if saved is None or saved == ():
            return None
        first: torch.Tensor = saved[0] if isinstance(saved, tuple) else saved
        if str(first.layout) != "torch.strided" or first.numel() == 0:
            return str(first)
        whole = first.shape
        while first.dim() > 2:
            first = first[0]
        first = first[tuple(slice(5) for _ in first.shape)]
        cut = any(n > 5 for n in whole[-2:]) or any(n > 1 for n in whole[:-2])
        return str(first.detach()) + ("..." if cut else "")
