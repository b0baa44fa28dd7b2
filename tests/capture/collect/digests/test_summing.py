"""A tensor in a few numbers: those that a pass in double precision gives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opscope.capture.collect.digests.summing import digest_of
from opscope.records.values import SAMPLES

REL = 5e-5  # what is summed up in single precision


@pytest.mark.parametrize("count", [1, 5, 64, 65, 1000, 200_001])
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
     torch.bool, torch.float8_e5m2],
    ids=str,
)  # fmt: skip
def test_numbers_are_those_of_double_precision(dtype, count):
    tensor = (torch.rand(count) * 5 - 1).abs().to(dtype)
    wide, found = tensor.double(), digest_of(tensor)
    close = pytest.approx
    assert found.norm == close(wide.norm().item(), rel=REL)
    assert found.mean == close(wide.mean().item(), rel=REL)
    assert (found.minimum, found.maximum) == (wide.min().item(), wide.max().item())
    assert found.nonfinite == 0
    assert (found.sample[0], found.sample[-1]) == (wide[0].item(), wide[-1].item())
    assert len(found.sample) == min(count, SAMPLES)
    assert set(found.sample) <= set(wide.tolist())


@given(st.lists(st.floats(width=32), min_size=1, max_size=200))
def test_what_is_not_finite_is_counted_and_left_out(numbers):
    found = digest_of(torch.tensor(numbers))
    finite = [number for number in numbers if math.isfinite(number)]
    assert found.nonfinite == len(numbers) - len(finite)
    assert found.norm == pytest.approx(math.hypot(*finite), rel=1e-5)
    assert found.minimum == min(finite, default=0.0)
    assert found.maximum == max(finite, default=0.0)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])
def test_squares_out_of_range_do_no_harm(scale):
    tensor = torch.full((1000,), scale)
    assert digest_of(tensor).norm == pytest.approx(tensor.double().norm().item(), rel=1e-5)
    assert digest_of(tensor).mean == pytest.approx(tensor[0].item(), rel=1e-5)


@pytest.mark.parametrize("count", [2, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_out_of_range_is_infinite(count, sign):
    found = digest_of(torch.full((count,), sign * 1.7e308, dtype=torch.float64))
    assert (found.norm, found.mean) == (math.inf, sign * math.inf)
    assert found.minimum == found.maximum == sign * 1.7e308


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-22, 1e-30, 1e-300])
def test_squares_that_are_all_but_nothing_count(dtype, scale):
    """Those of equal numbers too, and of some whose squares have only a few digits left."""
    for shares in (torch.ones(1000), torch.linspace(0, 1, 1000)):
        tensor = (shares.double() * scale).to(dtype)
        norm = math.hypot(*tensor.tolist())
        assert digest_of(tensor).norm == pytest.approx(norm, rel=REL)


def test_complex_numbers_are_two_each():
    tensor = torch.tensor([3 + 4j, 0 - 1j])
    found = digest_of(tensor)
    assert found.sample == (3.0, 4.0, 0.0, -1.0)
    assert found.norm == pytest.approx(tensor.abs().square().sum().sqrt().item())
    assert digest_of(tensor.conj()).sample == (3.0, -4.0, 0.0, 1.0)
    assert digest_of(tensor.conj()).hash == digest_of(tensor.conj().resolve_conj().clone()).hash
    assert digest_of(tensor.conj().imag).sample == (-4.0, 1.0)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(1).expand(10**12),
    ],
    ids=["meta", "sparse", "expanded without end"],
)
def test_what_lies_in_no_plain_memory_has_none(tensor):
    assert digest_of(tensor) is None


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_quantised_ones_have_none():
    assert digest_of(torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8)) is None


def test_nested_ones_have_none():
    rows = [torch.ones(2), torch.ones(3)]
    assert digest_of(torch.nested.nested_tensor(rows, layout=torch.jagged)) is None


def test_an_empty_one_has_one():
    found = digest_of(torch.empty(0, 3))
    assert (found.norm, found.mean, found.sample, len(found.hash)) == (0.0, 0.0, (), 32)
