"""Counts of floating-point operations are those of the products that an operator is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import opscope
from opscope.errors import OptionError
from opscope.operators.flops.counting import flops_of
from opscope.operators.flops.formulas import FORMULAS, Call, TensorForm
from opscope.operators.known import name_of


def rand(*shape):
    return torch.rand(*shape)


def costs_of(program):
    with opscope.trace() as trace:
        program()
    return trace.costs


A, B = rand(3, 4), rand(4, 5)
Q, K = rand(2, 8, 5, 16), rand(2, 8, 7, 16)
FEW = rand(2, 2, 7, 16)
ATTENTION = 2 * (2 * 2 * 8 * 5 * 7 * 16)
COUNTS = {
    "a product": (lambda: A @ B, 2 * 3 * 4 * 5),
    "in place": (lambda: torch.zeros(3, 5).addmm_(A, B), 2 * 3 * 4 * 5),
    "with out": (lambda: torch.mm(A, B, out=torch.zeros(3, 5)), 2 * 3 * 4 * 5),
    "a batch": (lambda: torch.bmm(rand(6, 3, 4), rand(6, 4, 5)), 6 * 2 * 3 * 4 * 5),
    "a batch added up": (
        lambda: torch.addbmm(rand(3, 5), rand(6, 3, 4), rand(6, 4, 5)), 6 * 2 * 3 * 4 * 5),
    "with a vector": (lambda: torch.mv(A, rand(4)), 2 * 3 * 4),
    "added to a vector": (lambda: torch.addmv(rand(3), A, rand(4)), 2 * 3 * 4),
    "two vectors": (lambda: torch.dot(rand(9), rand(9)), 2 * 9),
    "an equation": (lambda: torch.einsum("abc,cd->abd", rand(2, 3, 4), B), 2 * 2 * 3 * 4 * 5),
    "whole numbers": (
        lambda: torch._int_mm(*(torch.ones(s, dtype=torch.int8) for s in ((17, 8), (8, 8)))),
        2 * 17 * 8 * 8),
    "a linear layer": (lambda: F.linear(rand(2, 7, 4), rand(5, 4), rand(5)), 2 * 2 * 7 * 4 * 5),
    "a convolution": (
        lambda: F.conv2d(rand(2, 4, 9, 9), rand(6, 4, 3, 3), stride=2), 2 * 2 * 16 * 6 * 4 * 9),
    "in groups": (
        lambda: F.conv2d(rand(2, 4, 9, 9), rand(6, 2, 3, 3), groups=2), 2 * 2 * 49 * 6 * 2 * 9),
    "one for each channel": (
        lambda: F.conv1d(rand(2, 4, 9), rand(4, 1, 3), groups=4, padding=1), 2 * 2 * 9 * 4 * 3),
    "three dimensions": (
        lambda: F.conv3d(rand(1, 2, 5, 5, 5), rand(3, 2, 3, 3, 3)), 2 * 27 * 3 * 2 * 27),
    "transposed": (
        lambda: F.conv_transpose2d(rand(2, 4, 5, 5), rand(4, 3, 2, 2), stride=2),
        2 * 2 * 25 * 4 * 3 * 4),
    "in time": (
        lambda: torch.conv_tbc(rand(9, 2, 4), rand(3, 4, 5), rand(5)), 2 * 7 * 2 * 3 * 4 * 5),
    "attention": (lambda: F.scaled_dot_product_attention(Q, K, K), ATTENTION),
    "attention with a mask": (
        lambda: F.scaled_dot_product_attention(Q, K, K, attn_mask=torch.zeros(5, 7)), ATTENTION),
    "causal attention": (
        lambda: F.scaled_dot_product_attention(Q, K, K, is_causal=True), ATTENTION),
    "attention in groups": (
        lambda: F.scaled_dot_product_attention(Q, FEW, FEW, enable_gqa=True), ATTENTION),
    "distances": (lambda: torch.cdist(rand(30, 4), rand(40, 4)), 2 * 30 * 40 * 6),
    "a triangular system": (
        lambda: torch.linalg.solve_triangular(torch.eye(4), B, upper=True), 4 * 4 * 5),
    "experts": (
        lambda: F.grouped_mm(
            rand(6, 16).bfloat16(), rand(2, 16, 32).bfloat16(),
            offs=torch.tensor([2, 6], dtype=torch.int32),
        ), 2 * 6 * 16 * 32),
    "none at all": (lambda: (rand(4).relu().softmax(0).view(2, 2).cumsum(0), rand(3).sort()), 0),
}  # fmt: skip


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(("program", "flops"), COUNTS.values(), ids=COUNTS)
def test_what_a_program_multiplies_is_counted_in_every_mode(program, flops, mode):
    with mode():
        costs = costs_of(program)

    assert costs.unknown == ()
    assert costs.flops == flops
    assert costs.macs == flops // 2


MODULES = {
    "lstm": lambda: (nn.LSTM(6, 5, 2, batch_first=True), rand(3, 7, 6)),
    "both directions": lambda: (nn.LSTM(6, 5, bidirectional=True), rand(7, 3, 6)),
    "with a projection": lambda: (nn.LSTM(6, 5, proj_size=2), rand(7, 3, 6)),
    "gru": lambda: (nn.GRU(6, 5, 2), rand(7, 3, 6)),
    "rnn": lambda: (nn.RNN(6, 5), rand(7, 3, 6)),
    "lstm cell": lambda: (nn.LSTMCell(6, 5), rand(3, 6)),
    "gru cell": lambda: (nn.GRUCell(6, 5), rand(3, 6)),
    "encoder layer": lambda: (
        nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), rand(3, 7, 16)),
    "encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2),
        rand(3, 7, 16)),
    "norm first": lambda: (
        nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True), rand(3, 7, 16)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:TF32", "ignore:LSTM with projections")  # of torch's own
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODULES)
def test_fused_kernels_count_what_the_plain_ops_count(name, mode):
    model, x = MODULES[name]()
    model.eval()
    with mode():
        costs = costs_of(lambda: model(x))
        expected = plainly(lambda: model(x))

    assert costs.unknown == ()
    assert costs.flops == expected > 0


def plainly(program):
    """Return what torch counts of a program that is made of plain ops."""
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), counter:
            program()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def test_multi_head_attention_counts_the_same_with_and_without_its_fast_path():
    model, x = nn.MultiheadAttention(16, 2, batch_first=True).eval(), rand(3, 7, 16)
    with torch.no_grad():
        fast = costs_of(lambda: model(x, x, x, need_weights=False))
    slow = costs_of(lambda: model(x, x, x, need_weights=False))

    assert "aten._native_multi_head_attention.default" in fast.operators
    assert fast.flops == slow.flops == 8 * 3 * 7 * 16 * 16 + 4 * 3 * 7 * 7 * 16


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_gradient_of_a_convolution_takes_what_the_forward_took(groups, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = kind(4, 8, 3, stride=2, groups=groups)
    alone = costs_of(lambda: model(rand(2, 4, 9, 9)).sum().backward())
    both = costs_of(lambda: model(rand(2, 4, 9, 9).requires_grad_()).sum().backward())

    assert alone.backward.flops == alone.forward.flops
    assert both.backward.flops == 2 * both.forward.flops


def test_attention_on_a_cpu_computes_its_scores_again_in_the_backward():
    q = Q.clone().requires_grad_()
    costs = costs_of(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())

    assert costs.forward.flops == 4 * 2 * 8 * 5 * 5 * 16
    assert costs.backward.flops == costs.forward.flops * 5 // 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda: (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), rand(3, 6)),
    lambda: (nn.Sequential(nn.LSTM(6, 5)), rand(4, 3, 6)),
])  # fmt: skip
def test_quantised_products_count_as_those_in_floats_or_are_said_to_be_unknown(make):
    model, x = make()
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM})
    costs = costs_of(lambda: small(x))

    unknown = [item.operator for item in costs.unknown]
    assert costs.flops == plainly(lambda: model(x)) or unknown == ["aten.quantized_lstm.input"]


def test_nested_and_sparse_products_are_unknown_and_not_what_their_shapes_say():
    sparse = torch.eye(4).to_sparse()
    for program in (lambda: sparse @ B, lambda: torch.sparse.mm(sparse, B)):
        costs = costs_of(program)
        assert costs.flops == 0
        assert len(costs.unknown) == 1


def test_a_custom_op_is_unknown_until_a_formula_is_registered():
    @torch.library.custom_op("counting::product", mutates_args=())
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    costs = costs_of(lambda: product(A, B))
    assert [(item.operator, item.calls) for item in costs.unknown] == [
        ("counting.product.default", 1)
    ]
    assert costs.forward.unknown == 1
    assert "0 of 1 kind of op known" in str(costs)
    assert "not counting.product.default ×1" in str(costs)

    given = []

    @opscope.register_flops(torch.ops.counting.product)
    def formula(a_shape, b_shape, *, out_shape):
        given.append((tuple(a_shape), tuple(b_shape), tuple(out_shape)))
        return 7

    costs = costs_of(lambda: product(A, B))
    assert (costs.flops, costs.unknown) == (7, ())
    assert given == [((3, 4), (4, 5), (3, 5))]
    with FlopCounterMode(display=False) as counter:
        product(A, B)
    assert counter.get_total_flops() == 7


def test_a_formula_may_ask_for_tensors_and_one_that_raises_leaves_it_unknown():
    @torch.library.custom_op("counting::raw", mutates_args=())
    def raw(a: torch.Tensor, n: int = 3) -> torch.Tensor:
        return a * n

    @opscope.register_flops(torch.ops.counting.raw, get_raw=True)
    def formula(a, n=3, *, out_val):
        assert a.device.type == "meta"
        return 1 // (5 - n) + a.numel() + out_val.numel()

    assert costs_of(lambda: raw(A)).flops == 24
    assert costs_of(lambda: raw(A, 5)).forward.unknown == 1


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (torch.ops.aten.mm.default, "one overload"),
        (torch.ops.aten.mm, "has a formula already"),
        (torch.mm, "no operator"),
        ("aten.mm", "no operator"),
        ([torch.ops.aten.neg, 3], "no operator"),
    ],
)
def test_what_no_formula_can_be_registered_for_is_refused(op, message):
    with pytest.raises(OptionError, match=message):
        opscope.register_flops(op)


def test_an_op_that_failed_computed_nothing():
    with pytest.raises(RuntimeError), opscope.trace() as trace:
        A @ A
    assert trace.costs.flops == 0
    assert trace.costs.unknown == ()


def test_costs_can_be_asked_for_inside_another_trace_which_sees_nothing_of_it():
    with torch.inference_mode(), opscope.trace() as trace:
        nn.LSTM(6, 5)(rand(7, 3, 6))
    with opscope.trace() as outer:
        torch.ones(2)
        before = trace.costs.flops
    assert [op.name for op in outer.ops] == ["ones"]
    assert before > 0


def test_every_formula_is_of_an_operator_that_torch_has():
    for packet in FORMULAS:
        space, name = packet.split(".")
        known = hasattr(getattr(torch.ops, space), name) or name == "_foreach_mm"  # since 2.13
        assert known or space in ("quantized", "mkldnn") or "mps" in name, packet


@pytest.mark.parametrize("packet", FORMULAS)
def test_a_formula_that_is_given_too_little_says_nothing(packet):
    call = Call(f"{packet}.default", {}, (TensorForm((2, 3)),))

    assert flops_of(call) is None
    assert name_of(call.operator)


def test_what_is_broadcast_is_counted_as_often_as_it_is_used():
    for query in (rand(1, 8, 10, 16), rand(4, 1, 10, 16)):
        counts = []
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                key = rand(4, 8, 12, 16)
                counts.append(
                    costs_of(lambda q=query, k=key: F.scaled_dot_product_attention(q, k, k)).flops
                )
        assert counts == [4 * 4 * 8 * 10 * 12 * 16] * 2


def test_norms_that_take_singular_values_are_unknown_and_others_are_not():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert costs_of(lambda: torch.linalg.norm(rand(3, 4), 2)).forward.unknown == 1
            assert costs_of(lambda: torch.linalg.norm(rand(3, 4))).forward.unknown == 0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_have_no_shape_to_count_by():
    nested = torch.nested.nested_tensor([rand(5, 8), rand(3, 8)])
    with torch.no_grad():
        costs = costs_of(lambda: F.linear(nested, rand(6, 8)))
    assert (costs.flops, costs.forward.unknown) == (0, 1)


def test_numbers_may_be_larger_than_a_machine_s():
    a = torch.empty(2_000_000, 2_000_000, device="meta")
    costs = costs_of(lambda: a @ a)
    assert costs.flops == 2 * 2_000_000**3


def test_a_formula_of_the_user_s_is_asked_for_sparse_tensors_too():
    @torch.library.custom_op("counting::sparse", mutates_args=())
    def sparse(a: torch.Tensor) -> torch.Tensor:
        return a.to_dense()

    opscope.register_flops(torch.ops.counting.sparse)(lambda *_, **__: 64)
    assert costs_of(lambda: sparse(torch.eye(3).to_sparse())).flops == 64


def test_a_count_below_0_is_unknown():
    @torch.library.custom_op("counting::less", mutates_args=())
    def less(a: torch.Tensor) -> torch.Tensor:
        return a + 1

    opscope.register_flops(torch.ops.counting.less)(lambda *_, **__: -5)
    assert costs_of(lambda: less(A)).forward.unknown == 1


def test_the_same_operator_twice_is_refused():
    with pytest.raises(OptionError, match="has a formula already"):
        opscope.register_flops([torch.ops.aten.sort] * 2)


def test_what_computes_nothing_is_known():
    with torch.inference_mode():
        assert costs_of(lambda: rand(1).item()).unknown == ()
