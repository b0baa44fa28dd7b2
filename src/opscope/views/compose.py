"""One view of the op graph from all of its options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import networkx as nx

from opscope.errors import check_address, check_choice, check_flag
from opscope.garbage import paused
from opscope.graph.build import OpGraph
from opscope.graph.edges import edges_of
from opscope.graph.lazy import Lazy
from opscope.views.quotients.folded import can_fold, folded
from opscope.views.quotients.levels import Choice, Level, Rule, at_level
from opscope.views.quotients.rolled import fold_passes
from opscope.views.select import PHASES, Phase, select


class ViewArguments(TypedDict, total=False):
    """The arguments, by name, of verbs that show a view; see `ViewOptions`."""

    rolled: bool
    module: str | None
    collapse: Choice
    expand: Choice
    inputs: bool
    outputs: bool
    parameters: bool
    buffers: bool
    overwritten: bool
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What of the graph is shown, apart from its level and depth.

    Attributes:
        rolled: Whether all passes of a layer are one node.
        module: Address of the one module to show.
        collapse: Modules to show as one node whatever their depth.
        expand: Modules to show from inside whatever their depth.
        inputs: Whether tensors that enter are nodes.
        outputs: Whether tensors that leave are nodes.
        parameters: Whether parameters are nodes.
        buffers: Whether buffers are nodes.
        overwritten: Whether there are edges along which nothing flows, since what was there is
            overwritten unread.
        phase: Which part of a training step is shown.
    """

    rolled: bool = False
    module: str | None = None
    collapse: Choice = None
    expand: Choice = None
    inputs: bool = True
    outputs: bool = True
    parameters: bool = True
    buffers: bool = True
    overwritten: bool = False
    phase: Phase = "forward"

    def __post_init__(self) -> None:
        for name in ("rolled", "inputs", "outputs", "parameters", "buffers", "overwritten"):
            check_flag(name, getattr(self, name))
        check_address(self.module)

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> ViewOptions:
        """Return the options of these names, else raise an `OptionError` that lists them."""
        choices = [field.name for field in fields(cls)]
        for name in named:
            check_choice("argument", name, choices)
        return cls(**named)


def view(
    graph: nx.DiGraph,
    level: Level,
    depth: int | None,
    options: ViewOptions,
    addresses: Collection[str],
    flows: Collection[tuple[str, str]] = (),
) -> nx.DiGraph:
    """Return a view of the op graph.

    Args:
        graph: The graph of ops that `opscope.graph.build` makes.
        level: What a node is.
        depth: How deep in the module tree to look.
        options: What of it is shown.
        addresses: Of all modules, for the message where ``options.module`` is none.
        flows: Along which layers gradients flowed, see `opscope.views.select.select`.

    Raises:
        OptionError: For a level, depth, phase or address that there is not.
    """
    check_choice("phase", options.phase, PHASES)
    kinds = {
        "input": options.inputs, "output": options.outputs, "external": options.inputs,
        "parameter": options.parameters, "buffer": options.buffers,
    }  # fmt: skip
    hidden = [kind for kind, is_shown in kinds.items() if not is_shown]
    is_whole = options.module is None and options.phase in ("forward", "all")
    if options.rolled and is_whole and not flows and level != "op" and _is_foldable(graph):
        rule = Rule(
            graph.attributes, level, depth, collapse=options.collapse, expand=options.expand
        )
        return folded(graph, rule, hidden, overwritten=options.overwritten)
    shown = select(
        graph, phase=options.phase, module=options.module, addresses=addresses, hidden=hidden,
        overwritten=options.overwritten, flows=flows,
    )  # fmt: skip
    shown = at_level(shown, level, depth, collapse=options.collapse, expand=options.expand)
    return fold_passes(shown) if options.rolled else shown


@paused()
def unshared(graph: nx.DiGraph) -> nx.DiGraph:
    """Have no list or dictionary in the attributes of a view be another graph's as well.

    Args:
        graph: What `view` returned, of which nodes and edges are its own.

    Returns:
        The same graph, as networkx has it, which its user may change.
    """
    own: nx.DiGraph = graph.built if isinstance(graph, Lazy) else graph
    for attributes in (own.graph, *(data for _, data in own.nodes(data=True))):
        attributes.update(_copied(attributes))
    for _, _, data in edges_of(own):
        data.update(_copied(data))
    return own


def _copied(value: Any) -> Any:
    """Copy nested dictionaries and lists; a quarter of what `copy.deepcopy` takes."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _is_foldable(graph: nx.DiGraph) -> bool:
    return isinstance(graph, OpGraph) and not graph.is_built and can_fold(graph)
