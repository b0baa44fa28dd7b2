"""torch.func, and higher-order operators."""

from itertools import pairwise

import pytest
import torch
from tests import invariants, witness
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.func import (
    functional_call,
    functionalize,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn.attention.flex_attention import flex_attention

import opscope

X = torch.arange(12.0).view(3, 4) / 12
MODEL = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
PARAMETERS = dict(MODEL.named_parameters())


def loss(x):
    return (x.sin() * 2).sum()


def of_one(parameters, x):
    return functional_call(MODEL, parameters, (x,)).sum()


def ensemble():
    parameters, buffers = stack_module_state([MODEL, nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
    return vmap(lambda p, b: functional_call(MODEL, (p, b), (X,)))(parameters, buffers)


PROGRAMS = {
    "vmap": (lambda: vmap(loss)(X), "sin"),
    "vmap of vmap": (lambda: vmap(vmap(torch.sin))(X), "sin"),
    "vmap, random": (
        lambda: vmap(lambda x: torch.dropout(x, 0.5, train=True), randomness="different")(X),
        "bernoulli",
    ),
    "vmap, in place": (lambda: vmap(lambda x: x.clone().mul_(2))(X), "mul_"),
    "vmap, in chunks": (lambda: vmap(loss, chunk_size=2)(X), "sin"),
    "grad": (lambda: grad(loss)(X), "cos"),
    "grad of grad": (lambda: grad(lambda x: grad(loss)(x).sum())(X), "neg"),
    "grad_and_value": (lambda: grad_and_value(loss)(X), "cos"),
    "jvp": (lambda: jvp(loss, (X,), (X,)), "cos"),
    "vjp": (lambda: vjp(loss, X)[1](torch.ones(())), "cos"),
    "jacrev": (lambda: jacrev(torch.sin)(X[0]), "cos"),
    "jacfwd": (lambda: jacfwd(torch.sin)(X[0]), "cos"),
    "hessian": (lambda: hessian(loss)(X[0]), "cos"),
    "linearize": (lambda: linearize(loss, X)[1](X), "cos"),
    "functionalize": (lambda: functionalize(lambda x: x.clone().mul_(2))(X), "mul"),
    "functional_call": (
        lambda: functional_call(MODEL, {k: v * 2 for k, v in PARAMETERS.items()}, (X,)),
        "relu",
    ),
    "gradients per sample": (
        lambda: vmap(grad(of_one), in_dims=(None, 0))(PARAMETERS, X),
        "threshold_backward",
    ),
    "ensemble": (ensemble, "relu"),
}


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr:UserWarning")  # linearize's
@pytest.mark.parametrize("autograd", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize(("program", "operator"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_transform_is_recorded_as_it_runs_and_can_be_replayed(
    program, operator, autograd, layers
):
    """What is seen are the ops on whole tensors, with the batches that vmap put together."""
    with torch.set_grad_enabled(autograd):
        torch.manual_seed(1)
        with witness.Witness() as seen:
            expected = program()
        torch.manual_seed(1)
        with opscope.trace(layers=layers, replayable=True) as trace:
            found = program()
    assert witness.bits(found) == witness.bits(expected)
    assert witness.recorded(trace) == seen.ops
    assert operator in {op.name for op in trace.ops}
    report = trace.validate()
    assert report, report


@pytest.mark.parametrize("program", [vmap(loss), grad(loss), vmap(grad(loss))])
def test_tensors_that_a_transform_wraps_are_the_tensors_behind_them(program, layers):
    """So nothing seems to come from outside, or to go nowhere, where Python is handed one."""
    with opscope.trace(layers=layers) as trace:
        program(X)
    graph = trace.graph(level="layer")
    kinds = [layer.type for layer in trace if not layer.ops]
    assert kinds.count("input") == 1
    forward = [layer.label for layer in trace if layer.ops]
    assert all(graph.has_edge(a, b) for a, b in pairwise(forward[:3]))


def test_modules_inside_a_transform_have_their_layers(layers):
    with torch.no_grad(), opscope.trace(MODEL, layers=layers, save="all") as trace:
        y = vmap(MODEL)(X)
    assert {"0", "1"} <= {layer.module for layer in trace}
    assert torch.equal(trace["1"].activation, y)
    assert trace.layer_labels[0] == "input_1_0"
    assert trace.layer_labels[-1].startswith("output_1_")
    assert [parent.type for parent in trace["1"].parents] == (
        ["linear"] if layers else [trace.layers[-3].type]
    )
    invariants.check(trace)


def test_saved_activations_outlive_the_transform_they_were_made_in(layers):
    """They have the dimensions that vmap took away."""
    with opscope.trace(layers=layers, save="all") as trace:
        vmap(loss)(X)
    assert torch.equal(trace["sin"].activation, X.sin())
    assert trace["sum"].shape == (3,)


def test_an_error_inside_a_transform_leaves_nothing_behind(layers):
    trace = opscope.trace(layers=layers)
    with pytest.raises(RuntimeError, match=r"must match|broadcast"), trace:
        vmap(lambda x: x + torch.ones(7))(X)
    assert trace.failure is not None
    assert torch._C._functorch.maybe_current_level() is None


# ------------------------------------------------------------------- higher-order operators


Q = torch.linspace(-1, 1, 32).view(1, 1, 8, 4)

OPERATORS = {
    "cond": (
        lambda: torch.cond(X.sum() > 0, lambda x: x + 1, lambda x: x - 1, (X,)), {(3, 4)}, 1
    ),
    "while_loop": (
        lambda: while_loop(
            lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (torch.tensor(0), X)
        ),
        {(), (3, 4)},
        2,
    ),
    "scan": (lambda: scan(lambda c, x: (c + x, c * 1.0), torch.zeros(4), X), {(4,), (3, 4)}, 2),
    "flex_attention": (
        lambda: flex_attention(Q, Q, Q, score_mod=lambda s, b, h, i, j: s + i), {(1, 1, 8, 4)}, 3
    ),
}  # fmt: skip


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, at its import
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("first", ["inside", "outside"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_higher_order_operator_is_one_op_with_its_inputs_and_outputs(operator, first, layers):
    program, shapes, outputs = OPERATORS[operator]
    expected = program() if first == "outside" else None
    with torch.no_grad(), opscope.trace(layers=layers, save="all") as trace:
        y = program()
    assert witness.bits(y) == witness.bits(program() if expected is None else expected)
    (op,) = [op for op in trace.ops if op.operator == operator]
    values = trace.recording.values
    assert shapes <= {values[read.value].shape for read in op.reads}
    assert len(op.outputs) == outputs
    (layer,) = [layer for layer in trace if op in layer.ops]
    assert layer.type == operator.replace("_", "")
    assert witness.bits(layer.activation)[0][0] == witness.bits(y)[0][0]
    assert not trace.recording.module_calls, "what torch makes of the branches is no module"
    assert not trace.modules
    invariants.check(trace)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_replay_says_that_it_cannot_run_a_higher_order_operator_again():
    with opscope.trace(replayable=True) as trace:
        OPERATORS["cond"][0]()
    assert not trace.validate()
    assert "cond, is no operator overload" in str(trace.validate())
