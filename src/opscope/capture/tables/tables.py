"""What the watchers wrote, ingested: flat columns, and nothing derived.

Ops and layer calls are rows of fixed width: their numbers packed into bytes, their objects in
one flat list each, so that the garbage collector has little to visit and a long record stays
small. `ingest` makes the rows of the log; `build_recording` turns the tables into records.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from opscope.capture.log.contexts.call_sites import CallSites
from opscope.capture.log.event_log import Log
from opscope.capture.log.events import Chain
from opscope.capture.log.grad_modes import GradModes
from opscope.capture.log.hooks import Hooks
from opscope.capture.tables.parameters import Parameters
from opscope.capture.tables.rows import (
    BACKWARD,
    CALL_NUMBERS,
    OP_NUMBERS,
    PACK_CALL,
    SITE,
    CallColumns,
    FailureMark,
    ModuleRun,
    Numbers,
    OpColumns,
    PassThrough,
    unpacked,
)
from opscope.capture.tables.values import PASSED_THROUGH, Values
from opscope.operators.plans import Plan, Slots
from opscope.records.columns.columns import NONE
from opscope.torch_api import next_sequence_number


class Mark(NamedTuple):
    """How far the tables is: what ingest goes back to if it is interrupted."""

    counts: tuple[int, int]
    lengths: tuple[int, ...]
    values: tuple[int, int]
    grad_modes: Any


class Tables:
    """All columns of one trace, and what is wanted of it besides.

    Attributes:
        log: What is not ingested yet.
        starts: For each time that the block was entered, the next op, and autograd's number for
            the next node: those below it were made unseen.
        nodes: For ops that the autograd engine ran, rows of `NodeRow`.
        threads: For ops that the engine ran in other threads, which.
        own_detaches: The ops by which autograd keeps a tensor for itself.
        alive: The rows that the tensors were that were there when the block ended, None where
            that was not noted.
        tasks: The backwards that the engine ran, and whether each was started inside another.
        backward_runs: For each run of a module inside a backward, the module's number, NONE for
            one that is not known, and the number of the run around it.
        backward_run_of: For ops inside of those, the innermost one.
        pass_throughs: The layer calls that returned what they were given.
        raised: The layer calls that returned nothing, but raised.
        grad_modes: Where the grad mode was set.
        unseen_calls: Calls that no op shows: the module run in which, the name of the function,
            and the row of its tensor.
        root: The number of the module that the names start from.
        runs: The runs of modules, in the order in which they began.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.parameters = Parameters()
        self.values = Values(self.parameters, self.log)
        self.call_sites = CallSites()
        self.grad_modes = GradModes()
        self.unseen_calls: list[tuple[int, str, int]] = []
        self.hooks = Hooks()
        self.op_count = 0
        self.ops: list[Any] = []
        self.op_numbers = bytearray()
        self.reads = array("i")
        self.made = array("i")
        self.wrote = array("i")
        self.numbers = Numbers()
        self.nodes: list[Any] = []
        self.threads: dict[int, int] = {}
        self.own_detaches = array("i")
        self.alive: list[int] | None = None
        self.tasks: dict[int, bool] = {}
        self.backward_runs: list[tuple[int, int]] = []
        self.backward_run_of: dict[int, int] = {}
        self.starts: list[tuple[int, int]] = []
        self.call_count = 0
        self.calls: list[Any] = []  # function and grad_fn
        self.call_numbers = bytearray()
        self.returned_rows = array("i")
        self.pass_throughs: dict[int, PassThrough] = {}
        self.raised: set[int] = set()
        self.root = NONE
        self.runs: list[ModuleRun] = []
        self.failed_ops = FailureMark()
        self.failed_calls = FailureMark()
        self.failed_runs = FailureMark()
        # The columns to which ingest appends.
        self._columns: tuple[Any, ...] = (
            self.ops, self.op_numbers, self.reads, self.made, self.wrote, self.calls,
            self.call_numbers, self.returned_rows, self.runs, self.unseen_calls, self.numbers,
        )  # fmt: skip

    def mark(self) -> Mark:
        """Return how far all is that is ingested, see `go_back`."""
        counts, lengths = (self.op_count, self.call_count), tuple(map(len, self._columns))
        return Mark(counts, lengths, self.values.mark(), self.grad_modes.mark())

    def go_back(self, mark: Mark) -> None:
        """Be again as far as it was, when an interrupt came before all was ingested."""
        self.op_count, self.call_count = mark.counts
        for column, length in zip(self._columns, mark.lengths, strict=True):
            del column[length:]
        self.values.go_back(mark.values)
        self.grad_modes.go_back(mark.grad_modes)

    def write_call(
        self,
        function: str,
        grad_fn: str | None,
        returned: Sequence[int],
        module: int,
        site: int,
        ops_start: int,
        started: int,
        ended: int,
    ) -> None:
        """Append a layer call, whose ops are the last."""
        self.calls += (function, grad_fn)
        self.returned_rows.extend(returned)
        end = len(self.returned_rows)
        self.call_numbers += PACK_CALL(module, site, ops_start, self.op_count, end, started, ended)
        self.call_count += 1

    def move_op(self, op: int, site: int) -> None:
        """Have an op be at another call site."""
        SITE.pack_into(self.op_numbers, op * OP_NUMBERS.size + SITE.size, site)

    def move_call(self, call: int, site: int) -> None:
        """Have a layer call be at another call site."""
        SITE.pack_into(self.call_numbers, call * CALL_NUMBERS.size + SITE.size, site)

    def plan(self, op: int) -> Plan:
        """Return what is known of an op's operator."""
        slots: Slots = self.ops[3 * op]
        return slots.plan

    def op_columns(self) -> OpColumns:
        """Return the numbers of every op, in order."""
        return OpColumns(*unpacked(self.op_numbers, 6, (3, 4, 5)))

    def call_columns(self) -> CallColumns:
        """Return the numbers of every layer call, in order."""
        return CallColumns(*unpacked(self.call_numbers, 5, (3, 4)))

    def note_start(self) -> None:
        """Note that from here on all that runs is seen."""
        first = next_sequence_number()
        self.starts.append((self.log.op_count, first))

    def tell_returned(self, rows: Sequence[int], notes: Sequence[Any] | None) -> None:
        """Tell collectors which values a call returned, and give them back their notes."""
        for row, note in zip(rows, notes or (), strict=bool(notes)):
            self.tell_noted(row, note)
        if self.hooks.called:
            for row in rows:
                tensor = self.values.tensor(row)
                if tensor is not None:
                    for look_at in self.hooks.called:
                        look_at(tensor, row)

    def tell_noted(self, row: int, note: Any) -> None:
        """Give collectors back a note with the value that it is of, if there is one."""
        if note is not None:
            for take_back in self.hooks.noted:
                take_back(row, note)

    def site(self, chain: Chain | int, run: int, flags: int = 0) -> int:
        """Return the number of a calling context; a number stands for the run that has it."""
        if isinstance(chain, int):
            return self.runs[chain].call_site
        if run == NONE or flags & BACKWARD:
            return self.call_sites.of(chain, NONE, NONE)
        outer = self.runs[run]
        return self.call_sites.of(chain, outer.call_site, outer.module)

    def given_to_model(self, row: int) -> int:
        """Return the row of a tensor before it entered a model, if it did so before."""
        values = self.values
        while values.origins[row] == PASSED_THROUGH:
            call = self.pass_throughs.get(values.makers[row])
            if call is None or call.kind != "input":
                break
            row = values.earlier[row]
        return row

    def pass_through(
        self,
        call: PassThrough,
        notes: Sequence[Any] | None,
        function: str,
        grad_fn: str | None,
        module: int,
        site: int,
        started: int,
        ended: int,
    ) -> tuple[int, ...]:
        """Append a call that only passed through what it received; return the new rows."""
        new = tuple(self.values.passed_through(value, self.call_count) for value in call.received)
        self.tell_returned(new, notes)
        self.pass_throughs[self.call_count] = call
        self.write_call(function, grad_fn, new, module, site, self.op_count, started, ended)
        return new
