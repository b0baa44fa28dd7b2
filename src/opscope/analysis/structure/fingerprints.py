"""A fingerprint: one hash of what a program consists of and how it is wired."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from opscope.analysis.structure.canonical import canonical_order, hashed
from opscope.analysis.structure.wiring import Part, Wiring
from opscope.records.recording import Recording

FingerprintLevel = Literal["layer", "op"]
LEVELS: tuple[FingerprintLevel, ...] = ("layer", "op")
OF_LEVEL: dict[FingerprintLevel, tuple[Part, ...]] = {
    "layer": ("shapes", "dtypes", "parameters"),
    "op": ("shapes", "dtypes", "parameters", "arguments"),
}
_VERSION = 1  # of what is hashed: another one gives other fingerprints


def fingerprint_of(recording: Recording, level: FingerprintLevel, parts: Iterable[Part]) -> str:
    """Return 32 hex digits that are the same for programs of the same structure.

    Steps are in the order that data flow gives them, and each is told with what it is and from
    which results of which steps its inputs came. Nothing else is in it: no weights, files, lines,
    times, devices, strides nor addresses.

    >>> fingerprint_of(Recording(), "layer", ["shapes"]) == fingerprint_of(Recording(), "layer", [])
    False
    """
    chosen = sorted(set(parts))
    wiring = Wiring(recording, chosen)
    steps = wiring.of_layers() if level == "layer" else wiring.of_ops()
    order = canonical_order(steps)
    place = {number: at for at, number in enumerate(order)}
    told = []
    for number in order:
        form, inputs = steps[number]
        wires = [(name, place[source.step], source.output) for name, source in inputs]
        told.append((form, wires))
    held = sorted(
        (wiring.parameter(item) for item in recording.parameters if item.of_model), key=ascii
    )
    return hashed(_VERSION, level, chosen, told, held).hex()
