"""What is saved is cast, moved and transformed, and whatever goes wrong there stays there."""

import gc
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests import witness
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope.errors import NotSaved, OptionError


class Pair(NamedTuple):
    least: torch.Tensor
    most: torch.Tensor


X = torch.rand(2, 4) - 0.5


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))


def same(found, expected):
    if isinstance(expected, (tuple, list)):
        pairs = zip(found, expected, strict=True)
        return type(found) is type(expected) and all(same(*p) for p in pairs)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    if isinstance(expected, torch.Tensor):
        dense = expected.layout is torch.strided
        return torch.equal(
            *((found, expected) if dense else (found.to_dense(), expected.to_dense()))
        )
    if isinstance(expected, np.ndarray):
        return np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


LOOP = []
LOOP.append(LOOP)
RETURNS = {
    "number": lambda t: t.mean().item(),
    "whole number": lambda t: t.numel(),
    "bool": lambda t: bool((t > 0).any()),
    "text": str,
    "None": lambda t: None,
    "shape": lambda t: t.shape,
    "type": lambda t: t.dtype,
    "tuple": lambda t: (t.min(), t.max()),
    "empty tuple": lambda t: (),
    "NamedTuple": lambda t: Pair(t.min(), t.max()),
    "list": lambda t: t.tolist(),
    "dictionary": lambda t: {"mean": t.mean(), "itself": t, "shape": t.shape},
    "array": lambda t: t.numpy(),
    "array of part of it": lambda t: t.numpy()[:1],
    "itself": lambda t: t,
    "view": lambda t: t[0],
    "another type": lambda t: t.half(),
    "sparse": lambda t: t.to_sparse(),
    "wrapper": lambda t: TwoTensor(t, t + 1).sin().a,
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("transform", RETURNS.values(), ids=RETURNS)
def test_a_transform_may_return_what_it_likes_to(transform, mode, layers):
    """Of the value as it was, although an in-place ReLU wrote over it."""
    model = network()
    with mode():
        with torch.no_grad():
            expected = transform(model[0](X).detach())
        with opscope.trace(
            model, layers=layers, save=opscope.Save("all", transform=transform)
        ) as trace:
            y = model(X)
        assert torch.equal(y, model(X))
    layer = next(layer for layer in trace if layer.type in {"linear", "addmm"})
    assert same(layer.activation, expected)
    assert layer.is_saved
    for each in trace:
        assert each.label.rpartition(":")[0] in str(each) or each.label in str(each)
    assert str(trace)
    assert trace.summary()


def test_a_transform_that_returns_none_is_not_one_that_was_not_saved():
    with opscope.trace(save=opscope.Save(["sin"], transform=lambda _: None)) as trace:
        X.sin().cos()
    assert trace["sin"].activation is None
    with pytest.raises(NotSaved):
        _ = trace["cos"].activation
    assert "None" in str(trace["sin"])


def test_of_several_tensors_each_is_transformed():
    with opscope.trace(save=opscope.Save("all", transform=lambda t: tuple(t.shape))) as trace:
        torch.max(X, 1)
    assert trace["max"].activation == ((2,), (2,))


class Mine(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raising(error):
    def transform(tensor):
        if tensor.shape[-1] == 3:
            raise error  # <- here
        return tensor.sum()

    return transform


ERRORS = [ZeroDivisionError("mine"), Mine(), StopIteration(), MemoryError(), RecursionError("deep")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_transform_raises_is_told_to_who_asks_for_the_layer(error, layers):
    model, transform = network(), raising(error)
    with torch.no_grad():
        expected = model(X)
    trace = opscope.trace(model, layers=layers, save=opscope.Save("all", transform=transform))
    with torch.no_grad(), witness.untouched(model), trace:
        y = model(X)
    assert trace.failure is None
    assert torch.equal(y, expected)
    bad = next(layer for layer in trace if layer.type in {"linear", "addmm"})
    file, line = witness.line_of(raising, "here")
    for _ in range(2):
        with pytest.raises(OptionError) as found:
            _ = bad.activation
        text = str(found.value)
        assert text.startswith(f"transform: cannot be applied to the activation of {bad.label}")
        assert type(error).__name__ in text
        assert f"{file}:{line}" in text
        assert found.value.__cause__ is error
    assert "transform" in str(bad)
    assert trace[-1].activation.shape == ()  # the others have theirs
    assert str(trace)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_transform_ends_the_block(error, layers):
    def transform(tensor):
        raise error

    model = network()
    trace = opscope.trace(model, layers=layers, save=opscope.Save("all", transform=transform))
    with witness.untouched(model), pytest.raises(error), trace:
        model(X)
    assert trace.failure.exception == error.__name__


def test_an_error_of_a_transform_keeps_no_tensor_alive(layers):
    seen = []

    def transform(tensor):
        seen.append(weakref.ref(tensor))
        raise ZeroDivisionError

    with opscope.trace(layers=layers, save=opscope.Save("all", transform=transform)) as trace:
        X.sin()
    gc.collect()
    assert not any(live() is not None for live in seen)
    assert len(trace) > 0


def test_a_gradient_that_cannot_be_cast_is_told_of_likewise():
    """No element type is smaller than a byte, but for some that nothing can be cast to."""
    x = torch.rand(3, requires_grad=True)
    packed = torch.float4_e2m1fn_x2
    with opscope.trace(
        save=opscope.Save("all", dtype=packed), gradients=opscope.Save("all", dtype=packed)
    ) as trace:
        x.exp().sum().backward()
    with pytest.raises(OptionError, match=r"^dtype: cannot be applied to the gradient of exp_1_1"):
        _ = trace["exp"].gradient
    with pytest.raises(
        OptionError, match=r"^dtype: cannot be applied to the activation of exp_1_1"
    ):
        _ = trace["exp"].activation
    assert trace["exp"].has_gradient
    assert torch.equal(x.grad, x.exp())


KEPT = []
CHANGES = {
    "grad mode": lambda t: torch.set_grad_enabled(mode=False),
    "written": lambda t: t.zero_(),
    "through a view": lambda t: t[0].fill_(7),
    "through numpy": lambda t: t.numpy().fill(7),
    "resized": lambda t: t.untyped_storage().resize_(0),
    "kept": KEPT.append,
    "set": lambda t: t.set_(torch.zeros(1)),
}


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_transform_cannot_harm_the_program(change, detach, layers):
    model = network()
    expected = model(X)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with opscope.trace(
        model, layers=layers, save=opscope.Save("all", detach=detach, transform=change)
    ) as trace:
        y = model(X)
        y.sum().backward()
    KEPT.clear()
    assert torch.equal(y, expected)
    assert all(map(torch.equal, gradients, (p.grad for p in model.parameters())))
    assert trace.failure is None


def test_what_a_transform_keeps_does_not_change_with_the_program():
    kept = []
    with opscope.trace(save=opscope.Save("all", transform=kept.append)):
        y = X.sin()
        y.zero_()
    assert any(torch.equal(tensor, X.sin()) for tensor in kept)


def test_what_a_transform_runs_is_not_recorded(layers):
    """Neither its ops nor its modules, be they the model's own or those that run just now."""
    model, probe = network(), nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    other = {4: nn.functional.dropout, 3: probe, 2: lambda t: model[:1](X)}

    def transform(tensor):
        return other.get(tensor.shape[-1], torch.sum)(tensor)

    with opscope.trace(model, layers=layers) as plain:
        model(X)
    with opscope.trace(
        model, layers=layers, save=opscope.Save("all", transform=transform)
    ) as trace:
        model(X)
    assert [op.operator for op in trace.ops] == [op.operator for op in plain.ops]
    assert trace.layer_labels == plain.layer_labels
    assert [m.address for m in trace.modules] == [m.address for m in plain.modules]
    assert len(trace.recording.module_calls) == len(plain.recording.module_calls)


def test_nor_do_other_traces_and_modes_see_it():
    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Functions(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    seen = []
    inner = opscope.trace(save=opscope.Save("all", transform=lambda t: t.cos().mean()))
    with Ops(), Functions(), opscope.trace() as outer, inner, Functions():
        X.sin()
    assert seen == ["sin", "sin", "aten.sin.default"]
    assert [op.name for op in outer.ops] == ["sin"]


def test_random_numbers_that_a_transform_draws_are_those_of_the_program_still(layers):
    def program():
        return torch.rand(2), nn.functional.dropout(X), torch.randn(2)

    torch.manual_seed(1)
    expected = program()
    torch.manual_seed(1)
    with opscope.trace(layers=layers, save=opscope.Save("all", transform=torch.rand_like)):
        found = program()
    assert all(map(torch.equal, found, expected))


def test_a_transform_is_given_the_class_that_the_activation_has():
    class Named(torch.Tensor):
        pass

    x = X.clone().as_subclass(Named)
    x.label = "mine"
    with opscope.trace(
        save=opscope.Save("all", transform=lambda t: (type(t), type(t * 2)))
    ) as trace:
        x.sin()
    assert trace["sin"].activation == (Named, Named)


# --------------------------------------------------------------------------- dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_casts_floating_point_only(dtype, layers):
    with opscope.trace(layers=layers, save=opscope.Save("all", dtype=dtype)) as trace:
        y = (X * 2).argmax(1) + 1
        (y > 1).logical_not()
        torch.ones(2, dtype=torch.complex64) * 2j
        torch.ones(2, dtype=torch.uint8).bitwise_not()
    kinds = {
        str(layer.outputs[0].dtype): layer.activation.dtype
        for layer in trace
        if layer.ops and layer.type != "to"
    }
    assert kinds == {
        "float32": dtype, "int64": torch.int64, "bool": torch.bool,
        "complex64": torch.complex64, "uint8": torch.uint8,
    }  # fmt: skip


def test_a_complex_dtype_casts_complex_and_floating_point():
    with opscope.trace(save=opscope.Save("all", dtype=torch.complex128)) as trace:
        torch.fft.fft(X.sin())
        X.argmax()
    assert trace["fftfft"].activation.dtype == torch.complex128
    assert trace["sin"].activation.dtype == torch.complex128
    assert trace["argmax"].activation.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:torch.quant.*:UserWarning")
def test_quantised_and_sparse_values_keep_their_kind_with_a_dtype():
    with opscope.trace(save=opscope.Save("all", dtype=torch.float64)) as trace:
        q = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
        q.dequantize().to_sparse()
    assert trace["quantizepertensor"].activation.dtype == torch.quint8
    assert trace["tosparse"].activation.dtype == torch.float64
    assert trace["dequantize"].activation.dtype == torch.float64


def test_gradients_that_are_complex_keep_their_type_with_a_dtype():
    x = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    with opscope.trace(gradients=opscope.Save("all", dtype=torch.float16)) as trace:
        (x * 2).abs().sum().backward()
    assert trace["mul"].gradient.dtype == torch.complex64
    assert trace["abs"].gradient.dtype == torch.float16


def test_the_first_nonfinite_value_is_not_looked_for_in_what_a_transform_made():
    with opscope.trace(save=opscope.Save("all", transform=lambda _: float("nan"))) as trace:
        X.sin()
    with pytest.raises(NotSaved, match="transform"):
        trace.first_nonfinite()
    with opscope.trace(save=opscope.Save("all", transform=torch.clone)) as trace:
        torch.zeros(2).log().mul_(2)
    assert trace.first_nonfinite().layer == "log_1_1"
