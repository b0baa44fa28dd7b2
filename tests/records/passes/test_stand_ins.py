"""A parameter is the same parameter through the copies that stand for it."""

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from tests import invariants
from torch import nn

import opscope

X = torch.rand(2, 4)


def layers_of(trace, kind):
    return [layer for layer in trace if layer.type == kind]


class Loop(nn.Module):
    """Uses one module several times."""

    def __init__(self, inner, times=3):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x):
        for _ in range(self.times):
            x = torch.tanh(self.inner(x))
        return x


MODULES = {
    "linear": (lambda: nn.Linear(4, 4), X, "linear", {"inner.weight", "inner.bias"}),
    "linear without bias": (lambda: nn.Linear(4, 4, bias=False), X, "linear", {"inner.weight"}),
    "conv1d": (
        lambda: nn.Conv1d(2, 2, 3, padding=1), torch.rand(1, 2, 5), "conv1d",
        {"inner.weight", "inner.bias"},
    ),
    "conv2d": (
        lambda: nn.Conv2d(2, 2, 3, padding=1), torch.rand(1, 2, 5, 5), "conv2d",
        {"inner.weight", "inner.bias"},
    ),
    "bilinear": (
        lambda: Pairs(nn.Bilinear(4, 4, 4)), X, "bilinear",
        {"inner.inner.weight", "inner.inner.bias"},
    ),
}  # fmt: skip


class Pairs(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x, x)


@pytest.mark.parametrize(("make", "x", "kind", "names"), MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_loop_under_autocast_folds_as_it_does_without(make, x, kind, names, grad, training):
    model = Loop(make()).train(training)
    autocast = torch.autocast("cpu", torch.bfloat16)
    with torch.set_grad_enabled(grad), autocast, opscope.trace(model) as trace:
        model(x)
    with torch.set_grad_enabled(grad), opscope.trace(model) as plain:
        model(x)
    found = layers_of(trace, kind)
    assert [layer.passes for layer in found] == [3, 3, 3], trace.layer_labels
    assert all({p.name for p in layer.parameters} == names for layer in found)
    assert trace.layer_labels == plain.layer_labels
    graph = trace.graph("layer")
    assert not [e for e in graph.edges if e[0].startswith(kind) and e[1].startswith(kind)]
    numbers = {p.name: f"parameter_{p.index}" for p in trace.parameters}
    for layer in found:
        above = set(graph.predecessors(layer.label))
        assert {numbers[name] for name in names} <= above
    for level in ("layer", "module"):
        for rolled in (True, False):
            view = trace.graph(level, rolled=rolled, parameters=False)
            assert nx.is_directed_acyclic_graph(view) or rolled
    invariants.check(trace)


def test_the_graph_of_ops_shows_the_cast_where_it_ran():
    model = Loop(nn.Linear(4, 4), times=2)
    with torch.autocast("cpu", torch.bfloat16), opscope.trace(model) as trace:
        model(X)
    graph = trace.graph("op")
    casts = [n for n, d in graph.nodes(data=True) if d["label"] == "_to_copy"]
    products = [n for n, d in graph.nodes(data=True) if d["label"] == "addmm"]
    assert all(nx.has_path(graph, casts[-1], product) for product in products)


def test_two_branches_of_a_siamese_network_do_not_depend_on_each_other():
    shared, a, b = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), X, X + 1
    with opscope.trace(shared) as trace, torch.autocast("cpu", torch.bfloat16):
        shared(a), shared(b)
    graph = trace.graph("layer", parameters=False)
    first = nx.descendants(graph, "input_1_0:1")
    assert first.isdisjoint(nx.ancestors(graph, "output_1_4:2"))


def test_in_a_training_step_each_backward_op_is_of_its_own_pass():
    model = Loop(nn.Linear(4, 4))
    with opscope.trace(model) as trace:
        with torch.autocast("cpu", torch.bfloat16):
            y = model(X)
        y.float().sum().backward()
    assert [len(layer.backward_ops) > 0 for layer in layers_of(trace, "linear")] == [True] * 3
    edges = trace.graph("layer", phase="all").edges
    assert not [e for e in edges if e[0].startswith("linear") and e[1].startswith("linear")
                and "backward" not in e[1] + e[0]]  # fmt: skip


CASTS = {
    "half": lambda w: w.half().float(),
    "bfloat16": lambda w: w.bfloat16().float(),
    "to a type": lambda w: w.to(torch.float64).to(torch.float32),
    "clone": lambda w: w.clone(),
    "detach": lambda w: w.detach(),
    "quantised and back": lambda w: torch.quantize_per_tensor(
        w.detach(), 0.1, 0, torch.qint8
    ).dequantize(),
    "fake quantised": lambda w: torch.fake_quantize_per_tensor_affine(w, 0.1, 0, -128, 127),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
def test_a_weight_that_is_cast_by_hand_is_the_same_weight_for_every_use(cast, layers):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 4))

        def forward(self, x):
            weight = cast(self.weight)
            x = F.linear(x, weight).relu()
            return F.linear(x, weight)

    model = Model()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    kind = "linear" if layers else "mm"
    if not layers:  # each op is a layer, and reads a view of the weight
        assert len(layers_of(trace, kind)) == 2
        return
    found = layers_of(trace, kind)
    assert [(layer.label, layer.passes) for layer in found] == [
        (f"{found[0].record.layer_label}:1", 2), (f"{found[0].record.layer_label}:2", 2),
    ]  # fmt: skip
    assert all([p.name for p in layer.parameters] == ["weight"] for layer in found)
    graph = trace.graph("layer")
    assert not [e for e in graph.edges if e[0].startswith("linear") and e[1].startswith("linear")]
    assert all(nx.has_path(graph, "parameter_0", layer.label) for layer in found)


def test_a_copy_that_was_changed_is_no_parameter():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 4))

        def forward(self, x):
            copy = self.weight.clone()
            copy[0] = 0.0
            return F.linear(x, copy)

    model = Model()
    with opscope.trace(model) as trace:
        model(X)
    assert trace["linear"].parameters == ()


def test_a_copy_of_an_activation_stands_for_nothing():
    model = nn.Linear(4, 4)
    with opscope.trace(model) as trace:
        (model(X).clone() + 1).sum()
    assert trace["add"].parameters == ()


def test_gpt2_under_autocast_has_the_layers_that_it_has_without():
    from tests import zoo

    program = zoo.build("gpt2")
    with torch.no_grad(), opscope.trace(program.module) as plain:
        program.run()
    autocast = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), autocast, opscope.trace(program.module) as trace:
        program.run()
        program.run()

    def shown(trace, number):
        return [
            (layer.type, layer.module, sorted(p.name for p in layer.parameters))
            for layer in trace
            if layer.parameters and layer.record.number == number
        ]

    assert shown(trace, 1) == shown(trace, 2) == shown(plain, 1)
