"""What the watchers write while torch runs: raw, with nothing looked up or worked out.

Next to an op caches are cold, and a step of Python costs many times what it does in a loop.
So only what would be gone is taken down there: who was read and made, sizes, the frames of
the caller, the time. `ingest` makes rows of the tables of it, many ops at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Literal, NamedTuple
from weakref import ref

import torch

from opscope.capture.log.events import Call, Chain, Live, Seen, Written
from opscope.capture.log.hooks import Error, ReturnedCall, first_error
from opscope.capture.log.snapshots import Snapshot, is_transformed, take_snapshot, unwrap_functorch
from opscope.records.columns.columns import NONE
from opscope.torch_api import DisableFuncTorch

# How many ops wait until the trace is read: to ingest them takes time, which a model that runs
# should not. Of a longer trace the rest is ingested a few at a time, so that what waits is not
# much for the garbage collector.
FIRST, BATCH = 4096, 256
_FEW = 512


def never() -> None:
    """Stand in for `Ingest`."""


def stay(frame: FrameType | None) -> None:
    """Do nothing: no modules are watched."""


class LogRow(NamedTuple):
    """One op, without the tensors.

    Attributes:
        slots: Where its arguments are.
        constants: The other positional arguments, and the lengths of lists of tensors.
        named: The named ones, with slots for tensors.
        chain: The frames that called it; or the module run that it stands for; or None.
        run: The innermost module run.
        flags: See `tables`.
        sequence: Autograd's number for the next node, before the op.
        started: In nanoseconds.
        ended: In nanoseconds.
        notes: What was saved of what it wrote and then returned, None for what was not.
        reads: How much of what it read follows the row: tensors, None and numbers.
        made: How much then follows of the snapshots of what it returned, `ABSENT` among them.
        wrote: How much of the snapshots of what it wrote.
    """

    slots: Any
    constants: tuple[Any, ...]
    named: dict[str, Any] | None
    chain: Any
    run: int
    flags: int
    sequence: int
    started: int
    ended: int
    notes: Sequence[Any] | None
    reads: int
    made: int
    wrote: int


class Log:
    """All that is not ingested yet, and what is running now.

    A tensor is written as a weak reference to it, of which there is one for each tensor: as
    long as that is held, its ``id`` is of this tensor only. One that was not seen before, or
    was given other metadata unseen, is an event of its own, before what reads it.

    All is flat, as every object that is kept costs about 1 µs more in the garbage collector.

    Attributes:
        ops: Flat rows of `LogRow`, each followed by the op's tensors.
        events: What happened between ops, flat: see `events`.
        constants: By op, copies of what it was given that nothing else holds.
        known: By ``id`` of it, the weak reference to each tensor that was seen.
        storages: The storage that each then had, unless ``sees_assignments``.
        layouts: Likewise the rest of its last snapshot.
        op_count: How many ops there were since the trace began.
        in_call: Whether a layer call is running.
        run: The innermost module run, -1 outside.
        run_count: How many there were.
        boundary: The frame at which a calling context ends.
        sees_assignments: Whether `forget` is called at each ``.data = ``, which only a function mode sees.
        inside_op: Whether an op is running, and modules that run are inside of it.
        thread: The thread that is watched.
        in_backward: The runs of modules that go on in a backward, the innermost last: by thread
            and graph task, the ``id`` of each module and the run's number.
        ingest: Ingests all there is.
        eager: Whether that is to be done after each op and event.
        ingest_at: The number of ops at which to ingest next.
        unwind: Ends the module runs that are no longer running below a frame.
        written: What ops of the layer call that is running wrote: the number of the op, and the
            weak references to the tensor and to its storage.
        keep: Makes a note of a tensor that a call returns, if a collector takes notes.
        keep_again: The same, of one of which there may be one as it is now.
        keeps_every_op: Whether a note is made of what any op gives.
        has_before_op: Whether ops are looked at before they run.
        first_seen: Called with each tensor from outside and its snapshot, before an op can change it.
        returned: Called with each function and module that returned.
        edit: Returns what the program is to be given in the place of what one returned.
        has_listeners: Whether there is either.
    """

    __slots__ = (
        "__weakref__", "boundary", "constants", "eager", "edit", "events", "first_seen", "has_before_op", "has_listeners", "in_backward", "in_call", "ingest", "ingest_at", "inside_op", "keep", "keep_again", "keeps_every_op", "known", "layouts", "op_count", "ops", "returned", "run", "run_count", "sees_assignments", "storages", "sweep_at", "thread", "unwind", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ops: list[Any] = []
        self.events: list[Any] = []
        self.constants: dict[int, torch.Tensor] = {}
        self.known: dict[int, Live] = {}
        self.storages: dict[int, ref[torch.UntypedStorage] | None] = {}
        self.layouts: dict[int, tuple[Any, ...]] = {}
        self.op_count = 0
        self.in_call = False
        self.run = NONE
        self.run_count = 0
        self.boundary: FrameType | None = None
        self.sees_assignments = False
        self.inside_op = False
        self.thread = 0
        self.in_backward: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.ingest: Callable[[], None] = never
        self.eager = False
        self.ingest_at = FIRST
        self.sweep_at = _FEW
        self.unwind: Callable[[FrameType | None], None] = stay
        self.written: list[Any] = []
        self.keep: Callable[[torch.Tensor], Any] | None = None
        self.keep_again: Callable[[torch.Tensor], Any] | None = None
        self.keeps_every_op = self.has_before_op = False
        self.first_seen: tuple[Callable[[torch.Tensor, Snapshot], None], ...] = ()
        self.returned: tuple[Callable[[ReturnedCall], Error], ...] = ()
        self.edit: Callable[[ReturnedCall], Any] | None = None
        self.has_listeners = False

    def write(self, event: tuple[Any, ...]) -> None:
        """Write an event, of the schemas of `events`."""
        self.events += (event.__class__, self.op_count, *event)
        if self.eager:
            self.ingest()

    def write_call(
        self,
        function: Any,
        returned: Live | list[Live] | Written,
        notes: Any,
        grad_fn: type | None,
        chain: Chain,
        op_start: int,
        started: int,
        ended: int,
        error: BaseException | None = None,
    ) -> None:
        """Write a `Call`: quicker than `write`."""
        self.events += (
            Call, self.op_count, function, returned, notes, grad_fn, self.run, chain, op_start,
            started, ended, error,
        )  # fmt: skip
        if self.eager:
            self.ingest()

    def read(self, tensor: torch.Tensor) -> Live:
        """Return what to write for a tensor that is about to be read, or was given."""
        live = ref(tensor)
        if self.sees_assignments:
            if id(live) in self.known:
                return live
        elif (layout := self.layouts.get(id(live))) is not None:
            storage = self.storages[id(live)]
            shape, stride, dtype, _, offset = layout
            # Whether no `.data = ` gave it another storage, or moved it within its own.
            if storage is None or (
                storage() is tensor.untyped_storage()
                and offset == tensor.storage_offset()
                and shape == tensor.shape
                and stride == tensor.stride()
                and dtype is tensor.dtype
            ):
                return live
        if is_transformed(tensor):
            with DisableFuncTorch():
                return self.read(unwrap_functorch(tensor))
        snapshot = take_snapshot(tensor)
        for look_at in self.first_seen:
            look_at(tensor, snapshot)
        self.events += (Seen, self.op_count, *snapshot)  # what `write` does, without the call
        if self.eager:
            self.ingest()
        self._know(snapshot)  # last: what is interrupted before is seen once more
        return live

    def note(self, tensor: torch.Tensor) -> Snapshot:
        """Return what to write for a tensor that an op made or wrote."""
        snapshot = take_snapshot(tensor)
        self._know(snapshot)
        return snapshot

    def _know(self, snapshot: Snapshot) -> None:
        live = snapshot[0]
        self.known[id(live)] = live
        if not self.sees_assignments:
            self.storages[id(live)], self.layouts[id(live)] = snapshot[1], snapshot[2:]

    def tell(self, kind: Literal["function", "module"], name: str, of: Any, result: Any) -> None:
        """Tell collectors that a function or a module returned; raises what one has to say."""
        call = ReturnedCall(kind, name, of, result)
        error = first_error(look_at(call) for look_at in self.returned)
        if error is not None:
            raise error

    def forget(self, tensor: torch.Tensor) -> None:
        """Have the next snapshot of this tensor be a new one: its metadata was replaced."""
        self.known.pop(id(ref(tensor)), None)

    def forget_all(self) -> None:
        """Have the next snapshot of every tensor be a new one."""
        self.known.clear()
        self.storages.clear()
        self.layouts.clear()

    def chain(self, frame: FrameType | None) -> Chain:
        """Return the code and the position in it of each frame up to the boundary."""
        boundary = self.boundary
        found: list[Any] = []
        at = frame
        while at is not boundary and at is not None:
            found.append(at.f_code)
            found.append(at.f_lasti)
            at = at.f_back
        if at is None and boundary is not None:
            self.unwind(frame)  # a BaseException left that module, which no hook is told of
            if self.boundary is not boundary:
                return self.chain(frame)
        return tuple(found)

    def sweep(self) -> bool:
        """Drop what was known of tensors that are gone, when it has become much."""
        if not self.in_call:
            self.written.clear()
        is_due = len(self.known) > self.sweep_at
        if is_due:
            known = {key: live for key, live in self.known.items() if live() is not None}
            storages, layouts = self.storages, self.layouts
            if not self.sees_assignments:
                storages = {key: storages[key] for key in known if key in storages}
                layouts = {key: layouts[key] for key in known if key in layouts}
            # At once: what is known of a tensor that is gone would be taken for another's.
            self.known, self.storages, self.layouts = known, storages, layouts
            self.sweep_at = _FEW + 2 * len(known)
        return is_due
