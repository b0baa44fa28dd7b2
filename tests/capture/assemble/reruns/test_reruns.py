"""What runs again in a backward belongs to the layers that it repeats.

The oracle is in `tests.engine`: modules and parts of functions say by name what runs, and mark
the nodes that they made. A program is run under it, and again under a trace.
"""

import threading
import warnings

import pytest
import torch
from tests import invariants, zoo
from tests.engine import applied, both, misplaced, mistakes
from tests.memory_saving import (
    PROGRAMS,
    Chain,
    Implicit,
    PieceByPiece,
    Random,
    Scaled,
    again,
    leaf,
    mlp,
    none_for_the_rest,
)
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import _checkpoint_without_reentrant_generator, noop_context_fn

import opscope


def is_step(mistake):
    """Whether an op is none of the aliases that autograd and checkpoints add where they save."""
    return mistake[1] != "detach"


def address(trace, op):
    call = trace.ops[op].module_call
    return None if call is None else trace.recording.modules[
        trace.recording.module_calls[call].module
    ].address  # fmt: skip


def chained(model, *modules, function=Chain, x=None):
    x = leaf() * 1 if x is None else x
    return function.apply(x, modules, *(p for m in modules for p in m.parameters()))


def named(trace, name, *, phase="forward"):
    return [op.index for op in trace.ops if op.name == name and op.phase == phase]


def forward_ops(trace, name):
    return [op.forward_op for op in trace.ops if op.name == name and op.recomputed]


# --------------------------------------------------------------------- under the oracle


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_op_belongs_to_the_part_that_ran_it_or_made_its_node(name, layers):
    torch.manual_seed(0)
    model, run = PROGRAMS[name]()
    rows, trace = both(run, model=model, layers=layers, modules=model is not None)
    assert list(filter(is_step, misplaced(rows, trace))) == []
    assert mistakes(rows, trace) == []
    assert any(row.backward for row in rows)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("seed", range(25))
def test_in_programs_made_at_random_each_op_belongs_to_its_part_in_its_turn(seed):
    program = Random(seed)
    rows, trace = both(program.run, model=program.model, layers=bool(seed % 2), modules=False)
    assert list(filter(is_step, misplaced(rows, trace))) == []
    invariants.check(trace)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_a_language_model_with_checkpoints_runs_its_own_blocks_again(reentrant):
    program = zoo.build("gpt2", training=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated in favour of one of another name
        program.module.gradient_checkpointing_enable({"use_reentrant": reentrant})

    def run():
        program.run().logits.float().pow(2).sum().backward()

    rows, trace = both(run, model=program.module)
    assert misplaced(rows, trace) == []
    assert mistakes(rows, trace) == []
    assert sum(op.recomputed for op in trace.ops) > 100


@pytest.mark.parametrize("function", [Chain, PieceByPiece])
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_stages_of_real_models_in_a_memory_saving_function_have_their_own(name, function, layers):
    program = zoo.build(name, training=True)
    model = program.module

    def run():
        if name == "resnet18":
            stages = [model.layer1, model.layer2, model.layer3, model.layer4]
            x = model.maxpool(model.relu(model.bn1(model.conv1(*program.args))))
        else:
            stages = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
            x = model.embeddings(*program.args, **program.kwargs)
        ours = [p for stage in stages for p in stage.parameters()]
        applied(function, x, tuple(stages), *ours).pow(2).mean().backward()

    rows, trace = both(run, model=model, layers=layers)
    assert list(filter(is_step, misplaced(rows, trace))) == []
    assert mistakes(rows, trace) == []
    assert sum(op.recomputed for op in trace.ops) > 60


# ------------------------------------------------------------- to which layer, which pass


def test_the_case_of_two_layers_in_one_function():
    """The convolution's backward is not the Linear's: in layers, tables, and graphs."""
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Conv1d(1, 1, 3)})
    with opscope.trace(model) as trace:
        chained(model, *model.values(), x=leaf(2, 1, 8) * 1).sum().backward()
    of_linear = [op.name for op in trace["linear"].backward_ops]
    of_convolution = [op.name for op in trace["conv1d"].backward_ops]
    assert of_linear.count("mm") == 2
    assert "convolution_backward" not in of_linear
    assert of_convolution == ["detach", "convolution", "convolution_backward"]
    table = trace.summary("layer", phase="backward").as_text(200)
    rows = {line.partition(" ")[0]: line for line in table.splitlines()}
    assert "mm ×2" in rows["linear_1_2"]
    assert "convolution" not in rows["linear_1_2"]
    assert "detach, convolution, convolution_" in rows["conv1d_1_3"]
    graph = trace.graph("op", phase="backward")
    nodes = {data["label"]: data for _, data in graph.nodes(data=True) if data["kind"] == "op"}
    (convolution,) = named(trace, "convolution")
    assert nodes["convolution_backward"]["forward"] == f"op_{convolution}"
    assert not nodes["convolution_backward"]["recomputed"]
    assert nodes["convolution"]["forward"] == f"op_{convolution}"
    assert nodes["convolution"]["recomputed"]
    assert nodes["convolution"]["module"] == nodes["convolution_backward"]["module"] == "b"


def test_what_backward_computes_itself_belongs_to_the_layer_whose_result_was_returned():
    with opscope.trace() as trace:
        Scaled.apply(leaf().exp()).sum().backward()
    own = [op for op in trace.ops if op.node == "ScaledBackward"]
    assert len(own) == 5
    assert {trace.ops[op.forward_op].name for op in own} == {"sin"}
    assert trace["sin"].backward_ops == tuple(own)
    assert trace["mul"].backward_ops == ()


class WithStatistics(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.mean = y.mean()
        ctx.save_for_backward(y.clone())
        return y

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0] / ctx.mean


class Several(Function):
    @staticmethod
    def forward(ctx, x):
        return x.exp(), x.sin(), x.cos().mean()

    @staticmethod
    def backward(ctx, a, b, c):
        return a + b + c


class Unchanged(Function):
    @staticmethod
    def forward(ctx, x):
        x.sum()
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.mul_(2)
        x.sum()
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class SavedValue(Function):
    """Keeps the graph of its forward."""

    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            ctx.x = again(x)
            ctx.y = ctx.x.exp().sin()
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, gradient):
        return torch.autograd.grad(ctx.y, ctx.x, gradient)[0] * 1


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (WithStatistics, "exp"), (Several, "mean"), (Unchanged, "view"), (Doubled, "mul_"),
        (SavedValue, "detach"),
    ],
)  # fmt: skip
def test_the_layer_that_was_returned_is_the_last_whose_result_is_used(function, layer, layers):
    with opscope.trace(layers=layers) as trace:
        given = function.apply(leaf() * 1)
        sum(t.sum() for t in (given if isinstance(given, tuple) else (given,))).backward()
    own = [op for op in trace.ops if op.node == f"{function.__name__}Backward"]
    assert {trace.ops[op.forward_op].name for op in own} == {layer}
    assert not any(op.recomputed for op in own)


@pytest.mark.parametrize("function", [Chain, PieceByPiece])
def test_each_pass_of_a_shared_module_is_repeated_by_its_own(function, layers):
    shared = nn.Linear(8, 8)
    with opscope.trace(shared, layers=layers) as trace:
        y = chained(shared, shared, shared, shared, function=function)
        chained(shared, shared, x=y).sum().backward()
    passes = named(trace, "addmm")
    order = passes[:3] if function is Chain else passes[2::-1]
    assert forward_ops(trace, "addmm") == [passes[3], *order]
    gradients = [op.forward_op for op in trace.ops if op.name == "mm"]
    assert gradients == [op for op in passes[::-1] for _ in range(2)]


def test_what_is_repeated_of_many_passes_is_the_last():
    class Solver(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, z, x):
            return (self.inner(z) + x).tanh()

        def solve(self, x):
            z = torch.zeros_like(x)
            for _ in range(5):
                z = self(z, x)
            return z

    model = Solver()
    with opscope.trace(model) as trace:
        Implicit.apply(leaf() * 1, model, *model.parameters()).sum().backward()
    for name in ("addmm", "add", "tanh"):
        assert forward_ops(trace, name) == named(trace, name)[-1:]


def test_steps_of_training_repeat_each_its_own(layers):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trace = opscope.trace(model, layers=layers)
    for _ in range(2):
        with trace:  # the block is entered again, and there are two steps each time
            for _ in range(2):
                optimizer.zero_grad()
                chained(model, *model).sum().backward()
                optimizer.step()
    assert len(forward_ops(trace, "addmm")) == 8
    assert forward_ops(trace, "addmm") == named(trace, "addmm")


def test_a_backward_in_a_later_block_finds_the_forward():
    model = mlp()
    trace = opscope.trace(model)
    with trace:
        loss = chained(model, *model).sum()
    torch.rand(3).exp()
    with trace:
        loss.backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")
    assert {address(trace, op.index) for op in trace.ops if op.node == "AddmmBackward0"} == {
        "0", "2",
    }  # fmt: skip


def test_a_forward_that_was_not_seen_has_no_ops():
    model = mlp()
    loss = chained(model, *model).sum()
    with opscope.trace(model) as trace:
        loss.backward()
    assert all(op.forward_op is None for op in trace.ops)
    assert not any(op.recomputed for op in trace.ops)


def test_modules_that_ran_elsewhere_stand_for_a_forward_that_was_not_seen():
    model = mlp()
    loss = chained(model, *model).sum()
    with opscope.trace(model) as trace:
        model(leaf())
        loss.backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")
    assert forward_ops(trace, "tanh") == named(trace, "tanh")


class Through(Function):
    """Is one thing in the forward and another in the backward."""

    @staticmethod
    def forward(ctx, x, once, twice, *parameters):
        ctx.twice = twice
        ctx.save_for_backward(x)
        return once(x).sin()

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = again(ctx.saved_tensors[0])
            y = ctx.twice(x)
        y.backward(gradient)
        return none_for_the_rest(ctx, x.grad)


def test_another_module_with_the_same_parameters_repeats_their_layer(layers):
    model = nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())])
    model[1][0].weight, model[1][0].bias = model[0].weight, model[0].bias

    def once(x):
        return F.relu(F.linear(x, model[0].weight, model[0].bias))

    with opscope.trace(model, layers=layers) as trace:
        x = Through.apply(leaf() * 1, once, model[1], *model[0].parameters())
        Through.apply(x, once, model[1], *model[0].parameters()).sum().backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")[::-1]
    assert forward_ops(trace, "relu") == named(trace, "relu")[::-1]


def test_a_function_that_does_what_a_module_did_repeats_the_module(layers):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def twice(x):
        x = F.relu(F.linear(x, model[0].weight, model[0].bias))
        return F.linear(x, model[2].weight, model[2].bias)

    with opscope.trace(model, layers=layers) as trace:
        Through.apply(leaf() * 1, model, twice, *model.parameters()).sum().backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")
    assert forward_ops(trace, "relu") == named(trace, "relu")


def test_a_module_that_the_forward_did_not_run_is_the_functions_own():
    model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    with opscope.trace(model) as trace:
        Through.apply(leaf() * 1, model[0], model[1], *model.parameters()).sum().backward()
    (sine,) = named(trace, "sin")
    ran = [op for op in trace.ops if op.node in {"ThroughBackward", "AddmmBackward0"}]
    assert {op.forward_op for op in ran} == {sine}
    assert not any(op.recomputed for op in ran)


def test_a_layer_that_was_fused_is_repeated_by_all_that_it_is_made_of():
    model = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), mlp()]).eval()
    with opscope.trace(model) as trace:
        chained(model, *model, x=leaf(2, 4, 8) * 1).sum().backward()
    (fused,) = named(trace, "_transformer_encoder_layer_fwd")
    ran = [op for op in trace.ops if op.forward_op == fused]
    assert {"native_layer_norm", "native_layer_norm_backward", "relu"} <= {op.name for op in ran}
    assert {address(trace, op.index) for op in ran} == {"0"}
    assert forward_ops(trace, "tanh") == named(trace, "tanh")


def test_what_runs_again_without_gradients_is_repeated_where_a_module_runs_it(layers):
    model = mlp()

    class ByHand(Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            return model(x).exp()

        @staticmethod
        def backward(ctx, gradient):
            return none_for_the_rest(ctx, gradient * model(ctx.saved_tensors[0]).exp())

    with opscope.trace(model, layers=layers) as trace:
        ByHand.apply(leaf() * 1, *model.parameters()).sum().backward()
    assert forward_ops(trace, "tanh") == named(trace, "tanh")
    (exp,) = named(trace, "exp")
    own = [op for op in trace.ops if op.node == "ByHandBackward" and not op.recomputed]
    assert [(op.name, op.forward_op) for op in own] == [("exp", exp), ("mul", exp)]


def test_a_gradient_computed_inside_a_module_is_computed_again(layers):
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = mlp()

        def forward(self, x):
            with torch.enable_grad():
                x = x if x.requires_grad else again(x)
                return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    model = nn.Sequential(Force(), nn.Linear(8, 8))
    with opscope.trace(model, layers=layers) as trace:
        chained(model, *model).sum().backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")
    assert forward_ops(trace, "neg") == named(trace, "neg")
    inner = {address(trace, op.index) for op in trace.ops if op.node == "MmBackward0"}
    assert inner == {"0.energy.0", "0.energy.2"}


def test_a_function_that_torch_func_maps_and_differentiates_is_its_own(layers):
    class Mapped(Scaled):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return (x * x).sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

    with opscope.trace(layers=layers) as trace:
        torch.vmap(Mapped.apply)(leaf() * 1).sum().backward()
        torch.func.grad(lambda x: Mapped.apply(x).sum())(torch.rand(4))
        torch.vmap(torch.func.grad(lambda x: Mapped.apply(x).sum()))(torch.rand(3, 4))
    own = [op for op in trace.ops if op.node is not None and "Mapped" in op.node]
    assert len(own) > 12
    assert {trace.ops[op.forward_op].name for op in own} == {"sin"}
    assert not any(op.recomputed for op in own)


def test_an_operator_with_a_gradient_of_its_own_is_one_layer(layers):
    with torch.library._scoped_library("opscope_reruns", "FRAGMENT"):

        @torch.library.custom_op("opscope_reruns::square", mutates_args=())
        def square(x: torch.Tensor) -> torch.Tensor:
            return x * x

        def backward(ctx, gradient):
            with torch.enable_grad():
                x = again(ctx.saved_tensors[0])
                y = x * x
            return torch.autograd.grad(y, x, gradient)[0] * 1

        square.register_autograd(
            backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
        )
        with opscope.trace(layers=layers) as trace:
            (square(leaf() * 1) + square(leaf() * 1)).sum().backward()
    ran = [op for op in trace.ops if op.phase == "backward" and op.name == "mul"]
    assert {op.forward_op for op in ran if op.node != "MulBackward0"} == set(named(trace, "square"))


def test_a_checkpoint_begun_by_hooks_of_a_module_repeats_what_it_ran(layers):
    model = mlp()
    with opscope.trace(model, layers=layers) as trace:
        x = leaf() * 1
        for _ in range(2):
            options = (True, noop_context_fn, "default", False, True)
            steps = _checkpoint_without_reentrant_generator(model, *options, x)
            next(steps)
            x = model(x)
            next(steps, None)
        x.sum().backward()
    first, second = named(trace, "relu")
    assert forward_ops(trace, "relu") == [second, first]
    passes = named(trace, "addmm")
    assert forward_ops(trace, "addmm") == [*passes[2:], *passes[:2]]


# ------------------------------------------------------------------- around and beside


def test_a_backward_inside_of_a_models_forward_runs_its_modules_again():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            chained(self, *self.net, x=x).sum().backward()
            return self.net(x)

    model = Step()
    with opscope.trace(model) as trace:
        model(leaf() * 1)
    assert forward_ops(trace, "addmm") == named(trace, "addmm")[:2]
    runs = [trace.recording.modules[run.module].address for run in trace.recording.module_calls]
    assert runs == ["", "net.0", "net.1", "net.2", "net.3", "net", *(f"net.{i}" for i in range(4))]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_stops_a_backward_half_way_leaves_the_next_one_right(error):
    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.count = nn.Linear(8, 8), 0

        def forward(self, x):
            self.count += 1
            x = self.inner(x)
            if self.count == 2:
                raise error
            return x

    model = nn.Sequential(nn.Linear(8, 8), Stops(), nn.Linear(8, 8))
    trace = opscope.trace(model)
    with pytest.raises(error), trace:
        chained(model, model).sum().backward()
    assert forward_ops(trace, "addmm") == named(trace, "addmm")[:2]
    with trace:
        chained(model, model).sum().backward()
    assert forward_ops(trace, "addmm")[2:] == named(trace, "addmm")[3:]


def test_modules_in_backwards_of_other_threads_are_not_ours():
    model, started, ended = mlp(), threading.Event(), threading.Event()

    def elsewhere():
        started.wait()
        chained(model, *model).sum().backward()
        ended.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()

    class Waits(Function):
        @staticmethod
        def forward(ctx, x):
            return x.exp()

        @staticmethod
        def backward(ctx, gradient):
            started.set()
            ended.wait()
            return gradient * 2

    with opscope.trace(model) as trace:
        Waits.apply(leaf() * 1).sum().backward()
    thread.join()
    assert trace._block.session.tables.backward_runs == []
    assert not any(op.recomputed for op in trace.ops)


def test_long_backwards_are_paired_in_linear_time(monkeypatch):
    """Twice as many passes of one cell take twice as many comparisons, not four times."""
    counts = []
    for steps in (50, 100):
        compared = 0

        class Counted(tuple):
            __slots__ = ()

            def __eq__(self, other):
                nonlocal compared
                compared += 1
                return tuple.__eq__(self, other)

            __hash__ = tuple.__hash__

        shared = [Counted, lambda key: Counted(key.anywhere)]
        monkeypatch.setattr("opscope.capture.assemble.reruns.candidates.SHARED", shared)
        cell = nn.GRUCell(4, 4)

        def unrolled(x, cell=cell, steps=steps):
            for _ in range(steps):
                x = cell(x, x)
            return x

        class Unrolled(Chain):
            pass

        with opscope.trace(cell) as trace:
            Unrolled.apply(leaf(2, 4) * 1, (unrolled,), *cell.parameters()).sum().backward()
        assert sum(op.recomputed for op in trace.ops) > 10 * steps
        counts.append(compared)
    assert counts[1] < 3 * counts[0]
