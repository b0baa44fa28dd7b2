"""The front desk: what users call, each verb one call of an inner room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from opscope.analysis.nonfinite import first_nonfinite
from opscope.errors import (
    NonFiniteError,
    NotSaved,
    OptionError,
    check_choice,
    check_depth,
    check_flag,
)
from opscope.notation import encodable, foreign
from opscope.recorded import Recorded
from opscope.saving import Save, save_options

if TYPE_CHECKING:
    import networkx as nx
    import pydot
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch.fx import GraphModule
    from typing_extensions import Unpack

    from opscope.analysis.replay import Report
    from opscope.exporters.console import Summary
    from opscope.exporters.dot import Direction
    from opscope.exporters.kept import SavedForBackward
    from opscope.views.compose import ViewArguments, ViewOptions
    from opscope.views.levels import Choice, Level
    from opscope.views.select import Phase

# Transforms that leave a value what it is.
_COPIES = (None, torch.clone, torch.Tensor.clone)


def trace(
    model: nn.Module | None = None,
    *,
    layers: bool = True,
    save: Save = None,
    gradients: Save = None,
    detach: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    transform: Callable[[torch.Tensor], Any] | None = None,
    replayable: bool = False,
    saved_for_backward: bool = False,
    stop_on_nonfinite: bool = False,
) -> Trace:
    """Record every aten operator that runs inside a ``with`` block.

    Args:
        model: The module that gives names to parameters and modules. Without one, the
            first module that runs does; any code that runs torch can be traced.
        layers: Whether to record torch functions too, a quarter of the cost. Without them
            each op is a layer of its own, named after the operator.
        save: What activations to keep: ``"all"``, ``None`` or ``"none"``, or a list of
            labels, module addresses, positions and substrings, see `Trace.__getitem__`.
        gradients: Whose gradients to keep, in the same words; they are taken in any backward
            through the program, inside the block or after it, see `Layer.gradient`.
        detach: Whether what is saved is cut from the autograd graph. If not, a backward can
            start from any saved activation.
        device: Where what is saved is moved to, such as ``"cpu"``.
        dtype: What floating point activations are cast to, and complex ones if it is a complex
            type. Integers, booleans and quantised tensors keep their type.
        transform: A function applied to each saved activation; whatever it returns is saved, a
            number, a tuple or None too. It is given a copy, which it may keep or change. What it
            runs is not recorded, and the random numbers that it draws the program draws too. If
            it raises, the program goes on, and `Layer.activation` raises an `OptionError`.
        replayable: Whether to keep what `Trace.validate` needs: the results of every op,
            and a copy of all that comes from outside, parameters included.
        saved_for_backward: Whether to note which tensors autograd keeps, see
            `Trace.saved_for_backward`.
        stop_on_nonfinite: Whether to raise a `NonFiniteError` where the program gets to see a bad
            number: a NaN, or an infinity that no argument and no data put there. It names the op
            that made it out of good ones, or the parameter, buffer, input or data it came in with.
            What a mask, an overwrite or autograd itself makes good again is never seen; where a
            number is, `Trace.first_nonfinite` says. It costs a pass over memory for each result.

    Returns:
        A `Trace`, to be entered with ``with`` and read after the block. Entered again it
        records on: the layers of the next block are further passes.

    Raises:
        OptionError: For an argument of the wrong kind, before anything is recorded.

    >>> import torch, opscope
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(1, 4)
    >>> with opscope.trace(model) as trace:
    ...     y = model(x)
    >>> trace.layer_labels
    ['input_1_0', 'linear_1_1', 'relu_1_2', 'output_1_3']
    """
    options = save_options(detach, device, dtype, transform)
    return Trace(
        model, layers=layers, save=save, gradients=gradients, options=options,
        replayable=replayable, saved_for_backward=saved_for_backward,
        stop_on_nonfinite=stop_on_nonfinite,
    )  # fmt: skip


class Trace(Recorded):
    """What one ``with opscope.trace(...)`` block recorded.

    Nothing is worked out before it is asked for, and no tensor is kept alive but those
    that ``save`` asked for.
    """

    # ------------------------------------------------------------ what else was looked at

    @property
    def saved_for_backward(self) -> SavedForBackward:
        """The tensors that autograd keeps for the backward, with bytes, the largest first.

        They are those of the nodes made in the block, whether or not a backward has freed them.
        What an op keeps that writes to a view in place is not among them: torch hides its node.

        Raises:
            NotSaved: If the trace was not recorded with ``saved_for_backward=True``.

        >>> import torch, opscope
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(3, 4)
        >>> with opscope.trace(model, saved_for_backward=True) as trace:
        ...     y = model(x)
        >>> trace.saved_for_backward.by_layer()
        {'linear_1_1': 48, 'relu_1_2': 24}
        """
        from opscope.exporters.kept import SavedForBackward
        from opscope.views.kept import kept_tensors

        recording = self.recording
        if self._session.saved_tensors is None and not recording.saved_tensors:
            message = (
                "what autograd keeps was not noted; trace with "
                "opscope.trace(..., saved_for_backward=True)"
            )
            raise NotSaved(message)
        return SavedForBackward(
            kept_tensors(recording, self.passes), recording.model_name or "program"
        )

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
        self._check_original()
        payloads = self._session.tape.payloads
        if payloads is None or not (payloads.every_op or self._save == "all"):
            message = "the values were not saved; trace with save='all' or replayable=True"
            raise NotSaved(message)
        if payloads.options.transform not in _COPIES:
            message = "the values were not saved as they were; trace without a transform"
            raise NotSaved(message)
        session, recording = self._session, self.recording
        values, records = session.tape.values, recording.values
        # What was not copied can be read as it is now, unless the program has written it since.
        copied = values.originals is not None
        written = {records[value].storage for op in recording.ops for value in op.writes}

        def known(value: int) -> torch.Tensor | None:
            kept, record = payloads.get(value), records[value]
            if kept is not None or record.origin != "outside":
                return kept
            return values.outside(value) if copied or record.storage not in written else None

        root = None if session.modules.root is None else session.modules.root.live()
        with torch._C.DisableTorchFunction():  # a class of the user's is not to see it
            return first_nonfinite(
                recording,
                self.passes,
                known,
                forward=None if root is None else root.forward,
                named=session.modules.is_named,
                scaler_places=session.scaler_places(),
            )

    # ------------------------------------------------------------------------- replay

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

        self._check_original()
        payloads, originals = self._session.tape.payloads, self._session.tape.values.originals
        if payloads is None or originals is None:
            message = "a trace can be replayed if made with opscope.trace(..., replayable=True)"
            raise NotSaved(message)
        labels = {item.call: item.label for item in self.passes if item.call is not None}
        return replay(self.recording, originals, payloads.get, labels)

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
        from opscope.analysis.replay import overload
        from opscope.exporters.fx.build import to_fx
        from opscope.exporters.fx.values import Live

        if module is not None and not isinstance(module, str):
            message = f"module: {module!r} (must be the address of a module, or None)"
            raise OptionError(message)
        check_flag("check_inputs", check_inputs)
        self._check_original()
        session = self._session
        live = Live(
            overload,
            self._parameter,
            self._outside,
            session.modules.forward,
            is_named=session.modules.is_named,
            sees_modes=session.layers and not session.modules.ran_compiled,
        )
        return to_fx(self.recording, live, module, check_inputs=check_inputs)

    def _outside(self, value: int) -> tuple[torch.Tensor | None, bool]:
        """Return a tensor from outside, as it was if it is gone, and whether it is alive."""
        values = self._session.tape.values
        tensor = None if value in values.constants else values.tensor(value)
        return (values.outside(value), False) if tensor is None else (tensor, True)

    def _parameter(self, number: int) -> torch.Tensor | None:
        """Return a parameter or buffer; as it was, if it is gone and was kept."""
        session, record = self._session, self.recording.parameters[number]
        tensor = session.tape.parameters.tensor(number)
        if tensor is None and record.value is not None:
            tensor = session.tape.values.outside(record.value)
            if tensor is not None and record.kind == "parameter":
                tensor = nn.Parameter(tensor, requires_grad=record.trainable)
        return tensor

    # ------------------------------------------------------------------------- graphs

    def graph(
        self,
        level: Level = "op",
        depth: int | None = None,
        *,
        rolled: bool = False,
        module: str | None = None,
        collapse: Choice = None,
        expand: Choice = None,
        inputs: bool = True,
        outputs: bool = True,
        parameters: bool = True,
        buffers: bool = True,
        overwritten: bool = False,
        phase: Phase = "forward",
    ) -> nx.DiGraph:
        """Return the trace as a networkx graph, whose attributes `opscope.graph.build` lists.

        Args:
            level: What a node is: ``"op"``, ``"layer"`` or ``"module"``.
            depth: How deep in the module tree to look; what is deeper is one node.
            rolled: Whether all passes of a layer are one node.
            module: Address of the one module to show.
            collapse: Modules to show as one node whatever their depth: addresses, or a
                function from an address to a bool.
            expand: Modules to show from inside whatever their depth, likewise.
            inputs: Whether tensors that enter are nodes.
            outputs: Whether tensors that leave are nodes.
            parameters: Whether parameters are nodes.
            buffers: Whether buffers are nodes.
            overwritten: Whether to show where a tensor goes whose contents are overwritten
                unread, as by ``copy_``, ``zero_`` and ``out=``: edges of kind ``"overwrite"``.
            phase: Which part of a training step to show: ``"forward"``, ``"backward"`` (what the
                autograd engine ran, each node named after the layer or module it ran for),
                ``"optimizer"``, ``"other"`` (such as clipping) or ``"all"``.

        Raises:
            OptionError: For a value that is not one of those.

        >>> import torch, opscope
        >>> with opscope.trace() as trace:
        ...     y = torch.relu(torch.ones(2)) + 1
        >>> list(trace.graph(level="layer"))
        ['ones_1_0', 'relu_1_1', 'add_1_2', 'output_1_3']
        """
        from opscope.views.compose import ViewOptions
        from opscope.views.select import copied

        options = ViewOptions(
            rolled=rolled, module=module, collapse=collapse, expand=expand, inputs=inputs,
            outputs=outputs, parameters=parameters, buffers=buffers, overwritten=overwritten,
            phase=phase,
        )  # fmt: skip
        return copied(self._view(level, depth, options))

    def _view(self, level: Level, depth: int | None, options: ViewOptions) -> nx.DiGraph:
        """Return what `graph` does, sharing attributes with other views."""
        from opscope.views.compose import view
        from opscope.views.select import with_gradients

        flows = self._flows()
        graph = with_gradients(self._op_graph, flows) if flows else self._op_graph
        return view(graph, level, depth, options, [m.address for m in self.modules])

    # ------------------------------------------------------------- tables and pictures

    def summary(
        self,
        level: Level = "module",
        depth: int | None = None,
        *,
        phase: Phase = "forward",
        columns: Sequence[str] | None = None,
        sort_by: str | None = None,
        row_limit: int | None = None,
    ) -> Summary:
        """Return a table that prints itself: with `rich.print`, in a notebook, as ``str``.

        It is no wider than the console: columns that there is no room for are left out.

        Args:
            level: What a row is: ``"op"``, ``"layer"``, or ``"module"`` with its children.
            depth: How deep in the module tree to look.
            phase: Which part of a training step to show, see `graph`; ``"backward"`` tells of
                each layer and module what ran for it then.
            columns: Which columns, of ``name``, ``type``, ``module``, ``op``, ``input``,
                ``output``, ``params``, ``trainable``, ``memory`` (bytes given), ``time``
                (under the trace), ``backward`` (time in backward) and ``source``.
            sort_by: A column to sort by, the largest number first; ``"-time"`` for the
                smallest first.
            row_limit: How many rows to show at most.

        Raises:
            OptionError: For a level, depth, column or limit that there is not.
        """
        from opscope.exporters.console import Summary, check_columns, check_row_limit
        from opscope.views.levels import LEVELS
        from opscope.views.rows import table_rows
        from opscope.views.select import PHASES

        check_choice("level", level, LEVELS)
        check_depth(depth)
        check_choice("phase", phase, PHASES)
        check_columns(columns, sort_by)
        check_row_limit(row_limit)
        return Summary(
            table_rows(self.recording, self.passes, level, depth, phase),
            self.totals,
            title=self.recording.model_name or "program",
            level=level,
            columns=columns,
            sort_by=sort_by,
            row_limit=row_limit,
        )

    def to_dot(
        self,
        level: Level = "layer",
        depth: int | None = None,
        *,
        direction: Direction = "down",
        **view: Unpack[ViewArguments],
    ) -> pydot.Dot:
        """Return the picture as a `pydot.Dot`, to be changed before it is written.

        Args:
            level: What a node is: ``"op"``, ``"layer"`` or ``"module"``.
            depth: How deep in the module tree to look; what is deeper is one node.
            direction: Where the data flows to: ``"down"``, ``"up"``, ``"right"``, ``"left"``.
            view: The other arguments of `graph`; parameters and buffers are no nodes here
                unless they are asked for.

        Raises:
            OptionError: For a name or value that is not one of the valid ones.
        """
        from opscope import notation
        from opscope.exporters.dot import to_dot
        from opscope.views.compose import ViewOptions

        options = ViewOptions.of({"parameters": False, "buffers": False, **view})
        sums = self.totals
        caption = [
            self.recording.model_name or "program",
            f"{notation.plural(sums.tensors, 'tensor')} "
            f"({notation.size(sums.tensor_bytes)} newly allocated)",
            f"{notation.count(sums.params)} params ({notation.size(sums.param_bytes)})",
        ]
        return to_dot(self._view(level, depth, options), direction=direction, caption=caption)

    def draw(
        self,
        path: str | PathLike[str],
        level: Level = "layer",
        depth: int | None = None,
        *,
        direction: Direction = "down",
        **view: Unpack[ViewArguments],
    ) -> Path:
        """Write a picture and return its path; the suffix chooses the format.

        ``.dot`` and ``.gv`` need nothing, ``.svg`` Graphviz or ``pip install
        'opscope[draw]'``, ``.png`` and ``.pdf`` Graphviz, which has two minutes. A file that
        is there is replaced when the picture is ready. The other arguments are those of `to_dot`
        and `graph`.

        Raises:
            OptionError: For a name or value that is not one of the valid ones, or a place that
                cannot be written to.
            RenderError: Where nothing on this machine makes that format, or Graphviz failed.
        """
        from opscope.exporters.picture import check_path, write_picture

        check_path(path)
        return write_picture(self.to_dot(level, depth, direction=direction, **view), path)

    # ----------------------------------------------------------------- how it is shown

    def __str__(self) -> str:
        from opscope.exporters.article import trace_text
        from opscope.views.structure import structure

        if self._state != "closed":
            return repr(self)
        saved = [item for item in self.passes if self._is_saved(item)]
        size = sum(self.recording.values[v].nbytes for item in saved for v in item.values)
        shown = saved if isinstance(self._save, tuple) and self._save else self.passes
        text = trace_text(
            self.recording,
            self.totals,
            structure(self._layer_graph, self.passes),
            [(item.index, item.label) for item in shown],
            (sum(len(item.values) for item in saved), size),
        )
        return encodable(text)

    def __repr__(self) -> str:
        if self._state != "closed":
            return f"<opscope.Trace, {'recording' if self._state == 'open' else 'not entered'}>"
        name = foreign(self.recording.model_name or "program")
        return encodable(f"<opscope.Trace of {name}: {len(self.ops)} ops, {len(self)} layers>")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.summary() if self._state == "closed" else repr(self)

    def _repr_html_(self) -> str | None:
        return self.summary()._repr_html_() if self._state == "closed" else None
