"""What is asked of a fingerprint at the front desk."""

import copy

import pytest
import torch

import opscope
from opscope.errors import OptionError


def traced(program):
    with opscope.trace() as trace:
        program()
    return trace


def test_a_copy_of_the_record_has_that_of_the_trace():
    trace = traced(lambda: torch.relu(torch.ones(2)))
    for level in ("layer", "op"):
        assert opscope.fingerprint(copy.copy(trace), level) == opscope.fingerprint(trace, level)


def test_arguments_are_told_where_that_is_asked_for():
    one, two = (traced(lambda eps=eps: torch.layer_norm(torch.ones(4), [4], eps=eps))
                for eps in (1e-5, 1e-3))  # fmt: skip
    everything = ["shapes", "dtypes", "parameters", "arguments"]
    assert opscope.fingerprint(one) == opscope.fingerprint(two)
    assert opscope.fingerprint(one, include=everything) != opscope.fingerprint(
        two, include=everything
    )


def test_what_is_included_matters_and_its_order_does_not():
    trace = traced(lambda: torch.ones(2))
    hashes = {opscope.fingerprint(trace, include=parts) for parts in ([], ["shapes"], ["dtypes"])}
    assert len(hashes) == 3
    assert opscope.fingerprint(trace, include=["dtypes", "shapes"]) == opscope.fingerprint(
        trace, include=("shapes", "dtypes", "shapes")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"level": "module"}, "unknown level: 'module'.*'layer', 'op'"),
        ({"include": ["weights"]}, "unknown part to include: 'weights'.*'shapes', 'dtypes'"),
        ({"include": "shapes"}, "include: 'shapes' .must be None, or a list"),
    ],
)
def test_what_there_is_not_is_refused(arguments, said):
    with pytest.raises(OptionError, match=said):
        opscope.fingerprint(traced(lambda: torch.ones(2)), **arguments)
    with pytest.raises(OptionError, match="record: int object"):
        opscope.fingerprint(3)
