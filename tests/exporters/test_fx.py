"""The record as a `torch.fx` program computes what the model does, on new inputs too."""

import copy
import gc

import pytest
import torch
from tests import invariants, zoo
from tests.exporters.fx.compare import check_same
from tests.witness import line_of, tensors
from torch import nn
from torch.fx.passes.graph_drawer import FxGraphDrawer
from torch.utils._pytree import tree_leaves, tree_map

import opscope
from opscope.capture.log.containers import tensors_of


def program_of(model, *args, **kwargs):
    with torch.no_grad(), opscope.trace(model) as trace:
        model(*args, **kwargs)
    invariants.check(trace)
    return trace.to_fx()


def placeholders(program):
    return [node.target for node in program.graph.nodes if node.op == "placeholder"]


def ops(program):
    return [
        str(node.target)
        for node in program.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.")
    ]


def fresh(tensor):
    """Return other numbers in the same form; a mask stays all ones."""
    if tensor.is_floating_point():
        return torch.rand_like(tensor)
    return torch.randint(2, tensor.shape) if tensor.max() > 1 else tensor.clone()


class Holder(nn.Module):
    """A module that runs a function of one or more tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = nn.Linear(3, 3)

    def forward(self, x, other=None, *rest, scale=None, **more):
        given = [v for v in (other, *rest, scale, *more.values()) if v is not None]
        return self.function(self, x, *given)


@pytest.fixture
def x():
    return torch.rand(4, 3)


# ------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module", params=["resnet18", "gpt2", "lstm", "encoder", "vit", "recurrent"])
def exported(request):
    program = zoo.build(request.param)
    return program, program_of(program.module, *program.args, **program.kwargs)


def test_a_program_computes_the_same_as_the_model_on_new_inputs(exported):
    program, module = exported
    args, kwargs = tree_map(fresh, (program.args, program.kwargs))
    with torch.no_grad():
        old, new = program.run(), program.call(*args, **kwargs)
        found = tensors(module(*args, **kwargs))

    expected, before = (tensors_of(value) for value in (new, old))
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found, before, strict=True))


REAL = ["resnet18", "googlenet", "gpt2", "vit", "lstm", "encoder"]


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", REAL)
def test_gradients_and_buffers_are_the_models_bit_for_bit(name, training, grad):
    if name == "encoder" and not training and not grad:
        pytest.skip("a fused kernel without a derivative")
    program = zoo.build(name, training=training)
    with torch.set_grad_enabled(grad), opscope.trace(program.module) as trace:
        program.run()
    module = trace.to_fx()
    args, kwargs = tree_map(fresh, (program.args, program.kwargs))

    check_same(program.module, module, *args, **kwargs)


def test_a_fused_kernel_without_a_derivative_says_so_where_it_is_differentiated():
    program = zoo.build("encoder")
    module = program_of(program.module, *program.args)

    with pytest.raises(RuntimeError, match="derivative for aten::_transformer_encoder_layer_fwd"):
        module(*program.args).sum().backward()


def test_the_outputs_of_a_model_in_training_are_a_tuple_for_its_named_tuple():
    program = zoo.build("googlenet", training=True)
    logits, second, first = program_of(program.module, *program.args)(*program.args)

    assert logits.shape == second.shape == first.shape == (2, 1000)


def test_the_output_of_a_transformer_is_a_dictionary_with_its_keys_and_its_cache():
    program = zoo.build("gpt2")
    found = program_of(program.module, **program.kwargs)(**program.kwargs)
    expected = program.run()

    assert list(found) == list(expected)
    cache = zoo.cache_name(program.module)
    for mine, theirs in zip(found[cache]["layers"], expected[cache].layers, strict=True):
        assert torch.equal(mine["keys"], theirs.keys)
        assert torch.equal(mine["values"], theirs.values)


def test_a_second_run_gives_the_same_as_the_first(exported):
    program, module = exported
    with torch.no_grad():
        first = tensors(module(*program.args, **program.kwargs))
        second = tensors(module(*program.args, **program.kwargs))

    assert len(first) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_parameters_and_buffers_are_the_models_own_under_their_names(exported):
    program, module = exported
    expected = program.module.state_dict(keep_vars=True)
    expected |= dict(program.module.named_buffers())
    found = {
        name: tensor
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if not name.startswith("_constant_")
    }

    assert found.keys() >= dict(program.module.named_parameters()).keys() - UNUSED
    assert all(tensor is expected[name] for name, tensor in found.items())


UNUSED = {"embeddings.mask_token"}


def test_the_graph_is_in_order_and_compiles_and_prints(exported):
    _, module = exported
    module.graph.lint()
    module.recompile()

    assert "torch.ops.aten" in module.code
    assert "def forward(self" in module.print_readable(print_output=False)


def test_every_call_knows_its_op_its_modules_and_its_source(exported):
    program, module = exported
    addresses = dict(program.module.named_modules())
    calls = [node for node in module.graph.nodes if "opscope_op" in node.meta]
    numbers = [node.meta["opscope_op"] for node in calls]

    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1
    for node in calls:
        stack = [*node.meta["nn_module_stack"].values()]
        assert stack[0] == ("", type(program.module).__name__)
        assert all(type(addresses[a]).__name__ == class_name for a, class_name in stack)
        assert 'File "' in node.meta["stack_trace"]


def test_the_drawer_of_torch_draws_it():
    program = zoo.build("recurrent")
    module = program_of(program.module, *program.args)
    dot = FxGraphDrawer(module, "Net").get_dot_graph()

    assert len(dot.get_nodes()) >= len(module.graph.nodes)


def test_a_copy_runs_and_shares_nothing(x):
    model = nn.Linear(3, 2)
    module = copy.deepcopy(program_of(model, x))

    assert torch.equal(module(x), model(x))
    assert module.weight is not model.weight


# ------------------------------------------------------------------- inputs and outputs


SUM = {
    "one": (lambda m, x: x + 1, lambda x: ((x,), {}), ["x"]),
    "two": (lambda m, x, y: x - y, lambda x: ((x, x * 2), {}), ["x", "other"]),
    "by name": (lambda m, x, y: x - y, lambda x: ((), {"other": x * 2, "x": x}), ["x", "other"]),
    "keyword only": (lambda m, x, y: x - y, lambda x: ((x,), {"scale": x * 2}), ["x", "scale"]),
    "more positions": (
        lambda m, x, a, b, c: x - a * b - c,
        lambda x: ((x, x + 1, x + 2, x + 3), {}),
        ["x", "other", "rest_0", "rest_1"],
    ),
    "more positions and a keyword": (
        lambda m, x, a, b, c: x - a * b - c,
        lambda x: ((x, x + 1, x + 2), {"scale": x + 3}),
        ["x", "other", "rest_0", "scale"],
    ),
    "more names": (lambda m, x, y: x - y, lambda x: ((x,), {"extra": x * 2}), ["x", "extra"]),
    "nested": (
        lambda m, x, y: x - y[0] * y[1]["k"],
        lambda x: ((x, (x + 1, {"k": x * 2})), {}),
        ["x", "other_0", "other_1_k"],
    ),
    "names that are none": (
        lambda m, x, y: x - y["a.b"] - y["c d"],
        lambda x: ((x, {"a.b": x + 1, "c d": x * 2}), {}),
        ["x", "other_a_b", "other_c_d"],
    ),
    "names that meet": (
        lambda m, x, y, z: x - y["k"] * z,
        lambda x: ((x, {"k": x + 1}), {"other_k": x * 2}),
        ["x", "other_k", "other_k_1"],
    ),
    "the same tensor twice": (lambda m, x, y: x - 2 * y, lambda x: ((x, x), {}), ["x", "other"]),
    "a view of the other": (
        lambda m, x, y: x.add(1) - y,
        lambda x: ((x, x[0]), {}),
        ["x", "other"],
    ),
    "not used": (lambda m, x, y: x + 1, lambda x: ((x, x * 2), {}), ["x", "other"]),
}


@pytest.mark.parametrize(("function", "inputs", "names"), SUM.values(), ids=SUM)
def test_placeholders_are_named_after_the_parameters_of_forward(function, inputs, names, x):
    model = Holder(function)
    args, kwargs = inputs(x)
    program = program_of(model, *args, **kwargs)
    args, kwargs = inputs(torch.rand(4, 3))
    given = kwargs if not args else dict(zip(names, tree_leaves((args, kwargs)), strict=True))

    assert placeholders(program) == names
    assert torch.equal(program(**given), model(*args, **kwargs))
    assert torch.equal(program(*(given[name] for name in names)), model(*args, **kwargs))


OUTPUTS = {
    "one": lambda m, x: m.fc(x),
    "itself": lambda m, x: x,
    "tuple": lambda m, x: (m.fc(x), x + 1),
    "tuple of one": lambda m, x: (m.fc(x),),
    "one twice": lambda m, x: (m.fc(x),) * 2,
    "dict": lambda m, x: {"b": m.fc(x), "a": x + 1},
    "dict of one": lambda m, x: {"b": m.fc(x)},
    "dict of tuples": lambda m, x: {"a": (m.fc(x), x + 1), "b": {"c": x + 2}},
    "tuple of tuples": lambda m, x: (m.fc(x), (x + 1, x + 2)),
    "tuple of dicts": lambda m, x: ({"a": m.fc(x)}, {"a": x + 1}),
    "absent": lambda m, x: (m.fc(x), None, x + 1),
}


@pytest.mark.parametrize("function", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_are_nested_as_the_models_are(function, x):
    model = Holder(function)
    new = torch.rand(4, 3)
    expected, found = model(new), program_of(model, x)(new)

    assert tree_map(type, found) == tree_map(type, expected)
    assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))


def test_an_input_made_in_the_block_is_still_an_input():
    model = Holder(lambda m, x: m.fc(x))
    with torch.no_grad(), opscope.trace(model) as trace:
        model(torch.rand(4, 3) * 2)
        new = torch.rand(4, 3)
    program = trace.to_fx()

    assert torch.equal(program(new), model(new))
    assert "aten.rand.default" not in ops(program)


def test_a_block_without_a_model_is_a_program_of_what_it_took_and_left(x):
    with opscope.trace() as trace:
        y = x + 1
        y * 2, y * 3
    found = trace.to_fx()(torch.ones(4, 3))

    assert [t.unique().tolist() for t in found] == [[4], [6]]


# ------------------------------------------------------------------------ what is inside


def write_and_view(model, x):
    y = model.fc(x)
    view = y.view(-1)  # <- view
    y.add_(1)
    view[:3].mul_(2)
    return view * y.reshape(-1)


def write_lists(model, x):
    parts = [x + 0, x + 1]
    torch._foreach_mul_(parts, 2.0)
    return parts[0] - parts[1] * torch.stack(x.split(2)).max(1).values.sum()


def write_out(model, x):
    out = torch.zeros(4, 3)
    torch.add(x, x, out=out)
    return out * torch.empty(3).fill_(2)


def write_inputs(model, x):
    x = x.clone()
    x[x > 0.5] = 0
    x[0].add_(1)
    return x.masked_fill(x > 1, float("-inf"))


@pytest.mark.parametrize("function", [write_and_view, write_lists, write_out, write_inputs])
def test_writes_keep_their_order(function, x):
    model = Holder(function)
    program = program_of(model, x)
    new = torch.rand(4, 3)

    assert torch.equal(program(new), model(new))
    assert torch.equal(program(new), model(new)), "the second run"


def test_a_calls_stack_trace_ends_at_its_line(x):
    program = program_of(Holder(write_and_view), x)
    node = next(n for n in program.graph.nodes if str(n.target) == "aten.view.default")
    file, line = line_of(write_and_view, "view")

    assert node.meta["stack_trace"].splitlines()[-1] == (
        f'  File "{file}", line {line}, in write_and_view'
    )


OUTER = torch.arange(3.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.tensor([1.0, 2.0, 3.0]).add_(1),
        lambda m, x: x * torch.tensor(2.0).mul_(3),
        lambda m, x: x * OUTER,
    ],
    ids=["list", "number", "from outside"],
)
def test_a_constant_survives_and_is_the_same_at_the_second_run(function, x):
    model = Holder(function)
    program = program_of(model, x)
    gc.collect()
    expected = model(x)

    assert torch.equal(program(x), expected)
    assert torch.equal(program(x), expected), "the second run"
    (name,) = [name for name, _ in program.named_buffers()]
    assert name.startswith("_constant_")


def test_a_model_that_changes_a_buffer_changes_it_in_the_program_too(x):
    model = nn.BatchNorm1d(3)
    program = program_of(model, x)
    before = model.running_mean.clone()
    program(x + 1)

    assert program.running_mean is model.running_mean
    assert not torch.equal(model.running_mean, before)


def test_tied_weights_are_one_parameter_under_their_first_name(x):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    program = program_of(model, x)

    assert [name for name, _ in program.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert torch.equal(program(x), model(x))


def test_what_runs_after_the_model_is_no_part_of_the_program(x):
    """An optimizer's step would change the model at every run."""
    model = nn.Linear(3, 3)
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    with opscope.trace(model) as trace:
        model(x).sum().backward()
        steps.step()
    program, before = trace.to_fx(), model.weight.clone()

    assert torch.equal(program(x), model(x))
    assert torch.equal(model.weight, before)
    assert not [name for name in ops(program) if "add_" in name]


@pytest.mark.parametrize(
    ("function", "operator", "reason"),
    [
        (lambda m, x: x * x.sum().item(), "aten._local_scalar_dense.default", "number"),
        (lambda m, x: x + 1 if x.sum() > 0 else x, "aten._local_scalar_dense.default", "number"),
        (lambda m, x: x.nonzero(), "aten.nonzero.default", "shape"),
        (lambda m, x: x[x > 0.5], "aten.index.Tensor", "shape"),
        (lambda m, x: x.masked_select(x > 0.5), "aten.masked_select.default", "shape"),
        (lambda m, x: x.unique(), "aten._unique2.default", "shape"),
        (
            lambda m, x: x.repeat_interleave(torch.tensor([1, 2, 1, 1]), 0),
            "aten.repeat_interleave.Tensor",
            "shape",
        ),
    ],
    ids=["item", "if", "nonzero", "mask", "masked_select", "unique", "repeat_interleave"],
)
def test_what_the_data_decided_is_listed_as_baked(function, operator, reason, x):
    program = program_of(Holder(function), x)
    (baked,) = program.meta["baked"]

    assert baked["operator"] == operator
    assert reason in baked["reason"]
    assert baked["op"] in {node.meta.get("opscope_op") for node in program.graph.nodes}


@pytest.mark.parametrize("index", [0, slice(1, 3), torch.tensor([0, 2])], ids=str)
def test_what_the_data_did_not_decide_is_not_listed_as_baked(index, x):
    program = program_of(Holder(lambda m, x: m.fc(x)[index]), x)

    assert program.meta["baked"] == []


# ------------------------------------------------------------------------------- errors


def test_several_calls_of_the_model_are_an_error_that_counts_them(x):
    model = nn.Linear(3, 3)
    with opscope.trace(model) as trace:
        model(model(x))

    with pytest.raises(opscope.TraceStateError, match="called 2 times"):
        trace.to_fx()


def test_a_failed_trace_is_an_error(x):
    model = nn.Linear(5, 3)
    trace = opscope.trace(model)
    with pytest.raises(RuntimeError), trace:
        model(x)

    with pytest.raises(opscope.TraceStateError, match="failed"):
        trace.to_fx()


@pytest.mark.parametrize("replayable", [False, True])
def test_a_model_that_is_gone_is_an_error_unless_its_parameters_were_kept(replayable, x):
    model = nn.Linear(3, 3)
    with torch.no_grad(), opscope.trace(model, replayable=replayable) as trace:
        y = model(x)
    del model
    gc.collect()

    if replayable:
        assert torch.equal(trace.to_fx()(x), y)
    else:
        with pytest.raises(opscope.NotSaved, match="'weight' is gone; keep the model alive"):
            trace.to_fx()


def test_a_generator_is_an_error_that_names_the_op(x):
    own = torch.Generator().manual_seed(1)
    model = Holder(lambda m, x: x + torch.rand(3, generator=own))

    with pytest.raises(opscope.TraceStateError, match=r"op 0, aten\.rand\.generator,.*generator"):
        program_of(model, x)
