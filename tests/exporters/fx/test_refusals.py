"""What no program of ops can repeat is refused, with what it is and what to do."""

import copy
import dataclasses
import gc

import numpy as np
import pytest
import torch
from tests.builders import one_op
from tests.exporters.fx.compare import Model, check_same, program_of, record
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import opscope
from opscope.exporters.fx.build import to_fx
from opscope.exporters.fx.values import Live


@pytest.fixture
def x():
    return torch.rand(4, 3)


class Subclass(torch.Tensor):
    pass


def gradient_inside(model, x):
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(model.one(x).pow(2).sum(), x, create_graph=True)
    return gradient * 2


def gradient_of_torch_func(model, x):
    return torch.func.grad(lambda t: model.one(t).pow(2).sum())(x)


def step_inside(model, x):
    optimizer = torch.optim.SGD(model.one.parameters(), lr=0.1)
    with torch.enable_grad():
        model.one(x).sum().backward()
    optimizer.step()
    return model.one(x)


def parameter_of_a_value(model, x):
    return model.two(x) * nn.Parameter(model.one(x))


def other_class_of_a_value(model, x):
    return model.two(x) * model.one(x).as_subclass(Subclass)


def other_class_of_an_input(model, x):
    return model.two(x.as_subclass(Subclass))


def other_class_of_a_parameter(model, x):
    return model.one(x) * (x @ model.one.weight.as_subclass(Subclass)).sum().item()


def given_other_data(model, x):
    model.one.weight.data = model.one.weight.data.clamp(-0.1, 0.1)
    return model.one(x)


def input_given_other_data(model, x):
    x.data = x * 2
    return model.one(torch.ones(3))


def other_storage(model, x):
    return torch.zeros(3).set_(model.one(x).untyped_storage()).sum() + x


def own_generator(model, x):
    return x + torch.rand(3, generator=torch.Generator().manual_seed(1))


def written_by_numpy(model, x):
    y = torch.empty(3)
    y.numpy()[:] = 2
    return model.one(x) * y


def never_written(model, x):
    return torch.empty(3)[1:]


def stored_from_numpy(model, x):
    y = torch.empty(3)
    np.copyto(y.numpy(), 1)
    with torch.no_grad():
        model.one.bias.copy_(y)
    return model.one(x)


def cond(model, x):
    return torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t * 3, (x,))


REFUSED = {
    gradient_inside: r"gave in the backward pass, and a program has the ops of the forward only",
    gradient_of_torch_func: r"gave in the backward pass",
    step_inside: r"gave in the backward pass",
    parameter_of_a_value: r"aten\.addmm\.default at .* gave, as another tensor",
    other_class_of_a_value: r"aten\.addmm\.default at .* gave, as another tensor",
    other_class_of_an_input: r"the memory of an input, as another tensor",
    other_class_of_a_parameter: r"the memory of a parameter, as another tensor",
    given_other_data: r"an assignment to `\.data`, which is no op: `x\.data\.copy_\(y\)` would be",
    input_given_other_data: r"an assignment to `\.data`",
    other_storage: r"aten\.set_\.source_Storage, was given a UntypedStorage as 'source'",
    own_generator: r"aten\.rand\.generator, draws from a generator of its own",
    written_by_numpy: r"op \d+, aten\.empty\.memory_format at .* made, and that no op wrote",
    never_written: r"aten\.empty\.memory_format at .* made, and that no op wrote",
    stored_from_numpy: r"aten\.empty\.memory_format at .* made, and that no op wrote",
    cond: r"op \d+, cond, is no operator overload, but a higher-order operator",
}


@pytest.mark.parametrize("replayable", [False, True])
@pytest.mark.parametrize(("function", "message"), REFUSED.items())
def test_what_ops_do_not_show_is_refused_with_its_op(function, message, replayable, x):
    model = Model(function)
    with opscope.trace(model, replayable=replayable) as trace:
        model(x)

    with pytest.raises(opscope.TraceStateError, match=message):
        trace.to_fx()


@pytest.mark.parametrize("function", [given_other_data, parameter_of_a_value])
def test_it_is_refused_without_layers_too(function, x):
    model = Model(function)
    trace = record(model, x, layers=False)

    with pytest.raises(opscope.TraceStateError, match="gave, as another tensor"):
        trace.to_fx()


def test_lengths_that_pad_packed_sequence_gives_are_refused_and_the_rest_is_not():
    class Packed(nn.Module):
        def __init__(self, *, with_lengths):
            super().__init__()
            self.rnn, self.with_lengths = nn.GRU(3, 4, batch_first=True), with_lengths

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            found = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return found if self.with_lengths else found[0]

    x, lengths = torch.rand(2, 5, 3), torch.tensor([5, 3])
    model = Packed(with_lengths=False)
    check_same(model, program_of(model, x, lengths), torch.rand(2, 5, 3), lengths)
    model = Packed(with_lengths=True)
    with pytest.raises(opscope.TraceStateError, match="no op wrote"):
        record(model, x, lengths).to_fx()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.empty(3).fill_(2) * m.one(x),
        lambda m, x: torch.zeros_like(torch.empty(4, 3)) + m.one(x),
        lambda m, x: torch.add(x, x, out=torch.empty(0)).detach() * m.one(x),
        lambda m, x: (torch.empty(3).copy_(x[0]) * m.one(x), torch.empty(3).mul(x[0]) * 0)[0],
        lambda m, x: m.one(x) * torch.empty(0).sum(),
        lambda m, x: torch.empty(2, 3).normal_().sum() * m.one(x),
    ],
    ids=["filled", "sizes only", "out=", "not given", "of no size", "drawn"],
)
def test_empty_memory_that_is_written_or_not_looked_at_is_no_matter(function, x):
    model = Model(function)
    check_same(model, program_of(model, x), torch.rand(4, 3), seed=5)


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_refused_as_objects_of_cpp(x):
    model = nn.Sequential(nn.Linear(3, 3))
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    trace = record(packed, x, grad=False)

    with pytest.raises(
        opscope.TraceStateError, match=r"an object of C\+\+, LinearPackedParamsBase"
    ):
        trace.to_fx()


OPERATORS = {
    "inductor_compiled_code": "op 0, inductor_compiled_code, is what Inductor made of a module; trace it",
    "c10d.allreduce_.default": "op 0, c10d.allreduce_.default, is a collective",
    "_c10d_functional.wait_tensor.default": "is a collective",
    "flex_attention": "is no operator overload, but a higher-order operator",
    "mylib.gone.default": "is no operator overload, but a higher-order operator or one that is not",
    "aten.x y.default": "has a name that a program cannot hold",
    "aten.import.default": "has a name that a program cannot hold",
    'aten.mul.x"); print("': "has a name that a program cannot hold",
}


@pytest.mark.parametrize(("operator", "message"), OPERATORS.items())
def test_operators_that_cannot_be_called_are_refused_by_name(operator, message):
    recording = one_op()
    (op,) = recording.ops
    recording = dataclasses.replace(recording, ops=(dataclasses.replace(op, operator=operator),))
    known = None if operator.startswith(("mylib", "flex")) else torch.ops.aten.relu.default
    live = Live(lambda _: known, lambda _: None, lambda _: (None, False), lambda _: None)

    with pytest.raises(opscope.TraceStateError) as caught:
        to_fx(recording, live)
    assert message in str(caught.value)


def test_an_overload_named_like_a_keyword_is_called_by_its_operator(x):
    model = Model(lambda m, x: m.one(x) * torch.zeros(3).random_(1, 9))
    program = program_of(model, x)

    check_same(model, program, torch.rand(4, 3), seed=4)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_tensors_of_a_class_of_their_own_are_those_that_the_ops_gave(grad, x):
    model = Model(lambda m, x: m.two(m.one(x).relu() * 2)[1:])
    program = program_of(model, x.as_subclass(Subclass), grad=grad)

    check_same(model, program, torch.rand(4, 3))


def test_an_op_that_raised_and_was_caught_is_left_out(x):
    def caught(model, x):
        try:
            y = torch.mm(x, x)
        except RuntimeError:
            y = model.one(x)
        return y * 2

    model = Model(caught)
    check_same(model, program_of(model, x), torch.rand(4, 3))


@pytest.mark.parametrize("replayable", [False, True])
def test_a_tensor_from_outside_that_is_gone_is_an_error_that_describes_it(replayable, x):
    def reads(model, x):
        return x * model.left

    model = Model(reads)
    model.left = torch.rand(3).mul(2)
    with opscope.trace(model, replayable=replayable) as trace:
        expected = model(x)
    del model.left
    gc.collect()

    if replayable:
        assert torch.equal(trace.to_fx()(x), expected)
    else:
        message = r"a tensor from outside, f32\[3\], read by op 0, aten\.mul\.Tensor at .* is gone"
        with pytest.raises(opscope.NotSaved, match=message):
            trace.to_fx()


def test_a_tensor_that_the_model_holds_past_its_buffers_is_shared_with_it(x):
    """What the program adds to it, the model sees, as it sees its own additions."""

    def counts(model, x):
        model.seen += x.mean(0)
        return model.one(x) + model.seen

    model = Model(counts)
    model.seen = torch.zeros(3)
    program = program_of(model, x)
    other = copy.deepcopy(model)
    for _ in range(3):
        new = torch.rand(4, 3)
        assert torch.equal(program(new), other(new))
    assert torch.equal(model.seen, other.seen)


def test_a_parameter_that_is_in_no_module_is_trained_by_the_program(x):
    weights = [nn.Parameter(torch.rand(3))]
    model = Model(lambda m, x: x * weights[0])
    program_of(model, x)(x).sum().backward()

    assert torch.equal(weights[0].grad, x.sum(0))
