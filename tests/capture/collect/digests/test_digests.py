"""Each value as it was right after the op that made it, however the program goes on."""

import gc
import pickle
import weakref

import pytest
import torch
from tests import zoo
from torch import nn

import opscope
from opscope.capture.collect.digests import digests as room
from opscope.capture.collect.digests.summing import digest_of


def traced(program, model=None, **options):
    with opscope.trace(model, digests=True, **options) as trace:
        program()
    return trace.recording


def test_without_the_option_there_are_none():
    with opscope.trace() as trace:
        torch.ones(2)
    assert trace.recording.digests is None


@pytest.mark.parametrize("name", zoo.SMALL)
def test_digests_are_of_the_activations_of_real_models(name):
    program = zoo.build(name)
    with opscope.trace(program.module, replayable=True, digests=True) as trace:
        program.run()
    recording = trace.recording
    compared = 0
    for value, digest in recording.digests.items():
        kept = trace.tensors.saved(value)
        if kept is not None and recording.values[value].origin in ("fresh", "write"):
            assert digest == digest_of(kept.detach())
            compared += 1
    assert compared
    made = {value.index for value in recording.values if value.origin in ("fresh", "write")}
    unwritten = {
        output
        for op in recording.ops
        if op.name.startswith(("empty", "new_empty", "mkldnn_rnn_layer"))
        for output in op.outputs
    }
    assert made - set(recording.digests) <= unwritten


def test_values_are_those_of_the_moment_before_anything_overwrites_them():
    def program():
        a = torch.ones(300)
        b = a.view(100, 3)
        a.mul_(2)
        b.add_(1)
        torch._foreach_add_([a, a.clone()], 4.0)
        torch.sub(b, 1.0, out=b)

    recording = traced(program)
    means = [
        (recording.ops[value.made_by].name, recording.digests[value.index].mean)
        for value in recording.values
        if value.index in recording.digests
    ]
    assert means == [
        ("ones", 1.0), ("mul_", 2.0), ("add_", 3.0), ("clone", 3.0), ("_foreach_add_", 7.0),
        ("_foreach_add_", 7.0), ("sub", 6.0),
    ]  # fmt: skip


def test_what_comes_from_outside_is_as_it_was_when_first_read():
    weight, x = nn.Parameter(torch.full((3,), 2.0)), torch.ones(3)
    recording = traced(lambda: (weight * x, weight.data.add_(5), x.zero_(), weight * x))
    first = [v.index for v in recording.values if v.origin == "outside"]
    assert [recording.digests[value].mean for value in first[:2]] == [2.0, 1.0]


def test_views_and_what_was_rewritten_through_one_have_none():
    def program():
        a = torch.zeros(4)
        a[1] = 5.0
        torch.empty(3)
        return a + 1

    recording = traced(program)
    known = {recording.values[value].origin for value in recording.digests}
    assert known == {"outside", "fresh", "write"}  # from outside: the number 5
    assert any(value.origin == "rewritten" for value in recording.values)
    assert not any(v for v in recording.digests if recording.ops[0].name == "empty")


def test_a_value_that_was_passed_through_has_that_of_what_it_was():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    recording = traced(lambda: model(torch.ones(3)), model)
    passed = [v for v in recording.values if v.origin == "passed_through"]
    assert passed
    assert all(recording.digests[v.index] == recording.digests[v.earlier] for v in passed)


def test_it_is_pickled_with_the_record_and_answers_as_a_mapping():
    with opscope.trace(digests=True) as trace:
        torch.rand(5) + 1
    digests = pickle.loads(pickle.dumps(trace)).recording.digests
    assert dict(digests) == dict(trace.recording.digests)
    assert len(digests) == 2
    assert 99 not in digests


def test_equal_programs_have_equal_digests_and_a_changed_weight_changes_what_follows():
    program = zoo.build("resnet18")
    program.module.eval()
    first, second = (traced(program.run, program.module).digests for _ in range(2))
    assert first == second
    with torch.no_grad():
        program.module.layer4[0].conv1.weight[0, 0, 0, 0] += 0.5
    third = traced(program.run, program.module).digests
    changed = [value for value in first if first[value].hash != third[value].hash]
    assert 0 < len(changed) < len(first) / 2


def test_watching_changes_nothing():
    def step():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        x = torch.rand(4, 8, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(x).sum().backward()
        return [x.grad, torch.rand(3), *(p.grad for p in model.parameters())]

    expected = step()
    with opscope.trace(digests=True) as trace:
        found = step()
    assert all(map(torch.equal, expected, found))
    with opscope.trace() as plain:
        step()
    assert [op.operator for op in trace.ops] == [op.operator for op in plain.ops]


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")]
)
def test_it_works_in_every_mode(context):
    x = torch.rand(70, 70)
    with context():
        recording = traced(lambda: torch.sin(x).mul_(2))
    assert [recording.digests[op.outputs[0]].hash for op in recording.ops] == [
        digest_of(torch.sin(x)).hash, digest_of(torch.sin(x) * 2).hash,
    ]  # fmt: skip


def test_it_works_inside_of_transforms():
    x = torch.rand(5, 70)
    recording = traced(lambda: torch.vmap(torch.sin)(x))
    (sine,) = (op for op in recording.ops if op.name == "sin")
    assert recording.digests[sine.outputs[0]].hash == digest_of(x.sin()).hash
    recording = traced(lambda: torch.func.grad(lambda y: y.sin().sum())(x))
    cosine = next(op for op in recording.ops if op.name == "cos")
    assert recording.digests[cosine.outputs[0]].hash == digest_of(x.cos()).hash


def test_fake_tensors_have_none_and_run_on():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        recording = traced(lambda: torch.ones(3) + 1)
    assert not recording.digests


def test_a_value_that_cannot_be_looked_at_ends_nothing(monkeypatch):
    def fails(tensor):
        message = "no kernel"
        raise NotImplementedError(message)

    monkeypatch.setattr(room, "digest_of", fails)
    recording = traced(lambda: torch.ones(3) + 1)
    assert len(recording.ops) == 2
    assert dict(recording.digests) == {}


def test_no_tensor_is_kept():
    kept = []

    def program():
        y = torch.ones(1000) + 1
        kept.append(weakref.ref(y.untyped_storage()))

    with opscope.trace(digests=True):
        program()
        gc.collect()
        assert kept[0]() is None


def test_a_block_that_is_entered_again_goes_on():
    x = torch.ones(3)
    trace = opscope.trace(digests=True)
    with trace:
        x + 1
    x.add_(1)
    with trace:
        x + 1
    recording = trace.recording
    assert [recording.digests[op.outputs[0]].mean for op in recording.ops] == [2.0, 3.0]
    assert [recording.digests[op.reads[0].value].mean for op in recording.ops] == [1.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_what_a_compiled_region_gives_has_one(backend):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    x = torch.rand(9, 8)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        expected = compiled(x)
        recording = traced(lambda: compiled(x), model)
    (output,) = recording.module_calls[0].outputs
    assert recording.digests[output.value].hash == digest_of(expected).hash
