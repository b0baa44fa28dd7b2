"""A trace, and one layer of it, as the plain text that the article prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from opscope import notation
from opscope.records.layers import LayerPass
from opscope.records.recording import Module, Recording
from opscope.records.totals import Totals


def trace_text(
    recording: Recording,
    sums: Totals,
    structure: str,
    labels: Sequence[tuple[int, str]],
    saved: tuple[int, int],
) -> str:
    """Return what `print(trace)` shows.

    Args:
        recording: What happened.
        sums: Its totals.
        structure: The shape of the program in words.
        labels: Position and label of each layer pass to list.
        saved: Number and bytes of the saved tensors.
    """
    name = recording.model_name or "a program"
    computed = notation.plural(sums.tensors, "tensor")
    kept = notation.plural(saved[0], "tensor")
    lines = [
        f"Log of {name} forward pass:",
        f"    Model structure: {structure}; {notation.plural(sums.modules, 'total module')}.",
        f"    {computed} ({notation.size(sums.given_bytes)}) computed in forward pass; "
        f"{kept} ({notation.size(saved[1])}) saved.",
        f"    {notation.plural(sums.used_tensors, 'parameter operation')} "
        f"({sums.params} params total; {notation.size(sums.param_bytes)}).",
        f"    Random seed: {recording.seed}",
        f"    Time elapsed: {recording.duration_ns / 1e9:.3f}s",
    ]
    if recording.failure is not None:
        lines += [f"    {line}" for line in failure_lines(recording)]
    if any(module.address for module in recording.modules):
        lines += ["    Module Hierarchy:", *_hierarchy(recording.modules)]
    lines += ["    Layers:", *(f"        {place}: {label} " for place, label in labels)]
    return "\n".join(lines)


def failure_lines(recording: Recording) -> list[str]:
    """Return what is known of the exception that ended a trace."""
    failure = recording.failure
    if failure is None:
        return []
    lines = [
        f"Failed: {failure.exception}: {failure.message.splitlines()[0] if failure.message else ''}"
    ]
    if failure.op is not None:
        op = recording.ops[failure.op]
        values = [recording.values[read.value] for read in op.reads]
        given = notation.tensors([v.dtype for v in values], [v.shape for v in values])
        lines.append(f"    in op {op.index}, {op.operator}({given})")
    if failure.layer_call is not None:
        lines.append(f"    in torch function {recording.layer_calls[failure.layer_call].function}")
    if failure.module_call is not None:
        module = recording.modules[recording.module_calls[failure.module_call].module]
        lines.append(f"    in module {module.address or 'itself'} ({module.class_name})")
    if failure.frame is not None:
        lines.append(f"    at {failure.frame}, in {failure.frame.function}")
    return lines


def layer_text(
    item: LayerPass,
    recording: Recording,
    *,
    total: int,
    corner: str | None,
    parents: Sequence[str],
    children: Sequence[str],
    exits: Sequence[tuple[str, bool]],
    keys: Sequence[str | int],
) -> str:
    """Return what `print(layer)` shows.

    Args:
        item: The layer pass.
        recording: What happened.
        total: How many layer passes there are.
        corner: The first few elements of its activation, None where it was not saved.
        parents: Labels of the layers that it reads from.
        children: Labels of the layers that read from it.
        exits: The modules whose output it is, and whether no module runs inside them.
        keys: What it can be looked up by.
    """
    call = None if item.call is None else recording.layer_calls[item.call]
    lines = [f"Layer {item.label}, operation {item.index + 1}/{total}:"]
    for value in (recording.values[index] for index in item.values):
        shape = f"({', '.join(map(str, value.shape))}{',' if len(value.shape) == 1 else ''})"
        lines.append(
            f"    Output tensor: shape={shape}, dtype=torch.{value.dtype}, "
            f"size={notation.size(value.nbytes)}"
        )
    if not item.values:
        lines.append("    Output tensor: none")
    lines.append(textwrap.indent(corner, "        ") if corner else "        (values not saved)")
    lines.append(f"    Params: {_parameters(item, recording)}")
    lines.append(f"    Parent Layers: {', '.join(parents) or 'none'}")
    lines.append(f"    Child Layers: {', '.join(children) or 'none'}")
    if call is not None and call.kind not in ("input", "output"):
        lines.append(f"    Function: {call.function} (gradfunc={call.grad_fn}) ")
        module = None if call.module_call is None else recording.module_calls[call.module_call]
        address = "" if module is None else recording.modules[module.module].address
        lines.append(f"    Computed inside module: {address or 'none'}")
        lines.append(f"    Time elapsed: {call.duration_ns / 1e9: .3E}s")
        frames = () if call.place is None else recording.places[call.place]
        if frames:
            lines.append(f"    Source: {frames[0]}, in {frames[0].function}")
    lines.append(f"    Output of modules: {', '.join(name for name, _ in exits) or 'none'}")
    bottom = [name for name, leaf in exits if leaf]
    lines.append(f"    Output of bottom-level module: {', '.join(bottom) or 'none'}")
    lines.append(f"    Lookup keys: {', '.join(map(str, keys))}")
    return "\n".join(lines)


def _parameters(item: LayerPass, recording: Recording) -> str:
    if not item.parameters:
        return "Computed without params"
    used = [recording.parameters[index] for index in item.parameters]
    shapes = [_tuple(sizes) for sizes in sorted(parameter.shape for parameter in used)]
    total = sum(parameter.numel for parameter in used)
    size = notation.size(sum(parameter.nbytes for parameter in used))
    return f"Computed from params with shape {', '.join(shapes)}; {total} params total ({size})"


def _tuple(sizes: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _hierarchy(modules: Iterable[Module]) -> list[str]:
    """Return the module tree; childless siblings share lines."""
    children: dict[str, list[str]] = {}
    addresses = {module.address for module in modules if module.address}
    for address in (module.address for module in modules if module.address):
        parent = address.rpartition(".")[0]
        while parent and parent not in addresses:
            parent = parent.rpartition(".")[0]
        children.setdefault(parent, []).append(address)
    lines: list[str] = []
    pending = [iter(_grouped("", children))]
    while pending:
        group = next(pending[-1], None)
        if group is None:
            pending.pop()
            continue
        indent = " " * (4 + 4 * len(pending))
        opened = len(group) == 1 and group[0] in children
        text = ", ".join(group) + (":" if opened else "")
        wrapped = textwrap.wrap(text, width=110, break_long_words=False, break_on_hyphens=False)
        lines += [indent + line for line in wrapped]
        if opened:
            pending.append(iter(_grouped(group[0], children)))
    return lines


def _grouped(parent: str, children: dict[str, list[str]]) -> list[list[str]]:
    """Return a module's children, runs of childless ones together below the first level."""
    groups: list[list[str]] = []
    for address in children.get(parent, ()):
        alone = address in children or not parent
        if groups and not alone and groups[-1][-1] not in children:
            groups[-1].append(address)
        else:
            groups.append([address])
    return groups
