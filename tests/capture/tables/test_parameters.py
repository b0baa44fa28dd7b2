"""The model's parameters and buffers: names, aliases, what they are like."""

import pytest
import torch
from tests import zoo
from torch import nn

import opscope


class Sharing(nn.Module):
    """One weight in two modules, one module at two addresses, one buffer under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, 5, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(3, dtype=torch.float16))
        self.register_buffer("also_scale", self.scale, persistent=False)
        self.register_parameter("absent", None)
        self.register_buffer("missing", None)

    def forward(self, x):
        return self.again(self.second(self.first(x))) * self.frozen * self.scale


@pytest.fixture(scope="module", params=[*zoo.MODULES, "sharing"])
def program(request):
    if request.param == "sharing":
        return zoo.Program(Sharing(), (torch.ones(2, 3),))
    return zoo.shared(request.param)


@pytest.fixture(scope="module")
def trace(program):
    with torch.no_grad(), opscope.trace(program.module) as trace:
        program.run()
    return trace


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_each_is_listed_once_under_its_first_name(program, trace, kind):
    named = getattr(program.module, f"named_{kind}s")
    found = [p for p in trace.parameters if p.kind == kind]
    assert [p.name for p in found] == [name for name, _ in named()]
    for record, (_, tensor) in zip(found, named(), strict=True):
        assert record.shape == tuple(tensor.shape)
        assert f"torch.{record.dtype}" == str(tensor.dtype)
        assert record.nbytes == tensor.numel() * tensor.element_size()
        assert record.trainable is (kind == "parameter" and tensor.requires_grad)


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_a_shared_one_has_all_its_other_names_as_aliases(program, trace, kind):
    named = getattr(program.module, f"named_{kind}s")
    names = {}
    for name, tensor in named(remove_duplicate=False):
        names.setdefault(id(tensor), set()).add(name)
    found = [p for p in trace.parameters if p.kind == kind]
    assert [{p.name, *p.aliases} for p in found] == list(names.values())


def test_what_ops_read_is_told_apart_by_name(trace, program):
    """An op that reads a parameter does so under the parameter's very name."""
    read = {
        trace.recording.parameter_of_value[read.value]
        for op in trace.ops
        for read in op.reads
        if read.value in trace.recording.parameter_of_value
    }
    assert read == {p.index for p in trace.parameters if p.value is not None}
    for index in read:
        record = trace.parameters[index]
        assert trace.recording.values[record.value].shape == record.shape
        assert trace.recording.values[record.value].origin == "outside"


def test_those_that_no_op_reads_are_listed_without_a_value():
    model = Sharing()
    with opscope.trace(model) as trace:
        model(torch.ones(2, 3))
    unread = [p.name for p in trace.parameters if p.value is None]
    assert unread == ["unused"]


def test_a_lazy_parameter_is_measured_once_it_has_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    with opscope.trace(model) as trace:
        model(torch.ones(2, 3))
    assert [(p.name, p.shape) for p in trace.parameters] == [("0.weight", (4, 3)), ("0.bias", (4,))]


def test_a_parameter_keeps_its_name_after_it_was_written(layers):
    """Each step of an optimizer writes the weights that the next forward pass reads."""
    model, x = nn.Linear(3, 3), torch.ones(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opscope.trace(model, layers=layers) as trace:
        for _ in range(3):
            model(x).sum().backward()
            optimizer.step()
    forward = [op for op in trace.ops if op.name == "addmm"]
    names = [
        {trace.parameters[p].name for p in trace.layers[call_index(trace, op)].record.parameters}
        for op in forward
    ]
    assert names[0] == ({"weight", "bias"} if layers else {"bias"})
    assert names == [names[0]] * 3


def call_index(trace, op):
    return next(layer.index for layer in trace.layers if op in layer.ops)


def test_the_parameters_of_a_model_that_runs_unannounced_are_known():
    """Without a model, or with another one, the names come with the first call."""
    model, x = nn.Linear(3, 3), torch.ones(2, 3)
    with opscope.trace() as trace:
        model(x)
    assert [p.name for p in trace.parameters] == ["weight", "bias"]
    other = nn.Sequential(nn.Linear(3, 3))
    with opscope.trace(other) as trace:
        model(other(x))
    assert [p.name for p in trace.parameters] == ["0.weight", "0.bias"]
    assert [(p.name, p.of_model) for p in trace.recording.parameters] == [
        ("0.weight", True), ("0.bias", True), ("Linear.weight", False), ("Linear.bias", False),
    ]  # fmt: skip
