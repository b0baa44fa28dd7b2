"""Which forward op each op of a backward belongs to.

Autograd numbers the nodes of its graph, per thread. The number that the next node will get
is read before each op; in backward the engine tells the number of the node that it runs.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from opscope.capture.assemble.reruns.reruns import CustomFunction, Reruns
from opscope.capture.assemble.reruns.spans import Spans
from opscope.capture.log.contexts.entries import Entries
from opscope.capture.tables.rows import BACKWARD, GRAD, CallColumns, NodeRow, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.capture.tables.values import OUTSIDE
from opscope.records.columns.columns import NONE, Coded, Column, Flag, Optional, codes_of
from opscope.records.ops import Phase

_END = re.compile(r"Backward\d*$")
_NEAR = 8


class _Made(NamedTuple):
    """Between which two ops a node was made; ``exact`` if it was made for the second."""

    before: int
    after: int
    exact: bool

    def op(self, kind: type, tables: Tables, end: int) -> int:
        """Return the op that the node, of this class, was made for: one before ``end``."""
        if issubclass(kind, CustomFunction):  # made before its own ops run
            return self.after
        if kind.__name__ == "CopySlices":  # made once an op has written to a view
            return self.before
        if self.exact:
            return self.after
        # Between them may lie what hooks on saved tensors run before the op itself.
        name = _END.sub("", kind.__name__).lower()
        near = range(self.after, min(self.after + _NEAR, end))
        return next((op for op in near if _plain_name(tables, op) == name), self.before)


def _plain_name(tables: Tables, op: int) -> str:
    parts = tables.plan(op).name.split(".")
    return parts[1].replace("_", "") if len(parts) > 1 else parts[0]


class Links:
    """What is known of each op's place in autograd's graph, by column, `NONE` where it is not.

    Attributes:
        number: Autograd's number of the node that the engine ran an op for, or of the node that
            a forward op made.
        forward: The forward op that it belongs to; empty where autograd ran nothing.
        parameter: The parameter whose gradient it accumulates.
        recomputed: Whether it repeats ``forward``, for a checkpoint or a custom function.
        nodes: By op of the backward, the node that the engine ran it for.
    """

    def __init__(self, number: array[int], nodes: Mapping[int, NodeRow] | None = None) -> None:
        count = 0 if nodes is None else len(number)
        self.number = number
        self.forward = array("i", [NONE]) * count
        self.parameter = array("i", [NONE]) * count
        self.recomputed = bytearray(count)
        self.nodes = nodes or {}

    def columns(self, phase: Column[Phase]) -> dict[str, Column[Any]]:
        """Return them as fields of the ops' records.

        Args:
            phase: The phase of each op.
        """
        known: dict[str, Column[Any]] = {"sequence_nr": Optional(self.number)}
        if not self.forward:
            return known
        accumulates = array(
            "i",
            [
                parameter if of == "backward" else NONE
                for parameter, of in zip(self.parameter, phase, strict=True)
            ],
        )
        names = {op: row.kind.__name__ for op, row in self.nodes.items()}
        return known | {
            "node": Coded(*codes_of(map(names.get, range(len(self.forward))))),
            "forward_op": Optional(self.forward),
            "accumulates": Optional(accumulates),
            "recomputed": Flag(self.recomputed, 1),
        }


def links(tables: Tables, ops: OpColumns) -> Links:
    """Return what is known of each op, in order.

    Args:
        tables: What was recorded.
        ops: Its ops.
    """
    if not has_backward(tables, ops):  # autograd ran nothing
        return Links(_numbers(tables, ops))
    return _links(tables, ops, tables.call_columns())


def has_backward(tables: Tables, ops: OpColumns) -> bool:
    """Whether the autograd engine ran any op, or a call of `backward` did."""
    ran = any(flags & BACKWARD for flags in set(ops.flags))
    return ran or bool(tables.nodes) or "backward" in tables.call_sites.contexts()


def _numbers(tables: Tables, ops: OpColumns) -> array[int]:
    """Return the number of the node that each op made, NONE for none."""
    found = array("q", [NONE]) * len(ops.flags)
    starts, threads = dict(tables.starts), tables.threads
    last: dict[int, int] = {}
    for op, (sequence, flags) in enumerate(zip(ops.sequence, ops.flags, strict=True)):
        if op in starts:
            last[tables.log.thread] = starts[op]
        thread = threads.get(op, tables.log.thread)
        if flags & GRAD and last.get(thread, max(sequence - 1, 0)) < sequence:
            found[op] = sequence - 1
        last[thread] = sequence
    return found


def _links(tables: Tables, ops: OpColumns, calls: CallColumns) -> Links:
    """Return what is known of each op where some ran in a backward."""
    contexts = tables.call_sites.contexts()
    nodes = {row.op: row for row in _node_rows(tables)}
    made = _Nodes(tables, ops)
    found = ((op, made.find(node, op)) for op, node in nodes.items())
    behind = {op: maker for op, maker in found if maker is not None}
    entries = Entries(tables.call_sites)
    spans = Spans(tables, ops, calls, nodes, entries)
    twins = Reruns(tables, ops, spans, nodes, behind, entries).twins()
    known = Links(made.numbers, {op: row for op, row in nodes.items() if ops.flags[op] & BACKWARD})
    for op, (flags, site) in enumerate(zip(ops.flags, ops.call_site, strict=True)):
        forward = behind.get(op)
        if not flags & BACKWARD:
            if site != NONE and contexts[site] == "backward":
                forward = _first_read(tables, ops, op)
            known.forward[op] = NONE if forward is None else forward
            continue
        node = nodes.get(op)
        known.number[op] = NONE if node is None else node.number
        known.parameter[op] = NONE if node is None else node.parameter
        if op in twins:
            known.recomputed[op], forward = True, twins[op]
        elif node is not None and forward is not None and issubclass(node.kind, CustomFunction):
            forward = spans.result(spans.of_function(node.number, forward))
        known.forward[op] = NONE if forward is None else forward
    _link_hooks(ops, known)
    _link_to_forward(ops, known)
    return known


def _first_read(tables: Tables, ops: OpColumns, op: int) -> int | None:
    """Return the op that made what an op reads first: the loss, of which backward starts."""
    at = ops.reads_end[op - 1] if op else 0
    if at == ops.reads_end[op] or tables.reads[at] == NONE:
        return None
    values = tables.values
    row = values.source(tables.reads[at])
    return None if values.origins[row] == OUTSIDE else values.makers[row]


def _node_rows(tables: Tables) -> Iterator[NodeRow]:
    return map(NodeRow._make, zip(*[iter(tables.nodes)] * len(NodeRow._fields), strict=True))


class _Nodes:
    """The nodes that ops made, by thread and number.

    Attributes:
        numbers: By op, the number of the node that it made, `NONE` for none.
    """

    def __init__(self, tables: Tables, ops: OpColumns) -> None:
        self._tables = tables
        self._threads = tables.threads
        self._thread = tables.log.thread
        self._made: dict[tuple[int, int], _Made] = {}
        self.numbers = array("q", [NONE]) * len(ops.flags)
        last: dict[int, tuple[int, int]] = {}  # per thread the op before, and the number it read
        starts = dict(tables.starts)
        for index, (sequence, flags) in enumerate(zip(ops.sequence, ops.flags, strict=True)):
            if index in starts:
                last[tables.log.thread] = index, starts[index]
            thread = tables.threads.get(index, tables.log.thread)
            before, known = last.get(thread, (index, max(sequence - 1, 0)))
            for number in range(known, sequence):
                exact = number == sequence - 1 and bool(flags & GRAD)
                self._made[thread, number] = _Made(before, index, exact)
                if exact:
                    self.numbers[index] = number
            last[thread] = index, sequence

    def find(self, node: NodeRow, op: int) -> int | None:
        """Return the op that made the node that ``op`` ran for."""
        for thread in (self._threads.get(op, self._thread), self._thread):
            made = self._made.get((thread, node.number))
            if made is not None and made.after < op:
                return made.op(node.kind, self._tables, op)
        return None


def _link_hooks(ops: OpColumns, known: Links) -> None:
    """Give what ran between two nodes, such as a tensor's hook, to the node that ran next."""
    following = NONE
    for op in range(len(ops.flags) - 1, -1, -1):
        if not ops.flags[op] & BACKWARD:
            following = NONE
        elif op not in known.nodes and known.forward[op] == NONE:
            known.forward[op] = following
        else:
            following = known.forward[op]


def _link_to_forward(ops: OpColumns, known: Links) -> None:
    """Link what is linked to an op that itself ran in a backward to the op behind that."""
    for op, linked in enumerate(known.forward):
        forward = linked
        while forward != NONE and (known.forward[forward] != NONE or ops.flags[forward] & BACKWARD):
            behind = known.forward[forward]
            forward = behind if NONE != behind < forward else NONE
        known.forward[op] = forward
