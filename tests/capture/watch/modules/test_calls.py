"""Which module is running: addresses, nesting, runs, inputs and outputs."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from tests import witness, zoo
from torch import nn

import opscope


class Twice(nn.Module):
    """The same module at two addresses, one of them in a part that is shared itself."""

    def __init__(self):
        super().__init__()
        shared = nn.Linear(3, 3)
        self.a = nn.Sequential(shared, nn.ReLU(), shared)
        self.b = self.a
        self.last = shared

    def forward(self, x):
        return self.last(self.b(self.a(x)))


class Listed(nn.Module):
    """Parts in a ModuleList and a ModuleDict, of which some never run."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        self.by_name = nn.ModuleDict({"x": nn.Tanh(), "unused": nn.ReLU()})

    def forward(self, x):
        for layer in self.layers[1:]:
            x = self.by_name["x"](layer(x))
        return x


class Recursive(nn.Module):
    """Calls itself, and a part of itself on the way down and up."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x, depth=3):
        x = self.fc(x)
        if depth:
            x = self(x, depth - 1)
        return self.fc(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 3), nn.Linear(3, 3, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x.long()))


STRUCTURES = {
    **{kind.__name__: lambda kind=kind: kind() for kind in (Twice, Listed, Recursive, Tied)},
    "lone": lambda: nn.Linear(3, 3),
    "sequential": lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.ReLU())),
}


@pytest.fixture(scope="module", params=[*zoo.MODULES, *STRUCTURES])
def program(request):
    if request.param in zoo.MODULES:
        return zoo.shared(request.param)
    return zoo.Program(STRUCTURES[request.param](), (torch.ones(2, 3),))


def traced(program, **options):
    with torch.no_grad(), opscope.trace(program.module, **options) as trace:
        program.run()
    return trace


@pytest.fixture(scope="module")
def trace(program):
    return traced(program)


def test_module_calls_are_those_that_hooks_see(program, layers):
    with torch.no_grad(), witness.CallWitness(program.module) as seen:
        program.run()
    assert witness.recorded_calls(traced(program, layers=layers)) == seen.calls


def test_modules_are_listed_as_named_modules_lists_them(program, trace):
    named = list(program.module.named_modules())
    assert [(m.address, m.class_name) for m in trace.modules] == [
        (name, type(module).__name__) for name, module in named
    ]
    assert [m.training for m in trace.modules] == [module.training for _, module in named]
    every = {name for name, _ in program.module.named_modules(remove_duplicate=False)}
    found = [name for m in trace.modules for name in (m.address, *m.aliases)]
    assert len(found) == len(set(found))
    assert set(found) == every


def test_a_trace_without_a_model_takes_the_names_of_the_first_that_runs(program, trace):
    with torch.no_grad(), opscope.trace() as unnamed:
        program.run()
    assert unnamed.modules == trace.modules
    assert witness.recorded_calls(unnamed) == witness.recorded_calls(trace)
    assert unnamed.layer_labels == trace.layer_labels


def test_a_call_lies_within_the_call_around_it(trace):
    recording = trace.recording
    assert any(call.parent is None for call in recording.module_calls)
    for call in recording.module_calls:
        assert call.duration_ns > 0
        if call.parent is not None:
            around = recording.module_calls[call.parent]
            assert around.started_ns <= call.started_ns
            assert end(call) <= end(around)
            assert around.ops.start <= call.ops.start <= call.ops.stop <= around.ops.stop
            inside, outside = call.layer_calls, around.layer_calls
            assert outside.start <= inside.start <= inside.stop <= outside.stop
    for op in recording.ops:
        assert op.duration_ns > 0
        innermost = recording.module_calls[op.module_call]
        assert innermost.started_ns <= op.started_ns
        assert end(op) <= end(innermost) <= recording.duration_ns
        assert op.index in innermost.ops
    for call in recording.layer_calls:
        if call.module_call is not None:
            assert call.index in recording.module_calls[call.module_call].layer_calls


def end(record):
    return record.started_ns + record.duration_ns


def test_siblings_do_not_overlap_and_add_up_to_less_than_their_parent(trace):
    recording = trace.recording
    for around in recording.module_calls:
        children = [call for call in recording.module_calls if call.parent == around.index]
        assert all(end(a) <= b.started_ns for a, b in pairwise(children))
        assert sum(call.duration_ns for call in children) <= around.duration_ns


def test_a_model_called_twice_is_the_root_both_times(layers):
    model = zoo.shared("recurrent").module
    with opscope.trace(model, layers=layers) as trace:
        model(model(torch.ones(1, 5)))
    roots = [call for call in trace.recording.module_calls if call.is_root]
    assert [(call.module, call.number, call.parent) for call in roots] == [
        (0, 1, None),
        (0, 2, None),
    ]
    assert [call.number for call in trace.recording.module_calls if call.module] == [*range(1, 9)]


def test_only_the_outermost_call_of_a_recursive_model_is_the_root():
    model, x = Recursive(), torch.ones(1, 3)
    with opscope.trace(model) as trace:
        model(x)
    own = [call for call in trace.recording.module_calls if call.module == 0]
    assert [call.number for call in own] == [1, 2, 3, 4]
    assert [call.is_root for call in own] == [True, False, False, False]
    assert [kind for kind in trace.layer_labels if kind.startswith(("input", "output"))] == [
        "input_1_0",
        trace.layer_labels[-1],
    ]


class Making(nn.Module):
    """Makes modules while it runs."""

    def __init__(self):
        super().__init__()
        self.known = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(20):
            x = nn.Sequential(nn.Tanh())(x)
        return self.known(x)


def test_modules_made_on_the_way_get_addresses_of_their_own(layers):
    model, x = Making(), torch.ones(2, 3)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(x)
    addresses = [module.address for module in trace.modules]
    assert addresses[:2] == ["", "known"]
    assert len(addresses) == len(set(addresses)) == 2 + 2 * 20
    calls = witness.recorded_calls(trace)
    assert [call[3] for call in calls] == ["Making", *["Sequential", "Tanh"] * 20, "Linear"]
    assert {call[2] for call in calls} == {1}
    tanhs = [op for op in trace.ops if op.name == "tanh"]
    assert len({op.module_call for op in tanhs}) == 20


class Generating(nn.Module):
    """Its forward is a generator, whose code runs after the call has returned."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(3):
            x = self.fc(x)
            yield x.sigmoid()


def test_what_a_generator_runs_later_is_recorded_outside_of_its_call(layers):
    model, x = Generating(), torch.ones(2, 3)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        results = list(model(x))
    assert len(results) == 3
    assert witness.recorded_calls(trace) == [
        ("", None, 1, "Generating"),
        *(("fc", None, number, "Linear") for number in (1, 2, 3)),
    ]
    sigmoids = [op for op in trace.ops if op.name == "sigmoid"]
    assert [op.module_call for op in sigmoids] == [None] * 3
    assert not any(call.failed for call in trace.recording.module_calls)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_part_keeps_the_training_flag_it_had(training):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    model.train(not training)[1].train(training)
    with opscope.trace(model) as trace:
        model(torch.ones(2, 3))
    assert {m.address: m.training for m in trace.modules} == {
        "": not training, "0": not training, "1": training,
    }  # fmt: skip


# ------------------------------------------------------------------- inputs and outputs


class Echo(nn.Module):
    """Gives back what it is given."""

    def forward(self, *args, **kwargs):
        if kwargs:
            return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
        return args[0] if len(args) == 1 else args


@dataclass
class Data:
    x: torch.Tensor
    note: str
    more: Any = None


class Named(NamedTuple):
    left: torch.Tensor
    right: Any


def t(size):
    return torch.ones(size)


NESTED = {
    "a lone tensor": ((t(1),), {}, {"": 1}),
    "two": ((t(1), t(2)), {}, {"0": 1, "1": 2}),
    "one of two": ((3, t(2)), {}, {"1": 2}),
    "named": ((), {"mask": t(1), "flag": True}, {"mask": 1}),
    "both": ((t(1),), {"mask": t(2)}, {"0": 1, "mask": 2}),
    "a dictionary": (
        ({"a": t(1), "b": [t(2), None, t(3)]},), {}, {"0.a": 1, "0.b.0": 2, "0.b.2": 3}
    ),
    "an ordered one": ((OrderedDict(z=t(1), a=t(2)),), {}, {"0.z": 1, "0.a": 2}),
    "a list": (([t(1), (t(2), t(3))],), {}, {"0.0": 1, "0.1.0": 2, "0.1.1": 3}),
    "numbers as keys": (({3: t(1), 5: {7: t(2)}},), {}, {"0.3": 1, "0.5.7": 2}),
    "a dataclass": ((Data(t(1), "x", [t(2)]),), {}, {"0.x": 1, "0.more.0": 2}),
    "a named tuple": ((Named(t(1), {"k": t(2)}),), {}, {"0.left": 1, "0.right.k": 2}),
    "all at once": (
        ([Data(t(1), "", Named(t(2), (t(3),)))], t(4)),
        {"cache": {"0": [t(5)]}},
        {"0.0.x": 1, "0.0.more.left": 2, "0.0.more.right.0": 3, "1": 4, "cache.0.0": 5},
    ),
    "nothing": ((), {"flag": True}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs", "paths"), NESTED.values(), ids=NESTED)
def test_tensors_in_nested_inputs_and_outputs_are_found_with_their_paths(
    args, kwargs, paths, layers
):
    model = Echo()
    with opscope.trace(model, layers=layers) as trace:
        model(*args, **kwargs)
    (call,) = trace.recording.module_calls
    values = trace.recording.values
    assert {leaf.path: values[leaf.value].numel for leaf in call.inputs} == paths
    assert len(call.inputs) == len(paths)
    # What it gives back is the argument itself where there is one only.
    lone = len(args) == 1 and not kwargs
    given_back = [path.removeprefix("0.") if lone else path for path in paths]
    assert [leaf.path for leaf in call.outputs] == given_back
    for kind, leaves in (("input", call.inputs), ("output", call.outputs)):
        calls = [c for c in trace.recording.layer_calls if c.kind == kind]
        assert [c.path for c in calls] == [leaf.path for leaf in leaves]


def test_the_leaves_of_inner_calls_lead_to_the_ops_that_made_them():
    model = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5))
    with torch.no_grad(), opscope.trace(model) as trace:
        model(torch.ones(2, 3))
    linear, lstm = trace.recording.module_calls[1:]
    values = trace.recording.values
    assert [leaf.path for leaf in lstm.outputs] == ["0", "1.0", "1.1"]
    assert lstm.inputs[0].value == linear.outputs[0].value
    assert trace.ops[values[lstm.inputs[0].value].made_by].name == "addmm"
    assert [values[leaf.value].shape for leaf in lstm.outputs] == [(2, 5), (1, 5), (1, 5)]


def test_a_models_own_output_class_is_looked_into():
    program = zoo.shared("vit")
    trace = traced(program)
    root = trace.recording.module_calls[0]
    assert [leaf.path for leaf in root.inputs] == ["pixel_values"]
    assert [leaf.path for leaf in root.outputs] == ["last_hidden_state", "pooler_output"]


def test_the_named_inputs_of_gpt2_are_found():
    root = traced(zoo.shared("gpt2")).recording.module_calls[0]
    assert [leaf.path for leaf in root.inputs] == ["input_ids", "attention_mask"]
    assert root.outputs[0].path == "logits"


# ------------------------------------------------------------------- calls without an op


@pytest.mark.parametrize("kind", [nn.Identity, nn.Dropout, nn.Dropout2d, Echo])
def test_a_module_that_hands_its_input_on_is_a_layer_without_ops(kind, layers):
    model, x = nn.Sequential(nn.ReLU(), kind(), nn.Tanh()).eval(), torch.ones(1, 2, 3, 3)
    with opscope.trace(model, layers=layers) as trace:
        model(x)
    relu, handed, tanh = trace.layers[1:-1]
    assert (relu.module, handed.module, tanh.module) == ("0", "1", "2")
    assert handed.ops == ()
    assert handed.parents == (relu,)
    assert handed.children == (tanh,)
    assert handed.output_of == ("1",)
    assert handed.shape == (1, 2, 3, 3)
    assert [op.name for op in trace.ops] == ["relu", "tanh"]


def test_a_chain_of_modules_that_do_nothing_is_a_chain_of_layers(layers):
    model, x = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity()), torch.ones(2)
    with opscope.trace(model, layers=layers) as trace:
        y = model(x)
    assert y is x
    assert [layer.module for layer in trace.layers[1:-1]] == ["0", "1", "2"]
    assert [layer.parents for layer in trace.layers[1:]] == [
        (layer,) for layer in trace.layers[:-1]
    ]
