"""Formulas for products that torch's `flop_registry` has none for, or counts wrongly.

A multiplication and an addition are two floating-point operations. What a mask or causality
leaves out is counted: it is computed all the same, and torch's formulas count it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

Shape = tuple[int, ...]


class TensorForm(NamedTuple):
    """What a formula needs of a tensor.

    Attributes:
        shape: Sizes in elements.
        dtype: The element type's name.
        is_strided: Whether it has elements at strides: no sparse, nested or opaque one does.
    """

    shape: Shape
    dtype: str = "float32"
    is_strided: bool = True


class Call(NamedTuple):
    """One run of an operator, without the numbers.

    Attributes:
        operator: Such as ``"aten.mm.default"``.
        arguments: By name; a `TensorForm` where there was a tensor.
        outputs: What it gave.
        packed: The shapes of parameters in the objects of C++ that it was given.
    """

    operator: str
    arguments: Mapping[str, Any]
    outputs: tuple[TensorForm | None, ...] = ()
    packed: tuple[Shape, ...] = ()

    def shape(self, *names: str) -> Shape:
        """Return the shape of the tensor that has one of these names."""
        for name in names:
            if isinstance(found := self.arguments.get(name), TensorForm):
                return found.shape
        raise LookupError(names)

    def gave(self) -> Shape:
        """Return the shape of the first tensor that it gave."""
        found = self.outputs[0]
        if found is None:
            raise LookupError(self.operator)
        return found.shape


Formula = Callable[[Call], int]


def _by_rows(*first: str) -> Formula:
    """Return the formula of products in which each element given sums over a row of an argument."""

    def formula(call: Call) -> int:
        row = call.shape(*first)
        return 2 * prod(call.gave()) * row[-1]  # a nested tensor has no shape

    return formula


def _batched(call: Call) -> int:
    """Sum over a batch of products."""
    batch, rows, inner = call.shape("batch1")
    return 2 * batch * rows * inner * call.shape("batch2")[-1]


def _lists(call: Call) -> int:
    """Sum over lists of matrices."""
    rows = (form.shape[-1] for form in call.arguments["self"])
    given = (prod(form.shape) for form in call.outputs if form is not None)
    return sum(2 * row * count for row, count in zip(rows, given, strict=True))


def _distances(call: Call) -> int:
    """Count one product, of rows that the sums of their squares and a one were added to."""
    return 2 * prod(call.gave()) * (call.shape("x1")[-1] + 2)


def _grouped(call: Call) -> int:
    """Sum over groups: of rows, or of what is summed over where both are matrices."""
    first, given = call.shape("self"), call.gave()
    is_split = len(first) == 2 and len(given) == 3
    return 2 * prod(given[1:] if is_split else given) * first[-1]


def _convolution_in_time(call: Call) -> int:
    return 2 * prod(call.gave()[:2]) * prod(call.shape("weight"))


def _triangular(call: Call) -> int:
    """Count half of a product with a square matrix: what is above or below its diagonal."""
    return prod(call.gave()) * call.shape("self")[-1]


def _packed_linear(call: Call) -> int:
    return 2 * prod(call.shape("X", "input", "x")[:-1]) * prod(_weight(call))


def _packed_convolution(call: Call) -> int:
    image = call.shape("qx", "input", "X") if "transpose" in call.operator else call.gave()
    return 2 * image[0] * prod(image[2:]) * prod(_weight(call))


def _weight(call: Call) -> Shape:
    """Return the shape of the packed weight: a bias has one dimension."""
    return next(shape for shape in call.packed if len(shape) > 1)


def _convolution(call: Call) -> int:
    """Count what each element of the weight is multiplied with."""
    image = call.gave()
    return 2 * image[0] * prod(image[2:]) * prod(call.shape("weight", "W"))


def _transposed(call: Call) -> int:
    image = call.shape("self", "input")
    return 2 * image[0] * prod(image[2:]) * prod(call.shape("weight"))


def _convolution_backward(call: Call) -> int:
    """Count once for each gradient of a product; torch forgets the groups in the weight's."""
    to_input, to_weight, _ = call.arguments["output_mask"]
    image = call.shape("input" if call.arguments["transposed"] else "grad_output")
    once = 2 * image[0] * prod(image[2:]) * prod(call.shape("weight"))
    return once * (bool(to_input) + bool(to_weight))


def _attention_of(query: Shape, key: Shape, value: Shape) -> int:
    """Count the products of queries with keys, and of what comes of that with values."""
    *batch, length, size = query
    return 2 * prod(batch) * length * key[-2] * (size + value[-1])


def _attention(call: Call) -> int:
    query, key, value = (call.shape(name) for name in ("query", "key", "value"))
    return _attention_of((*call.gave()[:-2], *query[-2:]), key, value)  # one may be broadcast


def _attention_backward(call: Call) -> int:
    """Count the scores once more, and two products for each of the forward."""
    *batch, length, size = call.shape("query")
    keys, given = call.shape("key")[-2], call.shape("value")[-1]
    return 2 * prod(batch) * length * keys * (3 * size + 2 * given)


def _multi_head(call: Call) -> int:
    """Count projections in and out, and the attention between."""
    batch, length, size = call.shape("query")
    keys = call.shape("key")[1]
    inwards = 2 * batch * size * size * (length + 2 * keys)
    return inwards + 4 * batch * length * keys * size + 2 * batch * length * size * size


def _encoder_layer(call: Call) -> int:
    batch, length, size = call.shape("src")
    attention = 8 * batch * length * size * size + 4 * batch * length * length * size
    hidden = call.shape("ffn_weight_1")[0]
    return attention + 4 * batch * length * size * hidden


def _one_recurrent(call: Call) -> int:
    """Count a layer in one direction: each step multiplies the weights with input and state."""
    steps = prod(call.shape("input")[:-1])
    weights = (("weight0", "weight1"), ("weight1", "weight2"))["backward" in call.operator]
    once = 2 * steps * sum(prod(call.shape(name)) for name in weights)
    return 2 * once if "backward" in call.operator else once


def _recurrent(call: Call) -> int:
    """Count all layers and directions: of all weights, those that are matrices."""
    steps = prod(call.shape("input")[:-1])
    matrices = [form.shape for form in call.arguments["weight"] if len(form.shape) == 2]
    once = 2 * steps * sum(map(prod, matrices))
    return 2 * once if "backward" in call.operator else once


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(
        ("aten.mv", "aten.dot", "aten.vdot", "aten._int_mm", "aten._weight_int4pack_mm",
         "aten._weight_int4pack_mm_for_cpu", "aten._weight_int8pack_mm", "aten.mkldnn_linear",
         "aten.linear", "aten._mixed_dtypes_linear", "aten._dyn_quant_matmul_4bit",
         "mkldnn._linear_pointwise", "aten._scaled_mm_v2"),
        _by_rows("self", "input", "inp", "X"),
    ),
    "aten.addmv": _by_rows("mat"),
    "aten._addmm_activation": _by_rows("mat1"),
    "aten.addbmm": _batched,
    "aten.conv_tbc": _convolution_in_time,
    **dict.fromkeys(("aten._grouped_mm", "aten._scaled_grouped_mm"), _grouped),
    "aten._foreach_mm": _lists,
    "aten.linalg_solve_triangular": _triangular,
    "aten._euclidean_dist": _distances,
    **dict.fromkeys(
        (f"quantized.linear{end}" for end in (
            "", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic", "_dynamic_fp16",
            "_relu_dynamic_fp16", "_with_input_q_dq_qweight_dq_output_fp32",
        )),
        _packed_linear,
    ),
    **dict.fromkeys(
        (f"quantized.conv{dims}d{end}" for dims in "123" for end in ("", "_relu", "_dynamic")),
        _packed_convolution,
    ),
    **dict.fromkeys(("quantized.conv2d_add", "quantized.conv2d_add_relu"), _packed_convolution),
    **dict.fromkeys(
        (f"quantized.conv_transpose{dims}d{end}" for dims in "123" for end in ("", "_dynamic")),
        _packed_convolution,
    ),
    **dict.fromkeys(
        ("aten.mkldnn_convolution", "aten._conv_depthwise2d", "aten.conv_depthwise3d",
         "aten.slow_conv_dilated2d", "aten.slow_conv_dilated3d", "aten.slow_conv3d_forward",
         "aten._nnpack_spatial_convolution", "aten.cudnn_convolution_relu",
         "aten.cudnn_convolution_add_relu", "aten.miopen_convolution", "aten._mps_convolution",
         "aten.miopen_depthwise_convolution", "mkldnn._convolution_pointwise"),
        _convolution,
    ),
    **dict.fromkeys(
        ("aten.slow_conv_transpose2d", "aten.slow_conv_transpose3d",
         "aten.cudnn_convolution_transpose", "aten.miopen_convolution_transpose"),
        _transposed,
    ),
    "aten.convolution_backward": _convolution_backward,
    **dict.fromkeys(
        ("aten._scaled_dot_product_flash_attention_for_cpu",
         "aten._scaled_dot_product_fused_attention_overrideable",
         "aten._scaled_dot_product_attention_math_for_mps", "aten.scaled_dot_product_attention",
         "aten._cudnn_attention_forward"),
        _attention,
    ),
    **dict.fromkeys(
        ("aten._scaled_dot_product_flash_attention_for_cpu_backward",
         "aten._scaled_dot_product_fused_attention_overrideable_backward",
         "aten._cudnn_attention_backward"),
        _attention_backward,
    ),
    "aten._native_multi_head_attention": _multi_head,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    **dict.fromkeys(("aten.mkldnn_rnn_layer", "aten.mkldnn_rnn_layer_backward"), _one_recurrent),
    **dict.fromkeys(
        ("aten._cudnn_rnn", "aten._cudnn_rnn_backward", "aten.miopen_rnn", "aten.miopen_rnn_backward"),
        _recurrent,
    ),
}  # fmt: skip
"""By operator without its overload."""
# What torch's own formula gets wrong, so that ours goes before it.
WRONG_IN_TORCH = frozenset({"aten.convolution_backward"})
