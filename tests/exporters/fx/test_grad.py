"""A program is differentiated as the model is: modes of autograd, and what no op shows."""

import pytest
import torch
from tests.exporters.fx.compare import Model, check_same, program_of, record, tensors
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import opscope


@pytest.fixture
def x():
    return torch.rand(4, 3)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Reverse(torch.autograd.Function):
    """Runs no op of its own; torch makes a view of what it returns."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class DoubleInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class TwoResults(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        with torch.enable_grad():
            product = x * y
        return product.detach(), product > 0.1

    @staticmethod
    def backward(ctx, gradient, _):
        return gradient, gradient


# --------------------------------------------------------------------------- grad modes


def scaled(model, x):
    y = model.one(x)
    with torch.no_grad():
        scale = y.abs().mean()
    return y / scale


def nested(model, x):
    with torch.no_grad():
        a = model.one(x)
        with torch.enable_grad():
            b = model.two(x)
        with torch.no_grad():
            a = a * 2
        a = a + 1
    return a * b + model.one(x)


def one_after_the_other(model, x):
    with torch.no_grad():
        a = model.one(x)
    with torch.enable_grad():
        b = model.two(x)
    with torch.no_grad():
        c = model.one(b)
    return a * b * c


def written_parameter(model, x):
    with torch.no_grad():
        model.one.weight.clamp_(-0.1, 0.1)
        model.two.weight[0].mul_(0.5)
    return model.two(model.one(x))


@torch.no_grad()
def all_of_it(model, x):
    return model.one(x).exp()


def decorated(model, x):
    return all_of_it(model, x) * model.two(x)


def set_by_a_call(model, x):
    torch.set_grad_enabled(False)
    a = model.one(x)
    torch.set_grad_enabled(True)
    return a * model.two(x)


def set_in_a_context(model, x):
    with torch.set_grad_enabled(False):
        a = model.one(x)
        with torch.set_grad_enabled(True):
            b = model.two(a)
    return a * model.two(x) + b


def inference(model, x):
    with torch.inference_mode():
        a = model.one(x)
    return a.clone() * model.two(x)


def raised_and_caught(model, x):
    try:
        with torch.no_grad():
            a = model.one(x)
            torch.mm(a, a)
    except RuntimeError:
        a = a + 1
    return a * model.two(x)


def in_a_submodule(model, x):
    return model.norm(model.one(x)) + model.two(x)


class NoGradNorm(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            norm = x.norm()
        return x / norm


def renormalised(model, x):
    return model.table(torch.tensor([0, 2, 4, 1])) * model.one(x)


def detached(model, x):
    y = model.one(x)
    return y * y.detach() + model.two(x) * model.two(x).data


def detached_in_place(model, x):
    y = model.one(x)
    z = y * 2
    z.detach_()
    return z * model.two(x)


def written_past_autograd(model, x):
    """``data`` shares no count of writes, so that autograd does not object."""
    y = model.one(x)
    model.two.weight.data.mul_(0.5)
    z = model.two(y)
    y.data.add_(1)
    return z * y


def not_reentrant(model, x):
    return checkpoint(lambda t: model.one(t).exp(), x, use_reentrant=False) * model.two(x)


def function_whose_result_is_cut_off(model, x):
    return Double.apply(model.one(x)).detach() * model.two(x)


def function_without_gradients(model, x):
    with torch.no_grad():
        a = Double.apply(model.one(x))
    return a * model.two(x)


def mapped(model, x):
    return torch.func.vmap(lambda row: model.one(row).pow(2))(x)


MODES = [
    scaled, nested, one_after_the_other, written_parameter, decorated, all_of_it, set_by_a_call,
    set_in_a_context, inference, raised_and_caught, in_a_submodule, renormalised, detached,
    detached_in_place, written_past_autograd, not_reentrant, function_whose_result_is_cut_off,
    function_without_gradients, mapped,
]  # fmt: skip


def build(function):
    return Model(function, norm=NoGradNorm(), table=nn.Embedding(5, 3, max_norm=0.3))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("function", MODES)
def test_gradients_are_the_models_whatever_mode_it_was_recorded_in(function, grad, x):
    torch.manual_seed(0)
    model = build(function)
    program = program_of(model, x, grad=grad)

    check_same(model, program, torch.rand(4, 3))


@pytest.mark.parametrize(
    "function", [f for f in MODES if f not in {detached_in_place, written_past_autograd}]
)
def test_without_layers_gradients_are_the_models_where_it_was_recorded_with_autograd(function, x):
    torch.manual_seed(0)
    model = build(function)

    check_same(model, program_of(model, x, layers=False), torch.rand(4, 3))


@pytest.mark.parametrize("function", [scaled, decorated])
def test_without_layers_and_autograd_it_is_known_to_be_unknown(function, x):
    """No function mode saw where the model itself sets the mode."""
    model = build(function)
    program = program_of(model, x, grad=False, layers=False)

    assert torch.equal(program(x), model(x))
    with pytest.raises(opscope.TraceStateError, match="layers=False"):
        program(x).sum().backward()


def test_the_mode_of_the_caller_holds_outside_of_the_models_own_regions(x):
    model = build(nested)
    program = program_of(model, x)

    with torch.no_grad():
        assert not program(x).requires_grad
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert program(x).is_inference()
    assert program(x).requires_grad


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_as_before_where_an_op_raises_in_a_region(mode, x):
    def choose(model, x, index):
        with torch.set_grad_enabled(not mode):
            return model.one(x)[index] * 2

    model = Model(choose)
    program = program_of(model, x, torch.tensor([0, 1]))
    with torch.set_grad_enabled(mode):
        with pytest.raises(IndexError):
            program(x, torch.tensor([0, 9]))
        assert torch.is_grad_enabled() is mode


def test_a_model_that_keeps_nothing_from_autograd_has_no_switches(x):
    program = program_of(Model(lambda m, x: m.two(m.one(x))), x, grad=False)

    assert "grad_mode" not in program.code


# --------------------------------------------------------------- derivatives that no op shows


def applied(model, x):
    return Double.apply(model.one(x)) + model.two(x)


def reversed_gradient(model, x):
    return Reverse.apply(model.one(x)) * model.two(x)


def in_place(model, x):
    y = model.one(x) * 1
    return DoubleInPlace.apply(y).relu_() + model.two(x)


def two_results(model, x):
    product, large = TwoResults.apply(model.one(x), model.two(x))
    return torch.where(large, product, model.two(x))


def twice(model, x):
    y = model.one(x)
    for _ in range(2):
        y = Double.apply(y)
    return y


def reentrant(model, x):
    return checkpoint(lambda t: model.one(t).exp(), model.two(x), use_reentrant=True)


class InAModule(nn.Module):
    def forward(self, x):
        return Double.apply(x)


def in_a_module(model, x):
    return model.inner(model.one(x))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize(
    "function", [applied, reversed_gradient, in_place, two_results, twice, reentrant, in_a_module]
)
def test_a_backward_through_a_custom_function_raises_and_results_are_right(
    function, grad, layers, x
):
    if function is reversed_gradient and not grad:
        pytest.skip("torch makes no view of what it returns then, and no op")
    model = Model(function, inner=InAModule())
    program = program_of(model, x, grad=grad, layers=layers)
    new = torch.rand(4, 3)

    assert torch.equal(program(new), model(new))
    with torch.no_grad():
        assert torch.equal(program(new), model(new))
    with pytest.raises(opscope.TraceStateError, match="cannot be differentiated here"):
        program(new).sum().backward()


def test_what_does_not_pass_through_a_custom_function_is_differentiated(x):
    model = Model(lambda m, x: (applied(m, x), m.one(x)))
    program = program_of(model, x)
    program(x)[1].sum().backward()
    found = model.one.weight.grad.clone()
    model.one.weight.grad = None
    model(x)[1].sum().backward()

    assert torch.equal(model.one.weight.grad, found)


def test_a_hook_on_a_gradient_raises_where_it_would_be_called(x):
    def hooked(model, x):
        y = model.one(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 2)
        return y * model.two(x), model.two(x)

    model = Model(hooked)
    program = program_of(model, x)

    assert all(map(torch.equal, tensors(program(x)), tensors(model(x))))
    program(x)[1].sum().backward()
    with pytest.raises(opscope.TraceStateError, match="a hook was registered"):
        program(x)[0].sum().backward()


@torch.library.custom_op("opscope_tests::triple", mutates_args=())
def triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3


triple.register_autograd(lambda ctx, gradient: gradient * 5)


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_an_operator_of_a_library_has_the_derivative_it_was_given(grad, layers, x):
    model = Model(lambda m, x: triple(m.one(x)) * torch.ops.opscope_tests.triple(m.two(x)))
    if not grad and not layers:
        pytest.skip("refused")

    check_same(model, program_of(model, x, grad=grad, layers=layers), torch.rand(4, 3))


def test_an_operator_of_a_library_is_not_differentiated_under_no_grad(x):
    def frozen(model, x):
        with torch.no_grad():
            y = triple(model.one(x))
        return y * model.two(x)

    model = Model(frozen)
    check_same(model, program_of(model, x), torch.rand(4, 3))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_dropout_and_attention_are_differentiated_with_the_same_numbers(grad):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
            self.norm = nn.LayerNorm(8)

        def forward(self, x):
            y, weights = self.attention(x, x, x)
            q = self.norm(F.dropout(x + y, 0.1, self.training))[:, None]
            return F.scaled_dot_product_attention(q, q, q, is_causal=True), weights

    model = Attending()
    x = torch.rand(2, 5, 8)
    check_same(model, program_of(model, x, grad=grad), torch.rand(2, 5, 8), seed=3)


def test_a_block_without_a_model_keeps_its_regions_too():
    weight, x = torch.rand(3, requires_grad=True), torch.rand(3)
    with opscope.trace() as trace:
        with torch.no_grad():
            scale = weight * 2
        (weight * x).exp() * scale
    program = trace.to_fx()
    new = torch.rand(3, requires_grad=True)
    found = program(new, x)
    (gradient,) = torch.autograd.grad(found.sum(), new)

    assert torch.equal(found, (new * x).exp() * (new * 2).detach())
    assert torch.equal(
        gradient, torch.autograd.grad(((new * x).exp() * (new * 2).detach()).sum(), new)[0]
    )


@pytest.mark.parametrize("run", [1, 2])
def test_a_submodule_is_differentiated_as_it_is_by_itself(run, x):
    """The model calls it once without gradients, which is none of its own business."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            y = self.fc(x)
            with torch.no_grad():
                scale = y.abs().mean()
            return y / scale

    def call_twice(model, x):
        with torch.no_grad():
            a = model.inner(x)
        return a + model.inner(x)

    model = Model(call_twice, inner=Inner())
    for grad in (True, False):
        program = record(model, x, grad=grad).to_fx(f"inner:{run}")
        check_same(model.inner, program, torch.rand(4, 3))
