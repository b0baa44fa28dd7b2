"""One recording that can be read: looked up, drawn, tabled; no session behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opscope import notation
from opscope.answers.reading import Key, Keys, Reading
from opscope.errors import NotSaved, check_flag
from opscope.exporters.text_report import trace_text
from opscope.garbage import LARGE, give_back
from opscope.keeping.with_tensors import WithTensors
from opscope.layer import Layer, Layers, layers_of
from opscope.notation import encodable, foreign
from opscope.records.ops import Op
from opscope.records.passes.layers import LayerPass, labels
from opscope.records.recording import Failure, Module, Parameter, Recording
from opscope.records.sums.totals import Totals

if TYPE_CHECKING:
    import networkx as nx
    import pydot
    from rich.console import Console, ConsoleOptions, RenderResult
    from typing_extensions import Unpack

    from opscope.analysis.costs import Costs
    from opscope.answers.memory_use import MemoryUse
    from opscope.exporters.dot import Direction
    from opscope.exporters.marks import Marks
    from opscope.exporters.tables.breakdown import Breakdown
    from opscope.exporters.tables.console import Summary
    from opscope.exporters.tables.saved_for_backward import SavedForBackward
    from opscope.records.sums.breakdown import By
    from opscope.tensors import Tensors
    from opscope.views.compose import ViewArguments, ViewOptions
    from opscope.views.quotients.levels import Choice, Level
    from opscope.views.select import Phase


class Record(WithTensors):
    """What one ``with opscope.trace(...)`` block recorded, without any tensor.

    A trace that is pickled or copied is one: it answers as the trace does, and raises `NotSaved`
    where that takes tensors.

    Args:
        recording: What happened.
        saved: What activations were asked for: ``"all"``, or by which keys.
        saved_gradients: Whose gradients, likewise.

    >>> import pickle, torch, opscope
    >>> with opscope.trace() as trace:
    ...     y = torch.relu(torch.ones(2))
    >>> pickle.loads(pickle.dumps(trace)).layer_labels
    ['ones_1_0', 'relu_1_1', 'output_1_2']
    """

    def __init__(self, recording: Recording, saved: Keys = (), saved_gradients: Keys = ()) -> None:
        self._own = layers_of(recording, saved, saved_gradients)

    @classmethod
    def _of(cls, layers: Layers) -> Record:
        """Return the record of some layers, whose tensors are not its own."""
        record = Record.__new__(Record)
        record._own = layers
        return record

    def __reduce__(self) -> tuple[object, ...]:
        """Return the record and what was asked for: all that is pickled or copied.

        Tensors stay with the original, and so does what needs them, such as `validate`.
        """
        _, arguments = self._layers.__reduce__()
        return Record, arguments

    def __del__(self) -> None:
        if self._op_count() > LARGE:
            vars(self).clear()  # before, not after, the memory is given back
            give_back()

    def _op_count(self) -> int:
        """Return how many ops it holds, 0 where it was never made as a whole."""
        own: Layers | None = getattr(self, "_own", None)
        return 0 if own is None else len(own.reading.recording.ops)

    @property
    def _layers(self) -> Layers:
        """Its layers, each made once."""
        return self._own

    @property
    def _reading(self) -> Reading:
        return self._layers.reading

    # ---------------------------------------------------------------- what was recorded

    @property
    def tensors(self) -> Tensors:
        """What was kept beside the record, by value: in memory, in a file, or nowhere."""
        return self._layers.tensors

    @property
    def recording(self) -> Recording:
        """All that was recorded, as plain data."""
        return self._reading.recording

    @property
    def passes(self) -> Sequence[LayerPass]:
        """Every pass of every layer, as records, in the order of execution."""
        return self._reading.passes

    @property
    def ops(self) -> Sequence[Op]:
        """Every aten op, in the order of execution."""
        return self.recording.ops

    @property
    def modules(self) -> tuple[Module, ...]:
        """The model and every module below it."""
        return self.recording.modules

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters and buffers when the block ended, a shared one once."""
        return tuple(item for item in self.recording.parameters if item.of_model)

    @property
    def failure(self) -> Failure | None:
        """What ended the block early, None if nothing did."""
        return self.recording.failure

    @property
    def totals(self) -> Totals:
        """Counts and sizes of all that was computed, and of the model."""
        return self._reading.totals

    @property
    def costs(self) -> Costs:
        """The floating-point operations of each op, layer and module."""
        return self._reading.costs

    # ------------------------------------------------------------------------- layers

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every pass of every layer, in the order of execution."""
        return self._layers.all

    @property
    def layer_labels(self) -> list[str]:
        """Labels in the order of execution; with a list as ``save``, of the saved layers only."""
        reading = self._reading
        listed = reading.chosen.passes if reading.is_selective else reading.passes
        return [item.label for item in listed]

    def __getitem__(self, key: Key) -> Layer:
        """Return a layer by its label, its module's address, its position or a substring.

        ``"conv2d_3_7"``, ``"conv2d_3"``, ``"conv2d_3_7:1"`` (the colon gives the pass),
        ``"features.6"`` (the layer that leaves that module), ``7`` and ``-17`` can all be
        the same layer.

        Raises:
            LayerNotFound: If nothing answers to the key; lists the nearest keys.
            AmbiguousLayer: If several layers, or several passes of one, do.
        """
        return self._layers.find(key)

    def __contains__(self, key: object) -> bool:
        """Whether anything answers to a key: one layer, or several that it does not tell apart."""
        return self._layers.has(key)

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    # ------------------------------------------------------------ graphs, tables, pictures

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
        flat: bool = False,
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
            flat: Whether attributes are numbers and texts only, as GraphML and GEXF take them.

        Raises:
            OptionError: For a value that is not one of those.

        >>> import torch, opscope
        >>> with opscope.trace() as trace:
        ...     y = torch.relu(torch.ones(2)) + 1
        >>> list(trace.graph(level="layer"))
        ['ones_1_0', 'relu_1_1', 'add_1_2', 'output_1_3']
        """
        from opscope.views.compose import ViewOptions, unshared
        from opscope.views.flat import flat as flattened

        options = ViewOptions(
            rolled=rolled, module=module, collapse=collapse, expand=expand, inputs=inputs,
            outputs=outputs, parameters=parameters, buffers=buffers, overwritten=overwritten,
            phase=phase,
        )  # fmt: skip
        check_flag("flat", flat)
        seen = self._view(level, depth, options)
        return flattened(seen) if flat else unshared(seen)

    def _view(self, level: Level, depth: int | None, options: ViewOptions) -> nx.DiGraph:
        """Return what `graph` does, sharing attributes with other views."""
        from opscope.views.compose import view

        flows = self._reading.flows(self._layers.tensors.gradient_flow)
        addresses = [module.address for module in self.modules]
        return view(self._reading.op_graph, level, depth, options, addresses, flows)

    def summary(
        self,
        level: Level = "module",
        depth: int | None = None,
        *,
        phase: Phase = "forward",
        columns: Sequence[str] | str | None = None,
        sort_by: str | None = None,
        row_limit: int | None = None,
        expand: Sequence[str] | Literal["all"] = (),
    ) -> Summary:
        """Return a table that prints itself: with `rich.print`, in a notebook, as ``str``.

        It is no wider than the console: columns that there is no room for are left out.

        Args:
            level: What a row is: ``"op"``, ``"layer"``, or ``"module"`` with its children.
            depth: How deep in the module tree to look.
            phase: Which part of a training step to show, see `graph`; ``"backward"`` tells of
                each layer and module what ran for it then.
            columns: Which columns, of ``name``, ``type``, ``module``, ``op``, ``input``, ``output``,
                ``params``, ``trainable``, ``share`` (of the model's parameters), ``kernel``,
                ``arguments``, ``flops``, ``macs``, ``elements`` (see `costs`), ``memory`` (bytes given),
                ``time`` (of their ops), ``backward`` and ``source``; or a set of them,
                ``"torchinfo"``, ``"shapes"``, ``"costs"`` or ``"memory"``.
            sort_by: A column to sort by, the largest number first; ``"-time"`` for the
                smallest first.
            row_limit: How many rows to show at most; if None, all where they are exported, and the
                first thousand where they are printed.
            expand: Addresses of modules to show with what is in them, of blocks that are made alike
                and are one row, ``h.0–h.11``, else; or ``"all"``.

        Raises:
            OptionError: For a level, depth, column, limit or address that there is not.
        """
        from opscope.answers.overviews import table_of

        return table_of(
            self._reading, level, depth, phase=phase, columns=columns, sort_by=sort_by,
            row_limit=row_limit, expand=expand,
        )  # fmt: skip

    def breakdown(
        self,
        by: By = "operator",
        *,
        phase: Phase = "all",
        row_limit: int | None = 20,
        peak_flops: float | None = None,
        bandwidth: float | None = None,
    ) -> Breakdown:
        """Return what ops took and did, added up: calls, time, FLOPs, bytes; the longest first.

        Args:
            by: What is added up: ``"operator"``, ``"layer"``, ``"line"`` (of code), ``"class"`` (of
                modules), ``"module"`` or ``"phase"``.
            phase: Of which part of a training step, see `graph`.
            row_limit: How many rows to print at most.
            peak_flops: Floating-point operations per second of the device, at least 1, and
            bandwidth: bytes of memory per second, likewise, if it is to be said which of the two
                ops wait for, and how near they come; `opscope.measure_peaks` measures both.

        Raises:
            OptionError: For a value that is not one of those, or one of the last two alone.

        >>> import torch, opscope
        >>> with opscope.trace() as trace:
        ...     y = torch.ones(2) + 1 + 1
        >>> {share.name: share.calls for share in trace.breakdown()}["aten.add.Tensor"]
        2
        """
        from opscope.answers.overviews import breakdown_of

        return breakdown_of(self._reading, by, phase, row_limit, peak_flops, bandwidth)

    def text(self, budget: int = 4000) -> str:
        """Return the trace in so many characters: its size, findings, structure and top costs.

        Args:
            budget: How many at most.

        Raises:
            OptionError: For less than 400.

        >>> import torch, opscope
        >>> with opscope.trace() as trace:
        ...     y = torch.ones(2) + 1
        >>> print(trace.text().splitlines()[1])
        parameters: 0 (0 B)
        """
        from opscope.answers.overviews import text_of

        return text_of(self._reading, budget)

    def to_dot(
        self,
        level: Level = "layer",
        depth: int | None = None,
        *,
        direction: Direction = "down",
        marks: Marks | None = None,
        **view: Unpack[ViewArguments],
    ) -> pydot.Dot:
        """Return the picture as a `pydot.Dot`, to be changed before it is written.

        Args:
            level: What a node is: ``"op"``, ``"layer"`` or ``"module"``.
            depth: How deep in the module tree to look; what is deeper is one node.
            direction: Where the data flows to: ``"down"``, ``"up"``, ``"right"``, ``"left"``.
            marks: Colours of nodes, by the label of a layer, the address of a module or the name of
                a parameter: ``"orange"``, ``"#ff8800"``, or a colour and what it means.
            view: The other arguments of `graph`; parameters and buffers are no nodes here
                unless they are asked for.

        Raises:
            OptionError: For a name or value that is not one of the valid ones.
        """
        from opscope.exporters.dot import to_dot
        from opscope.exporters.marks import check_marks
        from opscope.exporters.progress import waiting
        from opscope.views.compose import ViewOptions

        options = ViewOptions.of({"parameters": False, "buffers": False, **view})
        sums, coloured = self.totals, check_marks(marks, self._names() if marks else ())
        caption = [
            self.recording.model_name or "program",
            f"{notation.plural(sums.tensors, 'tensor')} "
            f"({notation.size(sums.tensor_bytes)} newly allocated)",
            f"{notation.count(sums.params)} params ({notation.size(sums.param_bytes)})",
        ]
        seen = self._view(level, depth, options)
        with waiting("drawing") as track:
            return to_dot(seen, direction=direction, caption=caption, marks=coloured, track=track)

    def _names(self) -> set[str]:
        """Return what a node of a picture can be called."""
        labels = (name for item in self.passes for name in (item.label, item.layer_label))
        modules = (module.address for module in self.modules)
        return {*labels, *modules, *(item.name for item in self.recording.parameters)}

    def draw(
        self,
        path: str | PathLike[str],
        level: Level = "layer",
        depth: int | None = None,
        *,
        direction: Direction = "down",
        marks: Marks | None = None,
        **view: Unpack[ViewArguments],
    ) -> Path:
        """Write a picture and return its path; the suffix chooses the format.

        ``.dot`` and ``.gv`` need nothing, ``.svg`` Graphviz or ``pip install 'opscope[draw]'``,
        ``.png`` and ``.pdf`` Graphviz, which has two minutes. A file that is there is replaced when
        the picture is ready. The other arguments are those of `to_dot` and `graph`.

        Raises:
            OptionError: For a name or value that is not one of the valid ones, or a place that
                cannot be written to.
            RenderError: Where nothing on this machine makes that format, or Graphviz failed.
        """
        from opscope.exporters.picture import check_path, write_picture

        check_path(path)
        dot = self.to_dot(level, depth, direction=direction, marks=marks, **view)
        return write_picture(dot, path)

    def timeline(self, path: str | PathLike[str]) -> Path:
        """Write when what ran as JSON: for Perfetto (with memory), or as ``*.speedscope.json``.

        Raises:
            OptionError: For another suffix, or a place that cannot be written to.
        """
        from opscope.exporters.over_time.timeline import write_timeline

        return write_timeline(self.recording, self.passes, path)

    @property
    def saved_for_backward(self) -> SavedForBackward:
        """The tensors that autograd keeps for the backward, with bytes, the largest first.

        They are those of the nodes made in the block, freed since or not, but of ops that write
        to a view in place, whose node torch hides.

        Raises:
            NotSaved: If the trace was not recorded with ``saved_for_backward=True``.

        >>> import torch, opscope
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(3, 4)
        >>> with opscope.trace(model, saved_for_backward=True) as trace:
        ...     y = model(x)
        >>> trace.saved_for_backward.by_layer()
        {'linear_1_1': 48, 'relu_1_2': 24}
        """
        from opscope.exporters.tables.saved_for_backward import SavedForBackward
        from opscope.views.rows.saved_for_backward import kept_tensors

        recording = self.recording
        if recording.saved_tensors is None:
            message = (
                "what autograd keeps was not noted; trace with "
                "opscope.trace(..., saved_for_backward=True)"
            )
            raise NotSaved(message)
        return SavedForBackward(
            kept_tensors(recording, self.passes), recording.model_name or "program"
        )

    @property
    def memory(self) -> MemoryUse:
        """The memory of tensors after each op; `NotSaved` unless recorded with ``memory=True``."""
        from opscope.answers.memory_use import memory_use  # which loads rich

        return memory_use(self.recording, self.passes)

    # ----------------------------------------------------------------- how it is shown

    def __str__(self) -> str:
        from opscope.views.structure import structure

        reading, recording = self._reading, self.recording
        saved = [item for item in self.passes if reading.was_saved(item)] if reading.saved else []
        size = sum(recording.values[v].nbytes for item in saved for v in item.values)
        shown: list[tuple[int, str]] = list(enumerate(labels(self.passes)))
        if reading.is_selective:
            shown = [(item.index, item.label) for item in saved]
        text = trace_text(
            recording,
            self.totals,
            structure(reading.layer_graph, self.passes),
            shown,
            (sum(len(item.values) for item in saved), size),
        )
        return encodable(text)

    def __repr__(self) -> str:
        name, kind = foreign(self.recording.model_name or "program"), type(self).__name__
        return encodable(f"<opscope.{kind} of {name}: {len(self.ops)} ops, {len(self)} layers>")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.summary()

    def _repr_html_(self) -> str | None:
        return self.summary()._repr_html_()
