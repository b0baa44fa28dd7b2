from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opscope.analysis.compare.distance import (
    differs_anywhere,
    distance,
    is_alike,
    norm_of,
    sketch_of,
)
from opscope.records.values import Digest


def digest(tensor, hashed=""):
    numbers = tensor.double().reshape(-1)
    finite = numbers[numbers.isfinite()]
    return Digest(
        hashed, float(finite.norm()), float(finite.mean()), float(finite.min()), float(finite.max()),
        numbers.numel() - finite.numel(), tuple(finite.tolist()),
    )  # fmt: skip


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.randoms())
def test_the_error_is_the_norm_of_the_difference_by_the_greater_norm(numbers, source):
    x = torch.tensor(numbers, dtype=torch.float64)
    y = x + torch.tensor([source.uniform(-1, 1) for _ in numbers], dtype=torch.float64)

    found = distance(x, y)

    greatest = float(max(x.norm(), y.norm()))
    if greatest > 1e-100:
        assert found.relative == pytest.approx(float((x - y).norm()) / greatest)
    assert found.largest == pytest.approx(float((x - y).abs().max()))
    assert distance(y, x).relative == pytest.approx(found.relative)


def test_sizes_do_not_matter_and_a_transpose_is_turned():
    x = torch.rand(3, 4)

    assert distance(x, x.reshape(12)).relative == 0
    assert distance(x, x.t().contiguous()).relative == 0
    assert distance(x, x[:2]).relative == inf


def test_infinities_and_nans_are_counted_where_only_one_has_them():
    x = torch.tensor([1.0, inf, nan, 2.0])

    assert distance(x, x.clone()).relative == 0
    assert distance(x, torch.tensor([1.0, inf, 3.0, 2.0])).nonfinite == 1
    assert distance(x, torch.tensor([1.0, -inf, nan, 2.0])).relative == inf
    apart = distance(x, torch.tensor([1.0, inf, nan, 2.5]))
    assert apart.nonfinite == 0
    assert apart.largest == 0.5


def test_what_fills_a_mask_counts_as_infinite_in_every_type():
    def masked(dtype):
        return torch.tensor([1.0, torch.finfo(dtype).min], dtype=dtype)

    assert distance(masked(torch.float32), masked(torch.float16)).relative == 0
    assert distance(masked(torch.float32), masked(torch.bfloat16)).relative == 0
    assert distance(masked(torch.float32), torch.tensor([1.0, -inf])).relative == 0


def test_large_numbers_are_not_taken_for_masks():
    x = torch.full((10,), 1e30)

    assert distance(x, x * 1.5).relative == pytest.approx(1 / 3)


def test_of_whole_numbers_and_truths_the_share_is_told():
    assert distance(torch.arange(4), torch.tensor([0, 1, 2, 9])).relative == 0.25
    assert distance(torch.tensor([True, False]), torch.tensor([True, True])).relative == 0.5


def test_nothing_is_the_same_as_nothing_and_other_layouts_are_looked_into():
    assert distance(torch.empty(0), torch.empty(0, dtype=torch.float16)).relative == 0
    sparse = torch.eye(3).to_sparse()
    assert distance(sparse, torch.eye(3)).relative == 0
    assert distance(torch.tensor([1 + 1j]), torch.tensor([1 + 2j])).largest == 1


def test_digests_are_compared_by_hash_and_else_by_what_they_tell():
    x = torch.rand(30)

    assert distance(digest(x, "same"), digest(x + 1, "same")).relative == 0
    assert distance(digest(x, "a"), digest(x, "b")).relative == 0
    assert distance(digest(x), digest(x + 0.1)).relative > 0.05
    assert (
        distance(digest(x), digest(torch.full((30,), nan)[:0].new_tensor([nan, 1.0]))).relative
        == inf
    )
    assert distance(digest(x), digest(x[:20])).relative == inf


def test_a_tensor_and_a_digest_are_compared_by_what_both_tell():
    x = torch.rand(30)
    bare = Digest("h", *[getattr(digest(x), n) for n in ("norm", "mean", "minimum", "maximum")])

    assert distance(x, bare).relative < 1e-6
    assert distance(x * 2, bare).relative > 0.3


def test_one_element_of_what_was_given_is_enough():
    x = torch.rand(10_000)
    y = x.clone()
    y[77] += 1e-3

    assert distance(x, y).relative < 1e-4
    assert differs_anywhere(x, y, 1e-4)
    assert not differs_anywhere(x, x.clone(), 0.0)


def test_rounding_to_a_type_of_few_bits_is_no_difference():
    x = torch.randn(1000)

    assert not differs_anywhere(x, x.bfloat16(), 8e-3)
    assert not differs_anywhere(x, x.half(), 1e-3)
    assert differs_anywhere(x, x.bfloat16(), 1e-3)


def test_sketch_ofs_are_alike_where_values_nearly_are():
    x = torch.randn(100)

    assert is_alike(sketch_of(x), sketch_of(x * (1 + 1e-6)))
    assert not is_alike(sketch_of(x), sketch_of(x.flip(0)))
    assert sketch_of(torch.ones(9)) is None
    assert sketch_of(torch.arange(9)) is None
    assert norm_of(torch.tensor([3, 4])) == 5
