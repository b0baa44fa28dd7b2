"""A trace in so many characters: never more, and what matters first."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import zoo
from tests.builders import HOSTILE_NAMES
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.exporters.short_report import LEAST


@pytest.fixture(scope="module")
def trace():
    program = zoo.build("gpt2")
    with opscope.trace(program.module, memory=True) as trace:
        program.run()
    return trace


@settings(deadline=None, max_examples=60)
@given(st.integers(LEAST, 6000))
def test_it_is_never_longer_than_it_may_be(trace, budget):
    text = trace.text(budget)

    assert len(text) <= budget
    assert text.splitlines()[0].startswith("GPT2LMHeadModel: ")
    assert text.splitlines()[-1].startswith("ask on: ") or budget < 900


def test_with_room_it_has_facts_findings_structure_and_costs(trace):
    text = trace.text(6000)

    for part in (
        "parameters: ", "FLOPs: ", "memory: ", "! 1 parameter with several names", "GPT2Block",
        "top operators by time:", "aten.addmm.default ×",
    ):  # fmt: skip
        assert part in text, part


def test_with_less_room_it_is_less_deep(trace):
    deep, shallow = (trace.text(budget) for budget in (6000, 1500))

    assert "attn" in deep
    assert "attn  " not in shallow
    assert "deeper than" in shallow or "more lines" in shallow


def test_a_copy_says_the_same(trace):
    assert pickle.loads(pickle.dumps(trace)).text() == trace.text()


@pytest.mark.parametrize("budget", [3, LEAST - 1, 4000.0, "4000", True, None])
def test_too_little_is_refused(trace, budget):
    with pytest.raises(OptionError, match="budget"):
        trace.text(budget)


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_foreign_names_stay_on_their_line(name):
    model = nn.Sequential(nn.ReLU())
    model._modules = {name: nn.ReLU()}
    with opscope.trace(model) as trace:
        model(torch.ones(1))
    lines = trace.text().splitlines()

    assert sum("ReLU" in line for line in lines) == 1


def test_an_empty_program_has_a_text_too():
    with opscope.trace() as trace:
        pass
    assert "0 ops (none)" in trace.text()
