"""Levels and nesting depth: from ops to layers to modules.

At level ``"layer"`` the ops of one layer pass are one node. At level ``"module"`` all that
runs in a module without modules inside is one node too, and what a container computes
between its children stays as layers. At any level, ``depth`` makes one node of every
module that lies so deep, counted from the model at 0; a module of a single layer is shown
as that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import networkx as nx

from opscope.errors import OptionError, check_choice, check_depth, nearest
from opscope.views.quotients.quotient import Attributes, quotient, unique
from opscope.views.select import edges_from_parameters
from opscope.views.steps import after

Level = Literal["op", "layer", "module"]
LEVELS: tuple[Level, ...] = ("op", "layer", "module")
Choice = Collection[str] | Callable[[str], bool] | None


def at_level(
    graph: nx.DiGraph,
    level: Level = "layer",
    depth: int | None = None,
    *,
    collapse: Choice = None,
    expand: Choice = None,
) -> nx.DiGraph:
    """Return the op graph at another level, and no deeper than ``depth``.

    Args:
        graph: The graph of ops that `opscope.graph.build` makes.
        level: ``"op"``, ``"layer"`` or ``"module"``.
        depth: From which depth on a module is one node; None for never.
        collapse: Addresses of modules, or a test of an address, to show as one node
            whatever their depth.
        expand: The same for modules to show from inside whatever their depth; those
            around one that is named by its address are open too.

    Raises:
        OptionError: For a level or depth that there is not, or an address at which no
            module ran.
    """
    is_plain = depth is None and collapse is None and expand is None
    if is_plain and level == "layer":
        later = after(graph, "at_level layer", at_level)
        if later is not None:
            return later
    rule = Rule(graph.graph, level, depth, collapse=collapse, expand=expand)
    edges = None if level == "op" else edges_from_parameters(graph)
    return quotient(graph, rule.key, rule.describe, edges=edges)


class Rule:
    """Decides for each op which node it becomes part of.

    Args:
        attributes: What is known of the graph as a whole, see `opscope.graph.attributes`.
        level: As for `at_level`; so are the others.
        depth: See there.
        collapse: See there.
        expand: See there.
    """

    def __init__(
        self,
        attributes: Mapping[str, Any],
        level: Level,
        depth: int | None,
        *,
        collapse: Choice = None,
        expand: Choice = None,
    ) -> None:
        check_choice("level", level, LEVELS)
        check_depth(depth)
        self.layers: dict[str, Attributes] = attributes["layers"]
        self.modules: dict[str, Attributes] = attributes["modules"]
        ran = {name.rpartition(":")[0]: None for name in self.modules}
        for option, choice in (("collapse", collapse), ("expand", expand)):
            _check_addresses(option, choice, ran)
        self.level = level
        self.depth = depth
        self.collapse = _test(collapse)
        self.expand = _test(_with_ancestors(expand))
        self.boxes: dict[str, list[Any] | None] = {}

    def key(self, node: str, attributes: Attributes) -> str:
        if attributes["kind"] not in ("op", "passed_through"):
            named = attributes["kind"] in ("input", "output") and attributes["layer"]
            return str(attributes["layer"]) if named and self.level != "op" else node
        end = ".backward" if attributes["phase"] == "backward" else ""
        box = self.box(attributes["module_stack"])
        if box is not None:
            return self.name_of_box(box) + end
        if self.level != "op" and attributes["accumulates"] is not None:
            number = f":{attributes['pass']}" if attributes["passes"] > 1 else ""
            return f"{attributes['accumulates']}.grad{number}"
        if self.level == "op" or attributes["layer"] is None:
            return node
        return str(attributes["layer"]) + end

    def name_of_box(self, box: list[Any]) -> str:
        """Return the name of a module's node, without what says that it is of the backward."""
        address, run, _ = box
        runs = self.modules[f"{address}:{run}"]["runs"]
        return f"@{address}:{run}" if runs > 1 or ":" in address else f"@{address}"

    def describe(self, name: str, members: list[Attributes]) -> Attributes:
        first = members[0]
        if first["phase"] == "backward":
            return self._backward(name, members)
        if name.startswith("@"):
            return self._module(members)
        if name != first["layer"]:
            return dict(first)
        known = self.layers.get(name, {})
        return {
            **first,
            **{key: known[key] for key in ("shapes", "dtypes", "bytes", "duration_ns") if known},
            "kind": first["kind"] if first["kind"] in ("input", "output") else "layer",
            "label": name,
            "operator": ", ".join(m["operator"] for m in members if m["operator"]) or None,
            "arguments": _arguments(members),
            "parameters": unique(p for m in members for p in m["parameters"]),
            "buffers": unique(p for m in members for p in m["buffers"]),
            "failed": any(m["failed"] for m in members),
            "ops": sum(m["operator"] is not None for m in members),
        }

    def _backward(self, name: str, members: list[Attributes]) -> Attributes:
        """Describe what ran in backward for a layer or a module, or for a parameter's gradient."""
        first = members[0]
        if self.level == "op" and not name.startswith("@"):
            return dict(first)
        if first["accumulates"] is not None:
            label = f"{first['accumulates']}.grad"
            return {**first, "kind": "gradient", "label": label, "ops": len(members)}
        if name.startswith("@"):
            whole = self._module(members)
        elif first["layer"] is not None:
            whole = {**first, "kind": "layer"}
        else:
            return dict(first)
        return {
            **whole,
            **{key: members[-1][key] for key in ("shapes", "dtypes", "bytes")},
            "label": whole["label"] + ".backward" if name.startswith("@") else name,
            "operator": ", ".join(m["operator"] for m in members),
            "arguments": _arguments(members),
            "duration_ns": sum(m["duration_ns"] for m in members),
            "recomputed": any(m["recomputed"] for m in members),
            "failed": any(m["failed"] for m in members),
            "ops": len(members),
        }

    def _module(self, members: list[Attributes]) -> Attributes:
        first = members[0]
        box = self.box(first["module_stack"]) or first["module_stack"][-1]
        address, run, class_name = box
        known = self.modules[f"{address}:{run}"]
        stack = first["module_stack"]
        return {
            **first,
            **{key: known[key] for key in ("shapes", "dtypes", "bytes", "paths", "duration_ns")},
            "kind": "module",
            "label": f"@{address}",
            "operator": None,
            "arguments": _arguments(members) if known["leaf"] else {},
            "layer": None,
            "layer_type": None,
            "pass": run,
            "passes": known["runs"],
            "module": address,
            "module_pass": run,
            "module_class": class_name,
            "module_stack": stack[: stack.index(box) + 1],
            "parameters": unique(p for m in members for p in m["parameters"]),
            "buffers": unique(p for m in members for p in m["buffers"]),
            "failed": known["failed"],
            "ops": sum(m["operator"] is not None for m in members),
            "layers": len(unique(m["layer"] for m in members if m["layer"])),
        }

    def box(self, stack: list[list[Any]]) -> list[Any] | None:
        """Return the outermost module of a stack that is to be one node."""
        if not stack:
            return None
        inner = f"{stack[-1][0]}:{stack[-1][1]}"
        if inner not in self.boxes:
            start = 0 if stack[0][0] == "" else 1  # a module beside the model is at depth 1
            self.boxes[inner] = next(
                (entry for d, entry in enumerate(stack, start) if self._is_box(d, entry)), None
            )
        return self.boxes[inner]

    def _is_box(self, depth: int, entry: list[Any]) -> bool:
        address, run, _ = entry
        known = self.modules[f"{address}:{run}"]
        if depth == 0 or self.expand(address):
            return False
        if self.collapse(address):
            return True
        if self.level == "module" and known["leaf"]:
            return True
        if self.depth is None or depth < self.depth:
            return False
        return not (self.level == "layer" and known["layers"] <= 1)


def _arguments(members: list[Attributes]) -> Attributes:
    """Return what several ops were set to; the first that names an argument counts."""
    found: Attributes = {}
    for member in members:
        found.update(item for item in member["arguments"].items() if item[0] not in found)
    return found


def _check_addresses(option: str, choice: Choice, ran: Collection[str]) -> None:
    if choice is None or callable(choice):
        return
    if not isinstance(choice, Collection) or not all(isinstance(name, str) for name in choice):
        message = (
            f"{option}: {choice!r} (must be addresses of modules, a function from an address "
            "to a bool, or None)"
        )
        raise OptionError(message)
    for address in [choice] if isinstance(choice, str) else choice:
        if address not in ran:
            listed = ", ".join(repr(name) for name in nearest(address, filter(None, ran)))
            hint = f"; the nearest addresses: {listed}" if listed else ": the trace has none"
            message = f"{option}: no module ran at {address!r}{hint}"
            raise OptionError(message)


def _with_ancestors(choice: Choice) -> Choice:
    """Add the addresses of the modules around those that are named."""
    if choice is None or callable(choice):
        return choice
    names = {choice} if isinstance(choice, str) else set(choice)
    for name in tuple(names):
        while name := name.rpartition(".")[0]:
            names.add(name)
    return names


def _test(choice: Choice) -> Callable[[str], bool]:
    if choice is None:
        return lambda address: False
    if callable(choice):
        return choice
    chosen = frozenset([choice] if isinstance(choice, str) else choice)
    return lambda address: address in chosen
