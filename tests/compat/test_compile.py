"""torch.compile: a compiled model, part of a model or function inside a trace."""

import shutil
import warnings

import pytest
import torch
from tests import invariants, witness
from torch import nn

import opscope

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, of its compilers
    # Dynamo looks for the gradient of what is passed to a compiled part of a model.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


class Net(nn.Module):
    """Keeps a count in a buffer, as batch normalisation does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return self.last(self.first(x).relu()).sin()


class Broken(Net):
    """Has a part that Dynamo leaves to Python."""

    def forward(self, x):
        x = self.first(x).relu()
        torch._dynamo.graph_break()
        return self.last(x).sin()


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.before, self.inner = nn.Linear(4, 4), inner

    def forward(self, x):
        return self.inner(self.before(x)).cos()


def wrapped(model, **options):
    return torch.compile(model, **options)


def in_place(model, **options):
    model.compile(**options)
    return model


def as_a_part(model, **options):
    return Outer(torch.compile(model, **options))


def in_a_function(model, **options):
    return torch.compile(lambda x: model(x) * 2, **options)


MODELS = (wrapped, in_place, as_a_part)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiler():
    """Skip a test that needs what Inductor needs."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("Inductor needs a C++ compiler")


def compilations():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def names(trace, phase="forward"):
    return [op.name for op in trace.ops if op.phase == phase]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("fullgraph", [False, True], ids=["breaks allowed", "fullgraph"])
@pytest.mark.parametrize("compiled", MODELS)
def test_a_compiled_model_is_compiled_once_however_often_it_is_traced(
    compiled, fullgraph, warm, backend, layers
):
    model = compiled(Net(), backend=backend, fullgraph=fullgraph)
    x = torch.rand(3, 4)
    with torch.no_grad():
        expected = model(x) if warm else None
        for _ in range(10):  # Dynamo gives up at 8
            with opscope.trace(model, layers=layers) as trace:
                y = model(x)
            plain = model(x)
    assert compilations() == 1
    assert torch.equal(y, plain)
    assert expected is None or torch.equal(y, expected)
    assert names(trace).count("addmm") == (3 if compiled is as_a_part else 2)
    assert "sin" in names(trace)
    invariants.check(trace)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_function_is_compiled_once_more_and_never_again(backend, layers):
    """No hook tells of it: the function mode that torch functions are seen with stays on."""
    model, x = Net(), torch.rand(3, 4)
    function = in_a_function(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        expected = function(x)
        for _ in range(10):
            with opscope.trace(layers=layers) as trace:
                y = function(x)
            function(x)
    assert compilations() == (2 if layers else 1)
    assert torch.equal(y, expected)
    assert names(trace).count("addmm") == 2


@pytest.mark.parametrize("compiled", MODELS)
def test_a_compiled_model_has_the_addresses_of_the_model(compiled, layers):
    model, x = compiled(Net(), backend="eager"), torch.rand(3, 4)
    prefix = "inner." if compiled is as_a_part else ""
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model(x)
    assert {f"{prefix}first", f"{prefix}last"} < {module.address for module in trace.modules}
    assert not any("_orig_mod" in module.address for module in trace.modules)
    assert "OptimizedModule" not in {module.class_name for module in trace.modules}
    assert f"{prefix}first.weight" in {parameter.name for parameter in trace.parameters}
    (root,) = [call for call in trace.recording.module_calls if call.is_root]
    assert len(root.inputs) == len(root.outputs) == 1


def test_a_model_is_found_under_its_compiled_one(layers):
    """The block names one, and runs the other."""
    model, x = Net(), torch.rand(3, 4)
    compiled = torch.compile(model, backend="eager")
    for named, run in ((model, compiled), (compiled, model)):
        with torch.no_grad(), opscope.trace(named, layers=layers) as trace:
            run(x)
        assert trace.modules[0].class_name == "Net"
        assert trace.layer_labels[0].startswith("input_1")
        assert trace.layer_labels[-1].startswith("output_1")


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_training_step_of_a_compiled_model_gives_the_same_gradients(backend, layers):
    model, x = Net(), torch.rand(3, 4)
    compiled = torch.compile(model, backend=backend)

    def gradients():
        model.zero_grad()
        compiled(x).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    with opscope.trace(compiled, layers=layers, replayable=True) as trace:
        found = gradients()
    assert all(map(torch.equal, found, expected))
    assert "mm" in names(trace, "backward")
    assert trace.validate(), trace.validate()


def test_python_between_compiled_parts_is_recorded(layers):
    model, x = Broken(), torch.rand(3, 4)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected = compiled(x)
        before = compilations()
        with opscope.trace(compiled, layers=layers) as trace:
            y = compiled(x)
    assert compilations() == before == 2
    assert torch.equal(y, expected)
    assert names(trace) == ["t", "addmm", "relu", "t", "addmm", "sin"]


def test_what_is_compiled_in_a_trace_is_compiled_as_outside(layers):
    """Also where torch.compile is called inside the block, and the model has no warnings."""
    model, x = Outer(Net()), torch.rand(3, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with opscope.trace(model, layers=layers):
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            y = compiled(x)
        with opscope.trace(layers=layers):
            again = compiled(x)
        assert torch.equal(compiled._orig_mod(x), y)
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        with pytest.warns(UserWarning, match="global hooks"):
            compiled(x)  # a user's own hooks are spoken of, outside the trace
        handle.remove()
    assert torch.equal(again, y)
    assert compilations() == 1


def test_dynamo_and_the_warnings_are_left_as_they_were(layers):
    handler = torch._dynamo.callback.callback_handler
    before = list(warnings.filters), list(handler.start_callbacks), list(handler.end_callbacks)
    compiled, x = torch.compile(Net(), backend="eager"), torch.rand(3, 4)
    with opscope.trace(layers=layers):
        compiled(x)
    with pytest.raises(TypeError), opscope.trace(layers=layers):
        compiled(x, x)
    after = list(warnings.filters), list(handler.start_callbacks), list(handler.end_callbacks)
    assert after == before


def test_an_error_inside_a_compiled_model_is_the_users_own(layers):
    compiled, x = torch.compile(Net(), backend="eager"), torch.rand(3, 4)
    with torch.no_grad():
        compiled(x)
        with pytest.raises(RuntimeError) as plain:
            compiled(torch.rand(3, 5))
        trace = opscope.trace(compiled, layers=layers)
        with pytest.raises(type(plain.value)) as watched, trace:
            compiled(torch.rand(3, 5))
        assert str(watched.value) == str(plain.value)
        assert trace.failure is not None
        assert torch.equal(compiled(x), compiled._orig_mod(x))


# ------------------------------------------------------------------------------- Inductor


@pytest.fixture(scope="module")
def fused():
    """One model that Inductor compiled before any trace, with fullgraph=True."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("Inductor needs a C++ compiler")
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Outer(Net())
    model.inner.compile(fullgraph=True)
    x = torch.rand(3, 4)
    model(x).sum().backward()
    model.zero_grad()
    with torch.no_grad():
        model(x)
    return model, x


class TestARegionThatInductorCompiled:
    @pytest.fixture(autouse=True)
    def fresh_dynamo(self):
        """Keep what is compiled from one test to the next."""

    def test_a_region_is_one_op_with_its_inputs_and_outputs(self, fused, layers):
        model, x = fused
        with torch.no_grad(), opscope.trace(model, layers=layers, save="all") as trace:
            calls = model.inner.calls.item()
            y = model(x)
        assert model.inner.calls.item() == calls + 1
        region = next(op for op in trace.ops if op.operator == "inductor_compiled_code")
        assert {read.argument for read in region.reads} == {
            "input", "calls", "first.weight", "first.bias", "last.weight", "last.bias"
        }  # fmt: skip
        assert [trace.recording.values[v].shape for v in region.outputs] == [(3, 2)]
        assert len(region.writes) == 1, "the buffer"
        others = [op.name for op in trace.ops if op is not region]
        assert others == ["_local_scalar_dense", "t", "addmm", "cos"]
        layer = trace["inductorcompiledcode_1"]
        assert layer.module == "inner"
        output, buffer = layer.activation
        assert torch.equal(output.cos(), y)
        assert buffer.item() == calls + 1
        parents = {parent.type for parent in layer.parents}
        assert parents == ({"linear"} if layers else {"addmm"})
        assert [child.type for child in layer.children] == ["cos"]
        assert torch.equal(model(x), y)
        invariants.check(trace)

    def test_a_replay_says_that_it_cannot_run_a_region_again(self, fused):
        model, x = fused
        with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
            model(x)
        report = trace.validate()
        assert not report
        assert "inductor_compiled_code, is no operator overload" in str(report)

    def test_training_gives_the_same_gradients_and_backward_belongs_to_the_region(
        self, fused, layers
    ):
        model, x = fused

        def gradients():
            model.zero_grad()
            model(x).sum().backward()
            return [parameter.grad.clone() for parameter in model.parameters()]

        expected = gradients()
        with opscope.trace(model, layers=layers, gradients="all") as trace:
            found = gradients()
        assert all(map(torch.equal, found, expected))
        gradient = trace["inductorcompiledcode_1"].gradient
        gradient = gradient[0] if isinstance(gradient, tuple) else gradient
        inner = model.inner(model.before(x)).detach()
        torch.testing.assert_close(gradient, -inner.sin())
        region = next(op for op in trace.ops if op.operator == "inductor_compiled_code")
        belonging = [op for op in trace.ops if op.forward_op == region.index]
        assert "mm" in {op.name for op in belonging}
        assert all(op.phase == "backward" for op in belonging)

    def test_another_dispatch_mode_sees_what_it_saw_and_leaves_the_region_open(self, fused, layers):
        """Ours can step aside only where it is the innermost."""

        class Other(witness.Witness):
            @classmethod
            def ignore_compile_internals(cls):
                return True  # without it torch does not compile in the mode's presence

        model, x = fused
        with torch.no_grad():
            with Other() as alone:
                model(x)
            with opscope.trace(model, layers=layers) as trace, Other() as inside:
                model(x)
            with Other() as around, opscope.trace(model, layers=layers) as within:
                model(x)
        assert inside.ops == alone.ops
        assert "addmm" in {op.name for op in trace.ops if op.operator.endswith(".out")}
        assert [shape for name, shape in around.ops if name.endswith("addmm.default")]
        assert "inductor_compiled_code" in {op.operator for op in within.ops}

    def test_the_modes_are_back_after_an_error_in_a_region(self, fused, layers):
        model, _ = fused
        trace = opscope.trace(model, layers=layers)
        with torch.no_grad(), trace:
            with pytest.raises(RuntimeError):
                model.inner(torch.rand(3))
            torch.ones(2).exp()
        assert [op.name for op in trace.ops][-2:] == ["ones", "exp"]
        (region,) = [op for op in trace.ops if op.operator == "inductor_compiled_code"]
        assert region.failed


@pytest.mark.usefixtures("compiler")
def test_inductor_compiles_inside_a_trace_what_it_compiles_outside(layers):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.rand(3, 4)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            with opscope.trace(compiled, layers=layers) as trace:
                y = compiled(x)
        assert torch.equal(y, compiled(x))
        torch.testing.assert_close(y, model(x))
    assert compilations() == 1
    assert [op.operator for op in trace.ops] == ["inductor_compiled_code"]
    invariants.check(trace)


@pytest.mark.usefixtures("compiler")
def test_torchs_own_op_for_what_inductor_made_is_recorded(layers):
    """An option has torch show every region, of functions too, forward and backward."""
    w, x = torch.rand(4, 4, requires_grad=True), torch.rand(3, 4)
    function = torch.compile(
        lambda x: (x @ w).sin().sum(), options={"wrap_inductor_compiled_regions": True}
    )
    with opscope.trace(layers=layers) as trace:
        function(x).backward()
    assert names(trace).count("inductor_compiled_code") == 1
    assert names(trace, "backward").count("inductor_compiled_code") == 1
    assert "mm" not in {op.name for op in trace.ops}
