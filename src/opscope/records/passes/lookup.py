"""From a key to a layer: labels, addresses, positions, substrings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opscope.errors import AmbiguousLayer, LayerNotFound, OptionError, nearest
from opscope.garbage import paused
from opscope.records.passes.exits import Exits
from opscope.records.passes.layers import LayerPass
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
        self._exits = Exits(recording, passes)

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
