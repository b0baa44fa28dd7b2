"""What runs again is paired with what ran once, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opscope.capture.assemble.reruns.pairing import paired

LETTERS = st.text("abcd", max_size=12)


def text_of(again, once, **options):
    """Return for each item of the first the place of its partner, ``.`` for none."""
    pairs = paired(again, once, **options)
    return "".join(str(pairs[i]) if i in pairs else "." for i in range(len(again)))


@pytest.mark.parametrize(
    ("again", "once", "places"),
    [
        ("abc", "abc", "012"),
        ("abc", "abcabc", "345"),  # of several passes the last
        ("b", "abc", "1"),
        ("bc", "abcd", "12"),
        ("abcxy", "abc", "012.."),  # what is new comes after
        ("abcab", "abc", "012.."),
        ("xabc", "abc", ".012"),
        ("abxc", "abc", "01.2"),
        ("ac", "abc", "02"),
        ("mmx", "m", "0.."),
        ("abab", "ab", "01.."),  # more often than before: the first ones
        ("ba", "ab", "1."),  # the other way round: one of them
        ("abcz", "xabcyabcy", "567."),
        ("", "abc", ""),
        ("abc", "", "..."),
        ("xyz", "abc", "..."),
    ],
)
def test_pairs_are_as_many_as_can_be_and_of_several_passes_the_last(again, once, places):
    assert text_of(again, once) == places


@pytest.mark.parametrize(("anchor", "places"), [((0, 0), "01"), ((0, 2), "23"), ((1, 3), "23")])
def test_pairs_are_around_the_anchor(anchor, places):
    assert text_of("ab", "ababab", anchor=anchor) == places


def test_a_lone_item_far_away_is_a_coincidence_if_it_is_followed_by_what_is_new():
    """Say, the product with a gradient, and the sum of that: no multiplication of the next pass."""
    assert text_of("abms", "abcdefgmh") == "01.."
    assert text_of("smab", "hmcdefgab") == "..78"
    assert text_of("abms", "abcmh") == "013."
    assert text_of("abmhs", "abcdefgmh") == "0178."
    assert text_of("abm", "abcdefgmh") == "017"
    assert text_of("ms", "abcdefgmh") == "7."


@given(LETTERS, LETTERS)
def test_pairs_are_equal_and_in_order(again, once):
    pairs = paired(again, once)
    assert all(again[i] == once[j] for i, j in pairs.items())
    assert sorted(pairs) == list(pairs)
    assert sorted(pairs.values()) == list(pairs.values())
    assert len(set(pairs.values())) == len(pairs)
    assert bool(pairs) == bool(set(again) & set(once))


@given(LETTERS, st.text("xyz", max_size=4), st.text("xyz", max_size=4))
def test_what_is_whole_in_the_other_is_found_whole(inner, before, after):
    pairs = paired(inner, before + inner + after)
    assert list(pairs.values()) == [len(before) + i for i in range(len(inner))]
    pairs = paired(before + inner + after, inner)
    assert list(pairs) == [len(before) + i for i in range(len(inner))]


@given(st.lists(st.integers(0, 50), unique=True), st.data())
def test_what_lacks_some_is_paired_in_all_that_is_left(once, data):
    again = [item for item in once if data.draw(st.booleans())]
    pairs = paired(again, once)
    assert {again[i]: once[j] for i, j in pairs.items()} == {item: item for item in again}
