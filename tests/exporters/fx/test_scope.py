"""A program is of the model, of the module that is asked for, or of the whole block."""

import copy

import pytest
import torch
from tests.exporters.fx.compare import Model, check_same, record
from torch import nn

import opscope


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.register_buffer("factor", torch.rand(3))

    def forward(self, x, scale=None):
        y = self.lin(x) * self.factor
        return (y, y + 1) if scale is None else y * scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.rest = Block(), nn.ModuleList([Block(), Block()])
        self.scale, self.unused = nn.Parameter(torch.rand(3)), nn.Linear(3, 3)
        self.same = nn.Identity()

    def forward(self, x):
        x, _ = self.first(x)
        for block in self.rest:
            x = block(x, scale=self.scale)
        return self.first(self.same(x))[1]


@pytest.fixture(scope="module")
def traced():
    torch.manual_seed(0)
    model, x = Net(), torch.rand(2, 3)
    return model, record(model, x)


MODULES = {
    "": [(2, 3)], ":1": [(2, 3)], "first:1": [(2, 3)], "first:2": [(2, 3)], "rest.0": [(2, 3), (3,)],
    "rest.1:1": [(2, 3), (3,)], "rest.1.lin": [(2, 3)], "first.lin:2": [(2, 3)], "same": [(2, 3)],
}  # fmt: skip


@pytest.mark.parametrize(("key", "shapes"), MODULES.items())
def test_a_module_is_a_program_by_itself_with_its_own_names(traced, key, shapes):
    model, trace = traced
    module = model.get_submodule(key.partition(":")[0])
    program = trace.to_fx(key)

    check_same(module, program, *map(torch.rand, shapes))
    used = {name for name, _ in module.named_parameters() if "unused" not in name}
    assert dict(program.named_parameters()).keys() == used
    assert type(program).__name__ == type(module).__name__


def test_a_program_stands_in_for_its_module_in_the_model(traced):
    model, trace = traced
    other, x = copy.deepcopy(model), torch.rand(2, 3)
    other.first = trace.to_fx("first:1")

    assert torch.equal(other(x), model(x))
    assert other.state_dict().keys() == model.state_dict().keys()


ERRORS = {
    "none of that name": ("nope", r"no module ran at 'nope'; the nearest that did: .*'first'"),
    "one that did not run": ("unused", r"the module 'unused' did not run; the nearest that did"),
    "one that only holds others": ("rest", r"the module 'rest' did not run; .*'rest.0'"),
    "one that ran twice": (
        "first", r"module 'first' ran 2 times; ask for one run: to_fx\('first:1'\), to_fx\('first:2'\)",
    ),
    "a run that was not": ("first:3", "no module ran at 'first:3'; .*'first:2'"),
    "no text": (3, "module: 3 .must be the address of a module"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "message"), ERRORS.values(), ids=ERRORS)
def test_a_module_that_is_not_one_run_is_an_error_that_lists_the_choices(traced, key, message):
    _, trace = traced
    with pytest.raises(opscope.OptionError, match=message):
        trace.to_fx(key)


@pytest.mark.parametrize("run", [1, 2])
def test_each_call_of_a_model_is_a_program_also_over_several_blocks(run):
    model, x = nn.Linear(3, 3), torch.rand(2, 3)
    trace = opscope.trace(model)
    with trace:
        model(x)
    with trace:
        model(model(x)[0])

    with pytest.raises(
        opscope.TraceStateError, match=r"called 3 times; .*to_fx\(':1'\), to_fx\(':2'\)"
    ):
        trace.to_fx()
    check_same(model, trace.to_fx(f":{run}"), x)


def test_two_modules_without_a_model_are_asked_for_by_their_addresses():
    one, two, x = nn.Linear(3, 4), nn.Linear(4, 5), torch.rand(2, 3)
    with opscope.trace() as trace:
        two(one(x))

    with pytest.raises(
        opscope.TraceStateError, match=r"2 module calls .* to_fx\('Linear'\), to_fx\('Linear#2'\)"
    ):
        trace.to_fx()
    check_same(one, trace.to_fx("Linear"), x)
    check_same(two, trace.to_fx("Linear#2"), torch.rand(2, 4))


def test_a_model_that_is_named_is_the_program_whatever_else_runs():
    model, loss, x = nn.Linear(3, 3), nn.MSELoss(), torch.rand(2, 3)
    with opscope.trace(model) as trace:
        loss(model(x), x).backward()

    check_same(model, trace.to_fx(), x)
    found = trace.to_fx("MSELoss")(x, x + 1)
    assert torch.equal(found, loss(x, x + 1))


def test_one_module_without_a_name_is_the_model():
    model, x = nn.Linear(3, 3), torch.rand(2, 3)
    with opscope.trace() as trace:
        model(x).sum().backward()

    check_same(model, trace.to_fx(), x)


def test_a_part_of_a_model_that_was_not_called_is_a_program_of_the_block():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def encode(self, x):
            return self.fc(x).exp()

    model, x = Encoder(), torch.rand(2, 3)
    with torch.no_grad(), opscope.trace(model) as trace:
        model.encode(x)
    program, new = trace.to_fx(), torch.rand(2, 3)

    assert torch.equal(program(new), model.encode(new))
    assert [name for name, _ in program.named_parameters()] == ["fc.weight", "fc.bias"]
    with pytest.raises(opscope.OptionError, match="the model did not run"):
        trace.to_fx("")


def test_a_module_of_a_program_that_failed_later_is_a_program():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4)), torch.rand(2, 3)
    trace = opscope.trace(model)
    with pytest.raises(RuntimeError), trace:
        model(x)

    check_same(model[0], trace.to_fx("0"), x)
    with pytest.raises(opscope.TraceStateError, match="the module '1' failed"):
        trace.to_fx("1")
    with pytest.raises(opscope.TraceStateError, match="a program that failed"):
        trace.to_fx()


def test_a_module_that_reads_what_others_left_is_refused_and_the_model_is_not():
    class Reads(nn.Module):
        def forward(self, x):
            return x * self.left

    def leave(model, x):
        model.reads.left = x.exp()
        return model.reads(x)

    model, x = Model(leave, reads=Reads()), torch.rand(2, 3)
    trace = record(model, x)

    check_same_without_copy(model, trace.to_fx())
    with pytest.raises(
        opscope.TraceStateError, match=r"what op 0, aten\.exp\.default at .* gave before"
    ):
        trace.to_fx("reads")


def check_same_without_copy(model, program):
    x = torch.rand(2, 3)
    assert torch.equal(program(x), model(x))


def test_what_was_made_in_the_block_for_the_model_is_refused_unless_it_is_an_input():
    model, x = Model(lambda m, x: m.one(x) * m.mask), torch.rand(2, 3)
    with opscope.trace(model) as trace:
        model.mask = torch.ones(3) * 2
        model(x)

    with pytest.raises(opscope.TraceStateError, match="make it outside of the block"):
        trace.to_fx()


def test_a_compiled_model_is_a_program_under_the_names_of_its_own(traced):
    model = Net()
    program = record(torch.compile(model, backend="eager"), torch.rand(2, 3)).to_fx()

    assert {name for name, _ in program.named_parameters()} <= dict(model.named_parameters()).keys()
