"""What each kind of event in the log does to the tables.

There is a method for each schema of `events`, whose arguments are its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opscope.capture.log import events
from opscope.capture.log.contexts.call_sites import function_name
from opscope.capture.log.events import WIDTHS, Chain, Live, Nested, Written
from opscope.capture.log.grad_modes import Step
from opscope.capture.tables.rows import Leaves, ModuleRun, PassThrough
from opscope.capture.tables.tables import Tables
from opscope.operators.plans import named_arguments
from opscope.records.calls import CallKind
from opscope.records.columns.columns import NONE
from opscope.records.containers import LONE, LONE_ARGUMENT, Structure, tensor_paths

Items = Live | Nested


class Handlers:
    """Writes to tables what the events of a log say.

    Args:
        tables: The tables.

    Attributes:
        running: The outermost run of each module that is running.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.running: dict[int, ModuleRun] = {}
        self._runs_of: dict[int, int] = {}  # how often each module has run

    def go_back(self, running: dict[int, ModuleRun]) -> None:
        """Be as it was when these ran, which are the last in the tables."""
        self.running = dict(running)
        self._runs_of = {run.module: run.number for run in self._tables.runs}

    def _seen(self, *snapshot: Any) -> None:
        """Have a row for a tensor from outside."""
        self._tables.values.found(snapshot)

    def _end(self, alive: Sequence[Live], notes: Sequence[Any] | None) -> None:
        """Note what the tensors are that are there when the block ends."""
        tables = self._tables
        tables.alive = list(map(tables.values.current, alive))
        for row, note in zip(tables.alive, notes or (), strict=False):
            tables.tell_noted(row, note)

    def _named(self, lives: Sequence[Live]) -> None:
        """Take tensors for parameters from here on."""
        values, parameters = self._tables.values, self._tables.parameters
        parameters.waiting.difference_update(map(id, lives))
        for live in lives:
            row = values.rows.get(id(live))
            if row is not None:
                parameters.seen(live, row)

    def _grad_mode(self, run: int, enabled: bool, inference: bool) -> None:
        """Note the grad mode in which the block, or the model, is entered."""
        modes = self._tables.grad_modes
        modes.enabled, modes.inference = enabled, inference
        if run == NONE:
            modes.begin(self._tables.op_count)

    def _set_grad_mode(self, run: int, enabled: bool, step: Step, hidden: bool) -> None:
        """Note that the program set it."""
        modes, op = self._tables.grad_modes, self._tables.op_count
        modes.change(op, run, enabled=enabled, step=step, hidden=hidden)

    def _unseen_call(self, run: int, func: Any, live: Live) -> None:
        """Note a call that no op shows."""
        tables = self._tables
        row = tables.values.current(live)
        tables.unseen_calls.append((run, function_name(func), row))

    def _call(
        self,
        func: Any,
        items: Live | list[Live] | Written,
        notes: Any,
        grad_fn: type | None,
        run: int,
        chain: Chain,
        op_start: int,
        started: int,
        ended: int,
        error: BaseException | None,
    ) -> None:
        """Append the call of a torch function that ran ops."""
        tables = self._tables
        current = tables.values.current
        if isinstance(items, Written):
            found = [tables.values.written_since(live, op_start) for live in items.tensors]
            returned = tuple(row for row in found if row is not None)
            if isinstance(notes, list):
                pairs = zip(found, notes, strict=True)
                notes = [saved for row, saved in pairs if row is not None]
        else:
            returned = tuple(map(current, items)) if isinstance(items, list) else (current(items),)
        site = tables.site(chain, run)
        name, node = function_name(func), None if grad_fn is None else grad_fn.__name__
        if error is not None:
            tables.failed_calls.note(error, tables.call_count)
            tables.raised.add(tables.call_count)
        elif notes is not None or tables.hooks.called:
            is_one = notes is not None and not isinstance(notes, list)
            tables.tell_returned(returned, [notes] if is_one else notes)
        tables.write_call(name, node, returned, run, site, op_start, started, ended)

    def _passed_through(
        self,
        func: Any,
        given: dict[int | str, Any],
        items: Sequence[Live],
        notes: list[Any] | None,
        grad_fn: type | None,
        run: int,
        chain: Chain,
        started: int,
        ended: int,
    ) -> None:
        """Append the call of a torch function that returned what it was given."""
        tables = self._tables
        rows = tuple(map(tables.values.current, items))
        name, node = function_name(func), None if grad_fn is None else grad_fn.__name__
        site = tables.site(chain, run)
        call = PassThrough(rows, arguments=named_arguments(func, given))
        tables.pass_through(call, notes, name, node, run, site, started, ended)

    def _enter(
        self,
        module: int,
        chain: Chain,
        items: Items,
        parent: int,
        started: int,
        notes: list[Any] | None,
    ) -> None:
        """Begin the run of a module: where it was called, and what it was given."""
        tables, sites = self._tables, self._tables.call_sites
        number = self._runs_of[module] = self._runs_of.get(module, 0) + 1
        run = ModuleRun(len(tables.runs), module, number, parent)
        tables.runs.append(run)
        run.start, run.op_start = started, tables.op_count
        run.grad_enabled, run.inference = tables.grad_modes.enabled, tables.grad_modes.inference
        site = sites.of(chain, NONE if parent == NONE else tables.runs[parent].call_site, module)
        run.called_from = site
        outer = self.running.setdefault(module, run)
        if outer is not run:  # recursion: another pass through the same context
            run.call_site = outer.call_site
        elif module == tables.root:
            run.is_root, run.call_site = True, sites.root(module, site)
        else:
            run.call_site = site
        run.inputs, run.given = self._leaves(items, LONE_ARGUMENT)
        if run.is_root:
            run.inputs = tuple((path, tables.given_to_model(row)) for path, row in run.inputs)
            run.inputs = self._pass_border(run, "input", run.inputs, notes)
        run.call_start = tables.call_count

    def _leave(
        self, index: int, items: Items, ended: int, failed: bool, notes: list[Any] | None
    ) -> None:
        """End it: what it gave, with a call of its own where that is just what it was given."""
        tables = self._tables
        run = tables.runs[index]
        run.end, run.op_end, run.failed = ended, tables.op_count, failed
        if self.running.get(run.module) is run:
            del self.running[run.module]
        run.outputs, run.gave = self._leaves(items, LONE)
        if run.outputs and run.op_start == run.op_end and run.call_start == tables.call_count:
            received = {row for _, row in run.inputs}
            if all(row in received for _, row in run.outputs):
                self._identity(run, notes)
        if notes is not None or tables.hooks.called:  # it may be what no call returned
            tables.tell_returned([row for _, row in run.outputs], notes)
        run.call_end = tables.call_count
        if run.is_root:
            self._pass_border(run, "output", run.outputs, notes)

    def _leaves(self, items: Items, lone: Structure) -> tuple[Leaves, Structure]:
        """Return the row of each tensor with its path, and the structure they are in."""
        current = self._tables.values.current
        if not isinstance(items, Nested):
            return (("", current(items)),), lone
        rows = map(current, items.tensors)
        return tuple(zip(tensor_paths(items.structure), rows, strict=True)), items.structure

    def _identity(self, run: ModuleRun, notes: list[Any] | None) -> None:
        call = PassThrough(tuple(row for _, row in run.outputs), "identity")
        new = self._tables.pass_through(
            call, notes, "identity", None, run.index, run.call_site, run.start, run.end
        )
        paths = (path for path, _ in run.outputs)
        run.outputs = tuple(zip(paths, new, strict=True))

    def _pass_border(
        self,
        run: ModuleRun,
        kind: CallKind,
        leaves: Leaves,
        notes: list[Any] | None,
    ) -> Leaves:
        """Record each tensor that enters or leaves the model as a call of its own."""
        now = run.start if kind == "input" else run.end
        result = []
        taken: set[str] = set()
        for number, (written, row) in enumerate(leaves):
            path = written
            while path in taken:  # `{"a.b": x, "a": {"b": y}}` holds two tensors
                path += "'"
            taken.add(path)
            (new,) = self._tables.pass_through(
                PassThrough((row,), kind, path), notes and [notes[number]], kind, None,
                run.parent, run.call_site, now, now,
            )  # fmt: skip
            result.append((path, new))
        return tuple(result)


_EVENT_HANDLERS: dict[type, Callable[..., None]] = {
    events.Call: Handlers._call,
    events.PassedThrough: Handlers._passed_through,
    events.Enter: Handlers._enter,
    events.Leave: Handlers._leave,
    events.Seen: Handlers._seen,
    events.End: Handlers._end,
    events.Named: Handlers._named,
    events.GradMode: Handlers._grad_mode,
    events.SetGradMode: Handlers._set_grad_mode,
    events.UnseenCall: Handlers._unseen_call,
}
# What to do with an event of each kind, and how much of the log it takes.
HANDLERS = {kind: (handle, WIDTHS[kind]) for kind, handle in _EVENT_HANDLERS.items()}
