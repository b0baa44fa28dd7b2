"""Loops fold where the same modules run at each turn, and are chains where others do."""

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from tests import invariants, zoo
from torch import nn

import opscope

X = torch.rand(1, 4)


class Model(nn.Module):
    def __init__(self, forward, count=4, shared=None):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(count)])
        self.fc, self.cell, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()
        self.weights = nn.ParameterList([torch.rand(4, 4) for _ in range(count)])
        self.program = forward

    def forward(self, x):
        return self.program(self, x)


def residual(m, x):
    for layer in m.layers:
        x = x + layer(x)
    return x


def residual_with_a_shared_activation(m, x):
    for layer in m.layers:
        x = x + m.act(layer(x))
    return x


def residual_with_functions(m, x):
    for layer in m.layers:
        x = F.relu(x + torch.sin(layer(x)))
    return x


def scaled_before(m, x):
    for layer in m.layers:
        x = layer(x * 2)
    return x


def two_in_a_turn(m, x):
    for first, second in zip(m.layers[::2], m.layers[1::2], strict=True):
        x = second(first(x) + x) * 2
    return x


def functional_weights(m, x):
    for weight in m.weights:
        x = x + F.linear(x, weight)
    return x


def inner_loop(m, x):
    for layer in m.layers:
        x = layer(x)
        for _ in range(3):
            x = x + 1
    return x


CHAINS = [
    residual, residual_with_a_shared_activation, residual_with_functions, scaled_before,
    two_in_a_turn, functional_weights, inner_loop,
]  # fmt: skip


@pytest.mark.parametrize("count", [2, 4, 12])
@pytest.mark.parametrize("program", CHAINS, ids=lambda program: program.__name__)
def test_blocks_with_their_own_weights_are_a_chain(program, count):
    model = Model(program, count)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(X)
    for level in ("op", "layer", "module"):
        graph = trace.graph(level, rolled=True, depth=1, parameters=False)
        shared = {n for n, d in graph.nodes(data=True) if d["module"] == "act"}
        own = [node for node in graph if node not in shared]
        assert max(graph.degree(node) for node in own) <= 5, (level, list(graph.edges))
    if program is residual:
        graph = trace.graph("layer", rolled=True, parameters=False)
        assert nx.is_directed_acyclic_graph(graph)
        assert len(graph) == 2 * count + 2
    invariants.check(trace)


def recurrent(m, x):
    for _ in range(3):
        x = m.fc(x)
        x = x + 1
        x = x * 2
    return x


def with_a_state(m, x):
    h = torch.zeros(1, 4)
    for i in range(3):
        h = torch.tanh(m.fc(x * i) + m.cell(h))
    return m.layers[0](h)


def state_from_another_layer(m, x):
    h = m.layers[0](x)
    for _ in range(3):
        h = h * 0.5
        h = h + m.cell(h)
    return m.layers[1](h)


def last_in_its_turn(m, x):
    for _ in range(3):
        x = m.fc(x * 2)
    return x


def two_turns_between_others(m, x):
    x = m.layers[0](x)
    for _ in range(2):
        x = m.cell(m.fc(x) + 1)
    return m.layers[1](x)


def without_modules(m, x):
    for _ in range(3):
        x = x + 1
    return x


def loops_in_loops(m, x):
    for _ in range(2):
        for _ in range(3):
            x = x + 1
        x = m.fc(x)
    return x


FOLDED = {
    recurrent: {"linear": 3, "add": 3, "mul": 3},
    with_a_state: {"zeros": 1, "mul": 3, "linear": 3, "add": 3, "tanh": 3},
    state_from_another_layer: {"mul": 3, "add": 3},
    last_in_its_turn: {"mul": 3, "linear": 3},
    two_turns_between_others: {"add": 2},
    without_modules: {"add": 3},
    loops_in_loops: {"add": 6, "linear": 2},
}


@pytest.mark.parametrize("program", FOLDED, ids=lambda program: program.__name__)
def test_a_loop_that_runs_the_same_modules_at_each_turn_folds(program):
    model = Model(program)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(X)
    for kind, expected in FOLDED[program].items():
        found = {layer.passes for layer in trace if layer.type == kind}
        assert expected in found, (kind, trace.layer_labels)
        assert len(found) == 1 or kind == "linear"
    invariants.check(trace)


def test_a_loop_over_blocks_within_a_loop_folds_at_the_outer_one():
    def program(m, x):
        for _ in range(3):
            for layer in m.layers:
                x = x + layer(x)
        return x

    model = Model(program)
    with torch.no_grad(), opscope.trace(model) as trace:
        model(X)
    assert [layer.passes for layer in trace if layer.type == "add"] == [3] * 12
    assert len({layer.record.layer for layer in trace if layer.type == "add"}) == 4


def test_a_module_that_runs_several_times_has_its_chain_in_each_run():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Model(residual)

        def forward(self, x):
            for _ in range(2):
                x = self.inner(x)
            return x

    model = Outer()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(X)
    assert [layer.passes for layer in trace if layer.type == "add"] == [2] * 8


def test_steps_of_training_fold_and_the_blocks_in_them_do_not():
    model = Model(residual)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with opscope.trace(model) as trace:
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.mse_loss(model(X), X) * 2
            loss.backward()
            optimizer.step()
    assert {layer.passes for layer in trace if layer.type in ("add", "mseloss")} == {3}
    assert len({layer.record.layer for layer in trace if layer.type == "mseloss"}) == 1


@pytest.mark.parametrize("name", ["gpt2", "vit", "resnet18", "swin", "encoder"])
def test_no_layer_of_a_real_model_joins_blocks_with_their_own_weights(name):
    program = zoo.shared(name)
    with torch.no_grad(), opscope.trace(program.module) as trace:
        program.run()
    graph = trace.graph("layer", rolled=True, parameters=False, buffers=False)
    wide = max(graph, key=graph.in_degree)
    assert graph.in_degree(wide) <= 6, (wide, graph.in_degree(wide))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_training_loop_folds_though_the_first_step_makes_state(optimizer):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    stepper = optimizer(model.parameters(), lr=0.1)
    with opscope.trace(model) as trace:
        for _ in range(3):
            stepper.zero_grad()
            F.mse_loss(model(X), X[:, :1]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stepper.step()
    assert trace["mseloss_1:3"].passes == 3
    assert "mseloss_2" not in trace
