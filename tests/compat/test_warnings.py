"""Warnings raised inside the block are those raised outside: same file, same line, same filters."""

import logging
import threading
import warnings
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from tests.witness import line_of
from torch import nn
from torch.nn import functional as F

import opscope

X = torch.rand(2, 3)


@pytest.fixture(autouse=True)
def torch_warns_each_time():
    """Not once a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


class Warns(nn.Module):
    """Warns, of itself or of what is so many levels above."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, x):
        warnings.warn("of a module", FutureWarning, stacklevel=self.level)
        return x + 1


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 2


def hooked(module):
    """Return a module that has a hook of its own."""
    module.register_forward_hook(lambda *_: None)
    return module


class Loud(torch.Tensor):
    """A class whose own `__torch_function__` warns, so that each call of it is heard."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        warnings.warn(f"asked for {getattr(func, '__name__', 'a property')}", stacklevel=2)
        return super().__torch_function__(func, types, args, kwargs or {})


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        warnings.warn("forward", stacklevel=2)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        warnings.warn("backward", stacklevel=2)
        return gradient * 2


class Numbered(UserWarning):
    """A warning that cannot be made of its text alone."""

    def __init__(self, text, number):
        super().__init__(text)
        self.number = number


def of_a_library(x, level):
    """A torch function as other libraries write them."""
    if torch.overrides.has_torch_function_unary(x):
        return torch.overrides.handle_torch_function(of_a_library, (x,), x, level)
    warnings.warn(Numbered("of a library", 3), stacklevel=level)
    return x + 1


def deeper(x):
    if torch.overrides.has_torch_function_unary(x):
        return torch.overrides.handle_torch_function(deeper, (x,), x)
    return of_a_library(x, 3)


def read_only():
    array = np.ones(3)
    array.flags.writeable = False
    return torch.from_numpy(array)


def resized():
    return torch.add(X, X, out=torch.empty(1))


def gradient_of_no_leaf():
    return (torch.ones(2, requires_grad=True) * 2).grad


def scheduler():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), 0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1).step()


BYTES = torch.ones(3, dtype=torch.uint8)
PROGRAMS = {
    # raised by Python code of torch's
    "mse_loss": lambda: F.mse_loss(torch.rand(2, 1), torch.rand(2)),
    "its module": lambda: nn.MSELoss()(torch.rand(2, 1), torch.rand(2)),
    "softmax, three levels up": lambda: F.softmax(torch.ones(3)),
    "its module, five levels up": lambda: Outer(nn.Softmax())(torch.ones(2, 3)),
    "size_average": lambda: F.l1_loss(X, X, size_average=False),
    "dropout2d": lambda: F.dropout2d(torch.rand(3, 4), 0.5),
    "upsample": lambda: F.upsample(torch.rand(1, 1, 2, 2), scale_factor=2, mode="bilinear"),
    "kl_div": lambda: F.kl_div(X, X),
    "resize": lambda: X.clone().resize(6),
    "chain_matmul": lambda: torch.chain_matmul(X, X.t()),
    "scheduler": scheduler,
    "LSTM": lambda: nn.LSTM(3, 3, 1, dropout=0.5),
    # raised by C++ code
    "std": lambda: torch.std(torch.ones(1)),
    "std, the method": lambda: torch.ones(1).std(),
    "T": lambda: torch.ones(2, 3, 4).T,
    "complex to real": lambda: torch.ones(2, dtype=torch.complex64).float(),
    "out= of another size": resized,
    "a read-only array": read_only,
    "grad": gradient_of_no_leaf,
    "torch.tensor of one": lambda: torch.tensor(torch.ones(2)),
    "new_tensor of one": lambda: X.new_tensor(torch.ones(2)),
    "meshgrid": lambda: torch.meshgrid(torch.ones(2), torch.ones(3)),
    "a mask of bytes": lambda: torch.ones(3)[BYTES],
    "sparse": X.to_sparse_csr,
    "nested": lambda: torch.nested.nested_tensor([X]),
    "create_graph": lambda: (torch.ones(1, requires_grad=True) ** 2).backward(create_graph=True),
    # raised by code of the user's
    **{f"{n} levels above a module": lambda n=n: Outer(Warns(n))(X) for n in range(1, 6)},
    **{
        f"{n} levels above one with hooks": lambda n=n: Outer(hooked(Warns(n)))(X)
        for n in range(1, 6)
    },
    "a library's": lambda: of_a_library(X, 2),
    "a library's own frame": lambda: of_a_library(X, 1),
    "a library's, deeper": lambda: deeper(X),
    "a class": lambda: X.as_subclass(Loud) + 1,
    "a class, in Python": lambda: F.mse_loss(torch.rand(2, 1).as_subclass(Loud), torch.rand(2)),
    "a class, in a model": lambda: Outer(nn.Linear(3, 2))(X.as_subclass(Loud)),
    "a class, in backward": lambda: (X.as_subclass(Loud).requires_grad_() * 2).sum().backward(),
    "a custom function": lambda: Doubled.apply(X.clone().requires_grad_()).sum().backward(),
}  # fmt: skip
OPTIONS = {
    "nothing": {}, "ops": {"layers": False}, "activations": {"save": "all"},
    "replay": {"replayable": True}, "gradients": {"gradients": "all"},
    "kept": {"saved_for_backward": True}, "finite": {"stop_on_nonfinite": True},
}  # fmt: skip


def heard(program, *filters, action="always", times=1):
    """Return what is said of warnings while a program runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        for options in filters:
            warnings.filterwarnings(**options)
        for _ in range(times):
            program()
    return [said(warning) for warning in caught]


def said(warning):
    return warning.filename, warning.lineno, warning.category, str(warning.message)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_warning_has_the_file_and_line_that_it_has_outside(program, options):
    outside = heard(program)
    with suppress(opscope.NonFiniteError), opscope.trace(**options):  # as the block ends
        inside = heard(program)
    assert outside
    assert inside == outside


@pytest.mark.parametrize("name", ["mse_loss", "std", "5 levels above a module", "a library's"])
def test_so_it_has_under_other_traces_and_modes(name):
    class Passing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    outside = heard(PROGRAMS[name])
    with opscope.trace(), opscope.trace(layers=False), opscope.trace(save="all"):
        assert heard(PROGRAMS[name]) == outside
    for around, within in ((Passing, nullcontext), (nullcontext, Passing)):
        with Passing():
            alone = heard(PROGRAMS[name])
        with around(), opscope.trace(), within():
            assert heard(PROGRAMS[name]) == alone


def test_in_a_thread_beside_the_trace_a_module_warns_as_it_does_alone(layers):
    found = []
    outside = heard(PROGRAMS["4 levels above a module"])
    with opscope.trace(layers=layers):
        thread = threading.Thread(
            target=lambda: found.extend(heard(PROGRAMS["4 levels above a module"]))
        )
        thread.start()
        thread.join()
    assert found == outside


# ------------------------------------------------------------------------------ filters


def twice():
    """Raise one warning of torch's and one of C++ at two lines, each line twice."""
    for _ in range(2):
        F.mse_loss(torch.rand(2, 1), torch.rand(2))
        torch.std(torch.ones(1))
    F.mse_loss(torch.rand(2, 1), torch.rand(2))
    torch.std(torch.ones(1))


@pytest.mark.parametrize("action", ["always", "default", "module", "once", "ignore"])
def test_each_action_shows_as_many_warnings_as_outside(action, layers):
    outside = heard(twice, action=action, times=2)
    with opscope.trace(layers=layers):
        assert heard(twice, action=action, times=2) == outside
    assert len(outside) == {"always": 12, "default": 4, "module": 2, "once": 2, "ignore": 0}[action]


def test_what_was_shown_before_the_block_is_not_shown_in_it_nor_the_other_way_round(layers):
    def step():
        F.mse_loss(torch.rand(2, 1), torch.rand(2))
        torch.std(torch.ones(1))
        Outer(Warns(2))(X)
        Outer(Warns(4))(X)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        step()
        assert len(caught) == 4
        with opscope.trace(layers=layers):
            step()
        assert len(caught) == 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with opscope.trace(layers=layers):
            step()
        step()
    assert len(caught) == 4


@pytest.mark.parametrize("name", ["mse_loss", "std", "T", "3 levels above a module"])
@pytest.mark.parametrize("action", ["ignore", "always"])
@pytest.mark.parametrize("module", ["mine", "torch", "other"])
def test_a_filter_by_module_takes_what_it_takes_outside(name, module, action, layers):
    pattern = {"mine": r".*test_warnings$", "torch": r"torch\.", "other": r"opscope"}[module]
    options = {"action": action, "module": pattern}
    start = "always" if action == "ignore" else "ignore"
    outside = heard(PROGRAMS[name], options, action=start)
    with opscope.trace(layers=layers):
        assert heard(PROGRAMS[name], options, action=start) == outside


def test_a_filter_by_line_takes_what_it_takes_outside(layers):
    def program():
        F.mse_loss(torch.rand(2, 1), torch.rand(2))  # <- this
        F.mse_loss(torch.rand(2, 1), torch.rand(2))

    options = {"action": "ignore", "lineno": line_of(program, "this")[1]}
    with opscope.trace(layers=layers):
        found = heard(program, options)
    assert [line for _, line, *_ in found] == [options["lineno"] + 1]


@pytest.mark.parametrize(
    "name", ["mse_loss", "std", "a read-only array", "2 levels above a module"]
)
@pytest.mark.parametrize("inside", [True, False])
def test_an_error_is_raised_where_it_is_raised_outside(name, inside, layers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Warning) as outside:
            PROGRAMS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if inside else "error")
        trace = opscope.trace(layers=layers)

        def run():
            if inside:
                warnings.simplefilter("error")
            PROGRAMS[name]()

        with pytest.raises(Warning) as found, trace:
            run()
    assert found.type is outside.type
    assert str(found.value) == str(outside.value)
    assert trace.failure.exception == found.type.__name__


def test_a_warning_is_the_object_that_was_raised(layers):
    with opscope.trace(layers=layers), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        of_a_library(X, 2)
    assert caught[0].message.number == 3


def test_what_is_told_where_it_belongs_stays_there(layers):
    registry = {}

    class Explicit(nn.Module):
        def forward(self, x):
            where = {"filename": "elsewhere.py", "lineno": 7, "registry": registry}
            warnings.warn_explicit("explicit", UserWarning, module="elsewhere", **where)
            return x

    with opscope.trace(layers=layers):
        found = heard(lambda: Explicit()(X))
        ignored = heard(lambda: Explicit()(X), {"action": "ignore", "module": "elsewhere"})
    assert found == [("elsewhere.py", 7, UserWarning, "explicit")]
    assert not ignored


def test_what_a_trace_does_itself_raises_no_warning():
    """A copy of a sparse tensor says that these are in beta state, as any other."""

    def program():
        values.sin().values().add_(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = X.to_sparse_csr()
    outside = heard(program)
    with opscope.trace(save="all", replayable=True):
        assert heard(program) == outside


def test_a_transform_warns_at_its_own_line():
    def transform(tensor):
        return tensor.T if tensor.dim() == 3 else warnings.warn("mine", stacklevel=1)  # <- here

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with opscope.trace(save=opscope.Save("all", transform=transform)):
            torch.ones(2, 3, 4).sum()
    assert {(warning.filename, warning.lineno) for warning in caught} == {
        line_of(transform, "here")
    }


# ------------------------------------------------------- contexts, in whatever order


def left_as(filters):
    """Whether the warnings module is as it was."""
    return (
        warnings.filters is filters[0]
        and warnings.filters == filters[1]
        and [getattr(warnings, name) for name in FUNCTIONS] == filters[2]
    )


FUNCTIONS = [n for n in dir(warnings) if n in {"_showwarnmsg", "_filters_mutated",
                                               "_filters_mutated_lock_held", "warn"}]  # fmt: skip


def as_it_is():
    functions = [getattr(warnings, name) for name in FUNCTIONS]
    return warnings.filters, list(warnings.filters), functions


def both():
    F.mse_loss(torch.rand(2, 1), torch.rand(2))  # <- Python
    torch.std(torch.ones(1))  # <- C++


LINES = [line_of(both, "Python"), line_of(both, "C++")]


def recording():
    return warnings.catch_warnings(record=True)


def check_both(caught):
    assert [(w.filename, w.lineno) for w in caught] == LINES
    caught.clear()


def test_recording_inside_around_and_across_the_block(layers):
    before = as_it_is()
    trace, around, across, inside = opscope.trace(layers=layers), *(recording() for _ in range(3))
    caught = around.__enter__()
    warnings.simplefilter("always")
    trace.__enter__()
    both()
    check_both(caught)
    with inside as found:
        both()
        check_both(found)
        warnings.simplefilter("always")  # before all others
        both()
        check_both(found)
    caught = across.__enter__()
    warnings.resetwarnings()
    warnings.simplefilter("always")
    both()
    check_both(caught)
    trace.__exit__(None, None, None)
    both()
    check_both(caught)
    across.__exit__(None, None, None)
    around.__exit__(None, None, None)
    assert left_as(before)


def test_a_context_that_ends_inside_the_block(layers):
    before = as_it_is()
    outer, inner = recording(), recording()
    caught = outer.__enter__()
    warnings.simplefilter("always")
    inner.__enter__()
    with opscope.trace(layers=layers):
        inner.__exit__(None, None, None)
        both()
        check_both(caught)
    both()
    check_both(caught)
    outer.__exit__(None, None, None)
    assert left_as(before)


def test_traces_that_overlap_leave_nothing(layers):
    before = as_it_is()
    first, second = opscope.trace(layers=layers), opscope.trace(layers=layers)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with recording() as caught:
        warnings.simplefilter("always")
        both()
    check_both(caught)
    second.__exit__(None, None, None)
    assert left_as(before)


def test_filters_that_the_program_sets_stay_set(layers):
    with warnings.catch_warnings():
        with opscope.trace(layers=layers):
            warnings.filterwarnings("ignore", "of the program")
            warnings.simplefilter("default", append=True)
        mine = [
            item for item in warnings.filters if item[1] and item[1].pattern == "of the program"
        ]
        assert warnings.filters[0] is mine[0]
        assert warnings.filters[-1][0] == "default"


def test_an_exception_leaves_nothing(layers):
    before = as_it_is()

    def fail():
        warnings.simplefilter("always")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), opscope.trace(layers=layers), recording():
        fail()
    assert left_as(before)


def test_a_copy_of_the_filters_that_is_put_back_later_does_nothing(layers):
    with warnings.catch_warnings():
        with opscope.trace(layers=layers):
            copy = warnings.filters[:]
        warnings.filters[:] = copy
        found = heard(both)
        with opscope.trace(layers=layers):
            assert heard(both) == found
        assert len(found) == 2


def test_warnings_go_where_the_program_sends_them(layers, caplog):
    """To logging, or to a function of its own, which may warn itself."""
    said = []

    def show(message, category, filename, line, file=None, text=None):
        said.append((filename, line))
        if len(said) == 1:
            _ = torch.ones(2, 3, 4).T  # <- show

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        try:
            with opscope.trace(layers=layers):
                both()
        finally:
            logging.captureWarnings(capture=False)
        warnings.showwarning = show
        with opscope.trace(layers=layers):
            both()
    for filename, line in LINES:
        assert f"{filename}:{line}: UserWarning" in caplog.text
    assert said == [LINES[0], line_of(show, "show"), LINES[1]]
