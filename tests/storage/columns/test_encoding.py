"""Columns of numbers take few bytes, whatever the numbers, and come back as they were."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opscope.records.columns.columns import Coded, Optional, Same
from opscope.storage.columns.checks import Misfit, narrowest
from opscope.storage.columns.decoding import Decoder
from opscope.storage.columns.encoding import Blob, Encoder, as_numbers, distinct


def kept(numbers):
    """Return what is said of numbers, and the bytes of them."""
    data = bytearray()
    said = Encoder(Blob(data.extend), {})._numbers(array("q", numbers))
    return json.loads(json.dumps(said)), bytes(data)


def back(said, data, count):
    return list(Decoder(memoryview(data), {}, 1000).numbers(said, count))


INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INTEGERS) | st.lists(st.integers(-3, 3)) | st.builds(range, INTEGERS, INTEGERS,
       st.just(2**60)).map(list))  # fmt: skip
def test_numbers_come_back_as_they_were(numbers):
    assert back(*kept(numbers), len(numbers)) == numbers


@pytest.mark.parametrize(
    ("numbers", "size"),
    [
        ([], 0),
        ([5] * 100, 0),
        (range(100), 0),
        (range(0, -700, -7), 0),
        ([1, 2, 4] * 10, 30),
        ([-1, 200, 0], 6),
        ([2**40, 2**40 + 1, 2**40 + 5], 2),
        ([0, 2**32], 0),
        ([0, 2**32, 1], 24),
    ],
)
def test_numbers_take_no_more_bytes_than_they_have_to(numbers, size):
    assert len(kept(numbers)[1]) == size


def test_the_same_numbers_are_written_once():
    data = bytearray()
    blob = Blob(data.extend)
    places = [blob.put(array("B", numbers)) for numbers in ([1, 2], [3], [1, 2])]
    assert places == [0, 2, 0]
    assert data == b"\x01\x02\x03"


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62))
def test_the_narrowest_type_holds_both_ends_and_no_narrower_one_does(low, more):
    high = min(low + more, 2**63 - 1)
    kind = narrowest(low, high)
    bits = 8 * int(kind[1])
    least, most = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert least <= low <= high <= most


def test_what_takes_more_than_eight_bytes_has_no_type():
    with pytest.raises(OverflowError, match="more than eight bytes"):
        narrowest(0, 2**63)


@pytest.mark.parametrize(
    "said",
    [
        {"type": "u1", "at": 2},
        {"type": "u1", "at": -1},
        {"type": "u8", "at": 0},
        {"type": "u1"},
        {"first": 1.5, "step": 0},
        {"first": 1},
        {"first": True, "type": "u1", "at": 0},
        {"first": 2**70, "step": 0},
        {},
    ],
)
def test_numbers_that_are_not_there_are_refused(said):
    with pytest.raises((Misfit, LookupError, TypeError, OverflowError)):
        back(said, b"\x00\x01\x02", 3)


def test_columns_in_codes_are_taken_as_they_are():
    assert distinct(Coded(bytearray([2, 0, 2]), ["a", "b", "c"])) == (
        array("q", [0, 1, 0]),
        ["c", "a"],
    )
    assert distinct(Same("x", 3)) == (array("q", [0, 0, 0]), ["x"])


def test_none_among_numbers_is_kept_as_it_is_in_memory():
    assert as_numbers(Optional(array("i", [-1, 3])), optional=True) == array("q", [-1, 3])
    assert as_numbers([None, 3], optional=True) == array("q", [-1, 3])
    assert as_numbers([-1, 3], optional=True) is None
    assert as_numbers([None, 3]) is None


@pytest.mark.parametrize(
    "numbers", [array("I", [7, 1]), bytearray([7, 1]), [7, True], range(7, 0, -6)]
)
def test_numbers_of_any_sort_are_taken_one_by_one(numbers):
    assert as_numbers(numbers) == array("q", [7, 1])
