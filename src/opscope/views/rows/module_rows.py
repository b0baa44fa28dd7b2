"""The rows of modules: the tree of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from opscope.records.calls import ModuleCall
from opscope.records.columns.table import column
from opscope.records.passes.runs import is_within_itself, run_addresses
from opscope.records.recording import Recording
from opscope.records.sums.work import Work
from opscope.views.quotients.blocks import Entry, Forms, grouped
from opscope.views.rows.layer_rows import LayerRows
from opscope.views.rows.row import Row


class _Entry:
    """One row of the tree of calls: the runs of a module, or the passes of a layer, in one place.

    Attributes:
        parent: The row that it is below.
        module: The module's number, None of a layer.
        runs: The runs of the module there.
        layers: The indices of the passes of the layer there.
        entries: What is below, by the module's number or the layer's.
    """

    __slots__ = ("entries", "layers", "module", "parent", "runs")

    def __init__(self, parent: _Entry | None, module: int | None = None) -> None:
        self.parent = parent
        self.module = module
        self.runs: list[ModuleCall] = []
        self.layers: list[int] = []
        self.entries: dict[int | str, _Entry] = {}

    @property
    def inside(self) -> Sequence[_Entry]:
        """What is below, in order."""
        return list(self.entries.values())

    @property
    def is_container(self) -> bool:
        """Whether a module runs below it: one without is told of by its own row."""
        return any(inner.runs for inner in self.entries.values())


class _Running:
    """Which modules are running, as runs begin in order."""

    def __init__(self) -> None:
        self._runs: list[ModuleCall] = []
        self._count: Counter[int] = Counter()
        self._again = 0  # modules that run while they run already

    def begin(self, run: ModuleCall) -> bool:
        """Begin a run; return whether a module is running, this or another, that runs already."""
        while self._runs and self._runs[-1].index != run.parent:
            ended = self._runs.pop().module
            self._count[ended] -= 1
            self._again -= self._count[ended] > 0
        self._again += self._count[run.module] > 0
        self._count[run.module] += 1
        self._runs.append(run)
        return self._again > 0


class ModuleRows:
    """Makes the rows of modules, and of the layers that containers run between them.

    Args:
        layers: Makes those of layers.
        expand: Addresses of blocks that are not folded though they repeat; None for all.
    """

    def __init__(self, layers: LayerRows, expand: Collection[str] | None = None) -> None:
        self._layers = layers
        self._expand = expand
        self.recording = layers.recording
        self.passes = layers.passes
        self.phase = layers.phase
        self._backward = layers.backward
        self._runs = column(self.passes, "module_call")
        self._numbers = column(self.passes, "layer")
        self._held = _held_below(self.recording)
        self._addresses = run_addresses(self.recording)

    def rows(self, depth: int | None) -> Iterator[Row]:
        """Yield them, down to a depth."""
        top = self._calls().inside
        forms = None if self._expand is None else Forms(self._form, top)
        # An explicit stack: modules may be nested deeper than Python's recursion allows.
        pending = [self._groups(top, forms)]
        while pending:
            group = next(pending[-1], None)
            if group is None:
                pending.pop()
                continue
            level, entry = len(pending) - 1, group[0]
            row = self._row(group)
            if row is not None:
                yield replace(row, depth=level)
            if len(group) == 1 and entry.is_container and (depth is None or level < depth):
                pending.append(self._groups(entry.inside, forms))

    def _groups(self, entries: Sequence[_Entry], forms: Forms | None) -> Iterator[list[_Entry]]:
        """Yield entries beside one another, those together that are one row."""
        if forms is None:
            return ([entry] for entry in entries)
        opened = {at for at, entry in enumerate(entries) if self._is_opened(entry)}
        return grouped(entries, forms.of, self._block_name, self._detail, opened)

    def _block_name(self, entry: _Entry) -> str | None:
        """Return the address of a module with modules inside, None for anything else."""
        return self._name(entry) if entry.is_container else None

    def _name(self, entry: _Entry) -> str:
        return self._addresses[entry.runs[0].index]

    def _detail(self, entry: _Entry) -> Hashable:
        """Return what the ops of a block were set to: dilations, say, that differ."""
        ops = self.recording.ops
        return tuple(repr(ops[op].settings()) for op in entry.runs[0].ops)

    def _is_opened(self, entry: _Entry) -> bool:
        """Whether a module, or one below it, was asked for by its address."""
        if not entry.runs or not self._expand:
            return False
        address = self._name(entry)
        return any(
            name == address or name.startswith(f"{address}.") or address.startswith(f"{name}.")
            for name in self._expand
        )

    def _form(self, entry: Entry) -> Hashable | None:
        """Return what tells a row from others, but for what is below it; None for a failure."""
        assert isinstance(entry, _Entry)
        if not entry.runs:
            row = self._layers.layer(self.passes[entry.layers[0]])
            given = tuple((value.shape, value.dtype) for value in row.outputs)
            return row.kind, len(entry.layers), given, row.work
        first = entry.runs[0]
        module = self.recording.modules[first.module]
        if any(run.failed for run in entry.runs):
            return None
        around = "" if entry.parent is None or not entry.parent.runs else self._name(entry.parent)
        is_block = entry.is_container or not module.address.startswith(f"{around}.")
        name = "" if is_block else module.address.rpartition(".")[2]
        values = (self.recording.values[leaf.value] for leaf in first.outputs)
        given = tuple((value.shape, value.dtype) for value in values)
        held = [self.recording.parameters[n] for n in self._held.get(module.address, ())]
        params = tuple((item.shape, item.dtype, item.trainable) for item in held)
        work = self._layers.work(first.ops)
        return module.class_name, name, len(entry.runs), given, params, work

    def _row(self, group: Sequence[_Entry]) -> Row | None:
        """Return the row of an entry, or of several blocks that repeat."""
        rows = [self._module(e) if e.runs else self._layer(e.layers) for e in group]
        known = [row for row in rows if row is not None]
        if len(known) <= 1:
            return known[0] if known else None
        first, last = known[0], known[-1]
        if first.is_module:  # which may share some
            held = {number: None for row in known for number in self._held.get(row.module, ())}
            params, trainable = self._layers.count(held)
        else:
            params, trainable = sum(r.params for r in known), sum(r.trainable for r in known)
        return replace(
            first, last=last.name, blocks=len(known), params=params, trainable=trainable,
            is_tied=any(row.is_tied for row in known),
            memory=sum(row.memory for row in known), time_ns=sum(row.time_ns for row in known),
            backward_ns=sum(row.backward_ns for row in known),
            work=sum((row.work for row in known), Work()),
        )  # fmt: skip

    def _calls(self) -> _Entry:
        """Return the tree of calls: what ran in a module below it, in the order of first runs.

        A module that runs while it runs already is another run of the same row.
        """
        top = _Entry(None)
        of_run: dict[int | None, _Entry] = {None: top}
        running = _Running()
        kinds, calls = column(self.passes, "kind"), column(self.passes, "call")
        loose = [index for index, kind in enumerate(kinds) if kind == "function"]
        at = 0
        for run in self.recording.module_calls:
            while at < len(loose) and (calls[loose[at]] or 0) < run.layer_calls.start:
                self._add_loose(of_run, loose[at])
                at += 1
            around = _row_around(of_run[run.parent], run, running)
            around.runs.append(run)
            of_run[run.index] = around
        for index in loose[at:]:
            self._add_loose(of_run, index)
        return top

    def _add_loose(self, of_run: dict[int | None, _Entry], index: int) -> None:
        """Add a pass of a layer to the row of its module, unless it is not shown."""
        if not self._layers.was_called(index):
            return
        parent, key = of_run[self._runs[index]], f"layer {self._numbers[index]}"
        entry = parent.entries.get(key)
        if entry is None:
            entry = parent.entries[key] = _Entry(parent)
        entry.layers.append(index)

    def _layer(self, passes: Sequence[int]) -> Row:
        """Return the row of the passes that a layer had in one place of the tree."""
        return replace(self._layers.together(passes), name=self.passes[passes[0]].short_label)

    def _module(self, entry: _Entry) -> Row | None:
        if self.phase not in ("forward", "backward", "all"):
            return None
        runs = entry.runs
        outermost = [run for run in runs if not is_within_itself(self.recording, run.index)]
        backward = [op for run in outermost for op in self._backward.of_run.at(run.index)]
        whole = self._whole(runs, outermost)
        if not entry.is_container:
            whole = replace(
                whole,
                settings=partial(self.recording.settings_of, runs[0].ops, runs[0].layer_calls),
            )
        if self.phase == "backward":
            return self._layers.in_backward(whole, backward) if backward else None
        return replace(whole, backward_ns=self._layers.time_of(backward))

    def _whole(self, runs: Sequence[ModuleCall], outermost: Sequence[ModuleCall]) -> Row:
        call = runs[0]
        module = self.recording.modules[call.module]
        held = self._held.get(module.address, ())
        params, trainable = self._layers.count(held)
        outputs = [self._layers.values(leaf.value for leaf in run.outputs) for run in runs]
        address = self._addresses[call.index]
        return Row(
            name=address or module.class_name,
            kind=module.class_name,
            module=module.address,
            op=self._layers.names_of(call.ops),
            inputs=self._layers.values(leaf.value for leaf in call.inputs),
            input_paths=tuple(leaf.path for leaf in call.inputs),
            outputs=outputs[0],
            output_paths=tuple(leaf.path for leaf in call.outputs),
            params=params,
            of_params=self._layers.of_params,
            trainable=trainable,
            is_tied=bool(module.address) and self._layers.is_tied(held, module.address),
            memory=sum(value.nbytes for given in outputs for value in given),
            time_ns=sum(self._layers.time_of(run.ops) for run in outermost),
            work=sum((self._layers.work(run.ops) for run in outermost), Work()),
            passes=len(runs),
            source=self._layers.source(call.call_site),
            is_module=True,
            below="" if call.parent is None else self._addresses[call.parent],
            failed=any(run.failed for run in runs),
        )


def _row_around(parent: _Entry, run: ModuleCall, running: _Running) -> _Entry:
    """Return the row that a run is of: that of a run of the module around it, or a new one."""
    around: _Entry | None = None
    if running.begin(run):  # nearly never: to go through all rows above takes long in a nest
        around = parent
        while around is not None and around.module != run.module:
            around = around.parent
    if around is None:
        around = parent.entries.setdefault(run.module, _Entry(parent, run.module))
    return around


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
