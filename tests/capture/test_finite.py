"""The first bad number: where it arose, and what is none."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests import invariants, witness, zoo
from torch import nn

import opscope
from opscope.errors import NonFiniteError, NotSaved, OptionError

INF = float("inf")


def stopped(run, model=None, **options):
    """Run under a trace that is to stop; return the error and the trace."""
    trace = opscope.trace(model, stop_on_nonfinite=True, **options)
    with pytest.raises(NonFiniteError) as caught, trace:
        run()
    return caught.value, trace


def watched(run, **options):
    """Run under a trace that is not to stop."""
    with opscope.trace(stop_on_nonfinite=True, **options) as trace:
        run()
    return trace


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
    for part in ("aten.log.default", "Inf", "log_1_5", f"{file}:{line}", "from 0 to 0"):
        assert part in str(error)


def test_it_names_the_module_inside_which_it_happened():
    model = Net()
    with torch.no_grad():
        model.head[0].weight.fill_(3e38)
    error, _ = stopped(lambda: model(torch.full((2, 3), 50.0)), model)
    assert (error.module, error.operator, error.kind) == ("head.0", "aten.addmm.default", "Inf")
    assert any("3e+38" in text for text in error.ranges)


def test_a_bad_number_in_backward_is_of_the_layer_that_ran_forward(layers):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Identity())
    x = torch.zeros(2, 3)

    def run():
        model(x).norm().backward()

    error, trace = stopped(run, model, layers=layers)
    assert (error.kind, error.phase) == ("NaN", "backward")
    assert "norm" in error.layer
    assert trace.ops[error.op].phase == "backward"
    assert error.source.startswith(__file__)


def test_a_bad_number_in_the_optimizer_has_its_phase():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1e30)

    def run():
        weight.grad = torch.full((3,), 1e30)
        optimizer.step()

    error, _ = stopped(run)
    assert (error.kind, error.phase) == ("Inf", "optimizer")


def test_what_is_left_is_a_trace_of_what_ran_until_then():
    model = Net()
    model.bad = True
    with witness.untouched(model):
        error, trace = stopped(lambda: model(torch.rand(2, 3)), model, save="all")
    invariants.check(trace)
    assert trace.failure.exception == "NonFiniteError"
    assert trace.failure.op == error.op == len(trace.ops) - 1
    assert torch.equal(trace["sub"].activation, torch.zeros(2, 3))
    assert trace.graph().number_of_nodes() > 3
    assert "log" in str(trace.summary("layer"))
    assert not any((layer.module or "").startswith("head") for layer in trace)


def test_the_program_can_catch_it_and_go_on():
    with opscope.trace(stop_on_nonfinite=True) as trace:
        with pytest.raises(NonFiniteError) as caught:
            torch.zeros(2).log()
        y = torch.ones(2) * 2
    assert trace.failure is None
    assert "mul_1" in str(trace.layer_labels)
    assert caught.value.operator == "aten.log.default"
    assert y.sum() == 4


def test_a_second_block_after_a_stop_records_on():
    trace = opscope.trace(stop_on_nonfinite=True)
    with pytest.raises(NonFiniteError), trace:
        torch.zeros(2).log()
    with trace:
        torch.ones(2).log()
    assert trace.failure is None
    assert [op.name for op in trace.ops].count("log") == 2


# ------------------------------------------------------------------------ what stops it

NAN = {
    "zero by zero": lambda: torch.zeros(3) / torch.zeros(3),
    "infinity minus itself": lambda: torch.full((3,), INF) - torch.full((3,), INF),
    "root of less than zero": lambda: torch.sqrt(torch.full((3,), -1.0)),
    "a softmax of a row that is masked": lambda: torch.full((2, 3), -INF).softmax(-1),
    "a loss of nothing": lambda: F.cross_entropy(torch.ones(2, 3), torch.tensor([-100, -100])),
    "infinity times zero": lambda: torch.full((3,), INF) * torch.zeros(3),
    "in place": lambda: torch.log_(torch.full((3,), -1.0)),
    "a complex one": lambda: torch.zeros(3, dtype=torch.complex64) / torch.zeros(3),
    "one of a list": lambda: torch._foreach_sqrt([torch.ones(3), torch.zeros(3) - 1]),
    "a variance of one": lambda: torch.ones(1).var(correction=0) / torch.zeros(1),
}
INFINITE = {
    "log of zero": lambda: torch.log(torch.zeros(3)),
    "one by zero": lambda: torch.ones(3) / 0,
    "too large": lambda: torch.full((3,), 3e38) * 10,
    "too large for half": lambda: torch.full((3,), 1e10).half(),
    "exp": lambda: torch.exp(torch.full((3,), 100.0)),
    "a sum": lambda: torch.full((3,), 3e38).sum(),
    "written to out": lambda: torch.log(torch.zeros(3), out=torch.ones(3)),
    "through a view": lambda: torch.ones(4)[1:].div_(0),
    "a list in place": lambda: torch._foreach_div_([torch.ones(3)], 0.0),
    "into memory that held an infinity": lambda: torch.full((3,), INF)[:1].copy_(
        torch.full((1,), 3e38) * 10
    ),
}


@pytest.mark.parametrize("run", [*NAN.values(), *INFINITE.values()], ids=[*NAN, *INFINITE])
def test_it_stops_at(run, layers):
    kind = "NaN" if run in NAN.values() else "Inf"
    error, trace = stopped(run, layers=layers)
    assert error.kind == kind
    assert error.op == len(trace.ops) - 1


def test_it_stops_at_the_first_and_not_where_it_spreads():
    def run():
        x = torch.tensor([1.0, 0.0]).log()
        (x - x).exp().sum()

    error, _ = stopped(run)
    assert error.operator == "aten.log.default"


def test_a_nan_that_was_there_before_is_not_new_but_one_after_it_is():
    def spreads():
        return (torch.full((3,), math.nan) * 2).sum()

    assert watched(spreads).failure is None
    error, _ = stopped(lambda: (torch.full((3,), math.nan), torch.zeros(3) / torch.zeros(3)))
    assert error.kind == "NaN"


def test_a_sum_that_overflows_while_looking_is_not_taken_for_one():
    """The check sums: the sum of these is infinite, none of them is."""
    trace = watched(lambda: torch.full((8,), 3e38).neg())
    assert len(trace.ops) == 2


# --------------------------------------------------------------- what does not stop it


def causal(size=4):
    return torch.full((size, size), -INF).triu(1)


def leaf(*shape):
    return torch.rand(*shape, requires_grad=True)


def attend(**options):
    q = leaf(1, 2, 4, 8)
    F.scaled_dot_product_attention(q, q, q, **options).sum().backward()


def multi_head(training, *, boolean):
    model, x = nn.MultiheadAttention(8, 2, batch_first=True).train(training), leaf(2, 4, 8)
    mask = causal() == -INF if boolean else causal()
    model(x, x, x, attn_mask=mask, need_weights=training)[0].sum().backward()


def padding(*, boolean):
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), leaf(2, 4, 8)
    mask = torch.tensor([[False, False, False, True]] * 2)
    mask = mask if boolean else torch.zeros(2, 4).masked_fill(mask, -INF)
    model(x, x, x, key_padding_mask=mask)[0].sum().backward()


def by_hand():
    q = leaf(2, 4, 8)
    scores = (q @ q.mT).masked_fill(torch.ones(4, 4).triu(1) > 0, -INF)
    (scores.softmax(-1) @ q).sum().backward()


def in_place():
    scores = leaf(4, 4) * 1
    scores.masked_fill_(torch.ones(4, 4).triu(1) > 0, -INF).softmax(-1).sum().backward()


def added():
    (leaf(4, 4) + causal()).softmax(-1).sum().backward()


def by_index():
    scores = torch.rand(4, 4)
    scores[0, 1:] = -INF
    scores[scores > 0.5] = -torch.inf
    scores.logsumexp(-1)


def top_k():
    logits = torch.rand(1, 10)
    values, _ = logits.topk(3)
    logits[logits < values[:, -1:]] = -INF
    torch.multinomial(logits.softmax(-1), 1)


def starts_at_minus_infinity():
    best = torch.full((3,), -INF)
    for _ in range(3):
        best = torch.maximum(best, torch.rand(3))
    best.sum()


def decoder():
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    x, mask = leaf(2, 4, 8), nn.Transformer.generate_square_subsequent_mask(4)
    nn.TransformerDecoder(layer, 2)(x, x, tgt_mask=mask, tgt_is_causal=True).sum().backward()


def uninitialised():
    y = torch.empty(64, 64)
    y.fill_(math.pi)
    torch.empty_like(y).copy_(y)
    nn.BatchNorm2d(3)(leaf(2, 3, 4, 4)).sum().backward()
    nn.LSTM(4, 4, 2)(leaf(3, 2, 4))[0].sum().backward()


def filled():
    torch.zeros(3).fill_(-INF)
    torch.rand(3).new_full((2,), INF)
    torch.tensor([-INF, 1.0]).softmax(-1)
    torch.tensor([INF]).clamp(max=3.0)
    torch.where(torch.rand(3) > 0.5, torch.rand(3), -INF)
    F.pad(torch.rand(2, 3), (1, 1), value=-INF)
    torch.nan_to_num(torch.tensor([math.nan]))
    F.max_pool2d(leaf(1, 1, 4, 4), 2, padding=1).sum().backward()


def without_numbers():
    torch.zeros(0).mean().isnan()


def scaled():
    model = nn.Linear(3, 3)
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), 0.1)
    scaler.scale(model(torch.rand(2, 3)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


def random():
    F.dropout(torch.rand(100), 0.5)
    -torch.log(-torch.log(torch.rand(100) * 0.9 + 0.05))
    torch.rand(3).exponential_().log1p()


HARMLESS = {
    "sdpa": lambda: attend(attn_mask=causal()),
    "sdpa causal": lambda: attend(is_causal=True),
    "sdpa boolean": lambda: attend(attn_mask=torch.ones(4, 4, dtype=torch.bool).tril()),
    "multi-head": lambda: multi_head(training=True, boolean=False),
    "multi-head boolean": lambda: multi_head(training=True, boolean=True),
    "multi-head eval": lambda: multi_head(training=False, boolean=False),
    "padding": lambda: padding(boolean=False),
    "padding boolean": lambda: padding(boolean=True),
} | {
    f.__name__: f
    for f in (
        by_hand, in_place, added, by_index, top_k, starts_at_minus_infinity, decoder,
        uninitialised, filled, scaled, random,
    )
}  # fmt: skip


@pytest.mark.parametrize("run", HARMLESS.values(), ids=HARMLESS)
def test_a_mask_and_the_like_do_not_stop_it(run, layers):
    trace = watched(run, layers=layers)
    assert trace.failure is None
    assert len(trace.ops) > 3


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


def test_what_torch_itself_raises_goes_by_as_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        watched(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


def test_the_switch_must_be_one():
    with pytest.raises(OptionError, match="stop_on_nonfinite: 'yes'"):
        opscope.trace(stop_on_nonfinite="yes")


# ------------------------------------------------------------------------ after the fact


@pytest.mark.parametrize("options", [{"save": "all"}, {"replayable": True}], ids=str)
@pytest.mark.parametrize("run", [*NAN.values(), *INFINITE.values()], ids=[*NAN, *INFINITE])
def test_asked_after_the_fact_it_says_what_the_error_would_have(run, options):
    error, _ = stopped(run)
    with opscope.trace(**options) as trace:
        run()
    found = trace.first_nonfinite()
    assert found is not None
    assert (found.layer, found.kind) == (error.layer, error.kind)
    if "replayable" in options:
        assert (found.operator, found.op) == (error.operator, error.op)
        given = [text for text in error.ranges if not text.startswith("out ")]
        assert [text for text in found.ranges if not text.startswith("out ")] == given


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


@pytest.mark.parametrize("run", HARMLESS.values(), ids=HARMLESS)
def test_asked_after_the_fact_masks_are_no_bad_numbers(run):
    with opscope.trace(replayable=True) as trace:
        run()
    assert trace.first_nonfinite() is None


@pytest.mark.parametrize("run", HARMLESS.values(), ids=HARMLESS)
def test_asked_of_layers_only_masks_are_no_bad_numbers(run):
    with opscope.trace(save="all") as trace:
        run()
    assert trace.first_nonfinite() is None


def test_asked_after_the_fact_it_finds_it_in_backward():
    x = torch.zeros(3, requires_grad=True)
    with opscope.trace(replayable=True) as trace:
        (x * 2).norm().backward()
    found = trace.first_nonfinite()
    assert (found.phase, found.kind) == ("backward", "NaN")
    assert "norm" in found.layer


@pytest.mark.parametrize("options", [{}, {"save": ["relu"]}], ids=str)
def test_asked_of_a_trace_that_saved_too_little_it_says_so(options):
    with opscope.trace(**options) as trace:
        torch.relu(torch.zeros(3)).log()
    with pytest.raises(NotSaved, match="save='all' or replayable=True"):
        trace.first_nonfinite()
