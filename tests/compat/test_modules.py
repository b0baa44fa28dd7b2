"""Modules as people write them: wrapped weights, odd names, parts kept anywhere."""

import types

import networkx as nx
import pytest
import torch
from tests import invariants, witness
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import opscope

X = torch.ones(2, 3)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def wrapped(wrap):
    torch.manual_seed(0)
    linear = nn.Linear(3, 3)
    wrap(linear)
    return nn.Sequential(linear, nn.ReLU())


WRAPPED = {
    "parametrization": (
        lambda m: parametrize.register_parametrization(m, "weight", Symmetric()),
        {"0.parametrizations.weight.original"},
    ),
    "weight norm": (
        parametrizations.weight_norm,
        {f"0.parametrizations.weight.original{i}" for i in (0, 1)},
    ),
    "spectral norm": (
        parametrizations.spectral_norm,
        {
            "0.parametrizations.weight.original",
            "0.parametrizations.weight.0._u",
            "0.parametrizations.weight.0._v",
        },
    ),
    "orthogonal": (
        parametrizations.orthogonal,
        {"0.parametrizations.weight.original", "0.parametrizations.weight.0.base"},
    ),
    "the old spectral norm": (
        nn.utils.spectral_norm,
        {"0.weight_orig", "0.weight_u", "0.weight_v"},
    ),
}


@pytest.mark.parametrize(("wrap", "names"), WRAPPED.values(), ids=WRAPPED)
def test_a_weight_that_is_computed_comes_from_what_it_is_computed_of(wrap, names):
    plain, model = wrapped(wrap), wrapped(wrap)
    expected = plain(X)
    with opscope.trace(model, replayable=True) as trace:
        found = model(X)
    assert torch.equal(found, expected)
    assert witness.bits(list(model.state_dict().values())) == witness.bits(
        list(plain.state_dict().values())
    )
    assert {parameter.name for parameter in trace.parameters} == {"0.bias", *names}
    # Power iteration overwrites the vector that it does not start from.
    graph = trace.graph("layer", overwritten=True)
    above = nx.ancestors(graph, trace["linear"].label)
    assert names <= {graph.nodes[node]["label"] for node in above}
    assert trace.validate()
    invariants.check(trace)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_old_weight_norm_is_seen_as_torch_computes_it(layers):
    model = nn.utils.weight_norm(nn.Linear(3, 3))
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert {parameter.name for parameter in trace.parameters} == {"bias", "weight_g", "weight_v"}


def test_lazy_modules_have_the_shapes_that_they_took(layers):
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU())
    with opscope.trace(model, layers=layers, save="all") as trace:
        y = model(X)
    shapes = {parameter.name: parameter.shape for parameter in trace.parameters}
    assert shapes["0.weight"] == (4, 3)
    assert shapes["1.running_mean"] == (4,)
    assert trace.totals.params == 4 * 3 + 4 + 4 + 4
    assert torch.equal(trace["output_1"].activation, y)
    assert type(model[0]) is nn.Linear


def test_a_lazy_module_is_replayed():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with opscope.trace(model, replayable=True) as trace:
        model(torch.rand(2, 3, 5, 5))
    assert trace.validate()


def test_tied_weights_are_one_parameter_with_two_names(layers):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    names = [(parameter.name, parameter.aliases) for parameter in trace.parameters]
    assert names == [("0.weight", ("2.weight",)), ("0.bias", ()), ("2.bias", ())]
    assert trace.totals.params == 9 + 3 + 3


# ----------------------------------------------------------------------- where parts are


class Listed(nn.Module):
    """Keeps its parts where `named_modules` does not find them."""

    def __init__(self):
        super().__init__()
        self.parts = [nn.Linear(3, 3), nn.Tanh()]
        self.table = {"last": nn.Linear(3, 3)}

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return self.table["last"](x)


def test_parts_in_plain_lists_get_names_of_their_own(layers):
    model = Listed()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert [module.address for module in trace.modules] == ["", "Linear", "Tanh", "Linear#2"]
    # They are no parameters of the model: an optimizer does not get them, nor a state dict.
    assert not list(model.parameters())
    assert not trace.parameters
    assert trace.totals.other_params == 2 * (9 + 3)
    assert {parameter.name for parameter in trace.recording.parameters} == {
        "Linear.weight", "Linear.bias", "Linear#2.weight", "Linear#2.bias",
    }  # fmt: skip
    assert trace["Tanh"].type == "tanh"
    invariants.check(trace)


def test_modules_that_functions_call_are_where_they_were_called(layers):
    def apply(part, x):
        return part(x)

    class Calling(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Linear(3, 3)

        def forward(self, x):
            return apply(self.part, apply(torch.sin, x))

    model = Calling()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert [call[:2] for call in witness.recorded_calls(trace)] == [("", None), ("part", 0)]
    assert trace["sin"].module == ""
    assert trace["sin"].source.function == "apply"


def test_the_forward_of_a_part_that_is_called_itself_belongs_to_the_caller(layers):
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Tanh()

        def forward(self, x):
            return self.part.forward(x)

    model = Direct()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert trace["tanh"].module == ""


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.nothing, self.none = nn.Sequential(), None
        self.by_name, self.by_number = nn.ModuleDict(), nn.ModuleList()
        self.values, self.table = nn.ParameterList(), nn.ParameterDict()
        self.register_module("absent", None)
        self.register_buffer("empty", None)
        self.register_parameter("later", None)

    def forward(self, x):
        return self.nothing(x).sin()


@pytest.mark.parametrize("build", [Empty, nn.Sequential, nn.Identity])
def test_empty_containers_are_drawn_and_listed(build, layers, tmp_path):
    model = build()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    invariants.check(trace)
    assert [module.address for module in trace.modules] == [
        name for name, _ in model.named_modules()
    ]
    assert "identity" in [layer.type for layer in trace.layers]
    assert trace.draw(tmp_path / "x.dot", "module").exists()
    assert str(trace.summary())


def test_a_module_list_and_dict_are_no_modules_that_run():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.list = nn.ModuleList([nn.Sin() if hasattr(nn, "Sin") else nn.Tanh()])
            self.dict = nn.ModuleDict({"a b": nn.Tanh()})

        def forward(self, x):
            return self.dict["a b"](self.list[0](x))

    model = Holding()
    with opscope.trace(model) as trace:
        model(X)
    assert [call[0] for call in witness.recorded_calls(trace)] == ["", "list.0", "dict.a b"]
    assert trace["dict.a b"].type == "tanh"


NAMES = ["a b", '"', "'", "0", "01", "日本", "a/b", "a:1", ":", "@x", "x#2", "<b>", "\\", "\n", "$"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_part_of_any_name_is_found_by_it(name, layers):
    model = nn.Module()
    model.add_module(name, nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    model.forward = types.MethodType(lambda self, x: self._modules[name](x), model)
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    assert trace[f"{name}.1"].type == "tanh"
    assert trace[f"{name}:1"] is trace[f"{name}.1"]
    assert trace.graph(module=name, depth=1).number_of_nodes()
    assert trace.graph(collapse=[name]).number_of_nodes()
    invariants.check(trace)


def test_a_name_with_a_dot_is_refused_by_torch_and_so_never_met():
    with pytest.raises(KeyError, match="module name can"):
        nn.Module().add_module("a.b", nn.ReLU())


def test_a_part_that_is_replaced_on_the_way_is_a_part_of_its_own(layers):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Tanh()

        def forward(self, x):
            x = self.part(x)
            self.part = nn.Sigmoid()
            return self.part(x)

    model = Changing()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    # What the model has at the end has the name, as in its state dict.
    assert [call[0] for call in witness.recorded_calls(trace)] == ["", "Tanh", "part"]


def test_a_part_that_is_deleted_after_the_trace_is_still_in_it(layers):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with opscope.trace(model, layers=layers, save="all") as trace:
        model(X)
    del model[1]
    assert trace["1"].type == "tanh"
    assert trace["1"].activation.shape == (2, 3)
    assert "Tanh" in str(trace.summary())


# ------------------------------------------------------------------------------ streams


class Streaming(nn.Module):
    """Gives what it computes bit by bit, through an inner function or its own."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(3, 3)

    def forward(self, x):
        def stream():
            y = x
            for _ in range(3):
                y = self.part(y)
                yield y

        return stream()


def test_what_a_stream_computes_is_seen_as_it_is_read(layers):
    model = Streaming()
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        for y in model(X):
            y.sin()
    called = [call[:3] for call in witness.recorded_calls(trace)]
    assert called == [("", None, 1), *(("part", None, number) for number in (1, 2, 3))]
    names = [op.name for op in trace.ops if op.name in ("addmm", "sin")]
    assert names == ["addmm", "sin"] * 3
    invariants.check(trace)


def test_a_stream_that_is_closed_early_fails_nothing(layers):
    model = Streaming()
    with torch.no_grad(), witness.untouched(model), opscope.trace(model, layers=layers) as trace:
        stream = model(X)
        next(stream)
        stream.close()
        X.sin()
    assert trace.failure is None
    assert trace.ops[-1].name == "sin"
    assert trace.ops[-1].module_call is None


def test_a_stream_that_is_read_after_the_trace_is_not_in_it(layers):
    model = Streaming()
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        stream = model(X)
        next(stream)
    rest = list(stream)
    assert len(rest) == 2
    assert len([call for call in trace.recording.module_calls if call.module]) == 1
