"""Which operators have work that is no product: they move numbers, or take each one by itself.

The usual convention counts products (matrices, convolutions, attention, recurrent layers), in which
nearly all floating-point operations of a model are. What is neither of the two kinds here, and
has no formula, is unknown.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import torch

from opscope.operators.known import is_collective, name_of, takes_lists_in_step
from opscope.operators.plans import overload
from opscope.torch_api import OpOverload

Kind = Literal["moves", "elementwise", "product"]

# Words in the names of operators that make, move, choose or look at numbers.
_MOVES = frozenset({
    "alias", "arange", "as", "assert", "atleast", "bernoulli", "binomial", "block", "bucketize",
    "cat", "cauchy", "channel", "choice", "clone", "coalesce", "coalesced", "col2im", "concat",
    "concatenate", "constant", "contiguous", "convert", "coo", "copy", "dequantize", "detach",
    "diag", "diagonal", "dim", "dstack", "efficientzerotensor", "embedding", "empty", "errors",
    "expand", "exponential", "eye", "fftfreq", "file", "fill", "flatten", "flip", "full",
    "gather", "geometric", "hstack", "im2col", "index", "indices", "int", "is", "item", "lift",
    "linspace", "local", "logspace", "mask", "masked", "multinomial", "nbytes", "nested", "new",
    "nnz", "nonzero", "normal", "one", "ones", "pack", "pad", "params", "permute", "philox",
    "pin", "pixel", "poisson", "prepack", "print", "ptr", "put", "q", "qscheme", "quantize",
    "rand", "randint", "randn", "random", "randperm", "range", "record", "reorder", "repeat",
    "reshape", "resize", "rfftfreq", "roll", "rot", "rot90", "scalar", "scatter", "searchsorted",
    "segment", "select", "serialized", "set", "size", "slice", "sort", "split", "squeeze",
    "stack", "storage", "stride", "sym", "t", "take", "tensor", "tile", "to", "token", "topk",
    "transpose", "tril", "triu", "unbind", "unfold", "uniform", "unique", "unpack", "unshuffle",
    "unsqueeze", "values", "view", "vstack", "wait", "window", "zero", "zeros",
})  # fmt: skip
# Words in the names of those that take each number by itself, or a sum, a mean or a largest one.
_ELEMENTWISE = frozenset({
    "abs", "add", "addcdiv", "addcmul", "addr", "affine", "all", "allclose", "amax", "amin",
    "aminmax", "amp", "any", "argmax", "argmin", "bincount", "celu", "clamp", "complex", "count",
    "cummax", "cummin", "cumprod", "cumsum", "dirichlet", "dist", "div", "divide", "dropout",
    "elu", "entropy", "equal", "fake", "gamma", "gelu", "glu", "grid", "hardshrink",
    "hardsigmoid", "hardswish", "hardtanh", "hash", "heaviside", "histc", "histogram",
    "histogramdd", "irshift", "isin", "kthvalue", "leaky", "lerp", "log", "logcumsumexp",
    "logsumexp", "loss", "max", "mean", "median", "min", "mish", "mode", "mse", "mul",
    "nanmedian", "nansum", "norm", "observer", "polar", "pool", "powsum", "prelu", "prod", "qadd",
    "qmul", "relu", "renorm", "rescale", "rrelu", "scale", "shrink", "sigmoid", "silu", "softmax",
    "softplus", "softshrink", "std", "sub", "sum", "swish", "tanh", "thnn", "threshold", "trace",
    "unpool", "upsample", "var", "where",
})  # fmt: skip
# Words in the names of those that may be products, whatever else there is in the name.
_PRODUCTS = frozenset({
    "attention", "cell", "conv", "convolution", "gru", "linear", "lstm", "matmul", "matrix", "mm",
    "nuclear", "rnn",
})  # fmt: skip
_NO_PRODUCTS = frozenset({"flatten", "convert", "prepack", "reorder", "params"})
_OWN = ("aten", "prims", "quantized", "quantized_decomposed", "mkldnn", "onednn")
_SIZED = re.compile(r"\d+d?$")  # `avg_pool2d`


@cache
def kind_of(operator: str) -> Kind:
    """Return what kind of work an operator such as ``"aten.add.Tensor"`` is.

    What is called ``"product"`` may be anything: a product, or unknown.
    """
    space = operator.partition(".")[0]
    if is_collective(operator):
        return "moves"
    if space not in _OWN:
        return "product"
    name = name_of(operator)
    if name.removeprefix("_foreach").strip("_") in ("clone", "copy", "zero"):
        return "moves"
    if name in ("linalg_norm", "linalg_matrix_norm"):  # some of them are of singular values
        return "product"
    if name.startswith("_thnn_"):  # what a recurrent cell does after its products
        return "elementwise"
    if (takes_lists_in_step(operator) and name != "_foreach_mm") or _is_pointwise(space, name):
        return "elementwise"
    found = overload(operator)
    if found is not None and found.is_view:
        return "moves"
    words = {_SIZED.sub("", word) for word in name.split("_")}
    if words & _PRODUCTS and not words & _NO_PRODUCTS:
        return "product"
    if words & _ELEMENTWISE:
        return "elementwise"
    return "moves" if words & _MOVES else "product"


def _is_pointwise(space: str, name: str) -> bool:
    """Whether torch says so of any overload of an operator, or of what it does in place."""
    for base in (name, name.removesuffix("_")):
        packet = getattr(getattr(torch.ops, space), base, None)
        for overload_name in () if packet is None else packet.overloads():
            found = getattr(packet, overload_name)
            if isinstance(found, OpOverload) and torch.Tag.pointwise in found.tags:
                return True
    return False
