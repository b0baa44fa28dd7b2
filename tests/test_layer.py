import json

import pytest
import torch
from tests import invariants
from torch import nn

import opscope
from opscope.errors import NotSaved


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    def forward(self, x):
        y = self.block(x)
        for _ in range(2):
            y = y + 1
        low, high = y.aminmax()
        return low + high


@pytest.fixture(scope="module")
def trace():
    model, x = Net(), torch.ones(2, 4)
    with opscope.trace(model, save="all") as trace:
        model(x)
    invariants.check(trace)
    return trace


def test_a_layer_tells_what_it_is(trace):
    layer = trace["linear_1"]

    assert (layer.label, layer.type, layer.function) == ("linear_1_1", "linear", "linear")
    assert (layer.index, layer.passes, layer.module) == (1, 1, "block.0")
    assert (layer.shape, layer.outputs[0].dtype) == ((2, 3), "float32")
    assert [parameter.name for parameter in layer.parameters] == ["block.0.weight", "block.0.bias"]
    assert [op.name for op in layer.ops] == ["t", "addmm"]


def test_a_layer_tells_where_it_was_called(trace):
    layer = trace["add_1:1"]

    assert layer.source.file.endswith("test_layer.py")
    assert layer.source.function == "forward"
    assert layer.stack[0] == layer.source
    assert len(layer.stack) > 1


def test_an_input_has_no_ops_and_no_time(trace):
    layer = trace["input_1"]

    assert (layer.ops, layer.function, layer.parameters, layer.duration_ns) == ((), "input", (), 0)


def test_parents_and_children_follow_the_data(trace):
    assert [layer.label for layer in trace["relu"].parents] == ["linear_1_1"]
    assert [layer.label for layer in trace["relu"].children] == ["add_1_3:1"]
    assert [layer.label for layer in trace["aminmax"].children] == ["add_2_5"]
    assert trace["input_1"].parents == ()
    assert trace["output_1"].children == ()


def test_a_layer_is_a_child_of_each_of_its_parents(trace):
    for layer in trace:
        assert all(layer in parent.children for parent in layer.parents)
        assert all(layer in child.parents for child in layer.children)


def test_the_modules_whose_output_it_is_come_innermost_first(trace):
    assert trace["relu"].output_of == ("block.1", "block")
    assert trace["linear_1"].output_of == ("block.0",)
    assert trace["add_1:1"].output_of == ()


def test_every_lookup_key_gives_the_same_object(trace):
    for layer in trace:
        assert all(trace[key] is layer for key in layer.lookup_keys)


def test_several_outputs_are_a_tuple_of_activations(trace):
    low, high = trace["aminmax"].activation

    assert low <= high
    assert trace["aminmax"].shape == ()


def test_the_articles_name_for_an_activation(trace):
    assert torch.equal(trace["relu"].tensor_contents, trace["relu"].activation)


def test_an_activation_that_was_not_saved_says_how_to_save_it():
    with opscope.trace() as trace:
        torch.relu(torch.ones(2))

    assert not trace["relu"].is_saved
    with pytest.raises(NotSaved) as error:
        _ = trace["relu"].activation
    assert str(error.value) == (
        "the activation of relu_1_1 was not saved; trace with save='all' or save=['relu_1_1']"
    )


def test_the_repr_is_one_line(trace):
    assert repr(trace["relu"]) == "<opscope.Layer relu_1_2: float32[2, 3]>"


def test_the_text_is_the_articles(trace):
    lines = str(trace["linear_1"]).splitlines()

    assert lines[0] == "Layer linear_1_1, operation 2/8:"
    assert lines[1] == "    Output tensor: shape=(2, 3), dtype=torch.float32, size=24 B"
    assert lines[2].lstrip().startswith("tensor([[")
    assert [line for line in lines if not line.startswith("     ")][2:] == [
        "    Params: Computed from params with shape (3,), (3, 4); 15 params total (60 B)",
        "    Parent Layers: input_1_0",
        "    Child Layers: relu_1_2",
        "    Function: linear (gradfunc=AddmmBackward0) ",
        "    Computed inside module: block.0",
        *[line for line in lines if line.startswith(("    Time elapsed: ", "    Source: "))],
        "    Output of modules: block.0",
        "    Output of bottom-level module: block.0",
        "    Lookup keys: -7, 1, linear_1_1, linear_1, linear_1_1:1, linear_1:1, block.0, block.0:1",
    ]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.arange(4.0), "tensor([0., 1., 2., 3.])"),
        (torch.arange(9.0), "tensor([0., 1., 2., 3., 4.])..."),
        (torch.zeros(2, 1, 1), "tensor([[0.]])..."),
        (torch.tensor(3.0), "tensor(3.)"),
        (torch.zeros(0, 3), "tensor([], size=(0, 3))"),
    ],
)
def test_a_corner_of_the_activation_is_shown(tensor, expected):
    with opscope.trace(save="all") as trace:
        tensor.clone()

    assert f"        {expected}\n" in str(trace["clone"])


def test_a_layer_that_was_not_saved_says_so():
    with opscope.trace() as trace:
        torch.relu(torch.ones(2))

    assert "        (values not saved)" in str(trace["relu"])


def test_a_layer_cannot_be_given_other_attributes(trace):
    with pytest.raises(AttributeError):
        trace["relu"].activations = 1


def test_a_layer_has_the_arguments_that_tell_what_was_asked_for():
    x = torch.rand(1, 3, 8, 8)
    with opscope.trace() as trace:
        y = torch.nn.functional.conv2d(x, torch.rand(4, 3, 3, 3), stride=2, padding=1)
        y = torch.nn.functional.leaky_relu(y, 0.2)
        torch.softmax(y, dim=1)

    known = {name: list(value) for name, value in trace["conv2d"].arguments.items()}
    assert known == {"kernel_size": [3, 3], "stride": [2, 2], "padding": [1, 1]}
    assert trace["leakyrelu"].arguments == {"negative_slope": 0.2}
    assert trace["softmax"].arguments == {"dim": 1}
    assert trace["output"].arguments == {}
    assert "    Arguments: kernel_size=3, stride=2, padding=1\n" in str(trace["conv2d"])
    assert "Arguments" not in str(trace["output"])


def test_nodes_of_the_graph_have_them_in_the_same_order():
    recurrent = nn.LSTM(4, 5, 2, dropout=0.2, bidirectional=True)
    with opscope.trace(recurrent) as trace:
        recurrent(torch.ones(3, 1, 4))
    layer = trace["lstm"]

    assert len(layer.arguments) > 3
    node = trace.graph("layer").nodes[layer.label]
    assert list(node["arguments"].items()) == list(layer.arguments.items())


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_nodes_of_the_graph_have_the_same_arguments(level, rolled):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Sequential(nn.LayerNorm(3), nn.ELU(0.3)))
    with opscope.trace(model) as trace:
        model(torch.ones(1, 3, 7, 7)).sum((1, 2)).mean().backward()
    graph = trace.graph(level, rolled=rolled)
    found = [data["arguments"] for _, data in graph.nodes(data=True) if data["arguments"]]

    assert {"kernel_size": [3, 3], "stride": [2, 2]} in found
    assert {"eps": 1e-5} in found
    assert {"alpha": 0.3} in found
    assert {"dim": [1, 2]} in found
    assert trace.graph(level, depth=1).nodes["@1"]["arguments"] == {}  # of two layers
    every = trace.graph(level, rolled=rolled, phase="all").nodes(data=True)
    json.dumps([data for _, data in every])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: nn.functional.dropout(x, 0.3, training=False), {"p": 0.3}),
        (lambda x: nn.functional.dropout(x, training=False, p=0.25), {"p": 0.25}),
        (nn.Dropout(0.2).eval(), {"p": 0.2}),
        (nn.AlphaDropout(0.1).eval(), {"p": 0.1}),
        (lambda x: torch.dropout(x, 0.4, False), {"p": 0.4}),
        (lambda x: x.to("cpu"), {}),
        (lambda x: x.contiguous(), {}),
        (nn.Identity(), {}),
    ],
)
def test_a_call_that_dispatched_nothing_has_its_arguments_too(call, expected):
    with opscope.trace() as trace:
        call(torch.ones(2))
    (layer,) = (one for one in trace if one.type not in ("ones", "input", "output"))

    assert layer.ops == ()
    assert layer.arguments == expected
    assert trace.graph("layer").nodes[layer.label]["arguments"] == expected
    rows = {row["name"]: row["arguments"] for row in trace.summary("layer").to_dicts()}
    assert rows[layer.label] == expected


def test_a_module_that_ran_no_op_has_them_in_the_table():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)).eval()
    with opscope.trace(model) as trace:
        model(torch.ones(1, 2))

    rows = {row["name"]: row["arguments"] for row in trace.summary().to_dicts()}
    assert rows["1"] == {"p": 0.3}


def test_an_integer_that_is_too_long_to_be_written_is_not_kept():
    with opscope.trace() as trace:
        nn.functional.dropout(torch.ones(2), 0.5, training=False, inplace=10**5000)

    assert trace["dropout"].arguments == {"p": 0.5}
    assert "p=0.5" in str(trace.summary("layer", columns=["name", "arguments"]))


def test_no_tensor_and_nothing_of_the_user_s_is_kept_among_the_arguments():
    class Number(float):
        pass

    with opscope.trace() as trace:
        nn.functional.dropout(torch.ones(2), Number(0.5), training=False)
    assert trace[1].arguments == {}
