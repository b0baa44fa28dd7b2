"""A program that fails inside a trace fails just as it would outside, and the trace says where."""

import weakref

import pytest
import torch
from tests import witness, zoo
from torch import nn

import opscope


class Failing(nn.Module):
    """Does some work, and then fails in the way that it is told to, two modules deep."""

    def __init__(self, way):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.block = nn.Sequential(nn.ReLU(), Core(way))

    def forward(self, x):
        return self.block(self.first(x))


class Core(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way
        self.narrow = nn.Linear(3, 2)
        self.wrong = nn.Linear(7, 2)

    def forward(self, x):
        x = self.narrow(x)
        return self.way(self, x)


RAISED = []


def in_a_matrix_product(core, x):
    return x @ torch.ones(5, 5)  # <- fails


def in_a_submodule(core, x):
    return core.wrong(x)  # <- fails


def in_python(core, x):
    RAISED.append(LookupError("not there", 3))
    raise RAISED[-1]  # <- fails


def by_interruption(core, x):
    RAISED.append(KeyboardInterrupt())
    raise RAISED[-1]  # <- fails


def by_exiting(core, x):
    RAISED.append(SystemExit(3))
    raise RAISED[-1]  # <- fails


def in_a_check_of_torchs(core, x):
    return nn.functional.dropout(x, p=2.0)  # <- fails


WAYS = {
    # how: exception, operator that fails, module that was running
    in_a_matrix_product: (RuntimeError, "aten.mm.default", "block.1"),
    in_a_submodule: (RuntimeError, "aten.addmm.default", "block.1.wrong"),
    in_python: (LookupError, None, "block.1"),
    by_interruption: (KeyboardInterrupt, None, "block.1"),
    by_exiting: (SystemExit, None, "block.1"),
    in_a_check_of_torchs: (ValueError, None, "block.1"),
}


def fail(program, kind=BaseException, **options):
    """Run a failing program under a trace; return the trace and what came out of the block."""
    trace = opscope.trace(**options)
    with pytest.raises(kind) as caught, trace:
        program()
    return trace, caught.value


def failing_module(trace):
    call = trace.recording.module_calls[trace.failure.module_call]
    return trace.modules[call.module].address


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_failing_model_raises_its_own_exception_untouched(way, grad, layers):
    model, x = Failing(way), torch.ones(2, 3)
    with torch.set_grad_enabled(grad):
        with pytest.raises(WAYS[way][0]) as plain:
            model(x)
        with witness.untouched(model):
            trace, error = fail(lambda: model(x), model=model, layers=layers)
    assert type(error) is type(plain.value)
    assert str(error) == str(plain.value)
    assert error is RAISED[-1] if RAISED else isinstance(error, (RuntimeError, ValueError))
    assert error.__cause__ is error.__context__ is None
    assert not getattr(error, "__notes__", [])
    assert trace.failure.exception == type(error).__name__
    assert trace.failure.message == str(error)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_failure_names_operator_module_and_line(way, layers):
    model, x = Failing(way), torch.ones(2, 3)
    trace, _ = fail(lambda: model(x), model=model, layers=layers)
    _, operator, address = WAYS[way]
    failure = trace.failure
    assert (None if failure.op is None else trace.ops[failure.op].operator) == operator
    assert failing_module(trace) == address
    assert (failure.frame.file, failure.frame.line) == witness.line_of(way, "fails")
    assert failure.frame.function == way.__name__
    assert [op.index for op in trace.ops if op.failed] == ([] if operator is None else [failure.op])
    failed = {trace.modules[c.module].address for c in trace.recording.module_calls if c.failed}
    assert failed == {"", "block", "block.1", address}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_trace_can_be_read_up_to_where_it_failed(way, layers):
    model, x = Failing(way), torch.ones(2, 3)
    with pytest.raises(WAYS[way][0]), witness.Witness() as seen:
        model(x)
    trace, _ = fail(lambda: model(x), model=model, layers=layers, save="all")
    done = [op for op in witness.recorded(trace) if op[1]]
    assert done == seen.ops
    assert model._get_name() in str(trace)
    assert "block" in str(trace.summary())
    assert all(str(layer) for layer in trace.layers)
    for level in ("op", "layer", "module"):
        for rolled in (False, True):
            assert len(trace.graph(level=level, rolled=rolled))
        assert str(trace.summary(level))
    assert trace["first"].activation.shape == (2, 3)
    assert trace["narrow"].shape == (2, 2)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_next_trace_after_a_failure_is_as_if_nothing_had_been(way, layers):
    good = zoo.shared("recurrent")
    with opscope.trace(good.module, layers=layers) as before:
        good.run()
    model, x = Failing(way), torch.ones(2, 3)
    fail(lambda: model(x), model=model, layers=layers)
    with opscope.trace(good.module, layers=layers) as after:
        good.run()
    assert witness.recorded(after) == witness.recorded(before)
    assert witness.recorded_calls(after) == witness.recorded_calls(before)
    assert after.layer_labels == before.layer_labels
    assert after.failure is None


def test_a_failed_trace_keeps_no_tensor_and_no_model_alive(layers):
    def program():
        model, x = Failing(in_a_matrix_product), torch.ones(2, 3)
        gone.extend(weakref.ref(thing) for thing in (model, x, *model.parameters()))
        model(x)

    gone = []
    with witness.Mortality() as mortality:
        trace, _ = fail(program, RuntimeError, layers=layers)
    del _
    assert not mortality.survivors()
    assert str(trace)
    assert [ref() for ref in gone] == [None] * len(gone)


# --------------------------------------------------------------------------------- hooks


def raising_hook(*_):
    RAISED.append(ArithmeticError("from a hook"))
    raise RAISED[-1]  # <- fails


@pytest.mark.parametrize(
    ("register", "around"),
    [("register_forward_pre_hook", "block.1"), ("register_forward_hook", "block")],
)
def test_an_exception_in_a_hook_of_a_module_is_its_own(register, around, layers):
    """A hook after forward runs when the module is done: the module around it is named."""
    model, x = Failing(lambda core, x: x), torch.ones(2, 3)
    getattr(model.block[1], register)(raising_hook)
    with witness.untouched(model):
        trace, error = fail(lambda: model(x), model=model, layers=layers)
    assert error is RAISED[-1]
    assert failing_module(trace) == around
    assert trace.failure.op is None
    frame = trace.failure.frame
    assert (frame.file, frame.line) == witness.line_of(raising_hook, "fails")


def test_an_interrupted_fused_kernel_leaves_no_mode_behind(layers):
    """While it may run, the function mode steps aside, and must not come back too late."""
    program = zoo.build("encoder")
    program.module.layers[1].register_forward_pre_hook(interrupt)
    with torch.no_grad(), witness.untouched(program.module):
        trace, error = fail(program.run, model=program.module, layers=layers)
    assert type(error) is KeyboardInterrupt
    assert failing_module(trace) == "layers.1"


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_modes_around_a_trace_outlive_an_interrupted_fused_kernel():
    program = zoo.build("encoder")
    program.module.layers[1].register_forward_pre_hook(interrupt)
    with torch.no_grad(), torch.overrides.BaseTorchFunctionMode() as around:
        fail(program.run, model=program.module)
        assert torch.overrides._get_current_function_mode() is around


# --------------------------------------------------------- exceptions that do not get out


def product_of_misfits():
    return torch.ones(2, 3) @ torch.ones(2, 3)


def attempt(function, *args):
    try:
        return function(*args)
    except (RuntimeError, LookupError, KeyboardInterrupt):
        return None


def test_an_exception_that_the_user_handles_is_no_failure(layers):
    x = torch.ones(2)
    with opscope.trace(layers=layers) as trace:
        attempt(product_of_misfits)
        x.relu()
    assert trace.failure is None
    assert [op.name for op in trace.ops if op.failed] == ["mm"]
    assert trace.ops[-1].name == "relu"
    assert trace["relu"].shape == (2,)


def test_an_op_whose_exception_was_handled_is_not_what_failed(layers):
    def program():
        attempt(product_of_misfits)
        raise LookupError("in python")  # <- fails

    trace, _ = fail(program, LookupError, layers=layers)
    assert trace.failure.op is None
    assert trace.failure.layer_call is None
    frame = trace.failure.frame
    assert (frame.file, frame.line) == witness.line_of(program, "fails")


@pytest.mark.parametrize("way", [in_a_matrix_product, in_python, by_interruption])
def test_a_module_whose_exception_was_handled_is_not_what_failed(way, layers):
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.risky = Failing(way)

        def forward(self, x):
            attempt(self.risky, x)
            raise ArithmeticError

    model, x = Careful(), torch.ones(2, 3)
    trace, _ = fail(lambda: model(x), ArithmeticError, model=model, layers=layers)
    assert failing_module(trace) == ""
    assert trace.failure.op is None


@pytest.mark.parametrize("way", [in_a_matrix_product, in_python, by_interruption])
def test_a_failed_model_is_not_around_what_runs_next(way, layers):
    """Not even if no module hook was told, as after a KeyboardInterrupt."""
    failing, next_one, x = Failing(way), nn.Linear(3, 3), torch.ones(2, 3)
    with torch.no_grad(), opscope.trace(layers=layers) as trace:
        attempt(failing, x)
        x.sigmoid()
        next_one(x)
    last = trace.recording.module_calls[-1]
    assert trace.modules[last.module].class_name == "Linear"
    assert last.parent is None
    (sigmoid,) = [op for op in trace.ops if op.name == "sigmoid"]
    assert sigmoid.module_call is None


@pytest.mark.parametrize("way", [in_a_matrix_product, in_python, by_interruption])
def test_a_part_that_failed_is_not_around_its_siblings(way, layers):
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.risky, self.safe = Failing(way), nn.Linear(3, 3)

        def forward(self, x):
            attempt(self.risky, x)
            return self.safe(x).sigmoid()

    model, x = Careful(), torch.ones(2, 3)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(x)
    last = trace.recording.module_calls[-1]
    assert (trace.modules[last.module].address, last.parent) == ("safe", 0)
    assert trace.ops[-1].module_call == 0
    assert not trace.recording.module_calls[0].failed


class WithoutWords(Exception):
    def __str__(self):
        raise RuntimeError("this cannot be written down")


def test_an_exception_that_cannot_be_written_down_is_still_the_one_raised():
    mine = WithoutWords()

    def program():
        raise mine

    trace, error = fail(program)
    assert error is mine
    assert trace.failure.exception == "WithoutWords"


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """Let go of the exceptions, whose frames hold tensors, after each test."""
    yield
    RAISED.clear()
