"""Wherever a program fails, its exception is its own, the record is kept, and nothing is left."""

import gc
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from tests import invariants, witness
from torch import nn

import opscope


class Mine(Exception):
    pass


class AtNode(torch.autograd.Function):
    """Fails on its way back."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise ERRORS[-1]


ERRORS = []
X = torch.ones(2, 3)


def network():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))


def fail(*_):
    raise ERRORS[-1]


@contextmanager
def nothing_left():
    """Check that no mode and no hook is left behind."""
    before = witness.watchers()
    yield
    assert witness.watchers() == before


def in_a_gradient_hook(model):
    y = model[0](X)
    y.register_hook(fail)
    model[1:](y).sum().backward()


def in_a_backward_hook_of_a_module(model):
    model[0].register_full_backward_hook(fail)
    model(X.clone().requires_grad_()).sum().backward()


def in_a_hook_after_accumulation(model):
    model[0].weight.register_post_accumulate_grad_hook(fail)
    model(X).sum().backward()


def in_a_node_of_autograd(model):
    AtNode.apply(model(X)).sum().backward()


def in_a_recomputed_part(model):
    calls = []

    def part(x):
        calls.append(x)
        if len(calls) == 2:
            fail()
        return model(x)

    torch.utils.checkpoint.checkpoint(part, X, use_reentrant=False).sum().backward()


def in_an_optimizer(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.register_step_pre_hook(fail)
    model(X).sum().backward()
    optimizer.step()


def in_a_data_loader(model):
    class Data(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield X[0]
            fail()

    for batch in torch.utils.data.DataLoader(Data(), batch_size=1):
        model(batch)


def in_a_hook_of_a_saved_tensor(model):
    with torch.autograd.graph.saved_tensors_hooks(fail, lambda x: x):
        model(X)


def in_a_function_mode_of_the_users(model):
    class Failing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            fail()

    with Failing():
        model(X)


def in_a_generator_that_is_thrown_into(model):
    def steps():
        yield model(X)

    generator = steps()
    next(generator)
    generator.throw(ERRORS[-1])


def out_of_memory(model):
    ERRORS[-1] = torch.OutOfMemoryError("simulated")
    model.register_forward_hook(fail)
    model(X)


PROGRAMS = [
    in_a_gradient_hook,
    in_a_backward_hook_of_a_module,
    in_a_hook_after_accumulation,
    in_a_node_of_autograd,
    in_a_recomputed_part,
    in_an_optimizer,
    in_a_data_loader,
    in_a_hook_of_a_saved_tensor,
    in_a_function_mode_of_the_users,
    in_a_generator_that_is_thrown_into,
    out_of_memory,
]
programs = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)


@pytest.fixture(autouse=True)
def let_go():
    yield
    ERRORS.clear()


@programs
@pytest.mark.parametrize("save", [None, "all"])
def test_an_exception_at_any_point_is_the_users_own_and_the_record_can_be_read(
    program, save, layers
):
    ERRORS.append(Mine("mine"))
    model = network()
    trace = opscope.trace(model, layers=layers, save=save)
    with nothing_left(), pytest.raises((Mine, torch.OutOfMemoryError)) as caught, trace:
        program(model)
    assert caught.value is ERRORS[-1]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert trace.failure.exception == type(ERRORS[-1]).__name__
    assert trace.failure.frame.file == __file__
    assert str(trace)
    assert str(trace.summary("op"))
    invariants.check(trace)


@programs
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_is_no_error_leaves_as_little_behind(program, error, layers):
    ERRORS.append(error())
    model = network()
    trace = opscope.trace(model, layers=layers)
    with nothing_left(), pytest.raises(BaseException) as caught, trace:
        program(model)
    assert caught.value is ERRORS[-1]
    with opscope.trace(again := network(), layers=layers) as after:
        again(X)
    assert after.failure is None
    invariants.check(after)


def test_memory_that_the_allocator_does_not_have_is_said_by_the_op(layers):
    model = nn.Sequential(nn.Linear(3, 3), nn.Flatten())
    model[1].forward = lambda x: x.new_empty(10**16)
    trace = opscope.trace(model, layers=layers)
    with witness.untouched(), pytest.raises(RuntimeError, match="memory"), trace:
        model(X)
    failed = trace.ops[trace.failure.op]
    assert (failed.name, failed.failed) == ("new_empty", True)


def test_a_generator_with_a_trace_that_is_closed_keeps_what_ran(layers):
    found = []

    def steps():
        with opscope.trace(layers=layers) as trace:
            found.append(trace)
            yield X.sin()
            yield X.cos()

    with witness.untouched():
        generator = steps()
        next(generator)
        generator.close()
    (trace,) = found
    assert [op.name for op in trace.ops] == ["sin"]
    assert trace.failure.exception == "GeneratorExit"


def test_a_generator_with_a_trace_that_is_dropped_leaves_nothing(layers):
    def steps():
        with opscope.trace(layers=layers):
            yield X.sin()

    with witness.untouched():
        generator = steps()
        next(generator)
        del generator
        gc.collect()


@programs
def test_an_exception_in_another_thread_ends_that_threads_trace_alone(program, layers):
    ERRORS.append(Mine("mine"))
    caught = []

    def run():
        model = network()
        trace = opscope.trace(model, layers=layers)
        try:
            with trace:
                program(model)
        except (Mine, torch.OutOfMemoryError) as error:
            caught.append((trace, error))

    with nothing_left(), opscope.trace(layers=layers) as here:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        X.sin()
    ((trace, error),) = caught
    assert error is ERRORS[-1]
    assert trace.failure is not None
    assert here.failure is None
    assert [op.name for op in here.ops] == ["sin"]


# -------------------------------------------------------------------------- what is left


def objects():
    """Count the live objects of opscope's and torch's classes, by class."""
    gc.collect()
    return Counter(
        f"{type(item).__module__}.{type(item).__qualname__}"
        for item in gc.get_objects()
        if str(type(item).__module__).partition(".")[0] in ("opscope", "torch")
    )


@pytest.mark.slow
@programs
def test_ten_failures_leave_no_object_behind(program, layers):
    def once():
        ERRORS[:] = [Mine("mine")]
        model = network()
        try:
            with opscope.trace(model, layers=layers, save="all"):
                program(model)
        except (Mine, torch.OutOfMemoryError):
            pass
        ERRORS.clear()

    once()
    before = objects()
    for _ in range(10):
        once()
    more = {name: n - before[name] for name, n in objects().items() if n - before[name] >= 5}
    assert not more


@programs
def test_nothing_refers_to_the_model_and_its_exception_afterwards(program, layers):
    def run():
        ERRORS[:] = [Mine("mine")]
        model = network()
        trace = opscope.trace(model, layers=layers)
        try:
            with trace:
                program(model)
        except (Mine, torch.OutOfMemoryError):
            pass
        gone.extend(weakref.ref(thing) for thing in (model, *model.parameters(), ERRORS[-1]))
        ERRORS.clear()
        return trace

    gone = []
    trace = run()
    gc.collect()
    assert trace.failure is not None
    assert [thing() for thing in gone if thing() is not None] == []


@pytest.mark.filterwarnings("ignore:global module forward hook")  # it had no room to run either
def test_the_depth_of_the_stack_is_the_users(layers):
    """A recursion that is too deep ends in a RecursionError of its own, and can go on after."""

    class Deep(nn.Module):
        def forward(self, x):
            return self(x)

    model = Deep()
    limit = sys.getrecursionlimit()
    trace = opscope.trace(model, layers=layers)
    with nothing_left(), pytest.raises(RecursionError), trace:
        model(X)
    assert trace.failure.exception == "RecursionError"
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("save", [None, "all"])
def test_a_function_mode_of_the_users_sees_its_own_program_only(save, layers):
    class Noting(torch.overrides.TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    model = network()
    with Noting() as plain:
        model(X).sum().backward()
    with opscope.trace(model, layers=layers, save=save), Noting() as inside:
        model(X).sum().backward()
    with Noting() as around, opscope.trace(model, layers=layers, save=save):
        model(X).sum().backward()
    assert inside.seen == around.seen == plain.seen
