"""No operator that may multiply matrices is taken for one that only moves or changes numbers."""

import pytest
import torch

from opscope.operators.flops.kinds import kind_of

KINDS = {
    "moves": (
        "aten.view.default", "aten.cat.default", "aten.index.Tensor", "aten._to_copy.default",
        "aten.embedding.default", "aten.topk.default", "aten.randn.default", "aten.clone.default",
        "aten._foreach_copy_.default", "aten.copy_.default", "aten._unsafe_view.default",
        "aten.constant_pad_nd.default", "aten.scatter.src", "aten._cudnn_rnn_flatten_weight.default",
        "_c10d_functional.all_reduce.default", "aten._local_scalar_dense.default",
        "quantized.linear_prepack.default", "aten.empty_strided.default",
    ),
    "elementwise": (
        "aten.add.Tensor", "aten.relu_.default", "aten.native_layer_norm.default",
        "aten._softmax.default", "aten.max_pool2d_with_indices.default", "aten.mean.dim",
        "aten._foreach_add_.List", "aten._fused_adam_.default", "aten.nll_loss_forward.default",
        "aten.native_batch_norm_backward.default", "aten.upsample_bilinear2d.default",
        "aten._thnn_fused_lstm_cell.default", "aten.gelu_backward.default", "aten.where.self",
        "aten.native_dropout.default", "aten.linalg_vector_norm.default", "quantized.add.default",
        "aten._weight_norm_interface.default", "aten.grid_sampler_2d.default",
    ),
    "product": (
        "aten.mm.default", "aten.conv_transpose2d.input", "aten.lstm.input", "aten.rnn_relu.input",
        "aten.linear.default", "aten._foreach_mm.default", "aten.nuclear_norm.default",
        "aten.lstm_cell.default", "aten.cudnn_convolution_relu.default", "aten._fft_c2c.default",
        "aten.linalg_matrix_norm.default", "mylib.add.default", "torchvision.nms.default",
        "inductor_compiled_code", "flex_attention", "quantized.conv2d_relu.new",
        "aten._flash_attention_forward_no_dropout_inplace.default", "aten.thnn_conv2d.default",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "operator"), [(kind, name) for kind, names in KINDS.items() for name in names]
)
def test_the_kind_of_an_operator(kind, operator):
    assert kind_of(operator) == kind


WORDS = ("mm", "conv", "linear", "attention", "matmul", "lstm", "gru", "rnn", "bmm", "mv", "dot")
HARMLESS = ("flatten", "prepack", "reorder", "convert", "_thnn_", "loss", "params", "norm_linear")


def test_no_operator_of_torch_with_a_product_in_its_name_is_taken_for_another_kind():
    for name in dir(torch.ops.aten):
        words = name.strip("_").split("_")
        may_multiply = any(word.rstrip("0123456789d") in WORDS for word in words)
        if may_multiply and not any(word in name for word in HARMLESS):
            assert kind_of(f"aten.{name}.default") == "product", name
