"""An interrupt at any moment leaves torch as it was, and a record that is right or raises."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch
from tests import invariants, witness
from tests.interrupts import Interrupt, Moments, alone, state
from torch import nn

import opscope

# Of the moments of each phase, by chance; `nox -s stress` has many more.
PER_PHASE = int(os.environ.get("OPSCOPE_INTERRUPTS", "8"))
X = torch.rand(2, 3)

# Python ignores what is raised in a generator that goes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x, scale=None):
        y = self.norm(self.first(x)) * torch.tensor(scale)
        y[0] = 0
        y = self.attention(y[None], y[None], y[None])[0][0]
        return {"y": y.relu(), "z": y}


def run(model):
    return model(X, scale=2.0)


class Halve:
    def replace(self, call):
        is_meant = call.name in ("relu", "first")
        return call.result / 2 if is_meant else None


OPTIONS = {
    "layers": {},
    "ops only": {"layers": False},
    "all is kept": {"replayable": True},
    "gradients": {"save": "all", "gradients": "all"},
    "without a name": {"is_named": False},
    "edited": {"editors": [Halve()]},
    "memory": {"memory": True},
    "digests": {"digests": True},
}


def start(options):
    options = dict(options)
    model = Model().eval()
    return model, opscope.trace(model if options.pop("is_named", True) else None, **options)


def record_of(trace):
    found = trace.recording
    return (
        [op.operator for op in found.ops],
        [[read.value for read in op.reads] for op in found.ops],
        [call.function for call in found.layer_calls],
        [(found.modules[run.module].address, run.number, run.ops) for run in found.module_calls],
        [(item.name, item.value, item.shape) for item in found.parameters],
        [value.origin for value in found.values],
        trace.layer_labels,
    )


def moments(phase, options, seed):
    """Return some of the moments of a phase, chosen by chance."""
    counted = Moments()
    PHASES[phase](counted, *start(options))
    assert counted.count > 20, "nothing was interrupted"
    chosen = random.Random(f"{seed} {phase}")
    everything = range(1, counted.count + 1)
    return sorted(chosen.sample(everything, min(PER_PHASE, counted.count)))


def on_entering(aim, model, trace):
    aim.aim()
    try:
        with trace:
            sys.settrace(None)
            run(model)
    finally:
        sys.settrace(None)


def while_running(aim, model, trace):
    try:
        with trace:
            aim.aim()
            run(model)
            sys.settrace(None)
    finally:
        sys.settrace(None)


def on_leaving(aim, model, trace):
    try:
        with trace:
            run(model)
            aim.aim()
    finally:
        sys.settrace(None)


def on_leaving_in_an_error(aim, model, trace):
    try:
        with suppress(LookupError), trace:
            run(model)
            aim.aim()
            raise LookupError
    finally:
        sys.settrace(None)


PHASES = {
    "entering": on_entering,
    "running": while_running,
    "leaving": on_leaving,
    "failing": on_leaving_in_an_error,
}


@pytest.fixture(autouse=True)
def no_grad():
    """Keep grad modes out of it: torch's own contexts may be interrupted as they are left."""
    with torch.no_grad():
        yield


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("phase", PHASES)
def test_an_interrupt_of_the_block_leaves_torch_as_it_was_and_a_way_back(phase, options):
    model, trace = start(options)
    with trace:
        run(model)
    expected, before = record_of(trace), state()
    for at in moments(phase, options, "block"):
        model, trace = start(options)
        aim = Moments(at)
        try:
            alone(PHASES[phase], aim, model, trace)
        except Interrupt:
            pass
        else:  # in a generator that went, of whose errors Python tells nobody
            assert aim.where is None or aim.where.startswith("call"), aim.where
            continue
        assert state() == before, aim.where
        if phase == "entering":
            with pytest.raises(opscope.TraceStateError, match="never entered"):
                _ = trace.recording
        else:
            invariants.check(trace)
            if phase != "running":
                assert record_of(trace) == expected, aim.where
        with trace:
            run(model)
        assert state() == before, aim.where
        invariants.check(trace)
        operators = [op.operator for op in trace.ops]
        assert operators[-len(expected[0]) :] == expected[0], aim.where
        if phase == "entering":
            assert record_of(trace) == expected, aim.where


READINGS = {
    "labels": lambda trace: trace.layer_labels,
    "a table": lambda trace: str(trace.summary()),
    "a picture": lambda trace: str(trace.to_dot()),
    "an activation": lambda trace: trace["output_1"].activation,
    "a text": str,
}


@pytest.mark.parametrize("error", [Interrupt, MemoryError])
@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_what_is_read_after_an_interrupted_reading_is_right(reading, error):
    model, trace = start({"save": "all"})
    with trace:
        run(model)
    counted = Moments()
    counted.around(reading, trace)
    expected = reading(trace)
    chosen = random.Random("reading").sample(range(1, counted.count + 1), PER_PHASE)
    for at in sorted(chosen):
        torch.manual_seed(0)
        model, trace = start({"save": "all"})
        with trace:
            run(model)
        aim = Moments(at, error=error)
        aim.around(reading, trace)
        found = reading(trace)
        if isinstance(found, torch.Tensor):
            assert found.shape == expected.shape
        else:
            assert _without_times(found) == _without_times(expected), aim.where
        invariants.check(trace)
        assert not any(witness.watchers().values())


def _without_times(found):
    text = found if isinstance(found, str) else repr(found)
    return [word for word in text.split() if not word[:1].isdigit() and word not in ("µs", "ms")]


def test_signals_at_random_change_no_record_and_leave_nothing_on():
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are raised in the main thread, by a timer that is not everywhere")
    model, trace = start({})
    began = time.perf_counter()
    with trace:
        run(model)
    expected, before = record_of(trace), state()
    span = time.perf_counter() - began
    is_armed, hits = [False], 0

    def interrupt(*_):
        if is_armed[0]:
            is_armed[0] = False
            raise Interrupt

    chance, handler = random.Random("signals"), signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(4 * PER_PHASE):
            options = list(OPTIONS.values())[number % len(OPTIONS)]
            model, trace = start(options)
            has_run = False
            try:
                is_armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, chance.random() * span + 1e-6)
                with trace:
                    run(model)
                    has_run = True
                str(trace.summary())
                is_armed[0] = False
            except Interrupt:
                hits += 1
            finally:
                is_armed[0] = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert state() == before
            if has_run:
                invariants.check(trace)
                assert options or record_of(trace) == expected
            with trace:
                run(model)
            assert state() == before
            invariants.check(trace)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert hits > PER_PHASE / 2


OUT_OF_MEMORY = """
import resource
import torch
import opscope

x, count = torch.ones(4), 0
with torch.no_grad():
    with opscope.trace() as warm:
        torch.relu(x)
    warm.layer_labels
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 32 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    trace = opscope.trace()
    try:
        with trace:
            while count < 1_000_000:
                torch.relu(x)
                count += 1
    except (MemoryError, RuntimeError):  # torch's own allocator raises the other
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    print(modes, type(trace.failure).__name__, len(trace.ops) - count in (0, 1), count > 1000)
    print({op.operator for op in trace.ops})
"""


def test_a_trace_that_ran_out_of_memory_can_be_read_up_to_there():
    pytest.importorskip("resource")
    if not os.path.exists("/proc/self/statm"):  # noqa: PTH110 (no path of the project's)
        pytest.skip("nothing tells how much memory a process has")
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines() == ["0 Failure True True", "{'aten.relu.default'}"], done
