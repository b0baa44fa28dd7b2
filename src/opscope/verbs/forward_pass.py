"""The article's one-liner: trace one forward pass, and draw it, in a single call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from opscope.errors import OptionError, check_choice, check_depth, check_model
from opscope.notation import foreign
from opscope.saving import What
from opscope.tracer import Trace, trace

if TYPE_CHECKING:
    from opscope.exporters.dot import Direction

_VIS_OPTIONS = ("none", "rolled", "unrolled")


def log_forward_pass(
    model: nn.Module,
    input_args: Any,
    input_kwargs: Mapping[str, Any] | None = None,
    *,
    layers_to_save: What = "all",
    vis_opt: str = "none",
    vis_nesting_depth: int | None = None,
    vis_direction: Direction = "down",
    vis_outpath: str | PathLike[str] | None = None,
) -> Trace:
    """Run a model once, and return the trace of it.

    It is ``with opscope.trace(model, save=layers_to_save): model(...)`` and `Trace.draw` in
    one call, under the names of the article. The model's mode, device and random numbers
    are what they are.

    Args:
        model: The model to run.
        input_args: A tensor, or a list or tuple of positional arguments, or a dictionary
            of keyword arguments.
        input_kwargs: Keyword arguments.
        layers_to_save: ``"all"``, ``"none"``, None, or a list of labels, module addresses,
            positions and substrings; `Trace.layer_labels` then lists just these.
        vis_opt: ``"none"``, or draw a picture: ``"rolled"`` with the passes of each layer
            folded, ``"unrolled"`` without.
        vis_nesting_depth: How deep in the module tree to look; None for all of it.
        vis_direction: Where the data flows to in the picture.
        vis_outpath: Where to write the picture; the suffix is the format. By default
            ``opscope_graph.svg`` here, or ``.dot`` where no renderer is installed.

    Raises:
        OptionError: For an argument that is not one of the valid ones, before the model runs.
        LayerNotFound: If an entry of ``layers_to_save`` stands for no layer that ran.
        RenderError: If nothing on this machine makes the format, before the model runs.

    >>> import torch, opscope
    >>> history = opscope.log_forward_pass(torch.nn.Linear(5, 3), torch.rand(6, 5))
    >>> history["linear_1_1"].tensor_contents.shape
    torch.Size([6, 3])
    """
    check_model(model, nn.Module)
    # networkx and pydot load only when something is drawn or its options are checked.
    from opscope.exporters.dot import DIRECTIONS
    from opscope.exporters.picture import can_render, check_path

    args, kwargs = _arguments(input_args, input_kwargs)
    check_choice("vis_opt", vis_opt, _VIS_OPTIONS)
    check_choice("vis_direction", vis_direction, tuple(DIRECTIONS))
    check_depth(vis_nesting_depth)
    path = None
    if vis_opt != "none":
        suffix = ".svg" if can_render(".svg") else ".dot"
        path = check_path(vis_outpath or f"opscope_graph{suffix}")
    with trace(model, save=layers_to_save) as traced:
        model(*args, **kwargs)
    _ = traced.layer_labels  # raises where layers_to_save names what there is not
    if path is not None:
        written = traced.draw(
            path, depth=vis_nesting_depth, direction=vis_direction, rolled=vis_opt == "rolled"
        )
        print(f"Picture written to {foreign(str(written), 1000)}", file=sys.stderr)  # noqa: T201
    return traced


def _arguments(
    given: Any, named: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if named is not None and not isinstance(named, Mapping):
        message = f"input_kwargs: {type(named).__name__} object (must be a dictionary)"
        raise OptionError(message)
    kwargs = dict(named or {})
    if isinstance(given, Mapping):
        kwargs = {**given, **kwargs}
    for name in kwargs:
        if not isinstance(name, str):
            message = f"the name of a keyword argument is a string, not {name!r}"
            raise OptionError(message)
    if isinstance(given, torch.Tensor):
        return (given,), kwargs
    if isinstance(given, Mapping):
        return (), kwargs
    if isinstance(given, (list, tuple)):
        return tuple(given), kwargs
    return (given,), kwargs
