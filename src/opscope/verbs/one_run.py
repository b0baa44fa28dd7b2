"""The table of a model in one call, which leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from opscope.capture.log.containers import tensors_of
from opscope.errors import OptionError, check_expand, check_model
from opscope.saving import as_device
from opscope.tracer import trace
from opscope.verbs.untouched import untouched

if TYPE_CHECKING:
    from opscope.exporters.tables.console import Summary
    from opscope.views.quotients.levels import Level

Size = Sequence[int]

# What torchinfo calls it, and what it is here.
_TORCHINFO = {
    "verbose": "nothing is printed until it is asked for (print what is returned)",
    "col_names": "columns=[...] or columns='torchinfo'",
    "col_width": "the table fits the console, or as_text(width)",
    "row_settings": "columns=[...] and depth=",
    "batch_dim": "give shapes with the batch: input_size=(1, 3, 224, 224)",
    "cache_forward_pass": "trace once, and ask the trace for tables",
    "mode": "call model.eval() or model.train() before",
}
_FORMS = (
    "give the inputs as the model takes them, `opscope.summary(model, x)` or `(model, ids=x)`; "
    "or input_data= (a tensor, a list, a dictionary); or input_size= (a shape, or a list of them)"
)


def summary(
    model: nn.Module,
    *inputs: Any,
    input_data: Any = None,
    input_size: Size | Sequence[Size] | None = None,
    dtypes: Sequence[torch.dtype] | torch.dtype | None = None,
    device: str | torch.device | None = None,
    level: Level = "module",
    depth: int | None = None,
    columns: Sequence[str] | str | None = None,
    sort_by: str | None = None,
    row_limit: int | None = None,
    expand: Sequence[str] | Literal["all"] = (),
    **named: Any,
) -> Summary:
    """Run a model once without gradients, and return its table, see `Trace.summary`.

    Its mode is what it is, and its weights, buffers, inputs, device and the random numbers are
    afterwards what they were before. To ask for more than the table, trace the model: ``with opscope.trace(model)
    as trace: model(x)``.

    Args:
        model: The model.
        inputs: What it is called with.
        input_data: The same in one: a tensor, a list or tuple of arguments by place, or a
            dictionary of those by name.
        input_size: Shapes, batch included, of which random inputs are made: of one input, or a
            list of those of several.
        dtypes: The element types of these, or the one of all; float32 if not given.
        device: Where inputs are made or taken to; that of the model's weights if not given. With
            ``"meta"`` nothing is computed and no memory taken: a copy of the model without data
            runs, and the model stays where it is.
        level: What a row is: ``"op"``, ``"layer"`` or ``"module"``.
        depth: How deep in the module tree to look.
        columns: Which columns; see `Trace.summary`.
        sort_by: A column to sort by.
        row_limit: How many rows to show at most.
        expand: Which blocks that repeat are not one row, as in `Trace.summary`.
        named: What it is called with by name.

    Raises:
        OptionError: For what is none of those, or inputs in no way or in two, before the model runs.

    >>> import torch, opscope
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> print(opscope.summary(model, input_size=(3, 4), columns=["name", "output", "params", "macs"]))
    Sequential
    module        output      params   MACs
    ───────────────────────────────────────
    Sequential    f32[3, 2]       10     24
    ├─ 0 Linear   f32[3, 2]       10     24
    └─ 1 ReLU     f32[3, 2]        –      –
    <BLANKLINE>
    parameters 10 (40 B), 10 trainable, 0 frozen
    buffers    0 (0 B)
    computed   4 tensors (48 B newly allocated) by 4 layers, 3 aten ops
    FLOPs      48 forward (a multiply-add is 2); all 3 kinds of op known
    """
    from opscope.exporters.tables.console import check_table

    check_model(model, nn.Module)
    check_table(level, depth, "forward", columns, sort_by, row_limit)
    check_expand(expand, [name for name, _ in model.named_modules()])
    where = as_device(device)
    args, kwargs = _inputs(inputs, named, input_data, input_size, dtypes, where or _home(model))
    if where is not None:
        args, kwargs = _taken(args, where), _taken(kwargs, where)
    _check_shapes(model)
    on_meta = where is not None and where.type == "meta"
    if on_meta:
        model = _without_data(model)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if on_meta:
            stack.enter_context(torch.device("meta"))  # for what forward makes itself
        contents = stack.enter_context(untouched(model, tensors_of((args, kwargs))))
        with trace(model, collectors=[contents]) as traced:  # type: ignore[list-item]
            model(*args, **kwargs)
    return traced.summary(
        level, depth, columns=columns, sort_by=sort_by, row_limit=row_limit, expand=expand
    )


def _check_shapes(model: nn.Module) -> None:
    """Raise an `OptionError` if a model has lazy modules, which running it would change."""
    lazy = UninitializedParameter, UninitializedBuffer
    if any(isinstance(item, lazy) for item in (*model.parameters(), *model.buffers())):
        message = (
            "model: it has lazy modules, which get their shapes as they run, and it is to stay as it "
            "is: run it once before, `model(x)`, or trace it"
        )
        raise OptionError(message)


def _home(model: nn.Module) -> torch.device:
    """Return the device of the first weight."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _inputs(
    given: tuple[Any, ...],
    named: dict[str, Any],
    data: Any,
    size: Size | Sequence[Size] | None,
    dtypes: Sequence[torch.dtype] | torch.dtype | None,
    device: torch.device,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the model, by place and by name."""
    for name in set(named) & set(_TORCHINFO):
        message = f"{name}: {_TORCHINFO[name]}"
        raise OptionError(message)
    ways = {
        "inputs by place": bool(given), "input_data": data is not None,
        "input_size": size is not None,
    }  # fmt: skip
    used = [way for way, is_used in ways.items() if is_used]
    if len(used) > 1:
        message = f"inputs were given in several ways, {' and '.join(used)}: {_FORMS}"
        raise OptionError(message)
    if dtypes is not None and size is None:
        message = "dtypes: they are of inputs that are made of input_size="
        raise OptionError(message)
    if size is not None:
        return tuple(_made(size, dtypes, device)), named
    if isinstance(data, Mapping):
        return (), {**data, **named}
    if data is not None:
        return tuple(data) if isinstance(data, (list, tuple)) else (data,), named
    if not used and not named:
        message = f"no input was given: {_FORMS}"
        raise OptionError(message)
    return given, named


def _made(
    size: Size | Sequence[Size],
    dtypes: Sequence[torch.dtype] | torch.dtype | None,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Yield an input of each shape: random numbers, ones where they are no floats."""
    is_one = isinstance(size, Sequence) and all(type(item) is int for item in size)
    sizes: Any = [size] if is_one else size
    listed = isinstance(sizes, Sequence) and not isinstance(sizes, str)
    if not listed or not all(map(_is_shape, sizes)):
        message = (
            f"input_size: {size!r} (must be a shape such as (1, 3, 224, 224), or a list of them)"
        )
        raise OptionError(message)
    alone = torch.float32 if dtypes is None else dtypes
    kinds = [alone] * len(sizes) if isinstance(alone, torch.dtype) else list(alone)
    if len(kinds) != len(sizes) or not all(isinstance(kind, torch.dtype) for kind in kinds):
        message = f"dtypes: {dtypes!r} (must be one torch.dtype for each of {len(sizes)} shapes)"
        raise OptionError(message)
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)
    for shape, dtype in zip(sizes, kinds, strict=True):
        if dtype.is_floating_point or dtype.is_complex:
            yield torch.rand(tuple(shape), generator=generator, device=device).to(dtype)
        else:
            yield torch.ones(tuple(shape), dtype=dtype, device=device)


def _is_shape(sizes: Any) -> bool:
    return isinstance(sizes, Sequence) and all(type(item) is int and item >= 0 for item in sizes)


def _taken(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on a device, in containers of the same kind."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _taken(item, device) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_taken(item, device) for item in value)
    return value


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose tensors are on the meta device."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (
            *module._parameters.values(),
            *module._buffers.values(),
            *vars(module).values(),
        ):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in known:
                empty = torch.empty_like(tensor, device="meta")
                is_parameter = isinstance(tensor, nn.Parameter)
                known[id(tensor)] = (
                    nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                )
    try:
        return copy.deepcopy(model, known)
    except Exception as error:
        message = (
            f"device: 'meta' takes a copy of the model without its data, which this one does not "
            f"allow ({type(error).__name__}: {error}); leave `device` out to run it as it is"
        )
        raise OptionError(message) from error
