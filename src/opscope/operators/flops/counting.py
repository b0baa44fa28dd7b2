"""The floating-point operations of one run of an operator, by formula or by what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import flop_counter

from opscope.errors import OptionError
from opscope.operators.flops.formulas import FORMULAS, WRONG_IN_TORCH, Call, TensorForm
from opscope.operators.flops.kinds import Kind, kind_of
from opscope.operators.plans import Plan, overload, results
from opscope.torch_api import (
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    TorchDispatchMode,
    disable_current_modes,
    has_kernel_for,
)

_raw: list[Callable[..., int]] = []  # formulas that are given tensors


def register_flops(
    op: Any, *, get_raw: bool = False
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Say how many floating-point operations an operator takes, by a formula.

    It is torch's `register_flop_formula`, so that `FlopCounterMode` counts by it too. The formula is
    given the arguments with shapes in the place of tensors, and ``out_shape`` by name.

    Args:
        op: The operator, such as ``torch.ops.mylib.product``, or a list of them.
        get_raw: Whether the formula is given tensors, without data, and ``out_val``.

    Raises:
        OptionError: For what is no operator, or has a formula already.

    >>> import torch, opscope
    >>> @torch.library.custom_op("doctest::product", mutates_args=())
    ... def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    ...     return a @ b
    >>> @opscope.register_flops(torch.ops.doctest.product)
    ... def formula(a_shape, b_shape, *, out_shape, **_):
    ...     return 2 * a_shape[0] * a_shape[1] * b_shape[1]
    >>> with opscope.trace() as trace:
    ...     y = product(torch.ones(2, 3), torch.ones(3, 4))
    >>> trace.costs.flops
    48
    """
    given = list(op) if isinstance(op, (list, tuple)) else [op]
    for one in given:
        if isinstance(one, OpOverload):
            message = (
                f"op: {one} is one overload (must be all of it: torch.ops.{_packet(str(one))})"
            )
            raise OptionError(message)
        if not isinstance(one, (OpOverloadPacket, HigherOrderOperator)):
            message = f"op: {one!r} is no operator (must be one such as torch.ops.mylib.product)"
            raise OptionError(message)
        if one in flop_counter.flop_registry or given.count(one) > 1:
            message = f"op: {one} has a formula already, in torch.utils.flop_counter.flop_registry"
            raise OptionError(message)
    register = flop_counter.register_flop_formula(op, get_raw=get_raw)

    def registered(formula: Callable[..., int]) -> Callable[..., int]:
        if get_raw:
            _raw.append(formula)
        return register(formula)

    return registered


def flops_of(call: Call) -> int | None:
    """Return the floating-point operations of a run; None if they are not known.

    What a user registered counts first, then our formulas, then torch's. A composite without one
    is what it is made of.
    """
    registered, own = _formulas(call.operator)
    if registered is not None:
        if _is_torchs(registered) and not _are_strided(call):
            return None
        return _by_registry(registered, call)
    return _composed(call) if own is None else _by_formula(own, call)


def work_of(operator: str) -> Kind:
    """Return what kind of work an operator is: what has a formula counts by it."""
    return kind_of(operator) if _formulas(operator) == (None, None) else "product"


def _formulas(
    operator: str,
) -> tuple[Callable[..., int] | None, Callable[[Call], int] | None]:
    """Return the formula of an operator in torch's registry, or ours."""
    packet = _packet(operator)
    names = (packet, packet.removesuffix("_"))  # in place, as `addmm_`
    registered = next(filter(None, map(_registered().get, names)), None)
    is_wrong = _is_torchs(registered) and packet in WRONG_IN_TORCH
    if registered is not None and not is_wrong:
        return registered, None
    return None, next(filter(None, map(FORMULAS.get, names)), None)


def _is_torchs(formula: object) -> bool:
    """Whether a formula came with torch, and not from a user."""
    return getattr(formula, "__module__", "") == flop_counter.__name__


def _packet(operator: str) -> str:
    """Return an operator without its overload."""
    parts = operator.split(".")
    return ".".join(parts[:2])


def _registered() -> dict[str, Callable[..., int]]:
    return {str(packet): formula for packet, formula in flop_counter.flop_registry.items()}


def _by_formula(formula: Callable[[Call], int], call: Call) -> int | None:
    # Sparse and nested tensors take fewer operations than their shapes say, or have no such shape.
    is_opaque = "mkldnn" in call.operator
    if not (is_opaque or _are_strided(call)):
        return None
    try:
        return formula(call)
    except (LookupError, ValueError, TypeError, StopIteration):
        return None


def _are_strided(call: Call) -> bool:
    return all(form.is_strided for form in _forms(tuple(call.arguments.values())))


def _forms(value: Any) -> Iterator[TensorForm]:
    if isinstance(value, TensorForm):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _forms(item)


def _by_registry(formula: Callable[..., int], call: Call) -> int | None:
    """Ask a formula of torch's registry, which is given tensors by place.

    Most take shapes, for which torch wraps them; it does not say which of them.
    """
    takes_shapes = hasattr(formula, "__wrapped__") and formula not in _raw
    for stand_in in (_shape, _tensor) if takes_shapes else (_tensor,):
        try:
            args, kwargs = _arguments(call, stand_in)
            outputs = tuple(map(stand_in, call.outputs))
            given = outputs[0] if len(outputs) == 1 else outputs
            count = int(formula(*args, **kwargs, out_val=given))
        except Exception:  # noqa: BLE001, S112 (one of the user's may raise anything)
            continue
        return count if count >= 0 else None
    return None


def _arguments(
    call: Call, stand_in: Callable[[TensorForm | None], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments as the dispatcher gives them, with something in the place of tensors."""
    named = {name: _replaced(item, stand_in) for name, item in call.arguments.items()}
    found = overload(call.operator)
    if found is None:  # a higher-order operator
        return list(named.values()), {}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in found._schema.arguments:
        name = argument.name
        if argument.kwarg_only:
            if name in named:
                kwargs[name] = named[name]
        elif name in named or argument.has_default_value():
            args.append(named.get(name, argument.default_value))
        else:
            args.append(None)
    return args, kwargs


def _replaced(value: Any, stand_in: Callable[[TensorForm | None], Any]) -> Any:
    if isinstance(value, TensorForm):
        return stand_in(value)
    if isinstance(value, (tuple, list)):
        return [_replaced(item, stand_in) for item in value]
    return value


def _shape(form: TensorForm | None) -> tuple[int, ...] | None:
    return None if form is None else form.shape


def _tensor(form: TensorForm | None) -> torch.Tensor | None:
    """Return a tensor without data."""
    if form is None:
        return None
    with disable_current_modes(), torch.inference_mode(False):
        return torch.empty(form.shape, dtype=getattr(torch, form.dtype), device="meta")


class _Parts(TorchDispatchMode):
    """Sums over the operators that a composite is made of."""

    def __init__(self, whole: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int | None = 0
        self._whole = whole

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = str(func)
        if work_of(name) == "product" and self.flops is not None:
            named = {**dict(zip(Plan(func).arguments, args, strict=False)), **kwargs}
            forms = {key: _described(item) for key, item in named.items()}
            call = Call(name, forms, tuple(map(_form, results(result))))
            count = None if name == self._whole else flops_of(call)
            self.flops = None if count is None else self.flops + count
        return result


def _form(tensor: torch.Tensor | None) -> TensorForm | None:
    if tensor is None:
        return None
    return TensorForm(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _form(value)
    return [_described(item) for item in value] if isinstance(value, (tuple, list)) else value


def _composed(call: Call) -> int | None:
    """Count what a composite is made of, by running it without data."""
    found = overload(call.operator)
    if found is None or not has_kernel_for(found.name(), "CompositeImplicitAutograd"):
        return None
    if call.packed or not _are_strided(call):
        return None
    args, kwargs = _arguments(call, _tensor)
    if isinstance(kwargs.get("device"), (str, torch.device)):
        kwargs["device"] = torch.device("meta")
    parts = _Parts(call.operator)
    try:
        with disable_current_modes(), torch.inference_mode(False), torch.no_grad(), parts:
            found(*args, **kwargs)
    except Exception:  # noqa: BLE001 (what it is made of may need data)
        return None
    return parts.flops
