"""What takes a record together with its tensors, wherever these are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from opscope.analysis.nonfinite import first_nonfinite
from opscope.errors import NonFiniteError, check_address, check_flag
from opscope.exporters.progress import waiting
from opscope.layer import Layers
from opscope.torch_api import DisableTorchFunction

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from torch.fx import GraphModule

    from opscope.analysis.report import Report


class WithTensors(ABC):
    """A record and its tensors: live ones, those of a file, or none.

    Where there are none, what takes them raises a `NotSaved`.
    """

    @property
    @abstractmethod
    def _layers(self) -> Layers:
        """Its layers, with the reading of its recording and with its tensors."""

    def first_nonfinite(self) -> NonFiniteError | None:
        """Return where the first bad number came from that the program saw, None if it saw none.

        1. A number is bad if it is NaN, or an infinity that neither an argument nor data put there.
        2. It comes from the op that made it out of good ones, or it came in: with a parameter, a
           buffer, an input, other data, an argument.
        3. What ops make of it that is bad comes from there too; what they make good is good.
        4. It is seen in what the model given to `trace` returns, the loss of a backward, a gradient
           (no infinity in which is meant) that an optimizer reads, a parameter or buffer, a number
           that Python reads, or, as the block ends, in a result that no op has taken up.
        5. What a `torch.amp.GradScaler` has looked at is not: it skips that step.

        Looks at the values that were saved, with ``replayable=True`` at every op, and with
        ``save="all"`` at what layers gave: not at what the backward computes. What it returns is
        the error that ``stop_on_nonfinite=True`` would have raised.

        Raises:
            NotSaved: If the trace saved neither, or what a ``transform`` made of them (but for
                ``torch.clone``).

        >>> import torch, opscope
        >>> with opscope.trace(save="all") as trace:
        ...     y = torch.log(torch.zeros(2)) + 1
        >>> trace.first_nonfinite().layer
        'log_1_1'
        """
        tensors, reading = self._layers.tensors, self._layers.reading
        known, ran = tensors.known_values(), tensors.circumstances
        with DisableTorchFunction():  # a class of the user's is not to see it
            return first_nonfinite(
                reading.recording,
                reading.passes,
                known,
                forward=tensors.model_forward,
                named=ran.is_model_named,
                scaler_sites=ran.scaler_sites,
            )

    def validate(self) -> Report:
        """Run the record again and compare every value with what it was, bit for bit.

        Returns:
            A `Report` that is true if all values were reproduced; its text names the first
            difference with its op, layer, module and source line.

        Raises:
            NotSaved: If the trace was not recorded with ``replayable=True``.

        >>> import torch, opscope
        >>> with opscope.trace(replayable=True) as trace:
        ...     y = torch.dropout(torch.ones(4), 0.5, train=True).mul_(2)
        >>> bool(trace.validate())
        True
        """
        from opscope.analysis.replay import replay

        tensors, reading = self._layers.tensors, self._layers.reading
        replay_inputs = tensors.replay_inputs
        labels = {item.call: item.label for item in reading.passes if item.call is not None}
        with waiting("replaying") as track:
            return replay(reading.recording, replay_inputs, tensors.saved, labels, track)

    def to_fx(self, module: str | None = None, *, check_inputs: bool = True) -> GraphModule:
        """Return the forward ops as a program: a `torch.fx.GraphModule` of aten overloads.

        It shares the model's parameters and buffers, under their names, and takes the model's
        inputs by the names of its ``forward`` (one for each tensor in nested ones). It returns
        what the model does, in tuples, lists and dictionaries: what is of a class of its own, such
        as a named tuple, is the plain container, and any other object a dictionary of its
        attributes. It is differentiated as the model is, regions of ``no_grad`` included.

        It holds for inputs of the recorded sizes and types, and does what the model did in
        training or evaluation, also after ``train()`` or ``eval()``. ``meta["baked"]`` on it lists
        what the data, other arguments or training mode decided and the program now fixes,
        ``meta["renamed"]`` the attributes whose names in the model no program can hold. To load a
        saved one takes opscope.

        Args:
            module: Address of the one module to make a program of, with ``":2"`` for its second
                run; None for the model, or for a block in which none was called, all of it.
            check_inputs: Whether the program raises an `OptionError` for inputs of other sizes or
                types, and where two inputs were one tensor and no longer are.

        Raises:
            OptionError: If there is not just one run of such a module.
            TraceStateError: If the model was called several times, or failed, or did what no
                program can repeat; the message says what.
            NotSaved: If the model, or another tensor that the program needs, is gone.

        >>> import torch, opscope
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> with torch.no_grad(), opscope.trace(model) as trace:
        ...     y = model(x)
        >>> torch.equal(trace.to_fx()(x), y)
        True
        """
        from opscope.exporters.fx.build import to_fx
        from opscope.exporters.fx.values import Live
        from opscope.operators.plans import overload

        check_address(module)
        check_flag("check_inputs", check_inputs)
        tensors = self._layers.tensors
        ran = tensors.circumstances
        live = Live(
            overload,
            tensors.parameter,
            tensors.outside,
            tensors.forward,
            is_named=ran.is_model_named,
            sees_modes=ran.saw_functions,
        )
        return to_fx(self._layers.reading.recording, live, module, check_inputs=check_inputs)

    def save(self, path: str | PathLike[str], *, tensors: bool = True) -> Path:
        """Write the record, with what was kept of tensors, for `opscope.load`; return its path.

        It takes a few dozen bytes for each op. A file that is there is replaced when all is written.

        Args:
            path: Where to; its name ends in ``.opscope``.
            tensors: Whether to write activations, gradients and what a replay needs.

        Raises:
            OptionError: For another suffix, or a place that cannot be written to.
        """
        from opscope.keeping.files import save_record

        check_flag("tensors", tensors)
        return save_record(self._layers, path, tensors=tensors)
