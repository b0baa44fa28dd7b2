"""Models that were scripted, traced, frozen or exported, and the tracers that do it."""

from functools import partial

import pytest
import torch
from tests import invariants
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import opscope

pytestmark = [  # torch's own, of its forms
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def names(trace):
    return [op.name for op in trace.ops]


def scripted(model, x):
    return torch.jit.script(model)


def traced(model, x):
    return torch.jit.trace(model, x)


def frozen(model, x):
    return torch.jit.freeze(torch.jit.script(model))


def exported(model, x):
    return torch.export.export(model, (x,)).module()


def symbolically_traced(model, x):
    return torch.fx.symbolic_trace(model)


def captured(model, x):
    return make_fx(model)(x)


@pytest.mark.parametrize(
    "form", [scripted, traced, frozen, exported, symbolically_traced, captured]
)
def test_a_model_in_another_form_is_recorded(form, layers):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.rand(3, 4)
    with torch.no_grad():
        other = form(model, x)
        for _ in range(3):  # a scripted one is optimised in its first runs
            expected = other(x)
        with opscope.trace(other if isinstance(other, nn.Module) else None, layers=layers,
                           replayable=True) as trace:  # fmt: skip
            y = other(x)
    assert torch.equal(y, expected)
    assert [name for name in names(trace) if name in {"addmm", "linear", "relu"}] == [
        "addmm", "relu", "addmm"
    ]  # fmt: skip
    assert trace.validate(), trace.validate()
    invariants.check(trace)


def made(model, x, mode):
    return make_fx(partial(torch.func.functional_call, model), tracing_mode=mode)(
        dict(model.named_parameters()), (x,)
    )


TRACERS = {
    "export": lambda model, x: torch.export.export(model, (x,)),
    "export, dynamic": lambda model, x: torch.export.export(
        model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ),
    "decomposed": lambda model, x: torch.export.export(model, (x,)).run_decompositions(),
    "make_fx, fake": lambda model, x: made(model, x, "fake"),
    "make_fx, symbolic": lambda model, x: made(model, x, "symbolic"),
}  # fmt: skip


@pytest.mark.parametrize("tracer", TRACERS.values(), ids=TRACERS)
def test_the_fake_ops_of_a_tracer_are_not_recorded(tracer, layers):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drop = nn.Linear(4, 2), nn.Dropout()

        def forward(self, x):
            return self.drop(self.linear(x)) + torch.arange(2)

    model, x = Model().eval(), torch.rand(3, 4)
    plain = tracer(model, x)
    with torch.no_grad(), opscope.trace(layers=layers) as trace:
        x.exp()
        found = tracer(model, x)
        x.cos()
    assert [op.name for op in trace.ops] == ["exp", "cos"]
    assert [layer.type for layer in trace if layer.ops] == ["exp", "cos"]
    assert [node.name for node in found.graph.nodes if node.op != "placeholder"][:2] == [
        node.name for node in plain.graph.nodes if node.op != "placeholder"
    ][:2]
    invariants.check(trace)


def test_what_a_tracer_runs_for_real_is_recorded(layers):
    x = torch.rand(3)
    with opscope.trace(layers=layers) as trace:
        make_fx(lambda x: x.exp().cos())(x)
    assert {"exp", "cos"} <= set(names(trace))


def test_strict_export_cannot_be_called_where_there_are_global_hooks(layers):
    """It is so in torch with any global hook: Dynamo then meets a frame that it may not follow."""
    model, x = nn.Linear(4, 2), torch.rand(3, 4)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.export.export(model, (x,), strict=True)
    handle.remove()
    trace = opscope.trace(layers=layers)
    with pytest.raises(torch._dynamo.exc.Unsupported), trace:
        torch.export.export(model, (x,), strict=True)
    assert trace.failure.exception == "Unsupported"
    assert torch.export.export(model, (x,), strict=True).graph is not None


def test_a_program_on_the_users_own_fake_tensors_is_recorded(layers):
    with FakeTensorMode():
        model, x = nn.Linear(4, 2), torch.empty(3, 4)
        with torch.no_grad(), opscope.trace(model, layers=layers, save="all") as trace:
            y = model(x)
    assert names(trace) == ["t", "addmm"]
    assert isinstance(trace["output_1"].activation, FakeTensor)
    assert trace["output_1"].shape == tuple(y.shape) == (3, 2)
    invariants.check(trace)


def test_fake_tensors_are_recorded_without_their_mode_too(layers):
    x = FakeTensorMode().from_tensor(torch.ones(3))
    with opscope.trace(layers=layers) as trace:
        x.exp().cos()
    assert names(trace) == ["exp", "cos"]


def test_symbolic_sizes_are_recorded_by_their_hints_and_left_free(layers):
    """Reading one as a number would pin it down, and with it what is captured from it."""
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    x = mode.from_tensor(
        torch.ones(5, 3),
        symbolic_context=StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC]),
    )
    with mode, opscope.trace(layers=layers) as trace:
        y = x.exp().add_(1).sum(1)
    assert names(trace) == ["exp", "add_", "sum"]
    assert [trace.recording.values[op.outputs[0]].shape for op in trace.ops] == [
        (5, 3), (5, 3), (5,)
    ]  # fmt: skip
    assert not isinstance(y.shape[0], int)
    assert not shapes.guards
    invariants.check(trace)


def test_a_model_too_large_for_any_machine_is_recorded_on_the_meta_device(layers):
    """Eighty blocks as wide as those of a model of 70 billion parameters."""
    with torch.device("meta"):
        model = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(8192, 64, 28672, batch_first=True, norm_first=True)
                for _ in range(80)
            )
        )
        with opscope.trace(model, layers=layers) as trace, torch.no_grad():
            y = model(torch.empty(1, 2048, 8192))
    assert y.device.type == "meta"
    assert trace["output_1"].shape == (1, 2048, 8192)
    assert trace.totals.params == sum(p.numel() for p in model.parameters()) > 5e10
    assert len(trace["79"].ops) > 0
