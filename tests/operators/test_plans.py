"""What is worked out once per operator overload."""

import pytest
import torch

import opscope
from opscope.operators.plans import Plan, drew

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("overload", "count", "tensors", "lists", "constants", "writes"),
    [
        (aten.relu.default, 1, ["self"], [], [], []),
        (aten.add.Tensor, 2, ["self", "other"], [], [], []),
        (aten.add_.Tensor, 2, ["self", "other"], [], [], ["self"]),
        (aten.sum.dim_IntList, 3, ["self"], [], ["dim", "keepdim"], []),
        (aten.cat.default, 2, [], ["tensors"], ["dim"], []),
        (aten.index.Tensor, 2, ["self"], ["indices"], [], []),
        (aten.index_put_.default, 3, ["self", "values"], ["indices"], [], ["self"]),
        (aten._foreach_add_.List, 2, [], ["self", "other"], [], ["self"]),
        (aten.t_.default, 1, ["self"], [], [], []),
        (aten.set_.source_Tensor, 2, ["self", "source"], [], [], []),
        (aten.linear.default, 2, ["input", "weight"], [], [], []),
        (aten.linear.default, 3, ["input", "weight", "bias"], [], [], []),
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_tells_tensors_lists_constants_and_writes_apart(
    overload, count, tensors, lists, constants, writes
):
    plan = Plan(overload)
    slots = plan.slots(count)
    names = plan.arguments
    assert list(slots.tensor_names) == tensors
    assert [name for _, name in slots.lists] == lists
    assert list(slots.constant_names) == constants
    assert [names[i] for i in slots.writes] == writes
    given = tuple(names[:count])
    assert [given[i] for i in slots.tensors] == tensors
    assert list(slots.constants(given) if slots.constants else ()) == constants


def test_an_out_argument_is_a_write():
    assert Plan(aten.add.out).writes == {"out"}


@pytest.mark.parametrize(
    "overload", [aten.t_.default, aten.unsqueeze_.default, aten.set_.source_Tensor], ids=str
)
def test_a_change_of_metadata_alone_is_no_write(overload):
    assert not Plan(overload).writes


def every_overload():
    for name in dir(aten):
        packet = getattr(aten, name)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            for overload in packet.overloads():
                yield getattr(packet, overload)


def test_no_tensor_argument_of_any_aten_operator_is_taken_for_a_constant():
    """Where it were, tensors would be kept alive, and their data flow lost."""
    plans = [Plan(overload) for overload in every_overload()]
    assert len(plans) > 2000
    missed = {
        str(argument.type)
        for plan in plans
        for argument, kind in zip(plan.func._schema.arguments, plan.kinds, strict=True)
        if kind == "other" and "Tensor" in str(argument.type)
        if "Dict" not in str(argument.type)  # TorchScript's own, never dispatched
    }
    assert not missed


def test_the_writes_of_all_aten_operators_are_those_their_names_promise():
    """What ends in an underscore writes its first argument, and what has an out= writes that."""
    for plan in map(Plan, every_overload()):
        schema = plan.func._schema
        if torch.Tag.inplace_view in plan.func.tags or schema.name == "aten::set_":
            continue
        in_place = schema.name.endswith("_") and not schema.name.endswith("__")
        if in_place and plan.kinds and plan.kinds[0] != "other":
            assert plan.arguments[0] in plan.writes, plan.name
        if schema.overload_name.endswith("out") and "out" in plan.arguments:
            assert "out" in plan.writes, plan.name


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: torch.rand(3), True),
        (lambda x: torch.randperm(3), True),
        (torch.bernoulli, True),
        (lambda x: torch.nn.functional.dropout(x, 0.5), True),
        (lambda x: torch.nn.functional.rrelu(x, training=True), True),
        (torch.nn.functional.rrelu, False),
        (lambda x: torch.nn.functional.dropout(x, 0.5, training=False), False),
        (lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x), False),
        (lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5), True),
        (lambda x: x.exp(), False),
    ],
)
def test_whether_random_numbers_were_drawn_is_told_by_the_operator_and_its_arguments(run, expected):
    x = torch.full((1, 2, 4, 4), 0.5)
    with opscope.trace() as trace:
        run(x)
    found = [drew(op.operator, dict(op.arguments)) for op in trace.ops]
    assert any(found) == expected
