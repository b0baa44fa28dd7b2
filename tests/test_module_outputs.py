"""What a module or a layer gave is what a forward hook sees, however it was filled."""

import html
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tests import invariants, witness, zoo
from torch import nn

import opscope
from opscope import AmbiguousLayer, LayerNotFound, NotSaved

X = torch.arange(1.0, 7.0).reshape(2, 3)


class Lambda(nn.Module):
    """Computes with a function of its own."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("cache", torch.zeros(2, 8))

    def forward(self, x):
        return self.function(self, x)


class Net(nn.Module):
    def __init__(self, function, after=lambda x: x):
        super().__init__()
        self.before, self.part, self.head = nn.Linear(3, 3), Lambda(function), nn.Linear(8, 1)
        self.after = after

    def forward(self, x):
        return self.head(self.after(self.part(self.before(x))))


def by_slice(self, x):
    out = torch.zeros(2, 8)
    out[:, :3] = x
    return out


def by_two_slices(self, x):
    out = torch.ones(2, 8)
    out[:, :3] = x
    out[:, 3:6] = -x
    return out


def by_copy(self, x):
    out = x.new_empty(2, 8).fill_(0.5)
    out[:, 5:].copy_(x)
    return out


def by_index(self, x):
    out = torch.zeros(2, 8)
    out.index_copy_(1, torch.tensor([0, 2, 4]), x)
    out[0].neg_()
    return out


def by_mask(self, x):
    out = torch.cat([x, x, x[:, :2]], 1) * 1
    out[:, 2:].masked_fill_(out[:, 2:] > 0, 7.0)
    return out


def by_out(self, x):
    out = torch.zeros(2, 8)
    torch.mul(x.detach(), 2, out=out[:, 1:4])
    return out


def by_foreach(self, x):
    out = torch.zeros(2, 8)
    torch._foreach_add_([out[0, :3], out[1, :3]], [x[0], x[1]])
    return out


def into_a_buffer(self, x):
    self.cache[:, 2:5] = x.detach()
    return self.cache


def through_a_flat_view(self, x):
    out = torch.zeros(2, 8)
    out.view(-1)[3:9] = x.reshape(-1)
    return out


def through_data(self, x):
    out = torch.zeros(2, 8)
    out.data[:, :3].add_(x.detach())
    return out


def through_a_transpose(self, x):
    out = torch.zeros(2, 8)
    out.t()[:3] += x.t()
    return out


def in_a_loop(self, x):
    out = torch.zeros(2, 8)
    for i in range(3):
        out[:, i] = x[:, i] * i
        out[:, i + 1] += 1
    return out


def by_parts(self, x):
    out = torch.zeros(2, 8)
    for part in (out.narrow(1, 0, 4), out.select(0, 1)):
        part[..., :3].add_(x.mean())
    return out


FILLED = [
    by_slice, by_two_slices, by_copy, by_index, by_mask, by_out, by_foreach, into_a_buffer,
    through_a_flat_view, through_data, through_a_transpose, in_a_loop, by_parts,
]  # fmt: skip


@pytest.mark.parametrize("fill", FILLED, ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("after", [lambda x: x, lambda x: F.relu(x * 1, inplace=True)])
def test_a_module_that_fills_a_tensor_gave_it_filled(fill, after, layers):
    model = Net(fill, after)
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save="all", layers=layers) as trace:
        model(X)
    wrong, asked = hooks.differences(trace)
    assert (wrong, asked) == ([], 3)
    with opscope.trace(model, save=["part"], layers=layers) as chosen:
        model(X)
    assert torch.equal(chosen["part"].activation, trace["part"].activation)
    invariants.check(trace)


@pytest.mark.parametrize("fill", FILLED, ids=lambda fill: fill.__name__)
def test_it_stays_what_it_was_when_the_next_module_writes_it(fill):
    model = Net(fill, lambda x: x.mul_(3).relu_())
    hooks = witness.OutputWitness(model, everywhere=True)
    with torch.no_grad(), hooks, opscope.trace(model, save="all") as trace:
        model(X)
    assert hooks.differences(trace) == ([], 3)


@pytest.mark.parametrize("fill", FILLED, ids=lambda fill: fill.__name__)
def test_its_gradient_is_that_of_the_filled_tensor(fill):
    model, seen = Net(fill), {}

    def listen(module, given, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.setdefault("gradient", gradient.clone()))

    model.part.register_forward_hook(listen)
    with opscope.trace(model, gradients="all") as trace:
        model(X).square().sum().backward()
    if "gradient" in seen:
        assert torch.equal(trace["part"].gradient, seen["gradient"])
    else:
        with pytest.raises(NotSaved, match="no gradient has reached"):
            _ = trace["part"].gradient
    with opscope.trace(model, gradients=["part"]) as chosen:
        model(X).square().sum().backward()
    assert chosen["part"].has_gradient == ("gradient" in seen)


@pytest.mark.parametrize("fill", FILLED, ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("training", [False, True])
def test_a_record_of_it_is_valid_and_has_one_output(fill, training):
    model = Net(fill)
    with torch.set_grad_enabled(training), opscope.trace(model, replayable=True) as trace:
        out = model(X)
        if training:
            out.sum().backward()
    report = trace.validate()
    assert report, str(report)
    assert report.outputs == 1


# ------------------------------------------------------------- what layers gave that return nothing


def assigned(y):
    y[:, 1:] = 3.0


def assigned_by_mask(y):
    y[y > 2] = 0.0


def assigned_itself(y):
    y[0] = y[1]


def deleted(y):
    y.__setitem__((0, 1), torch.tensor(9.0))


@pytest.mark.parametrize("write", [assigned, assigned_by_mask, assigned_itself, deleted])
def test_an_assignment_gives_the_tensor_that_it_wrote(write, layers):
    y, expected = X.clone(), X.clone()
    write(expected)
    with opscope.trace(save="all", layers=layers) as trace:
        write(y)
    if layers:
        assert [layer.type for layer in trace][-2:] == ["setitem", "output"]
        assert torch.equal(trace["setitem_1"].activation, expected)
        assert trace["setitem_1"].shape == (2, 3)
        rows = str(trace.summary("layer", columns=["name", "output"]))
        assert "f32[2, 3]" in rows.partition("setitem_1")[2].splitlines()[0]
    assert torch.equal(y, expected)


def test_each_of_several_assignments_gives_what_there_was_then():
    y = torch.zeros(3)
    with opscope.trace(save="all") as trace:
        for i in range(3):
            y[i] = i + 1.0
    assert [layer.activation.tolist() for layer in trace if layer.type == "setitem"] == [
        [1, 0, 0], [1, 2, 0], [1, 2, 3],
    ]  # fmt: skip


def test_a_foreach_function_gives_all_that_it_wrote():
    xs = [torch.ones(2), torch.ones(3)]
    with opscope.trace(save="all") as trace:
        torch._foreach_copy_(xs, [torch.zeros(2), torch.full((3,), 2.0)])
    assert [t.tolist() for t in trace["foreachcopy_1"].activation] == [[0, 0], [2, 2, 2]]


# ------------------------------------------------------------------------- several outputs


class Pair(NamedTuple):
    p: Any
    q: Any


@dataclass
class Data:
    p: Any
    q: Any
    note: str = "x"


class Backbone(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.fine, self.coarse, self.make = nn.Linear(3, 4), nn.Linear(4, 5), make

    def forward(self, x):
        p = self.fine(x).relu()
        return self.make(p, self.coarse(p).tanh())


class User(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.backbone = Backbone(make)

    def forward(self, x):
        given = self.backbone(x)
        p, q = witness.tensors_of(given)
        return p.sum() + (q * q).sum()


CONTAINERS = {
    "dictionary": (lambda p, q: {"p": p, "q": q}, ["p", "q"]),
    "ordered": (lambda p, q: OrderedDict(p=p, q=q), ["p", "q"]),
    "tuple": (lambda p, q: (p, q), ["0", "1"]),
    "list": (lambda p, q: [p, q], ["0", "1"]),
    "named tuple": (Pair, ["p", "q"]),
    "data class": (Data, ["p", "q"]),
    "nested": (lambda p, q: {"a": [p], "b": {"c": (q, None)}}, ["a.0", "b.c.0"]),
}


@pytest.mark.parametrize(("make", "paths"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_module_that_gives_several_tensors_has_all_of_them(make, paths):
    model = User(make)
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save=["backbone"], gradients=["backbone"]) as trace:
        model(X).backward()
    p, q = hooks.seen["backbone", 1]
    assert [layer.type for layer in trace if layer.is_saved] == ["relu", "tanh"]
    assert trace.layer_labels == [trace["relu"].label, trace["tanh"].label]
    given = trace["backbone"]
    assert list(given.paths) == paths
    assert torch.equal(given.activation[0], p)
    assert torch.equal(given.activation[1], q)
    for path, layer, tensor in zip(paths, ("relu", "tanh"), (p, q), strict=True):
        assert trace[f"backbone.{path}"] is trace[layer]
        assert torch.equal(trace[f"backbone.{path}"].activation, tensor)
    assert torch.equal(given.gradient[1], trace["tanh"].gradient)
    assert torch.equal(given.gradient[1], 2 * q)
    assert trace["relu"].output_of == ("backbone",)
    assert [value.shape for value in given.outputs] == [(2, 4), (2, 5)]
    assert (
        given.ops == trace["fine"].ops + trace["relu"].ops + trace["coarse"].ops + trace["tanh"].ops
    )
    assert [layer.type for layer in given.children] == ["sum", "mul"]
    assert "backbone" in given.lookup_keys


@pytest.mark.parametrize(("make", "paths"), CONTAINERS.values(), ids=CONTAINERS)
def test_the_graph_has_all_that_a_module_gives(make, paths):
    model = User(make)
    with opscope.trace(model) as trace:
        model(X)
    node = trace.graph("module", depth=1).nodes["@backbone"]
    assert node["shapes"] == [[2, 4], [2, 5]]
    assert node["paths"] == paths


def test_one_output_of_a_module_can_be_saved_by_its_path():
    model = User(lambda p, q: {"p": p, "q": q})
    with opscope.trace(model, save=["backbone.q"]) as trace:
        model(X)
    assert trace.layer_labels == [trace["tanh"].label]
    assert trace["backbone.q"].activation.shape == (2, 5)
    with pytest.raises(NotSaved):
        _ = trace["backbone"].activation


def test_inputs_and_outputs_of_the_model_are_found_by_their_paths():
    class Two(nn.Module):
        def forward(self, batch, *, scale):
            return {"sum": batch["a"] + batch["b"], "scaled": batch["a"] * scale}

    model = Two()
    with opscope.trace(model) as trace:
        model({"a": X, "b": X * 2}, scale=X)
    assert trace["input.0.b"] is trace["input_2"]
    assert trace["input.scale"] is trace["input_3"]
    assert trace["output.scaled"] is trace["output_2"]


def test_several_runs_of_such_a_module_are_asked_for_by_number():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone(lambda p, q: (p, q))

        def forward(self, x):
            return self.backbone(x)[0].sum() + self.backbone(x + 1)[1].sum()

    model = Twice()
    with opscope.trace(model, save="all") as trace:
        model(X)
    with pytest.raises(AmbiguousLayer, match="'backbone:1' to 'backbone:2'"):
        trace["backbone"]
    assert trace["backbone:2"].label == "backbone:2"
    assert trace["backbone:2"].activation[1].shape == (2, 5)
    assert not torch.equal(trace["backbone:1"].activation[0], trace["backbone:2"].activation[0])


def test_a_module_that_hands_a_dictionary_on_gives_all_of_it():
    class Hand(nn.Module):
        def forward(self, given):
            return given

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.hand = Backbone(lambda p, q: {"p": p, "q": q}), Hand()

        def forward(self, x):
            given = self.hand(self.backbone(x))
            return given["p"].sum() - given["q"].sum()

    model = Model()
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save="all") as trace:
        model(X)
    assert hooks.differences(trace)[0] == []
    found = trace["hand"].activation
    assert [tensor.shape for tensor in found] == [(2, 4), (2, 5)]
    assert trace["hand.q"].activation.shape == (2, 5)


def test_of_a_layer_that_gives_more_a_module_has_what_it_returned():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x):
            return self.lstm(x)[1][0]

    model = nn.Sequential(Last(), nn.Linear(4, 1))
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save="all") as trace:
        model(X[None])
    assert hooks.differences(trace)[0] == []
    assert trace["0"].activation.shape == (1, 2, 4)
    assert trace["0"].label == trace["lstm"].label
    assert len(trace["lstm"].activation) == 3
    assert trace["0.lstm"] is trace["lstm"]
    assert trace["0.lstm.1.0"].activation.shape == (1, 2, 4)


def test_a_module_that_gives_its_parameter_or_buffer_gave_that():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3))

        def forward(self):
            return self.weight

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = Table()

        def forward(self, x):
            return x @ self.table()

    model = Model()
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save=["table"]) as trace:
        model(X)
    assert hooks.differences(trace) == ([], 1)
    assert torch.equal(trace["table"].activation, model.table.weight)


@pytest.mark.parametrize("name", zoo.SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_every_module_of_a_real_model_gave_what_its_hook_saw(name, training, layers):
    program = zoo.build(name, training=training)
    hooks = witness.OutputWitness(program.module, everywhere=layers)
    with hooks, opscope.trace(program.module, save="all", layers=layers) as trace:
        program.run()
    wrong, asked = hooks.differences(trace)
    assert wrong == []
    assert asked or name == "lstm"


# ------------------------------------------------------------------- what is not there


class Skips(nn.Sequential):
    def forward(self, x):
        for index, module in enumerate(self):
            if index not in (4, 11):
                x = module(x)
        return x


@pytest.fixture(scope="module")
def skipping():
    model = Skips(*[nn.Linear(3, 3) for _ in range(12)])
    model.add_module("relu", nn.ReLU())
    model.add_module("unused", nn.Sequential(nn.Linear(3, 3)))
    model.unused.forward = lambda x: x.relu()
    with opscope.trace(model, save="all") as trace:
        model(X)
    return trace


@pytest.mark.parametrize("key", ["4", "4:1", "11", "unused.0", "unused.0:1"])
def test_a_module_that_did_not_run_is_not_answered_by_another_layer(skipping, key):
    with pytest.raises(LayerNotFound, match=r"did not run; the nearest keys: ") as caught:
        skipping[key]
    assert repr(key) in str(caught.value)
    assert key not in skipping


def test_a_run_that_a_module_did_not_make_is_told(skipping):
    with pytest.raises(LayerNotFound, match="'3:2': this module ran 1 time; the nearest keys"):
        skipping["3:2"]


def test_a_module_that_gave_no_tensor_or_failed_is_told():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError

    model = nn.Sequential(nn.Linear(3, 3), Nothing(), Fails())
    with pytest.raises(ValueError, match=r"^$"), opscope.trace(model) as trace:
        model(X)
    with pytest.raises(LayerNotFound, match="gave no tensor"):
        trace["1"]
    with pytest.raises(LayerNotFound, match="failed"):
        trace["2"]


@pytest.mark.parametrize("option", ["save", "gradients"])
def test_keys_that_stand_for_nothing_are_told_as_the_block_ends_all_at_once(option):
    model = Skips(*[nn.Linear(3, 3) for _ in range(6)])
    with (
        pytest.raises(LayerNotFound) as caught,
        opscope.trace(model, **{option: ["nope", "0", "4", 99, "linear_1"]}) as trace,
    ):
        model(X).sum().backward()
    for part in ("'nope'", "'4': this module did not run", "position 99"):
        assert part in str(caught.value)
    assert "'0'" not in str(caught.value).partition("nearest")[0]
    assert len(trace) > 5
    if option == "save":
        assert trace["0"].activation.shape == (2, 3)


def test_a_failing_model_is_not_blamed_on_a_key():
    with pytest.raises(ZeroDivisionError), opscope.trace(save=["nope"]):
        1 / 0  # noqa: B018


@pytest.mark.xfail(
    torch.__version__ >= "2.14",
    reason="torch 2.14 compiles the call of one of its own modules together with its hooks",
    strict=True,
)
def test_modules_inside_a_compiled_region_say_that_it_is_one_op():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    model[0].compile()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(X)
    with pytest.raises(LayerNotFound, match="inside '0', which Inductor compiled"):
        trace["0.0"]
    with pytest.raises(LayerNotFound, match="aot_eager"), opscope.trace(model, save=["0.1"]):
        model(X)


@pytest.mark.parametrize(
    ("key", "there"),
    [
        ("linear_1_1", True), ("linear_1", True), ("0", True), ("0:1", True), (0, True), (-1, True),
        ("relu_1", True), ("conv2d_1", False), ("4", False), (99, False), (-99, False),
        ("", False), (None, False), (3.5, False), (True, False), (("relu",), False),
    ],
)  # fmt: skip
def test_a_key_is_in_a_trace_if_something_answers_to_it(skipping, key, there):
    assert (key in skipping) is there


def test_a_key_of_several_layers_or_passes_is_in_its_trace(skipping):
    assert "linear" in skipping
    model, x = zoo.SimpleRecurrent(), torch.ones(6, 5)
    with opscope.trace(model) as trace:
        model(x)
    assert "linear_1_1" in trace
    assert "linear_1_1:5" not in trace


def test_a_layer_is_in_its_own_trace_only(skipping):
    assert skipping["linear_1"] in skipping
    with opscope.trace() as other:
        torch.ones(2).relu()
    assert other["relu"] not in skipping


# ------------------------------------------------------------------- modules that are shared


class Block(nn.Module):
    def __init__(self, lin, act, times=1):
        super().__init__()
        self.lin, self.act, self.times = lin, act, times

    def forward(self, x):
        for _ in range(self.times):
            x = self.act(self.lin(x))
        return x


class Shared(nn.Module):
    def __init__(self, times=1):
        super().__init__()
        lin, act = nn.Linear(3, 3), nn.Tanh()
        self.blocks = nn.ModuleList([Block(lin, act), Block(lin, act, times), Block(lin, act)])

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))  # the third does not run


def test_a_shared_module_is_asked_for_below_the_module_that_ran_it(layers):
    model = Shared()
    hooks = witness.OutputWitness(model)
    with hooks, opscope.trace(model, save="all", layers=layers) as trace:
        model(X)
    for number in (1, 2):
        expected = hooks.seen["blocks.0.act", number][0]
        assert torch.equal(trace[f"blocks.{number - 1}.act"].activation, expected)
        assert torch.equal(trace[f"blocks.{number - 1}.act:1"].activation, expected)
    if layers:
        assert trace["blocks.1.lin"].label == "linear_1_1:2"
        assert trace["blocks.1.act"].output_of == ("blocks.1.act", "blocks.1")
    assert hooks.differences(trace)[0] == []
    with pytest.raises(LayerNotFound):
        trace["blocks.0.act:2"]
    invariants.check(trace)


def test_several_runs_below_one_parent_are_numbered_there():
    model = Shared(times=2)
    with opscope.trace(model, save=["blocks.1.act:2"]) as trace:
        model(X)
    assert trace["blocks.0.lin"].record.number == 1
    with pytest.raises(AmbiguousLayer, match=r"'blocks\.1\.lin:1' to 'blocks\.1\.lin:2'"):
        trace["blocks.1.lin"]
    assert trace["blocks.1.lin:2"].record.number == 3
    assert trace.layer_labels == [trace["blocks.1.act:2"].label]


def test_a_name_under_which_a_shared_module_never_ran_stands_for_all_its_runs():
    model = Shared()
    with opscope.trace(model) as trace:
        model(X)
    with pytest.raises(AmbiguousLayer, match=r"'blocks\.2\.lin:1' to 'blocks\.2\.lin:2'"):
        trace["blocks.2.lin"]
    assert trace["blocks.2.lin:2"].label == "linear_1_1:2"


def test_the_table_of_shared_modules_names_each_below_its_parent_and_counts_once():
    model = Shared(times=2)
    with opscope.trace(model) as trace:
        model(X)
    text = str(trace.summary())
    rows = [line.strip("│├└─ ").split("  ")[0] for line in text.splitlines()]
    assert rows.count("lin Linear") == rows.count("act Tanh") == 1
    assert rows.count("lin (×2) Linear") == rows.count("act (×2) Tanh") == 1
    assert trace.totals.params == 12
    times = [run.duration_ns for run in trace.recording.module_calls]
    assert all(time > 0 for time in times)


def test_a_node_lists_the_tensors_of_a_module_that_gives_several():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LSTM(4, 3)

        def forward(self, x):
            y = self.inner(x)
            return {"a<b": y[0], "rest": [x + number for number in range(4)], "last": y[0] > 0}

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.several = Several()

        def forward(self, x):
            given = self.several(x)
            return given["a<b"].sum() + given["rest"][0].sum()

    model = Around()
    with opscope.trace(model) as trace:
        model(torch.rand(2, 4))
    outer, inner = (html.unescape(trace.to_dot("module", depth=n).to_string()) for n in (1, 2))
    assert "<br/>a<b f32[2, 3]<br/>rest 4 × f32[2, 4]<br/>last b8[2, 3]<br/>(" in outer
    assert "<br/>f32[2, 3]<br/>2 × f32[1, 3]<br/>(" in inner
