"""What is known of whole layer passes and module runs, for the views of the graph.

A layer gives fewer tensors than its ops do, and a module fewer than its layers, so these
facts cannot be read off the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opscope.records.layers import LayerPass
from opscope.records.recording import Recording


def layer_attributes(
    recording: Recording, passes: Iterable[LayerPass]
) -> dict[str, dict[str, Any]]:
    """Return ``shapes``, ``dtypes``, ``bytes``, ``duration_ns``, ``failed``, ``path`` and ``exits`` by label.

    ``exits`` are ``[address, run, is_leaf]`` of the modules whose output the layer gives.
    """
    given: dict[int, list[list[Any]]] = {}
    parents = {run.parent for run in recording.module_calls}
    for run in recording.module_calls:
        entry = [recording.modules[run.module].address, run.number, run.index not in parents]
        for leaf in run.outputs:
            given.setdefault(leaf.value, []).append(entry)
    result = {}
    for item in passes:
        call = None if item.call is None else recording.layer_calls[item.call]
        exits = [entry for value in item.values for entry in given.get(value, ())]
        result[item.label] = {
            **_tensors(recording, item.values),
            "duration_ns": 0 if call is None else call.duration_ns,
            "failed": call is not None and call.failed,
            "exits": exits,
            "path": item.path,
        }
    return result


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
    result = {}
    for run in recording.module_calls:
        module = recording.modules[run.module]
        result[f"{module.address}:{run.number}"] = {
            "class": module.class_name,
            "runs": runs[run.module],
            "leaf": run.index not in parents,
            "layers": len(run.layer_calls),
            **_tensors(recording, [leaf.value for leaf in run.outputs]),
            "paths": [leaf.path for leaf in run.outputs],
            "input_shapes": [list(recording.values[x.value].shape) for x in run.inputs],
            "duration_ns": run.duration_ns,
            "failed": run.failed,
        }
    return result


def _tensors(recording: Recording, indices: Iterable[int]) -> dict[str, Any]:
    values = [recording.values[index] for index in indices]
    return {
        "shapes": [list(value.shape) for value in values],
        "dtypes": [value.dtype for value in values],
        "bytes": sum(value.nbytes for value in values),
    }
