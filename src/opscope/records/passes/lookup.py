"""From a key to a layer: labels, addresses, positions, substrings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from opscope.errors import AmbiguousLayer, LayerNotFound, OptionError, nearest
from opscope.garbage import paused
from opscope.records.calls import Leaf, ModuleCall
from opscope.records.passes.layers import LayerPass
from opscope.records.passes.runs import run_names
from opscope.records.recording import Recording


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list of keys stands for.

    Attributes:
        passes: The layer passes, each once, in order.
        values: What is to be kept for them: the values that they gave, and those that the
            modules gave which were named.
        unknown: The keys that stand for nothing, each with the reason.
    """

    passes: Sequence[LayerPass]
    values: frozenset[int]
    unknown: tuple[str, ...] = ()


class LayerIndex:
    """Finds layer passes by everything that the article lets one ask for.

    A key is a full label (``"conv2d_3_7"``), a short one (``"conv2d_3"``), either with a
    pass (``"conv2d_3:2"``), a module's address with or without a run (``"features.6:1"``:
    what leaves it), one of several tensors that a module gives, by its path
    (``"backbone.p"``), a position (``7``, ``-17``), or a substring that fits one layer only.
    A key that names a module is never taken for a substring.
    """

    @paused()
    def __init__(self, recording: Recording, passes: Sequence[LayerPass]) -> None:
        self.passes = passes
        self._recording = recording
        self._exact: dict[str, list[LayerPass]] = {}
        self._alone: dict[str, LayerPass | None] = {}  # what a key alone stands for, None if none
        for item in passes:
            for name in (item.layer_label, item.short_label):
                self._exact.setdefault(name, []).append(item)
                self._exact.setdefault(f"{name}:{item.number}", []).append(item)
            if item.path and item.kind in ("input", "output"):
                self._exact.setdefault(f"{item.kind}.{item.path}", []).append(item)
        self._exits = _Exits(recording, passes)

    def find(self, key: str | int) -> LayerPass:
        """Return the one pass that a key stands for.

        Raises:
            LayerNotFound: If nothing answers to it; lists the nearest keys.
            AmbiguousLayer: If several layers, or several passes, answer to it.
            OptionError: If the key is neither a string nor a whole number.
        """
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            message = f"a layer is asked for by a string or a whole number, not by {key!r}"
            raise OptionError(message)
        if isinstance(key, int):
            return self._at(key)
        found = self._exactly(key)
        if not found and self._exits.is_module(key):
            raise LayerNotFound(self._why_not(key))
        if not found:
            found = self._containing(key)
        if not found:
            raise LayerNotFound(self._why_not(key))
        layers = {item.layer for item in found}
        if len(layers) > 1:
            names = list(dict.fromkeys(item.layer_label for item in found))
            shown = ", ".join(repr(name) for name in names[:6])
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            message = f"{key!r} fits {len(layers)} layers: {shown}{more}"
            raise AmbiguousLayer(message)
        if len(found) > 1:
            first = found[0]
            is_exact = key in self._exact or key in self._exits.names
            base = key if is_exact else first.layer_label
            message = (
                f"{key!r} has {len(found)} passes; ask for one of them, "
                f"{base + ':1'!r} to {base + ':' + str(len(found))!r}"
            )
            raise AmbiguousLayer(message)
        return found[0]

    def select(self, keys: Iterable[str | int]) -> Selection:
        """Return every pass that any of the keys stands for, once, in order.

        A string that is no exact key selects all whose label or module address contains
        it; a label without a pass selects every pass, and a module every layer that gave one
        of its outputs.
        """
        chosen: dict[int, LayerPass] = {}
        values: set[int] = set()
        unknown: list[str] = []
        for key in keys:
            try:
                found = self._all(key)
            except LayerNotFound as error:
                unknown.append(str(error))
                continue
            values.update(value for item in found for value in item.values)
            for item in found:
                givers = self._exits.givers(item) if item.paths else [item]
                chosen.update((giver.index, giver) for giver in givers)
        values.update(value for item in chosen.values() for value in item.values)
        return Selection(
            tuple(chosen[index] for index in sorted(chosen)), frozenset(values), tuple(unknown)
        )

    def _all(self, key: str | int) -> list[LayerPass]:
        if isinstance(key, int):
            return [self._at(key)]
        found = self._exactly(key)
        if not found and not self._exits.is_module(key):
            found = self._containing(key)
        if not found:
            raise LayerNotFound(self._why_not(key))
        return found

    def exits_of(self, item: LayerPass) -> list[tuple[str, bool]]:
        """Return the modules whose output a pass gave, the innermost first.

        Each by its address, with the run where it has several, and with whether no module runs
        inside of it.
        """
        return [
            (base if len(self._exits.names[base]) == 1 else f"{base}:{number}", leaf)
            for base, number, leaf in self._exits.left_by.get(item.index, [])
        ]

    def keys(self) -> list[str]:
        """Return every exact key."""
        return [*self._exact, *self._exits.names]

    def keys_of(self, item: LayerPass) -> list[str | int]:
        """Return the keys that stand for one pass, positions first."""
        names = self._exits.names_of.get(item.values, ())
        if item.paths:
            return [name for name in names if self._only(name) == item]
        own = [name for name in (item.layer_label, item.short_label) if item.passes == 1]
        own += [f"{item.layer_label}:{item.number}", f"{item.short_label}:{item.number}"]
        own += [f"{item.kind}.{item.path}"] if item.path else []
        alone = [name for name in dict.fromkeys((*own, *names)) if self._only(name) == item]
        return [item.index - len(self.passes), item.index, *alone]

    def _only(self, key: str) -> LayerPass | None:
        """Return the one pass that an exact key stands for, None if there are several.

        A key that many passes share is asked about for each of them, and looked up once.
        """
        if key not in self._alone:
            found = self._exactly(key)
            self._alone[key] = found[0] if len(found) == 1 else None
        return self._alone[key]

    def _at(self, position: int) -> LayerPass:
        if not self.passes:
            message = f"no layer answers to {position}: the trace has none"
            raise LayerNotFound(message)
        if not -len(self.passes) <= position < len(self.passes):
            message = (
                f"no layer at position {position}: there are {len(self.passes)}, "
                f"from {-len(self.passes)} to {len(self.passes) - 1}"
            )
            raise LayerNotFound(message)
        return self.passes[position]

    def _exactly(self, key: str) -> list[LayerPass]:
        found = [*self._exact.get(key, ()), *self._exits.find(key)]
        return list({(item.label, item.values): item for item in found}.values())

    def _containing(self, key: str) -> list[LayerPass]:
        if not key:
            return []
        found = {item.index: item for item in self.passes if key in item.label}
        if not found:
            for name in self._exits.names:
                if key in name:
                    found.update((item.index, item) for item in self._exits.find(name))
        return [found[index] for index in sorted(found)]

    def _why_not(self, key: str) -> str:
        listed = ", ".join(repr(name) for name in nearest(key, self._to_suggest(key)))
        hint = f"; the nearest keys: {listed}" if listed else ": the trace has none"
        reason = self._exits.why_not(key) if self._exits.is_module(key) else ""
        return f"no layer answers to {key!r}{reason}{hint}"

    def _to_suggest(self, key: str) -> list[str]:
        """Return the keys to name to one who asked for another; with runs if that had one."""
        keys = self.keys()
        return keys if ":" in key else [name for name in keys if ":" not in name] or keys


class _Exits:
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
            if op.operator == "inductor_compiled_code" and op.module_call is not None
        }
        around = address
        while around:
            around = around.rpartition(".")[0]
            if around in compiled:
                return around or "the model"
        return None
