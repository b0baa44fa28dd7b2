"""A trace is of one thread, and of one task in it."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests import invariants, witness, zoo
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope import TraceStateError

X = torch.ones(2, 4)
PARTS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU)


def network(part):
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), part()) for _ in range(4)))


def in_threads(*functions):
    """Run functions in a thread each, all at once; return what each returned."""
    together = threading.Barrier(len(functions))

    def start(function):
        together.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(start, f) for f in functions]]


def gradients(model):
    return witness.bits([parameter.grad for parameter in model.parameters()])


def test_four_threads_that_trace_four_models_at_once_get_each_its_own(layers):
    def alone(model):
        with opscope.trace(model, layers=layers, save="all") as trace:
            model(X).sum().backward()
        return trace

    def often(model):
        def run():
            traces = []
            for _ in range(10):
                model.zero_grad()
                traces.append(alone(model))
            return traces

        return run

    models = [network(part) for part in PARTS]
    expected = [alone(model) for model in models]
    grads = [gradients(model) for model in models]
    with witness.untouched():
        found = in_threads(*(often(model) for model in models))
    assert [gradients(model) for model in models] == grads
    for one, traces in zip(expected, found, strict=True):
        for trace in traces:
            assert trace.layer_labels == one.layer_labels
            assert witness.recorded(trace) == witness.recorded(one)
            assert witness.recorded_calls(trace) == witness.recorded_calls(one)
            assert trace.modules == one.modules
            assert torch.equal(trace["output_1"].activation, one["output_1"].activation)
        invariants.check(traces[-1])


def test_four_threads_that_trace_one_model_at_once_get_each_a_whole_trace(layers):
    model = network(nn.ReLU)
    model.register_forward_hook(lambda module, args, output: output.exp())

    def run():
        with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
            model(X)
        return trace

    expected = run()
    with witness.untouched(model):
        found = in_threads(*[lambda: [run() for _ in range(10)]] * 4)
    for trace in (trace for traces in found for trace in traces):
        assert trace.layer_labels == expected.layer_labels
        assert witness.recorded_calls(trace) == witness.recorded_calls(expected)


def test_an_exception_in_one_thread_is_no_failure_of_the_others():
    good, bad = network(nn.ReLU), nn.Linear(7, 7)

    def fail():
        trace = opscope.trace(bad)
        with pytest.raises(RuntimeError, match="shapes"), trace:
            bad(X)
        return trace

    def succeed():
        with opscope.trace(good) as trace:
            good(X)
        return trace

    with witness.untouched():
        traces = in_threads(fail, succeed, fail, succeed)
    assert [trace.failure is None for trace in traces] == [False, True, False, True]


def test_data_parallel_on_a_cpu_is_seen_as_the_module_it_holds(layers):
    model = nn.DataParallel(network(nn.ReLU))
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert [call[0] for call in witness.recorded_calls(trace)][:3] == ["", "module", "module.0"]
    invariants.check(trace)


def test_a_backward_pass_on_a_cpu_is_of_the_thread_that_asked_for_it(layers):
    model = network(nn.ReLU)
    with opscope.trace(model, layers=layers) as trace:
        loss = model(X).sum()
        in_threads(lambda: model(X).sum().backward())
        loss.backward()
    alone = opscope.trace(model, layers=layers)
    with alone:
        model(X).sum().backward()
    assert [op.operator for op in trace.ops if op.phase == "backward"].count("aten.mm.default") == 7
    assert len([op for op in trace.ops if op.phase != "backward"]) == len(
        [op for op in alone.ops if op.phase != "backward"]
    )


# ----------------------------------------------------------------- left somewhere else


def test_a_trace_is_left_in_the_thread_that_entered_it():
    trace = opscope.trace()
    trace.__enter__()

    def leave():
        with pytest.raises(TraceStateError, match="entered in another thread"):
            trace.__exit__(None, None, None)

    in_threads(leave)
    X.sin()
    trace.__exit__(None, None, None)
    assert [op.name for op in trace.ops] == ["sin"]


def test_an_exception_that_leaves_a_trace_in_another_thread_is_its_own():
    def steps():
        with opscope.trace() as trace:
            yield trace
            raise LookupError("mine")

    generator = steps()
    trace = next(generator)

    def fail():
        with pytest.raises(LookupError, match="mine"):
            next(generator)

    in_threads(fail)
    trace.__exit__(None, None, None)


@pytest.mark.parametrize("entered", [False, True], ids=["never entered", "left before"])
def test_a_trace_that_is_not_on_cannot_be_left(entered):
    trace = opscope.trace()
    if entered:
        with trace:
            X.sin()
    with witness.untouched(), pytest.raises(TraceStateError, match="not being recorded"):
        trace.__exit__(None, None, None)
    assert ("not entered" in repr(trace)) != entered


# -------------------------------------------------------------------- left out of order


def traced_steps(found, function, layers):
    with opscope.trace(layers=layers) as trace:
        found.append(trace)
        for _ in range(3):
            function(X)
            yield


def test_traces_in_generators_that_take_turns_are_left_in_any_order(layers):
    found = []
    with witness.untouched():
        first = traced_steps(found, torch.sin, layers)
        second = traced_steps(found, torch.cos, layers)
        for generator in (first, second, first, second):
            next(generator)
        first.close()  # it is the lower one
        next(second)
        second.close()
    assert [[op.name for op in trace.ops] for trace in found] == [
        ["sin", "cos", "sin", "cos"],  # what ran in this thread between its enter and exit
        ["cos", "sin", "cos", "cos"],
    ]


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_mode_that_outlives_the_trace_it_was_entered_in_goes_on(layers):
    mode = Counting()
    with opscope.trace(layers=layers) as trace:
        mode.__enter__()
        X.sin()
    X.cos()
    mode.__exit__(None, None, None)
    X.tan()
    assert mode.count == 2
    assert [op.name for op in trace.ops] == ["sin"]


def test_a_function_mode_that_outlives_the_trace_goes_on(layers):
    mode = torch.overrides.BaseTorchFunctionMode()
    with opscope.trace(layers=layers):
        mode.__enter__()
    assert torch.overrides._get_current_function_mode() is mode
    mode.__exit__(None, None, None)


def test_a_mode_that_is_left_too_early_leaves_nothing_behind(layers):
    mode = Counting()
    with witness.untouched():
        mode.__enter__()
        with opscope.trace(layers=layers):
            X.sin()
            mode.__exit__(None, None, None)  # takes off the uppermost, as torch's modes do


# -------------------------------------------------------------------------------- tasks


async def traced_task(function):
    with opscope.trace() as trace:
        function(X)
        await asyncio.sleep(0)
        function(X)
    return trace


def test_a_second_task_that_traces_in_the_middle_of_another_is_refused():
    async def both():
        return await asyncio.gather(
            traced_task(torch.sin), traced_task(torch.cos), return_exceptions=True
        )

    with witness.untouched():
        first, second = asyncio.run(both())
    assert [op.name for op in first.ops] == ["sin", "sin"]
    assert isinstance(second, TraceStateError)
    assert "another task of this thread is being traced" in str(second)


def test_the_trace_that_was_refused_can_be_entered_later():
    trace = opscope.trace()

    async def refused():
        with pytest.raises(TraceStateError), trace:
            raise AssertionError

    async def both():
        await asyncio.gather(traced_task(torch.sin), refused())

    asyncio.run(both())
    with trace:
        X.tan()
    assert [op.name for op in trace.ops] == ["tan"]


def test_tasks_that_trace_one_after_the_other_have_each_their_own():
    async def one_by_one():
        lock = asyncio.Lock()

        async def guarded(function):
            async with lock:
                return await traced_task(function)

        return await asyncio.gather(guarded(torch.sin), guarded(torch.cos))

    traces = asyncio.run(one_by_one())
    assert [[op.name for op in trace.ops] for trace in traces] == [["sin"] * 2, ["cos"] * 2]


def test_a_trace_around_tasks_has_the_ops_of_all_and_one_inside_its_own():
    async def plain():
        await asyncio.sleep(0)
        torch.tan(X)

    async def around():
        with opscope.trace() as outer:
            await asyncio.gather(plain(), plain())
            inner = await asyncio.create_task(traced_task(torch.sin))
        return outer, inner

    outer, inner = asyncio.run(around())
    assert [op.name for op in outer.ops] == ["tan", "tan", "sin", "sin"]
    assert [op.name for op in inner.ops] == ["sin", "sin"]


def test_what_untraced_tasks_run_during_an_await_is_in_the_trace_of_the_thread():
    async def plain():
        torch.tan(X)

    async def both():
        trace, _ = await asyncio.gather(traced_task(torch.sin), plain())
        return trace

    assert [op.name for op in asyncio.run(both()).ops] == ["sin", "tan", "sin"]


def test_a_task_may_hand_a_traced_model_to_another_thread():
    model = zoo.shared("recurrent").module

    def run():
        with opscope.trace(model) as trace:
            model(torch.ones(1, 5))
        return trace

    async def both():
        with opscope.trace() as here:
            return here, await asyncio.to_thread(run)

    here, there = asyncio.run(both())
    assert len(here.ops) == 0
    assert len(there.ops) > 0


# ------------------------------------------------------------------------------ letting go


def test_a_trace_that_is_let_go_of_is_gone_at_once_with_what_it_saved(layers):
    gc.collect()
    gc.disable()
    try:
        model, saved = network(nn.ReLU), []

        def kept(tensor):
            copy = tensor.clone()
            saved.append(weakref.ref(copy))
            return copy

        with (
            torch.no_grad(),
            opscope.trace(model, layers=layers, save=opscope.Save("all", transform=kept)) as trace,
        ):
            model(X)
        assert all(ref() is not None for ref in saved)
        del trace
        assert not any(ref() is not None for ref in saved)
    finally:
        gc.enable()
