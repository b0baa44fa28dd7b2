"""Regions against a model of them: the set of every byte, one by one."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opscope.records.flow.regions import LastWrites, last_writers, overlap, region

Layout = tuple[tuple[int, ...], tuple[int, ...], int, int]


def bytes_of(shape, stride, offset, itemsize) -> set[int]:
    """Return every byte of a strided tensor, element by element."""
    return {
        (offset + sum(i * s for i, s in zip(index, stride, strict=True))) * itemsize + byte
        for index in product(*(range(size) for size in shape))
        for byte in range(itemsize)
    }


@st.composite
def layouts(draw, least_size=0) -> Layout:
    """Draw a shape of up to 4 dimensions with any strides: broadcast, overlapping, gapped."""
    dims = draw(st.lists(st.tuples(st.integers(least_size, 4), st.integers(0, 12)), max_size=4))
    shape = tuple(size for size, _ in dims)
    stride = tuple(step for _, step in dims)
    return shape, stride, draw(st.integers(0, 20)), draw(st.sampled_from([1, 2, 4, 8]))


def model_of_last_writers(whole, writes):
    left, seen = bytes_of(*whole), []
    for number, layout in writes:
        if left & bytes_of(*layout):
            seen.append(number)
            left -= bytes_of(*layout)
    return seen, not left


def numbered(written):
    return [(number, made) for number, x in enumerate(written) if (made := region(*x)) is not None]


@given(layouts())
def test_a_region_is_the_bytes_of_the_tensor_and_none_without_elements(layout):
    expected = bytes_of(*layout)
    found = region(*layout)
    if not expected:
        assert found is None
        return
    assert (found.start, found.stop) == (min(expected), max(expected) + 1)
    unit = found.unit
    cells = found.bits(unit)
    assert {byte for byte in range(found.stop) if cells >> byte // unit & 1} == expected


@given(layouts(least_size=1))
def test_a_dense_region_has_no_gap(layout):
    found = region(*layout)
    if found.dense:
        assert bytes_of(*layout) == set(range(found.start, found.stop))


@given(
    st.permutations([0, 1, 2, 3]),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.integers(0, 9),
)
def test_a_whole_tensor_is_dense_however_its_dimensions_are_permuted(order, sizes, offset):
    strides = [1]
    for size in sizes[:0:-1]:
        strides.insert(0, strides[0] * size)
    shape, stride = tuple(sizes[d] for d in order), tuple(strides[d] for d in order)
    assert region(shape, stride, offset, 4).dense


@given(layouts(least_size=1), layouts(least_size=1))
@settings(max_examples=300)
def test_regions_overlap_exactly_where_they_share_a_byte(first, second):
    shared = bool(bytes_of(*first) & bytes_of(*second))
    assert overlap(region(*first), region(*second)) is shared
    assert overlap(region(*second), region(*first)) is shared


@given(layouts(least_size=1), st.lists(layouts(), max_size=6))
@settings(max_examples=400)
def test_last_writers_are_those_whose_bytes_are_still_there(whole, written):
    assert last_writers(region(*whole), numbered(written)) == model_of_last_writers(
        whole, list(enumerate(written))
    )


@given(layouts(), st.lists(layouts(), max_size=12))
def test_the_last_write_is_the_latest_that_shares_a_byte(whole, written):
    writes = LastWrites()
    for layout in written:
        writes.add(region(*layout))
    covered = region(*whole)
    sharing = [at for at, layout in enumerate(written) if bytes_of(*layout) & bytes_of(*whole)]
    assert writes.count == len(written)
    assert covered is None or writes.last_on(covered) == (sharing[-1] if sharing else None)


def test_what_dense_writes_leave_of_one_another_is_found_at_every_byte():
    writes, owner = LastWrites(), {}
    for number, (start, size) in enumerate([(0, 9), (3, 3), (12, 4), (5, 9), (4, 1), (0, 2)]):
        writes.add(region((size,), (1,), start, 1))
        owner.update(dict.fromkeys(range(start, start + size), number))
    found = [writes.last_on(region((), (), byte, 1)) for byte in range(18)]
    assert found == [owner.get(byte) for byte in range(18)]


@given(layouts(least_size=1), st.lists(layouts(least_size=1), min_size=1, max_size=4))
def test_writes_that_are_older_than_one_of_everything_are_never_seen(whole, written):
    found = region(*whole)
    everything = (-1, region((found.stop,), (1,), 0, 1))
    seen, covered = last_writers(found, [everything, *numbered(written)])
    assert (seen, covered) == ([-1], True)


# ------------------------------------------------------------------------------ examples

ROW = ((3,), (1,), 3, 4)  # the second row of a 3 by 3 tensor of float32
OTHER_ROW = ((3,), (1,), 6, 4)
COLUMN = ((3,), (3,), 1, 4)
OTHER_COLUMN = ((3,), (3,), 2, 4)
DIAGONAL = ((3,), (4,), 0, 4)
ABOVE_DIAGONAL = ((2,), (4,), 1, 4)
EVEN = ((4,), (2,), 0, 4)
ODD = ((4,), (2,), 1, 4)
LEFT_HALF = ((2, 2), (4, 1), 0, 4)
RIGHT_HALF = ((2, 2), (4, 1), 2, 4)
EXPANDED = ((5, 3), (0, 1), 3, 4)  # of ROW
HALF_OF_AN_ELEMENT = ((1,), (1,), 7, 2)  # the second half of the second row's first
EMPTY_ROW = ((0, 3), (3, 1), 0, 4)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        pytest.param(ROW, OTHER_ROW, False, id="two rows are apart"),
        pytest.param(COLUMN, OTHER_COLUMN, False, id="two columns are apart, entwined"),
        pytest.param(ROW, COLUMN, True, id="a row meets a column"),
        pytest.param(EVEN, ODD, False, id="even and odd elements are apart"),
        pytest.param(LEFT_HALF, RIGHT_HALF, False, id="halves of rows are apart"),
        pytest.param(DIAGONAL, COLUMN, True, id="the diagonal meets a column"),
        pytest.param(DIAGONAL, ABOVE_DIAGONAL, False, id="two diagonals are apart"),
        pytest.param(EXPANDED, ROW, True, id="an expanded row is that row"),
        pytest.param(EXPANDED, OTHER_ROW, False, id="an expanded row is no other row"),
        pytest.param(HALF_OF_AN_ELEMENT, ROW, True, id="half an element is part of it"),
        pytest.param(HALF_OF_AN_ELEMENT, OTHER_ROW, False, id="and of no other"),
    ],
)
def test_parts_of_a_tensor_overlap_where_they_meet(first, second, shared):
    assert overlap(region(*first), region(*second)) is shared
    assert bool(bytes_of(*first) & bytes_of(*second)) is shared


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        pytest.param([LEFT_HALF, RIGHT_HALF], ([0, 1], True), id="two halves cover"),
        pytest.param([LEFT_HALF, EVEN, ODD], ([0, 1, 2], True), id="older parts fill the rest"),
        pytest.param([EVEN, EVEN, ODD], ([0, 2], True), id="an overwritten write is gone"),
        pytest.param([EVEN, LEFT_HALF], ([0, 1], False), id="a gap is left"),
        pytest.param([EMPTY_ROW, ODD], ([1], False), id="nothing is written without elements"),
        pytest.param([], ([], False), id="no writes, no writers"),
    ],
)
def test_writes_of_parts_add_up_to_a_whole(writes, expected):
    whole = ((2, 4), (4, 1), 0, 4)
    assert last_writers(region(*whole), numbered(writes)) == expected
    assert model_of_last_writers(whole, list(enumerate(writes))) == expected


def test_a_large_tensor_is_settled_without_a_bit_for_each_byte():
    huge = region((1 << 40,), (1,), 0, 4)
    assert overlap(huge, region((5,), (1,), 1 << 30, 4))
    assert last_writers(huge, [(0, huge)]) == ([0], True)
