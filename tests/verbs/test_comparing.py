import copy
import io
import pickle
import random
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tests import zoo
from tests.analysis.compare import faults, models, ports
from torch import nn

import opscope
from opscope.records.values import Digest
from opscope.verbs.comparing import print_comparison


def traced(module, program, call=None, **options):
    options = options or {"save": "all"}
    torch.manual_seed(0)
    with torch.no_grad(), opscope.trace(module, **options) as trace:
        (module if call is None else call)(*program.args, **program.kwargs)
    return trace


def outputs(trace):
    known = trace.tensors.known_values()
    return [
        known(leaf.value)
        for run in trace.recording.module_calls
        if run.is_root
        for leaf in run.outputs
    ]


def cast(program, dtype):
    """Return the arguments of a program in another type of numbers."""

    def one(x):
        return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    args = tuple(map(one, program.args))
    return zoo.Program(program.call, args, {k: one(v) for k, v in program.kwargs.items()})


# ------------------------------------------------------------------------ planted faults


def check_fault(name, fault, seeds):
    """Plant a fault in a few places, and look where the two programs differ first."""
    program = models.model(name)
    good, found_in = traced(program.module, program), []
    for seed in seeds:
        planted = faults.plant(program.module, fault, seed)
        if planted is None:
            continue
        bad = traced(planted[0], program)
        pairs = list(zip(outputs(good), outputs(bad), strict=True))
        if all(x is None or torch.equal(x, y) for x, y in pairs):
            continue  # it is in a place that makes no difference
        found_in.append(planted[1])
        first = opscope.compare(good, bad).first
        assert first is not None, planted[1]
        # What is only in one of them is in no module of the other.
        found = {first.module, first.other_module} - {None}
        assert found, (planted[1], first)
        for address in found:
            assert f"{address}.".startswith(f"{planted[1]}."), (planted[1], first)
    if not found_in:
        pytest.skip("no place of this model can have it, or it makes no difference there")


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("name", models.FEW)
def test_a_planted_fault_is_what_differs_first(name, fault):
    check_fault(name, fault, [1])


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("name", models.BUILDERS)
def test_a_planted_fault_is_what_differs_first_in_many_models(name, fault):
    check_fault(name, fault, [0, 2])


def test_each_fault_makes_a_difference_in_some_of_the_models():
    for fault in faults.FAULTS:
        assert any(faults.plant(models.model(name).module, fault, 0) for name in models.FEW)


# ------------------------------------------------------------------------ the same


@pytest.mark.parametrize("options", [{}, {"save": "all"}, {"replayable": True}], ids=str)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_of_equal_programs_nothing_is_reported(name, options):
    traces = []
    for _ in range(2):
        program = zoo.build(name)
        torch.manual_seed(0)
        with opscope.trace(program.module, **options) as trace:
            program.run()
        traces.append(trace)

    comparison = opscope.compare(*traces)

    assert comparison
    assert comparison.rows == ()
    assert comparison.first is None
    assert bool(comparison.differences.compared) is bool(options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_of_equal_programs_nothing_is_reported_whatever_the_seed(seed):
    name = random.Random(seed).choice(list(models.FEW))
    program = copy.deepcopy(models.model(name))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in program.module.parameters():
            parameter.normal_(0, 0.2)

    assert opscope.compare(*(traced(program.module, program) for _ in range(2))).rows == ()


def test_a_training_step_is_the_same_as_itself():
    traces = []
    for _ in range(2):
        program = zoo.build("vit", training=True)
        optimizer = torch.optim.AdamW(program.module.parameters())
        torch.manual_seed(1)
        with opscope.trace(program.module, replayable=True) as trace:
            program.run().last_hidden_state.sum().backward()
            optimizer.step()
        traces.append(trace)

    assert opscope.compare(*traces).rows == ()


def test_a_pickled_record_has_the_same_structure():
    program = zoo.shared("resnet18")
    trace = traced(program.module, program)

    comparison = opscope.compare(trace, pickle.loads(pickle.dumps(trace)))

    assert comparison.same
    assert comparison.differences.compared == 0


def test_independent_branches_may_run_in_any_order():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.order = (0, 1)

        def forward(self, x):
            ends = [None, None]
            for i in self.order:
                ends[i] = torch.relu((self.one, self.two)[i](x.sin())) * 2
            return ends[0] + ends[1]

    a = Branches()
    b = copy.deepcopy(a)
    b.order = (1, 0)
    program = zoo.Program(a, (torch.rand(2, 4),))

    assert opscope.compare(traced(a, program), traced(b, program)).rows == ()
    b.two.weight.data += 1
    comparison = opscope.compare(traced(a, program), traced(b, program))
    assert comparison.first.what == "parameter two.weight differs"
    assert {row.module for row in comparison.rows} == {"two", "", None}


# ------------------------------------------------------------------------ rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{"save": "all"}, {"replayable": True}], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "resnet18", "swin", "vit"])
def test_rounding_to_another_type_is_no_difference(name, options, dtype):
    program = models.model(name)
    other = copy.deepcopy(program.module).to(dtype)

    comparison = opscope.compare(
        traced(program.module, program, **options), traced(other, cast(program, dtype), **options)
    )

    assert comparison.first is None, comparison
    assert 1e-9 < max(comparison.errors.values()) < 0.05


def test_a_fault_is_found_among_rounding():
    program = models.model("llama")
    other = copy.deepcopy(program.module).bfloat16()
    other.layers[1].mlp.up_proj.weight.data.mul_(-1)

    first = opscope.compare(traced(program.module, program), traced(other, program)).first

    assert first.what == "parameter layers.1.mlp.up_proj.weight differs"


# ------------------------------------------------------------------------ other programs


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "llama", "swin", "bert"])
def test_what_aot_eager_makes_of_a_model_is_the_same(name):
    program = models.model(name)
    torch._dynamo.reset()
    compiled = torch.compile(program.module, backend="aot_eager")
    with torch.no_grad():
        compiled(*program.args, **program.kwargs)
    a, b = traced(program.module, program), traced(program.module, program, compiled)

    comparison = opscope.compare(a, b)

    assert comparison.first is None, comparison
    assert len(a.ops) != len(b.ops)
    assert {row.status for row in comparison.rows} == {"no effect"}
    torch._dynamo.reset()


@pytest.fixture
def gpt2():
    """Transformers' GPT-2 with weights that make a difference, and the same written by hand."""
    program = models.model("gpt2")
    original = copy.deepcopy(program.module)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.normal_(0, 0.3)
    ids = program.kwargs["input_ids"]
    return original, ports.ported(original), zoo.Program(original, (ids,))


@pytest.mark.parametrize("options", [{"save": "all"}, {"replayable": True}], ids=str)
def test_a_port_with_other_names_and_other_ops_is_the_same(gpt2, options):
    original, port, program = gpt2

    comparison = opscope.compare(
        traced(original, program, **options), traced(port, program, **options)
    )

    assert comparison.first is None, comparison
    assert {row.status for row in comparison.rows} == {"no effect"}


def zeroed(name):
    def plant(port):
        port.get_parameter(name).data.zero_()

    return plant


def without_bias(port):
    port.blocks[1].up.register_parameter("bias", None)


def other_eps(port):
    port.blocks[1].norm_b.eps = 1e-3


def flipped(port):
    port.blocks[1].down.weight.data = port.blocks[1].down.weight.data.flip(1)


@pytest.mark.parametrize(("plant", "where", "other", "what"), [
    (zeroed("blocks.1.up.bias"), "transformer.h.1.mlp.c_fc", "blocks.1.up", "c_fc.bias differs"),
    (zeroed("blocks.1.norm_b.weight"), "transformer.h.1.ln_2", "blocks.1.norm_b", "ln_2.weight differs"),
    (zeroed("blocks.1.q.bias"), "transformer.h.1.attn.c_attn", "blocks.1.q", "linear"),
    (flipped, "transformer.h.1.mlp.c_proj", "blocks.1.down", "c_proj.weight differs"),
    (without_bias, "transformer.h.1.mlp.c_fc", "blocks.1.up", "parameter bias only in a"),
    (other_eps, "transformer.h.1.ln_2", "blocks.1.norm_b", "eps 1e-05 → 0.001"),
])  # fmt: skip
def test_a_fault_in_a_port_is_found(gpt2, plant, where, other, what):
    original, port, program = gpt2
    plant(port)

    first = opscope.compare(traced(original, program), traced(port, program)).first

    assert (first.module, first.other_module) == (where, other)
    assert what in first.what


def test_names_can_be_given():
    a = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    b = nn.ModuleDict({"x": a[0], "y": a[1]})
    b.forward = lambda x: b["y"](b["x"](x))
    program = zoo.Program(a, (torch.rand(2, 4),))

    comparison = opscope.compare(
        traced(a, program), traced(b, program), modules={"0": "x", "1": "y"}
    )

    assert comparison.rows == ()


# ------------------------------------------------------------------------ training


def test_one_step_and_the_next_differ_by_the_parameters():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, steps = torch.rand(3, 4), []
    for _ in range(2):
        optimizer.zero_grad()
        with opscope.trace(model, replayable=True) as trace:
            model(x).square().sum().backward()
            optimizer.step()
        steps.append(trace)

    comparison = opscope.compare(*steps)

    firsts = [row.what for row in comparison.rows if row.status == "first"]
    assert firsts == [
        f"parameter {name} differs" for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]


def test_training_and_evaluation_differ_in_what_draws_random_numbers():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    program = zoo.Program(model, (torch.rand(3, 4),))
    model.eval()
    a = traced(model, program)
    model.train()

    first = opscope.compare(a, traced(model, program)).first

    assert (first.kind, first.module) == ("random", "1")
    assert first.what == "draws random numbers in b only"


def test_other_random_numbers_are_named():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    x, traces = torch.ones(64, 4), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with opscope.trace(model, save="all") as trace:
            model(x)
        traces.append(trace)

    first = opscope.compare(*traces).first

    assert (first.kind, first.module) == ("random", "0")


# ------------------------------------------------------------------------ digests


def with_digests(trace):
    """Return the record of a trace with a digest of every value that it kept, and no tensor."""
    known, digests = trace.tensors.known_values(), {}
    for value in trace.recording.values:
        tensor = known(value.index)
        if tensor is not None:
            numbers = tensor.detach().double().reshape(-1)
            ends = (float(numbers.min()), float(numbers.max())) if numbers.numel() else (0.0, 0.0)
            sample = tuple(numbers[:: max(1, numbers.numel() // 60)].tolist())
            digests[value.index] = Digest(
                f"{hash(tuple(numbers.tolist()))}", float(numbers.norm()),
                float(numbers.sum()) / max(1, numbers.numel()), *ends, 0, sample,
            )  # fmt: skip
    return opscope.Record(replace(trace.recording, digests=digests))


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_a_fault_is_found_by_digests_alone(name, fault):
    program = models.model(name)
    planted = faults.plant(program.module, fault, 1)
    if planted is None:
        pytest.skip("no place of this model can have it")
    good, bad = (traced(m, program, replayable=True) for m in (program.module, planted[0]))

    same = opscope.compare(with_digests(good), with_digests(good))
    first = opscope.compare(with_digests(good), with_digests(bad)).first

    assert same.rows == ()
    assert same.differences.compared
    if all(torch.equal(x, y) for x, y in zip(outputs(good), outputs(bad), strict=True)):
        return  # it is in a place that makes no difference
    assert f"{first.module}.".startswith(f"{planted[1]}.")


# ------------------------------------------------------------------------ on the command line


def test_a_command_prints_the_table_and_has_a_status_for_the_same_and_for_what_differs():
    a = nn.Sequential(nn.Linear(4, 4))
    b = copy.deepcopy(a)
    b[0].weight.data[0, 0] *= 1.5
    program = zoo.Program(a, (torch.rand(1, 4),))
    traces = traced(a, program), traced(b, program)
    console = Console(file=io.StringIO(), width=80)

    assert print_comparison(traces[0], traces[0], console) == 0
    assert print_comparison(*traces, console) == 1
    assert print_comparison(*traces, console, rtol=1.0) == 0
    assert "parameter 0.weight differs" in console.file.getvalue()


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("arguments", "message"), [
    ({"b": 3}, "b: int object"),
    ({"rtol": -1}, "rtol: -1 "),
    ({"rtol": float("nan")}, "rtol: nan "),
    ({"atol": "x"}, "atol: 'x' "),
    ({"rtol": True}, "rtol: True "),
    ({"modules": ["a"]}, "modules: list object"),
    ({"modules": {"nowhere": "0"}}, "no module 'nowhere'"),
    ({"modules": {"0": 1}}, "no module 1"),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    model = nn.Sequential(nn.Linear(4, 4))
    trace = traced(model, zoo.Program(model, (torch.rand(1, 4),)))

    with pytest.raises(opscope.OptionError, match=message):
        opscope.compare(**{"a": trace, "b": trace, **arguments})


@pytest.mark.parametrize("into", ["out", "copy_", "zero_"])
def test_what_lay_in_memory_that_is_overwritten_whole_is_no_difference(into):
    def program(buffer):
        x = torch.arange(3.0)
        with opscope.trace(replayable=True) as trace:
            if into == "out":
                torch.mul(x, 2, out=buffer)
            elif into == "copy_":
                buffer.copy_(x)
            else:
                buffer.zero_()
            buffer + 1
        return trace

    assert opscope.compare(program(torch.ones(3)), program(torch.full((3,), 7.0))).same


def test_what_is_read_of_it_is_one():
    def program(buffer):
        x = torch.arange(2.0)
        with opscope.trace(replayable=True) as trace:
            buffer[:2].copy_(x)
            buffer + 1
        return trace

    comparison = opscope.compare(program(torch.ones(3)), program(torch.full((3,), 7.0)))
    assert comparison.first.what == "a tensor from outside differs: f32[3]"


@pytest.mark.slow
def test_a_region_that_inductor_compiled_is_the_same_as_its_ops():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)).eval(), torch.rand(3, 8)
    records = []
    for each in (model, torch.compile(copy.deepcopy(model))):
        with torch.no_grad(), opscope.trace(each, save="all") as trace:
            each(x)
        records.append(trace)
    comparison = opscope.compare(*records)
    assert comparison.same, comparison
    assert comparison.differences.compared > 4


def test_a_square_matrix_in_an_operator_that_nobody_knows_is_compared_as_it_is():
    @torch.library.custom_op("comparing::product", mutates_args=())
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b.t()

    class Custom(nn.Linear):
        def forward(self, x):
            return product(x, self.weight)

    torch.manual_seed(0)
    plain, x = nn.Linear(4, 4, bias=False), torch.rand(2, 4)
    custom = Custom(4, 4, bias=False)
    custom.load_state_dict(plain.state_dict())
    records = []
    for model in (plain, custom):
        with torch.no_grad(), opscope.trace(model, save="all", replayable=True) as trace:
            model(x)
        records.append(trace)
    assert opscope.compare(*records).same
