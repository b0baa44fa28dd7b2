"""What is recorded of real models, and that watching changes nothing."""

from contextlib import nullcontext
from itertools import product
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from tests import witness, zoo
from torch import nn

import opscope
from opscope.errors import OpscopeError, OptionError, TraceStateError

SETTINGS = [
    (name, training, grad, layers)
    for name, training, grad, layers in product(
        zoo.NAMES, (False, True), (False, True), (True, False)
    )
    if name in zoo.HAVE_TRAINING or not training
]


def describe(setting):
    name, training, grad, layers = setting
    words = (name, "train" if training else "eval", "grad" if grad else "no_grad")
    return "-".join((*words, "layers" if layers else "ops"))


def observe(program, around, state):
    """Run a program from the same state each time, and return all that can be seen of it."""
    with torch.no_grad():
        program.restore(state)
    args, kwargs = program.args, program.kwargs
    program.args = tuple(value.clone() for value in args)  # in case it writes them
    torch.manual_seed(7)
    try:
        with around as watcher:
            output = program.run()
    finally:
        given, program.args, program.kwargs = program.args, args, kwargs
    return SimpleNamespace(
        watcher=watcher,
        output=witness.bits(output),
        inputs=witness.bits(given),
        rng=torch.get_rng_state(),
        left=(witness.watchers(), witness.attributes_of_torch()),
        model=witness.state_of(program.module),
    )


@pytest.fixture(scope="module", params=SETTINGS, ids=describe)
def runs(request):
    """One program run plainly, under an independent observer, and under a trace."""
    name, training, grad, layers = request.param
    program = zoo.shared(name, training=training)
    state = program.state()
    with torch.set_grad_enabled(grad):
        program.run()  # what is imported or cached at a first run is not the trace's doing
        plain = observe(program, nullcontext(), state)
        watched = observe(program, witness.Witness(), state)
        traced = observe(program, opscope.trace(program.module, layers=layers), state)
    with torch.no_grad():
        program.restore(state)
    return SimpleNamespace(plain=plain, watched=watched, traced=traced)


def test_a_trace_has_the_operators_and_shapes_that_a_dispatch_mode_sees(runs):
    assert witness.recorded(runs.traced.watcher) == runs.watched.watcher.ops


def test_the_output_is_bit_for_bit_what_an_untraced_run_gives(runs):
    assert runs.traced.output == runs.plain.output
    assert runs.traced.inputs == runs.plain.inputs


def test_random_numbers_go_on_as_after_an_untraced_run(runs):
    assert torch.equal(runs.traced.rng, runs.plain.rng)


def test_hooks_modes_and_torchs_attributes_are_as_after_an_untraced_run(runs):
    assert runs.traced.left == runs.plain.left


def test_modules_parameters_and_buffers_are_as_after_an_untraced_run(runs):
    assert runs.traced.model == runs.plain.model


@pytest.mark.parametrize("name", ["encoder"])
def test_a_transformer_in_eval_mode_keeps_its_fused_kernel(name, layers):
    program = zoo.shared(name)
    with torch.no_grad(), opscope.trace(program.module, layers=layers) as trace:
        program.run()
    fused = [op for op in trace.ops if op.name == "_transformer_encoder_layer_fwd"]
    assert len(fused) == 2


@pytest.mark.parametrize("save", [None, "all"])
def test_a_training_step_trains_to_the_same_weights(layers, save):
    """Forward, backward and the optimizer's step, all inside the trace."""

    def step(program, around):
        optimizer = torch.optim.SGD(program.module.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(3)
        with around as watcher:
            for _ in range(2):
                optimizer.zero_grad()
                program.run().square().mean().backward()
                optimizer.step()
        grads = [witness.bits(p.grad) for p in program.module.parameters()]
        return witness.bits(list(program.module.state_dict().values())), grads, watcher

    plain = step(zoo.build("resnet18", training=True), nullcontext())
    watched = step(zoo.build("resnet18", training=True), witness.Witness())
    program = zoo.build("resnet18", training=True)
    traced = step(program, opscope.trace(program.module, layers=layers, save=save))
    assert traced[:2] == plain[:2]
    assert witness.recorded(traced[2]) == watched[2].ops


# ------------------------------------------------------------------ the life of a trace


READS = {
    "ops": lambda trace: trace.ops,
    "modules": lambda trace: trace.modules,
    "parameters": lambda trace: trace.parameters,
    "failure": lambda trace: trace.failure,
    "recording": lambda trace: trace.recording,
    "totals": lambda trace: trace.totals,
    "layers": lambda trace: trace.layers,
    "layer_labels": lambda trace: trace.layer_labels,
    "a layer": lambda trace: trace["relu"],
    "len": len,
    "iter": list,
    "graph": lambda trace: trace.graph(),
    "summary": lambda trace: trace.summary(),
    "to_dot": lambda trace: trace.to_dot(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_unfinished_trace_cannot_be_read_and_can_be_read_later(read):
    trace, x = opscope.trace(), torch.ones(2)
    with pytest.raises(TraceStateError, match="never entered"):
        read(trace)
    with trace:
        x.relu()
        with pytest.raises(TraceStateError, match="still being recorded"):
            read(trace)
        x.sigmoid()
    assert [op.name for op in trace.ops] == ["relu", "sigmoid"]
    read(trace)


def test_an_unfinished_trace_says_so_when_it_is_printed():
    trace = opscope.trace()
    assert str(trace) == "<opscope.Trace, not entered>"
    with trace:
        assert str(trace) == "<opscope.Trace, recording>"


def test_a_trace_entered_inside_itself_keeps_recording():
    x = torch.ones(2)
    with opscope.trace() as trace:
        x.relu()
        with pytest.raises(TraceStateError, match="leave its block before"), trace:
            raise AssertionError
        x.sigmoid()
    assert [op.name for op in trace.ops] == ["relu", "sigmoid"]


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((nn.ReLU,), {}, "model"),
        ((zoo.juggle,), {}, "model"),
        (("resnet18",), {}, "model"),
        ((), {"layers": "yes"}, "layers"),
        ((), {"layers": None}, "layers"),
        ((), {"save": "relu"}, "save"),
        ((), {"save": 3}, "save"),
        ((), {"save": True}, "save"),
        ((), {"save": [""]}, "save"),
        ((), {"save": ["relu", None]}, "save"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_runs(arguments, options, match):
    with pytest.raises(OptionError, match=match) as caught, opscope.trace(*arguments, **options):
        raise AssertionError
    assert isinstance(caught.value, (OpscopeError, ValueError))
    assert not any(witness.watchers().values())


def test_traces_one_inside_the_other_both_see_everything(layers):
    program = zoo.shared("recurrent")
    with witness.Witness() as seen:
        program.run()
    first = opscope.trace(layers=layers)
    second = opscope.trace(program.module, layers=layers)
    with first, second:
        program.run()
    assert witness.recorded(first) == witness.recorded(second) == seen.ops
    assert witness.recorded_calls(first) == witness.recorded_calls(second)
    assert first.layer_labels == second.layer_labels


@pytest.mark.parametrize("save", [None, "all"])
@pytest.mark.parametrize(
    "program",
    [lambda x: x.relu().add_(1), lambda x: x * torch.tensor(2.0)],
    ids=["write", "constant"],
)
def test_the_copies_that_a_trace_makes_are_no_ops_to_other_observers(program, save, layers):
    x = torch.ones(3)
    with witness.Witness() as alone:
        program(x)
    with witness.Witness() as around, opscope.trace(layers=layers, save=save):
        program(x)
    assert around.ops == alone.ops


# ------------------------------------------------------------------------------ threads


def in_another_thread(function, *args):
    thread = Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_what_another_thread_runs_is_not_recorded(layers):
    program = zoo.shared("recurrent")
    with opscope.trace(program.module, layers=layers) as alone:
        program.run()
    with opscope.trace(program.module, layers=layers) as trace:
        in_another_thread(program.run)
        program.run()
        in_another_thread(program.run)
    assert witness.recorded(trace) == witness.recorded(alone)
    assert witness.recorded_calls(trace) == witness.recorded_calls(alone)


class Delegating(nn.Module):
    """Has another thread run a part of it in the middle of its forward."""

    def __init__(self):
        super().__init__()
        self.here, self.there = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.here(x)
        in_another_thread(self.there, x)
        return x.relu()


def test_another_thread_does_not_disturb_the_module_that_is_running_here(layers):
    model, x = Delegating(), torch.ones(1, 3)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(x)
    assert witness.recorded_calls(trace) == [("", None, 1, "Delegating"), ("here", 0, 1, "Linear")]
    assert trace.ops[-1].name == "relu"
    assert trace.ops[-1].module_call == 0
