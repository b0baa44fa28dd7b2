"""Golden files: ``OPSCOPE_UPDATE_GOLDEN=1 pytest tests/exporters`` writes them again."""

import os
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Return a check that a text is that of a file in ``golden/``."""

    def check(name, text):
        path = FOLDER / name
        if os.environ.get("OPSCOPE_UPDATE_GOLDEN") == "1":
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def parse_dot():
    """Return a reader of DOT text: its nodes by name, in order, and its edges."""
    import pydot

    def parse(text):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pydot's, of pyparsing's old names
            found = pydot.graph_from_dot_data(text)
        assert found is not None, "pydot cannot read it"
        (graph,) = found
        nodes = {node.get_name(): node for node in _all(graph, "get_nodes")}
        names = sorted(nodes.keys() - {"node", "edge", "graph"}, key=lambda name: int(name[1:]))
        return {name: nodes[name] for name in names}, _all(graph, "get_edges")

    return parse


def _all(graph, getter):
    inner = [item for part in graph.get_subgraphs() for item in _all(part, getter)]
    return [*getattr(graph, getter)(), *inner]
