"""Statistics of a training loop: the numbers, whose they are, and that nothing is kept."""

import math

import pytest
import torch
from rich.console import Console
from rich.live import Live
from tests import witness, zoo
from torch import nn

import opscope
from opscope.capture.collect.kept.activations import Activations
from opscope.errors import OptionError
from opscope.verbs.watching import STATISTICS, statistics


def by_hand(tensor):
    x = tensor.detach().double()
    return {
        "mean": x.mean().item(),
        "std": x.std(correction=0).item(),
        "min": x.min().item(),
        "max": x.max().item(),
        "zeros": (x == 0).double().mean().item(),
        "nonfinite": (~x.isfinite()).double().mean().item(),
    }


def same(row, expected, prefix=""):
    return all(
        row[prefix + name] == pytest.approx(expected[name], rel=1e-4, abs=1e-7, nan_ok=True)
        for name in STATISTICS
    )


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3))


def out_of_place(program):
    for part in program.call.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    return program


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm", "encoder"])
def test_the_numbers_are_those_worked_out_by_hand(name):
    """From what a trace of the same step saves, which other tests compare with autograd."""

    def step(program):
        values = program.run()
        values = list(values.values()) if isinstance(values, dict) else values
        sum(t.pow(2).mean() for t in witness.tensors(values) if t.requires_grad).backward()

    one, two = zoo.build(name, training=True), zoo.build(name, training=True)
    torch.manual_seed(1)
    with opscope.trace(
        one.module,
        save=opscope.Save("all", transform=torch.clone),
        gradients=opscope.Save("all", transform=torch.clone),
    ) as trace:
        step(one)
    torch.manual_seed(1)
    watch = opscope.watch(two.module)
    with watch:
        step(two)
    checked = gradients = 0
    for row in watch.rows:
        layer = trace[row["layer"]]
        found = layer.activation if isinstance(layer.activation, tuple) else (layer.activation,)
        place = next(i for i, t in enumerate(found) if t.is_floating_point())
        assert same(row, by_hand(found[place])), row
        assert row["module"] == layer.module
        reached = layer._layers.tensors.gradients(layer.record)[place]
        if reached:
            assert same(row, by_hand(reached[-1]), "grad_"), row
            gradients += 1
        else:
            assert row["grad_mean"] is None
        checked += 1
    assert checked > 8
    assert gradients > 5
    said = {row["layer"] for row in watch.rows}
    floats = {x.label for x in trace if x.phase == "forward" and x.record.kind != "output" and
              any(v.dtype.startswith("float") and v.numel for v in x.outputs)}  # fmt: skip
    assert said == floats


NUMBERS = {
    "plain": torch.tensor([[1.0, 2.0], [0.0, -3.0]]),
    "zeros": torch.zeros(7),
    "no dimensions": torch.tensor(2.5),
    "one not a number": torch.tensor([1.0, math.nan, 0.0]),
    "infinities": torch.tensor([math.inf, -math.inf, 1.0, 0.0]),
    "half": torch.tensor([60000.0, 60000.0, -1.0]).half(),
    "bfloat16": torch.tensor([1.0, 3.0, 0.0]).bfloat16(),
    "double": torch.tensor([1e300, -1e300], dtype=torch.float64),
    "strided": torch.arange(12.0).view(3, 4).t()[1:],
    "expanded": torch.tensor([[2.0], [0.0]]).expand(2, 3),
    "tiny": torch.tensor([1e-45, 0.0]),
}


@pytest.mark.parametrize("tensor", NUMBERS.values(), ids=NUMBERS)
def test_statistics_are_those_worked_out_by_hand(tensor):
    found = dict(zip(STATISTICS, statistics(tensor).tolist(), strict=True))
    expected = by_hand(tensor)
    if tensor.isfinite().all():
        assert same(found, expected)
    else:
        assert found["nonfinite"] == pytest.approx(expected["nonfinite"])
        assert found["zeros"] == pytest.approx(expected["zeros"])


def test_statistics_of_complex_numbers_are_of_their_absolute_values():
    assert statistics(torch.tensor([3 + 4j, 0j])).tolist()[:4] == [2.5, 2.5, 0.0, 5.0]


@pytest.mark.parametrize(
    "tensor", [torch.tensor([1, 2]), torch.tensor([True]), torch.zeros(0), torch.eye(2).to_sparse()],
    ids=["integers", "booleans", "empty", "sparse"],
)  # fmt: skip
def test_of_what_has_no_statistics_there_are_none(tensor):
    assert statistics(tensor).numel() == 0


def test_large_tensors_have_an_exact_share_of_zeros():
    x = torch.ones(2**25 + 4)
    x[:4] = 0
    zeros = statistics(x)[STATISTICS.index("zeros")].item()
    assert zeros == pytest.approx(4 / (2**25 + 4), rel=0.05)


def test_only_every_nth_step_is_looked_at(model):
    watch, seen = opscope.watch(model, every=3), []
    for number in range(8):
        with watch:
            model(torch.full((2, 4), float(number))).sum().backward()
        seen.append((watch.step, watch.rows[0]["step"], watch.rows[0]["max"]))
    looked = [0, 0, 0, 3, 3, 3, 6, 6]
    assert seen == [(n, n, float(n)) for n in looked]


def test_the_other_steps_run_without_any_watcher(model):
    watch = opscope.watch(model, every=2)
    for number in range(4):
        with watch:
            assert bool(witness.watchers()["dispatch modes"]) == (number % 2 == 0)
            model(torch.ones(2, 4))


def test_a_layer_of_several_passes_has_a_row_for_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.fc(x))

    model = Twice()
    watch = opscope.watch(model)
    with watch:
        model(torch.ones(2, 3)).sum().backward()
    labels = [row["layer"] for row in watch.rows if row["layer"].startswith("linear")]
    assert labels == ["linear_1_2:1", "linear_1_2:2"] or len(labels) == 2
    assert all(label.endswith((":1", ":2")) for label in labels)


def test_without_gradients_their_columns_are_empty(model):
    watch = opscope.watch(model, gradients=False)
    with watch:
        model(torch.ones(2, 4)).sum().backward()
    assert all(row[f"grad_{name}"] is None for row in watch.rows for name in STATISTICS)
    assert "grad" not in text_of(watch, 200)


def test_a_backward_after_the_block_is_told_of_too(model):
    watch = opscope.watch(model)
    with watch:
        loss = model(torch.ones(2, 4)).sum()
    loss.backward()
    row = next(row for row in watch.rows if row["layer"].startswith("linear_2"))
    assert row["grad_mean"] == 1.0


def test_before_the_first_step_there_is_nothing(model):
    watch = opscope.watch(model)
    assert (watch.step, watch.rows) == (None, [])
    assert "no step yet" in text_of(watch, 100)


def test_what_was_given_out_can_be_changed(model):
    watch = opscope.watch(model)
    with watch:
        model(torch.ones(2, 4))
    watch.rows[0].clear()
    watch.rows.clear()
    assert watch.rows[0]["layer"]


def test_training_goes_as_it_does_unwatched(model):
    import copy

    def train(model, around):
        torch.manual_seed(4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(5):
            with around:
                optimizer.zero_grad()
                loss = model(torch.rand(3, 4)).pow(2).mean()
                loss.backward()
                optimizer.step()
        return witness.bits([loss, model.state_dict(), torch.rand(2)])

    from contextlib import nullcontext

    twin = copy.deepcopy(model)
    train(copy.deepcopy(model), nullcontext())  # torch loads more as it first optimizes
    with witness.untouched(None):
        assert train(model, nullcontext()) == train(twin, opscope.watch(twin, every=2))


def test_no_tensor_is_kept_but_the_numbers(model):
    watch = opscope.watch(model)
    x = torch.ones(64, 4)
    with witness.Mortality() as seen, watch:
        model(x).sum().backward()
    model.zero_grad()
    assert [t.shape for t in seen.survivors()] == []
    session = watch._closed[1]._block.session
    session.ingest()
    activations = session.find(Activations)
    kept = [activations.get(row) for row in activations.rows()]
    assert kept
    assert all(tensor.numel() <= len(STATISTICS) for tensor in kept)
    assert watch.rows
    assert watch._closed is None


def test_a_step_left_by_an_error_is_told_of_as_far_as_it_went(model):
    watch = opscope.watch(model)
    with pytest.raises(RuntimeError, match="shapes"), watch:
        model(torch.ones(2, 4)) @ torch.ones(5, 5)
    assert any(row["layer"].startswith("linear_2") for row in watch.rows)
    with watch:
        model(torch.ones(2, 4))
    assert watch.step == 1


def test_dead_layers_and_bad_numbers_stand_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100)
    watch = opscope.watch(model)
    with watch:
        (model(torch.ones(3, 2)) * torch.tensor([math.nan, 1.0])).sum()
    rows = {row["layer"].rpartition("_")[0]: row for row in watch.rows}
    assert rows["relu_1"]["zeros"] == 1.0
    assert rows["mul_1"]["nonfinite"] == 0.5
    text = text_of(watch, 160)
    assert "100%" in text
    assert "50.0%" in text


@pytest.mark.parametrize("width", [60, 80, 120, 136, 200])
def test_the_table_fits_and_has_a_row_for_each_layer(model, width):
    watch = opscope.watch(model)
    with watch:
        model(torch.ones(2, 4)).sum().backward()
    text = text_of(watch, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "Sequential: step 0" in text
    assert watch.table(width).row_count == len(watch.rows) > 4


def test_a_live_display_updates_in_place(model):
    watch = opscope.watch(model)
    console = Console(width=140, force_terminal=True, color_system=None)
    with console.capture() as capture, Live(watch, console=console, auto_refresh=False) as live:
        for _ in range(2):
            with watch:
                model(torch.ones(2, 4)).sum().backward()
            live.refresh()
    assert "step 1" in capture.get()


def test_a_live_display_that_refreshes_by_itself_does_not_disturb(model):
    watch = opscope.watch(model)
    console = Console(width=140, force_terminal=True, color_system=None)
    with console.capture(), Live(watch, console=console, refresh_per_second=200):
        for number in range(40):
            with watch:
                model(torch.ones(2, 4)).sum().backward()
            assert watch.step == number


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((torch.relu,), "model"),
        ((nn.Linear(1, 1), {"every": 0}), "every"),
        ((nn.Linear(1, 1), {"every": 1.5}), "every"),
        ((nn.Linear(1, 1), {"every": True}), "every"),
        ((nn.Linear(1, 1), {"gradients": "all"}), "gradients"),
    ],
    ids=["no module", "never", "half", "a bool", "keys"],
)
def test_an_argument_of_the_wrong_kind_is_refused_at_once(arguments, named):
    model, options = (*arguments, {})[:2]
    with pytest.raises(OptionError, match=f"{named}: "):
        opscope.watch(model, **options)


def text_of(watch, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(watch)
    return capture.get()


@pytest.mark.parametrize(
    "values",
    [
        lambda: torch.randn(10_000) + 1e6,
        lambda: torch.randn(100_000) * 1e-3 + 4096,
        lambda: torch.full((1000,), 3e38),
        lambda: torch.rand(1000) * 1e30,
        lambda: torch.full((70_000,), 60_000.0, dtype=torch.float16),
        lambda: (torch.randn(5000) + 300).to(torch.bfloat16),
        lambda: torch.randn(1000, dtype=torch.float64) + 1e12,
        lambda: torch.tensor([16777216.0, 16777217.0, 16777218.0]),
    ],
)
def test_large_numbers_neither_overflow_nor_drown_what_they_differ_by(values):
    torch.manual_seed(0)
    tensor = values()
    found = dict(zip(STATISTICS, statistics(tensor).tolist(), strict=True))
    for name, expected in by_hand(tensor).items():
        assert found[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
