"""What is worth a look is found, and nothing where all is well."""

import pytest
import torch
from tests import zoo
from torch import nn

import opscope
from opscope.records.sums.findings import findings

X = torch.ones(1, 3)


def found(program, model=None):
    with opscope.trace(model) as trace:
        program()
    return {one.kind: one for one in findings(trace.recording, trace.passes)}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.tied = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.tied.weight = self.used.weight

    def forward(self, x):
        self.tied(x).relu().exp()
        return self.used(x)


def test_parameters_that_are_unused_tied_or_without_gradient_are_named():
    model = Odd()
    seen = found(lambda: model(X).sum().backward(), model)

    assert seen["unused"].names == ("unused.weight", "unused.bias")
    assert seen["without gradient"].names == ("tied.bias",)
    assert seen["tied"].names == ("used.weight = tied.weight",)
    assert seen["tied"].said == "1 parameter with several names: used.weight = tied.weight"


def test_layers_whose_results_nobody_read_are_named():
    model = Odd()
    seen = found(lambda: model(X), model)

    assert [name.split("_")[0] for name in seen["unread"].names] == ["exp"]


def test_what_is_kept_written_or_passed_on_is_not_unread():
    kept = []

    def program():
        kept.append(torch.ones(2) + 1)
        x = torch.zeros(2)
        x.add_(1)
        y = torch.zeros(2)
        y[0] = 1
        kept.append(x.view(1, 2).contiguous())

    assert "unread" not in found(program)


def test_a_failure_comes_first():
    model = Odd()
    with pytest.raises(RuntimeError), opscope.trace(model) as trace:
        model(torch.ones(1, 4))
    first = findings(trace.recording, trace.passes)[0]

    assert first.kind == "failed"
    assert first.names == ("tied",)
    assert "RuntimeError" in first.said


def test_of_many_a_few_are_shown():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.ModuleList(nn.Linear(3, 3) for _ in range(9))

        def forward(self, x):
            return self.all[0](x)

    model = First()
    seen = found(lambda: model(X), model)

    assert len(seen["unused"].names) == 16
    assert seen["unused"].said.startswith("16 parameters that no op was given: all.1.weight, ")
    assert seen["unused"].said.endswith(" and 12 more")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "vit", "lstm", "encoder", "recurrent", "swin"])
def test_nothing_is_found_in_models_that_are_well(name, training):
    program = zoo.build(name, training=training)
    with opscope.trace(program.module) as trace:
        result = program.run()

    assert findings(trace.recording, trace.passes) == []
    assert result is not None


def test_a_loss_beside_the_model_is_not_taken_for_unread():
    model = nn.Linear(3, 3)

    def program():
        model(X).sum()

    assert "unread" not in found(program, model)
