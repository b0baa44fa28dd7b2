"""Which recorded value a tensor is; and that no tensor is kept alive for it."""

import gc
import random
import weakref

import pytest
import torch
from tests import witness, zoo
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope.records.values import before_writes

# ---------------------------------------------------------------------- what stays alive


def read_all(trace):
    """Have a trace derive all that it derives when it is first read."""
    assert str(trace)
    assert str(trace.summary())
    assert len(trace.graph(level="layer", rolled=True))
    assert all(repr(layer) for layer in trace.layers)


@pytest.mark.parametrize("name", [*zoo.SMALL, "function"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_trace_keeps_no_tensor_and_no_model_alive(name, grad, layers):
    program = zoo.build(name, training=name in zoo.HAVE_TRAINING)
    trace, mortality = opscope.trace(program.module, layers=layers), witness.Mortality()
    with torch.set_grad_enabled(grad), trace, mortality:
        program.run()
    held = [*program.args, *program.kwargs.values()]
    if program.module is not None:
        held += [program.module, *program.module.parameters(), *program.module.buffers()]
    refs = [weakref.ref(thing) for thing in held]
    own = {id(thing) for thing in held}
    assert [t.shape for t in mortality.survivors() if id(t) not in own] == []
    read_all(trace)
    del program, held
    assert mortality.survivors() == []
    assert [ref() for ref in refs] == [None] * len(refs)
    read_all(trace)


def test_an_intermediate_result_dies_while_the_trace_is_still_open(layers):
    x = torch.ones(3)
    with opscope.trace(layers=layers):
        gone = []
        for _ in range(3):
            x = x.sin()
            gone.append(weakref.ref(x))
        alive = [ref() is not None for ref in gone]
    assert alive == [False, False, True]


@pytest.mark.parametrize("save", [["sin"], ["cos_1"], "all"])
def test_only_what_was_asked_for_stays_alive_once_a_trace_is_read(save, layers):
    x = torch.ones(3)
    with opscope.trace(layers=layers, save=save) as trace:
        x.sin().cos()
    wanted = {"sin"} if save == ["sin"] else {"cos"} if save == ["cos_1"] else {"sin", "cos"}
    for name in ("sin", "cos"):
        assert trace[name].is_saved is (name in wanted)
        if name in wanted:
            assert torch.equal(trace[name].activation, x.sin() if name == "sin" else x.sin().cos())
        else:
            with pytest.raises(opscope.NotSaved):
                trace[name].activation  # noqa: B018


@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "named"])
def test_the_arguments_of_any_operator_die(keyword, layers):
    """Also where a schema says no more of them than that they are objects."""
    x = torch.ones(3)
    mask = torch.tensor([True, False, True])
    refs = [weakref.ref(x), weakref.ref(mask)]
    with opscope.trace(layers=layers) as trace:
        if keyword:
            torch.where(condition=mask, input=x, other=torch.zeros(()))
            torch.full_like(x, fill_value=2.0)
        else:
            x[mask] = 3.0
            x[None, mask]
    del x, mask
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert trace.ops


# ------------------------------------------------------------------------- id reuse


class Hoarder(TorchDispatchMode):
    """Records where each op's inputs came from, holding every tensor so that ids stay put."""

    def __init__(self):
        super().__init__()
        self._maker = {}
        self._held = []
        self.producers = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        number = len(self.producers)
        inputs = witness.tensors((args, kwargs or {}))
        self.producers.append((str(func), [self._maker.get(id(t)) for t in inputs]))
        result = func(*args, **(kwargs or {}))
        written = inputs[:1] if func._schema.name.endswith("_") else []
        for tensor in (*witness.tensors(result), *written):
            self._held.append(tensor)
            self._maker[id(tensor)] = number
        return result


def churn(pool, steps, seed=5):
    """Make and drop tensors at random, with views, lists and in-place writes among them."""
    choose = random.Random(seed)
    for _ in range(steps):
        a, b = choose.choice(pool), choose.choice(pool)
        match choose.randrange(8):
            case 0:
                new = [a + b]
            case 1:
                new = [a.t()]
            case 2:
                new = [a.sin_()] if a is not b else []
            case 3:
                new = [*torch.cat([a, b]).chunk(2)]
            case 4:
                new = [a.narrow(0, 0, 2).repeat(2, 1)]
            case 5:
                new = torch._foreach_mul([a, b], 0.5)
            case 6:
                new = [torch.stack([a, b, a]).mean(0)]
            case 7:
                new = [a.clone().clamp_(-1, 1)]
        for tensor in new:
            pool[choose.randrange(len(pool))] = tensor


@pytest.mark.parametrize("steps", [300, 6_000])
def test_thousands_of_freed_tensors_do_not_confuse_values(steps, layers):
    pool = [torch.ones(4, 4) for _ in range(6)]
    with torch.no_grad():
        with Hoarder() as hoarder:
            churn(list(pool), steps)
        with opscope.trace(layers=layers) as trace:
            churn(list(pool), steps)
    record = trace.recording
    producers = [
        (op.operator, [before_writes(record.values, r.value).made_by for r in op.reads])
        for op in trace.ops
    ]
    assert producers == hoarder.producers


def test_a_value_is_told_by_its_storage_too(layers):
    """``x.data = y`` replaces what is below a tensor without any op."""
    x, y = torch.ones(3), torch.zeros(3)
    with opscope.trace(layers=layers) as trace:
        x.sin()
        x.data = y
        x.sin()
    first, second = (op for op in trace.ops if op.name == "sin")
    values = trace.recording.values
    assert values[first.reads[0].value].storage != values[second.reads[0].value].storage


def test_views_share_their_storage_and_fresh_tensors_do_not():
    x = torch.ones(2, 3)
    with opscope.trace() as trace:
        x.t()
        x[0]
        x.sin()
        x.reshape(6)
    values = trace.recording.values
    storages = {op.name: values[op.outputs[0]].storage for op in trace.ops}
    (own,) = {values[op.reads[0].value].storage for op in trace.ops}
    assert {name for name, storage in storages.items() if storage == own} == {"t", "select", "view"}
    assert values[trace.ops[2].outputs[0]].origin == "fresh"


def test_a_swept_table_still_knows_what_is_alive():
    """Every few thousand values the dead ones are dropped."""
    kept = [torch.ones(2) for _ in range(50)]
    with opscope.trace() as trace:
        kept = [t.sin() for t in kept]
        for _ in range(9000):
            kept[0].cos()
        for t in kept:
            t.tan()
    values = trace.recording.values
    made_by = [values[op.reads[0].value].made_by for op in trace.ops if op.name == "tan"]
    assert made_by == [op.index for op in trace.ops if op.name == "sin"]


def test_a_module_freed_while_traced_does_not_lend_its_name_to_another(layers):
    with torch.no_grad(), opscope.trace(layers=layers) as trace:
        for width in range(1, 200):
            nn.Linear(2, width)(torch.ones(1, 2))
    calls = trace.recording.module_calls
    assert len({call.module for call in calls}) == 199
    shapes = [trace.recording.values[call.outputs[0].value].shape for call in calls]
    assert shapes == [(1, width) for width in range(1, 200)]
    weights = [p for p in trace.parameters if p.name.endswith("weight")]
    assert len(weights) == 199
