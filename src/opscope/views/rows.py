"""The rows of a table: one per op, per layer pass, or per module with its children below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from opscope.records.layers import LayerPass
from opscope.records.recording import Frame, ModuleCall, Op, Recording, Value
from opscope.records.runs import run_addresses
from opscope.views.levels import Level
from opscope.views.select import Phase


@dataclass(frozen=True, slots=True)
class Row:
    """One row, before it is written.

    Attributes:
        name: The label or address.
        kind: The module's class, the torch function or the operator.
        depth: How far it is indented.
        module: Address of the module it ran in.
        op: The aten operators that it ran, without namespace and overload.
        inputs: The tensors it was given.
        outputs: The tensors it gave.
        input_paths: Where in a module's arguments each input was, such as ``"x"`` or ``"1.0"``;
            empty of others.
        output_paths: Where in what a module gave each output was; empty of others.
        params: Elements of the parameters that it has or used.
        trainable: How many of these require a gradient.
        memory: Bytes of the tensors that it gave, over all passes of the row.
        time_ns: How long it took, over all passes of the row.
        backward_ns: How long its ops took in backward, likewise.
        passes: How many passes the row stands for.
        source: Where in the code it was called.
        is_module: Whether it stands for a module.
        below: Address of the module in which that module ran.
        failed: Whether it raised.
    """

    name: str
    kind: str = ""
    depth: int = 0
    module: str = ""
    op: str = ""
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    input_paths: tuple[str, ...] = ()
    output_paths: tuple[str, ...] = ()
    params: int = 0
    trainable: int = 0
    memory: int = 0
    time_ns: int = 0
    backward_ns: int = 0
    passes: int = 1
    source: str = ""
    is_module: bool = False
    below: str = ""
    failed: bool = False


def table_rows(
    recording: Recording,
    passes: tuple[LayerPass, ...],
    level: Level,
    depth: int | None = None,
    phase: Phase = "forward",
) -> list[Row]:
    """Return the rows at a level, of one phase of a training step.

    At level ``"module"`` the rows are the tree of calls: below each module what it called, as
    deep as ``depth``; what a container computes between its children is a row of its own. A
    module that one other calls several times is one row there, shown as in its first run, with
    the time and memory of these runs; one that several call has a row below each. At the others
    ``depth`` bounds how deep a row's module may lie; what is deeper is left out. In phase
    ``"backward"`` a layer's row, and a module's, tells of the ops that ran for it in backward;
    its outputs are what these gave to others.
    """
    maker = _Rows(recording, passes, phase)
    if level == "module":
        return list(maker.modules(depth))
    rows = maker.ops() if level == "op" else maker.layers()
    return [row for row in rows if depth is None or _depth(row.module) <= depth]


def _depth(address: str) -> int:
    return address.count(".") + 1 if address else 0


class _Entry:
    """One row of the tree of calls: the runs of a module, or the passes of a layer, in one place.

    Attributes:
        parent: The row that it is below.
        module: The module's number, None of a layer.
        runs: The runs of the module there.
        layers: The passes of the layer there.
        entries: What is below, by the module's number or the layer's.
    """

    __slots__ = ("entries", "layers", "module", "parent", "runs")

    def __init__(self, parent: _Entry | None, module: int | None = None) -> None:
        self.parent = parent
        self.module = module
        self.runs: list[ModuleCall] = []
        self.layers: list[LayerPass] = []
        self.entries: dict[int | str, _Entry] = {}


class _Rows:
    def __init__(
        self, recording: Recording, passes: tuple[LayerPass, ...], phase: Phase = "all"
    ) -> None:
        self.recording = recording
        self.passes = passes
        self.phase = phase
        self._held = _held_below(recording)
        self._addresses = run_addresses(recording)
        self._backward = BackwardOps(recording)

    def _shown(self, phase: Phase) -> bool:
        return self.phase in ("all", phase)

    def _called(self, item: LayerPass) -> bool:
        """Whether a layer was called in the phase that is shown."""
        return self._shown(
            "forward" if item.call is None else self.recording.layer_calls[item.call].phase
        )

    def ops(self) -> Iterator[Row]:
        for op in self.recording.ops:
            if not self._shown(op.phase):
                continue
            outputs = self._values(v for v in (op.outputs or op.writes) if v is not None)
            bound = self.recording.parameter_of_value
            used = dict.fromkeys(bound[r.value] for r in op.reads if r.value in bound)
            params, trainable = self._count(used)
            yield Row(
                name=f"{op.index}",
                kind=op.operator,
                module=self._address(op.module_call),
                op=op.name,
                inputs=self._values(read.value for read in op.reads),
                outputs=outputs,
                params=params,
                trainable=trainable,
                memory=sum(value.nbytes for value in outputs),
                time_ns=op.duration_ns,
                source=_line(self.recording.frames_of(op)),
                failed=op.failed,
            )

    def layers(self) -> Iterator[Row]:
        for item in self.passes:
            if self._called(item):
                yield self._layer(item, 0)
        if not self._shown("backward"):
            return
        items = {item.call: item for item in self.passes if item.call is not None}
        for call, ops in self._backward.of_call.items():
            yield self._in_backward(self._layer(items[call], 0), ops)
        for parameter, ops in self._backward.of_parameter.items():
            record = self.recording.parameters[parameter]
            row = Row(f"{record.name}.grad", "accumulate", module=record.name.rpartition(".")[0])
            yield replace(self._in_backward(row, ops), name=row.name)

    def _in_backward(self, row: Row, ops: Sequence[Op]) -> Row:
        """Return what a layer's or module's row is for the backward."""
        given = self._values(self._backward.given(ops))
        return replace(
            row,
            name=row.name if row.is_module or self.phase != "all" else f"{row.name}.backward",
            op=_join(op.name for op in ops),
            inputs=(),
            outputs=given,
            memory=sum(value.nbytes for value in given),
            time_ns=sum(op.duration_ns for op in ops),
            backward_ns=0,
            failed=any(op.failed for op in ops),
        )

    def modules(self, depth: int | None) -> Iterator[Row]:
        # An explicit stack: modules may be nested deeper than Python's recursion allows.
        pending = [iter(self._calls().entries.values())]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            level = len(pending) - 1
            row = self._module(entry) if entry.runs else self._together(entry.layers)
            if row is not None:
                yield replace(row, depth=level)
            # A module without modules inside is told of by its own row.
            is_container = any(inner.runs for inner in entry.entries.values())
            if is_container and (depth is None or level < depth):
                pending.append(iter(entry.entries.values()))

    def _calls(self) -> _Entry:
        """Return the tree of calls: what ran in a module below it, in the order of first runs.

        A module that runs while it runs already is another run of the same row.
        """
        top = _Entry(None)
        of_run: dict[int | None, _Entry] = {None: top}
        loose = [item for item in self.passes if item.kind == "function"]
        at = 0
        for run in self.recording.module_calls:
            while at < len(loose) and (loose[at].call or 0) < run.layer_calls.start:
                self._add_loose(of_run, loose[at])
                at += 1
            around = of_run[run.parent]
            while around is not top and around.module != run.module:
                around = around.parent or top
            if around is top:
                parent = of_run[run.parent]
                around = parent.entries.setdefault(run.module, _Entry(parent, run.module))
            around.runs.append(run)
            of_run[run.index] = around
        for item in loose[at:]:
            self._add_loose(of_run, item)
        return top

    def _add_loose(self, of_run: dict[int | None, _Entry], item: LayerPass) -> None:
        """Add a layer to the row of its module, unless it is not shown."""
        parent = of_run[item.module_call]
        key = f"layer {item.layer}"
        if key in parent.entries or self._loose(item) is not None:
            parent.entries.setdefault(key, _Entry(parent)).layers.append(item)

    def _together(self, items: Sequence[LayerPass]) -> Row | None:
        """Return the row of the passes that a layer had in one place of the tree."""
        rows = [row for row in map(self._loose, items) if row is not None]
        return replace(
            rows[0], name=items[0].short_label, passes=len(rows),
            memory=sum(row.memory for row in rows),
            time_ns=sum(row.time_ns for row in rows),
            backward_ns=sum(row.backward_ns for row in rows),
            failed=any(row.failed for row in rows),
        )  # fmt: skip

    def _loose(self, item: LayerPass) -> Row | None:
        """Return the row of a layer among those of modules, None if it is not shown."""
        row = self._layer(item, 0)
        if self.phase == "backward":
            ops = self._backward.of_call.get(item.call or 0, ())
            return self._in_backward(row, ops) if ops else None
        return row if self._called(item) else None

    def _module(self, entry: _Entry) -> Row | None:
        if self.phase not in ("forward", "backward", "all"):
            return None
        runs = entry.runs
        outermost = [run for run in runs if not self._is_inside(run, entry)]
        backward = [op for run in outermost for op in self._backward.of_run.get(run.index, ())]
        whole = self._whole(runs, outermost)
        if self.phase == "backward":
            return self._in_backward(whole, backward) if backward else None
        return replace(whole, backward_ns=sum(op.duration_ns for op in backward))

    def _is_inside(self, run: ModuleCall, entry: _Entry) -> bool:
        """Whether a run of a row's module is within another run of it."""
        around = run.parent
        while around is not None:
            outer = self.recording.module_calls[around]
            if outer.module == entry.module:
                return True
            around = outer.parent
        return False

    def _whole(self, runs: Sequence[ModuleCall], outermost: Sequence[ModuleCall]) -> Row:
        call = runs[0]
        module = self.recording.modules[call.module]
        params, trainable = self._count(self._held.get(module.address, ()))
        outputs = [self._values(leaf.value for leaf in run.outputs) for run in runs]
        address = self._addresses[call.index]
        return Row(
            name=address or module.class_name,
            kind=module.class_name,
            module=module.address,
            op=_join(self.recording.ops[i].name for i in call.ops),
            inputs=self._values(leaf.value for leaf in call.inputs),
            input_paths=tuple(leaf.path for leaf in call.inputs),
            outputs=outputs[0],
            output_paths=tuple(leaf.path for leaf in call.outputs),
            params=params,
            trainable=trainable,
            memory=sum(value.nbytes for given in outputs for value in given),
            time_ns=sum(run.duration_ns for run in outermost),
            passes=len(runs),
            source=self._source(call.place),
            is_module=True,
            below="" if call.parent is None else self._addresses[call.parent],
            failed=any(run.failed for run in runs),
        )

    def _layer(self, item: LayerPass, level: int) -> Row:
        outputs = self._values(item.values)
        if item.call is None:
            memory = sum(value.nbytes for value in outputs)
            return Row(item.label, item.type, level, outputs=outputs, memory=memory)
        call = self.recording.layer_calls[item.call]
        params, trainable = self._count(item.parameters)
        reads = (r.value for i in call.ops[:1] for r in self.recording.ops[i].reads)
        bound = self.recording.parameter_of_value
        return Row(
            name=item.label,
            kind=call.function,
            depth=level,
            module=self._address(item.module_call),
            op=_join(self.recording.ops[i].name for i in call.ops),
            inputs=self._values(v for v in (*reads, *call.received) if v not in bound),
            outputs=outputs,
            params=params,
            trainable=trainable,
            memory=sum(value.nbytes for value in outputs),
            time_ns=call.duration_ns,
            backward_ns=sum(op.duration_ns for op in self._backward.of_call.get(item.call, ())),
            source=self._source(call.place),
            failed=call.failed,
        )

    def _values(self, indices: Iterable[int]) -> tuple[Value, ...]:
        return tuple(self.recording.values[index] for index in indices)

    def _count(self, indices: Iterable[int]) -> tuple[int, int]:
        """Return how many elements these parameters have, and how many are trainable."""
        chosen = [self.recording.parameters[index] for index in indices]
        chosen = [parameter for parameter in chosen if parameter.kind == "parameter"]
        trainable = sum(parameter.numel for parameter in chosen if parameter.trainable)
        return sum(parameter.numel for parameter in chosen), trainable

    def _address(self, call: int | None) -> str:
        if call is None:
            return ""
        return self.recording.modules[self.recording.module_calls[call].module].address

    def _source(self, place: int | None) -> str:
        return "" if place is None else _line(self.recording.places[place])


def _line(frames: tuple[Frame, ...]) -> str:
    return str(frames[0]) if frames else ""


class BackwardOps:
    """The ops of backward, by what they belong to.

    Attributes:
        of_call: By layer call.
        of_run: By module call, those of the calls inside it included.
        of_parameter: By the parameter whose gradient they accumulate.
    """

    def __init__(self, recording: Recording) -> None:
        self.of_call: dict[int, list[Op]] = {}
        self.of_run: dict[int, list[Op]] = {}
        self.of_parameter: dict[int, list[Op]] = {}
        self._readers: dict[int, list[int]] = {}
        for op in recording.ops:
            if op.phase != "backward":
                continue
            for read in op.reads:
                self._readers.setdefault(read.value, []).append(op.index)
            if op.accumulates is not None:
                self.of_parameter.setdefault(op.accumulates, []).append(op)
            if op.forward_op is None:
                continue
            call = recording.call_of(op)
            if call is not None:
                self.of_call.setdefault(call, []).append(op)
            run = op.module_call
            while run is not None:
                self.of_run.setdefault(run, []).append(op)
                run = recording.module_calls[run].parent

    def given(self, ops: Sequence[Op]) -> list[int]:
        """Return the values that ops made and that none of them took up."""
        own = {op.index for op in ops}
        made = (value for op in ops for value in (*op.outputs, *op.writes) if value is not None)
        return [
            value
            for value in dict.fromkeys(made)
            if not any(reader in own for reader in self._readers.get(value, ()))
        ]


def _held_below(recording: Recording) -> dict[str, list[int]]:
    """Return, per module address, the parameters that it or a module below it holds."""
    below: dict[str, dict[int, None]] = {}
    for parameter in recording.parameters:
        for name in (parameter.name, *parameter.aliases):
            address = name
            while address:
                address = address.rpartition(".")[0]
                below.setdefault(address, {})[parameter.index] = None
    return {address: list(found) for address, found in below.items()}


def _join(names: Iterable[str]) -> str:
    """Return operator names in order, repeats counted: ``"view, addmm ×2"``."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in counts.items())
