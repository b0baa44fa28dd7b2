"""Bad numbers: where the program sees them, what is told then, and what is none."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests import invariants, witness, zoo
from tests.analysis.situations import INF, NAN, SEEN, UNSEEN, Expected, linear
from torch import nn

import opscope
from opscope.capture.collect.nonfinite.checker import NonFiniteChecker
from opscope.errors import NonFiniteError, OptionError

NAMES = [made.__name__ for made in SEEN]


def stopped(run, model=None, **options):
    """Run under a trace that is to raise; return the error and the trace."""
    trace = opscope.trace(model, stop_on_nonfinite=True, **options)
    with pytest.raises(NonFiniteError) as caught, trace:
        run()
    return caught.value, trace


def watched(run, model=None, **options):
    """Run under a trace that is not to raise."""
    with opscope.trace(model, stop_on_nonfinite=True, **options) as trace:
        run()
    return trace


def compare(error, expected, *, layers=True):
    """Check what an error says."""
    for name in ("kind", "operator", "came_in_with", "name", "seen_in", "made_of"):
        assert getattr(error, name) == getattr(expected, name), (name, str(error))
    assert expected.phase in (None, error.phase)
    if layers:
        assert (error.layer is None) == (expected.layer is None)
        assert (error.layer or "").startswith(expected.layer or "")


# ------------------------------------------------------------------- forty situations, both ways


@pytest.mark.parametrize("name", UNSEEN)
def test_nothing_is_raised_where_the_program_sees_no_bad_number(name, layers):
    model, run = UNSEEN[name]()
    assert watched(run, model, layers=layers).failure is None


@pytest.mark.parametrize("made", SEEN, ids=NAMES)
def test_what_the_program_sees_raises_and_is_traced_back(made, layers):
    model, run = made()
    error, trace = stopped(run, model, layers=layers)
    compare(error, SEEN[made], layers=layers)
    assert trace.failure.exception == "NonFiniteError"
    assert trace.failure.message == str(error) == error.args[0]


def test_there_are_forty_situations_either_way():
    assert len(UNSEEN) >= 40
    assert len(SEEN) >= 40


# ----------------------------------------------------------------------- what it names


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.head = nn.Sequential(nn.Linear(3, 3), nn.Softplus())
        self.bad = False

    def forward(self, x):
        y = self.fc(x).abs()
        if self.bad:
            y = (y - y).log()  # <- bad
        return self.head(y)


def test_it_names_op_layer_module_phase_line_and_ranges():
    model = Net()
    model.bad = True
    error, trace = stopped(lambda: model(torch.rand(2, 3)), model)
    file, line = witness.line_of(Net, "bad")
    assert (error.kind, error.operator) == ("Inf", "aten.log.default")
    assert trace.ops[error.op].operator == "aten.log.default"
    assert (error.layer, error.module, error.phase) == ("log_1_5", "", "forward")
    assert error.source == f"{file}:{line}"
    assert error.ranges == ("self float32[2, 3] from 0 to 0",)
    assert str(error) == (
        "aten.log.default made the first Inf\n"
        f"    in op 5, forward, layer log_1_5, at {file}:{line}\n"
        "    given self float32[2, 3] from 0 to 0\n"
        "    seen in what the model returned"
    )


def test_it_names_the_module_inside_which_it_happened():
    model = Net()
    with torch.no_grad():
        model.head[0].weight.fill_(3e38)
    error, _ = stopped(lambda: model(torch.full((2, 3), 50.0)), model)
    assert (error.module, error.operator, error.kind) == ("head.0", "aten.addmm.default", "Inf")
    assert any("3e+38" in text for text in error.ranges)


def test_what_came_in_is_named_with_the_line_that_read_it_and_no_layer():
    model = linear(2, 3, 1, weight=NAN)
    error, _ = stopped(lambda: model(torch.rand(4, 2)), model)
    assert str(error).splitlines() == [
        "NaN came in with parameter 1.weight",
        f"    first read at {error.source}",
        f"    {error.ranges[0]}",
        "    seen in what the model returned",
    ]
    assert error.source.startswith(__file__)
    assert error.ranges[0].startswith("float32[1, 3] from ")
    assert error.ranges[0].endswith(", 1 NaN")
    assert (error.op, error.layer, error.phase, error.module) == (None, None, None, "1")


def test_what_came_in_from_a_file_or_an_array_is_named_with_the_line_that_brought_it():
    def run():
        data = torch.from_numpy(np.array([NAN]))  # <- brought
        return data * 2

    error, _ = stopped(run)
    assert error.source == "{}:{}".format(*witness.line_of(run, "brought"))


def test_a_bad_number_in_the_optimizer_has_its_phase():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1e30)

    def run():
        weight.grad = torch.full((3,), 1e30)
        optimizer.step()

    error, _ = stopped(run)
    assert (error.kind, error.phase) == ("Inf", "optimizer")


def test_a_list_tells_of_the_one_that_is_bad():
    """The optimizers go through all parameters in one op."""
    good, bad = [torch.ones(2) for _ in range(20)], torch.zeros(3)

    def run():
        return torch._foreach_div([*good, bad, *good], [1.0] * 20 + [0.0] + [1.0] * 20)

    error, _ = stopped(run)
    assert error.ranges == ("self[20] float32[3] from 0 to 0",)


def test_not_all_of_many_tensors_are_told_of():
    error, _ = stopped(lambda: torch.cat([torch.full((1,), 6e4)] * 20).half().mul(2))
    assert error.operator == "aten.mul.Tensor"
    parts = [torch.full((2,), 3e38) for _ in range(20)]
    error, _ = stopped(lambda: torch.einsum("i,i->", parts[0], parts[1]))
    assert len(error.ranges) == 2
    error, _ = stopped(lambda: torch.block_diag(*parts).half())
    assert len(error.ranges) == 1


@pytest.mark.parametrize(
    ("run", "given"),
    [
        (lambda: torch.full((3,), -1.0).log_(), "self float32[3] from -1 to -1"),
        (lambda: torch.ones(4)[1:].div_(0), "self float32[3] from 1 to 1"),
        (lambda: torch._foreach_div_([torch.ones(3)], 0.0), "self[0] float32[3] from 1 to 1"),
    ],
    ids=["in place", "through a view", "a list"],
)
def test_it_tells_the_range_also_of_what_was_overwritten(run, given):
    error, _ = stopped(run)
    assert error.ranges[0] == given


def test_what_an_op_reads_and_writes_through_two_tensors_is_told_as_it_was():
    x = torch.tensor([1.0, -1.0])
    error, _ = stopped(lambda: torch.log(x.detach(), out=x.detach()))
    assert (error.operator, error.ranges) == ("aten.log.out", ("self float32[2] from -1 to 1",))


# ----------------------------------------------------------------------- when it is raised


def test_a_weight_is_not_written_from_a_bad_gradient():
    """The optimizer's step is stopped before it, so that the model is as it was."""
    model = linear(2, 3)
    before = [p.detach().clone() for p in model.parameters()]
    for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
        step = optimizer(model.parameters(), lr=0.1).step

        def run(step=step):
            y = model(torch.zeros(4, 2)) * 0
            torch.where(y > 0, y.sqrt(), 0).sum().backward()
            step()

        error, trace = stopped(run, model)
        assert error.seen_in == "the gradient of 0.weight"
        assert all(map(torch.equal, before, model.parameters()))
        written = {value for op in trace.ops for value in op.writes}
        assert written.isdisjoint(trace.recording.parameter_of_value)
        model.zero_grad()


def test_a_loss_stops_the_backward_that_starts_from_it():
    x = torch.ones(3, requires_grad=True)
    error, trace = stopped(lambda: (x / 0).sum().backward())
    assert error.seen_in == "the loss"
    assert x.grad is None
    assert not any(op.node for op in trace.ops)


def test_what_the_model_returns_stops_the_program_there():
    model, reached = linear(2, 2, weight=NAN), []
    error, trace = stopped(lambda: reached.append(model(torch.rand(3, 2))), model)
    assert error.seen_in == "what the model returned"
    assert not reached
    assert trace.failure.module_call == 0


def test_of_several_outputs_it_says_which():
    class Two(nn.Module):
        def forward(self, x):
            return {"good": x, "rest": [x, x / 0]}

    error, _ = stopped(lambda: Two()(torch.ones(2)))
    assert error.seen_in == "what the block left"
    model = Two()
    error, _ = stopped(lambda: model(torch.ones(2)), model)
    assert error.seen_in == "what the model returned at rest.1"


def test_a_model_that_nobody_named_may_be_a_part_of_a_program_that_masks():
    part = nn.Softmax(-1)
    scores = torch.full((2, 3), -INF)
    assert watched(lambda: part(scores).nan_to_num().sum()).failure is None
    error, _ = stopped(lambda: part(scores).nan_to_num().sum(), part)
    assert error.seen_in == "what the model returned"


def test_what_is_left_is_a_trace_of_what_ran_until_then():
    model = Net()
    model.bad = True
    with witness.untouched(model):
        error, trace = stopped(lambda: model(torch.rand(2, 3)), model, save="all")
    invariants.check(trace)
    assert trace.failure.exception == "NonFiniteError"
    assert torch.equal(trace["sub"].activation, torch.zeros(2, 3))
    assert trace.graph().number_of_nodes() > 3
    assert error.layer in str(trace.summary("layer"))


def test_the_program_can_catch_it_and_go_on():
    with opscope.trace(stop_on_nonfinite=True) as trace:
        with pytest.raises(NonFiniteError) as caught:
            float(torch.zeros(()).log())
        y = torch.ones(2) * 2
    assert trace.failure is None
    assert "mul_1" in str(trace.layer_labels)
    assert (caught.value.operator, caught.value.layer) == ("aten.log.default", "log_1_1")
    assert y.sum() == 4


def test_an_exception_of_the_program_goes_first():
    def run():
        torch.zeros(2).log()
        raise KeyError("mine")

    trace = opscope.trace(stop_on_nonfinite=True)
    with pytest.raises(KeyError, match="mine"), trace:
        run()
    assert trace.failure.exception == "KeyError"


def test_a_second_block_after_a_stop_records_on_and_knows_nothing_of_the_first():
    trace = opscope.trace(stop_on_nonfinite=True)
    with pytest.raises(NonFiniteError), trace:
        left = torch.zeros(2).log()
    with trace:
        torch.ones(2).log()
    assert trace.failure is None
    assert [op.name for op in trace.ops].count("log") == 2
    with pytest.raises(NonFiniteError) as caught, trace:
        left - left
    assert caught.value.made_of == "Inf that came in with data"


def test_a_model_that_goes_wrong_inside_another_trace_raises_in_both():
    inner = opscope.trace(stop_on_nonfinite=True)

    def run():
        with inner:
            return torch.zeros(2).log()

    error, outer = stopped(run)
    assert error.layer == "log_1_1"
    assert outer.failure.exception == inner.failure.exception == "NonFiniteError"


def test_two_threads_are_told_of_their_own_numbers():
    found = {}

    def run(name, number):
        trace = opscope.trace(stop_on_nonfinite=True)
        try:
            with trace:
                torch.full((2,), number).sqrt()
        except NonFiniteError as error:
            found[name] = error.ranges

    threads = [threading.Thread(target=run, args=item) for item in (("a", -1.0), ("b", -2.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {
        "a": ("self float32[2] from -1 to -1",),
        "b": ("self float32[2] from -2 to -2",),
    }


def test_no_tensor_is_kept_alive_by_it():
    with opscope.trace(stop_on_nonfinite=True):
        y = torch.zeros(3).log()
        live, storage = weakref.ref(y), weakref.ref(y.untyped_storage())
        z = torch.where(y > 0, y, 0.0)
        del y
        gc.collect()
        assert live() is None
        assert storage() is None
    assert z.sum() == 0


def test_memory_that_was_freed_is_forgotten():
    with opscope.trace(stop_on_nonfinite=True) as trace:
        for _ in range(500):
            torch.where(torch.ones(3) > 0, 0.0, torch.zeros(3).log())
    assert len(trace._block.session.find(NonFiniteChecker)._bad.spots) < 200


# ----------------------------------------------------------------------- the engine and threads


def test_a_compiled_model_is_looked_at_by_what_it_gives():
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        model = linear(2, 3, weight=NAN)
        compiled = torch.compile(model, backend=backend)
        error, _ = stopped(lambda compiled=compiled: compiled(torch.rand(4, 2)), compiled)
        compare(error, Expected(
            came_in_with="parameter", name="0.weight", seen_in="what the model returned"
        ))  # fmt: skip
        with torch.no_grad():
            model[0].weight.fill_(1)
        assert watched(lambda c=compiled: c(torch.rand(4, 2)), compiled).failure is None


def test_functions_of_functions_are_looked_at_on_the_tensors_that_ops_see():
    masked = lambda x: torch.where(x > 0, x.log(), 0.0)  # noqa: E731
    watched(lambda: torch.vmap(masked)(torch.zeros(3, 2)))
    watched(lambda: torch.func.grad(lambda x: x.norm())(torch.zeros(3)))
    error, _ = stopped(lambda: torch.func.grad(lambda x: masked(x).sum())(torch.zeros(3)))
    assert (error.operator, error.phase) == ("aten.div.Tensor", "backward")
    error, _ = stopped(lambda: torch.vmap(lambda x: x / x)(torch.zeros(3, 2)))
    assert error.ranges[0] == "self float32[3, 2] from 0 to 0"


def test_a_gradient_that_is_kept_of_an_inner_tensor_is_seen():
    def run():
        x = torch.zeros(3, requires_grad=True)
        y = x * 1
        y.retain_grad()
        torch.where(y > 0, y.sqrt(), 0).sum().backward()

    error, _ = stopped(run)
    assert error.layer.startswith("sqrt_1")


# --------------------------------------------------------------------------- as outside


def random():
    F.dropout(torch.rand(100), 0.5)
    -torch.log(-torch.log(torch.rand(100) * 0.9 + 0.05))
    torch.rand(3).exponential_().log1p()


def recurrent():
    x = torch.rand(3, 2, 4, requires_grad=True)
    nn.LSTM(4, 4, 2)(x)[0].sum().backward()
    nn.GRU(4, 4)(x)[0].sum().backward()


def norms():
    for norm in (nn.BatchNorm2d(3), nn.GroupNorm(3, 3), nn.InstanceNorm2d(3), nn.LayerNorm(4)):
        norm(torch.rand(2, 3, 4, 4, requires_grad=True)).sum().backward()


def subgradients():
    for function in (
        torch.std, torch.prod, torch.linalg.norm, torch.linalg.vector_norm, torch.amax,
        lambda x: x.cumprod(0), torch.abs, lambda x: torch.atan2(x, x), torch.pdist,
        F.logsigmoid, F.softplus, lambda x: F.pairwise_distance(x, x), F.gumbel_softmax,
    ):  # fmt: skip
        function(torch.zeros(3, 2, requires_grad=True)).sum().backward()


def distributions():
    categorical = torch.distributions.Categorical(logits=torch.tensor([0.0, -INF]))
    categorical.entropy().item()
    categorical.log_prob(categorical.sample()).item()
    torch.distributions.Normal(torch.zeros(2), torch.ones(2)).log_prob(torch.zeros(2)).sum().item()
    F.binary_cross_entropy(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).item()


HARMLESS = {f.__name__: f for f in (random, recurrent, norms, subgradients, distributions)}


@pytest.mark.parametrize("run", HARMLESS.values(), ids=HARMLESS)
def test_what_torch_itself_takes_care_of_is_no_alarm(run, layers):
    assert watched(run, layers=layers).failure is None


def test_a_sum_that_overflows_while_looking_is_not_taken_for_one():
    """The check sums: the sum of these is infinite, none of them is."""
    trace = watched(lambda: (torch.full((8,), 3e38).neg(), torch.full((8,), 6e4).half().neg()))
    assert len(trace.ops) == 5


@pytest.mark.parametrize("name", zoo.SMALL)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_real_models_are_not_stopped_and_run_as_they_do(name, training):
    seen = []
    for stop in (False, True):
        program = zoo.build(name, training=training)
        torch.manual_seed(1)
        with opscope.trace(program.module, stop_on_nonfinite=stop):
            output = program.run()
            found = [t for t in witness.tensors(list(_parts(output))) if t.requires_grad]
            sum(t.sum() for t in found).backward()
        grads = [p.grad for p in program.module.parameters() if p.grad is not None]
        seen.append(witness.bits([found, grads, torch.rand(2)]))
    assert seen[0] == seen[1]


def _parts(output):
    return output.values() if isinstance(output, dict) else [output]


def test_it_moves_no_number_of_autograds():
    """Looking at what is being detached must make no node, or links would be wrong."""
    numbers = []
    for stop in (False, True):
        with opscope.trace(stop_on_nonfinite=stop):
            before = torch.autograd._get_sequence_nr()
            x = torch.ones(3, requires_grad=True)
            (x * 2).detach().log_()
            x.exp().requires_grad_().sum().backward()
            numbers.append(torch.autograd._get_sequence_nr() - before)
    assert numbers[0] == numbers[1]


def test_what_torch_itself_raises_goes_by_as_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        watched(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


def test_the_switch_must_be_one():
    with pytest.raises(OptionError, match="stop_on_nonfinite: 'yes'"):
        opscope.trace(stop_on_nonfinite="yes")
