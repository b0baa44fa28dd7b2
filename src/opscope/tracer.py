"""The front desk: what users call, each verb one call of an inner room."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, reduce
from operator import add
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from opscope.analysis.nonfinite import first_nonfinite, locate
from opscope.capture.develop import develop
from opscope.capture.payloads import SaveOptions
from opscope.capture.session import Session
from opscope.errors import (
    LayerNotFound,
    NonFiniteError,
    NotSaved,
    OptionError,
    TraceStateError,
    check_choice,
    check_depth,
    check_flag,
)
from opscope.layer import Layer
from opscope.records.layers import LayerPass, layer_passes
from opscope.records.lookup import LayerIndex
from opscope.records.recording import Failure, Module, Op, Parameter, Recording
from opscope.records.totals import Totals, totals
from opscope.saving import Key, Save, check_save, save_options

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
    from opscope.views.rows import BackwardOps
    from opscope.views.select import Phase


def trace(
    model: nn.Module | None = None,
    *,
    layers: bool = True,
    save: Save = None,
    gradients: Save = None,
    detach: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
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
        dtype: What it is cast to.
        transform: A function applied to each saved activation; what it returns is saved.
        replayable: Whether to keep what `Trace.validate` needs: the results of every op,
            and a copy of all that comes from outside, parameters included.
        saved_for_backward: Whether to note which tensors autograd keeps, see
            `Trace.saved_for_backward`.
        stop_on_nonfinite: Whether to raise a `NonFiniteError` at the first op, of any phase,
            that gives a NaN without having been given one, or an infinity out of finite
            numbers. It looks at every result, so it costs a pass over memory for each.

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


class Trace:
    """What one ``with opscope.trace(...)`` block recorded.

    Nothing is worked out before it is asked for, and no tensor is kept alive but those
    that ``save`` asked for.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layers: bool = True,
        save: Save = None,
        gradients: Save = None,
        options: SaveOptions | None = None,
        replayable: bool = False,
        saved_for_backward: bool = False,
        stop_on_nonfinite: bool = False,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            message = (
                f"model: {type(model).__name__} object (must be a torch.nn.Module or None; "
                "to trace a function, call it inside `with opscope.trace():`)"
            )
            raise OptionError(message)
        switches = {
            "layers": layers, "replayable": replayable, "saved_for_backward": saved_for_backward,
            "stop_on_nonfinite": stop_on_nonfinite,
        }  # fmt: skip
        for name, option in switches.items():
            check_flag(name, option)
        self._save = check_save(save)
        self._save_gradients = check_save(gradients, "gradients")
        if options is not None and not isinstance(options, SaveOptions):
            message = f"options: {options!r} (give them to opscope.trace by name)"
            raise OptionError(message)
        options = options or SaveOptions()
        if replayable and options != SaveOptions():
            message = "replayable=True saves every value as it is: no device, dtype or transform"
            raise OptionError(message)
        self._session = Session(
            model,
            layers=layers,
            save=options if self._save != () else None,
            gradients=options if self._save_gradients != () else None,
            replayable=replayable,
            saved_for_backward=saved_for_backward,
            stop_on_nonfinite=stop_on_nonfinite,
        )
        self._state: Literal["new", "open", "closed"] = "new"
        self._is_copy = False

    def __enter__(self) -> Trace:
        if self._state == "open":
            message = "this trace is being recorded; leave its block before entering it again"
            raise TraceStateError(message)
        if self._is_copy:
            message = "a copy of a trace has no model to watch; enter the original, or a new trace"
            raise TraceStateError(message)
        for name in _WORKED_OUT.intersection(vars(self)):
            delattr(self, name)
        self._session.start(sys._getframe(1))
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_back: TracebackType | None,
    ) -> None:
        if self._state != "open":
            message = "this trace is not being recorded: it is left once, after it was entered"
            raise TraceStateError(message)
        if not self._session.can_stop():
            if error is not None:
                return  # the exception says more than that the trace cannot be left
            message = "this trace was entered in another thread, and goes on until left there"
            raise TraceStateError(message)
        self._state = "closed"
        self._session.stop(error, trace_back)
        if isinstance(error, NonFiniteError) and error.op is not None:
            call = self.recording.call_of(self.ops[error.op])
            item = next((item for item in self.passes if item.call == call), None)
            locate(error, self.recording, error.op, item)
        with suppress(LayerNotFound):  # raised where the layers are asked for
            if isinstance(self._save, tuple) and self._save:
                self._settle_payloads()
            if isinstance(self._save_gradients, tuple) and self._save_gradients:
                self._settle_gradients()

    def __getstate__(self) -> dict[str, Any]:
        """Return the record: all that is pickled or copied.

        The tensors that were saved, and references to those of the model, stay with the
        original, and so does what needs them: activations, `validate` and `to_fx`.
        """
        return {"recording": self.recording}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state)
        self._state, self._is_copy = "closed", True

    def _check_original(self) -> None:
        if self._is_copy:
            message = (
                "this trace was pickled or copied, which takes the record and no tensors; "
                "ask the original, or keep what you need of it"
            )
            raise NotSaved(message)

    # ---------------------------------------------------------------- what was recorded

    @cached_property
    def recording(self) -> Recording:
        """All that was recorded, as plain data.

        Raises:
            TraceStateError: Inside the block, or before it.
        """
        if self._state != "closed":
            when = "is still being recorded" if self._state == "open" else "was never entered"
            message = f"this trace {when}; read it after `with opscope.trace(...) as trace:`"
            raise TraceStateError(message)
        return develop(self._session)

    @cached_property
    def passes(self) -> tuple[LayerPass, ...]:
        """Every pass of every layer, as records, in the order of execution."""
        return layer_passes(self.recording)

    @property
    def ops(self) -> tuple[Op, ...]:
        """Every aten op, in the order of execution."""
        return self.recording.ops

    @property
    def modules(self) -> tuple[Module, ...]:
        """The model and every module below it."""
        return self.recording.modules

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters and buffers, a shared one once."""
        return self.recording.parameters

    @property
    def failure(self) -> Failure | None:
        """What ended the block early, None if nothing did."""
        return self.recording.failure

    @cached_property
    def totals(self) -> Totals:
        """Counts and sizes of all that was computed, and of the model."""
        return totals(self.recording, self.passes)

    # ------------------------------------------------------------------------- layers

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every pass of every layer, in the order of execution."""
        return tuple(Layer(self, item) for item in self.passes)

    @property
    def layer_labels(self) -> list[str]:
        """Labels in the order of execution; with a list as ``save``, of the saved layers only."""
        if isinstance(self._save, tuple) and self._save:
            return [item.label for item in self.passes if item.index in self._chosen]
        return [item.label for item in self.passes]

    def __getitem__(self, key: Key) -> Layer:
        """Return a layer by its label, its module's address, its position or a substring.

        ``"conv2d_3_7"``, ``"conv2d_3"``, ``"conv2d_3_7:1"`` (the colon gives the pass),
        ``"features.6"`` (the layer that leaves that module), ``7`` and ``-17`` can all be
        the same layer.

        Raises:
            LayerNotFound: If nothing answers to the key; lists the nearest keys.
            AmbiguousLayer: If several layers, or several passes of one, do.
        """
        return self.layers[self._index.find(key).index]

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @cached_property
    def _index(self) -> LayerIndex:
        return LayerIndex(self.recording, self.passes)

    def _neighbours(
        self, record: LayerPass, side: Literal["parents", "children"]
    ) -> tuple[Layer, ...]:
        graph = self._layer_graph
        if record.label not in graph:
            return ()
        found = graph.pred if side == "parents" else graph.succ
        return tuple(
            self[str(label)] for label in found[record.label] if graph.nodes[label]["layer"]
        )

    def _exits(self, record: LayerPass) -> list[tuple[str, bool]]:
        """Return the modules whose output a layer is, and whether they are leaves."""
        exits = self._index.outputs_of.get(record.index, [])
        known = self._op_graph.graph["modules"]
        return [
            (name.removesuffix(":1") if known[name]["runs"] == 1 else name, known[name]["leaf"])
            for name in exits
        ]

    # -------------------------------------------------------------------- activations

    @cached_property
    def _chosen(self) -> frozenset[int]:
        """The positions of the layer passes whose activations were asked for."""
        if self._save == "all":
            return frozenset(range(len(self.passes)))
        return frozenset(item.index for item in self._index.select(self._save))

    def _settle_payloads(self) -> None:
        """Let go of what was kept in case it should be asked for and was not."""
        payloads = self._session.tape.payloads
        if payloads is not None and not payloads.settled and not payloads.every_op:
            chosen = (self.passes[index] for index in self._chosen)
            payloads.retain(value for item in chosen for value in item.values)

    def _is_saved(self, record: LayerPass) -> bool:
        return bool(self._save) and record.index in self._chosen

    def _activation(self, record: LayerPass) -> Any:
        self._check_original()
        payloads = self._session.tape.payloads
        if payloads is None or not self._is_saved(record):
            message = (
                f"the activation of {record.label} was not saved; trace with save='all' "
                f"or save=[{record.layer_label!r}]"
            )
            raise NotSaved(message)
        self._settle_payloads()
        found = tuple(payloads.get(value) for value in record.values)
        if any(tensor is None for tensor in found):
            message = (
                f"the activation of {record.label} was saved, but its memory was freed, or "
                "written after the block; read it before, or save with transform=torch.clone"
            )
            raise NotSaved(message)
        return found[0] if len(found) == 1 else found

    # ---------------------------------------------------------------------- gradients

    def _settle_gradients(self) -> None:
        """Let go of gradients that were kept in case they should be asked for and were not."""
        table = self._session.gradients
        if table is not None:
            chosen = self._index.select(self._save_gradients)
            table.retain(value for item in chosen for value in item.values)

    def _gradients(self, record: LayerPass) -> list[tuple[torch.Tensor, ...]]:
        """Return per tensor that a layer gave the gradients that reached it."""
        self._check_original()
        table = self._session.gradients
        wanted = self._save_gradients
        if table is None or (wanted != "all" and record not in self._index.select(wanted)):
            message = (
                f"the gradient of {record.label} was not asked for; trace with "
                f"gradients='all' or gradients=[{record.layer_label!r}]"
            )
            raise NotSaved(message)
        return [table.get(value) for value in record.values]

    def _gradient(self, record: LayerPass) -> Any:
        found = [reduce(add, kept) if kept else None for kept in self._gradients(record)]
        if all(gradient is None for gradient in found):
            message = (
                f"no gradient has reached {record.label}: it needs none, or no backward ran "
                "from what depends on it"
            )
            raise NotSaved(message)
        return found[0] if len(found) == 1 else tuple(found)

    def _has_gradient(self, record: LayerPass) -> bool:
        table = self._session.gradients
        return table is not None and not table.reached().isdisjoint(record.values)

    def _flows(self) -> set[tuple[str, str]]:
        """Return the labels of layers between which gradients flowed, see `with_gradients`."""
        table = self._session.gradients
        if table is None:
            return set()
        labels = {value: item.label for item in self.passes for value in item.values}
        pairs = {(a, b) for a, b in table.flows() if a in labels and b in labels}
        pairs.update((value, value) for value in table.reached() if value in labels)
        return {(labels[a], labels[b]) for a, b in pairs}

    @property
    def saved_for_backward(self) -> SavedForBackward:
        """The tensors that autograd keeps for the backward, with bytes, the largest first.

        They are those of the nodes made in the block, whether or not a backward has freed them.

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
            kept_tensors(recording, self.passes), recording.model_name or "trace"
        )

    def first_nonfinite(self) -> NonFiniteError | None:
        """Return where the first NaN or infinity arose, None if there is none.

        Looks at the values that were saved, with ``save="all"`` at what layers gave, with
        ``replayable=True`` at every op. What it returns is the error that
        ``stop_on_nonfinite=True`` would have raised.

        Raises:
            NotSaved: If the trace saved neither.

        >>> import torch, opscope
        >>> with opscope.trace(save="all") as trace:
        ...     y = torch.log(torch.zeros(2)).exp()
        >>> trace.first_nonfinite().layer
        'log_1_1'
        """
        self._check_original()
        payloads = self._session.tape.payloads
        if payloads is None or not (payloads.every_op or self._save == "all"):
            message = "the values were not saved; trace with save='all' or replayable=True"
            raise NotSaved(message)
        values = self._session.tape.values

        def known(value: int) -> torch.Tensor | None:
            kept = payloads.get(value)
            is_outside = self.recording.values[value].origin == "outside"
            return values.outside(value) if kept is None and is_outside else kept

        return first_nonfinite(self.recording, self.passes, known)

    def _backward_ops(self, record: LayerPass) -> tuple[Op, ...]:
        if record.call is None:
            return ()
        return tuple(self._ops_of_backward.of_call.get(record.call, ()))

    @cached_property
    def _ops_of_backward(self) -> BackwardOps:
        from opscope.views.rows import BackwardOps

        return BackwardOps(self.recording)

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

    def to_fx(self) -> GraphModule:
        """Return the forward ops as a program: a `torch.fx.GraphModule` of aten overloads.

        It shares the model's parameters and buffers, under their names, takes the model's
        inputs by the names of its ``forward`` (one for each tensor in nested ones), and
        runs on new inputs of the same shapes. ``meta["baked"]`` on it lists what the data
        decided and the program now fixes.

        Raises:
            TraceStateError: If the model was called several times, or failed.
            NotSaved: If the model, or another tensor that the program needs, is gone.

        >>> import torch, opscope
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> with torch.no_grad(), opscope.trace(model) as trace:
        ...     y = model(x)
        >>> torch.equal(trace.to_fx()(x), y)
        True
        """
        from opscope.analysis.replay import overload
        from opscope.exporters.fx import to_fx

        self._check_original()
        session = self._session
        root = None if session.modules.root is None else session.modules.root.live()
        return to_fx(
            self.recording,
            overload=overload,
            parameter=self._parameter,
            outside=session.tape.values.outside,
            forward=None if root is None else root.forward,
        )

    def _parameter(self, number: int) -> torch.Tensor | None:
        """Return a parameter or buffer; as it was, if it is gone and was kept."""
        session, record = self._session, self.recording.parameters[number]
        tensor = session.tape.parameters.entries[number].live()
        if tensor is None and record.value is not None:
            tensor = session.tape.values.outside(record.value)
            if tensor is not None and record.kind == "parameter":
                tensor = nn.Parameter(tensor, requires_grad=record.trainable)
        return tensor

    # ------------------------------------------------------------------------- graphs

    @cached_property
    def _op_graph(self) -> nx.DiGraph:
        from opscope.graph.build import op_graph

        return op_graph(self.recording, self.passes)

    @cached_property
    def _layer_graph(self) -> nx.DiGraph:
        from opscope.views.levels import at_level
        from opscope.views.select import in_phase

        return at_level(in_phase(self._op_graph, "forward"), "layer")

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
            outputs=outputs, parameters=parameters, buffers=buffers, phase=phase,
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
            title=self.recording.model_name or "trace",
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
            self.recording.model_name or "trace",
            f"{notation.plural(sums.tensors, 'tensor')} ({notation.size(sums.tensor_bytes)})",
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
        'opscope[draw]'``, ``.png`` and ``.pdf`` Graphviz. The other arguments are those of
        `to_dot` and `graph`.

        Raises:
            OptionError: For a name or value that is not one of the valid ones.
            RenderError: Where nothing on this machine makes that format.
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
        return trace_text(
            self.recording,
            self.totals,
            structure(self._layer_graph, self.passes),
            [(item.index, item.label) for item in shown],
            (sum(len(item.values) for item in saved), size),
        )

    def __repr__(self) -> str:
        if self._state != "closed":
            return f"<opscope.Trace, {'recording' if self._state == 'open' else 'not entered'}>"
        name = self.recording.model_name or "program"
        return f"<opscope.Trace of {name}: {len(self.ops)} ops, {len(self)} layers>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.summary() if self._state == "closed" else repr(self)

    def _repr_html_(self) -> str | None:
        return self.summary()._repr_html_() if self._state == "closed" else None


_WORKED_OUT = frozenset(
    name for name, item in vars(Trace).items() if isinstance(item, cached_property)
)
