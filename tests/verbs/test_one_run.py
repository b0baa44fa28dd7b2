"""The table in one call: every form of inputs, and a model that is as it was."""

import copy
import random
import threading

import pytest
import torch
from torch import nn

import opscope
from opscope.errors import OptionError, TraceStateError


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, first, second=None, *, third=None):
        total = self.fc(first)
        for other in (second, third):
            total = total if other is None else total + other
        return total


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("inputs", "named", "additions"),
    [
        ((X,), {}, 0),
        ((X, X), {}, 1),
        ((X,), {"third": X}, 1),
        ((), {"first": X, "second": X, "third": X}, 2),
        ((), {"input_data": X}, 0),
        ((), {"input_data": [X, X]}, 1),
        ((), {"input_data": (X, X)}, 1),
        ((), {"input_data": {"first": X, "third": X}}, 1),
        ((), {"input_size": (2, 3)}, 0),
        ((), {"input_size": [(2, 3), (2, 3)]}, 1),
        ((), {"input_size": [[2, 3], (1, 3)], "dtypes": [torch.float32, torch.int64]}, 1),
    ],
)
def test_inputs_may_be_given_in_every_form(inputs, named, additions):
    table = str(opscope.summary(Adds(), *inputs, **named))

    added = [line for line in table.splitlines() if "add_" in line]
    assert len(added) + ("×2" in table and additions == 2) == additions
    assert "fc Linear" in table


def test_a_dictionary_of_another_kind_is_taken_for_names():
    class Batch(dict):
        pass

    assert "add_1" in str(opscope.summary(Adds(), input_data=Batch(first=X, second=X)))


def test_what_trace_summary_takes_is_passed_on():
    table = opscope.summary(
        Adds(), X, level="op", columns=["type", "flops"], sort_by="flops", row_limit=1
    )
    assert "aten.addmm.default" in str(table)
    assert "aten.t.default" not in str(table)
    assert "fc" not in str(opscope.summary(Adds(), X, level="module", depth=1, columns=["output"]))


@pytest.mark.parametrize("training", [False, True])
def test_the_model_and_the_random_numbers_are_as_before(training):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).train(training)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    buffers = [id(buffer) for buffer in model.buffers()]
    opscope.summary(model, input_size=(4, 3))

    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(buffer) for buffer in model.buffers()] == buffers
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0]._forward_hooks


def test_buffers_are_put_back_when_the_model_fails_with_its_own_error():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            self.count = self.count * 2
            raise LookupError("mine")

    model = Fails()
    count = model.count
    with pytest.raises(LookupError, match="mine"):
        opscope.summary(model, X)
    assert model.count is count
    assert count.item() == 0


def test_on_meta_nothing_is_computed_and_the_model_stays_where_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.append(model[0])  # shared
    model[0].scale = torch.ones(3)
    before = {name: (id(item), item.device.type) for name, item in model.named_parameters()}
    table = str(opscope.summary(model, X, device="meta", columns=["name", "params", "flops"]))

    assert {n: (id(p), p.device.type) for n, p in model.named_parameters()} == before
    assert "12 trainable" not in table
    assert "parameters 18 " in table  # the shared one once
    same = str(opscope.summary(model.eval(), X, columns=["name", "params", "flops"]))
    assert "FLOPs      72 forward" in same
    assert "FLOPs      72 forward" in table


def test_a_large_model_is_looked_at_on_meta_without_its_memory():
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(50_000, 50_000) for _ in range(4)])
    table = str(opscope.summary(model, input_size=(1, 50_000), columns=["name", "flops"]))

    assert "20 G" in table


def test_a_model_that_cannot_be_copied_is_refused_on_meta():
    model = Adds()
    model.lock = threading.Lock()
    with pytest.raises(OptionError, match=r"device: 'meta' .*TypeError"):
        opscope.summary(model, X, device="meta")
    assert "fc" in str(opscope.summary(model, X))


class Never(nn.Module):
    def forward(self, *_, **__):
        raise AssertionError("it ran")


@pytest.mark.parametrize(
    ("inputs", "named", "message"),
    [
        ((), {}, "no input was given"),
        ((X,), {"input_data": X}, "in several ways, inputs by place and input_data"),
        ((), {"input_data": X, "input_size": (2, 3)}, "input_data and input_size"),
        ((), {"input_size": "2x3"}, "input_size"),
        ((), {"input_size": (2, -3)}, "input_size"),
        ((), {"input_size": [(2, 3.0)]}, "input_size"),
        ((), {"input_size": (2, 3), "dtypes": [torch.int8] * 2}, "dtypes"),
        ((), {"input_size": (2, 3), "dtypes": ["float32"]}, "dtypes"),
        ((X,), {"dtypes": [torch.int8]}, "dtypes"),
        ((X,), {"device": "moon"}, "device: 'moon'"),
        ((X,), {"level": "layers"}, "level"),
        ((X,), {"depth": 0}, "depth"),
        ((X,), {"columns": ["macc"]}, "macs"),
        ((X,), {"sort_by": "tim"}, "time"),
        ((X,), {"row_limit": 0}, "row_limit"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(inputs, named, message):
    with pytest.raises(OptionError, match=message):
        opscope.summary(Never(), *inputs, **named)


@pytest.mark.parametrize("model", [None, Adds, torch.relu, "resnet18"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(OptionError, match=r"must be a torch\.nn\.Module"):
        opscope.summary(model, X)


def test_what_people_type_first_is_answered_with_what_to_type():
    model = Adds()
    with pytest.raises(OptionError) as first:
        opscope.trace(model, X)
    with pytest.raises(TraceStateError) as second:
        opscope.trace(model)(X)

    for error in (first, second):
        lines = ("with opscope.trace(model) as trace:", "model(x)", "print(trace.summary())")
        assert all(f"`{line}`" in str(error.value) for line in lines)
        assert "opscope.summary(model, x)" in str(error.value)


def test_a_backward_that_is_still_to_come_works_as_before():
    for training in (False, True):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(training)
        x = torch.rand(2, 3, 8, 8)
        y = model(x)
        opscope.summary(model, x)
        y.sum().backward()
        assert model[0].weight.grad is not None


class Writes(nn.Module):
    """Changes all that a forward can: parameters, their memory, buffers, names, random numbers."""

    def __init__(self):
        super().__init__()
        self.fc, self.codebook = nn.Linear(4, 4), nn.Parameter(torch.zeros(3))
        self.register_buffer("mask", torch.ones(1, 4).expand(3, 4))
        self.register_buffer("count", torch.zeros(1))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        random.random()
        torch.rand(1)
        with torch.no_grad():
            self.codebook.add_(1)
            self.fc.weight.data = self.fc.weight.data * 2
            x.mul_(2)
        self.count = self.count + 1
        self.register_buffer("cache", x)
        return self.norm(self.fc(x)) * self.mask


def test_whatever_a_forward_changes_is_as_it_was():
    model, x = Writes(), torch.ones(3, 4)
    before = {name: (id(item), item.clone()) for name, item in model.named_parameters()}
    buffers = {name: (id(item), item.clone()) for name, item in model.named_buffers()}
    memory, numbers, state = model.fc.weight.data_ptr(), random.getstate(), torch.get_rng_state()
    opscope.summary(model, x)

    assert {n: id(p) for n, p in model.named_parameters()} == {n: i for n, (i, _) in before.items()}
    assert {n: id(b) for n, b in model.named_buffers()} == {n: i for n, (i, _) in buffers.items()}
    for name, (_, contents) in {**before, **buffers}.items():
        assert torch.equal(model.state_dict(keep_vars=True)[name], contents), name
    assert model.fc.weight.data_ptr() == memory
    assert x.tolist() == torch.ones(3, 4).tolist()
    assert random.getstate() == numbers
    assert torch.equal(torch.get_rng_state(), state)


def test_buffers_made_under_inference_mode_are_no_obstacle():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    assert "BatchNorm1d" in str(opscope.summary(model, X))


def test_lazy_modules_are_refused_with_what_to_do():
    for device in (None, "meta"):
        with pytest.raises(OptionError, match="run it once before"):
            opscope.summary(nn.LazyLinear(3), X, device=device)


def test_one_type_stands_for_all_inputs_and_names_go_with_data():
    ids = opscope.summary(nn.Embedding(9, 4), input_size=(2, 7), dtypes=torch.long)
    assert "i64[2, 7]" in str(ids)
    assert "add_1" in str(opscope.summary(Adds(), input_data=X, second=X))


@pytest.mark.parametrize(
    ("name", "said"),
    [("col_names", "columns="), ("verbose", "print"), ("mode", "eval"), ("batch_dim", "batch")],
)
def test_what_torchinfo_calls_it_is_answered_with_what_it_is_here(name, said):
    with pytest.raises(OptionError, match=said):
        opscope.summary(Never(), input_size=(2, 3), **{name: 1})


def test_what_forward_makes_itself_is_on_meta_too():
    class Makes(nn.Module):
        def forward(self, x):
            return x + torch.arange(3)

    assert str(opscope.summary(Makes(), X, device="meta")).startswith("Makes\n")


@pytest.mark.slow
def test_buffers_that_a_compiled_region_writes_are_put_back_too():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    compiled = torch.compile(model)
    compiled(torch.rand(4, 3))
    before = model[1].running_mean.clone()
    opscope.summary(compiled, torch.rand(4, 3))

    assert torch.equal(model[1].running_mean, before)
    assert model[1].num_batches_tracked.item() == 1
