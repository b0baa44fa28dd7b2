"""Random programs as the forward of a module: the program gives the same, or is refused."""

import pytest
import torch
from tests.exporters.fx.compare import same
from tests.graph import fuzzer
from torch import nn

import opscope

INPUTS = ("x0", "x1", "x3", "x4", "i0")


class Random(nn.Module):
    """Runs the lines of a program on inputs times parameters."""

    def __init__(self, lines):
        super().__init__()
        self.lines = list(lines)
        self.weights = nn.ParameterList([nn.Parameter(torch.tensor(1 + i / 8)) for i in range(4)])

    def forward(self, x0, x1, x3, x4, i0):
        x1 = x1 * self.weights[1]
        scope = {
            "torch": torch, "F": nn.functional, "x0": x0 * self.weights[0], "x1": x1,
            "x2": x1.reshape(2, 4)[:, 1:3], "x3": x3 * self.weights[2].double(),
            "x4": x4 * self.weights[3], "i0": i0 + 0,
        }  # fmt: skip
        for line in self.lines:
            exec(line, scope)
        return {name: item for name, item in scope.items() if name[0] in "xv"}


def inputs(scale):
    return [
        torch.linspace(-1, 1, 12).reshape(3, 4) * scale,
        torch.linspace(-2, 3, 8) * scale,
        torch.linspace(0, 1, 24, dtype=torch.float64).reshape(2, 3, 4) * scale,
        torch.linspace(1, 2, 12).reshape(4, 3) * scale,
        torch.tensor([0, 1, 1]),
    ]


def runnable(seed):
    """Return a module of the lines that autograd lets run, without those it does not see."""
    lines = [
        line
        for line in fuzzer.generate(seed, steps=20).lines
        if ".data = " not in line and "untyped_storage" not in line and "inference" not in line
    ]
    while True:
        model = Random(lines)
        try:
            model(*inputs(1.0))
        except fuzzer._ERRORS:
            kept = [line for line in lines if runs(lines, line)]
            if len(kept) == len(lines):
                kept = kept[:-1]
            lines = kept
        else:
            return model


def runs(lines, line):
    """Whether the lines up to one run."""
    try:
        Random(lines[: lines.index(line) + 1])(*inputs(1.0))
    except fuzzer._ERRORS:
        return False
    return True


def outcome(function, scale, parameters):
    """Return what a function gives of inputs, and the gradients of each part by itself."""
    torch.manual_seed(0)
    found = function(*inputs(scale))
    values = [(name, item) for name, item in found.items() if isinstance(item, torch.Tensor)]
    gradients = {}
    for name, item in values:
        if not item.requires_grad:
            gradients[name] = None
            continue
        try:
            gradients[name] = torch.autograd.grad(
                item.abs().sum(), parameters, allow_unused=True, retain_graph=True
            )
        except RuntimeError as error:
            gradients[name] = type(error)
    return values, gradients


@pytest.fixture
def filled():
    """What no op wrote is the same everywhere."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("filled")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_a_random_program_gives_the_same_and_the_same_gradients(seed):
    model = runnable(seed)
    parameters = list(model.parameters())
    for grad in (True, False):
        with torch.set_grad_enabled(grad), opscope.trace(model) as trace:
            model(*inputs(1.0))
        try:
            program = trace.to_fx()
        except opscope.OpscopeError:
            continue
        for scale in (1.0, 0.5):
            (expected, wanted), (found, got) = (
                outcome(function, scale, parameters) for function in (model, program)
            )
            assert [name for name, _ in found] == [name for name, _ in expected]
            for (name, mine), (_, theirs) in zip(found, expected, strict=True):
                assert same(mine.detach(), theirs.detach()), name
                if got[name] is opscope.TraceStateError:
                    continue
                assert type(got[name]) is type(wanted[name]), name
                if isinstance(got[name], tuple):
                    assert all(map(same, got[name], wanted[name])), name
