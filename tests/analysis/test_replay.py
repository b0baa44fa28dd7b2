"""A record that is right is reproduced bit for bit."""

import pytest
import torch
from tests import invariants, zoo
from tests.analysis.programs import PROGRAMS, uninitialised_then_filled
from tests.witness import tensors
from torch import nn

import opscope
from opscope.analysis import replay, sameness
from opscope.operators import plans
from opscope.records import values as values_room


def traced(call, model=None, **options):
    with opscope.trace(model, replayable=True, **options) as trace:
        call()
    invariants.check(trace)
    return trace


def compared_and_not(trace):
    """Return how many values a full replay compares, and leaves aside, at most."""
    values = {v for op in trace.ops for v in (*op.outputs, *op.writes)} - {None}
    # What a call gave that was written through another tensor is compared too.
    known, given = trace.recording.values, trace.recording.layer_calls
    values |= {v for call in given for v in call.returned if known[v].origin == "rewritten"}
    report = trace.validate()
    return len(values), report.compared + report.uninitialised


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm", "encoder"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_model_is_reproduced_bit_for_bit(name, training, backward):
    program = zoo.build(name, training=training)

    def run():
        found = [t for t in tensors(program.run()) if t.requires_grad]
        if backward:
            sum(t.sum() for t in found).backward()

    trace = traced(run, program.module)
    report = trace.validate()

    assert report, report
    assert report.ops == len(trace.ops)
    assert any(op.phase == "backward" for op in trace.ops) == backward
    (root,) = [call for call in trace.recording.module_calls if call.is_root]
    assert report.outputs == len({leaf.value for leaf in root.outputs}) > 0


@pytest.mark.parametrize("foreach", [False, True], ids=["each", "foreach"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p, **o: torch.optim.AdamW(p, lr=0.1, **o),
        lambda p, **o: torch.optim.SGD(p, lr=0.1, momentum=0.9, **o),
    ],
    ids=["AdamW", "SGD"],
)
def test_two_training_steps_are_reproduced_bit_for_bit(optimizer, foreach):
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 2)
    )
    steps, x = optimizer(model.parameters(), foreach=foreach), torch.rand(5, 4)

    def run():
        for _ in range(2):
            steps.zero_grad()
            model(x).square().mean().backward()
            steps.step()

    trace = traced(run, model)
    written = {w for op in trace.ops for w in op.writes} & trace.recording.parameter_of_value.keys()
    found, done = compared_and_not(trace)

    assert trace.validate(), trace.validate()
    assert len(written) >= 2 * 6, "the optimizer's writes are recorded"
    assert done == found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_is_reproduced_bit_for_bit_and_no_value_is_left_out(program, layers):
    trace = traced(program, layers=layers)
    report = trace.validate()
    found, done = compared_and_not(trace)

    assert report, report
    assert report.ops == len(trace.ops) > 0
    assert done == found


def test_uninitialised_memory_is_counted_and_what_fills_it_is_compared():
    trace = traced(uninitialised_then_filled)
    report = trace.validate()

    assert report.uninitialised == sum(op.name.startswith("empty") for op in trace.ops) == 2
    assert report.compared == len(trace.ops) - 2


@pytest.mark.parametrize("first", [0, 1])
def test_inputs_that_share_memory_share_it_again(first):
    base = torch.arange(24.0).view(6, 4)
    low, high = base[:3], base[2:5]
    pair = (low, high) if first == 0 else (high, low)

    def run():
        pair[0].add_(1)
        base.t().mul_(2)
        return pair[1] + pair[0]

    report = traced(run).validate()

    assert report, report
    assert report.compared >= 4


def test_what_the_program_did_to_its_inputs_does_not_change_where_a_replay_starts():
    x = torch.zeros(3)

    assert traced(lambda: x.add_(1)).validate()
    assert x.tolist() == [1, 1, 1]


def test_what_is_written_after_the_block_is_not_taken_for_what_was_recorded():
    x = torch.ones(3)
    with opscope.trace(replayable=True) as trace:
        y = x * 2
    y.add_(1)

    assert "not valid" not in str(trace.validate())


@pytest.mark.parametrize(
    ("draw", "operator"),
    [
        (lambda own: torch.rand(3, generator=own), "op 0, aten.rand.generator"),
        (lambda own: torch.zeros(3).normal_(generator=own), "op 1, aten.normal_.default"),
    ],
)
def test_a_generator_of_its_own_is_refused_with_the_reason(draw, operator):
    report = traced(lambda: draw(torch.Generator().manual_seed(1))).validate()

    assert not report
    assert report.difference is None
    assert str(report) == f"not replayed: {operator}, draws from a generator of its own"


def test_a_failed_trace_is_replayed_up_to_where_it_failed(layers):
    x, trace = torch.rand(2, 3), opscope.trace(replayable=True, layers=layers)
    with pytest.raises(RuntimeError), trace:
        (x + 1) @ x
    report = trace.validate()

    assert trace.ops[-1].failed
    assert report, report
    assert report.ops == report.compared == len(trace.ops) - 1 == 1


def test_an_empty_trace_is_valid():
    report = traced(lambda: None).validate()

    assert report
    assert (report.ops, report.compared) == (0, 0)


def test_the_random_state_of_the_process_is_untouched():
    trace = traced(lambda: torch.dropout(torch.ones(64), 0.5, train=True))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    report = trace.validate()

    assert report
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_replay_reports_the_same():
    program = zoo.build("encoder", training=True)
    trace = traced(lambda: program.run().sum().backward(), program.module)
    first, second = trace.validate(), trace.validate()

    assert first == second
    assert str(first) == str(second)
    assert first.compared > 50


def test_a_replay_leaves_the_model_and_the_modes_as_they_were():
    program = zoo.build("resnet18", training=True)
    trace = traced(lambda: program.run().sum().backward(), program.module)
    before = [(t.clone(), t.grad) for t in program.module.state_dict(keep_vars=True).values()]
    assert trace.validate()
    after = program.module.state_dict(keep_vars=True).values()

    assert all(torch.equal(t, n) and n.grad is g for (t, g), n in zip(before, after, strict=True))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("save", [None, "all"])
def test_without_replayable_the_message_says_how_to_ask_for_it(save):
    with opscope.trace(save=save) as trace:
        torch.ones(2) + 1

    with pytest.raises(opscope.NotSaved, match=r"opscope\.trace\(\.\.\., replayable=True\)"):
        trace.validate()


def test_an_operator_is_looked_up_once_however_many_ops_it_has(monkeypatch):
    asked = []
    overload = plans.overload
    monkeypatch.setattr(replay, "overload", lambda name: asked.append(name) or overload(name))
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(20)))
    trace = traced(lambda: model(torch.ones(1, 2)), model)

    assert trace.validate()
    assert len(trace.ops) >= 60
    assert len(asked) == len(set(asked)) == len({op.operator for op in trace.ops})


def test_one_who_waits_is_handed_each_op_as_it_runs_again():
    seen = []

    def track(items):
        for item in items:
            seen.append(item)
            yield item

    trace = traced(lambda: torch.ones(2).mul(2).add_(1))
    kept = trace.tensors
    report = replay.replay(trace.recording, kept.replay_inputs, kept.saved, {}, track)

    assert report
    assert seen == list(trace.ops)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1).as_strided((1,), (0,)),
        lambda: torch.ones(1).expand(3),
        lambda: torch.arange(6.0)[1::2],
        lambda: torch.arange(6.0).view(2, 3).t(),
        lambda: torch.tensor([1 + 2j, float("nan")]).conj(),
        lambda: torch.tensor([1 + 2j]).conj().imag,
        lambda: torch._efficientzerotensor((2, 2)),
        lambda: torch.tensor(3.0),
        lambda: torch.empty(0, 2),
        lambda: torch.arange(8, dtype=torch.uint8)[3:],
    ],
)
def test_however_a_tensor_lies_in_memory_it_is_compared_bit_for_bit(make):
    assert sameness.what_differs(make(), make()) is None
    if make().numel():
        assert sameness.what_differs(make(), make().clone().mul(3).add(1)) is not None


def test_a_tensor_that_is_written_slice_by_slice_is_followed_back_once(monkeypatch):
    asked = []
    monkeypatch.setattr(values_room, "before_writes", lambda *found: asked.append(found))

    def fill():
        whole = torch.zeros(50, 2)
        for place in range(50):
            whole[place] = place
        return whole.sum()

    trace = traced(fill)
    asked.clear()
    assert trace.validate()
    assert sum(value.origin == "rewritten" for value in trace.recording.values) >= 50
    assert asked == []
