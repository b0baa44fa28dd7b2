"""A view of the graph as a pydot picture, in the article's look.

Inputs are green, outputs red, layers with parameters grey. A box is the output of a module
without modules inside, an oval any other layer, a 3-D box a whole module; frames stand
around the modules that contain several nodes. What depends on no input is dashed. Blue is
what ran in backward, and an arrow along which a gradient flowed back.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from itertools import islice
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import networkx as nx
import pydot

from opscope import notation
from opscope.errors import check_choice
from opscope.exporters.marks import legend, mark_of
from opscope.graph.edges import edges_of
from opscope.waiting import Track, untracked

Direction = Literal["down", "up", "right", "left"]
DIRECTIONS: dict[str, str] = {"down": "TB", "up": "BT", "right": "LR", "left": "RL"}

_FILL = {
    "input": "#c9ecc4",
    "output": "#f8c4bf",
    "parameter": "#e3e3e3",
    "buffer": "#ececec",
    "external": "#d9e8f6",
}
_MOST_TENSORS = 3  # of one node are written
_MOST_FRAMES = 100  # inside one another: pydot writes them, and Graphviz reads them, by recursion
_PLAIN, _WITH_PARAMETERS, _FAILED = "#ffffff", "#dcdcdc", "#ff5c5c"
_GRADIENT = "#1f6fd6"
_LINE = 50  # characters at most of a line in a node or a frame
_FONT = "Helvetica,Arial,sans-serif"
_EDGES: dict[str, dict[str, str]] = {
    "data": {},
    "alias": {},
    "write": {"style": "dashed", "color": "#b3541e"},
    "overwrite": {"style": "dotted", "color": "#9a9a9a"},
}


def to_dot(
    graph: nx.DiGraph,
    *,
    direction: Direction = "down",
    caption: Iterable[str] = (),
    marks: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    track: Track = untracked,
) -> pydot.Dot:
    """Return a view of the graph as a picture to be laid out by Graphviz.

    Args:
        graph: A graph with the attributes that `opscope.graph.build` documents.
        direction: Where the data flows to: ``"down"``, ``"up"``, ``"right"``, ``"left"``.
        caption: Lines above the picture; the first is bold.
        marks: Colours of nodes with what they mean, see `check_marks`; a box in each is a legend.
        track: Hands on the nodes and edges as they are drawn, to one who waits for them.

    Raises:
        OptionError: For a direction that there is not.
    """
    check_choice("direction", direction, tuple(DIRECTIONS))
    dot = pydot.Dot("trace", graph_type="digraph", rankdir=DIRECTIONS[direction])
    dot.set_graph_defaults(
        fontname=_FONT, fontsize="14", labelloc="t", labeljust="l", compound="true",
        nodesep="0.25", ranksep="0.35", pad="0.2", bgcolor="white",
    )  # fmt: skip
    dot.set_node_defaults(
        fontname=_FONT, fontsize="11", style="filled", fillcolor=_PLAIN, color="#404040",
        shape="ellipse", margin="0.12,0.07", height="0.3",
    )  # fmt: skip
    dot.set_edge_defaults(
        fontname=_FONT,
        fontsize="9",
        color="#404040",
        arrowsize="0.7",
        labeldistance="2.2",
        labelangle="-50",
    )
    lines = [_escape(line) for line in caption]
    if lines:
        dot.set("label", _html([f"<b>{lines[0]}</b>", *lines[1:]], align="left"))
    for index, (colour, meaning) in enumerate(legend(marks)):
        box = pydot.Node(
            f"legend{index}", label=_html([_escape(meaning)]), fillcolor=_quote(colour),
            shape="box", color="none", fontsize="9",
        )  # fmt: skip
        dot.add_node(box)
    ids = {name: f"n{index}" for index, name in enumerate(graph)}
    frames = _Frames(dot, graph)
    reached = _reached(graph)
    for name, attributes in track(graph.nodes(data=True)):
        look = _node(graph, attributes)
        if reached and name not in reached and attributes["kind"] in ("op", "layer", "module"):
            look["style"] = "filled,dashed"
        mark = mark_of(marks, attributes) if marks else None
        if mark is not None:
            look["fillcolor"] = _quote(mark[0])
        frames.around(attributes).add_node(pydot.Node(ids[name], **look))
    for source, target, attributes in track(list(edges_of(graph))):
        look = _edge(attributes, graph.nodes[source], graph.nodes[target])
        dot.add_edge(pydot.Edge(ids[source], ids[target], **look))
    return dot


def _reached(graph: nx.DiGraph) -> set[str]:
    """Return the nodes that depend on an input."""
    inputs = [node for node, kind in graph.nodes(data="kind") if kind == "input"]
    return {node for layer in nx.bfs_layers(graph, inputs) for node in layer} if inputs else set()


class _Frames:
    """The nested frames around modules that contain more than one node.

    Of modules that lie deeper than anybody can see into there are none.
    """

    def __init__(self, dot: pydot.Dot, graph: nx.DiGraph) -> None:
        self._modules = graph.graph.get("modules", {})
        self._made: dict[tuple[str, ...], pydot.Graph] = {(): dot}
        self._sizes: dict[tuple[str, ...], int] = {}
        self._rolled = any("pass_list" in data for _, data in graph.nodes(data=True))
        for _, attributes in graph.nodes(data=True):
            path = self._path(attributes)
            for end in range(1, len(path) + 1):
                self._sizes[path[:end]] = self._sizes.get(path[:end], 0) + 1

    def around(self, attributes: dict[str, Any]) -> pydot.Graph:
        """Return the innermost frame for a node, made now if it is the first."""
        whole = self._path(attributes)
        path = tuple(entry for i, entry in enumerate(whole) if self._sizes[whole[: i + 1]] > 1)
        start = len(path)
        while path[:start] not in self._made:
            start -= 1
        for end in range(start + 1, len(path) + 1):
            frame = pydot.Cluster(f"m{len(self._made)}", **self._look(path[end - 1]))
            self._made[path[: end - 1]].add_subgraph(frame)  # type: ignore[arg-type]
            self._made[path[:end]] = frame
        return self._made[path]

    def _path(self, attributes: dict[str, Any]) -> tuple[str, ...]:
        if attributes["kind"] in ("parameter", "buffer", "external", "input", "output"):
            return ()
        stack = attributes["module_stack"]
        if attributes["kind"] == "module":
            stack = stack[:-1]
        named = ((address, run) for address, run, _ in stack if address)
        shown = islice(named, _MOST_FRAMES)
        return tuple(f"{address}:{1 if self._rolled else run}" for address, run in shown)

    def _look(self, entry: str) -> dict[str, Any]:
        address, _, run = entry.rpartition(":")
        known = self._modules.get(entry, {"runs": 1, "class": ""})
        title = f"@{address}"
        if known["runs"] > 1:
            title += f" (×{known['runs']})" if self._rolled else f":{run}"
        lines = [f"<b>{_escape(title)}</b>", _escape(known["class"])]
        return {
            "label": _html(lines, align="left"), "style": "rounded", "color": "#8a8a8a",
            "fontsize": "11", "labeljust": "l", "margin": "10",
        }  # fmt: skip


def _node(graph: nx.DiGraph, attributes: dict[str, Any]) -> dict[str, Any]:
    kind = attributes["kind"]
    lines = _module_text(attributes) if kind == "module" else _text(attributes)
    look = {"label": _html(lines)}
    # Who looks at it may have wider fonts than who lays it out.
    margin = 0.004 * max(map(len, lines))
    if kind == "module":
        look |= {"shape": "box3d", "margin": f"{max(0.14, margin):.2f},0.12"}  # for its top face
    elif kind in ("parameter", "buffer", "gradient"):
        look |= {"shape": "box", "style": "filled,dashed", "fontsize": "9"}
    elif kind != "output" and _leaves_leaf_module(graph, attributes):
        look |= {"shape": "box", "style": "filled"}
    if kind != "module" and margin > 0.16:
        look["margin"] = f"{margin:.2f},0.07"
    if attributes["phase"] == "backward":
        look["color"] = _GRADIENT
    fill = _FILL.get(kind, _WITH_PARAMETERS if attributes["parameters"] else _PLAIN)
    if attributes["failed"]:
        fill = _FAILED
    if fill != _PLAIN:
        look["fillcolor"] = fill
    # Only the file's name: pictures are passed on, and folders are nobody's business.
    place = (attributes["source"] or "").replace(chr(92), "/").rpartition("/")[2]
    tooltip = " ".join(filter(None, (attributes["operator"], place)))
    look["tooltip"] = _quote(tooltip or attributes["label"])
    return look


def _leaves_leaf_module(graph: nx.DiGraph, attributes: dict[str, Any]) -> bool:
    known = graph.graph.get("layers", {}).get(attributes["layer"])
    return bool(known) and any(is_leaf for _, _, is_leaf in known["exits"])


def _text(attributes: dict[str, Any]) -> list[str]:
    label = attributes["label"]
    if attributes.get("passes", 1) > 1 and "pass_list" in attributes:
        label += f" (×{len(attributes['pass_list'])})"
    lines = [f"<b>{_escape(label)}</b>"]
    if attributes["kind"] == "op" and attributes["operator"]:
        overload = attributes["operator"].rpartition(".")[2]
        lines[0] += "" if overload == "default" else f".{_escape(overload)}"
    if attributes["path"]:
        lines.append(_escape(f"{attributes['kind']}.{attributes['path']}"))
    lines += _output_text(attributes)
    if attributes["kind"] not in ("parameter", "buffer") and attributes["parameters"]:
        shapes = [notation.shape(sizes) for _, sizes in attributes["parameters"]]
        more = [f"+{len(shapes) - 3}"] if len(shapes) > 3 else []
        lines.append("params " + ", ".join(shapes[:3] + more))
    if attributes["module"] and attributes["kind"] in ("op", "layer", "passed_through"):
        lines.append(_escape(f"@{attributes['module']}"))
    return lines


def _module_text(attributes: dict[str, Any]) -> list[str]:
    label = attributes["label"]
    if attributes["passes"] > 1:
        folded = "pass_list" in attributes
        label += f" (×{attributes['passes']})" if folded else f":{attributes['pass']}"
    lines = [f"<b>{_escape(label)}</b>", _escape(attributes["module_class"])]
    lines += _output_text(attributes)
    if attributes["layers"]:
        lines.append(notation.plural(attributes["layers"], "layer"))
    if attributes["parameters"]:
        number = sum(prod(sizes) for _, sizes in attributes["parameters"])
        lines.append(f"{notation.count(number)} params")
    return lines


def _output_text(attributes: dict[str, Any]) -> list[str]:
    shapes, size = attributes["shapes"], f"({notation.size(attributes['bytes'])})"
    if len(shapes) <= 1:
        return [f"{notation.shape(sizes)} {size}" for sizes in shapes]
    entries = notation.tensors(attributes["dtypes"], shapes, attributes.get("paths") or ())
    lines = [_escape(notation.listed([entry])) for entry in entries[:_MOST_TENSORS]]
    if len(entries) > _MOST_TENSORS:
        lines.append(f"and {len(entries) - _MOST_TENSORS} more")
    return [*lines, size]


def _edge(
    attributes: dict[str, Any], source: dict[str, Any], target: dict[str, Any]
) -> dict[str, Any]:
    look = dict(_EDGES[attributes["kind"]])
    if attributes.get("gradient"):
        look |= {"color": _GRADIENT, "penwidth": "1.6", "dir": "both", "arrowtail": "vee"}
    elif "backward" in (source["phase"], target["phase"]):
        look["color"] = _GRADIENT
    if "pass_list" in target and "in_passes" in attributes:
        if attributes["out_passes"] != source["pass_list"]:
            look["taillabel"] = _quote(f"Out {notation.ranges(attributes['out_passes'])}")
        if attributes["in_passes"] != target["pass_list"]:
            look["headlabel"] = _quote(f"In {notation.ranges(attributes['in_passes'])}")
    if attributes["argument"]:
        look["tooltip"] = _quote(attributes["argument"])
    return look


def _html(lines: list[str], align: Literal["left", "center"] = "center") -> str:
    """Return lines, already escaped, as one of Graphviz's HTML-like labels."""
    end = '<br align="left"/>' if align == "left" else "<br/>"
    body = end.join(lines)
    return f"<{body}{end}>" if align == "left" else f"<{body}>"


def _escape(text: str) -> str:
    r"""Return text for an HTML-like label, where a backslash begins an escape.

    Graphviz takes a text that begins with a closing bracket for the end of something.

    >>> _escape('a<b>&"c"'), _escape(r"C:\New"), _escape("]")
    ('a&lt;b&gt;&amp;&quot;c&quot;', 'C:\\\\New', '&#93;')
    """
    escaped = html.escape(notation.foreign(text, _LINE))
    return escaped.replace("\\", "\\\\").replace("]", "&#93;")


def _quote(text: str) -> str:
    r"""Return text as a quoted tooltip; some versions of Graphviz read escapes in it twice.

    >>> print(_quote(r'a "b" C:\New'))
    "a &quot;b&quot; C:/New"
    """
    return f'"{html.escape(notation.foreign(text)).replace(chr(92), "/")}"'
