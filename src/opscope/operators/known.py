"""What is known of operators by their names, where their schemas do not say it.

All that depends on which operator it is stands here: what it reads, writes, shows, draws or fixes.
"""

from __future__ import annotations

DETACH, LIFT, VIEW = "aten.detach.default", "aten.lift_fresh.default", "aten.view.default"
# What a `GradScaler` looks for bad numbers with.
SCALER = "aten._amp_foreach_non_finite_check_and_unscale_.default"
# These copy data into a tensor, as `load_state_dict` does.
COPIES_INTO = frozenset({"aten.copy_.default", "aten._foreach_copy_.default"})
# It shows memory another way, and its schema does not say so.
UNDECLARED_VIEW = "aten._unsafe_view.default"
# What opscope calls a module that Inductor compiled, which runs as one.
COMPILED = "inductor_compiled_code"
_COLLECTIVES = ("c10d.", "_c10d_functional.", "_c10d_functional_autograd.")

# Arguments written although the schema does not say so (torch 2.13): the running
# statistics of batch norm, and what oneDNN's backward uses as scratch memory.
UNDECLARED_WRITES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "aten::native_batch_norm",
            "aten::cudnn_batch_norm",
            "aten::miopen_batch_norm",
            # Seen under inference_mode, which leaves composites whole.
            "aten::batch_norm",
            "aten::_batch_norm_impl_index",
            "aten::instance_norm",
            # SyncBatchNorm's.
            "aten::batch_norm_update_stats",
            "aten::batch_norm_gather_stats",
            "aten::batch_norm_gather_stats_with_counts",
        ),
        ("running_mean", "running_var"),
    ),
    "aten::mkldnn_rnn_layer_backward": ("workspace",),
}

# These fill the first argument whole, whatever it held; as do all with ``out=``.
FILL_WHOLE = frozenset({
    "aten::copy_", "aten::fill_", "aten::zero_", "aten::set_", "aten::_foreach_copy_",
    "aten::_foreach_zero_", "aten::normal_", "aten::uniform_", "aten::random_", "aten::bernoulli_",
    "aten::exponential_", "aten::geometric_", "aten::cauchy_", "aten::log_normal_",
    "aten::_fill_mem_eff_dropout_mask_", "aten::_philox_normal_", "aten::_philox_uniform_",
})  # fmt: skip
# What these give is whatever lay in memory.
_UNINITIALISED = frozenset({
    "aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty",
    "aten.new_empty_strided", "aten.resize_", "aten.empty_permuted", "aten._efficientzerotensor",
})  # fmt: skip
# What is scratch memory, much of it never written, by operator: the number of the output, or None
# for what it wrote. oneDNN's LSTM returns it, and its backward writes there.
_SCRATCH: dict[str, int | None] = {
    "aten.mkldnn_rnn_layer.default": 3,
    "aten.mkldnn_rnn_layer_backward.default": None,
}

# The flag without which these leave the running statistics alone.
TRAINING_FLAGS = ("training", "train", "use_input_stats")


# What is asked of a wrapper or fake tensor whose class answers by dispatch: no computations.
QUESTIONS = frozenset({
    "prim.device.default", "prim.layout.default", "aten.dim.default", "aten.numel.default",
    "aten.size.default", "aten.stride.default", "aten.storage_offset.default",
    "aten.sym_size.default", "aten.sym_stride.default", "aten.sym_numel.default",
    "aten.sym_storage_offset.default", "aten.is_contiguous.default",
    "aten.is_contiguous.memory_format", "aten.sym_is_contiguous.default",
    "aten.is_strides_like_format.default", "aten.is_non_overlapping_and_dense.default",
})  # fmt: skip
# They take numbers out of a tensor.
_GIVE_NUMBERS = frozenset({"aten._local_scalar_dense"})
# The shape of what they give depends on the data.
_SHAPE_BY_DATA = frozenset({
    "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.unique_consecutive",
    "aten.unique_dim", "aten.bincount", "aten.repeat_interleave",
})  # fmt: skip
# What these give is the same tensor as their first argument, elsewhere or in other numbers.
_COPIES = frozenset({
    "_to_copy", "to", "type", "float", "half", "bfloat16", "double", "cpu", "cuda",
    "clone", "contiguous", "detach", "alias", "lift_fresh", "_autocast_to_reduced_precision",
    "_autocast_to_full_precision",
})  # fmt: skip
# They look up a row of their weight, or an element, for each element of another argument.
_LOOK_UP = {
    "aten.embedding": ("weight", "indices"), "aten.embedding_bag": ("weight", "indices"),
    "aten._embedding_bag": ("weight", "indices"),
    "aten._embedding_bag_forward_only": ("weight", "indices"),
    "aten.nll_loss_forward": ("self", "target"), "aten.nll_loss_backward": ("self", "target"),
    "aten.nll_loss2d_forward": ("self", "target"), "aten.nll_loss2d_backward": ("self", "target"),
}  # fmt: skip
# They take some elements of their first argument: as many as they give.
_TAKE_PART = frozenset({
    "aten.index", "aten._unsafe_index", "aten.index_select", "aten.gather", "aten.take",
    "aten.take_along_dim",
})  # fmt: skip
# They put some elements into their first argument: as many as this one has.
_PUT_PART = {
    "aten.index_put_": "values", "aten._index_put_impl_": "values", "aten.index_copy_": "source",
    "aten.index_add_": "source", "aten.put_": "source", "aten.masked_scatter_": "source",
    "aten.scatter_": "src", "aten.scatter_add_": "src", "aten.scatter_reduce_": "src",
}  # fmt: skip
# They turn a matrix round, or multiply by one that they turn round.
_TRANSPOSE = frozenset({"aten.t", "aten.transpose", "aten.permute", "aten.linear"})
# They multiply by a matrix as it is.
_MULTIPLY = frozenset({
    "aten.mm", "aten.addmm", "aten.matmul", "aten.bmm", "aten.baddbmm", "aten.addbmm", "aten.mv",
    "aten.addmv",
})  # fmt: skip
# An error of their result is one of their argument times what that is.
_STEEP = frozenset({
    "aten.exp", "aten.exp_", "aten.exp2", "aten.expm1", "aten.sin", "aten.cos", "aten.tan",
    "aten.sin_", "aten.cos_", "aten._softmax", "aten._log_softmax", "aten.softmax", "aten.logsumexp",
    "aten.pow", "aten.sinh", "aten.cosh",
})  # fmt: skip
# It has what other processes give be there.
_WAITS = "_c10d_functional.wait_tensor"


class InWords(str):
    """What a record says of an argument that it does not keep, as an object of C++ is."""

    __slots__ = ()


def name_of(operator: str) -> str:
    """Return an operator without namespace and overload.

    >>> name_of("aten.convolution.default")
    'convolution'
    """
    parts = operator.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def is_uninitialised(operator: str) -> bool:
    """Whether what an operator gives is whatever lay in memory."""
    return operator.rpartition(".")[0] in _UNINITIALISED


def is_scratch(operator: str, output: int | None) -> bool:
    """Whether an output of an operator, or with None what it writes, is scratch memory.

    >>> is_scratch("aten.mkldnn_rnn_layer.default", 3)
    True
    """
    return operator in _SCRATCH and _SCRATCH[operator] == output


def has_scratch(operator: str) -> bool:
    """Whether any of what an operator gives or writes is scratch memory."""
    return operator in _SCRATCH


def is_copy(operator: str) -> bool:
    """Whether an op's result stands for its first argument: a copy, a cast, a quantisation."""
    name = name_of(operator)
    return name in _COPIES or "quantize" in name


def asks_for_form(operator: str) -> bool:
    """Whether an operator only asks for the form of a tensor, not for its numbers.

    >>> asks_for_form("aten.ones_like.default"), asks_for_form("aten.add.Tensor")
    (True, False)
    """
    name = f"{operator}.".split(".")[1]
    return name.endswith("_like") or name.startswith("new_")


def lookup_arguments(operator: str) -> tuple[str, str] | None:
    """Return in which argument an operator looks up what, if it does.

    It is a row of a ``"weight"`` for each index, an element of any other.

    >>> lookup_arguments("aten.embedding.default")
    ('weight', 'indices')
    """
    return _LOOK_UP.get(operator.rpartition(".")[0])


def takes_part(operator: str) -> bool:
    """Whether it takes some elements of its first argument, as many as it gives.

    >>> takes_part("aten.gather.default"), takes_part("aten.add.Tensor")
    (True, False)
    """
    return operator.rpartition(".")[0] in _TAKE_PART


def placed_argument(operator: str) -> str | None:
    """Return which argument an operator puts in the place of some elements of its first, if it does.

    >>> placed_argument("aten.index_copy_.default")
    'source'
    """
    return _PUT_PART.get(operator.rpartition(".")[0])


def is_collective(operator: str) -> bool:
    """Whether other processes take part in it."""
    return operator.startswith(_COLLECTIVES)


def gives_later(operator: str) -> bool:
    """Whether what it gives may not be there yet as it returns: until somebody waits for it.

    >>> gives_later("c10d.allreduce_.default"), gives_later("_c10d_functional.wait_tensor.default")
    (True, False)
    """
    return is_collective(operator) and not operator.startswith(_WAITS)


def transposes(operator: str) -> bool:
    """Whether it turns a matrix round, or multiplies by one that it turns round."""
    return operator.rpartition(".")[0] in _TRANSPOSE


def multiplies(operator: str) -> bool:
    """Whether it multiplies by a matrix as that is."""
    return operator.rpartition(".")[0] in _MULTIPLY


def is_steep(operator: str) -> bool:
    """Whether an error of its result is one of its argument times what that is.

    >>> is_steep("aten.exp.default"), is_steep("aten.add.Tensor")
    (True, False)
    """
    return operator.rpartition(".")[0] in _STEEP


def takes_lists_in_step(operator: str) -> bool:
    """Whether it does the same with each item of its lists."""
    return operator.startswith(("aten._foreach_", "aten._fused_"))


def draws(operator: str, *, is_on: bool) -> bool:
    """Whether it draws random numbers as a layer does in training, if its flag says so."""
    name = name_of(operator)
    return name.startswith("bernoulli") or (is_on and ("dropout" in name or "rrelu" in name))


def gives_numbers(operator: str) -> bool:
    """Whether it takes numbers out of a tensor."""
    return operator.rpartition(".")[0] in _GIVE_NUMBERS


def has_shape_by_data(operator: str) -> bool:
    """Whether the shape of what it gives depends on the data."""
    return operator.rpartition(".")[0] in _SHAPE_BY_DATA
