import inspect

import pytest
import torch

from opscope.operators import known

NAMES = {schema.name for schema in torch._C._jit_get_all_schemas()}
LISTED = sorted(
    (name, operator)
    for name, listed in inspect.getmembers(known, lambda it: isinstance(it, (frozenset, dict)))
    if not name.startswith("__") and name != "_COPIES"
    for operator in listed
)


def test_there_are_operators_of_which_something_is_known():
    assert len(LISTED) > 50


@pytest.mark.parametrize(("table", "operator"), LISTED)
def test_what_is_known_of_an_operator_is_known_of_one_that_torch_has(table, operator):
    if "philox" in operator and torch.__version__ < "2.13":
        pytest.skip("an older torch may have none yet")
    if "::" in operator:
        assert operator in NAMES
    else:
        room, name, *_ = operator.split(".")
        assert f"{room}::{name}" in NAMES


@pytest.mark.parametrize(
    "operator", [known.DETACH, known.LIFT, known.VIEW, known.SCALER, known.UNDECLARED_VIEW]
)
def test_single_overloads_that_are_known_are_there(operator):
    room, name, overload = operator.split(".")

    assert getattr(getattr(torch.ops, room), name).__class__.__name__ == "OpOverloadPacket"
    assert overload == "default"


@pytest.mark.parametrize(
    ("ask", "of_this", "not_of_that"),
    [
        (known.is_copy, "aten._to_copy.default", "aten.add.Tensor"),
        (known.is_copy, "quantized_decomposed.quantize_per_tensor.default", "aten.relu.default"),
        (known.is_collective, "_c10d_functional.all_reduce.default", "aten.all.default"),
        (known.is_uninitialised, "aten.empty.memory_format", "aten.zeros.default"),
        (known.gives_numbers, "aten._local_scalar_dense.default", "aten.sum.default"),
        (known.has_shape_by_data, "aten.nonzero.default", "aten.index.Tensor"),
        (known.takes_lists_in_step, "aten._foreach_add.List", "aten.add.Tensor"),
        (known.gives_later, "c10d.allreduce_.default", "_c10d_functional.wait_tensor.default"),
        (known.transposes, "aten.t.default", "aten.mm.default"),
        (known.multiplies, "aten.mm.default", "aten.linear.default"),
        (known.is_steep, "aten._softmax.default", "aten.relu.default"),
        (known.takes_part, "aten.index.Tensor", "mine.index.Tensor"),
        (known.placed_argument, "aten.index_put_.default", "aten.index_put.default"),
        (known.lookup_arguments, "aten.embedding.default", "aten.embedding_dense_backward.default"),
        (known.asks_for_form, "aten.new_zeros.default", "aten.zeros.default"),
    ],
)
def test_an_operator_is_told_by_its_name(ask, of_this, not_of_that):
    assert ask(of_this)
    assert not ask(not_of_that)


def test_dropout_draws_in_training_and_bernoulli_always():
    assert known.draws("aten.native_dropout.default", is_on=True)
    assert not known.draws("aten.native_dropout.default", is_on=False)
    assert known.draws("aten.bernoulli_.float", is_on=False)


def test_scratch_memory_is_told_by_the_place_among_the_results_or_by_being_written():
    assert known.is_scratch("aten.mkldnn_rnn_layer.default", 3)
    assert not known.is_scratch("aten.mkldnn_rnn_layer.default", None)
    assert known.is_scratch("aten.mkldnn_rnn_layer_backward.default", None)
    assert not known.is_scratch("aten.mkldnn_rnn_layer_backward.default", 3)
    assert not known.is_scratch("aten.add.Tensor", None)
