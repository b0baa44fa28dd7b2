"""Where bad numbers came from, asked after the fact: by the rule that raises while a program runs."""

import random

import pytest
import torch
from tests.analysis.situations import NAN, SEEN, UNSEEN, linear
from tests.capture.collect.nonfinite.test_checker import compare
from torch import nn

import opscope
from opscope.errors import NonFiniteError, NotSaved

EVERY_OP = {"layers": {"replayable": True}, "ops only": {"replayable": True, "layers": False}}


def raised(run, model=None):
    """Return the error that a trace raises, None if it raises none."""
    try:
        with opscope.trace(model, stop_on_nonfinite=True):
            run()
    except NonFiniteError as error:
        return error
    return None


def asked(made, **options):
    """Return what a trace answers that kept values and raised nothing."""
    model, run = made()
    with opscope.trace(model, **options) as trace:
        run()
    return trace.first_nonfinite()


@pytest.mark.parametrize("options", [*EVERY_OP.values(), {"save": "all"}], ids=[*EVERY_OP, "saved"])
@pytest.mark.parametrize("name", UNSEEN)
def test_nothing_is_found_where_the_program_sees_no_bad_number(name, options):
    assert asked(UNSEEN[name], **options) is None


@pytest.mark.parametrize("options", EVERY_OP.values(), ids=EVERY_OP)
@pytest.mark.parametrize("made", SEEN, ids=[made.__name__ for made in SEEN])
def test_what_the_program_sees_is_found_where_every_op_was_kept(made, options):
    compare(asked(made, **options), SEEN[made], layers=options.get("layers", True))


FORWARD = [made for made, expected in SEEN.items() if expected.forward]


@pytest.mark.parametrize("made", FORWARD, ids=[made.__name__ for made in FORWARD])
def test_it_is_found_where_only_what_layers_gave_was_kept(made):
    found, expected = asked(made, save="all"), SEEN[made]
    assert (found.kind, found.came_in_with, found.name, found.seen_in) == (
        expected.kind, expected.came_in_with, expected.name, expected.seen_in
    )  # fmt: skip
    assert (found.layer or "").startswith(expected.layer or "")


@pytest.mark.parametrize("made", SEEN, ids=[made.__name__ for made in SEEN])
def test_both_answers_are_of_the_same_op_and_line(made):
    model, run = made()
    error = raised(run, model)
    model, run = made()
    with opscope.trace(model, replayable=True) as trace:
        run()
    found = trace.first_nonfinite()
    assert (found.op, found.source) == (error.op, error.source)


VALUES = [0.0, 1.0, -1.0, 2.0, 0.0, 3e38, 0.5]
ODD = [NAN, float("inf"), -float("inf")]


def _write(draw, x, same):
    """Write some of a tensor's memory, through another tensor."""
    with torch.no_grad():
        view, kind = x.detach(), draw.randrange(6)
        if kind == 0:
            view.copy_(same.detach().clone())
        elif kind == 1 and view.dim():
            view[0] = draw.choice([0.0, 1.0])
        elif kind == 2 and view.dim() == 2:
            view[:, 1].fill_(draw.choice([1.0, NAN]))
        elif kind == 3:
            view.div_(draw.choice([0.0, 2.0]))
        elif kind == 4:
            torch.log(same.detach(), out=view)
        else:
            view.zero_()


def _only(looked_at):
    """Make nothing of what was looked at."""


MAKING = (
    lambda draw, x, same: x + same,
    lambda draw, x, same: x * same,
    lambda draw, x, same: x / same,
    lambda draw, x, same: x.log(),
    lambda draw, x, same: x.sqrt(),
    lambda draw, x, same: x.exp(),
    lambda draw, x, same: torch.where(x > 0, x, same),
    lambda draw, x, same: x.masked_fill(x > 0, draw.choice([0.0, -float("inf")])),
    lambda draw, x, same: x[..., :2] if x.dim() else x.clone(),
    lambda draw, x, same: x.t() if x.dim() == 2 else x.view(-1),
    lambda draw, x, same: x.softmax(-1) if x.dim() else x * 1,
    lambda draw, x, same: torch.cat([x, same]) if x.dim() else x.exp(),
    lambda draw, x, same: x.nan_to_num(),
    lambda draw, x, same: x.sum(),
    lambda draw, x, same: _only(x.isfinite().all()),
    lambda draw, x, same: _only(x.argmax()),
    lambda draw, x, same: _only(float(x.detach().sum())),
)


def program(seed):
    """A random program of views, writes, masks, gradients, and bad numbers from anywhere."""
    draw = random.Random(seed)

    def run():
        numbers = VALUES + ODD * (draw.random() < 0.5)
        pool = [
            torch.tensor([[draw.choice(numbers) for _ in range(3)] for _ in range(2)])
            for _ in range(2)
        ]
        if seed % 2:
            pool[0].requires_grad_()
        for _ in range(draw.randint(3, 14)):
            x = draw.choice(pool)
            same = draw.choice([y for y in pool if y.shape == x.shape])
            try:
                if draw.random() < 0.3:
                    _write(draw, x, same)
                elif draw.random() < 0.1 and len(pool) > 3:
                    pool.pop(draw.randrange(len(pool)))
                elif (made := draw.choice(MAKING)(draw, x, same)) is not None:
                    pool.append(made)
            except (RuntimeError, ValueError):
                continue
        graded = [y for y in pool if y.grad_fn is not None]
        if graded:
            try:
                draw.choice(graded).nan_to_num().sum().backward()
            except RuntimeError:
                return

    return run


@pytest.mark.parametrize("seed", range(120))
def test_random_programs_have_one_answer(seed):
    error = raised(program(seed))
    with opscope.trace(replayable=True) as trace:
        program(seed)()
    found = trace.first_nonfinite()
    assert (found is None) == (error is None), found or error
    if error is not None:
        # But for the layer's label: more of its passes may follow.
        for name in ("kind", "operator", "op", "came_in_with", "name", "made_of", "seen_in",
                     "source", "phase", "ranges"):  # fmt: skip
            assert getattr(found, name) == getattr(error, name), str(error)


# ------------------------------------------------------------------------------- its limits


def test_a_weight_that_was_written_since_is_not_read_as_it_is_now():
    """With ``save="all"`` nothing was copied: after a bad step the weight is NaN, but was not."""
    model = linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with opscope.trace(model, save="all") as trace:
        y = model(torch.rand(4, 2))
        y.sum().backward()
        model[0].weight.grad.fill_(NAN)
        optimizer.step()
    found = trace.first_nonfinite()
    assert found.came_in_with == "argument"
    assert found.operator == "aten.fill_.Scalar"


def test_what_a_backward_made_is_told_as_far_as_it_was_saved():
    model = linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with opscope.trace(model, save="all") as trace:
        y = model(torch.zeros(4, 2)) * 0
        torch.where(y > 0, y.sqrt(), 0).sum().backward()
        optimizer.step()
    found = trace.first_nonfinite()
    assert found.phase == "optimizer"
    assert any(text.endswith("(not saved)") for text in found.ranges)


def test_the_inputs_of_a_model_have_the_names_of_its_forward():
    class Two(nn.Module):
        def forward(self, batch, *, scale=None):
            return batch["x"] * scale

    for given, name in (((NAN, 1.0), "batch.x"), ((1.0, NAN), "scale")):
        model, (x, scale) = Two(), map(torch.tensor, given)
        with opscope.trace(model, save="all") as trace:
            model({"x": x}, scale=scale)
        found = trace.first_nonfinite()
        assert (found.came_in_with, found.name) == ("input", name)


@pytest.mark.parametrize("options", [{}, {"save": ["relu"]}], ids=str)
def test_asked_of_a_trace_that_saved_too_little_it_says_so(options):
    with opscope.trace(**options) as trace:
        torch.relu(torch.zeros(3)).log()
    with pytest.raises(NotSaved, match="save='all' or replayable=True"):
        trace.first_nonfinite()
