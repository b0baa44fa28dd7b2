"""What is recorded of one op: its arguments, values, flags and times."""

import pytest
import torch
from tests import witness, zoo
from torch import nn

import opscope


def last_op(program, **options):
    with torch.no_grad(), opscope.trace(**options) as trace:
        program()
    return trace, trace.ops[-1]


X, Y = torch.ones(2, 3), torch.ones(2, 3)

ARGUMENTS = {
    "two tensors and a number": (
        lambda: torch.add(X, Y, alpha=2), ["self", "other"], {"alpha": 2},
    ),
    "a number for a tensor": (lambda: X * 2, ["self"], {"other": 2}),
    "a list": (lambda: torch.cat([X, Y], dim=1), ["tensors[0]", "tensors[1]"], {"dim": 1}),
    "a list with gaps": (
        lambda: torch.ones(2, 3)[:, torch.tensor([0])], ["self", "indices[1]"], {"indices[0]": None},
    ),
    "an absent tensor": (
        lambda: nn.functional.layer_norm(X, (3,)), ["input"], {"weight": None, "bias": None},
    ),
    "out=": (lambda: torch.mul(X, Y, out=torch.ones(2, 3)), ["self", "other", "out"], {}),
    "two lists": (
        lambda: torch._foreach_add([X, Y], [Y, X]),
        ["self[0]", "self[1]", "other[0]", "other[1]"], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("program", "reads", "others"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_each_argument_is_recorded_under_its_name(program, reads, others, layers):
    _, op = last_op(program, layers=layers)
    assert [read.argument for read in op.reads] == reads
    assert {name: value for name, value in op.arguments if name in others} == others


WRITES = {
    "in place": (lambda x: x.add_(1), 1),
    "in place on a view": (lambda x: x[0].add_(1), 1),
    "out=": (lambda x: torch.sin(X, out=x), 1),
    "a list": (lambda x: torch._foreach_add_([x, torch.ones(2)], 1), 2),
    "copy": (lambda x: x.copy_(Y), 1),
    "none": (lambda x: x.sin(), 0),
    "metadata": (lambda x: x.t_(), 0),
}


@pytest.mark.parametrize(("program", "count"), WRITES.values(), ids=WRITES)
def test_what_an_op_writes_is_a_new_value_in_old_memory(program, count, layers):
    x = torch.ones(2, 3)
    trace, op = last_op(lambda: program(x), layers=layers)
    values = trace.recording.values
    assert len(op.writes) == count
    read = {values[r.value].storage for r in op.reads}
    for index in op.writes:
        assert values[index].origin == "write"
        assert values[index].made_by == op.index
        assert values[index].storage in read
        assert index not in [r.value for r in op.reads]


def test_the_running_statistics_of_batch_norm_are_written_though_no_schema_says_so():
    model = nn.BatchNorm1d(3)
    with opscope.trace(model) as trace:
        model(torch.ones(2, 3))
    (op,) = [op for op in trace.ops if op.name == "native_batch_norm"]
    assert len(op.writes) == 2
    statistics = {"running_mean", "running_var"}
    read = {r.argument: trace.recording.values[r.value].storage for r in op.reads}
    written = {trace.recording.values[value].storage for value in op.writes}
    assert written == {read[name] for name in statistics}


def test_grad_and_inference_modes_are_recorded_per_op(layers):
    x = torch.ones(2)
    with opscope.trace(layers=layers) as trace:
        x.sin()
        with torch.no_grad():
            x.cos()
            with torch.enable_grad():
                x.tan()
        with torch.inference_mode():
            x.exp()
        x.log()
    flags = {op.name: (op.grad_enabled, op.inference) for op in trace.ops}
    assert flags == {
        "sin": (True, False), "cos": (False, False), "tan": (True, False),
        "exp": (False, True), "log": (True, False),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm"])
def test_the_ops_of_backward_are_marked_and_found_by_sequence_number(name, layers):
    program = zoo.build(name, training=True)
    with opscope.trace(program.module, layers=layers) as trace:
        first = witness.tensors(program.run())[0]
        first.square().mean().backward()
    backward = [op for op in trace.ops if op.phase == "backward"]
    forward = [op for op in trace.ops if op.phase != "backward"]
    assert backward
    assert max(op.index for op in forward) < min(op.index for op in backward)
    assert all(op.layer_call is None for op in backward)
    assert all(op.layer_call is not None for op in forward)
    assert all(op.forward_op is not None for op in backward if op.node != "AccumulateGrad")
    made = {op.sequence_nr for op in forward if op.sequence_nr is not None}
    assert {op.sequence_nr for op in backward} - {None} <= made


def test_a_failed_op_has_reads_and_no_outputs(layers):
    with pytest.raises(RuntimeError), opscope.trace(layers=layers) as trace:
        torch.mm(X, Y)
    op = trace.ops[-1]
    assert op.failed
    assert len(op.reads) == 2
    assert op.outputs == op.writes == ()
    assert op.duration_ns > 0


def test_profiler_marks_are_no_ops(layers):
    with opscope.trace(layers=layers) as trace, torch.profiler.record_function("mark"):
        X.sin()
    assert [op.name for op in trace.ops] == ["sin"]


def test_custom_operators_are_recorded(layers):
    with torch.library._scoped_library("opscope_tests", "DEF") as library:
        library.define("twice(Tensor x, int times) -> Tensor")
        library.impl("twice", lambda x, times: x * times, "CompositeExplicitAutograd")
        _, op = last_op(lambda: torch.ops.opscope_tests.twice(X, 3), layers=layers)
    assert op.operator == "opscope_tests.twice.default"
    assert dict(op.arguments) == {"times": 3}


def test_tensors_without_an_ordinary_storage_are_recorded(layers):
    sparse = torch.eye(3).to_sparse()
    trace, op = last_op(lambda: torch.sparse.mm(sparse, torch.ones(3, 2)), layers=layers)
    storages = {r.argument: trace.recording.values[r.value].storage for r in op.reads}
    assert None in storages.values()
    assert trace.recording.values[op.outputs[0]].shape == (3, 2)


def test_meta_tensors_are_recorded(layers):
    x = torch.empty(1000, 1000, device="meta")
    trace, op = last_op(lambda: x @ x, layers=layers)
    value = trace.recording.values[op.outputs[0]]
    assert (value.shape, value.device, value.nbytes) == ((1000, 1000), "meta", 4_000_000)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, at its import
def test_a_higher_order_operator_runs_as_it_would_and_is_one_op(layers):
    """It is seen whole, with the tensors that it reads; and it compiles, watched or not."""

    def program(x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    x = torch.ones(3)
    plain = program(x)
    torch._dynamo.reset()
    with torch.no_grad(), opscope.trace(layers=layers) as trace:
        y = program(x)
    assert torch.equal(y, plain)
    (op,) = [op for op in trace.ops if op.operator == "cond"]
    values = trace.recording.values
    assert [values[value].shape for value in op.outputs] == [(3,)]
    assert (3,) in [values[read.value].shape for read in op.reads]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, at its import
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # as hooks are global
def test_a_model_compiles_whole_inside_a_trace(layers):
    torch._dynamo.reset()
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        y = compiled(x)
    assert torch.equal(y, model(x))
    assert [op.name for op in trace.ops] == ["t", "addmm", "relu"]
