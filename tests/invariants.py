"""What is true of every record, whatever ran."""

from __future__ import annotations

from collections import Counter

import networkx as nx

from opscope.errors import AmbiguousLayer
from opscope.views.quotients.levels import LEVELS


class Broken(AssertionError):
    """A record is not what every record is; says which invariant, and where."""


def check(trace):
    """Check everything that must be true of a trace and of its graphs."""
    recording = trace.recording
    for invariant in (
        every_record_is_at_its_index,
        every_index_is_of_a_record,
        every_value_has_one_producer,
        no_op_reads_what_is_not_yet_made,
        layer_calls_are_contiguous_and_inside_their_module,
        module_calls_nest,
    ):
        invariant(recording)
    labels_are_unique(trace)
    every_key_leads_back_to_its_layer(trace)
    the_op_graph_is_acyclic_and_in_the_order_of_execution(trace)
    for level in LEVELS:
        a_level_conserves_edges(trace, level)


def _that(truth, message):
    if not truth:
        raise Broken(message)


def every_record_is_at_its_index(recording):
    for room in ("ops", "values", "layer_calls", "module_calls", "modules", "parameters"):
        for place, record in enumerate(getattr(recording, room)):
            _that(record.index == place, f"{room}[{place}] says it is number {record.index}")


def every_index_is_of_a_record(recording):
    values, calls = len(recording.values), len(recording.layer_calls)
    runs, places = len(recording.module_calls), len(recording.call_sites)
    for op in recording.ops:
        made = [v for v in (*op.outputs, *op.writes) if v is not None]
        for index in (*(read.value for read in op.reads), *made):
            _that(0 <= index < values, f"op {op.index} speaks of value {index}")
        for name, index, count in (
            ("layer call", op.layer_call, calls),
            ("module call", op.module_call, runs),
            ("place", op.call_site, places),
        ):
            _that(index is None or 0 <= index < count, f"op {op.index} speaks of {name} {index}")
    for value, number in recording.parameter_of_value.items():
        _that(0 <= value < values, f"parameter {number} is value {value}")
        _that(0 <= number < len(recording.parameters), f"value {value} is parameter {number}")


def every_value_has_one_producer(recording):
    makers: dict[int, list[str]] = {value.index: [] for value in recording.values}
    had = {read.value for op in recording.ops for read in op.reads}
    had |= {leaf.value for run in recording.module_calls for leaf in (*run.inputs, *run.outputs)}
    had |= {v for call in recording.layer_calls for v in (*call.received, *call.returned)}
    for op in recording.ops:
        # A returned value may be one that it wrote, and one tensor may be returned twice.
        for index in {v for v in (*op.outputs, *op.writes) if v is not None}:
            makers[index].append(f"op {op.index}")
    for call in recording.layer_calls:
        for index in set(call.returned) if not call.ops else ():
            if recording.values[index].origin == "passed_through":
                makers[index].append(f"call {call.index}")
    for value in recording.values:
        found = makers[value.index]
        _that(len(found) <= 1, f"value {value.index} is made by {', '.join(found)}")
        expected = 0 if value.origin in ("outside", "rewritten") else 1
        if value.origin == "passed_through" and value.index not in had:
            expected = 0  # it was what entered or left a model, where there is none
        _that(len(found) == expected, f"value {value.index}, {value.origin}, is made by {found}")
        if value.origin in ("fresh", "view", "write"):
            _that(found == [f"op {value.made_by}"], f"value {value.index} says op {value.made_by}")
        _that(
            (value.earlier is not None) == (value.origin in ("passed_through", "rewritten")),
            f"value {value.index}, {value.origin}, was handed from {value.earlier}",
        )
        if value.origin == "rewritten":
            _is_the_same_tensor_written_to(recording, value)


def _is_the_same_tensor_written_to(recording, value):
    before = recording.values[value.earlier]
    for name in ("storage", "shape", "stride", "offset", "dtype", "device"):
        same = getattr(before, name) == getattr(value, name)
        _that(same, f"value {value.index} has another {name} than value {before.index}")
    written = [recording.values[index] for index in recording.ops[value.made_by].writes]
    _that(
        value.storage in {other.storage for other in written},
        f"op {value.made_by} does not write to value {value.index}",
    )


def no_op_reads_what_is_not_yet_made(recording):
    for op in recording.ops:
        for read in op.reads:
            maker = recording.values[read.value].made_by
            _that(
                maker is None or maker < op.index,
                f"op {op.index} reads value {read.value}, which op {maker} makes",
            )


def layer_calls_are_contiguous_and_inside_their_module(recording):
    of_op = {}
    last = 0
    for call in recording.layer_calls:
        _that(call.ops.step == 1, f"layer call {call.index} skips ops")
        _that(call.ops.start >= last, f"layer call {call.index} begins within the one before")
        last = call.ops.stop
        _that(call.ops.stop <= len(recording.ops), f"layer call {call.index} has ops there are not")
        of_op.update((op, call.index) for op in call.ops)
        if call.module_call is not None:
            run = recording.module_calls[call.module_call]
            _that(_within(call.ops, run.ops), f"layer call {call.index} has ops outside its module")
    for op in recording.ops:
        _that(
            op.layer_call == of_op.get(op.index),
            f"op {op.index} says layer call {op.layer_call}, not {of_op.get(op.index)}",
        )


def module_calls_nest(recording):
    runs = recording.module_calls
    numbers: Counter[int] = Counter()
    for run in runs:
        numbers[run.module] += 1
        _that(run.number == numbers[run.module], f"module call {run.index} is run {run.number}")
        if run.parent is None:
            continue
        parent = runs[run.parent]
        _that(parent.index < run.index, f"module call {run.index} is older than its parent")
        _that(_within(run.ops, parent.ops), f"module call {run.index} has ops outside its parent")
        _that(
            _within(run.layer_calls, parent.layer_calls),
            f"module call {run.index} has layer calls outside its parent",
        )
    innermost: dict[int, int] = {}
    ended: dict[int | None, int] = {}
    for run in runs:
        start = ended.get(run.parent, 0)
        _that(run.ops.start >= start, f"module call {run.index} begins before its sibling ended")
        ended[run.parent] = run.ops.stop
        innermost.update((op, run.index) for op in run.ops)  # a parent comes before its children
    for op in recording.ops:
        if op.forward_op is not None:
            forward = recording.ops[op.forward_op]
            _that(forward.phase == "forward", f"op {op.index} belongs to one that is not forward")
            _that(
                op.module_call == forward.module_call,
                f"op {op.index} has another module than op {forward.index}, its forward op",
            )
            continue
        _that(
            op.module_call == innermost.get(op.index),
            f"op {op.index} says module call {op.module_call}, not {innermost.get(op.index)}",
        )


def _within(inner, outer):
    return not inner or (outer.start <= inner.start and inner.stop <= outer.stop)


def labels_are_unique(trace):
    twice = [label for label, n in Counter(item.label for item in trace.passes).items() if n > 1]
    _that(not twice, f"several layer passes are called {twice}")
    layers = {(item.layer_label, item.layer) for item in trace.passes}
    _that(len({label for label, _ in layers}) == len(layers), "two layers have one label")
    _that(len({number for _, number in layers}) == len(layers), "one layer has two labels")


def every_key_leads_back_to_its_layer(trace):
    index = trace._reading.index
    known = set()
    for item in trace.passes:
        keys = index.keys_of(item)
        known.update(keys)
        _that(item.index in keys, f"{item.label} cannot be asked for by its position")
        for key in (item.label, *keys):
            found = trace[key]
            _that(found.label == item.label, f"{key!r} of {item.label} leads to {found.label}")
    for key in set(index.keys()) - known:  # the rest stand for several passes or layers
        try:
            found = trace[key]
        except AmbiguousLayer:
            continue
        # What a module gave and no layer gave just so has keys of its own.
        _that(
            found.paths and key in found.lookup_keys,
            f"{key!r} leads to {found.label}, which does not have it as a key",
        )


def the_op_graph_is_acyclic_and_in_the_order_of_execution(trace):
    graph = trace.graph(phase="all")
    _that(nx.is_directed_acyclic_graph(graph), "the op graph has a cycle")
    place = graph.nodes(data="index")
    for source, target in graph.edges:
        _that(place[source] < place[target], f"{source} comes after {target}, which reads it")
    ops = [int(name.removeprefix("op_")) for name in graph if name.startswith("op_")]
    _that(ops == [*range(len(trace.ops))], "the ops of the graph are not those that ran, in order")


def a_level_conserves_edges(trace, level):
    """Every edge between two nodes of a level stands for edges of ops, and none is lost."""
    for phase in ("forward", "backward", "all"):
        _conserves_edges(trace, level, phase)


def _conserves_edges(trace, level, phase):
    fine = trace.graph(level="op", phase=phase)
    coarse = trace.graph(level=level, phase=phase)
    counts = [n for _, _, n in coarse.edges(data="count") if n is not None]
    _that(len(counts) == coarse.number_of_edges(), f"at level {level} edges are not counted")
    part = {}
    for name, node in fine.nodes(data=True):
        found = [k for k in _names(name, node) if k in coarse]
        _that(found, f"at level {level} {name} is part of no node")
        part[name] = found[0]
    expected = Counter((part[s], part[t]) for s, t in _meant(fine, level) if part[s] != part[t])
    found = {(s, t): n for s, t, n in coarse.edges(data="count")}
    _that(found == expected, f"level {level} does not have the edges of its ops")


def _meant(fine, level):
    """Return the edges of ops, those from copies of parameters as from the parameters."""
    edges = {}
    for source, target, data in fine.edges(data=True):
        meant = source if level == "op" else data.get("stands_for", source)
        if meant in fine:
            edges[meant, target] = None
    return edges


def _names(name, node):
    """Yield what the node of an op may be called at other levels: the outermost first."""
    end = ".backward" if node["phase"] == "backward" else ""
    for address, run, _ in node["module_stack"]:
        yield f"@{address}{end}"
        yield f"@{address}:{run}{end}"
    if node["layer"]:
        yield f"{node['layer']}{end}"
    if node["accumulates"]:
        yield f"{node['accumulates']}.grad"
        yield f"{node['accumulates']}.grad:{node['pass']}"
    yield name
