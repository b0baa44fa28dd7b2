from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opscope.analysis.compare.alignment.sequences import common

TOKENS = st.lists(st.integers(0, 5), max_size=40)


def longest(a, b):
    """Return the length of the longest common subsequence, by the textbook."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row[:]
        for j, y in enumerate(b):
            row[j + 1] = before[j] + 1 if x == y else max(before[j + 1], row[j])
    return row[-1]


@given(TOKENS, TOKENS)
def test_what_is_common_is_equal_and_in_order_in_both(a, b):
    found = common(a, b)

    assert all(a[i] == b[j] for i, j in found)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(found))


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_of_what_occurs_once_it_is_the_longest(a, b):
    assert len(common(a, b)) == longest(a, b)


@given(st.lists(st.sampled_from("ab"), max_size=30), st.lists(st.sampled_from("ab"), max_size=30))
def test_of_short_ones_it_is_the_longest(a, b):
    assert len(common(a, b)) == longest(a, b)


@given(TOKENS)
def test_a_sequence_has_all_in_common_with_itself(a):
    assert common(a, a) == [(i, i) for i in range(len(a))]


@pytest.mark.parametrize("every", [7, 1000])
def test_insertions_into_a_long_repetitive_sequence_are_found(every):
    a = [i % 3 for i in range(20_000)]
    b = [t for i, token in enumerate(a) for t in ((token, 9) if i % every == 0 else (token,))]

    assert len(common(a, b)) == len(a)


def test_two_long_sequences_that_have_little_in_common_come_to_an_end():
    a = [i * i % 91 for i in range(20_000)]
    b = [i * i * i % 89 for i in range(20_000)]

    found = common(a, b)

    assert len(found) > 1000
    assert all(a[i] == b[j] for i, j in found)
