"""Graphs that are built when they are first looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx


class Lazy:
    """A `networkx.DiGraph` in all that can be asked of it, which is when it is built.

    What needs less than the whole asks for ``is_built`` first, and for what the class knows.
    """

    def __init__(self) -> None:
        self._graph: nx.DiGraph | None = None

    def build(self) -> nx.DiGraph:
        """Return the graph."""
        raise NotImplementedError

    @property
    def is_built(self) -> bool:
        """Whether it has been looked at."""
        return self._graph is not None

    @property
    def built(self) -> nx.DiGraph:
        """The graph itself."""
        if self._graph is None:
            self._graph = self.build()
        return self._graph

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and not name.startswith("__networkx"):
            raise AttributeError(name)  # one that copies or pickles looks for these
        return getattr(self.built, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.built)

    def __len__(self) -> int:
        return len(self.built)

    def __contains__(self, node: object) -> bool:
        return node in self.built

    def __getitem__(self, node: str) -> Any:
        return self.built[node]
