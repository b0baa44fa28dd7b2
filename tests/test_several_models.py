"""Programs that are no call of one model: several models, plain functions, parts of a model."""

import pytest
import torch
import torch.nn.functional as F
from tests import invariants, witness, zoo
from torch import nn

import opscope

X = torch.rand(2, 4)


class Enc(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x):
        return self.l(x).relu()


class Dec(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(3, 4)

    def forward(self, x):
        return self.l(x)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = Enc(), Dec()

    def encode(self, x):
        return self.enc(x)

    def forward(self, x):
        return self.dec(self.enc(x))


# ------------------------------------------------------------------------- several models


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Enc(), Dec()


@pytest.fixture
def step(pair, layers):
    """A step of training of two models that nobody named."""
    enc, dec = pair
    with opscope.trace(layers=layers, save="all", gradients="all", replayable=True) as trace:
        loss = nn.MSELoss()(dec(enc(X)), X)
        loss.backward()
    invariants.check(trace)
    return trace, loss


def test_two_models_are_both_there_by_the_names_of_their_classes(step, pair):
    trace, loss = step
    enc, dec = pair
    assert [item.address for item in trace.modules] == ["Enc", "Enc.l", "Dec", "Dec.l", "MSELoss"]
    hidden = enc(X)
    assert torch.equal(trace["Enc"].activation, hidden)
    assert torch.equal(trace["Dec"].activation, dec(hidden))
    assert torch.equal(trace["Dec.l"].activation, dec(hidden))
    assert torch.equal(trace["MSELoss"].activation, loss)
    assert torch.equal(trace["Dec"].gradient, (dec(hidden) - X) / 4)
    assert str(trace.summary()).startswith("program\n")


def test_the_parameters_of_two_models_are_all_of_theirs(step, pair):
    trace, _ = step
    names = [
        f"{type(model).__name__}.{name}" for model in pair for name, _ in model.named_parameters()
    ]
    assert [item.name for item in trace.parameters] == names
    assert trace.totals.params == sum(p.numel() for model in pair for p in model.parameters())
    assert trace.totals.other_params == 0


def test_two_models_have_the_output_that_the_program_leaves(step):
    trace, loss = step
    assert trace.validate().outputs == 1
    [output] = [layer for layer in trace.layers if layer.type == "output"]
    assert torch.equal(output.activation, loss)


def test_one_of_two_models_is_made_a_program_and_both_are_refused(step, pair):
    trace, _ = step
    for model, x in zip(pair, (X, torch.rand(2, 3)), strict=True):
        assert torch.equal(trace.to_fx(type(model).__name__)(x), model(x))
    with pytest.raises(opscope.TraceStateError, match=r"to_fx\('Enc'\), to_fx\('Dec'\)"):
        trace.to_fx()


def test_two_models_of_one_class_have_numbers(layers):
    real, noise = torch.rand(3, 5), torch.rand(3, 2)
    generator = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
    critic = nn.Sequential(nn.Linear(5, 1), nn.Sigmoid())
    with opscope.trace(layers=layers) as trace:
        (critic(real).mean() - critic(generator(noise)).mean()).backward()
    invariants.check(trace)
    called = [address for address, *_ in witness.recorded_calls(trace)]
    assert called == [
        "Sequential", "Sequential.0", "Sequential.1", "Sequential#2", "Sequential#2.0",
        "Sequential#2.1", "Sequential", "Sequential.0", "Sequential.1",
    ]  # fmt: skip
    shapes = {item.name: item.shape for item in trace.parameters}
    assert shapes["Sequential#2.0.weight"] == (5, 2)
    assert trace.totals.params == (10 + 5) + (5 + 1)


@pytest.mark.parametrize("before", [nn.Flatten, nn.Identity, nn.ReLU])
def test_a_module_without_parameters_that_runs_before_the_model_is_not_the_model(before, layers):
    first, model = before(), nn.Linear(4, 2)
    with opscope.trace(layers=layers) as trace:
        model(first(X))
    invariants.check(trace)
    assert [item.address for item in trace.modules] == [before.__name__, "Linear"]
    assert [item.name for item in trace.parameters] == ["Linear.weight", "Linear.bias"]
    assert (trace.totals.params, trace.totals.other_params) == (10, 0)


def test_a_criterion_leaves_the_model_its_plain_names(layers):
    model, criterion = Both(), nn.CrossEntropyLoss()
    with opscope.trace(layers=layers) as trace:
        criterion(model(X), torch.tensor([0, 1])).backward()
    invariants.check(trace)
    assert [item.address for item in trace.modules] == [
        "", "enc", "enc.l", "dec", "dec.l", "CrossEntropyLoss",
    ]  # fmt: skip
    assert [item.name for item in trace["enc.l"].parameters if item.shape == (3,)] == ["enc.l.bias"]


def test_real_models_side_by_side_are_addressed_apart():
    vision, _ = zoo._torchvision()
    models = nn.ModuleList([vision.alexnet(), vision.squeezenet1_1()]).eval()
    image = torch.rand(1, 3, 64, 64)
    expected = [model(image) for model in models]
    with opscope.trace(save="all", replayable=True) as trace, torch.no_grad():
        for model in models:
            model(image)
    invariants.check(trace)
    assert trace.validate()
    for name, model, y in zip(("AlexNet", "SqueezeNet"), models, expected, strict=True):
        assert torch.equal(trace[name].activation, y)
        assert torch.equal(trace.to_fx(name)(image), y)
        below = {f"{name}.{path}" if path else name for path, _ in model.named_modules()}
        assert below <= {item.address for item in trace.recording.modules}
    assert trace.totals.params == sum(p.numel() for p in models.parameters())


# ----------------------------------------------------------------- parts, and no model at all


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_a_part_that_is_called_by_itself_gives_the_output(named, grad, layers):
    model = Both()
    trace = opscope.trace(model if named else None, layers=layers, save="all", replayable=True)
    with torch.set_grad_enabled(grad), trace:
        z = model.encode(X)
    invariants.check(trace)
    [output] = [layer for layer in trace.layers if layer.type == "output"]
    assert torch.equal(output.activation, z)
    assert trace.validate().outputs == 1
    assert torch.equal(trace.to_fx()(X), z)
    assert trace["enc.l" if named else "l"].parameters


def one_result(x):
    return F.gelu(x) @ x.T


def two_results(x):
    return x.sin(), x.cos()


def a_dictionary(x):
    return {"a": x.relu(), "b": [x.exp()]}


def a_loop(x):
    for _ in range(3):
        x = torch.tanh(x + 1)
    return x


def in_place(x):
    y = x.clone()
    y[0] = 2
    return y


def with_constants(x):
    return x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(0.5)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "function", [one_result, two_results, a_dictionary, a_loop, in_place, with_constants]
)
def test_a_plain_function_has_its_outputs_and_its_input(function, grad, layers):
    with torch.set_grad_enabled(grad):
        with opscope.trace(layers=layers, save="all", replayable=True) as trace:
            given = function(X)
        expected = witness.bits(list(torch.utils._pytree.tree_leaves(given)))
    invariants.check(trace)
    outputs = [layer for layer in trace.layers if layer.type == "output"]
    assert witness.bits([layer.activation for layer in outputs]) == expected
    assert trace.validate().outputs == len(expected)
    inputs = [layer for layer in trace.layers if layer.type == "input"]
    assert [layer.activation is X or torch.equal(layer.activation, X) for layer in inputs] == [True]
    found = torch.utils._pytree.tree_leaves(trace.to_fx()(X))
    assert witness.bits(found) == expected


def test_what_a_program_was_given_is_kept_only_if_it_may_run_again():
    with opscope.trace(save="all") as trace:
        X.sin()
    with pytest.raises(opscope.NotSaved, match=r"replayable=True"):
        _ = trace["input_1"].activation


def test_numbers_of_python_are_no_inputs(layers):
    with opscope.trace(layers=layers) as trace:
        kept = torch.tensor([1.0, 2.0]).mul(torch.tensor(3)) + torch.tensor([[1, 2], [3, 4]])[0]
    assert kept.numel() == 2
    assert "input" not in [layer.type for layer in trace.layers]
    graph = trace.graph("op")
    assert "external" not in {kind for _, kind in graph.nodes(data="kind")}
    sources = [node for node in graph if not graph.in_degree(node)]
    assert {graph.nodes[node]["label"] for node in sources} == {"lift_fresh"}


def test_what_was_only_looked_at_is_an_output(layers):
    model = Both()
    with opscope.trace(model, layers=layers, save="all") as trace:
        z = model.encode(X)
        loss = z.square().mean()
        loss.backward()
        assert loss.item() >= 0
    [output] = [layer for layer in trace.layers if layer.type == "output"]
    assert torch.equal(output.activation, loss)
