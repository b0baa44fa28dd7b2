"""A recording, and what is worked out of it when it is asked for, each thing once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from opscope.records.ops import Op
from opscope.records.passes.layers import LayerPass, layer_passes
from opscope.records.passes.lookup import LayerIndex, Selection
from opscope.records.recording import GradientFlow, Recording
from opscope.records.sums.totals import Totals, totals

if TYPE_CHECKING:
    import networkx as nx

    from opscope.analysis.costs import Costs
    from opscope.views.rows.table_rows import BackwardOps

Key = str | int
Keys = Literal["all"] | tuple[Key, ...]


class Reading:
    """What is read out of one recording.

    Args:
        recording: It.
        saved: What activations were asked for: ``"all"``, or by which keys.
        saved_gradients: Whose gradients, likewise.
    """

    def __init__(self, recording: Recording, saved: Keys = (), saved_gradients: Keys = ()) -> None:
        self.recording = recording
        self.saved = saved
        self.saved_gradients = saved_gradients

    @cached_property
    def passes(self) -> Sequence[LayerPass]:
        """Every pass of every layer, in the order of execution."""
        return layer_passes(self.recording)

    @cached_property
    def totals(self) -> Totals:
        """Counts and sizes of all that was computed, and of the model."""
        return totals(self.recording, self.passes)

    @cached_property
    def index(self) -> LayerIndex:
        """Which layer answers to which key."""
        return LayerIndex(self.recording, self.passes)

    @cached_property
    def op_graph(self) -> nx.DiGraph:
        """The graph that all others are made of."""
        from opscope.exporters.progress import waiting
        from opscope.graph.build import op_graph

        return op_graph(self.recording, self.passes, waiting)

    @cached_property
    def layer_graph(self) -> nx.DiGraph:
        """Its quotient by layers: what the forward computed from what."""
        from opscope.views.quotients.levels import at_level
        from opscope.views.select import select

        return at_level(select(self.op_graph, phase="forward"), "layer")

    @cached_property
    def costs(self) -> Costs:
        """What all of it computes."""
        from opscope.analysis.costs import Costs
        from opscope.exporters.progress import waiting

        return Costs(self.recording, self.passes, waiting)

    @cached_property
    def backward_ops(self) -> BackwardOps:
        """Which ops of the backward belong to which call."""
        from opscope.views.rows.table_rows import BackwardOps

        return BackwardOps(self.recording)

    # ------------------------------------------------------------------ what was asked for

    @property
    def is_selective(self) -> bool:
        """Whether the activations of some layers were asked for."""
        return bool(self.saved) and self.saved != "all"

    @cached_property
    def chosen(self) -> Selection:
        """What activations were asked for by keys."""
        return self.index.select(() if self.saved == "all" else self.saved)

    @cached_property
    def chosen_gradients(self) -> Selection:
        """Whose gradients were."""
        return self.index.select(() if self.saved_gradients == "all" else self.saved_gradients)

    def unknown(self) -> list[str]:
        """Return why keys that were asked for stand for no layer."""
        both = (*self.chosen.unknown, *self.chosen_gradients.unknown)
        return list(dict.fromkeys(both))

    def was_saved(self, item: LayerPass) -> bool:
        """Whether the activation of a layer was asked for."""
        if not self.is_selective:
            return self.saved == "all"
        return self.chosen.values.issuperset(item.values) and (
            bool(item.values) or item in self.chosen.passes
        )

    def was_gradient_saved(self, item: LayerPass) -> bool:
        """Whether the gradient of what a layer gave was."""
        everything = self.saved_gradients == "all"
        return everything or self.chosen_gradients.values.issuperset(item.values)

    # ------------------------------------------------------------------------ connections

    def neighbours(self, item: LayerPass, side: Literal["parents", "children"]) -> tuple[str, ...]:
        """Return the labels of the layers that a layer reads from, or that read from it."""
        graph = self.layer_graph
        inside = {item.label: None}
        if item.kind == "module" and item.module_call is not None:
            calls = set(self.recording.module_calls[item.module_call].layer_calls)
            inside |= {one.label: None for one in self.passes if one.call in calls}
        near = graph.pred if side == "parents" else graph.succ
        found = {
            str(label): None
            for member in inside
            if member in graph
            for label in near[member]
            if label not in inside and graph.nodes[label]["layer"]
        }
        return tuple(found)

    def backward_of(self, item: LayerPass) -> Sequence[Op]:
        """Return the aten ops that autograd ran for a layer."""
        if item.kind == "module":
            return tuple(self.backward_ops.of_run.get(item.module_call or 0, ()))
        return () if item.call is None else tuple(self.backward_ops.of_call.get(item.call, ()))

    def flows(self, flow: GradientFlow) -> set[tuple[str, str]]:
        """Return the labels of layers between which gradients flowed, see `opscope.views.select`."""
        if not flow.reached:
            return set()
        layers = (item for item in self.passes if item.call is not None or item.kind == "input")
        labels = {value: item.label for item in layers for value in item.values}
        pairs = {(a, b) for a, b in flow.pairs if a in labels and b in labels}
        pairs.update((value, value) for value in flow.reached if value in labels)
        return {(labels[a], labels[b]) for a, b in pairs}
