"""What is worth a look in a recording: what was not used, was computed for nothing, or dominates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opscope.notation import plural
from opscope.records.columns.table import column, read_values
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Recording

_LISTED = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is worth a look.

    Attributes:
        kind: ``"failed"``, ``"unused"`` (parameters), ``"without gradient"``, ``"tied"``
            (parameters), ``"unread"`` (results of layers).
        names: Of what it is said: keys to ask on with.
        said: The same in words.
    """

    kind: str
    names: tuple[str, ...]
    said: str


def findings(recording: Recording, passes: Sequence[LayerPass]) -> list[Finding]:
    """Return what is worth a look, the gravest first."""
    found = (_failed(recording), _unread(recording, passes))
    first, last = ([one] if one is not None else [] for one in found)
    return [*first, *parameter_findings(recording), *last]


def _failed(recording: Recording) -> Finding | None:
    failure = recording.failure
    if failure is None:
        return None
    names: tuple[str, ...] = ()
    if failure.module_call is not None:
        names = (recording.modules[recording.module_calls[failure.module_call].module].address,)
    return Finding("failed", names, f"the block ended with {failure}")


def parameter_findings(recording: Recording) -> list[Finding]:
    """Return what is worth a look in the parameters of the model."""
    return [one for one in _parameters(recording) if one is not None]


def _parameters(recording: Recording) -> Iterator[Finding | None]:
    packed = {number for numbers in column(recording.ops, "packed") for number in numbers}
    own = [p for p in recording.parameters if p.kind == "parameter" and p.of_model]
    unused = [p.name for p in own if p.value is None and p.index not in packed]
    yield _listed("unused", unused, "parameter", "that no op was given")
    reached = {number for number in column(recording.ops, "accumulates") if number is not None}
    if reached:
        without = [
            p.name for p in own if p.trainable and p.value is not None and p.index not in reached
        ]
        yield _listed("without gradient", without, "trained parameter", "without a gradient")
    tied = [" = ".join((p.name, *p.aliases)) for p in own if p.aliases]
    yield _listed("tied", tied, "parameter", "with several names")


def _unread(recording: Recording, passes: Sequence[LayerPass]) -> Finding | None:
    """Find layers that computed what no later op read, and what nobody has."""
    last_reader: dict[int, int] = {}
    for op, values in enumerate(read_values(recording.ops)):
        last_reader.update(dict.fromkeys(values, op))
    kept = set(recording.alive or ())
    for run in recording.module_calls:
        kept.update(leaf.value for leaf in (*run.inputs, *run.outputs))
    for received in column(recording.layer_calls, "received"):
        kept.update(received)
    outputs, writes = column(recording.ops, "outputs"), column(recording.ops, "writes")
    calls = recording.layer_calls
    columns = [column(calls, name) for name in ("failed", "phase", "ops", "module_call")]
    failed, phases, ops, runs = columns
    named: list[str] = []
    rows = zip(column(passes, "call"), column(passes, "values"), strict=True)
    for at, (call, values) in enumerate(rows):
        if call is None or failed[call] or phases[call] != "forward" or not ops[call]:
            continue
        if recording.alive is None and runs[call] is None:
            continue  # outside of a model it is not known what is left of it
        ran = ops[call]
        made = {value for op in ran for value in outputs[op] if value is not None}.union(values)
        is_read = any(last_reader.get(value, -1) >= ran.stop for value in made)
        if made and not is_read and not made & kept and not any(writes[op] for op in ran):
            named.append(passes[at].label)
    return _listed("unread", named, "layer", "whose results nobody read")


def _listed(kind: str, names: Sequence[str], noun: str, what: str) -> Finding | None:
    if not names:
        return None
    shown = ", ".join(names[:_LISTED])
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return Finding(kind, tuple(names), f"{plural(len(names), noun)} {what}: {shown}{more}")
