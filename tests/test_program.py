"""What a program calls while it runs, and what becomes of it in torch's own tools."""

import copy
import io
import pickle

import pytest
import torch
from tests.exporters.fx.compare import Model, derivatives, record, same
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import opscope
from opscope.errors import OptionError, TraceStateError
from opscope.program import (
    ProgramTracer,
    check_input,
    check_same,
    restores_grad_mode,
    set_grad_mode,
    without_derivative,
)


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.save(program, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def traced_symbolically(program):
    return fx.symbolic_trace(program)


def without_dead_code(program):
    program = copy.deepcopy(program)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


TOOLS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda program: pickle.loads(pickle.dumps(program)),
    "pickle of a pickle": lambda p: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(p)))),
    "copy of a pickle": lambda program: copy.deepcopy(pickle.loads(pickle.dumps(program))),
    "torch.save": saved_and_loaded,
    "interpreter": lambda program: fx.Interpreter(program).run,
    "dead code elimination": without_dead_code,
    "the program of a program": lambda program: record(program, torch.rand(4, 3)).to_fx(),
    "compiled": lambda program: torch.compile(program, backend="eager"),
    "compiled whole": lambda program: torch.compile(program, backend="eager", fullgraph=True),
    "compiled by aot": lambda program: torch.compile(program, backend="aot_eager"),
}


def stateful(model, x):
    """Counts in a buffer, without any input; draws; keeps a part from autograd."""
    model.norm.num_batches_tracked.add_(1)
    y = model.one(x)
    with torch.no_grad():
        scale = y.abs().mean()
    return {"a.b": model.norm(y) / scale, 3: (torch.rand(3) + torch.tensor([1.0, 2.0, 3.0]), None)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(stateful, norm=nn.BatchNorm1d(3))


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_program_is_the_same_after_it(tool, model):
    program = record(model, torch.rand(4, 3)).to_fx()
    other, x = tool(program), torch.rand(4, 3)
    tensors = dict((other if isinstance(other, fx.GraphModule) else program).named_parameters())
    for _ in range(2):
        reference = copy.deepcopy(model)
        if isinstance(other, fx.GraphModule):
            reference.load_state_dict(other.state_dict(), strict=False)
        torch.manual_seed(1)
        expected = reference(x)
        torch.manual_seed(1)
        found = other(x)

        assert same(found["a.b"], expected["a.b"])
        assert same(found[3][0], expected[3][0])
        assert found[3][1] is None
        named = dict(reference.named_parameters())
        wanted = derivatives(expected, [named[name] for name in tensors])
        assert all(map(same, derivatives(found, list(tensors.values())), wanted))
    holder = other if isinstance(other, fx.GraphModule) else program
    assert holder.norm.num_batches_tracked == reference.norm.num_batches_tracked
    assert torch.is_grad_enabled()


CHECKING = [name for name in TOOLS if name != "compiled whole"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", CHECKING)
def test_its_check_of_inputs_is_still_there_and_the_grad_mode_is_restored(name, model):
    if name.startswith("compiled") and torch.__version__ < "2.12":
        pytest.skip(
            "torch 2.10 and 2.11 fail to compile the raising of an error that is there already"
        )
    other = TOOLS[name](record(model, torch.rand(4, 3)).to_fx())
    with pytest.raises(OptionError, match=r"given_0: f32\[5, 3\] given"):
        other(torch.rand(5, 3))
    assert torch.is_grad_enabled()


def test_symbolic_tracing_keeps_checks_and_regions():
    def scaled(model, x):
        y = model.one(x)
        with torch.no_grad():
            scale = y.abs().mean()
        return y / scale

    model = Model(scaled)
    x = torch.rand(4, 3)
    other = fx.symbolic_trace(record(model, x).to_fx())
    parameters = list(model.parameters())

    assert all(map(same, derivatives(other(x), parameters), derivatives(model(x), parameters)))
    with pytest.raises(OptionError):
        other(torch.rand(3))


def test_torch_export_keeps_regions():
    def scaled(model, x):
        with torch.no_grad():
            scale = model.one(x).abs().mean()
        return model.two(x) / scale

    model = Model(scaled)
    x = torch.rand(4, 3)
    exported = torch.export.export(record(model, x).to_fx(), (x,))
    targets = [str(node.target) for node in exported.graph.nodes]

    assert torch.equal(exported.module()(x), model(x))
    assert "wrap_with_set_grad_enabled" in targets


def test_make_fx_sees_the_ops_alone():
    model = Model(lambda m, x: m.one(x).relu())
    x = torch.rand(4, 3)
    other = make_fx(record(model, x).to_fx())(x)

    assert torch.equal(other(x), model(x))
    assert "check" not in other.code


def test_a_program_without_checks_and_regions_needs_nothing_of_opscope_to_run():
    model = Model(lambda m, x: m.one(x).relu())
    program = record(model, torch.rand(4, 3)).to_fx(check_inputs=False)

    assert "opscope" not in program.code


def test_an_unpickled_program_still_draws_and_writes():
    """torch's own tracer runs what takes no argument once, and forgets what only writes buffers."""
    model = Model(stateful, norm=nn.BatchNorm1d(3))
    program = record(model, torch.rand(4, 3)).to_fx()
    nodes = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    loaded = pickle.loads(pickle.dumps(program))

    assert [str(n.target) for n in loaded.graph.nodes if n.op == "call_function"] == nodes
    assert loaded.graph._tracer_cls is ProgramTracer


# --------------------------------------------------------------------------- one by one


def test_an_input_is_checked_by_sizes_type_and_kind():
    check_input(torch.rand(2, 3), "x", (2, 3), torch.float32)
    check_input(torch.tensor(1), "x", (), torch.int64)
    with pytest.raises(OptionError, match=r"^x: i64\[\] given, where b8\[2\] was recorded"):
        check_input(torch.tensor(1), "x", (2,), torch.bool)
    with pytest.raises(OptionError, match=r"^x: float object given \(must be a tensor, f32\[\]"):
        check_input(1.0, "x", (), torch.float32)


def test_tensors_are_one_if_they_are_or_if_nothing_tells_them_apart():
    x = torch.tensor([1.0, torch.nan])
    check_same(x, "a", x, "b")
    check_same(x, "a", x.clone(), "b")
    leaf = torch.ones(2, requires_grad=True)
    check_same(leaf, "a", leaf, "b")
    with torch.no_grad():
        check_same(leaf, "a", torch.ones(2), "b")
    for one, other in (
        (leaf, torch.ones(2)),
        (x, x + 1),
        (x, x[:1]),
        (torch.ones(2), torch.ones(1)),
    ):
        with pytest.raises(OptionError, match=r"^a: was one tensor with b"):
            check_same(one, "a", other, "b")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_grad_mode_is_set_and_what_it_was_is_returned(before, wanted):
    with torch.set_grad_enabled(before):
        assert set_grad_mode(wanted) is before
        assert torch.is_grad_enabled() is wanted


@pytest.mark.parametrize("before", [True, False])
def test_a_forward_leaves_the_grad_mode_whatever_it_raises(before):
    @restores_grad_mode
    def forward(error):
        """Raise."""
        set_grad_mode(not before)
        raise error

    with torch.set_grad_enabled(before):
        for error in (ValueError("x"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                forward(error)
            assert torch.is_grad_enabled() is before
    assert forward.__doc__ == "Raise."


def test_a_derivative_that_is_not_known_raises_only_where_there_is_one():
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2)
    with torch.no_grad():
        result = weight * 2

    assert without_derivative(result, "why", other) is result
    with torch.no_grad():
        assert without_derivative(result, "why", weight) is result
    marked = without_derivative(result, "it is so", other, weight)
    assert marked.requires_grad
    assert torch.equal(marked.mul_(2), result)
    with pytest.raises(TraceStateError, match="cannot be differentiated here: it is so"):
        marked.sum().backward()
    assert isinstance(opscope.TraceStateError("x"), RuntimeError)
