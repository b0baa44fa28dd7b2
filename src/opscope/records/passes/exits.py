"""Which layers gave what modules return, and by which names these are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from opscope.operators.known import COMPILED
from opscope.records.calls import Leaf, ModuleCall
from opscope.records.passes.layers import LayerPass
from opscope.records.passes.runs import run_names
from opscope.records.recording import Recording


class Exits:
    """What modules gave, by the names of their runs.

    Attributes:
        names: By each name, the runs that it stands for, each with the number of one of its
            tensors, None for all of them.
        names_of: By the values that modules gave, the names of these.
        left_by: By the index of a pass, the modules whose output it gave: address, number of
            the run, and whether no module runs inside.
    """

    def __init__(self, recording: Recording, passes: Sequence[LayerPass]) -> None:
        self._recording = recording
        # In a bare program an output has its maker's value: the maker comes first.
        self._by_value = {value: item for item in reversed(passes) for value in item.values}
        self._by_values = {item.values: item for item in reversed(passes)}
        self._by_call = {item.call: item for item in passes if item.call is not None}
        self.names: dict[str, list[tuple[int, int | None]]] = {}
        self.names_of: dict[tuple[int, ...], list[str]] = {}
        self.left_by: dict[int, list[tuple[str, int, bool]]] = {}
        self._made: dict[tuple[str, tuple[int, ...]], LayerPass] = {}
        self._around = {run.parent for run in recording.module_calls}
        paths: list[tuple[str, int]] = []
        for run, names in zip(recording.module_calls, run_names(recording), strict=True):
            if run.outputs and names:
                self._add(run, names, paths)
        # What is nearer to the inside is asked for first.
        for all_names in self.names_of.values():
            all_names.reverse()
        for left in self.left_by.values():
            left.reverse()
        for path, value in paths:
            self.names_of.setdefault((value,), []).append(path)

    @cached_property
    def _modules(self) -> dict[str, int]:
        """Every address and alias that a module of the model has."""
        return {
            name: module.index
            for module in self._recording.modules
            for name in (module.address, *module.aliases)
            if name
        }

    def _add(self, run: ModuleCall, names: list[str], paths: list[tuple[str, int]]) -> None:
        values = tuple(leaf.value for leaf in run.outputs)
        self.names_of.setdefault(values, []).extend(reversed(names))
        for name in names:
            self.names.setdefault(name, []).append((run.index, None))
            for place, leaf in enumerate(run.outputs):
                if leaf.path:
                    path = f"{name}.{leaf.path}"
                    self.names.setdefault(path, []).append((run.index, place))
                    paths.append((path, leaf.value))
        for giver in self._givers(values):
            entry = names[0], len(self.names[names[0]]), run.index not in self._around
            self.left_by.setdefault(giver.index, []).append(entry)

    def find(self, name: str) -> Iterator[LayerPass]:
        """Yield what the runs of a name gave, as the layer that gave it where there is one."""
        found = self.names.get(name, ())
        if name in self._modules:  # a module's address is not the path of another's output
            found = [(run, place) for run, place in found if place is None]
        for index, place in found:
            run = self._recording.module_calls[index]
            leaves = run.outputs if place is None else run.outputs[place : place + 1]
            values = tuple(leaf.value for leaf in leaves)
            known = self._by_values.get(values)
            if known is None:
                base, _, number = name.rpartition(":")
                base = base if base and number.isdigit() else name
                if (base, values) not in self._made:
                    self._made[base, values] = self._of_module(base, run, leaves)
                known = self._made[base, values]
            yield known

    def _of_module(self, name: str, run: ModuleCall, leaves: Sequence[Leaf]) -> LayerPass:
        """Return what a module gave that no layer gave just so.

        That of one layer which gave other tensors too, or wrote some of the bytes, is a pass of
        that layer; of several, or of none, one that stands for the module.
        """
        values = tuple(leaf.value for leaf in leaves)
        paths = tuple(leaf.path for leaf in leaves)
        givers = self._givers(values)
        if len(givers) == 1:
            return replace(givers[0], values=values, paths=paths)
        runs = [index for index, _ in self.names[name]]
        module = self._recording.modules[run.module]
        return LayerPass(
            index=max((item.index for item in givers), default=0), layer=-1 - module.index,
            type_number=0, type=module.class_name, number=runs.index(run.index) + 1,
            passes=len(runs), kind="module", module_call=run.index, values=values, paths=paths,
            address=name, parameters=self._used(run),
        )  # fmt: skip

    def _used(self, run: ModuleCall) -> tuple[int, ...]:
        """Return the parameters that the layers in a module run used."""
        inside = (self._by_call[call] for call in run.layer_calls if call in self._by_call)
        return tuple(dict.fromkeys(number for item in inside for number in item.parameters))

    def givers(self, item: LayerPass) -> list[LayerPass]:
        """Return the passes that gave what a module gave, or wrote it last."""
        return self._givers(item.values)

    def _givers(self, values: Iterable[int]) -> list[LayerPass]:
        found: dict[int, LayerPass] = {}
        for value in values:
            item = self._by_value.get(value)
            maker = self._recording.values[value].made_by
            if item is None and maker is not None:
                call = self._recording.ops[maker].layer_call
                item = None if call is None else self._by_call.get(call)
            if item is not None:
                found[item.index] = item
        return list(found.values())

    def is_module(self, key: str) -> bool:
        """Whether a key names a module of the model, with or without a run."""
        base, _, number = key.rpartition(":")
        return key in self._modules or (number.isdigit() and base in self._modules)

    def why_not(self, key: str) -> str:
        """Return why nothing answers to a module's name, to be put after the key."""
        base = key if key in self._modules else key.rpartition(":")[0]
        module = self._modules[base]
        runs = [run for run in self._recording.module_calls if run.module == module]
        if not runs:
            region = self._region_around(base)
            if region is not None:
                return (
                    f": this module ran inside {region!r}, which Inductor compiled and which is one "
                    f"op; ask for {region!r}, or trace the model before it is compiled, or with "
                    "backend='aot_eager'"
                )
            return ": this module did not run"
        if base != key:
            return f": this module ran {len(runs)} time{'s' if len(runs) > 1 else ''}"
        if any(run.failed for run in runs):
            return ": this module failed"
        return ": this module gave no tensor"

    def _region_around(self, address: str) -> str | None:
        """Return the compiled module that a module is in, None if none."""
        record = self._recording
        compiled = {
            record.modules[record.module_calls[op.module_call].module].address
            for op in record.ops
            if op.operator == COMPILED and op.module_call is not None
        }
        around = address
        while around:
            around = around.rpartition(".")[0]
            if around in compiled:
                return around or "the model"
        return None
