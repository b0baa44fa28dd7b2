"""What marked the inputs and outputs of a model is taken out of a recording."""

import pytest
import torch
from tests import invariants
from torch import nn

import opscope
from opscope.records.flow.several import borders, without_model


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x, y=None):
        z = self.a(x if y is None else x + y).relu()
        return {"z": z, "both": (self.b(z), z)}


@pytest.fixture(params=[True, False], ids=["layers", "ops only"])
def recorded(request):
    model, x = Pair(), torch.rand(2, 3)
    with opscope.trace(model, layers=request.param) as trace:
        model(x, y=x)["both"][0].sum().backward()
    return trace.recording


def test_no_call_marks_an_input_or_an_output(recorded):
    found = without_model(recorded)
    assert {"input", "output"} <= {call.kind for call in recorded.layer_calls}
    assert not {"input", "output"} & {call.kind for call in found.layer_calls}
    assert not any(run.is_root for run in found.module_calls)
    assert found.model_name == ""


def test_what_was_handed_in_and_out_is_what_it_was_before(recorded):
    found, same = without_model(recorded), borders(recorded)
    assert same
    assert not set(same) & set(same.values())
    used = {read.value for op in found.ops for read in op.reads}
    used |= {leaf.value for run in found.module_calls for leaf in (*run.inputs, *run.outputs)}
    assert not used & set(same)
    root = found.module_calls[0]
    assert [leaf.path for leaf in root.outputs] == ["z", "both.0", "both.1"]
    assert root.outputs[0].value == root.outputs[2].value


def test_ops_stay_in_their_calls_and_modules(recorded):
    found = without_model(recorded)
    assert len(found.values) == len(recorded.values)
    for before, after in zip(recorded.ops, found.ops, strict=True):
        assert (before.operator, before.outputs, before.module_call) == (
            after.operator, after.outputs, after.module_call,
        )  # fmt: skip
        if before.layer_call is not None:
            call = found.layer_calls[after.layer_call]
            assert call.function == recorded.layer_calls[before.layer_call].function
            assert after.index in call.ops
    for index, call in enumerate(found.layer_calls):
        assert call.index == index


def test_a_recording_without_a_model_stays_as_it_is():
    with opscope.trace() as trace:
        torch.ones(3).sin()
    assert without_model(trace.recording) == trace.recording


def test_the_rest_of_the_record_holds_together():
    one, two = Pair(), nn.Linear(2, 2)
    with opscope.trace() as trace:
        two(one(torch.rand(2, 3))["both"][0])
    invariants.check(trace)
