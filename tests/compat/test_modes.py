"""Modes and contexts of torch and of the user, around a trace and inside it."""

from contextlib import ExitStack

import pytest
import torch
from tests import invariants, witness
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._debug_mode import DebugMode
from torch.utils.flop_counter import FlopCounterMode

import opscope

pytestmark = [
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:Profiler clears events:UserWarning"),
]

X = torch.arange(12.0).view(3, 4) / 12


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2)
    )


class Functions(TorchFunctionMode):
    """Writes down each torch function."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Tenfold(witness.TorchDispatchMode):
    """Changes what operators give."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 10 if func is torch.ops.aten.relu.default else result


class Deterministic:
    def __enter__(self):
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_):
        torch.use_deterministic_algorithms(False)


MODES = {
    "dispatch mode": (witness.Witness, lambda mode: mode.ops),
    "dispatch mode that changes results": (Tenfold, None),
    "function mode": (Functions, lambda mode: mode.names),
    "FlopCounterMode": (
        lambda: FlopCounterMode(display=False), lambda mode: mode.get_flop_counts()
    ),
    # With any dispatch mode inside, torch has it see one more detach of each view.
    "DebugMode": (
        DebugMode,
        lambda mode: [c for c in (c.render([]) for c in mode.operators) if "::detach" not in c],
    ),
    "profiler": (
        lambda: torch.autograd.profiler.profile(use_cpu=True, use_kineto=False),
        lambda mode: sorted({e.key for e in mode.key_averages()} & {"aten::addmm", "aten::mm"}),
    ),
    "no_grad": (torch.no_grad, None),
    "inference_mode": (torch.inference_mode, None),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), None),
    "anomaly mode": (torch.autograd.detect_anomaly, None),
    "deterministic mode": (Deterministic, None),
    "device context": (lambda: torch.device("cpu"), None),
    "save_on_cpu": (torch.autograd.graph.save_on_cpu, None),
    "another trace": (opscope.trace, witness.recorded),
}  # fmt: skip


def run(model):
    """Return what a training step gives, as far as gradients are wanted."""
    torch.manual_seed(1)
    y = model(X)
    if y.requires_grad:
        y.float().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return witness.bits([y.float(), *gradients, *model.buffers()])


@pytest.mark.parametrize("save", [None, "all"], ids=["nothing saved", "all saved"])
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.parametrize(("make", "seen_by"), MODES.values(), ids=MODES)
def test_a_trace_and_a_mode_do_not_disturb_each_other(make, seen_by, inside, save, layers):
    model, mode = build(), make()
    with mode:
        expected = run(model)
    alone = seen_by(mode) if seen_by else None
    model, mode = build(), make()
    trace = opscope.trace(model, layers=layers, save=save)
    with ExitStack() as stack:
        for each in (trace, mode) if inside else (mode, trace):
            stack.enter_context(each)
        found = run(model)
    assert found == expected
    assert [op.name for op in trace.ops if op.name in {"addmm", "linear"}] in (
        ["addmm", "addmm"], ["linear", "linear"]
    )  # fmt: skip
    assert {"0", "1", "2", "4"} <= {layer.module for layer in trace}
    if seen_by:
        assert seen_by(mode) == alone
    if all(op.phase == "forward" for op in trace.ops):
        invariants.check(trace)


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_a_mode_that_changes_results_changes_what_is_recorded_inside_it(inside, layers):
    trace, mode = opscope.trace(layers=layers), Tenfold()
    with torch.no_grad(), ExitStack() as stack:
        for each in (trace, mode) if inside else (mode, trace):
            stack.enter_context(each)
        y = X.relu()
    assert torch.equal(y, X * 10)
    assert [op.name for op in trace.ops] == ["relu"] + (["mul"] if inside else [])


def test_inference_mode_keeps_composite_operators_whole(layers):
    """As torch runs them there: the graph has the linear that no_grad takes apart."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    graphs = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), opscope.trace(model, layers=layers, replayable=True) as trace:
            model(X)
        assert trace.validate(), trace.validate()
        graphs.append(trace)
    plain, inference = ([op.name for op in trace.ops] for trace in graphs)
    assert plain == ["t", "addmm", "relu", "t", "addmm"]
    assert inference == ["linear", "relu", "linear"]
    assert all(op.inference for op in graphs[1].ops)
    if layers:
        assert graphs[0].layer_labels == graphs[1].layer_labels


def test_autocast_casts_are_recorded_and_replayed(layers):
    model = build().eval()
    with torch.no_grad(), opscope.trace(model, layers=layers, replayable=True) as trace:
        with torch.autocast("cpu", torch.bfloat16):
            y = model(X)
        model(X)
    assert y.dtype == torch.bfloat16
    assert [op.name for op in trace.ops].count("_to_copy") >= 3
    assert trace.validate(), trace.validate()


def test_factories_under_a_device_context_are_recorded_there(layers):
    with opscope.trace(layers=layers) as trace, torch.device("meta"):
        y = torch.empty(3).add(1)
    assert y.device.type == "meta"
    assert {trace.recording.values[op.outputs[0]].device for op in trace.ops} == {"meta"}


def test_anomaly_mode_still_says_where_a_gradient_went_wrong(layers):
    x = torch.zeros(2, requires_grad=True)

    def step():
        with torch.autograd.detect_anomaly():
            (x.sqrt() * 0).sum().backward()

    with pytest.raises(RuntimeError, match="SqrtBackward0") as plain:
        step()
    trace = opscope.trace(layers=layers)
    with pytest.raises(RuntimeError, match="SqrtBackward0") as watched, trace:
        step()
    assert str(watched.value) == str(plain.value)
    assert trace.failure.exception == "RuntimeError"


def test_an_operator_that_is_not_deterministic_still_raises(layers):
    x = torch.zeros(3)
    trace = opscope.trace(layers=layers)
    with Deterministic(), pytest.raises(RuntimeError, match="deterministic"), trace:
        x.put_(torch.tensor([0]), torch.tensor([1.0]))
    assert trace.failure is not None
    assert not torch.are_deterministic_algorithms_enabled()


def test_traces_inside_one_another_each_see_everything_inside_them(layers):
    first, second, third = (opscope.trace(layers=layers) for _ in range(3))
    with first:
        X.exp()
        with second:
            X.sin()
            with third:
                X.cos()
            X.tan()
    assert [op.name for op in first.ops] == ["exp", "sin", "cos", "tan"]
    assert [op.name for op in second.ops] == ["sin", "cos", "tan"]
    assert [op.name for op in third.ops] == ["cos"]


def test_a_trace_inside_a_traced_module_sees_its_part(layers):
    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            with opscope.trace(self.inner, layers=layers) as self.part:
                x = self.inner(x)
            return x.relu()

    model = Watching()
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(X)
    assert [op.name for op in model.part.ops] == ["t", "addmm"]
    assert [op.name for op in trace.ops] == ["t", "addmm", "relu"]
    assert [module.address for module in trace.modules] == ["", "inner"]
    invariants.check(trace)
    invariants.check(model.part)
