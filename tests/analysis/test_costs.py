"""Sums of what ops compute: by part of a step, layer and module, each op once."""

import pickle

import pytest
import torch
from tests import zoo
from tests.builders import Sketch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import opscope
from opscope.analysis.costs import op_work
from opscope.records.sums.work import OpWork, PartWork, Work


class Block(nn.Module):
    def __init__(self, inner=None):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.inner = inner

    def forward(self, x):
        x = self.fc(x) @ torch.ones(4, 4)
        return x if self.inner is None else self.inner(x)


X = torch.rand(3, 4)
ONE = 2 * 3 * 4 * 4  # a product of 3 by 4 and 4 by 4


def test_a_module_has_its_own_and_what_the_modules_below_it_compute():
    model = Block(Block())
    with opscope.trace(model) as trace:
        model(X)
    costs = trace.costs

    assert costs.flops == costs.forward.flops == 4 * ONE
    assert {name: work.forward.flops for name, work in costs.modules.items()} == {
        "": 4 * ONE, "fc": ONE, "inner": 2 * ONE, "inner.fc": ONE,
    }  # fmt: skip
    assert {name: work.forward.flops for name, work in costs.own.items()} == {
        "": ONE, "fc": ONE, "inner": ONE, "inner.fc": ONE,
    }  # fmt: skip


def test_a_module_that_runs_within_itself_counts_once():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, depth=2):
            x = self.fc(x)
            return self(x, depth - 1) if depth else x

    model = Again()
    with opscope.trace(model) as trace:
        model(X)

    assert trace.costs.modules[""].forward.flops == trace.costs.flops == 3 * ONE
    assert trace.costs.own["fc"].forward.flops == 3 * ONE


def test_passes_of_a_layer_have_their_own_and_the_backward_belongs_to_them():
    model = nn.Sequential(*[nn.Linear(4, 4)] * 2)
    with opscope.trace(model) as trace:
        model(X.clone().requires_grad_()).sum().backward()
    layers = trace.costs.layers

    linear = [label for label in layers if label.startswith("linear")]
    assert [layers[label].forward.flops for label in linear] == [ONE, ONE]
    assert [layers[label].backward.flops for label in linear] == [2 * ONE, 2 * ONE]
    assert trace.costs.modules[""].backward.flops == trace.costs.backward.flops == 4 * ONE


def test_the_parts_of_a_step_are_told_apart():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    with opscope.trace(model) as trace:
        y = checkpoint(model, X, use_reentrant=False)
        y.sum().backward()
        optimizer.step()
    costs = trace.costs

    assert costs.forward.flops == 2 * ONE
    assert costs.recomputed.flops == ONE  # the last product is not needed again
    assert costs.backward.flops == 3 * ONE  # no gradient of the input
    assert costs.optimizer.flops == 0
    assert costs.optimizer.elements > 0
    assert costs.parts.total.flops == costs.flops == 6 * ONE
    assert sum(work.flops for work in costs.operators.values()) == costs.flops
    assert [line.split()[0] for line in str(costs).splitlines()] == [
        "forward", "backward", "recomputed", "optimizer", "all",
    ]  # fmt: skip


def test_a_copy_has_the_same_costs():
    model = Block()
    with opscope.trace(model) as trace:
        model(X)
    copy = pickle.loads(pickle.dumps(trace))

    assert copy.costs.modules == trace.costs.modules
    assert repr(copy.costs) == repr(trace.costs) == "<opscope.Costs: 192 FLOPs>"


@pytest.mark.filterwarnings("ignore:TF32", "ignore:LSTM with projections")
@pytest.mark.parametrize("name", zoo.SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_real_models_count_what_torch_counts_of_them_made_of_plain_ops(name, training):
    program = zoo.build(name, training=training)
    counter = FlopCounterMode(display=False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = torch.backends.mkldnn.flags(enabled=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), plain, counter:
            program.run()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    expected = counter.get_total_flops()
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode(), opscope.trace(program.module) as trace:
            program.run()
        assert trace.costs.unknown == ()
        assert trace.costs.forward.flops == expected > 0


def test_sums_of_ranges_are_those_of_their_ops():
    work = OpWork([3, -1, 0, 5], [0, 0, 7, 0], kinds=3)

    for start in range(5):
        for stop in range(start, 5):
            assert work.of(range(start, stop)) == work.of(list(range(start, stop)))
    assert work.of(range(4)) == Work(8, 7, 1)
    assert work.by("abab") == {"a": Work(3, 7, 0), "b": Work(5, 0, 2 - 1)}


def test_parts_that_compute_nothing_are_left_out():
    parts = PartWork(forward=Work(4, 1), backward=Work(unknown=2))

    assert list(parts) == [("forward", Work(4, 1)), ("backward", Work(unknown=2))]
    assert parts.total == Work(4, 1, 2)


def test_a_recording_by_hand_has_costs():
    sketch = Sketch()
    x = sketch.outside(2, 3)
    sketch.call("relu", x, shape=(2, 3))
    found = op_work(sketch.build())

    assert (list(found.flops), list(found.elements)) == ([0], [6])
