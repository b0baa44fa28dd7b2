"""Attention runs the kernels under a trace that it runs without, however it is called."""

import cProfile
import sys

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope.capture.unchanged import fused_kernels

ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True).eval()
ODD = nn.MultiheadAttention(9, 3, batch_first=True).eval()
SECOND = nn.MultiheadAttention(8, 2).eval()
TRAINED = nn.MultiheadAttention(8, 2, batch_first=True)
LAYER = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
ENCODER = nn.TransformerEncoder(LAYER, 2).eval()
HALF = nn.TransformerEncoder(LAYER, 1).eval()
HALF.training = True  # it is its first layer that torch asks
X, X9 = torch.rand(3, 5, 8), torch.rand(3, 5, 9)
PADDING = torch.arange(5) > torch.tensor([[2], [4], [4]])
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)


class Layer(nn.TransformerEncoderLayer):
    """A layer that adds to torch's."""

    def forward(self, src, *args, **kwargs):
        return super().forward(src, *args, **kwargs) * 2


class Attention(nn.MultiheadAttention):
    def forward(self, x, **kwargs):
        return super().forward(x, x, x, **kwargs)[0] + 1


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = ATTENTION
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(self.attention.forward(x, x, x, need_weights=False)[0]).relu()


class Operators(TorchDispatchMode):
    """Writes down each operator, also one that fails."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Passing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Mine(torch.Tensor):
    pass


def itself(x=X, **options):
    return ATTENTION.forward(x, x, x, **options)[0].relu()


def under(context):
    def program():
        with context():
            return itself()

    return program


def refused():
    with pytest.raises((RuntimeError, AssertionError)):
        ATTENTION.forward(X, X, X, key_padding_mask=torch.ones(2, 2, dtype=torch.bool))
    return X.relu()


CUSTOM = Layer(8, 2, 16, batch_first=True).eval()
CUSTOM_ATTENTION = Attention(8, 2, batch_first=True).eval()
MODEL = Model().eval()
FUSED = {
    "attention": itself,
    "without weights": lambda: itself(need_weights=False),
    "with padding": lambda: itself(key_padding_mask=PADDING),
    "with a mask": lambda: itself(attn_mask=CAUSAL),
    "with both": lambda: itself(attn_mask=CAUSAL, key_padding_mask=PADDING),
    "one after the other": lambda: itself(itself()),
    "layer": lambda: LAYER.forward(X).relu(),
    "layer with padding": lambda: LAYER.forward(X, src_key_padding_mask=PADDING).relu(),
    "encoder": lambda: ENCODER.forward(X).relu(),
    "encoder with padding": lambda: ENCODER.forward(X, src_key_padding_mask=PADDING).relu(),
    "encoder with a mask": lambda: ENCODER.forward(X, mask=CAUSAL).relu(),
    "encoder in training": lambda: HALF.forward(X, src_key_padding_mask=PADDING).relu(),
    "encoder in training, called": lambda: HALF(X, src_key_padding_mask=PADDING).relu(),
    "super()": lambda: CUSTOM(X).relu(),
    "super() by forward": lambda: CUSTOM.forward(X).relu(),
    "super() of attention": lambda: CUSTOM_ATTENTION(X).relu(),
    "in a model": lambda: MODEL(X),
    "of the class": lambda: torch.relu(nn.MultiheadAttention.forward(ATTENTION, X, X, X)[0]),
    "functional_call": lambda: torch.func.functional_call(
        MODEL, dict(MODEL.named_parameters()), (X,)
    ),
    "called": lambda: torch.relu(ATTENTION(X, X, X)[0]),
    "layer called": lambda: LAYER(X).relu(),
    "encoder called": lambda: ENCODER(X, src_key_padding_mask=PADDING).relu(),
}  # fmt: skip
NOT_FUSED = {
    "odd heads": lambda: torch.relu(ODD.forward(X9, X9, X9)[0]),
    "batch second": lambda: torch.relu(SECOND.forward(X, X, X)[0]),
    "without a batch": lambda: itself(X[0]),
    "a float mask": lambda: itself(attn_mask=CAUSAL.float()),
    "other keys": lambda: torch.relu(ATTENTION.forward(X, X + 1, X + 1)[0]),
    "training": lambda: torch.relu(TRAINED.forward(X, X, X)[0]),
    "a class of one's own": lambda: itself(X.as_subclass(Mine)),
    "a mode of one's own": under(Passing),
    "autocast": under(lambda: torch.autocast("cpu")),
    "device": under(lambda: torch.device("cpu")),
    "an error": refused,
}  # fmt: skip
NESTED = [[{}], [{"layers": False}], [{}, {}], [{}, {"layers": False}], [{"layers": False}, {}],
          [{"save": "all"}], [{"replayable": True}]]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("program", [*FUSED.values(), *NOT_FUSED.values()],
                         ids=[*FUSED, *NOT_FUSED])  # fmt: skip
def test_the_ops_and_the_result_are_those_of_outside(program, mode):
    for options in NESTED:
        with mode():
            torch.manual_seed(0)
            with Operators() as seen:
                expected = program()
            torch.manual_seed(0)
            traces = [opscope.trace(**each) for each in options]
            for trace in traces:
                trace.__enter__()
            found = program()
            modes = _get_current_function_mode_stack()
            for trace in reversed(traces):
                trace.__exit__(None, None, None)
        assert torch.equal(found, expected)
        assert type(found) is type(expected)
        assert len(modes) == sum(each.get("layers", True) for each in options)
        assert sys.getprofile() is None
        for trace in traces:
            assert [op.operator for op in trace.ops] == seen.names
            assert "relu" in {layer.type for layer in trace if layer.ops}


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.parametrize("program", FUSED.values(), ids=FUSED)
def test_a_fused_kernel_is_one_layer_and_its_record_is_replayed(program):
    with torch.no_grad(), opscope.trace(replayable=True) as trace:
        program()
    kernels = [op for op in trace.ops if "_native_multi" in op.operator or "_fwd" in op.operator]
    assert kernels
    for kernel in kernels:
        (layer,) = [layer for layer in trace if kernel in layer.ops]
        assert layer.ops == (kernel,)
        assert layer.type in {"nativemultiheadattention", "transformerencoderlayerfwd"}
    report = trace.validate()
    assert report, str(report)


def test_around_it_every_function_is_a_layer():
    with torch.no_grad(), opscope.trace(MODEL) as trace:
        MODEL(X)
    assert [layer.type for layer in trace if layer.ops] == [
        "nativemultiheadattention", "linear", "relu",
    ]  # fmt: skip
    with torch.no_grad(), opscope.trace() as trace:
        NOT_FUSED["odd heads"]()
    assert {"transpose", "multiheadattentionforward"} <= {layer.type for layer in trace}


def test_a_profiler_of_the_users_goes_on(layers):
    """Then the kernel is left, as under any function mode; but nothing is taken from the user."""
    heard = []

    def profiler(frame, event, arg):
        heard.append(event)

    with torch.no_grad(), opscope.trace(layers=layers):
        sys.setprofile(profiler)
        try:
            itself()
            after = sys.getprofile()
        finally:
            sys.setprofile(None)
    assert after is profiler
    assert "return" in heard
    with torch.no_grad(), opscope.trace(layers=layers), cProfile.Profile() as profile:
        itself()
    assert profile.getstats()


def test_an_interrupt_during_the_question_leaves_nothing(monkeypatch):
    """As a signal may, between any two steps."""

    def interrupted(mode):
        monkeypatch.undo()
        raise KeyboardInterrupt

    trace = opscope.trace()
    monkeypatch.setattr(fused_kernels, "push_function_mode", interrupted)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt), trace:
        itself()
    assert sys.getprofile() is None
    assert not _get_current_function_mode_stack()
    with torch.no_grad(), opscope.trace() as again:
        itself()
    assert [layer.type for layer in again if layer.ops] == ["nativemultiheadattention", "relu"]
