"""Each op of a backward belongs to the forward op, layer and module that it ran for.

The oracle is in `tests.engine`: it marks autograd's nodes themselves with the function call
that made them, and reads the mark off the node that the engine runs.
"""

import re
import threading
import warnings

import pytest
import torch
from tests import invariants, witness, zoo
from tests.engine import both, mistakes
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import opscope

MODELS = ("resnet18", "gpt2", "vit", "lstm", "encoder", "alexnet")


def loss_of(output):
    values = list(output.values()) if isinstance(output, dict) else output
    numbers = [t for t in witness.tensors(values) if t.is_floating_point() and t.requires_grad]
    return sum((t.float() ** 2).sum() for t in numbers)


def step(program):
    def run():
        program.call.zero_grad()
        loss_of(program.run()).backward()

    return run


# ------------------------------------------------------------------------- real models


@pytest.fixture(scope="module", params=[*MODELS, "swin"])
def trained(request):
    """One training step of a real model: the program and its trace."""
    program = zoo.build(request.param, training=True)
    torch.manual_seed(1)
    with opscope.trace(program.module) as trace:
        step(program)()
    return request.param, trace


@pytest.mark.parametrize("name", MODELS)
def test_on_real_models_the_forward_op_is_of_the_call_that_made_the_node(name, layers):
    program = zoo.build(name, training=True)
    rows, trace = both(step(program), model=program.module, layers=layers)
    assert mistakes(rows, trace) == []
    assert sum(row.backward for row in rows) > 20


def test_on_real_models_only_accumulation_has_no_layer_and_module(trained):
    """The loss is computed outside of the model: its ops alone have a layer and no module."""
    _, trace = trained
    backward = [op for op in trace.ops if op.phase == "backward"]
    for op in backward:
        if op.node == "AccumulateGrad":
            assert op.accumulates is not None
            assert op.forward_op is None
        else:
            forward = trace.ops[op.forward_op]
            assert trace.recording.call_of(op) is not None
            assert op.module_call == forward.module_call
    root = trace.recording.module_calls[0]
    assert root.is_root
    for op in backward:
        if op.forward_op in root.ops:
            assert op.module_call is not None
    ran_in_model = [op for op in backward if op.module_call is not None]
    assert len(ran_in_model) > 10


def test_the_forward_ops_name_is_the_nodes(trained):
    """``AddmmBackward0`` ran for ``aten.addmm``: but for writes to views and for their base."""
    name, trace = trained
    checked = 0
    for op in trace.ops:
        if op.forward_op is None or op.node in {None, "CopySlices", "AsStridedBackward0"}:
            continue
        forward = trace.ops[op.forward_op]
        checked += 1
        plain = re.sub(r"Backward\d*$", "", op.node).lower()
        assert plain == forward.name.replace("_", "").lower(), (name, op)
        assert op.sequence_nr == forward.sequence_nr
    assert checked > 20


def test_each_trainable_parameter_that_got_a_gradient_is_accumulated_into(trained):
    _, trace = trained
    accumulated = {op.accumulates for op in trace.ops if op.accumulates is not None}
    read = set(trace.recording.parameter_of_value.values())
    trainable = {p.index for p in trace.parameters if p.trainable and p.index in read}
    assert accumulated == trainable


def test_a_backward_op_reads_the_saved_forward_values(trained):
    """In the graph of ops there are edges from the forward to the backward."""
    _, trace = trained
    graph = trace.graph(level="op", phase="all")
    crossing = [
        (a, b) for a, b in graph.edges
        if graph.nodes[a]["phase"] == "forward" and graph.nodes[b]["phase"] == "backward"
        and graph.nodes[a]["kind"] == "op"
    ]  # fmt: skip
    assert len(crossing) > 10
    assert not [1 for a, b in graph.edges if graph.nodes[b]["phase"] == "forward"
                and graph.nodes[a]["phase"] == "backward"]  # fmt: skip


def test_a_whole_record_with_a_backward_is_as_every_record_is():
    program = zoo.build("encoder", training=True)
    with opscope.trace(program.module) as trace:
        step(program)()
    invariants.check(trace)


# ----------------------------------------------------------------------- small programs


def leaf(*shape):
    return torch.rand(*(shape or (4, 4)), requires_grad=True)


class Square(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * x).sin()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x * x).cos() * 2 * x


class Reverse(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Same(Function):
    """Runs no op in its forward."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class InPlace(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


class Nested(Function):
    """Has a graph of its own inside, and a backward in its backward."""

    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.y = Square.apply(x.exp()).sum()
        ctx.save_for_backward(x)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, gradient):
        return torch.autograd.grad(ctx.y, ctx.saved_tensors)[0] * gradient


def writes_to_views():
    y = leaf() * 1
    y[0] = 5.0
    y[:, 1].mul_(2)
    y.view(-1)[3:5].add_(1)
    y.t().relu_()
    y.sum().backward()


def fills_an_empty_tensor():
    x, y = leaf(), torch.zeros(4, 4)
    y[1:3] = x[:2] * 2
    y[0] = x[3]
    first, second = y.chunk(2)
    (first * second).sum().backward()


def twice_through_one_graph():
    loss = (leaf() * 2).exp().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def two_losses_at_once():
    hidden = (leaf() @ leaf()).relu()
    torch.autograd.backward([hidden.sum(), (hidden**2).mean()])


def hooks_on_tensors():
    hidden = leaf() * 2
    hidden.register_hook(lambda g: g * 3 + 1)
    after = hidden.exp()
    after.retain_grad()
    after.register_hook(lambda g: None)
    after.sum().backward()


def hooks_on_nodes():
    hidden = (leaf() * 2).exp()
    hidden.grad_fn.register_prehook(lambda g: (g[0] * 2,))
    hidden.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] * 2,))
    hidden.sum().backward()


def hooks_on_modules():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 2,))
    model.register_full_backward_pre_hook(lambda m, outputs: (outputs[0] * 2,))
    model(leaf()).sum().backward()


def hooks_after_accumulation():
    x = leaf()

    def double(parameter):
        parameter.grad.mul_(2)

    x.register_post_accumulate_grad_hook(double)
    (x * 2).sum().backward()


def anomalies_detected():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            (leaf() * 2).exp().sum().backward()


def a_gradient_given():
    (leaf().exp() * 2).backward(torch.ones(4, 4) * 2)


def autocast():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(leaf()).float().pow(2).mean()
    loss.backward()


def packing_hooks():
    """The hook runs an op between a node's number and the op that the node is for."""
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t * 1)
    with hooks:
        loss = (leaf() * 2).exp().sin().sum()
    loss.backward()


def sparse_gradient():
    nn.Embedding(5, 3, sparse=True)(torch.tensor([1, 2, 1])).sum().backward()


def attention():
    nn.MultiheadAttention(8, 2)(*[torch.rand(3, 2, 8)] * 3)[0].sum().backward()


def complex_numbers():
    x = leaf()
    (torch.complex(x, x * 2).abs() ** 2).sum().backward()


def some_inputs_only():
    model = nn.Linear(4, 4)
    model(leaf()).sum().backward(inputs=[model.weight])


def ops_without_grad_between():
    x = leaf() * 2
    with torch.no_grad():
        y = x.exp().sin()
    (x.cos() + y).sum().backward()


def parametrised():
    nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))(leaf()).sum().backward()


def unbound_in_part():
    first, second, _ = leaf(3, 4).unbind()
    (first * second).sum().backward()


def cells():
    cell, state = nn.LSTMCell(4, 4), (torch.zeros(2, 4), torch.zeros(2, 4))
    for _ in range(3):
        state = cell(torch.rand(2, 4), state)
    state[0].sum().backward()


def accumulation():
    model = nn.Linear(4, 4)
    for _ in range(3):
        model(torch.rand(2, 4)).sum().backward()


def a_hessian():
    torch.autograd.functional.jacobian(lambda x: (x**2).sin(), torch.rand(3))


def with_function(function):
    def run():
        (function.apply(leaf().exp()) + 1).sum().backward()

    return run


def function_twice():
    Reverse.apply(Reverse.apply(leaf() * 2)).sum().backward()


PROGRAMS = {
    f.__name__: f
    for f in (
        writes_to_views, fills_an_empty_tensor, twice_through_one_graph, two_losses_at_once,
        hooks_on_tensors, hooks_on_nodes, hooks_on_modules, hooks_after_accumulation,
        anomalies_detected, a_gradient_given,
        autocast, packing_hooks, sparse_gradient, attention, complex_numbers, some_inputs_only,
        ops_without_grad_between, parametrised, unbound_in_part, cells, accumulation, a_hessian,
        function_twice,
    )
} | {f"function {f.__name__}": with_function(f) for f in (Square, Reverse, Same, Nested)}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_forward_op_is_of_the_call_that_made_the_node(program, layers):
    rows, trace = both(program, layers=layers)
    assert mistakes(rows, trace) == []
    assert any(op.phase == "backward" for op in trace.ops)


def test_a_function_that_writes_a_view_in_place_belongs_to_its_own_ops(layers):
    """Without the oracle: its reading of nodes is more than torch stands there."""
    with opscope.trace(layers=layers) as trace:
        y = leaf() * 1
        InPlace.apply(y[0])
        y.sum().backward()
    ran = [op for op in trace.ops if op.phase == "backward" and op.node != "AccumulateGrad"]
    names = {trace.ops[op.forward_op].name for op in ran}
    assert names == {"mul", "mul_", "sum"}


@pytest.mark.parametrize("start", [torch.autograd.backward, torch.autograd.grad])
def test_starting_a_backward_is_no_layer(start, layers):
    x = leaf(3)
    with opscope.trace(layers=layers) as trace:
        loss = x.exp().sum()
        if start is torch.autograd.grad:
            start(loss, x)
        else:
            start([loss])
    assert all(layer.type not in {"backward", "grad"} for layer in trace)
    assert {op.layer_call for op in trace.ops if op.phase == "backward"} == {None}


def test_a_gradient_that_a_hook_computes_is_linked_to_the_forward_behind_it(layers):
    """Under ``create_graph`` what a hook computes makes nodes, which the next backward runs."""
    x = leaf(3)
    with opscope.trace(layers=layers) as trace:
        y = x.exp()
        y.register_hook(lambda gradient: gradient.sin())
        (once,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        once.sum().backward()
    backward = [op for op in trace.ops if op.phase == "backward" and op.node != "AccumulateGrad"]
    assert any(op.node == "SinBackward0" for op in backward)
    assert all(trace.ops[op.forward_op].phase == "forward" for op in backward)


def test_a_gradient_of_a_gradient_belongs_to_the_first_forward(layers):
    x = leaf(3)
    with opscope.trace(layers=layers) as trace:
        (once,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        once.sum().backward()
    backward = [op for op in trace.ops if op.phase == "backward" and op.node != "AccumulateGrad"]
    assert {trace.ops[op.forward_op].name for op in backward} == {"pow", "sum"}
    assert all(trace.ops[op.forward_op].phase == "forward" for op in backward)
    assert len([op for op in backward if trace.ops[op.forward_op].name == "pow"]) > 6


# ------------------------------------------------------------------------- checkpoints


def blocks():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.4), nn.Linear(4, 4))


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_recomputed_ops_repeat_the_ops_of_the_forward_one_by_one(reentrant, layers):
    """Each belongs to its twin: same operator, same shapes, each twin once, in order."""
    model, x = blocks(), leaf()
    with opscope.trace(model, layers=layers) as trace:
        y = x * 2
        for _ in range(3):
            y = checkpoint(model, y, use_reentrant=reentrant)
        y.sum().backward()
    values = trace.recording.values
    again = [op for op in trace.ops if op.recomputed and op.name != "detach"]
    assert [op.operator for op in again] == [trace.ops[op.forward_op].operator for op in again]
    for op in again:
        twin = trace.ops[op.forward_op]
        assert [values[v].shape for v in op.outputs] == [values[v].shape for v in twin.outputs]
        assert op.module_call == twin.module_call
        assert op.phase == "backward"
        assert not twin.recomputed
    inside = [op.index for op in trace.ops if op.phase == "forward" and op.module_call is not None]
    inside = [index for index in inside if trace.ops[index].name != "detach"]
    twins = sorted(op.forward_op for op in again)
    # By hooks it stops early, once all is there that was saved: without the last addmm.
    last = [] if reentrant else [i for i in inside if trace.ops[i - 1].index in twins
                                 and trace.ops[i].name == "addmm" and i not in twins]  # fmt: skip
    assert sorted([*twins, *last]) == inside
    assert len(last) == (0 if reentrant else 3)
    assert not [op for op in trace.ops if op.phase == "forward" and op.recomputed]


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_the_backward_of_recomputed_ops_belongs_to_the_forward(reentrant):
    model, x = blocks(), leaf()
    with opscope.trace(model) as trace:
        checkpoint(model, x * 2, use_reentrant=reentrant).sum().backward()
    ran = [op for op in trace.ops if op.phase == "backward" and op.node == "AddmmBackward0"]
    ran = [op for op in ran if not op.recomputed]
    linears = {trace[label].ops[-1].index for label in ("linear_1", "linear_2")}
    assert {op.forward_op for op in ran} == linears
    for label in ("linear_1", "linear_2"):
        assert sum(op.name == "mm" for op in trace[label].backward_ops) == 2


@pytest.mark.parametrize("inner", [True, False], ids=["inner reentrant", "inner by hooks"])
@pytest.mark.parametrize("outer", [True, False], ids=["outer reentrant", "outer by hooks"])
def test_nested_checkpoints_leave_no_op_without_a_layer(outer, inner, layers):
    model, x = blocks(), leaf()

    def block(y):
        return model(checkpoint(model, y * model[0].weight, use_reentrant=inner)).sin()

    with warnings.catch_warnings():  # the reentrant one inside another has no gradients yet
        warnings.simplefilter("ignore")
        with opscope.trace(model, layers=layers) as trace:
            checkpoint(block, x * 2, use_reentrant=outer).sum().backward()
    for op in trace.ops:
        if op.phase == "backward" and op.node != "AccumulateGrad":
            assert op.forward_op is not None
            assert trace.ops[op.forward_op].phase == "forward"
            if op.recomputed and op.name != "detach":
                assert trace.ops[op.forward_op].operator == op.operator


def test_a_sequence_of_checkpoints_is_recomputed_segment_by_segment():
    model, x = blocks(), leaf()
    with opscope.trace(model) as trace:
        checkpoint_sequential(model, 2, x, use_reentrant=False).sum().backward()
    again = [op for op in trace.ops if op.recomputed and op.name != "detach"]
    assert again
    assert [op.operator for op in again] == [trace.ops[op.forward_op].operator for op in again]


# ----------------------------------------------------------------------------- threads


def test_a_backward_of_a_graph_that_another_thread_made_belongs_to_none_of_our_ops():
    """Numbers count per thread: those of the other may be the same as ours."""
    made = {}

    def elsewhere():
        made["y"] = (leaf(3) * 2).exp().sin().cos().tanh()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    x = leaf(3)
    with opscope.trace() as trace:
        for _ in range(30):
            x = x.neg()
        made["y"].sum().backward()
    strange = [op for op in trace.ops if op.node in {"ExpBackward0", "SinBackward0"}]
    assert strange
    assert {op.forward_op for op in strange} == {None}


def test_a_graph_made_before_the_block_has_no_forward_op_in_it():
    hidden = (leaf(3) * 2).exp().sin()
    with opscope.trace() as trace:
        (hidden * 2).sum().backward()
    names = {op.node: op.forward_op for op in trace.ops if op.phase == "backward"}
    assert names["SinBackward0"] is None
    assert names["ExpBackward0"] is None
    assert trace.ops[names["SumBackward0"]].name == "sum"


def test_a_graph_made_between_two_blocks_has_no_forward_op_in_either(layers):
    x = torch.rand(3, requires_grad=True)
    trace = opscope.trace(layers=layers)
    with trace:
        x.exp().sum()
    unseen = x.sin().sum()
    with trace:
        unseen.backward()
    backward = [op for op in trace.ops if op.phase == "backward"]
    assert {op.node for op in backward} >= {"SinBackward0"}
    assert all(op.forward_op is None for op in backward)


def test_the_node_of_a_view_whose_base_was_written_belongs_to_an_op_before_it():
    """Autograd makes it anew, between two ops, and its class is that of one of the backward's."""
    x = torch.ones(2, 3, requires_grad=True)
    with opscope.trace() as trace:
        y = x.t()
        x.detach().mul_(2)
        assert y.grad_fn is not None  # which makes it
        y.sum().backward()
    invariants.check(trace)
    assert {op.node for op in trace.ops if op.phase == "backward"} >= {"AsStridedBackward0"}
    assert all(op.forward_op is None or op.forward_op < op.index for op in trace.ops)
