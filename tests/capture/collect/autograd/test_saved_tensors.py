"""What autograd keeps is what its own hooks are given: the same tensors, of the same memory."""

from collections import Counter

import pytest
import torch
from tests import witness, zoo
from torch import nn
from torch.utils.checkpoint import checkpoint

import opscope

MODELS = ("resnet18", "gpt2", "vit", "lstm", "encoder", "googlenet")


def loss_of(output):
    values = list(output.values()) if isinstance(output, dict) else output
    numbers = [t for t in witness.tensors(values) if t.is_floating_point() and t.requires_grad]
    return sum((t.float() ** 2).sum() for t in numbers)


class Packed:
    """Looks at each tensor that autograd packs, by torch's own hooks."""

    def __init__(self):
        self.shapes = Counter()
        self.storages = {}
        self.held = []  # so that no address is used twice

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        self.shapes[tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")] += 1
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        self.held.append(tensor.detach())
        return tensor


def twins(run, model=None, **options):
    """Run a program with torch's hooks, and again under a trace; return both."""
    torch.manual_seed(1)
    with Packed() as packed:
        one = run()
    torch.manual_seed(1)
    with opscope.trace(model, saved_for_backward=True, **options) as trace:
        two = run()
    return packed, trace, (one, two)


def kept_by(trace):
    """Return the records but for Python numbers: torch keeps them, and no hook is given them."""
    numbers = {((), "int64"), ((), "float64")}
    return [s for s in trace.recording.saved_tensors if (s.shape, s.dtype) not in numbers]


def shapes(trace):
    return Counter((kept.shape, kept.dtype) for kept in kept_by(trace))


def storages(trace):
    """Return the bytes of each storage that is kept, those of parameters too."""
    found = {}
    for number, saved in enumerate(kept_by(trace)):
        found[number if saved.storage is None else ("storage", saved.storage)] = saved.nbytes
    return Counter(found.values())


# ------------------------------------------------------------------------- real models


@pytest.mark.parametrize("name", MODELS)
def test_on_real_models_they_are_those_that_the_hooks_are_given(name, layers):
    program = zoo.build(name, training=True)
    packed, trace, _ = twins(lambda: loss_of(program.run()), program.module, layers=layers)
    assert shapes(trace) == packed.shapes
    assert storages(trace) == Counter(packed.storages.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_bytes_are_those_of_the_memory_that_is_there_because_of_it(name):
    program = zoo.build(name, training=True)
    packed, trace, _ = twins(lambda: loss_of(program.run()), program.module)
    of_model = {
        t.untyped_storage().data_ptr()
        for t in (*program.module.parameters(), *program.module.buffers())
    }
    expected = sum(n for at, n in packed.storages.items() if at not in of_model)
    numbers = sum(
        kept.extra_bytes
        for kept in trace.saved_for_backward
        if not kept.shape and kept.dtype in {"int64", "float64"}
    )
    assert trace.saved_for_backward.nbytes - numbers == expected
    assert sum(trace.saved_for_backward.by_layer().values()) == expected + numbers


@pytest.mark.parametrize("name", MODELS)
def test_each_is_kept_by_a_layer_that_ran(name):
    program = zoo.build(name, training=True)
    _, trace, _ = twins(lambda: loss_of(program.run()), program.module)
    labels = set(trace.layer_labels)
    for kept in trace.saved_for_backward:
        assert kept.layer in labels
        assert kept.node.removesuffix("0").endswith("Backward") or kept.node == "CopySlices"
        if kept.kind == "parameter":
            assert kept.made_by in {p.name for p in trace.parameters}


@pytest.mark.parametrize("name", MODELS)
def test_looking_changes_nothing(name):
    def run(program, **options):
        torch.manual_seed(1)
        with opscope.trace(program.module, **options) as trace:
            loss = loss_of(program.run())
            loss.backward()
        grads = [p.grad for p in program.module.parameters() if p.grad is not None]
        return witness.bits([loss, grads, torch.rand(2)]), trace

    plain, _ = run(zoo.build(name, training=True))
    looked, trace = run(zoo.build(name, training=True), saved_for_backward=True)
    assert plain == looked
    assert trace.saved_for_backward.nbytes > 0


# ----------------------------------------------------------------------- small programs


def leaf(*shape):
    return torch.rand(*(shape or (4, 4)), requires_grad=True)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, x * x)
        return x * x * x

    @staticmethod
    def backward(ctx, gradient):
        _, square = ctx.saved_tensors
        return 3 * gradient * square


def _write_to_a_view():
    y = leaf() * 1
    y[1:].mul_(leaf(3, 4))
    return y.exp()


def _autocast():
    with torch.autocast("cpu", torch.bfloat16):
        return nn.Linear(4, 4)(leaf()) @ leaf()


def _second():
    x = leaf()
    return torch.autograd.grad((x**3).sum(), x, create_graph=True)[0].sin()


PROGRAMS = {
    "the input": lambda: torch.sin(leaf()),
    "the result": lambda: torch.exp(leaf()),
    "both": lambda: leaf() * leaf(),
    "in place": lambda: (leaf() * 1).relu_().sigmoid_(),
    "views": lambda: (leaf() * 1)[1:].t().exp().reshape(-1).sin(),
    "several results": lambda: leaf().max(0)[0] * leaf().sort()[0],
    "lists": lambda: torch.cat([leaf(), leaf().exp()]) * torch.stack([leaf()] * 2).view(8, 4),
    "without dimensions": lambda: leaf().sum().exp() * leaf().mean(),
    "a custom function": lambda: Cube.apply(leaf().exp()),
    "none": lambda: torch.add(leaf(), leaf()),
    "what needs no gradient": lambda: leaf() * torch.ones(4, 4).exp(),
    "index": lambda: torch.exp(leaf()[torch.tensor([0, 2])]),
    "complex": lambda: torch.complex(leaf(), leaf()).abs(),
    "dropout": lambda: torch.dropout(leaf(), 0.5, train=True),
    "autocast": _autocast,
    "a graph of a graph": _second,
    "attention": lambda: nn.MultiheadAttention(8, 2)(*[leaf(3, 2, 8)] * 3)[0],
}


@pytest.mark.parametrize("name", ["a program", "swin"])
def test_only_what_an_op_that_writes_a_view_keeps_is_not_listed(name):
    """Its node is inside a CopySlices, which does not show it."""
    if name == "a program":
        packed, trace, _ = twins(_write_to_a_view)
    else:
        program = zoo.build(name, training=True)
        packed, trace, _ = twins(lambda: loss_of(program.run()), program.module)
    hidden = packed.shapes - shapes(trace)
    assert shapes(trace) == packed.shapes - hidden
    written = [op for op in trace.ops if op.writes and trace.recording.values[op.writes[0]].stride]
    assert {shape for shape, _ in hidden} <= {
        trace.recording.values[value].shape for op in written for value in op.writes
    }
    assert hidden


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_they_are_those_that_the_hooks_are_given(program, layers):
    packed, trace, _ = twins(program, layers=layers)
    assert shapes(trace) <= packed.shapes
    if program is not PROGRAMS["a graph of a graph"]:  # what the backward frees may be gone
        assert shapes(trace) == packed.shapes
        assert storages(trace) == Counter(packed.storages.values())


def test_it_says_who_keeps_what_as_what_and_who_made_it():
    model, x = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid(), nn.Linear(2, 3)), torch.ones(5, 4)
    with opscope.trace(model, saved_for_backward=True) as trace:
        model(x)
    rows = {(k.layer, k.name): k for k in trace.saved_for_backward}
    sigmoid = rows["sigmoid_1_2", "result"]
    assert (sigmoid.made_by, sigmoid.kind, sigmoid.nbytes) == ("sigmoid_1_2", "activation", 40)
    assert (sigmoid.module, sigmoid.node) == ("1", "SigmoidBackward0")
    again = rows["linear_2_3", "mat1"]
    assert (again.made_by, again.shared) == ("sigmoid_1_2", True)
    assert rows["linear_1_1", "mat1"].kind == "outside"
    assert rows["linear_2_3", "mat2"].kind == "parameter"
    assert rows["linear_2_3", "mat2"].made_by == "2.weight"


def test_what_was_kept_before_the_block_is_not_listed():
    before = leaf().exp().sin()
    with opscope.trace(saved_for_backward=True) as trace:
        before + 2
        (before.cos() + 3).sum()
    assert {kept.node for kept in trace.saved_for_backward} == {"CosBackward0"}


def test_a_backward_in_the_block_takes_nothing_off_the_list():
    with opscope.trace(saved_for_backward=True) as trace:
        leaf().exp().sin().sum().backward()
    found = sorted(kept.node for kept in trace.saved_for_backward)
    assert found == ["ExpBackward0", "SinBackward0"]


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_a_checkpoint_keeps_what_it_is_given_and_no_more(reentrant):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), leaf(2, 4)
    with opscope.trace(model, saved_for_backward=True) as trace:
        checkpoint(model, x + 2, use_reentrant=reentrant)
    with opscope.trace(model, saved_for_backward=True) as plain:
        model(x + 2)
    kept, without = trace.saved_for_backward, plain.saved_for_backward
    assert kept.nbytes < without.nbytes
    if not reentrant:
        # Older torchs keep what a checkpoint is given as autograd does, later ones on their own.
        given = [row.made_by for row in kept if row.kind != "packed" and row.nbytes]
        assert given in ([], ["add_1_0"])
        assert kept.nbytes == (x.nbytes if given else 0)


def test_hooks_of_the_user_see_each_tensor_once_and_are_told_of_as_packed():
    calls = []

    def pack(tensor):
        calls.append(tensor)
        return len(calls) - 1

    with opscope.trace(saved_for_backward=True) as trace:
        x = leaf()
        with torch.autograd.graph.saved_tensors_hooks(pack, calls.__getitem__):
            y = x.exp().sin()
    assert len(calls) == 2
    assert [kept.kind for kept in trace.saved_for_backward] == ["packed", "packed"]
    y.sum().backward()
    assert torch.equal(x.grad, x.exp().cos().mul(x.exp()).detach())


@pytest.mark.parametrize("options", [{}, {"save": "all", "gradients": "all"}], ids=str)
def test_a_write_over_what_is_kept_is_still_refused(options, layers):
    x = leaf()
    with opscope.trace(saved_for_backward=True, layers=layers, **options):
        y = x.exp()
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_nothing_is_kept_alive_by_looking():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with witness.Mortality() as seen, opscope.trace(model, saved_for_backward=True) as trace:
        model(torch.rand(2, 4)).sum()
    assert seen.survivors() == []
    assert len(trace.saved_for_backward) > 2


def test_an_in_place_chain_is_kept_by_the_layers_that_wrote_it(layers):
    with opscope.trace(saved_for_backward=True, layers=layers) as trace:
        y = (leaf() * 1).sigmoid_().mul(3).tanh_()
    owners = {kept.node: kept.layer.partition("_")[0] for kept in trace.saved_for_backward}
    assert owners["SigmoidBackward0"] == "sigmoid"
    assert owners["TanhBackward0"] == "tanh"
    assert y.requires_grad
