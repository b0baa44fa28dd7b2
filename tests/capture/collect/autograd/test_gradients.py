"""Gradients of what layers gave are those of `torch.autograd.grad`, bit for bit."""

import gc
import warnings
import weakref

import pytest
import torch
from tests import witness, zoo
from torch import nn
from torch.utils.checkpoint import checkpoint

import opscope
from opscope.capture.collect.autograd.gradients import Gradients
from opscope.errors import NotSaved, OptionError

MODELS = ("resnet18", "gpt2", "vit", "lstm", "encoder", "recurrent")


def loss_of(output):
    values = list(output.values()) if isinstance(output, dict) else output
    numbers = [t for t in witness.tensors(values) if t.is_floating_point() and t.requires_grad]
    return sum((t.float() ** 2).sum() for t in numbers)


def out_of_place(program):
    """Make a model compute the same without writing in place."""
    for part in program.call.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    return program


def asked_for(trace):
    """Return ``(layer, place, tensor)`` for what autograd can be asked for itself.

    What was written over in place was saved as a copy, which is beside the way of the gradient.
    """
    found = []
    for layer in trace:
        if layer.record.call is None:  # an input, or a result on its way out
            continue
        given = layer.activation if isinstance(layer.activation, tuple) else (layer.activation,)
        for place, tensor in enumerate(given):
            copied = type(tensor.grad_fn).__name__ == "CloneBackward0" and layer.type != "clone"
            if tensor.requires_grad and not isinstance(tensor, nn.Parameter) and not copied:
                found.append((layer, place, tensor))
    return found


def compare(trace, loss):
    """Check each gradient against autograd's own; return how many there are."""
    asked = asked_for(trace)
    tensors = [tensor for *_, tensor in asked]
    expected = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)
    for (layer, place, _), gradient in zip(asked, expected, strict=True):
        found = layer.gradient if layer.has_gradient else None
        found = found[place] if isinstance(found, tuple) else found
        assert same(found, gradient), (layer.label, place)
    return sum(gradient is not None for gradient in expected)


def same(one, other):
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def leaf(*values):
    return torch.tensor(values or (0.3, 0.7, 1.1), requires_grad=True)


# ------------------------------------------------------------------------- real models


@pytest.mark.parametrize("name", [*MODELS, "googlenet"])
def test_gradients_are_those_of_autograd_grad(name):
    """Without in-place writes each activation is there to be asked for by autograd itself."""
    program = out_of_place(zoo.build(name, training=True))
    options = {"save": opscope.Save(detach=False), "gradients": "all"}
    with opscope.trace(program.module, **options) as trace:
        loss = loss_of(program.run())
    assert compare(trace, loss) > 10


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "alexnet"])
def test_before_an_in_place_activation_gradients_are_those_of_the_twin_out_of_place(
    name, monkeypatch
):
    found = []
    for change in (lambda p: p, out_of_place):
        if change is out_of_place:  # googlenet calls the function
            monkeypatch.setattr(nn.functional, "relu", lambda x, inplace=False: torch.relu(x))
        program = change(zoo.build(name, training=True))
        torch.manual_seed(1)
        with opscope.trace(program.module, gradients="all") as trace:
            loss_of(program.run()).backward()
        found.append([(x.label.rstrip("_"), x.gradient) for x in trace if x.has_gradient])
    in_place, twin = found
    assert [label for label, _ in in_place] == [label for label, _ in twin]
    for (label, one), (_, other) in zip(in_place, twin, strict=True):
        assert same(one, other), label
    assert len(twin) > 10


@pytest.mark.parametrize("name", MODELS)
def test_taking_gradients_changes_nothing(name):
    seen = []
    for gradients in (None, "all"):
        program = zoo.build(name, training=True)
        torch.manual_seed(1)
        if gradients is None:
            loss = loss_of(program.run())
            loss.backward()
        else:
            with opscope.trace(program.module, gradients="all", saved_for_backward=True):
                loss = loss_of(program.run())
                loss.backward()
        after = torch.rand(3)
        parameters = [p.grad for p in program.module.parameters() if p.grad is not None]
        seen.append((witness.bits([loss, *parameters, after]), program.state()))
    assert seen[0][0] == seen[1][0]
    assert witness.bits(seen[0][1]) == witness.bits(seen[1][1])


# ---------------------------------------------------------------------- from any backward


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


@pytest.mark.parametrize("when", ["inside", "after"])
def test_a_backward_is_heard_inside_the_block_and_after_it(model, when):
    x = torch.rand(5, 3)
    with opscope.trace(model, gradients="all") as trace:
        loss = model(x).sum()
        if when == "inside":
            loss.backward()
    if when == "after":
        assert not trace["linear_1"].has_gradient
        loss.backward()
    assert torch.equal(trace["linear_2"].gradient, torch.ones(5, 2))
    assert torch.equal(trace["relu"].gradient, torch.ones(5, 2) @ model[2].weight)
    assert torch.equal(trace["linear_1"].grad_contents, trace["linear_1"].gradient)


def test_a_loss_computed_after_the_block_reaches_what_ran_in_it(model):
    with opscope.trace(model, gradients="all") as trace:
        y = model(torch.rand(5, 3))
    loss = (y**2).mean()
    (expected,) = torch.autograd.grad(loss, y, retain_graph=True)
    loss.backward()
    assert torch.equal(trace["linear_2"].gradients[-1], expected)
    assert len(trace["linear_1"].gradients) == 1


@pytest.mark.parametrize("label", ["linear_1", "relu_1", "linear_2"])
def test_a_backward_from_any_saved_activation_reaches_what_is_before_it(model, label):
    """Also from one that was written over in place, of which a copy was saved."""
    with opscope.trace(model, save=opscope.Save("all", detach=False), gradients="all") as trace:
        model(torch.rand(5, 3) + 0.1)
    trace[label].activation.sum().backward()
    order = ["linear_1", "relu_1", "linear_2"]
    reached = [name for name in order if trace[name].has_gradient]
    assert reached == order[: order.index(label) + 1]
    assert torch.equal(trace[label].gradient, torch.ones(trace[label].shape))


def test_each_backward_is_kept_apart_and_the_gradient_is_their_sum(model):
    with opscope.trace(model, gradients="all") as trace:
        y = model(torch.rand(5, 3))
        y.sum().backward(retain_graph=True)
    (3 * y).sum().backward()
    first, second = trace["linear_2"].gradients
    assert torch.equal(first, torch.ones(5, 2))
    assert torch.equal(second, torch.full((5, 2), 3.0))
    assert torch.equal(trace["linear_2"].gradient, torch.full((5, 2), 4.0))
    assert len(trace["linear_1"].gradients) == 2


def test_a_gradient_is_a_copy_that_autograd_and_the_user_cannot_change(model):
    with opscope.trace(model, gradients="all") as trace:
        y = model(torch.rand(5, 3))
        y.register_hook(lambda g: g.mul_(7))  # in place, against all advice
    given = torch.ones(5, 2)
    y.backward(given)
    given.zero_()
    assert trace["linear_2"].gradient.abs().min() >= 1


@pytest.mark.parametrize(
    "change", [lambda g: g * 10, lambda g: g.mul_(10)], ids=["new", "in place"]
)
def test_a_hook_that_changes_a_gradient_is_seen_as_autograd_grad_sees_it(change):
    """`torch.autograd.grad` and ``retain_grad`` give what the tensor's hooks made of it."""
    x = leaf()
    with opscope.trace(save=opscope.Save("all", detach=False), gradients="all") as trace:
        y = x * 2
        y.register_hook(change)
        z = y.exp().sum()
    (expected,) = torch.autograd.grad(z, y, retain_graph=True)
    y.retain_grad()
    z.backward()
    assert torch.equal(y.grad, expected)
    assert torch.equal(trace["mul"].gradients[-1], expected)


def test_the_inputs_that_need_a_gradient_have_one(model):
    x = torch.rand(5, 3, requires_grad=True)
    with opscope.trace(model, gradients="all") as trace:
        model(x).sum().backward()
    assert torch.equal(trace["input_1"].gradient, x.grad)


# ------------------------------------------------------------------- what has gradients


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(3):
            x = self.fc(x).tanh()
        return x


def test_a_shared_layer_has_a_gradient_for_each_pass():
    model, x = Shared(), torch.rand(2, 3)
    with opscope.trace(model, save=opscope.Save("all", detach=False), gradients="all") as trace:
        loss = (model(x) ** 2).sum()
    asked = [trace[f"linear_1:{n}"] for n in (1, 2, 3)]
    expected = torch.autograd.grad(loss, [layer.activation for layer in asked])
    for layer, gradient in zip(asked, expected, strict=True):
        assert torch.equal(layer.gradient, gradient)
    assert not torch.equal(asked[0].gradient, asked[1].gradient)


def through_a_view(x):
    y = x * 2
    return (y[1:].exp() * y.view(-1)[:2]).sum()


def without_dimensions(x):
    return ((x.sum() * 3).exp() * 2).tanh()


def complex_numbers(x):
    z = torch.complex(x, x * 3)
    return (z * z.conj() + z.abs() * 1j).real.sum()


def half(x):
    return (x.bfloat16() * 3).float().exp().sum().half() * 2


def expanded(x):
    return (x.view(3, 1) * 1).expand(3, 4).cumsum(1).sum()


def several_results(x):
    values, _ = (x * 3).sort()
    spread, middle = torch.var_mean(values)
    return spread * middle + values.split(2)[0].sum()


def some_of_the_results(x):
    first, _, third = (x * 3).unbind()
    return first * third


def a_chunk_unused(x):
    return (x * 3).chunk(3)[1].exp().sum()


def an_unused_half_of_a_state(x):
    cell = torch.nn.LSTMCell(3, 3)
    hidden, _ = cell(x.view(1, 3))
    return hidden.sum()


def read_twice(x):
    y = x.exp()
    return (y * y + y).sum()


DIFFERENTIABLE = {
    f.__name__: f
    for f in (
        through_a_view, without_dimensions, complex_numbers, half, expanded, several_results,
        some_of_the_results, a_chunk_unused, an_unused_half_of_a_state, read_twice,
    )
}  # fmt: skip


@pytest.mark.parametrize("compute", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_gradients_of_all_kinds_of_tensors_are_autograds(compute, layers):
    x = leaf()
    with opscope.trace(
        save=opscope.Save("all", detach=False), gradients="all", layers=layers
    ) as trace:
        loss = compute(x)
    assert compare(trace, loss) > 1


@pytest.mark.parametrize("compute", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_a_backward_works_as_it_does_without_a_trace(compute, layers):
    x = leaf()
    torch.manual_seed(2)
    (expected,) = torch.autograd.grad(compute(x), x)
    torch.manual_seed(2)
    with opscope.trace(gradients="all", layers=layers):
        compute(x).backward()
    assert torch.equal(x.grad, expected)


def test_of_several_tensors_only_those_with_a_gradient_have_one():
    with opscope.trace(gradients="all") as trace:
        _, middle, _ = (leaf() * 3).unbind()
        (middle * 2).backward()
    first, second, third = trace["unbind"].gradient
    assert (first, second.item(), third) == (None, 2.0, None)


def test_autocast_gradients_have_the_type_of_their_activation():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.rand(5, 3)
    with opscope.trace(model, save=opscope.Save("all", detach=False), gradients="all") as trace:
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        loss = y.float().pow(2).mean()
    assert compare(trace, loss) > 3
    asked = [layer for layer, _, _ in asked_for(trace)]
    assert all(layer.gradient.dtype == layer.activation.dtype for layer in asked)
    assert {layer.gradient.dtype for layer in asked} == {torch.bfloat16, torch.float32}


def test_a_write_through_a_view_gives_the_base_its_gradient_before_and_after():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x * 1
        y[1:].mul_(2)
        (y * y).sum().backward()
    twin = leaf()
    before = twin * 1
    after = torch.cat([before[:1], before[1:] * 2])
    loss = (after * after).sum()
    expected = torch.autograd.grad(loss, before)[0]
    assert torch.equal(trace["mul_1"].gradient, expected)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("write", ["sin_", "exp_", "tanh_"])
def test_what_wrote_in_place_has_the_gradient_of_what_it_wrote(write, layers):
    """Not that of what was there before, which the layer before has."""
    x = leaf()
    with opscope.trace(gradients="all", layers=layers) as trace:
        y = x * 2
        (getattr(y, write)() * 3).sum().backward()
    before = (x * 2).detach().requires_grad_()
    after = getattr(torch, write.rstrip("_"))(before)
    expected = torch.autograd.grad((after * 3).sum(), [before, after])
    assert torch.equal(trace["mul_1"].gradient, expected[0])
    assert torch.equal(trace[write.rstrip("_")].gradient, expected[1])


def test_a_custom_function_has_its_gradient_although_its_ops_ran_below_autograd():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, gradient):
            return 3 * gradient * ctx.saved_tensors[0] ** 2

    x = leaf()
    with opscope.trace(gradients="all") as trace:
        (Cube.apply(x.exp()) * 2).sum().backward()
    assert torch.equal(trace["exp"].gradient, 6 * x.detach().exp() ** 2)
    assert torch.equal(trace["mul_2"].gradient, torch.full((3,), 2.0))


class Same(torch.autograd.Function):
    """Gives what it is given: torch makes a view of it, without grad, and then its node."""

    @staticmethod
    def forward(ctx, *tensors):
        return tensors if len(tensors) > 1 else tensors[0]

    @staticmethod
    def backward(ctx, *gradients):
        return tuple(2 * g for g in gradients) if len(gradients) > 1 else 2 * gradients[0]


@pytest.mark.parametrize("count", [1, 2])
def test_a_users_hook_on_what_a_custom_function_handed_on_is_called(count, layers):
    found = []
    for options in (None, {"gradients": "all", "layers": layers}):
        xs = [leaf() for _ in range(count)]

        def run(xs=xs):
            ys = Same.apply(*(x * 1 for x in xs))
            ys = ys if isinstance(ys, tuple) else (ys,)
            for y in ys:
                y.register_hook(lambda g: g * 10)
            sum(y.sum() for y in ys).backward()

        if options is None:
            run()
        else:
            with opscope.trace(**options):
                run()
        found.append([x.grad for x in xs])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(other, torch.full((3,), 20.0))


def test_hooks_of_a_module_and_of_its_output_are_called_in_their_order():
    found = []
    for gradients in (None, "all"):
        torch.manual_seed(1)
        model, x = nn.Linear(3, 2), torch.ones(1, 3, requires_grad=True)
        model.register_full_backward_pre_hook(lambda m, outputs: (outputs[0] * 2,))
        with opscope.trace(model, gradients=gradients):
            y = model(x)
            y.register_hook(lambda g: g.clamp(-0.5, 0.5))
            y.sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_in_a_checkpoint_what_goes_in_and_comes_out_has_its_gradient(reentrant):
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x * 2
        checkpoint(lambda y: y.sin().exp(), y, use_reentrant=reentrant).sum().backward()
    z = (x * 2).detach().requires_grad_()
    (expected,) = torch.autograd.grad(z.sin().exp().sum(), z)
    assert torch.equal(trace["mul"].gradient, expected)
    assert torch.equal(trace["exp"].gradient, torch.ones(3))
    assert len(trace["exp"].gradients) == 1


def test_with_create_graph_and_no_detaching_a_gradient_can_be_differentiated():
    x = leaf()
    with opscope.trace(gradients=opscope.Save("all", detach=False)) as trace:
        y = x * 1
        torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(trace["mul"].gradient.sum(), x)
    assert torch.allclose(second, 6 * x)


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("keys", [["relu_1"], ["0"], [1], ["tanh"], ["relu", "linear_2"]], ids=str)
def test_the_keys_are_those_of_save(keys):
    model, x = (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh()),
        torch.rand(5, 3),
    )
    with opscope.trace(model, save=keys, gradients=keys) as trace:
        model(x).sum().backward()
    for layer in trace:
        if layer.is_saved:
            assert layer.gradient.shape == layer.activation.shape
        else:
            with pytest.raises(NotSaved, match="was not asked for"):
                _ = layer.gradient
    assert any(layer.is_saved for layer in trace)


def test_what_was_not_asked_for_is_let_go_of():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(5, 3)
    with opscope.trace(model, gradients=["relu"]) as trace:
        y = model(x)
        y.sum().backward(retain_graph=True)
    y.sum().backward()
    table = trace._block.session.find(Gradients)
    assert sum(len(kept) for kept in table._kept.values()) == 2
    assert len(trace["relu"].gradients) == 2


@pytest.mark.parametrize("wrong", ["none at all", 3, [2.5], [True]], ids=str)
def test_a_selector_of_the_wrong_kind_is_refused_at_once(wrong):
    with pytest.raises(OptionError, match="gradients"):
        opscope.trace(gradients=wrong)


def test_without_gradients_their_absence_says_how_to_ask():
    with opscope.trace() as trace:
        leaf().exp().sum().backward()
    with pytest.raises(NotSaved, match="gradients='all'"):
        _ = trace["exp"].gradient
    assert not trace["exp"].has_gradient


def test_a_layer_that_needs_no_gradient_says_so():
    with opscope.trace(gradients="all") as trace:
        torch.ones(3).exp()
    with pytest.raises(NotSaved, match="no gradient has reached exp_1_1"):
        _ = trace["exp"].gradient
    assert trace["exp"].gradients == ()


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"device": "cpu"}], ids=str)
def test_gradients_are_moved_and_cast_like_activations(options):
    x = leaf()
    with opscope.trace(gradients=opscope.Save(**options)) as trace:
        x.exp().sum().backward()
    assert torch.equal(trace["exp"].gradient, torch.ones(3, dtype=options.get("dtype")))


# ---------------------------------------------------------------------- nothing is left


def test_hooks_on_inputs_are_gone_with_the_trace(model):
    x = torch.rand(5, 3, requires_grad=True)
    with opscope.trace(model, gradients="all") as trace:
        y = model(x)
    assert x._backward_hooks
    del trace, y
    gc.collect()
    assert not x._backward_hooks


def test_parameters_have_no_hooks(model):
    with opscope.trace(model, gradients="all"), witness.untouched():
        pass
    with opscope.trace(model, gradients="all"):
        model(torch.rand(5, 3)).sum()
        model[0].weight.t()
    assert all(not p._backward_hooks for p in model.parameters())


def test_a_model_is_as_it_was(model):
    with (
        witness.untouched(model),
        opscope.trace(model, gradients="all", saved_for_backward=True, stop_on_nonfinite=True),
    ):
        model(torch.rand(5, 3))


def test_a_graph_does_not_keep_the_trace_nor_the_trace_the_graph(model):
    with opscope.trace(model, gradients="all") as trace:
        y = model(torch.rand(5, 3))
    table, output = weakref.ref(trace._block.session.find(Gradients)), weakref.ref(y)
    del trace
    gc.collect()
    assert table() is None
    y.sum().backward()
    with opscope.trace(model, gradients="all") as trace:
        y = model(torch.rand(5, 3))
    output = weakref.ref(y)
    del y
    gc.collect()
    assert output() is None
    assert len(trace) == 6


def test_nothing_but_gradients_is_kept_alive(model):
    x = torch.rand(5, 3)
    with witness.Mortality() as seen, opscope.trace(model, gradients="all") as trace:
        model(x).sum().backward()
    kept = {id(g) for layer in trace for g in layer.gradients}
    model.zero_grad()
    alive = [t for t in seen.survivors() if id(t) not in kept]
    assert alive == []


# ------------------------------------------------------------------------------ pictures


def blue(trace, level="layer", **view):
    graph = trace.graph(level, **view)
    return {
        (a.rpartition("_")[0], b.rpartition("_")[0])
        for a, b, d in graph.edges(data=True) if d["gradient"]
    }  # fmt: skip


def test_blue_is_the_path_of_the_gradient_and_stops_at_detach():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x.exp()
        (y.sin() * y.detach()).sum().backward()
    assert blue(trace) == {("exp_1", "sin_1"), ("sin_1", "mul_1"), ("mul_1", "sum_1")}


def test_a_branch_without_grad_is_not_blue():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x.exp()
        with torch.no_grad():
            scale = y.cos().abs()
        (y.sin() * scale).sum().backward()
    assert blue(trace) == {("exp_1", "sin_1"), ("sin_1", "mul_1"), ("mul_1", "sum_1")}


def test_a_branch_that_no_gradient_can_pass_is_not_blue():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x.exp()
        where = y.argmax()
        (y * (y > 1)).sum().backward()
        assert where.dtype == torch.int64
    assert blue(trace) == {("exp_1", "mul_1"), ("mul_1", "sum_1")}


def test_a_branch_whose_loss_was_not_used_is_not_blue():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x.exp()
        y.sin().sum()
        y.cos().mean().backward()
    assert blue(trace) == {("exp_1", "cos_1"), ("cos_1", "mean_1")}


def test_a_result_that_is_read_and_detached_in_one_step_is_blue_where_it_is_read():
    x = leaf()
    with opscope.trace(gradients="all") as trace:
        y = x.exp()
        (y * y.detach() + y).sum().backward()
    assert blue(trace) == {("exp_1", "mul_1"), ("exp_1", "add_1"), ("mul_1", "add_1"),
                           ("add_1", "sum_1")}  # fmt: skip


def test_before_any_backward_nothing_is_blue_and_after_it_all_views_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with opscope.trace(model, gradients="all") as trace:
        loss = model(torch.rand(5, 3)).sum()
    assert blue(trace) == set()
    assert "#1f6fd6" not in trace.to_dot().to_string()
    loss.backward()
    assert ("linear_1", "relu_1") in {(a, b) for a, b in blue(trace)}
    assert trace.to_dot().to_string().count("dir=both") == len(blue(trace))
    for level in ("op", "module"):
        assert any(d["gradient"] for _, _, d in trace.graph(level).edges(data=True))
    assert any(d["gradient"] for _, _, d in trace.graph(rolled=True).edges(data=True))


def test_without_gradients_no_edge_is_blue():
    with opscope.trace() as trace:
        leaf().exp().sum().backward()
    assert blue(trace) == set()
    assert "dir=both" not in trace.to_dot().to_string()


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm"])
def test_on_real_models_the_blue_path_leads_from_the_loss_back(name):
    """Each layer with a gradient is at an end of a blue edge, and no other is."""
    program = zoo.build(name, training=True)
    with opscope.trace(program.module, gradients="all") as trace:
        loss_of(program.run()).backward()
    graph = trace.graph("layer")
    ends = {n for a, b, d in graph.edges(data=True) if d["gradient"] for n in (a, b)}
    reached = {layer.label for layer in trace if layer.has_gradient}
    assert ends <= reached
    assert len(reached) > 10
    lonely = {label for label in reached - ends if label in graph}
    fed = {n for n in lonely if any(graph.nodes[m]["layer"] in reached for m in graph.pred[n])}
    assert not fed


def test_a_hook_of_ours_raises_no_warning_when_a_gradient_is_sparse():
    table = nn.Embedding(5, 3, sparse=True)
    with warnings.catch_warnings(), opscope.trace(gradients="all") as trace:
        (table(torch.tensor([1, 2])) * 2).sum().backward()
    assert torch.equal(trace["embedding"].gradient, torch.full((2, 3), 2.0))


def test_where_gradients_flowed_is_worked_out_anew_only_where_some_came():
    x = torch.ones(2, requires_grad=True)
    with opscope.trace(gradients="all") as trace:
        y, z = x * 2, x * 3
    first = trace.tensors.gradient_flow
    assert not first.reached
    assert trace.tensors.gradient_flow is first
    y.sum().backward()
    second = trace.tensors.gradient_flow
    assert second.reached
    assert trace.tensors.gradient_flow is second
    z.sum().backward()
    assert [layer.has_gradient for layer in trace if layer.type == "mul"] == [True, True]
