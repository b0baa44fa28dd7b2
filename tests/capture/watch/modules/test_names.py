"""Modules and parameters have the names that the model gives them when the block ends."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from tests import invariants, zoo
from torch import nn
from torch.nn.utils import prune

import opscope

X = torch.rand(2, 4)


class Model(nn.Module):
    """Two layers, and a forward that may change the model."""

    def __init__(self, change):
        super().__init__()
        self.lin, self.act = nn.Linear(4, 4), nn.ReLU()
        self.register_buffer("seen", torch.zeros(3))
        self.change = change

    def forward(self, x):
        found = self.change(self, x)
        return self.act(self.lin(x if found is None else found))


def names_are_those_of(trace, model):
    """Compare modules, parameters and buffers with what the model says after the run."""
    invariants.check(trace)
    recorded = {name: item for item in trace.parameters for name in (item.name, *item.aliases)}
    named = dict(model.named_parameters(remove_duplicate=False))
    named |= dict(model.named_buffers(remove_duplicate=False))
    assert recorded.keys() == named.keys()
    for name, tensor in named.items():
        if not nn.parameter.is_lazy(tensor):
            assert recorded[name].shape == tensor.shape, name
            assert recorded[name].dtype == str(tensor.dtype).removeprefix("torch."), name
    assert trace.totals.params == sum(
        p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p)
    )
    assert trace.totals.buffers == len(list(model.buffers()))
    modules = trace.recording.modules
    addresses = {name: item for item in modules for name in (item.address, *item.aliases)}
    assert len(addresses) == sum(1 + len(item.aliases) for item in modules)
    for name, module in model.named_modules(remove_duplicate=False):
        assert addresses[name].class_name == type(module).__name__


# What a forward may do to its model, and how many parameters of other modules it ran.


def makes(m, x):
    return nn.Linear(4, 4)(x)


def makes_many(m, x):
    for _ in range(5):
        x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))(x)
    return x


def copies(m, x):
    return copy.deepcopy(m.lin)(x)


def copies_all(m, x):
    other = copy.deepcopy(m)
    other.change = lambda m, x: None
    return other(x)


def swaps(m, x):
    x = m.lin(x)
    m.lin = nn.Linear(4, 4)
    return x


def swaps_for_another_size(m, x):
    m.lin = nn.Linear(4, 7)


def adds(m, x):
    m.new = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return m.new(x)


def adds_and_does_not_call(m, x):
    m.new = nn.Linear(4, 2)
    return F.linear(x, m.new.weight) @ torch.ones(2, 4)


def adds_below_what_was_added(m, x):
    m.new = nn.Module()
    m.new.inner = nn.ModuleList()
    m.new.inner.append(nn.Linear(4, 4))
    return m.new.inner[0](x)


def renames(m, x):
    m.other = m.lin
    del m.lin
    m.lin = m.other
    del m.other
    m.act2 = m.act
    return m.act2(x)


def renames_for_good(m, x):
    m.body = nn.Sequential(m.lin)
    del m.lin
    object.__setattr__(m, "lin", m.body[0])


def deletes(m, x):
    m.gone = nn.Linear(4, 4)
    x = m.gone(x)
    del m.gone
    return x


def deletes_what_was_there(m, x):
    lin = m.lin
    del m.lin
    object.__setattr__(m, "lin", lin)


def sets_a_parameter(m, x):
    m.scale = nn.Parameter(torch.full((4,), 2.0))
    return x * m.scale


def replaces_a_parameter(m, x):
    x = m.lin(x)
    m.lin.weight = nn.Parameter(torch.rand(4, 4))
    return x


def replaces_one_for_another_size(m, x):
    m.lin.weight, m.lin.bias = nn.Parameter(torch.rand(6, 4)), None


def ties(m, x):
    m.head = nn.Linear(4, 4, bias=False)
    m.head.weight = m.lin.weight
    return m.head(x)


def unties(m, x):
    m.head = nn.Linear(4, 4, bias=False)
    m.head.weight = m.lin.weight
    x = m.head(x)
    m.head.weight = nn.Parameter(m.lin.weight.detach().clone())
    return x


def replaces_a_buffer(m, x):
    for _ in range(3):
        m.seen = m.seen + 1
    return x + m.seen.sum()


def registers_a_buffer(m, x):
    m.register_buffer("cache", torch.rand(2, 5))
    m.cache = torch.cat([m.cache, m.cache])
    return x + m.cache.mean()


def normalises_its_weight(m, x):
    nn.utils.parametrizations.weight_norm(m.lin)


def is_pruned(m, x):
    prune.random_unstructured(m.lin, "weight", 0.5)


def loads(m, x):
    m.load_state_dict({k: torch.rand_like(v) for k, v in m.state_dict().items()}, assign=True)


def is_cast(m, x):
    m.to(torch.float64)
    return x.double()


def runs_with_other_weights(m, x):
    other = {"weight": torch.rand(4, 4), "bias": torch.rand(4)}
    return torch.func.functional_call(m.lin, other, (x,))


def has_a_lazy_branch(m, x):
    m.never = nn.LazyLinear(3)


def has_a_lazy_layer_that_runs(m, x):
    m.lazy = nn.LazyLinear(4)
    return m.lazy(x)


def injects(m, x):
    """What adapters of low rank do to a layer."""

    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.down, self.up = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    m.lin = Adapted(m.lin)


CHANGES = {
    makes: 20, makes_many: 140, copies: 20, copies_all: 20, swaps: 20,
    swaps_for_another_size: 20, adds: 0, adds_and_does_not_call: 0,
    adds_below_what_was_added: 0, renames: 0, renames_for_good: 0, deletes: 20,
    deletes_what_was_there: 20, sets_a_parameter: 0, replaces_a_parameter: 0,
    replaces_one_for_another_size: 4, ties: 4 * 4, unties: 4 * 4, replaces_a_buffer: 0,
    registers_a_buffer: 0, normalises_its_weight: 16, is_pruned: 0, loads: 0, is_cast: 0,
    runs_with_other_weights: 0, has_a_lazy_branch: 0, has_a_lazy_layer_that_runs: 0, injects: 0,
}  # fmt: skip


@pytest.mark.parametrize("settled", ["at the end", "at once"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_parameters_are_those_of_the_model_after_the_run(change, named, settled):
    model = Model(change)
    with opscope.trace(
        model if named else None, gradients="all" if settled == "at once" else "none"
    ) as trace:
        model(X)
    names_are_those_of(trace, model)
    assert trace.totals.other_params == CHANGES[change]


# ------------------------------------------------------------ what is not one of the changes


def test_a_weight_that_is_set_in_the_forward_belongs_to_the_layers_that_use_it():
    model = Model(sets_a_parameter)
    with opscope.trace(model, replayable=True) as trace:
        model(X)
    assert [item.name for item in trace["mul"].parameters] == ["scale"]
    assert "parameter_2" in trace.graph("op")
    assert trace.validate()


def test_a_layer_that_is_swapped_for_itself_keeps_its_name():
    def change(m, x):
        m.lin = m.lin
        m.lin.weight = m.lin.weight
        m.seen = m.seen

    model = Model(change)
    with opscope.trace(model) as trace:
        model(X)
    names_are_those_of(trace, model)
    assert [item.name for item in trace["linear"].parameters] == ["lin.weight", "lin.bias"]


def test_a_module_that_was_taken_out_keeps_what_it_gave():
    model = Model(deletes)
    with opscope.trace(model, save="all") as trace:
        model(X)
    names_are_those_of(trace, model)
    assert trace["gone"].activation.shape == (2, 4)
    assert [item.name for item in trace["gone"].parameters] == ["gone.weight", "gone.bias"]
    assert "and 20 of other modules" in str(trace.summary())


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_is_gone_when_the_block_ends_has_the_names_it_had(named):
    model = Model(adds)
    with opscope.trace(model if named else None) as trace:
        model(X)
        expected = {*dict(model.named_parameters()), *dict(model.named_buffers())}
        del model
        gc.collect()
    invariants.check(trace)
    assert {item.name for item in trace.parameters} == expected
    assert trace.totals.params == 2 * 20


def test_what_a_stranger_is_given_is_below_it():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    def wraps(m, x):
        return Wrapper(nn.Sequential(nn.Linear(4, 4)))(x)

    def wraps_a_part(m, x):
        return Wrapper(m.lin)(x)

    for change, called, others in ((wraps, "Wrapper.inner.0", 20), (wraps_a_part, "lin", 0)):
        model = Model(change)
        with opscope.trace(model) as trace:
            model(X)
        names_are_those_of(trace, model)
        assert called in [layer.module for layer in trace.layers]
        assert trace.totals.other_params == others


def test_a_real_model_has_the_head_that_it_is_given():
    zoo._torchvision()  # timm imports torchvision
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=10).eval()
    image = torch.rand(1, 3, 64, 64)
    with opscope.trace(model) as trace:
        model.reset_classifier(7)
        model(image)
    names_are_those_of(trace, model)
    assert trace["fc"].parameters[0].shape == (7, 512)
    assert trace.totals.other_params == 10 * 512 + 10


def test_a_language_model_has_the_embedding_that_it_is_given():
    zoo._torchvision()  # transformers imports torchvision
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
    model = transformers.GPT2LMHeadModel(config).eval()
    with opscope.trace(model) as trace:
        model.resize_token_embeddings(23, mean_resizing=False)
        model(input_ids=torch.tensor([[1, 22]]))
    names_are_those_of(trace, model)
    [tied] = [item for item in trace.parameters if item.name == "transformer.wte.weight"]
    assert (tied.shape, tied.aliases) == ((23, 16), ("lm_head.weight",))


def test_a_tensor_that_is_put_in_place_without_a_word_is_noticed():
    def change(m, x):
        m._buffers["seen"] = torch.ones(9)
        m.lin._parameters["bias"] = nn.Parameter(torch.ones(4))
        m._modules["act"] = nn.Tanh()
        m.lin._parameters = dict(reversed(m.lin._parameters.items()))

    model = Model(change)
    with opscope.trace(model) as trace:
        model(X)
    names_are_those_of(trace, model)
    assert trace["act"].type == "tanh"


def test_two_models_that_share_a_layer_both_name_it():
    first, second = Model(lambda m, x: None), Model(lambda m, x: None)
    second.lin = first.lin
    with opscope.trace() as trace:
        second(first(X))
    invariants.check(trace)
    [weight] = [item for item in trace.parameters if item.name == "Model.lin.weight"]
    assert weight.aliases == ("Model#2.lin.weight",)
    assert trace.totals.params == 20
