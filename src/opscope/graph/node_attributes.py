"""What is known of whole layer passes and module runs, for the views of the graph.

A layer gives fewer tensors than its ops do, and a module fewer than its layers, so these
attributes cannot be read off the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opscope.records.columns.table import column, value_bytes
from opscope.records.passes.layers import LayerPass, labels
from opscope.records.recording import Recording
from opscope.records.sums.times import OpTimes


def layer_attributes(
    recording: Recording, passes: Sequence[LayerPass]
) -> dict[str, dict[str, Any]]:
    """Return ``shapes``, ``dtypes``, ``bytes``, ``duration_ns``, ``failed``, ``path`` and ``exits`` by label.

    Of the calls; not of the tensors that a program without a model was given, or gave.

    ``exits`` are ``[address, run, is_leaf]`` of the modules whose output the layer gives.
    """
    given: dict[int, list[list[Any]]] = {}
    parents = {run.parent for run in recording.module_calls}
    for run in recording.module_calls:
        entry = [recording.modules[run.module].address, run.number, run.index not in parents]
        for leaf in run.outputs:
            given.setdefault(leaf.value, []).append(entry)
    values = _Values(recording)
    calls = recording.layer_calls
    times, ops, failures = OpTimes(recording), column(calls, "ops"), column(calls, "failed")
    rows = zip(
        labels(passes), *[column(passes, name) for name in ("call", "values", "path")], strict=True
    )
    return {
        label: {
            **values.known(indices),
            "duration_ns": times.of(ops[call]),
            "failed": failures[call],
            "exits": [entry for value in indices for entry in given.get(value, ())],
            "path": path,
        }
        for label, call, indices, path in rows
        if call is not None
    }


def module_attributes(recording: Recording) -> dict[str, dict[str, Any]]:
    """Return what is known of each module run, by ``"address:run"``.

    ``class``, ``runs`` (of that module), ``leaf`` (whether no module runs inside),
    ``layers`` (how many layer passes ran inside), ``shapes``, ``dtypes``, ``bytes`` and
    ``paths`` of the output, ``input_shapes`` and ``duration_ns``.
    """
    parents = {run.parent for run in recording.module_calls}
    runs: dict[int, int] = {}
    for run in recording.module_calls:
        runs[run.module] = max(runs.get(run.module, 0), run.number)
    values, times = _Values(recording), OpTimes(recording)
    result = {}
    for run in recording.module_calls:
        module = recording.modules[run.module]
        result[f"{module.address}:{run.number}"] = {
            "class": module.class_name,
            "runs": runs[run.module],
            "leaf": run.index not in parents,
            "layers": len(run.layer_calls),
            **values.known([leaf.value for leaf in run.outputs]),
            "paths": [leaf.path for leaf in run.outputs],
            "input_shapes": [list(recording.values[x.value].shape) for x in run.inputs],
            "duration_ns": times.of(run.ops),
            "failed": run.failed,
        }
    return result


class _Values:
    """What is known of tensors together."""

    def __init__(self, recording: Recording) -> None:
        self._shapes = column(recording.values, "shape")
        self._dtypes = column(recording.values, "dtype")
        self._bytes = value_bytes(recording.values)

    def known(self, indices: Iterable[int]) -> dict[str, Any]:
        return {
            "shapes": [list(self._shapes[index]) for index in indices],
            "dtypes": [self._dtypes[index] for index in indices],
            "bytes": sum([self._bytes[index] for index in indices]),
        }
