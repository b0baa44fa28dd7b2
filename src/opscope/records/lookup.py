"""From a key to a layer: labels, addresses, positions, substrings."""

from __future__ import annotations

from collections.abc import Iterable

from opscope.errors import AmbiguousLayer, LayerNotFound, OptionError, nearest
from opscope.records.layers import LayerPass
from opscope.records.recording import ModuleCall, Recording


class LayerIndex:
    """Finds layer passes by everything that the article lets one ask for.

    A key is a full label (``"conv2d_3_7"``), a short one (``"conv2d_3"``), either with a
    pass (``"conv2d_3:2"``), a module's address with or without a run (``"features.6:1"``:
    the layer that leaves it), a position (``7``, ``-17``), or a substring that fits one
    layer only.
    """

    def __init__(self, recording: Recording, passes: tuple[LayerPass, ...]) -> None:
        self.passes = passes
        self._exact: dict[str, list[LayerPass]] = {}
        self._exits: dict[str, list[LayerPass]] = {}
        self.outputs_of: dict[int, list[str]] = {}
        self._exits_of: dict[int, list[str]] = {}  # the same, under all addresses
        for item in passes:
            for name in (item.layer_label, item.short_label):
                self._exact.setdefault(name, []).append(item)
                self._exact.setdefault(f"{name}:{item.number}", []).append(item)
        # In a bare program an output has its maker's value: the maker comes first.
        by_value = {value: item for item in reversed(passes) for value in item.values}
        by_call: dict[int | None, LayerPass] = {
            item.call: item for item in passes if item.call is not None
        }
        for run in recording.module_calls:
            leaving = _leaving(recording, run, by_value, by_call)
            if leaving is None:
                continue
            module = recording.modules[run.module]
            names = []
            for address in filter(None, (module.address, *module.aliases)):
                names += [address, f"{address}:{run.number}"]
            for name in names:
                self._exits.setdefault(name, []).append(leaving)
            self._exits_of[leaving.index] = names + self._exits_of.get(leaving.index, [])
            if module.address:
                exits = self.outputs_of.setdefault(leaving.index, [])
                exits.insert(0, f"{module.address}:{run.number}")  # the innermost first

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
        if not found:
            found = self._containing(key)
        if not found:
            raise self._not_found(key)
        layers = {item.layer for item in found}
        if len(layers) > 1:
            names = list(dict.fromkeys(item.layer_label for item in found))
            shown = ", ".join(repr(name) for name in names[:6])
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            message = f"{key!r} fits {len(layers)} layers: {shown}{more}"
            raise AmbiguousLayer(message)
        if len(found) > 1:
            first = found[0]
            base = key if key in self._exact or key in self._exits else first.layer_label
            message = (
                f"{key!r} has {len(found)} passes; ask for one of them, "
                f"{base + ':1'!r} to {base + ':' + str(len(found))!r}"
            )
            raise AmbiguousLayer(message)
        return found[0]

    def select(self, keys: Iterable[str | int]) -> list[LayerPass]:
        """Return every pass that any of the keys stands for, once, in order.

        A string that is no exact key selects all whose label or module address contains
        it; a label without a pass selects every pass.

        Raises:
            LayerNotFound: If a key stands for nothing; lists the nearest keys.
        """
        chosen: dict[int, LayerPass] = {}
        for key in keys:
            found = [self._at(key)] if isinstance(key, int) else self._exactly(key)
            found = found or self._containing(str(key))
            if not found:
                raise self._not_found(str(key))
            chosen.update((item.index, item) for item in found)
        return [chosen[index] for index in sorted(chosen)]

    def _not_found(self, key: str) -> LayerNotFound:
        listed = ", ".join(repr(name) for name in nearest(key, self.keys()))
        hint = f"; the nearest keys: {listed}" if listed else ": the trace has none"
        return LayerNotFound(f"no layer answers to {key!r}{hint}")

    def keys(self) -> list[str]:
        """Return every exact key."""
        return [*self._exact, *self._exits]

    def keys_of(self, item: LayerPass) -> list[str | int]:
        """Return the keys that stand for one pass, positions first."""
        names = [name for name in (item.layer_label, item.short_label) if item.passes == 1]
        names += [f"{item.layer_label}:{item.number}", f"{item.short_label}:{item.number}"]
        names += self._exits_of.get(item.index, ())
        alone = [name for name in dict.fromkeys(names) if len(self._exactly(name)) == 1]
        return [item.index - len(self.passes), item.index, *alone]

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
        found = [*self._exact.get(key, ()), *self._exits.get(key, ())]
        return list({item.index: item for item in found}.values())

    def _containing(self, key: str) -> list[LayerPass]:
        if not key:
            return []
        found = {item.index: item for item in self.passes if key in item.label}
        if not found:
            for name, items in self._exits.items():
                if key in name:
                    found.update((item.index, item) for item in items)
        return [found[index] for index in sorted(found)]


def _leaving(
    recording: Recording,
    run: ModuleCall,
    by_value: dict[int, LayerPass],
    by_call: dict[int | None, LayerPass],
) -> LayerPass | None:
    """Return the pass whose value a module run returned, the first it returned."""
    for leaf in run.outputs:
        if (item := by_value.get(leaf.value)) is not None:
            return item
        maker = recording.values[leaf.value].made_by
        if maker is not None:
            item = by_call.get(recording.ops[maker].layer_call)
            if item is not None:
                return item
    return None
