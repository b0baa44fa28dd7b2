"""Reads a picture back: what its nodes, edges and frames say and how they look."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field


@dataclass
class Picture:
    """A picture by what it says: nodes and edges go by the titles that one sees."""

    caption: list[str]
    nodes: dict[str, dict] = field(default_factory=dict)
    edges: dict[tuple[str, str], dict] = field(default_factory=dict)
    frames: dict[str, dict] = field(default_factory=dict)

    def texts(self, title):
        return self.nodes[title]["lines"]

    def look(self, title):
        node = self.nodes[title]
        return node.get("shape", "ellipse"), node.get("fillcolor", "#ffffff").strip('"')


def read(dot):
    """Return the picture in a `pydot.Dot`."""
    picture = Picture(_lines(dot.get("label")))
    titles = {}
    pending = [((), dot)]
    while pending:
        around, graph = pending.pop()
        for node in graph.get_nodes():
            attributes = node.get_attributes()
            if "label" not in attributes:
                continue  # the defaults
            lines = _lines(attributes["label"])
            titles[node.get_name()] = lines[0]
            assert lines[0] not in picture.nodes, "two nodes of one title"
            picture.nodes[lines[0]] = {**attributes, "lines": lines, "frames": around}
        for frame in graph.get_subgraphs():
            lines = _lines(frame.get("label"))
            picture.frames[lines[0]] = {"lines": lines, "frames": around}
            pending.append(((*around, lines[0]), frame))
    for edge in dot.get_edges():
        ends = titles[edge.get_source()], titles[edge.get_destination()]
        assert ends not in picture.edges, "an edge is drawn twice"
        picture.edges[ends] = {
            key: value.strip('"') for key, value in edge.get_attributes().items()
        }
    return picture


def _lines(label):
    parts = re.split(r"<br[^>]*>", label.strip()[1:-1])
    texts = [html.unescape(re.sub(r"<[^>]+>", "", part)).strip() for part in parts]
    return [text for text in texts if text]
