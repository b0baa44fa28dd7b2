"""From the tape to records: what the watchers wrote becomes one frozen `Recording`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from opscope.capture.identity import HANDED, NO_STORAGE
from opscope.capture.input_views import placed
from opscope.capture.links import Link, links
from opscope.capture.module_names import Known
from opscope.capture.operators import Met
from opscope.capture.phases import phases
from opscope.capture.session import Session
from opscope.capture.tape import (
    FAILED,
    GRAD,
    INFERENCE,
    NONE,
    CallRow,
    ModuleRun,
    OpRow,
    Tape,
    TensorSlot,
)
from opscope.collector import paused
from opscope.records.recording import (
    Failure,
    InWords,
    LayerCall,
    Leaf,
    Module,
    ModuleCall,
    Op,
    Origin,
    Parameter,
    Phase,
    Read,
    Recording,
    SavedTensor,
    UnseenCall,
    Value,
)
from opscope.records.several import borders, without_model

_ORIGINS: tuple[Origin, ...] = ("outside", "fresh", "view", "write", "handed", "rewritten")


@paused()
def develop(session: Session) -> Recording:
    """Return all that a session recorded, as plain data."""
    tape = session.tape
    with session.reading:
        session.settle()
    op_rows, call_rows = placed(tape, list(tape.op_rows()), list(tape.call_rows()))
    found = links(tape, op_rows, call_rows)
    phase, call_phases = phases(tape, op_rows, call_rows, found)
    calls = _Calls(
        tape, op_rows, zip(call_rows, call_phases, strict=True), phase, session.started_ns
    )
    parameters, bound, packed = _parameters(session)
    ops = _ops(tape, op_rows, calls, found, phase, session.started_ns, packed)
    failure = session.failure
    root = session.modules.root
    grad_enabled, inference = tape.grad_modes.at_first or (False, False)
    recording = Recording(
        model_name="" if root is None else root.class_name,
        ops=ops,
        values=_values(tape),
        layer_calls=tuple(calls.records),
        module_calls=tuple(_module_call(run, calls, session.started_ns) for run in tape.runs),
        modules=tuple(_module(known) for known in session.modules.modules),
        parameters=parameters,
        places=tape.places.frames(),
        duration_ns=session.duration_ns,
        seed=session.seed,
        failure=None if failure is None else _renumber_failure(failure, calls, ops),
        saved_tensors=() if session.saved_tensors is None else _saved_tensors(session),
        parameter_of_value=bound,
        alive=None if tape.alive is None else tuple(tape.alive),
        grad_regions=tape.grad_modes.records(tape.op_count),
        unseen_calls=tuple(
            UnseenCall(function, row, _optional(run)) for run, function, row in tape.unseen_calls
        ),
        grad_enabled=grad_enabled,
        inference=inference,
    )
    if not session.modules.are_several:
        return recording
    session.join(borders(recording))
    return without_model(recording)


class _Calls:
    """The layer calls in order, with one made up for each op that no function ran for."""

    def __init__(
        self,
        tape: Tape,
        op_rows: list[OpRow],
        call_rows: Iterable[tuple[CallRow, Phase]],
        phase: list[Phase],
        start: int,
    ) -> None:
        self._phase = phase
        self._start = start
        self.records: list[LayerCall] = []
        self.of_op: list[int | None] = [None] * len(op_rows)
        self._number: list[int] = []  # per recorded call
        self._lone: list[int] = []  # the ops that became calls of their own
        at = 0
        for row, of_call in call_rows:
            at = self._add_lone(tape, op_rows, at, row.ops_start)
            self._number.append(len(self.records))
            self._add(row, of_call)
            at = max(at, row.ops_end)
        self._add_lone(tape, op_rows, at, len(op_rows))

    def number(self, recorded: int) -> int:
        return self._number[recorded]

    def module_of(self, op: int, row: OpRow) -> int | None:
        """Return the module call of an op: that of its layer call, which knows best."""
        call = self.of_op[op]
        return _optional(row.module) if call is None else self.records[call].module_call

    def place_of(self, op: int, row: OpRow) -> int | None:
        """Return the place of an op, which is that of its layer call where it has none."""
        call = self.of_op[op]
        if row.place == NONE and call is not None:
            return self.records[call].place
        return _optional(row.place)

    def before(self, recorded: int, op: int) -> int:
        """Return how many calls there were when so many calls and ops were recorded."""
        return recorded + bisect_left(self._lone, op)

    def _add(self, row: CallRow, phase: Phase) -> None:
        index = len(self.records)
        self.records.append(
            LayerCall(
                index=index,
                function=row.function,
                kind=row.kind,
                path=row.path,
                module_call=_optional(row.module),
                place=_optional(row.place),
                ops=range(row.ops_start, row.ops_end),
                received=row.received,
                returned=row.returned,
                started_ns=row.started - self._start,
                duration_ns=row.ended - row.started,
                grad_fn=row.grad_fn,
                phase=phase,
                failed=row.failed,
            )
        )
        for op in range(row.ops_start, row.ops_end):
            self.of_op[op] = index

    def _add_lone(self, tape: Tape, rows: list[OpRow], at: int, stop: int) -> int:
        for op in range(at, stop):
            row = rows[op]
            if self._phase[op] == "backward":
                continue
            made = tape.made[rows[op - 1].made_end if op else 0 : row.made_end]
            wrote = tape.wrote[rows[op - 1].wrote_end if op else 0 : row.wrote_end]
            returned = tuple(dict.fromkeys(v for v in (*made, *wrote) if v != NONE))
            self._lone.append(op)
            self._add(
                CallRow(
                    _function_of(row.slots.plan.name), row.module, row.place, op, op + 1,
                    row.started, row.ended, None, bool(row.flags & FAILED), returned=returned,
                ),
                self._phase[op],
            )  # fmt: skip
        return max(at, stop)


def _function_of(operator: str) -> str:
    """Return the function's name for an op that no function ran for."""
    parts = operator.split(".")
    return parts[1] if len(parts) > 1 else operator


def _ops(
    tape: Tape,
    rows: list[OpRow],
    calls: _Calls,
    found: list[Link],
    phase: list[Phase],
    start: int,
    packed: Mapping[int | None, tuple[int, ...]],
) -> tuple[Op, ...]:
    result: list[Op] = []
    own_detaches = set(tape.own_detaches)
    in_custom = tape.places.in_custom_functions()
    read_at = made_at = wrote_at = 0
    for index, row in enumerate(rows):
        reads, arguments = _arguments(row, tape, read_at)
        objects = _objects(arguments) if row.slots.plan.objects else ()
        link = found[index]
        module, place = calls.module_of(index, row), calls.place_of(index, row)
        if link.forward is not None:
            module = result[link.forward].module_call
        result.append(
            Op(
                index=index,
                operator=row.slots.plan.name,
                reads=reads,
                outputs=tuple(_optional(v) for v in tape.made[made_at : row.made_end]),
                writes=tuple(tape.wrote[wrote_at : row.wrote_end]),
                arguments=_without_identity(arguments) if objects else arguments,
                packed=tuple(n for item in objects for n in packed.get(item.identity, ())),
                layer_call=calls.of_op[index],
                module_call=module,
                place=_optional(row.place),
                grad_enabled=bool(row.flags & GRAD),
                inference=bool(row.flags & INFERENCE),
                phase=phase[index],
                sequence_nr=link.number,
                node=link.node,
                forward_op=link.forward,
                accumulates=link.parameter if phase[index] == "backward" else None,
                recomputed=link.recomputed,
                by_autograd=index in own_detaches,
                started_ns=row.started - start,
                duration_ns=row.ended - row.started,
                failed=bool(row.flags & FAILED),
                custom_function=place is not None and in_custom[place],
            )
        )
        read_at, made_at, wrote_at = row.reads_end, row.made_end, row.wrote_end
    return tuple(result)


def _arguments(
    row: OpRow, tape: Tape, at: int
) -> tuple[tuple[Read, ...], tuple[tuple[str, object], ...]]:
    """Return an op's reads, each with its argument's name, and its other arguments."""
    slots = row.slots
    reads: list[Read] = []
    others: list[tuple[str, object]] = []

    def take(name: str) -> None:
        nonlocal at
        value = tape.reads[at]
        if value != NONE:
            reads.append(Read(value, name, name.partition("[")[0] in slots.plan.overwrites))
        else:
            others.append((name, tape.numbers.get(at)))
        at += 1

    for name in slots.tensor_names:
        take(name)
    constants = [
        list(value) if value.__class__ is tuple else value
        for value in row.constants[: len(slots.constant_names)]
    ]
    others.extend(zip(slots.constant_names, constants, strict=True))
    for (_, name), length in zip(slots.lists, row.constants[len(constants) :], strict=True):
        if not length:
            others.append((name, None if length is None else []))
        for position in range(length or 0):
            take(f"{name}[{position}]")
    for name, value in (row.named or {}).items():
        if not isinstance(value, TensorSlot):
            others.append((name, value))
        elif value.count is None:
            take(name)
        else:
            for position in range(value.count):
                take(f"{name}[{position}]")
    return tuple(reads), tuple(others)


def _objects(arguments: tuple[tuple[str, object], ...]) -> list[Met]:
    """Return the objects of C++ among an op's arguments."""
    items = (item if isinstance(item, list) else [item] for _, item in arguments)
    return [item for several in items for item in several if isinstance(item, Met)]


def _without_identity(arguments: tuple[tuple[str, object], ...]) -> tuple[tuple[str, object], ...]:
    def plain(item: object) -> object:
        if isinstance(item, list):
            return [plain(one) for one in item]
        return InWords(item) if isinstance(item, Met) else item

    return tuple((name, plain(item)) for name, item in arguments)


def _parameters(
    session: Session,
) -> tuple[tuple[Parameter, ...], dict[int, int], dict[int | None, tuple[int, ...]]]:
    """Return the parameters, which of them each value is that came from one, and those in objects.

    These are by what tells the object from others.
    """
    table = session.tape.parameters
    first_value: dict[int, int] = {}
    for row, number in table.of_row.items():
        first_value.setdefault(number, row)
    records = tuple(
        Parameter(
            index=number,
            name=row.name,
            aliases=table.aliases.get(number, ()),
            kind=row.kind,
            shape=row.shape,
            dtype=str(row.dtype).removeprefix("torch."),
            itemsize=row.dtype.itemsize,
            trainable=row.trainable,
            value=first_value.get(number),
            initialised=number not in table.lazy,
            of_model=number in table.of_model,
        )
        for number, row in enumerate(table.rows())
    )
    inside: dict[int | None, tuple[int, ...]] = {}
    packed = []
    for number, (identity, size, of_model) in enumerate(table.packed(), len(records)):
        inside[identity] = (*inside.get(identity, ()), number)
        packed.append(
            Parameter(
                index=number,
                name=size.names[0],
                aliases=size.names[1:],
                shape=size.shape,
                dtype=str(size.dtype).removeprefix("torch."),
                itemsize=size.itemsize,
                of_model=of_model,
            )
        )
    inside.pop(None, None)
    return (*records, *packed), dict(table.of_row), inside


def _saved_tensors(session: Session) -> tuple[SavedTensor, ...]:
    storages = session.tape.values.storages
    makers: dict[int, int] = {}
    for row, storage in enumerate(storages):
        makers.setdefault(storage, row)
    bound = {storages[row]: number for row, number in session.tape.parameters.of_row.items()}
    rows = [] if session.saved_tensors is None else session.saved_tensors.rows
    return tuple(
        SavedTensor(
            node=row.node,
            name=row.name,
            owner=row.owner,
            shape=row.shape,
            dtype=str(row.dtype).removeprefix("torch."),
            nbytes=row.nbytes,
            storage=None if row.storage == NO_STORAGE else row.storage,
            maker=None if row.storage == NO_STORAGE else makers.get(row.storage),
            parameter=None if row.storage == NO_STORAGE else bound.get(row.storage),
            packed=row.packed,
        )
        for row in rows
    )


def _renumber_failure(failure: Failure, calls: _Calls, ops: tuple[Op, ...]) -> Failure:
    """Give a failure the numbers that the layer calls have in the recording."""
    call = None if failure.layer_call is None else calls.number(failure.layer_call)
    if call is None and failure.op is not None:
        call = ops[failure.op].layer_call
    return replace(failure, layer_call=call)


def _values(tape: Tape) -> tuple[Value, ...]:
    table = tape.values
    layouts = [_layout(layout) for layout in table.layout_table]
    result = []
    for index, (origin, maker, storage, offset, layout) in enumerate(
        zip(table.origins, table.makers, table.storages, table.offsets, table.layouts, strict=True)
    ):
        shape, stride, dtype, itemsize, device = layouts[layout]
        handed_from = table.handed_from.get(index)
        made_by = maker
        if origin == HANDED:
            made_by = table.makers[table.source(index)]
        result.append(
            Value(
                index=index,
                shape=shape,
                stride=stride,
                offset=offset,
                dtype=dtype,
                itemsize=itemsize,
                device=device,
                storage=_optional(storage),
                origin=_ORIGINS[origin],
                made_by=_optional(made_by),
                handed_from=handed_from,
            )
        )
    return tuple(result)


def _layout(layout: tuple[Any, ...]) -> tuple[Any, ...]:
    shape, stride, dtype, device = layout
    sizes = tuple(int(size) for size in shape)
    strides = tuple(int(step) for step in stride)
    return sizes, strides, str(dtype).removeprefix("torch."), dtype.itemsize, str(device)


def _module_call(run: ModuleRun, calls: _Calls, start: int) -> ModuleCall:
    return ModuleCall(
        index=run.index,
        module=run.module,
        number=run.number,
        parent=_optional(run.parent),
        place=_optional(run.place),
        is_root=run.is_root,
        inputs=tuple(Leaf(path, row) for path, row in run.inputs),
        outputs=tuple(Leaf(path, row) for path, row in run.outputs),
        input_structure=run.given,
        output_structure=run.gave,
        ops=range(run.op_start, run.op_end),
        layer_calls=range(
            calls.before(run.call_start, run.op_start), calls.before(run.call_end, run.op_end)
        ),
        started_ns=run.start - start,
        duration_ns=run.end - run.start,
        failed=run.failed,
        grad_enabled=run.grad_enabled,
        inference=run.inference,
    )


def _module(known: Known) -> Module:
    return Module(
        index=known.index,
        address=known.address,
        class_name=known.class_name,
        aliases=tuple(known.aliases),
        training=known.training,
    )


def _optional(number: int) -> int | None:
    return None if number == NONE else number
