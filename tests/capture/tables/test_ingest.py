"""When a trace is ingested makes no difference to what it says."""

import dataclasses

import pytest
import torch
from tests import zoo
from tests.graph import fuzzer
from torch import nn

import opscope
from opscope.capture.tables import values


def recorded(program, *, every=None, eager=False, **options):
    """Return what is recorded of a program that is ingested so often, without the times."""
    trace = watched(every=every, eager=eager, **options)
    torch.manual_seed(0)
    with trace:
        program()
    return timeless(trace.recording)


def watched(*, every=None, eager=False, **options):
    """Return a trace that is ingested every so many ops, or after each op and event."""
    trace = opscope.trace(**options)
    session = trace._block.session
    log, ingest = session.tables.log, session.ingest

    def settle_again():
        ingest()
        log.ingest_at = 0 if eager else log.op_count + every

    if every is not None or eager:
        session.ingest = settle_again
        log.eager, log.ingest_at = eager, 0 if eager else every
    return trace


def timeless(recording):
    """Return a recording without times, and with autograd's numbers counted from its first."""
    first = min((op.sequence_nr for op in recording.ops if op.sequence_nr is not None), default=0)

    def plain(record):
        changed = {"started_ns": 0, "duration_ns": 0}
        if getattr(record, "sequence_nr", None) is not None:
            changed["sequence_nr"] = record.sequence_nr - first
        if any(
            isinstance(item, torch.UntypedStorage) for _, item in getattr(record, "arguments", ())
        ):
            changed["arguments"] = ()  # a storage equals none but itself
        return dataclasses.replace(record, **changed)

    tables = ("ops", "layer_calls", "module_calls")
    changed = {name: tuple(map(plain, getattr(recording, name))) for name in tables}
    return dataclasses.replace(recording, duration_ns=0, seed=0, **changed)


SETTLED = {"each op": {"eager": True}, "one": {"every": 1}, "seven": {"every": 7}}


@pytest.mark.parametrize("how", SETTLED)
@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm", "recurrent", "encoder"])
def test_a_model_is_recorded_alike_however_often_it_is_settled(name, how, layers):
    built = zoo.build(name, training=True)

    def program():
        y = built.run()
        while not isinstance(y, torch.Tensor):
            y = next(iter(y.values())) if isinstance(y, dict) else y[0]
        y.float().mean().backward()
        built.module.zero_grad()

    program()  # what a model makes once, it has made
    whole = recorded(program, model=built.module, layers=layers)
    parts = recorded(program, model=built.module, layers=layers, **SETTLED[how])
    assert len(whole.ops) > 20
    assert parts == whole


@pytest.mark.parametrize("seed", range(40))
def test_a_random_program_is_recorded_alike_however_often_it_is_settled(seed, layers):
    program = fuzzer.generate(seed)
    whole, *others = (watched(layers=layers, **how) for how in ({}, *SETTLED.values()))
    program.run(whole)
    whole = timeless(whole.recording)
    for other in others:
        program.run(other)
        parts = timeless(other.recording)
        assert parts.ops == whole.ops
        assert parts.values == whole.values
        assert parts.layer_calls == whole.layer_calls


@pytest.mark.parametrize("seed", range(20))
def test_many_writes_to_a_storage_are_followed_as_few_are(seed, layers, monkeypatch):
    program = fuzzer.generate(seed)
    found = []
    for few in (10_000, 0):
        monkeypatch.setattr(values, "_FEW", few)
        trace = opscope.trace(layers=layers)
        program.run(trace)
        found.append(timeless(trace.recording))
    assert found[0].values == found[1].values
    assert found[0].ops == found[1].ops


def test_a_model_that_fails_is_recorded_alike(layers):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))

        def forward(self, x):
            try:
                self.inner(x)
            except RuntimeError:
                return x * 2

    model = Fails()

    def program():
        model(torch.ones(2))

    whole = recorded(program, model=model, layers=layers)
    assert any(call.failed for call in whole.module_calls)
    for how in SETTLED.values():
        assert recorded(program, model=model, layers=layers, **how) == whole


@torch.library.custom_op("opscope_tests::through_modules", mutates_args=())
def through_modules(x: torch.Tensor) -> torch.Tensor:
    """An operator that is written in Python, and runs modules and functions."""
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU()).requires_grad_(False)(x) + 1


def test_modules_that_an_operator_runs_are_no_part_of_the_program(layers):
    with opscope.trace(layers=layers) as trace:
        (through_modules(torch.ones(2)) * 2).sum()
    operators = [op.operator for op in trace.ops]
    assert "opscope_tests.through_modules.default" in operators
    assert not trace.recording.module_calls
    assert trace.ops[-1].operator == "aten.sum.default"


@pytest.mark.parametrize("how", SETTLED)
def test_what_is_saved_is_alike_however_often_it_is_settled(how, layers):
    built = zoo.build("resnet18")
    found = []
    for options in ({}, SETTLED[how]):
        trace = watched(model=built.module, layers=layers, save="all", **options)
        with torch.no_grad(), trace:
            built.run()
        found.append([layer.activation for layer in trace])
    assert len(found[0]) == len(found[1]) > 40
    torch.testing.assert_close(*found, rtol=0, atol=0)
