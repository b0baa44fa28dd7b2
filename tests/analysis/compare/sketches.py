"""Programs written by hand, with what is known of their values, to be compared."""

from __future__ import annotations

import torch

from opscope.analysis.compare.alignment.sides import Side
from opscope.analysis.compare.divergence import differences
from opscope.records.passes.layers import layer_passes


class Values:
    """Tensors by the index of the value that they were."""

    def __init__(self, recording, tensors=None):
        self._parameters = recording.parameters
        self._tensors = tensors or {}

    def value(self, index):
        return self._tensors.get(index)

    def parameter(self, index):
        return self._tensors.get(self._parameters[index].value)


def side(recording):
    return Side(recording, layer_passes(recording))


def compared(a, b, ours=None, theirs=None, names=None, rtol=None, atol=None):
    known = Values(a, ours), Values(b, theirs)
    return differences((side(a), side(b)), known, names or {}, rtol, atol)


def vectors(recording, **special):
    """Return a tensor for every value, told apart by what made it; some as they are given."""
    found = {}
    for value in recording.values:
        numbers = torch.arange(1.0, value.numel + 1)
        found[value.index] = special.get(f"v{value.index}", numbers * (value.index + 1))
    return found


def seen(found):
    return [(row.kind, row.status, row.a, row.b) for row in found.rows]
