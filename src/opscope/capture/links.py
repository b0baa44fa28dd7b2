"""Which forward op each op of a backward belongs to, and which phase of a step an op is in.

Autograd numbers the nodes of its graph, per thread. The number that the next node will get
is read before each op; in backward the engine tells the number of the node that it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from opscope.capture.identity import OUTSIDE
from opscope.capture.tape import BACKWARD, GRAD, NONE, CallRow, NodeRow, OpRow, Tape
from opscope.records.recording import Phase

_END = re.compile(r"Backward\d*$")
_NEAR = 8
_CustomFunction = torch.autograd.function.BackwardCFunction


class Link(NamedTuple):
    """What is known of an op's place in autograd's graph.

    Attributes:
        node: Class name of the node that the engine ran it for.
        number: Autograd's number of that node, or of the node that a forward op made.
        forward: The forward op that it belongs to.
        parameter: The parameter whose gradient it accumulates.
        recomputed: Whether it repeats ``forward`` for a checkpoint.
    """

    node: str | None = None
    number: int | None = None
    forward: int | None = None
    parameter: int | None = None
    recomputed: bool = False


class _Made(NamedTuple):
    """Between which two ops a node was made; ``exact`` if it was made for the second."""

    before: int
    after: int
    exact: bool

    def op(self, kind: type, rows: Sequence[OpRow], end: int) -> int:
        """Return the op that the node, of this class, was made for: one before ``end``."""
        if issubclass(kind, _CustomFunction):  # made before its own ops run
            return self.after
        if kind.__name__ == "CopySlices":  # made once an op has written to a view
            return self.before
        if self.exact:
            return self.after
        # Between them may lie what hooks on saved tensors run before the op itself.
        name = _END.sub("", kind.__name__).lower()
        near = range(self.after, min(self.after + _NEAR, end))
        return next((op for op in near if _plain_name(rows[op]) == name), self.before)


def _plain_name(row: OpRow) -> str:
    parts = row.slots.plan.name.split(".")
    return parts[1].replace("_", "") if len(parts) > 1 else parts[0]


def links(tape: Tape, rows: Sequence[OpRow]) -> list[Link]:
    """Return what is known of each op, in order."""
    contexts = tape.places.contexts()
    nodes = {row.op: row for row in _node_rows(tape)}
    made = _Nodes(tape, rows)
    result: list[Link] = []
    repeated: list[int] = []  # the ops of the recomputation that is going on

    def settle() -> None:
        for op, forward in _repeats(
            rows, repeated, result, _trigger(nodes, repeated, made, result)
        ):
            result[op] = result[op]._replace(forward=forward)
        repeated.clear()

    for index, row in enumerate(rows):
        node = nodes.get(index)
        if not row.flags & BACKWARD:
            start = row.place != NONE and contexts[row.place] == "backward"
            forward = _first_read(tape, rows, index) if start else None
            result.append(Link(number=made.number(index), forward=forward))
            continue
        again = row.place != NONE and contexts[row.place] == "checkpoint" and row.flags & GRAD
        if repeated and not _same_node(node, nodes.get(repeated[0])):
            settle()
        if node is None:
            result.append(Link(recomputed=bool(again)))
        else:
            result.append(
                Link(
                    node=node.kind.__name__,
                    number=None if node.number == NONE else node.number,
                    forward=None if again else _origin(result, made.find(node, index)),
                    parameter=None if node.parameter == NONE else node.parameter,
                    recomputed=bool(again),
                )
            )
        if again:
            repeated.append(index)
    settle()
    _link_hooks(rows, result)
    return result


def _first_read(tape: Tape, rows: Sequence[OpRow], op: int) -> int | None:
    """Return the op that made what an op reads first: the loss, of which backward starts."""
    at = rows[op - 1].reads_end if op else 0
    if at == rows[op].reads_end or tape.reads[at] == NONE:
        return None
    values = tape.values
    row = values.source(tape.reads[at])
    return None if values.origins[row] == OUTSIDE else values.makers[row]


def _node_rows(tape: Tape) -> Iterator[NodeRow]:
    return map(NodeRow._make, zip(*[iter(tape.nodes)] * len(NodeRow._fields), strict=True))


class _Nodes:
    """The nodes that ops made, by thread and number."""

    def __init__(self, tape: Tape, rows: Sequence[OpRow]) -> None:
        self._rows = rows
        self._threads = tape.threads
        self._thread = tape.log.thread
        self._made: dict[tuple[int, int], _Made] = {}
        self._numbers: dict[int, int] = {}
        last: dict[int, tuple[int, int]] = {}  # per thread the op before, and the number it read
        starts = dict(tape.starts)
        for index, row in enumerate(rows):
            if index in starts:
                last[tape.log.thread] = index, starts[index]
            thread = tape.threads.get(index, tape.log.thread)
            before, known = last.get(thread, (index, max(row.sequence - 1, 0)))
            for number in range(known, row.sequence):
                exact = number == row.sequence - 1 and bool(row.flags & GRAD)
                self._made[thread, number] = _Made(before, index, exact)
                if exact:
                    self._numbers[index] = number
            last[thread] = index, row.sequence

    def number(self, op: int) -> int | None:
        """Return the number of the node that an op made."""
        return self._numbers.get(op)

    def find(self, node: NodeRow, op: int) -> int | None:
        """Return the op that made the node that ``op`` ran for."""
        for thread in (self._threads.get(op, self._thread), self._thread):
            made = self._made.get((thread, node.number))
            if made is not None and made.after < op:
                return made.op(node.kind, self._rows, op)
        return None


def _origin(known: Sequence[Link], op: int | None) -> int | None:
    """Return the forward op behind one that may itself have run in a backward."""
    if op is None or known[op].forward is None:
        return op
    return known[op].forward


def _same_node(one: NodeRow | None, other: NodeRow | None) -> bool:
    return one is not None and other is not None and one[1:] == other[1:]


def _trigger(
    nodes: dict[int, NodeRow], repeated: Sequence[int], made: _Nodes, known: Sequence[Link]
) -> tuple[int, bool] | None:
    """Return the forward op whose node asked for a recomputation, and whether it is its first."""
    node = nodes.get(repeated[0]) if repeated else None
    forward = None if node is None else _origin(known, made.find(node, repeated[0]))
    if node is None or forward is None:
        return None
    return forward, issubclass(node.kind, _CustomFunction)


def _repeats(
    rows: Sequence[OpRow],
    repeated: Sequence[int],
    known: Sequence[Link],
    trigger: tuple[int, bool] | None,
) -> list[tuple[int, int]]:
    """Pair the ops of a recomputation with those that they repeat.

    Both run the same operators in the same order, but for `detach`, which autograd adds
    where it records. A reentrant checkpoint's node was made before its first op; otherwise
    the node that asks is that of the last one.
    """
    if trigger is None:
        return []
    at, is_first = trigger
    step = 1 if is_first else -1
    pairs: list[tuple[int, int]] = []
    for op in repeated if is_first else reversed(repeated):
        plan = rows[op].slots.plan
        reach = range(at, max(-1, min(len(rows), at + step * (2 * len(repeated) + 8))), step)
        same = (i for i in reach if rows[i].slots.plan is plan and not rows[i].flags & BACKWARD)
        found = None if plan.name == "aten.detach.default" else next(same, None)
        if found is None:
            pairs.append((op, min(max(at - step, 0), repeated[0]) if pairs else trigger[0]))
        else:
            pairs.append((op, found))
            at = found + step
    return pairs


def _link_hooks(rows: Sequence[OpRow], known: list[Link]) -> None:
    """Give what ran between two nodes, such as a tensor's hook, to the node that ran next."""
    following: int | None = None
    for index in range(len(rows) - 1, -1, -1):
        link = known[index]
        if not rows[index].flags & BACKWARD:
            following = None
        elif link.node is None and link.forward is None:
            known[index] = link._replace(forward=following)
        else:
            following = link.forward


def phases(
    tape: Tape, rows: Sequence[OpRow], calls: Sequence[CallRow], found: Sequence[Link]
) -> tuple[list[Phase], list[Phase]]:
    """Return the phase of each op and of each recorded call.

    What runs in a module, or makes an autograd node, is forward. What reads the results of a
    backward or an optimizer outside of both is neither: clipping, averaging of weights.

    Args:
        tape: What was recorded.
        rows: Its ops.
        calls: Its calls.
        found: What `links` found.
    """
    contexts = tape.places.contexts()
    source = tape.values.source
    places = _places(rows, calls)
    late: set[int] = set()

    def outside_engine(module: int, place: int, read: Iterable[int]) -> Phase:
        if module != NONE:
            return "forward"
        if place != NONE and contexts[place] == "optimizer":
            return "optimizer"
        return (
            "other" if any(value != NONE and source(value) in late for value in read) else "forward"
        )

    of_ops: list[Phase] = []
    reads_at = made_at = wrote_at = 0
    for row, place, link in zip(rows, places, found, strict=True):
        context = None if place == NONE else contexts[place]
        phase: Phase = "forward"
        if context == "backward" or (row.flags & BACKWARD and context != "optimizer"):
            phase = "backward"
        elif row.flags & BACKWARD or link.number is None:
            phase = outside_engine(row.module, place, tape.reads[reads_at : row.reads_end])
        if phase != "forward":
            late.update(tape.made[made_at : row.made_end], tape.wrote[wrote_at : row.wrote_end])
        of_ops.append(phase)
        reads_at, made_at, wrote_at = row.reads_end, row.made_end, row.wrote_end
    of_calls = [
        of_ops[call.ops_start]
        if call.ops_end > call.ops_start
        else outside_engine(call.module, call.place, call.received)
        for call in calls
    ]
    return of_ops, of_calls


def _places(rows: Sequence[OpRow], calls: Sequence[CallRow]) -> list[int]:
    """Return the place of each op, which is that of its layer call where it has one."""
    places = [row.place for row in rows]
    for call in calls:
        for op in range(call.ops_start, call.ops_end):
            if places[op] == NONE:
                places[op] = call.place
    return places
