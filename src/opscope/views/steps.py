"""Views that are made when they are first looked at, by the steps that make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import networkx as nx

from opscope.graph.build import OpGraph
from opscope.graph.lazy import Lazy

Step = Callable[[nx.DiGraph], nx.DiGraph]


class Steps(Lazy):
    """A view of the graph of ops, by the steps that make it.

    Args:
        ops: The graph of ops.
        steps: What is done with it, each step with its name.
    """

    def __init__(self, ops: OpGraph, steps: tuple[tuple[str, Step], ...]) -> None:
        super().__init__()
        self.ops = ops
        self._steps = steps

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the steps."""
        return tuple(name for name, _ in self._steps)

    def then(self, name: str, step: Step) -> Steps:
        """Return a view with one more step."""
        return Steps(self.ops, (*self._steps, (name, step)))

    def build(self) -> nx.DiGraph:
        """Return it as networkx has it."""
        return reduce(lambda graph, step: step[1](graph), self._steps, self.ops.built)


def after(graph: nx.DiGraph, name: str, step: Step) -> Steps | None:
    """Return a graph with one more step to be done; None if it is to be done at once."""
    if isinstance(graph, OpGraph) and not graph.is_built:
        return Steps(graph, ((name, step),))
    if isinstance(graph, Steps) and not graph.is_built and not graph.ops.is_built:
        return graph.then(name, step)
    return None
