"""Which calls are passes of one layer, in labels and in the rolled graph."""

import sys

import pytest
import torch
import torch.nn.functional as F
from tests import invariants, zoo
from torch import nn

import opscope


def traced(program, *args, **options):
    model = program if isinstance(program, nn.Module) else None
    with opscope.trace(model, **options) as trace:
        program(*args)
    invariants.check(trace)
    return trace


def passes(trace):
    """Return how many passes each layer has, by label, in order; inputs and outputs left out."""
    return {
        item.layer_label: item.passes
        for item in trace.passes
        if item.kind not in {"input", "output"}
    }


def rolled(trace):
    """Return which passes each node of the rolled graph stands for, inputs and outputs left out."""
    graph = trace.graph(level="layer", rolled=True, parameters=False, buffers=False)
    return {
        node: len(attributes["pass_list"])
        for node, attributes in graph.nodes(data=True)
        if attributes["layer"] and attributes["kind"] not in {"input", "output"}
    }


class Model(nn.Module):
    """A module whose forward is a function of it and its inputs."""

    def __init__(self, forward, **children):
        super().__init__()
        self._function = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args):
        return self._function(self, *args)


def growing(m, x):
    out = x
    for _ in range(3):
        out = torch.cat([out, x])
    return out


def constants(m, x):
    for number in range(3):
        x = x * number + number
    return x


def nested(m, x):
    for _ in range(2):
        for _ in range(3):
            x = x + 1
        x = x * 2
    return x


def two_lines(m, x):
    x = m.relu(x)
    x = x + 1
    return m.relu(x)


def shared_linear(m, x):
    x = m.fc(x)
    x = torch.relu(x)
    x = torch.tanh(x)
    return m.fc(x)


def shared_weight(m, x):
    x = F.linear(x, m.fc.weight, m.fc.bias)
    x = torch.relu(x)
    return F.linear(x, m.fc.weight, m.fc.bias)


def while_large(m, x):
    while x.sum() > 1:
        x = x / 2
    return x


def finally_after_continue(m, x):
    for number in range(4):
        try:
            if number % 2:
                continue
        finally:
            x = torch.relu(x)
    return x


def comprehension(m, x):
    return torch.stack([torch.relu(row) for row in x.unbind()])


def generator(m, x):
    return torch.stack(tuple(torch.relu(row) for row in x.unbind()))


def mapped(m, x):
    return torch.stack(list(map(torch.relu, x.unbind())))


def helper(x):
    return torch.relu(x)


def helper_on_one_line(m, x):
    return helper(helper(x))


def helper_on_two_lines(m, x):
    x = helper(x)
    return helper(x)


def helper_in_a_loop(m, x):
    for _ in range(2):
        x = helper(x)
    return x


def twice_on_one_line(m, x):
    return torch.relu(torch.relu(x))


def recursion(m, x, left=3):
    x = torch.relu(m.fc(x))
    return x if left == 0 else m(x, left - 1)


def early_exit(m, x):
    for block in m.blocks:
        x = block(x)
        if x.max() < 1:
            return x
    return m.head(x)


def branch(m, x):
    return torch.relu(x) if x.sum() > 0 else torch.tanh(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(self.fc(x)) + x


def with_blocks(m, x):
    for block in m.blocks:
        x = block(x)
    return x


def linear():
    return nn.Linear(3, 3)


def blocks():
    return nn.ModuleList(Block() for _ in range(3))


def same_twice():
    fc, relu = linear(), nn.ReLU()
    return nn.Sequential(fc, relu, fc, relu)


def weight_normed(bias):
    norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3, bias=bias))
    return Model(in_a_loop, fc=norm)


def in_a_loop(m, x):
    for _ in range(2):
        x = torch.relu(m.fc(x))
    return x


# Before it, code knows no columns, and what is compiled twice is two places.
HAS_COLUMNS = sys.version_info >= (3, 11)
needs_columns = pytest.mark.skipif(not HAS_COLUMNS, reason="needs Python 3.11")

CASES = {
    "the article's loop": (
        zoo.SimpleRecurrent,
        torch.rand(6, 5),
        {"linear_1_1": 4, "add_1_2": 4, "mul_1_3": 4},
    ),
    "a loop whose shapes grow": (lambda: Model(growing), torch.rand(2, 3), {"cat_1_1": 3}),
    "a loop whose constants change": (
        lambda: Model(constants),
        torch.rand(2),
        {"mul_1_1": 3, "add_1_2": 3},
    ),
    "nested loops": (lambda: Model(nested), torch.rand(2), {"add_1_1": 6, "mul_1_2": 2}),
    "blocks with their own weights": (
        lambda: Model(with_blocks, blocks=blocks()),
        torch.rand(2, 3),
        {
            "linear_1_1": 1, "relu_1_2": 1, "add_1_3": 1,
            "linear_2_4": 1, "relu_2_5": 1, "add_2_6": 1,
            "linear_3_7": 1, "relu_3_8": 1, "add_3_9": 1,
        },
    ),
    "one relu module called on two lines": (
        lambda: Model(two_lines, relu=nn.ReLU()),
        torch.rand(2),
        {"relu_1_1": 1, "add_1_2": 1, "relu_2_3": 1},
    ),
    "a shared linear called on two lines": (
        lambda: Model(shared_linear, fc=linear()),
        torch.rand(2, 3),
        {"linear_1_1": 2, "relu_1_2": 1, "tanh_1_3": 1},
    ),
    "a weight used by two calls of a function": (
        lambda: Model(shared_weight, fc=linear()),
        torch.rand(2, 3),
        {"linear_1_1": 2, "relu_1_2": 1},
    ),
    "the same modules twice in a Sequential": (
        same_twice,
        torch.rand(2, 3),
        {"linear_1_1": 2, "relu_1_2": 2},
    ),
    "a recursive module": (
        lambda: Model(recursion, fc=linear()),
        torch.rand(2, 3),
        {"linear_1_1": 4, "relu_1_2": 4},
    ),
    "a finally block that is reached in two ways": (
        lambda: Model(finally_after_continue),
        torch.rand(2),
        {"relu_1_1": 4},
    ),
    "a comprehension": (
        lambda: Model(comprehension),
        torch.rand(4, 2),
        {"unbind_1_1": 1, "relu_1_2": 4, "stack_1_3": 1},
    ),
    "a generator": (
        lambda: Model(generator),
        torch.rand(4, 2),
        {"unbind_1_1": 1, "relu_1_2": 4, "stack_1_3": 1},
    ),
    "a map": (
        lambda: Model(mapped),
        torch.rand(4, 2),
        {"unbind_1_1": 1, "relu_1_2": 4, "stack_1_3": 1},
    ),
    "a helper called twice on one line": (
        lambda: Model(helper_on_one_line),
        torch.rand(2),
        {"relu_1_1": 1, "relu_2_2": 1},
    ),
    "a helper called on two lines": (
        lambda: Model(helper_on_two_lines),
        torch.rand(2),
        {"relu_1_1": 1, "relu_2_2": 1},
    ),
    "a helper called in a loop": (
        lambda: Model(helper_in_a_loop),
        torch.rand(2),
        {"relu_1_1": 2},
    ),
    "a function called twice on one line": (
        lambda: Model(twice_on_one_line),
        torch.rand(2),
        {"relu_1_1": 1, "relu_2_2": 1},
    ),
    "a weight-normed linear in a loop": (
        lambda: weight_normed(bias=True),
        torch.rand(2, 3),
        {"weightnorm_1_1": 2, "linear_1_2": 2, "relu_1_3": 2},
    ),
    "a weight-normed linear without bias in a loop": (
        lambda: weight_normed(bias=False),
        torch.rand(2, 3),
        {"weightnorm_1_1": 2, "linear_1_2": 2, "relu_1_3": 2},
    ),
}  # fmt: skip
if not HAS_COLUMNS:
    del CASES["a finally block that is reached in two ways"]


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    build, x, expected = request.param
    return traced(build(), x), expected


def test_a_pass_is_a_visit_to_a_place_or_to_parameters(case):
    trace, expected = case
    assert passes(trace) == expected


def test_the_rolled_graph_has_one_node_per_layer(case):
    trace, expected = case
    assert rolled(trace) == expected


def test_passes_are_numbered_in_the_order_of_execution(case):
    trace, expected = case
    for label, count in expected.items():
        shown = [name for name in trace.layer_labels if name.partition(":")[0] == label]
        wanted = [label] if count == 1 else [f"{label}:{n}" for n in range(1, count + 1)]
        assert shown == wanted


def test_both_numbers_of_a_label_advance_at_first_passes_only(case):
    trace, _ = case
    firsts = [item for item in trace.passes if item.number == 1]
    assert [item.layer for item in firsts] == list(range(len(firsts)))
    for kind in {item.type for item in firsts}:
        numbers = [item.type_number for item in firsts if item.type == kind]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_loops_rolled_graph_goes_round():
    graph = traced(zoo.SimpleRecurrent(), torch.rand(6, 5)).graph(
        level="layer", rolled=True, parameters=False
    )
    edges = {
        (source, target): (data["out_passes"], data["in_passes"])
        for source, target, data in graph.edges(data=True)
    }
    everywhere = [1, 2, 3, 4]
    assert edges == {
        ("input_1_0", "linear_1_1"): ([1], [1]),
        ("linear_1_1", "add_1_2"): (everywhere, everywhere),
        ("add_1_2", "mul_1_3"): (everywhere, everywhere),
        ("mul_1_3", "linear_1_1"): ([1, 2, 3], [2, 3, 4]),
        ("mul_1_3", "output_1_4"): ([4], [1]),
    }


def test_the_relus_of_a_resnet_are_two_layers_in_each_block():
    program = zoo.shared("resnet18")
    trace = traced(program.module, *program.args)
    found = {item.layer_label: item.passes for item in trace.passes if item.type == "relu"}
    assert list(found.values()) == [1] * 17
    assert trace["layer1.0.relu:1"] is not trace["layer1.0.relu:2"]


@needs_columns
@pytest.mark.parametrize(("start", "count"), [(0.5, 0), (1.5, 1), (50.0, 6)])
def test_a_while_loop_has_as_many_passes_as_it_ran(start, count):
    trace = traced(Model(while_large), torch.tensor([start]))
    found = passes(trace)
    halvings = {label: n for label, n in found.items() if label.startswith("div")}
    assert list(halvings.values()) == ([count] if count else [])
    sums = [n for label, n in found.items() if label.startswith("sum")]
    assert sums == [count + 1]


@pytest.mark.parametrize(("scale", "ran"), [(0.0, 1), (1e6, 3)])
def test_an_early_exit_leaves_out_what_did_not_run(scale, ran):
    model = Model(
        early_exit, blocks=nn.ModuleList(nn.Hardtanh(-9e9, 9e9) for _ in range(3)), head=linear()
    )
    trace = traced(model, torch.full((2, 3), scale))
    assert sum(item.type == "hardtanh" for item in trace.passes) == ran
    assert ("linear" in {item.type for item in trace.passes}) == (ran == 3)


@pytest.mark.parametrize(("x", "taken"), [(1.0, "relu"), (-1.0, "tanh")])
def test_a_branch_shows_the_side_that_ran(x, taken):
    types = {item.type for item in traced(Model(branch), torch.tensor([x])).passes}
    assert types & {"relu", "tanh"} == {taken}


def test_a_second_call_of_the_model_is_a_second_pass_wherever_it_is_called():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    small, large = torch.rand(2, 3), torch.rand(4, 3)
    with opscope.trace(model) as trace:
        model(small)
        model(large)
    assert trace.layer_labels == [
        "input_1_0:1", "linear_1_1:1", "relu_1_2:1", "output_1_3:1",
        "input_1_0:2", "linear_1_1:2", "relu_1_2:2", "output_1_3:2",
    ]  # fmt: skip
    assert trace["relu_1:1"].shape == (2, 3)
    assert trace["relu_1:2"].shape == (4, 3)


def test_a_module_under_two_names_is_looked_up_by_either():
    trace = traced(same_twice(), torch.rand(2, 3))
    assert trace["0:2"] is trace["2:2"] is trace["linear_1_1:2"]
    assert trace["1:1"] is trace["3:1"] is trace["relu_1_2:1"]


def test_a_loop_of_bare_code_folds():
    with opscope.trace() as trace:
        x = torch.ones(2)
        for _ in range(3):
            x = x * 2
        x = x + 1
    assert passes(trace) == {"ones_1_0": 1, "mul_1_1": 3, "add_1_2": 1} == rolled(trace)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (zoo.SimpleRecurrent, {"t": 4, "addmm": 4, "add": 4, "mul": 4}),
        (lambda: Model(shared_linear, fc=nn.Linear(5, 5)), {"t": 2, "addmm": 2, "relu": 1, "tanh": 1}),
    ],
    ids=["the article's loop", "a shared linear"],
)  # fmt: skip
def test_without_layers_operators_are_named_and_folded_alike(build, expected):
    with torch.no_grad():
        trace = traced(build(), torch.rand(6, 5), layers=False)
    found = passes(trace)
    assert {
        label.rpartition("_")[0].rpartition("_")[0]: n for label, n in found.items()
    } == expected
    assert len(found) == len(expected)
    assert rolled(trace) == found


@pytest.fixture(scope="module")
def generation():
    """Tokens from GPT-2 with a cache, without and with a trace, and the trace."""
    zoo._torchvision()  # transformers imports torchvision
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=49, pad_token_id=49,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(1, 49, (1, 5))

    def generate():
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=8, min_new_tokens=8, use_cache=True,
        )  # fmt: skip

    plain = generate()
    with opscope.trace(model) as trace:
        tokens = generate()
    return plain, tokens, trace


def test_generated_tokens_are_those_of_an_untraced_run(generation):
    plain, tokens, _ = generation
    assert tokens.shape == (1, 13)
    assert torch.equal(plain, tokens)


def test_each_layer_with_parameters_has_one_pass_per_generated_token(generation):
    *_, trace = generation
    found = {item.layer_label: item.passes for item in trace.passes if item.parameters}
    assert set(found.values()) == {8}
    assert len(found) == 1 + 1 + 2 * 6 + 1 + 1  # tokens, positions, blocks, last norm, head


def test_a_generation_rolls_into_the_graph_of_one_step(generation):
    *_, trace = generation
    assert rolled(trace) == passes(trace)
    once = {layer for layer in trace if (layer.module or "").startswith("transformer.h.")}
    once = {layer for layer in once if layer.passes != 8}
    # each block's cache starts with an empty tensor for keys and one for values
    assert sorted(layer.module for layer in once) == [
        f"transformer.h.{i}.attn" for i in (0, 0, 1, 1)
    ]
    assert {layer.shape for layer in once} == {(0,)}
