"""From the log to the tape: which values the tensors were, where the calls came from, in order.

Each kind of event of the log has a method here, whose arguments are what the event says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType, MethodWrapperType
from typing import Any
from weakref import ref

from opscope.capture.grad_modes import Step
from opscope.capture.log import BATCH, SIGHT, Chain, Live, LogRow, Nested, Sight, Written
from opscope.capture.payloads import Kept
from opscope.capture.tape import (
    BACKWARD,
    IN_CALL,
    NONE,
    PACK_OP,
    CallRow,
    Mark,
    ModuleRun,
    Tape,
)
from opscope.records.containers import LONE, LONE_ARGUMENT, Structure, tensor_paths
from opscope.records.recording import CallKind

Items = Live | Nested
_WIDTH = len(LogRow._fields)


class Settling:
    """Moves what is in the log of a tape into its columns."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        # The outermost run of each module that is running, and how often each has run.
        self._running: dict[int, ModuleRun] = {}
        self._runs_of: dict[int, int] = {}
        # How far all was when a settling began that has not ended, and where that runs or ran.
        self._mark: tuple[Mark, dict[int, ModuleRun], set[int]] | None = None
        self._frame: FrameType | None = None

    def __call__(self) -> None:
        """Settle all there is; what an interrupt left unfinished is done again."""
        tape, log = self._tape, self._tape.log
        if self._mark is not None:
            if _is_running(self._frame):  # an object that goes may run ops as it does
                return
            self._go_back(*self._mark)
        self._frame = sys._getframe()
        self._mark = tape.mark(), dict(self._running), set(tape.parameters.waiting)
        rows, events = log.ops, log.events
        row_count, event_count = len(rows), len(events)
        self._settle(rows, events)
        # In one go, and only now: what was not finished is still there.
        log.ops, log.events, self._mark = rows[row_count:], events[event_count:], None
        self._frame = None
        if log.constants:
            log.constants = {op: item for op, item in log.constants.items() if op >= tape.op_count}
        if not log.at_once:
            log.settle_at = log.op_count + BATCH
        if log.sweep() and tape.payloads is not None:
            tape.payloads.sweep()
        tape.values.sweep()

    def _go_back(self, mark: Mark, running: dict[int, ModuleRun], waiting: set[int]) -> None:
        tape = self._tape
        tape.go_back(mark)
        tape.parameters.waiting.clear()
        tape.parameters.waiting.update(waiting)
        self._running = dict(running)
        self._runs_of = {run.module: run.number for run in tape.runs}

    def _settle(self, rows: list[Any], events: list[Any]) -> None:
        tape = self._tape
        at = end = 0
        while end < len(events):
            start = end
            settle, width = _OF_KIND[events[start]]
            end += width
            at = self._ops(rows, at, events[start + 1])
            settle(self, *events[start + 2 : end])
        self._ops(rows, at, tape.op_count + len(rows))

    def _ops(self, rows: list[Any], at: int, op_end: int) -> int:
        """Settle the rows from a position on, up to an op; return where the next row begins."""
        tape, values, constants = self._tape, self._tape.values, self._tape.log.constants
        reads, made, wrote, numbers = tape.reads, tape.made, tape.wrote, tape.numbers
        current = values.current
        while at < len(rows) and (op := tape.op_count) < op_end:
            (
                slots, constant, named, place, run, flags, sequence, started, ended, kept, read_end,
                made_end, wrote_end,
            ) = rows[at : at + _WIDTH]  # fmt: skip
            at += _WIDTH
            read_end += at
            made_end += read_end
            wrote_end += made_end
            for item in rows[at:read_end]:
                if item.__class__ is ref:
                    reads.append(current(item))
                else:
                    if item is not None:
                        numbers.put(len(reads), item)
                    reads.append(NONE)
            if op in constants:
                values.constants[reads[-1]] = constants[op]
            given = [tuple(rows[i : i + SIGHT]) for i in range(read_end, made_end, SIGHT)]
            written = [tuple(rows[i : i + SIGHT]) for i in range(made_end, wrote_end, SIGHT)]
            at = wrote_end
            wrote.extend([values.made(sight, op, written=True) for sight in written])
            made.extend([NONE if sight[0] is None else values.made(sight, op) for sight in given])
            tape.ops += (slots, constant, named)
            tape.op_numbers += PACK_OP(
                run, NONE if place is None else self._place(place, run, flags),
                flags, len(reads), len(made), len(wrote), sequence, started, ended,
            )  # fmt: skip
            tape.op_count = op + 1
            if kept is not None or tape.returned is not None:
                self._look_at(flags, written, given, kept)
        return at

    def _look_at(
        self,
        flags: int,
        written: Sequence[Sight],
        given: Sequence[Sight],
        kept: Sequence[Kept | None] | None,
    ) -> None:
        """Note what was saved of the last op, and have its autograd nodes looked at."""
        tape, returned = self._tape, self._tape.returned
        if flags & (IN_CALL | BACKWARD):  # the layer's call tells of what it returns
            returned = None
        for number, (live, *_) in enumerate((*written, *given)):
            if live is None:
                continue
            row, saved = tape.values.rows[id(live)], kept[number] if kept else None
            if saved is not None and tape.payloads is not None:
                tape.payloads.put(row, saved)
            if returned is not None and (tensor := live()) is not None:
                returned.wait(tensor, row)

    def _place(self, place: Chain | int, run: int, flags: int = 0) -> int:
        if isinstance(place, int):
            return self._tape.runs[place].place
        if run == NONE or flags & BACKWARD:
            return self._tape.places.of(place, NONE, NONE)
        outer = self._tape.runs[run]
        return self._tape.places.of(place, outer.place, outer.module)

    def _seen(self, *sight: Any) -> None:
        """Have a row for a tensor from outside."""
        self._tape.values.found(sight)

    def _end(self, alive: Sequence[Live], kept: Sequence[Kept | None] | None) -> None:
        """Note what the tensors are that are there when the block ends."""
        tape = self._tape
        tape.alive = list(map(tape.values.current, alive))
        for row, saved in zip(tape.alive, kept or (), strict=False):
            if saved is not None and tape.payloads is not None:
                tape.payloads.put(row, saved)

    def _named(self, lives: Sequence[Live]) -> None:
        """Take tensors for parameters from here on."""
        values, parameters = self._tape.values, self._tape.parameters
        parameters.waiting.difference_update(map(id, lives))
        for live in lives:
            row = values.rows.get(id(live))
            if row is not None:
                parameters.sighted(live, row)

    def _grad_mode(self, run: int, enabled: bool, inference: bool) -> None:
        """Note the grad mode in which the block, or the model, is entered."""
        modes = self._tape.grad_modes
        modes.enabled, modes.inference = enabled, inference
        if run == NONE:
            modes.begin(self._tape.op_count)

    def _set_grad_mode(self, run: int, enabled: bool, step: Step, hidden: bool) -> None:
        """Note that the program set it."""
        modes, op = self._tape.grad_modes, self._tape.op_count
        modes.change(op, run, enabled=enabled, step=step, hidden=hidden)

    def _unseen_call(self, run: int, func: Any, live: Live) -> None:
        """Note a call that no op shows."""
        tape = self._tape
        row = tape.values.current(live)
        tape.unseen_calls.append((run, function_name(func), row))

    def _call(
        self,
        func: Any,
        items: Live | list[Live] | Written,
        kept: Kept | list[Kept] | None,
        grad_fn: type | None,
        run: int,
        chain: Chain,
        op_start: int,
        started: int,
        ended: int,
        error: BaseException | None,
    ) -> None:
        """Append the call of a torch function that ran ops."""
        tape = self._tape
        current = tape.values.current
        if isinstance(items, Written):
            found = [tape.values.written_since(live, op_start) for live in items.tensors]
            returned = tuple(row for row in found if row is not None)
            if isinstance(kept, list):
                pairs = zip(found, kept, strict=True)
                kept = [saved for row, saved in pairs if row is not None]
        else:
            returned = tuple(map(current, items)) if isinstance(items, list) else (current(items),)
        place = self._place(chain, run)
        name, node = function_name(func), None if grad_fn is None else grad_fn.__name__
        if error is not None:
            tape.failed_calls.note(error, tape.call_count)
            end = tape.op_count
            tape.add_call(CallRow(name, run, place, op_start, end, started, ended, node, True))
            return
        if kept is not None or tape.returned is not None:
            tape.keep(returned, [kept] if isinstance(kept, Kept) else kept)
        tape.write_call(name, node, returned, run, place, op_start, tape.op_count, started, ended)

    def _handed_call(
        self,
        func: Any,
        items: Sequence[Live],
        kept: list[Kept] | None,
        grad_fn: type | None,
        run: int,
        chain: Chain,
        started: int,
        ended: int,
    ) -> None:
        """Append the call of a torch function that returned what it was given."""
        tape = self._tape
        rows = tuple(map(tape.values.current, items))
        row = CallRow(
            function_name(func), run, self._place(chain, run), tape.op_count, tape.op_count,
            started, ended, None if grad_fn is None else grad_fn.__name__, received=rows,
        )  # fmt: skip
        tape.hand_on(row, kept)

    def _enter(
        self,
        module: int,
        chain: Chain,
        items: Items,
        parent: int,
        started: int,
        kept: list[Kept] | None,
    ) -> None:
        """Begin the run of a module: where it was called, and what it was given."""
        tape, places = self._tape, self._tape.places
        number = self._runs_of[module] = self._runs_of.get(module, 0) + 1
        run = ModuleRun(len(tape.runs), module, number, parent)
        tape.runs.append(run)
        run.start, run.op_start = started, tape.op_count
        run.grad_enabled, run.inference = tape.grad_modes.enabled, tape.grad_modes.inference
        site = places.of(chain, NONE if parent == NONE else tape.runs[parent].place, module)
        run.site = site
        outer = self._running.setdefault(module, run)
        if outer is not run:  # recursion: another pass through the same context
            run.place = outer.place
        elif module == tape.root:
            run.is_root, run.place = True, places.root(module, site)
        else:
            run.place = site
        run.inputs, run.given = self._leaves(items, LONE_ARGUMENT)
        if run.is_root:
            run.inputs = [(path, tape.given_to_model(row)) for path, row in run.inputs]
            run.inputs = self._pass_border(run, "input", run.inputs, kept)
        run.call_start = tape.call_count

    def _leave(
        self, index: int, items: Items, ended: int, failed: bool, kept: list[Kept] | None
    ) -> None:
        """End it: what it gave, with a call of its own where that is just what it was given."""
        tape = self._tape
        run = tape.runs[index]
        run.end, run.op_end, run.failed = ended, tape.op_count, failed
        if self._running.get(run.module) is run:
            del self._running[run.module]
        run.outputs, run.gave = self._leaves(items, LONE)
        if run.outputs and run.op_start == run.op_end and run.call_start == tape.call_count:
            received = {row for _, row in run.inputs}
            if all(row in received for _, row in run.outputs):
                self._identity(run, kept)
        if kept is not None or tape.returned is not None:  # it may be what no call returned
            tape.keep([row for _, row in run.outputs], kept)
        run.call_end = tape.call_count
        if run.is_root:
            self._pass_border(run, "output", run.outputs, kept)

    def _leaves(self, items: Items, lone: Structure) -> tuple[list[tuple[str, int]], Structure]:
        """Return the row of each tensor with its path, and the structure they are in."""
        current = self._tape.values.current
        if not isinstance(items, Nested):
            return [("", current(items))], lone
        rows = map(current, items.tensors)
        return list(zip(tensor_paths(items.structure), rows, strict=True)), items.structure

    def _identity(self, run: ModuleRun, kept: list[Kept] | None) -> None:
        op = self._tape.op_count
        row = CallRow(
            "identity", run.index, run.place, op, op, run.start, run.end, None,
            kind="identity", received=tuple(row for _, row in run.outputs),
        )  # fmt: skip
        new = self._tape.hand_on(row, kept)
        run.outputs = [(path, row) for (path, _), row in zip(run.outputs, new, strict=True)]

    def _pass_border(
        self,
        run: ModuleRun,
        kind: CallKind,
        leaves: Sequence[tuple[str, int]],
        kept: list[Kept] | None,
    ) -> list[tuple[str, int]]:
        """Record each tensor that enters or leaves the model as a call of its own."""
        op, now = self._tape.op_count, run.start if kind == "input" else run.end
        result = []
        taken: set[str] = set()
        for number, (written, row) in enumerate(leaves):
            path = written
            while path in taken:  # `{"a.b": x, "a": {"b": y}}` holds two tensors
                path += "'"
            taken.add(path)
            call = CallRow(
                kind, run.parent, run.place, op, op, now, now, None,
                received=(row,), kind=kind, path=path,
            )  # fmt: skip
            result.append((path, self._tape.hand_on(call, kept and [kept[number]])[0]))
        return result


# By kind: what settles an event, and how wide it is: the kind, a number of ops, the arguments.
_OF_KIND: tuple[tuple[Callable[..., None], int], ...] = (
    (Settling._call, 12),
    (Settling._handed_call, 10),
    (Settling._enter, 8),
    (Settling._leave, 7),
    (Settling._seen, 2 + SIGHT),
    (Settling._end, 4),
    (Settling._named, 3),
    (Settling._grad_mode, 5),
    (Settling._set_grad_mode, 6),
    (Settling._unseen_call, 5),
)


def _is_running(frame: FrameType | None) -> bool:
    """Whether a frame is among those of this thread that are running."""
    at: FrameType | None = sys._getframe(2)
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None


def function_name(func: Any) -> str:
    """Return a torch function's name; a property's for the read of a property."""
    if func.__class__ is MethodWrapperType:
        owner: Any = func.__self__
        name = getattr(owner, "__name__", None) or getattr(owner.fget, "__name__", "property")
        return str(name)
    return str(getattr(func, "__name__", func.__class__.__name__))
