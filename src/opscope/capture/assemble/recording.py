"""From the tables to records: what the watchers wrote becomes one frozen `Recording`."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opscope.capture.assemble.arguments import Arguments, Forms
from opscope.capture.assemble.input_views import place_input_views
from opscope.capture.assemble.layer_calls import Calls
from opscope.capture.assemble.links import Links, links
from opscope.capture.assemble.phases import phases
from opscope.capture.collect.autograd.saved_tensors import SavedTensors
from opscope.capture.collect.digests.digests import DigestCollector
from opscope.capture.collect.storages import StorageLives
from opscope.capture.session import Session
from opscope.capture.tables.rows import FAILED, GRAD, INFERENCE, ModuleRun, OpColumns
from opscope.capture.tables.tables import Tables
from opscope.capture.tables.values import PASSED_THROUGH
from opscope.capture.watch.modules.module_info import ModuleInfo
from opscope.garbage import paused
from opscope.records.calls import Leaf, ModuleCall
from opscope.records.columns.columns import (
    NONE,
    Coded,
    Column,
    Flag,
    Less,
    Optional,
    Ragged,
    RaggedOptional,
    Same,
    Sparse,
)
from opscope.records.columns.table import Reads, Table
from opscope.records.flow.several import borders, without_model
from opscope.records.ops import Op, Phase
from opscope.records.recording import Failure, Module, Parameter, Recording, SavedTensor, UnseenCall
from opscope.records.storages import StorageLife
from opscope.records.values import Digest, Origin, Value
from opscope.waiting import Track, untracked

_ORIGINS: tuple[Origin, ...] = ("outside", "fresh", "view", "write", "passed_through", "rewritten")


@paused()
def build_recording(session: Session, track: Track = untracked) -> Recording:
    """Return all that a session recorded, as plain data.

    Args:
        session: It.
        track: Hands on the calls as they are read, to one who waits for them.
    """
    tables = session.tables
    with session.reading:
        session.ingest()
    place_input_views(tables)
    op_columns, call_columns = tables.op_columns(), tables.call_columns()
    found = links(tables, op_columns)
    phase, call_phases = phases(tables, op_columns, call_columns, found)
    calls = Calls(tables, op_columns, call_columns, phase, call_phases, track)
    parameters, bound, packed = _parameters(session)
    ops = _ops(tables, op_columns, calls, found, phase, session.started_ns, packed)
    failure = session.failure
    root = session.modules.root
    grad_enabled, inference = tables.grad_modes.at_first or (False, False)
    recording = Recording(
        model_name="" if root is None else root.class_name,
        ops=ops,
        values=_values(tables),
        layer_calls=calls.records(session.started_ns),
        module_calls=tuple(_module_call(run, calls, session.started_ns) for run in tables.runs),
        modules=tuple(_module(known) for known in session.modules.modules),
        parameters=parameters,
        call_sites=tables.call_sites.frames(),
        duration_ns=session.duration_ns,
        seed=session.seed,
        failure=None if failure is None else _renumber_failure(failure, calls, ops),
        saved_tensors=_saved_tensors(session),
        storages=_storages(session),
        digests=_digests(session),
        parameter_of_value=bound,
        alive=None if tables.alive is None else tuple(tables.alive),
        grad_regions=tables.grad_modes.records(tables.op_count),
        unseen_calls=tuple(
            UnseenCall(function, row, _optional(run)) for run, function, row in tables.unseen_calls
        ),
        grad_enabled=grad_enabled,
        inference=inference,
    )
    if not session.modules.are_several:
        return recording
    session.join(borders(recording))
    return without_model(recording)


def _ops(
    tables: Tables,
    rows: OpColumns,
    calls: Calls,
    found: Links,
    phase: Column[Phase],
    start: int,
    packed: Mapping[int | None, tuple[int, ...]],
) -> Sequence[Op]:
    count = len(rows.flags)
    forms = Forms(tables, count)
    arguments = Arguments(tables, rows.reads_end, packed)
    columns: dict[str, Column[Any]] = {
        "index": range(count),
        "operator": Coded(forms.plans, [plan.name for plan in forms.plan_table]),
        "reads": Reads(rows.reads_end, tables.reads, forms.codes, forms.table),
        "outputs": RaggedOptional(rows.made_end, tables.made),
        "writes": Ragged(rows.wrote_end, tables.wrote),
        "arguments": arguments,
        "packed": Sparse((), arguments.packed(forms.with_objects), count),
        "layer_call": Optional(calls.of_op),
        "module_call": Optional(_modules(rows, calls, found)),
        "call_site": Optional(rows.call_site),
        "grad_enabled": Flag(rows.flags, GRAD),
        "inference": Flag(rows.flags, INFERENCE),
        "phase": phase,
        **found.columns(phase),
        "by_autograd": Sparse(False, dict.fromkeys(tables.own_detaches, True), count),
        "started_ns": Less(rows.started, Same(start, count)),
        "duration_ns": Less(rows.ended, rows.started),
        "failed": Flag(rows.flags, FAILED),
        "custom_function": _in_custom_functions(tables, rows, calls),
    }
    return Table(Op, count, columns)


def _modules(rows: OpColumns, calls: Calls, found: Links) -> array[int]:
    """Return the module call of each op: that of its layer call, which knows best."""
    of_call = calls.columns.module
    modules = array(
        "i",
        [
            module if call == NONE else of_call[call]
            for module, call in zip(rows.module, calls.of_op, strict=True)
        ],
    )
    for op, forward in enumerate(found.forward):
        if forward != NONE:
            modules[op] = modules[forward]
    return modules


def _in_custom_functions(tables: Tables, rows: OpColumns, calls: Calls) -> Column[bool]:
    """Return whether each op is in one, where an op without a call site has that of its call."""
    in_custom = tables.call_sites.in_custom_functions()
    count = len(rows.call_site)
    if not any(in_custom):
        return Same(False, count)
    in_custom.append(False)  # for NONE
    sites = calls.columns.call_site
    return Flag(
        bytearray(
            in_custom[sites[call] if site == NONE != call else site]
            for site, call in zip(rows.call_site, calls.of_op, strict=True)
        ),
        1,
    )


def _parameters(
    session: Session,
) -> tuple[tuple[Parameter, ...], dict[int, int], dict[int | None, tuple[int, ...]]]:
    """Return the parameters, which of them each value is that came from one, and those in objects.

    These are by what tells the object from others.
    """
    table = session.tables.parameters
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


def _storages(session: Session) -> Sequence[StorageLife] | None:
    found = session.find(StorageLives)
    return None if found is None else found.records(session.tables.op_count)


def _digests(session: Session) -> Mapping[int, Digest] | None:
    found = session.find(DigestCollector)
    return None if found is None else found.digests(session.tables)


def _saved_tensors(session: Session) -> tuple[SavedTensor, ...] | None:
    found = session.find(SavedTensors)
    if found is None:
        return None
    storages = session.tables.values.storages
    makers: dict[int, int] = {}
    for row, storage in enumerate(storages):
        makers.setdefault(storage, row)
    bound = {storages[row]: number for row, number in session.tables.parameters.of_row.items()}
    return tuple(
        SavedTensor(
            node=row.node,
            name=row.name,
            owner=row.owner,
            shape=row.shape,
            dtype=str(row.dtype).removeprefix("torch."),
            nbytes=row.nbytes,
            storage=None if row.storage == NONE else row.storage,
            maker=None if row.storage == NONE else makers.get(row.storage),
            parameter=None if row.storage == NONE else bound.get(row.storage),
            packed=row.packed,
        )
        for row in found.rows
    )


def _renumber_failure(failure: Failure, calls: Calls, ops: Sequence[Op]) -> Failure:
    """Give a failure the numbers that the layer calls have in the recording."""
    call = None if failure.layer_call is None else calls.number(failure.layer_call)
    if call is None and failure.op is not None:
        call = ops[failure.op].layer_call
    return replace(failure, layer_call=call)


def _values(tables: Tables) -> Sequence[Value]:
    table = tables.values
    layouts = list(zip(*map(_layout, table.layout_table), strict=True)) or [()] * 5
    count = len(table.origins)
    makers = table.makers[:]
    for row in table.earlier:
        if table.origins[row] == PASSED_THROUGH:
            makers[row] = table.makers[table.source(row)]
    codes = table.layouts[:]
    columns: dict[str, Column[Any]] = {
        "index": range(count),
        "offset": table.offsets[:],
        "storage": Optional(table.storages[:]),
        "origin": Coded(table.origins[:], _ORIGINS),
        "made_by": Optional(makers),
        "earlier": Sparse(None, dict(table.earlier), count),
    }
    for name, known in zip(_LAYOUT, layouts, strict=True):
        columns[name] = Coded(codes, known)
    return Table(Value, count, columns)


_LAYOUT = ("shape", "stride", "dtype", "itemsize", "device")


def _layout(layout: tuple[Any, ...]) -> tuple[Any, ...]:
    shape, stride, dtype, device = layout
    sizes = tuple(int(size) for size in shape)
    strides = tuple(int(step) for step in stride)
    return sizes, strides, str(dtype).removeprefix("torch."), dtype.itemsize, str(device)


def _module_call(run: ModuleRun, calls: Calls, start: int) -> ModuleCall:
    return ModuleCall(
        index=run.index,
        module=run.module,
        number=run.number,
        parent=_optional(run.parent),
        call_site=_optional(run.call_site),
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


def _module(known: ModuleInfo) -> Module:
    return Module(
        index=known.index,
        address=known.address,
        class_name=known.class_name,
        aliases=tuple(known.aliases),
        training=known.training,
    )


def _optional(number: int) -> int | None:
    return None if number == NONE else number
