"""The nodes of one op: what it gives, what it wrote, and what is known of it."""

import pytest
import torch
from tests.exporters.fx.compare import Model, check_same, program_of, record

from opscope.exporters.fx.calls import _paths
from opscope.operators.plans import overload
from opscope.records.ops import Op

RETURNS = {
    "aten.add.Tensor": (1, [()]),
    "aten.native_layer_norm.default": (3, [(0,), (1,), (2,)]),
    "aten.split.Tensor": (2, [(0,), (1,)]),
    "aten._foreach_mul_.Scalar": (0, []),
    # It returns two numbers between its tensors.
    "aten._scaled_dot_product_flash_attention.default": (
        7, [(0,), (1,), (2,), (3,), (6,), (7,), (8,)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("operator", "found"), RETURNS.items())
def test_each_tensor_that_an_op_returns_has_its_place(operator, found):
    count, paths = found
    op = Op(0, operator, outputs=tuple(range(count)))

    assert _paths(op, overload(operator)) == paths


def test_what_an_op_wrote_is_known_by_the_tensor_that_it_wrote_into():
    def write(model, x):
        first, second = model.one(x), torch.zeros(4, 3)
        with torch.no_grad():
            torch._foreach_add_([model.two.weight, model.two.bias], 0.5)
            values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
            torch.max(first, 1, out=(values, indices))
            second.index_copy_(0, indices, first.detach()).copy_(second * 2)
        return model.two(first) * second, values

    model, x = Model(write), torch.rand(4, 3)
    check_same(model, program_of(model, x), torch.rand(4, 3))


def test_a_tensor_that_was_written_through_a_view_is_the_node_that_it_was():
    def through_a_view(model, x):
        y = x * 2
        y[0].mul_(3)
        return y + 1

    model, x = Model(through_a_view), torch.rand(4, 3)
    (read,) = record(model, x).recording.ops[-1].reads
    values = record(model, x).recording.values

    assert values[read.value].origin == "rewritten"
    check_same(model, program_of(model, x), x)


def test_nodes_of_one_call_share_what_is_known_of_its_modules():
    model, x = Model(lambda m, x: m.two(m.one(x))), torch.rand(4, 3)
    nodes = [n for n in program_of(model, x).graph.nodes if "nn_module_stack" in n.meta]
    stacks = [list(node.meta["nn_module_stack"].items()) for node in nodes]

    assert [stack[0] for stack in stacks] == [("@1", ("", "Model"))] * len(nodes)
    assert {stack[-1] for stack in stacks} == {
        ("one@1", ("one", "Linear")), ("two@1", ("two", "Linear")),
    }  # fmt: skip
    assert len({id(node.meta["nn_module_stack"]) for node in nodes}) == 2


def test_aliases_that_autograd_makes_for_its_own_use_are_no_nodes_and_the_models_are():
    model, x = Model(lambda m, x: m.one(x).exp().detach() * m.two(x).sigmoid()), torch.rand(4, 3)
    trace = record(model, x)
    recorded = [op.name for op in trace.ops]
    nodes = [str(node.target) for node in trace.to_fx().graph.nodes]

    assert recorded.count("detach") > 1
    assert nodes.count("aten.detach.default") == 1
