"""Whole training steps: what is recorded of them, and that they run as they do untraced."""

import copy
import gc
import tracemalloc
import warnings
import weakref

import networkx as nx
import pytest
import torch
from tests import invariants, witness, zoo
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import opscope
from opscope.errors import TraceStateError

EVERYTHING = {
    "save": "all", "gradients": "all", "saved_for_backward": True, "stop_on_nonfinite": True,
}  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.body(x)))


def data(steps=3):
    make = torch.Generator().manual_seed(5)
    return [
        (torch.randn(6, 4, generator=make), torch.randint(3, (6,), generator=make))
        for _ in range(steps)
    ]


def loss_of(model, batch):
    x, target = batch
    return nn.functional.cross_entropy(model(x), target)


# Each gives a function that makes one step with a batch and returns the loss.


def optimised(optimizer, **options):
    def start(model):
        chosen = getattr(torch.optim, optimizer)(model.parameters(), **options)

        def step(batch):
            chosen.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            chosen.step()
            return loss

        return step

    return start


def clipped(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad(set_to_none=False)
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        chosen.step()
        return loss

    return step


def accumulated(model):
    chosen = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(batch):
        chosen.zero_grad()
        for part in range(2):
            loss = loss_of(model, [t[part * 3 : part * 3 + 3] for t in batch]) / 2
            loss.backward()
        chosen.step()
        return loss

    return step


def mixed(dtype):
    def start(model):
        chosen = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)

        def step(batch):
            chosen.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = loss_of(model, batch)
            scaler.scale(loss).backward()
            scaler.unscale_(chosen)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(chosen)
            scaler.update()
            return loss

        return step

    return start


def two_losses(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad()
        output = model(batch[0])
        first = nn.functional.cross_entropy(output, batch[1])
        second = output.pow(2).mean()
        first.backward(retain_graph=True)
        second.backward()
        chosen.step()
        return first + second.detach()

    return step


def losses_together(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad()
        output = model(batch[0])
        losses = [nn.functional.cross_entropy(output, batch[1]), output.pow(2).mean()]
        torch.autograd.backward(losses)
        chosen.step()
        return losses[0]

    return step


def penalised(model):
    """A gradient penalty: a backward through a backward."""
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad()
        x = batch[0].clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), batch[1])
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + gradient.pow(2).sum()).backward()
        chosen.step()
        return loss

    return step


def averaged(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    def step(batch):
        chosen.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        chosen.step()
        average.update_parameters(model)
        return loss

    return step


def closed_over(model):
    chosen = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(batch):
        def closure():
            chosen.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        return chosen.step(closure).detach()

    return step


def hooked(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def double(parameter):
        parameter.grad.mul_(2)

    model.head.weight.register_post_accumulate_grad_hook(double)
    model.norm.register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 0.5,))
    model.head.register_full_backward_pre_hook(lambda m, outputs: (outputs[0] * 2,))

    def step(batch):
        chosen.zero_grad()
        output = model(batch[0])
        output.register_hook(lambda g: g.clamp(-0.1, 0.1))
        loss = nn.functional.cross_entropy(output, batch[1])
        loss.backward()
        chosen.step()
        return loss

    return step


def optimised_in_backward(model):
    """A step for each parameter, as soon as it has its gradient."""
    for parameter in model.parameters():
        chosen = torch.optim.SGD([parameter], lr=0.1)

        def update(parameter, chosen=chosen):
            chosen.step()
            chosen.zero_grad()

        parameter.register_post_accumulate_grad_hook(update)

    def step(batch):
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    return step


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round(decimals=1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def quantised(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad()
        loss = nn.functional.cross_entropy(Straight.apply(model(batch[0])), batch[1])
        loss.backward()
        chosen.step()
        return loss

    return step


def checkpointed(*, reentrant):
    def start(model):
        chosen = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(batch):
            chosen.zero_grad()
            x = batch[0].clone().requires_grad_()
            body = checkpoint(model.body, x, use_reentrant=reentrant)
            loss = nn.functional.cross_entropy(model.head(model.norm(body)), batch[1])
            loss.backward()
            chosen.step()
            return loss

        return step

    return start


def looked_over(model):
    chosen = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        chosen.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.autograd.detect_anomaly():
                loss = loss_of(model, batch)
                loss.backward()
        chosen.step()
        return loss

    return step


def scheduled(model):
    chosen = torch.optim.Adam(model.parameters(), lr=0.1, capturable=False, amsgrad=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, 10)

    def step(batch):
        chosen.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        chosen.step()
        schedule.step()
        return loss

    return step


LOOPS = {
    "SGD": optimised("SGD", lr=0.1, momentum=0.9),
    "SGD foreach": optimised("SGD", lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": optimised("SGD", lr=0.1, fused=True),
    "AdamW": optimised("AdamW", lr=0.01, foreach=False),
    "AdamW foreach": optimised("AdamW", lr=0.01, foreach=True),
    "AdamW fused": optimised("AdamW", lr=0.01, fused=True),
    "RMSprop": optimised("RMSprop", lr=0.01),
    "clipped": clipped,
    "accumulated": accumulated,
    "bfloat16": mixed(torch.bfloat16),
    "float16": mixed(torch.float16),
    "two losses": two_losses,
    "losses together": losses_together,
    "penalised": penalised,
    "averaged": averaged,
    "LBFGS": closed_over,
    "hooked": hooked,
    "optimised in backward": optimised_in_backward,
    "custom function": quantised,
    "checkpointed": checkpointed(reentrant=False),
    "checkpointed, reentrant": checkpointed(reentrant=True),
    "anomalies detected": looked_over,
    "scheduled": scheduled,
}
every_loop = pytest.mark.parametrize("start", LOOPS.values(), ids=LOOPS)


def trained(start, around, steps=2):
    """Train a model from the same beginning; return all that there is to compare."""
    torch.manual_seed(3)
    model = Net()
    step = start(model)
    losses = around(model, step, data(steps))
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return witness.bits([losses, grads, model.state_dict(), torch.rand(3)])


def untraced(model, step, batches):
    return [step(batch).detach() for batch in batches]


# ----------------------------------------------------------------- nothing is disturbed


@every_loop
@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {"replayable": True}, {"layers": False, **EVERYTHING}],
    ids=["plain", "everything", "replayable", "ops only"],
)  # fmt: skip
def test_training_goes_as_it_does_without_a_trace(start, options):
    def traced(model, step, batches):
        with opscope.trace(model, **options):
            return untraced(model, step, batches)

    assert trained(start, traced) == trained(start, untraced)


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "lstm", "vit"])
def test_a_step_of_a_real_model_goes_as_it_does_without_a_trace(name):
    def step(program, *contexts):
        optimizer = torch.optim.AdamW(program.module.parameters(), lr=1e-3)
        torch.manual_seed(2)
        for context in contexts:
            context.__enter__()
        values = program.run()
        values = list(values.values()) if isinstance(values, dict) else values
        loss = sum(t.pow(2).mean() for t in witness.tensors(values) if t.requires_grad)
        loss.backward()
        optimizer.step()
        for context in contexts:
            context.__exit__(None, None, None)
        return witness.bits([loss, program.module.state_dict(), torch.rand(3)])

    one, two = zoo.build(name, training=True), zoo.build(name, training=True)
    assert step(one) == step(two, opscope.trace(two.module, **EVERYTHING))


@every_loop
def test_a_model_has_no_hook_left(start):
    torch.manual_seed(3)
    model = Net()
    step = start(model)
    step(data()[0])
    hooks = [sorted(vars(part)) for part in model.modules()]
    on_parameters = [p._backward_hooks for p in model.parameters()]
    counts = witness.watchers()
    with opscope.trace(model, **EVERYTHING):
        step(data()[1])
    assert witness.watchers() == counts
    assert [sorted(vars(part)) for part in model.modules()] == hooks
    assert [p._backward_hooks for p in model.parameters()] == on_parameters


# -------------------------------------------------------------------------- the record


def recorded(start, steps=2, **options):
    torch.manual_seed(3)
    model = Net()
    step, batches = start(model), data(steps)
    with opscope.trace(model, **options) as trace:
        for batch in batches:
            step(batch)
    return trace


@every_loop
def test_whole_steps_replay_bit_for_bit(start):
    report = recorded(start, replayable=True).validate()
    assert report, str(report)
    assert report.compared > 50


@every_loop
def test_whole_steps_are_as_every_record_is(start):
    invariants.check(recorded(start, steps=1))


@every_loop
def test_no_op_of_backward_is_without_its_layer_but_accumulation(start):
    """But for hooks after an accumulation, which belong to the parameter's gradient too."""
    trace = recorded(start)
    backward = [op for op in trace.ops if op.phase == "backward"]
    assert backward
    lost = [op for op in backward if trace.recording.call_of(op) is None]
    assert {op.node for op in lost} <= {"AccumulateGrad"}
    assert all(op.layer_call is None for op in backward)


@every_loop
def test_each_op_is_in_the_phase_that_it_is_in(start):
    trace = recorded(start)
    assert all(op.phase == "backward" for op in trace.ops if op.node is not None
               and start is not optimised_in_backward)  # fmt: skip
    writes = {
        trace.recording.parameter_of_value.get(value): op
        for op in trace.ops for value in op.writes
    }  # fmt: skip
    trainable = {p.index for p in trace.parameters if p.trainable}
    assert trainable <= set(writes)
    if start is not averaged:
        assert {writes[index].phase for index in trainable} == {"optimizer"}
    for op in trace.ops:
        if op.module_call is not None and op.node is None and op.forward_op is None:
            assert op.phase == "forward"


def test_the_phases_of_a_plain_step_are_in_order():
    trace = recorded(clipped, steps=1)
    order = []
    for op in trace.ops:
        if not order or order[-1] != op.phase:
            order.append(op.phase)
    assert order == ["forward", "backward", "other", "optimizer"]


def test_averaging_and_zeroing_are_no_forward():
    trace = recorded(averaged)
    after = [op for op in trace.ops if op.phase == "other"]
    assert {"_foreach_lerp_", "lerp_"} & {op.name for op in after}
    trace = recorded(clipped)
    zeroed = [op for op in trace.ops if op.name in {"_foreach_zero_", "zero_"}]
    assert zeroed
    assert {op.phase for op in zeroed} == {"optimizer"}


def test_two_backwards_through_one_graph_are_both_of_its_layers():
    trace = recorded(two_losses, steps=1)
    ran = [op.name for op in trace["linear_2"].backward_ops]
    assert ran.count("mm") == 4


def test_parameters_read_in_the_second_step_are_what_the_optimizer_wrote():
    trace = recorded(optimised("SGD", lr=0.1, foreach=False))
    linears = [layer for layer in trace if layer.type == "linear"]
    second = linears[2]
    graph = trace.graph("op", phase="all")
    fed = {n for op in second.ops for n in graph.predecessors(f"op_{op.index}")}
    assert {graph.nodes[n]["phase"] for n in fed} == {"forward", "optimizer"}
    assert not {n for n in fed if graph.nodes[n]["kind"] == "parameter"}
    assert [p.name for p in second.parameters] == [p.name for p in linears[0].parameters]
    assert linears[0].record.layer == second.record.layer


# ------------------------------------------------------------------------------- loops


def loop(trace_of, steps):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.rand(5, 3)  # the same in each step

    def step():
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()

    step()
    trace = trace_of(model)
    with trace:
        for _ in range(steps):
            step()
    return trace


def plain_form(graph):
    """Return nodes and edges with all that is not a number of passes, a time or a position."""
    keys = ("kind", "label", "operator", "layer_type", "module", "shapes", "dtypes", "phase",
            "accumulates", "parameters")  # fmt: skip
    nodes = {
        n.removesuffix(":1"): {key: str(d[key]).partition(" (×")[0] for key in keys}
        for n, d in graph.nodes(data=True)
    }
    return nodes, {(a.removesuffix(":1"), b.removesuffix(":1")) for a, b in graph.edges}


@pytest.mark.parametrize("level", ["layer", "module"])
def test_rolled_two_hundred_steps_are_the_graph_of_one(level):
    one = plain_form(loop(opscope.trace, 1).graph(level, rolled=True))
    many = plain_form(loop(opscope.trace, 200).graph(level, rolled=True))
    assert one[0] == many[0]
    assert one[1] == many[1]


@pytest.mark.parametrize("level", ["layer", "module"])
@pytest.mark.parametrize("phase", ["backward", "optimizer", "all"])
def test_rolled_later_phases_do_not_grow_with_the_steps(level, phase):
    """From the second step on parameters come of the optimizer."""
    few = plain_form(loop(opscope.trace, 3).graph(level, rolled=True, phase=phase))
    many = plain_form(loop(opscope.trace, 40).graph(level, rolled=True, phase=phase))
    assert few[0].keys() == many[0].keys()
    assert few[1] == many[1]


def test_two_hundred_steps_number_their_passes():
    trace = loop(opscope.trace, 200)
    assert trace["linear_1:200"].passes == 200
    assert len({layer.record.layer for layer in trace if layer.phase == "forward"}) == 7
    assert trace["linear_1:137"].backward_ops
    starts = [trace[f"linear_1:{n}"].ops[0].index for n in range(1, 201)]
    assert starts == sorted(starts)


def test_no_tensor_of_a_loop_is_kept_alive():
    with witness.Mortality() as seen:
        trace = loop(opscope.trace, 5)
    assert len(trace) > 20
    assert seen.survivors() == []


def test_memory_grows_by_the_record_alone():
    """Twice the steps take twice the record: nothing is kept that is not counted in ops."""

    def grown(steps):
        gc.collect()
        tracemalloc.start()
        trace = loop(opscope.trace, steps)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size, len(trace.ops)

    grown(2)
    (small, few), (large, many) = grown(20), grown(40)
    assert many - few == pytest.approx(few, rel=0.1)
    assert (large - small) / (many - few) < 1500
    assert large < 2.4 * small


def test_a_trace_entered_each_nth_step_is_one_record_of_those_steps():
    torch.manual_seed(3)
    model = Net()
    step = LOOPS["AdamW foreach"](model)
    trace = opscope.trace(model, save=["head"], gradients="all")
    losses = []
    for number, batch in enumerate(data(9)):
        if number % 3 == 0:
            with trace:
                losses.append(step(batch).detach())
        else:
            step(batch)
    heads = [layer for layer in trace if "head" in layer.output_of or layer.module == "head"]
    assert [layer.record.number for layer in heads] == [1, 2, 3]
    assert len({layer.record.layer for layer in heads}) == 1
    invariants.check(trace)
    values = trace.recording.values
    assert [values[v].origin for layer in heads for v in layer.record.values] == ["fresh"] * 3
    for layer, loss, (_, target) in zip(heads, losses, data(9)[::3], strict=True):
        assert torch.equal(nn.functional.cross_entropy(layer.activation, target), loss)
        assert len(layer.gradients) == 1


def test_steps_between_two_blocks_are_not_taken_for_what_they_wrote():
    """The second block reads parameters anew: no edge leads from the first to it."""
    model = nn.Linear(3, 3)
    trace = opscope.trace(model)
    with trace:
        kept = model(torch.ones(1, 3))
    kept.data.add_(1)
    with torch.no_grad():
        model.weight.add_(1)
    with trace:
        model(kept)
    graph = trace.graph("layer", phase="all")
    assert not nx.has_path(graph, trace["linear_1:1"].label, trace["linear_1:2"].label)


def test_a_block_within_itself_is_refused():
    trace = opscope.trace()
    with trace, pytest.raises(TraceStateError, match="leave its block"), trace:
        pass
    with trace:
        torch.ones(2)
    assert len(trace.ops) == 1


def test_a_record_read_between_two_blocks_is_not_read_again_after_them():
    trace = opscope.trace()
    with trace:
        torch.ones(2)
    assert trace.layer_labels == ["ones_1_0", "output_1_1"]
    first = trace.layers
    with trace:
        torch.zeros(2)
    assert [label.partition("_")[0] for label in trace.layer_labels if "out" not in label] == [
        "ones", "zeros",
    ]  # fmt: skip
    assert len(trace.ops) == 2
    assert [layer.type for layer in first] == ["ones", "output"]


def test_an_activation_of_the_first_block_is_still_what_it_was_after_the_second():
    trace, x = opscope.trace(save="all"), torch.ones(3)
    with trace:
        y = x * 2
    y.add_(5)  # unseen
    with trace:
        y.mul_(10)
    found = trace["mul_1"]
    with pytest.raises(opscope.errors.NotSaved):
        _ = found.activation
    trace = opscope.trace(save="all")
    with trace:
        y = x * 2
    with trace:
        y.mul_(10)
    assert torch.equal(trace["mul_1"].activation, torch.full((3,), 2.0))
    assert torch.equal(trace["mul_2"].activation, torch.full((3,), 20.0))


def test_gradients_of_an_earlier_block_are_heard_in_a_later_one():
    x = torch.ones(3, requires_grad=True)
    trace = opscope.trace(gradients="all")
    with trace:
        y = x.exp()
    with trace:
        (y * 2).sum().backward()
    assert torch.equal(trace["exp"].gradient, torch.full((3,), 2.0))
    assert torch.equal(trace["mul"].gradient, torch.ones(3))


def test_a_block_left_by_an_error_can_be_entered_again():
    trace = opscope.trace()
    with pytest.raises(RuntimeError), trace:
        torch.ones(2) @ torch.ones(3)
    assert trace.failure is not None
    with trace:
        torch.ones(2)
    assert trace.failure is None


def test_a_trace_that_is_replayable_is_replayed_over_all_its_blocks():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 3))
    step = optimised("SGD", lr=0.1)(model)
    trace = opscope.trace(model, replayable=True)
    for number, batch in enumerate(data(4)):
        if number % 2:
            step(batch)
            continue
        with trace:
            step(batch)
    report = trace.validate()
    assert report, str(report)


def test_what_went_on_after_the_block_is_not_taken_for_a_difference():
    """Batch norm writes its statistics without a word to the version counter."""
    torch.manual_seed(3)
    model, batches = Net(), data(2)
    step = optimised("SGD", lr=0.1)(model)
    with opscope.trace(model, replayable=True) as trace:
        step(batches[0])
    step(batches[1])
    report = trace.validate()
    assert report, str(report)


def test_workers_of_a_loader_are_not_disturbed():
    model = nn.Linear(4, 3)
    loader = DataLoader(TensorDataset(torch.rand(8, 4)), batch_size=4, num_workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking in a process with threads
        with opscope.trace(model) as trace:
            for (x,) in loader:
                model(x).sum().backward()
    assert trace["linear_1:2"].shape == (4, 3)
    invariants.check(trace)


def test_the_slowest_and_largest_layers_of_one_step_of_a_loop_are_told():
    torch.manual_seed(3)
    model = Net()
    step = optimised("SGD", lr=0.1)(model)
    trace = opscope.trace(model)
    for number, batch in enumerate(data(6)):
        if number == 4:
            with trace:
                step(batch)
        else:
            step(batch)
    for column in ("time", "backward", "memory"):
        table = str(trace.summary("layer", columns=["name", column], sort_by=column, row_limit=3))
        assert "linear" in table or "batch" in table or "dropout" in table


def test_a_model_can_be_copied_and_saved_after_a_trace(tmp_path):
    model = Net()
    step = optimised("AdamW", lr=0.1)(model)
    with opscope.trace(model, **EVERYTHING):
        step(data()[0])
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    twin.load_state_dict(torch.load(tmp_path / "model.pt"))


def test_a_model_dies_with_its_last_use_although_it_was_traced():
    model = Net()
    optimised("SGD", lr=0.1)(model)(data()[0])
    with opscope.trace(model, gradients="all", saved_for_backward=True) as trace:
        loss_of(model, data()[0]).backward()
    gone = weakref.ref(model.head.weight)
    del model
    gc.collect()
    assert gone() is None
    assert len(trace) > 3
