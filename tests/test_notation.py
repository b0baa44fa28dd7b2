import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opscope import notation


@pytest.mark.parametrize(
    ("sizes", "written"), [((), "scalar"), ((3,), "3"), ((1, 64, 55), "1×64×55"), ((0, 2), "0×2")]
)
def test_shapes(sizes, written):
    assert notation.shape(sizes) == written


@pytest.mark.parametrize(
    ("dtype", "written"),
    [("float32", "f32[2, 3]"), ("bfloat16", "bf16[2, 3]"), ("bool", "b8[2, 3]"),
     ("float8_e4m3fn", "float8_e4m3fn[2, 3]")],
)  # fmt: skip
def test_tensors_in_the_notation_of_torchs_debug_mode(dtype, written):
    assert notation.tensor(dtype, (2, 3)) == written


@pytest.mark.parametrize(
    ("shapes", "written"),
    [([], ""), ([(2,)], "f32[2]"), ([()], "f32[]"), ([(2,), (3,), (4,)], "f32[2] +2")],
)
def test_of_several_tensors_the_first_and_how_many_more(shapes, written):
    assert notation.tensors(["float32"] * len(shapes), shapes) == written


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4, "1.0 TiB"),
        (2048 * 1024**5, "2,048.0 PiB"),
    ],
)
def test_sizes_change_unit_where_the_number_would_reach_1024(count, written):
    assert notation.size(count) == written


@given(st.integers(0, 1024**6))
def test_a_size_never_has_more_than_four_digits_before_the_point(count):
    assert re.fullmatch(r"\d{1,4}(\.\d)? (B|[KMGTP]iB)|1,024\.0 PiB", notation.size(count))


@given(st.integers(0, 1024**5))
def test_a_size_is_right_to_half_its_last_digit(count):
    number, unit = notation.size(count).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)

    assert abs(float(number.replace(",", "")) * factor - count) <= 0.0501 * factor


@pytest.mark.parametrize(
    ("nanoseconds", "written"),
    [
        (0, "0 µs"),
        (1, "0.001 µs"),
        (567_000, "567 µs"),
        (999_499, "999 µs"),
        (999_500, "1 ms"),
        (28_800_000, "28.8 ms"),
        (999_600_000, "1 s"),
        (59_000_000_000, "59 s"),
        (999_700_000_000, "1,000 s"),
        (12_345_600_000_000, "12,346 s"),
    ],
)
def test_times_to_three_figures(nanoseconds, written):
    assert notation.duration(nanoseconds) == written


@given(st.integers(0, 10**18))
def test_a_time_is_never_written_with_an_exponent(nanoseconds):
    assert re.fullmatch(r"[\d,.]+ (µs|ms|s)", notation.duration(nanoseconds))


@pytest.mark.parametrize(
    ("number", "written"), [(0, "0 ops"), (1, "1 op"), (2, "2 ops"), (1234, "1,234 ops")]
)
def test_plurals(number, written):
    assert notation.plural(number, "op") == written


@pytest.mark.parametrize(
    ("numbers", "written"),
    [([], ""), ([4], "4"), ([3, 1, 2, 5, 5], "1-3, 5"), ([1, 3], "1, 3"), ([1, 2], "1-2")],
)
def test_ranges(numbers, written):
    assert notation.ranges(numbers) == written


@given(st.sets(st.integers(0, 50)))
def test_ranges_name_each_number_once(numbers):
    named = []
    for part in filter(None, notation.ranges(numbers).split(", ")):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)

    assert named == sorted(numbers)
