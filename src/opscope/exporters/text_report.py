"""A trace, and one layer of it, as the plain text that the article prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from opscope import notation
from opscope.notation import foreign, listed
from opscope.records.passes.layers import LayerPass
from opscope.records.recording import Module, Recording
from opscope.records.sums.times import OpTimes
from opscope.records.sums.totals import Totals

_LAYERS = 2000  # that are listed
_SHOWN = 24  # names or lines of a list
_INDENTED = 20  # levels of the module tree


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
    name = foreign(recording.model_name or "a program")
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
    lined_up = [f"        {place}: {foreign(label)} " for place, label in _ends(labels)]
    if len(labels) > _LAYERS:
        left_out = notation.count(len(labels) - _LAYERS)
        lined_up.insert(_LAYERS // 2, f"        … {left_out} more; trace.layer_labels has all")
    return "\n".join([*lines, "    Layers:", *lined_up])


def _ends(labels: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """Return the first and the last of very many."""
    half = _LAYERS // 2
    return labels if len(labels) <= _LAYERS else [*labels[:half], *labels[-half:]]


def failure_lines(recording: Recording) -> list[str]:
    """Return what is known of the exception that ended a trace."""
    failure = recording.failure
    if failure is None:
        return []
    lines = [f"Failed: {failure}"]
    if failure.op is not None:
        op = recording.ops[failure.op]
        values = [recording.values[read.value] for read in op.reads]
        given = notation.tensors([v.dtype for v in values], [v.shape for v in values])
        lines.append(f"    in op {op.index}, {foreign(op.operator)}({foreign(listed(given))})")
    if failure.layer_call is not None:
        function = recording.layer_calls[failure.layer_call].function
        lines.append(f"    in torch function {foreign(function)}")
    if failure.module_call is not None:
        module = recording.modules[recording.module_calls[failure.module_call].module]
        address = foreign(module.address or "itself")
        lines.append(f"    in module {address} ({foreign(module.class_name)})")
    if failure.frame is not None:
        lines.append(f"    at {failure.frame}, in {foreign(failure.frame.function)}")
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
    lines = [f"Layer {foreign(item.label)}, operation {item.index + 1}/{total}:"]
    lines += [
        f"    Output tensor: shape={_tuple(value.shape)}, dtype=torch.{value.dtype}, "
        f"size={notation.size(value.nbytes)}"
        for value in (recording.values[index] for index in item.values)
    ]
    if not item.values:
        lines.append("    Output tensor: none")
    lines += _corner(corner)
    lines.append(f"    Params: {_parameters(item, recording)}")
    lines.append(f"    Parent Layers: {_some(parents)}")
    lines.append(f"    Child Layers: {_some(children)}")
    if call is not None and call.kind not in ("input", "output"):
        gradient = foreign(str(call.grad_fn))
        lines.append(f"    Function: {foreign(call.function)} (gradfunc={gradient}) ")
        module = None if call.module_call is None else recording.module_calls[call.module_call]
        address = "" if module is None else recording.modules[module.module].address
        lines.append(f"    Computed inside module: {foreign(address) or 'none'}")
        lines.append(f"    Time elapsed: {OpTimes(recording).of(call.ops) / 1e9: .3E}s")
        given = notation.settings(recording.settings_of(call.ops, [call.index]))
        if given:
            lines.append(f"    Arguments: {listed(given)}")
        frames = () if call.call_site is None else recording.call_sites[call.call_site]
        if frames:
            lines.append(f"    Source: {frames[0]}, in {foreign(frames[0].function)}")
    lines.append(f"    Output of modules: {_some([name for name, _ in exits])}")
    lines.append(f"    Output of bottom-level module: {_some([n for n, leaf in exits if leaf])}")
    lines.append(f"    Lookup keys: {_some(list(map(str, keys)))}")
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    """Return names with commas: the first few, and how many there are besides."""
    more = [f"… {len(names) - _SHOWN:,} more"] if len(names) > _SHOWN else []
    return ", ".join([*map(foreign, names[:_SHOWN]), *more]) or "none"


def _corner(text: str | None) -> list[str]:
    """Return what a tensor prints; its class may be anybody's."""
    if not text:
        return ["        (values not saved)"]
    lines = text.split("\n")
    more = [f"        … {len(lines) - _SHOWN:,} more lines"] if len(lines) > _SHOWN else []
    return [*(f"        {foreign(line)}".rstrip() for line in lines[:_SHOWN]), *more]


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
        indent = " " * (4 + 4 * min(len(pending), _INDENTED))
        opened = len(group) == 1 and group[0] in children
        text = ", ".join(map(foreign, group)) + (":" if opened else "")
        text = f"… {text}" if len(pending) > _INDENTED else text
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
