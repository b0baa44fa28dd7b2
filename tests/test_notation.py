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
    ("shapes", "paths", "written"),
    [
        ([], (), ""),
        ([(2,)], (), "f32[2]"),
        ([()], ("",), "f32[]"),
        ([(2,), (3,), (4,)], (), "f32[2], f32[3], f32[4]"),
        ([(2,), (2,), (2,)], (), "3 × f32[2]"),
        ([(2,), (3,), (2,)], ("0", "1", "2"), "f32[2], f32[3], f32[2]"),
        ([(1, 5, 8), (1, 1, 8), (1, 1, 8)], ("0", "1.0", "1.1"), "f32[1, 5, 8], 2 × f32[1, 1, 8]"),
        ([(2, 4), (2, 5)], ("p", "q"), "p f32[2, 4], q f32[2, 5]"),
        ([(2,), (2,)], ("p", "q"), "p f32[2], q f32[2]"),
        ([(2,)], ("logits",), "logits f32[2]"),
        ([(2,)] * 3, ("h.0", "h.1", "h.2"), "h 3 × f32[2]"),
        ([(2,), (3,)], ("h.0", "h.1"), "h.0 f32[2], h.1 f32[3]"),
        ([(2,)] * 4, ("kv.l.0.k", "kv.l.0.v", "kv.l.1.k", "kv.l.1.v"), "kv.l 4 × f32[2]"),
        ([(2,)] * 3, ("0", "1.a", "1.b"), "f32[2], 1.a f32[2], 1.b f32[2]"),
        ([(2,)], ("a\nb",), "a\\nb f32[2]"),
        ([(2,), (3,)], ("p",), "f32[2], f32[3]"),
    ],
)
def test_of_several_tensors_each_is_written_and_equal_neighbours_are_counted(
    shapes, paths, written
):
    assert notation.listed(notation.tensors(["float32"] * len(shapes), shapes, paths)) == written


def test_neighbours_of_different_types_are_not_equal():
    entries = notation.tensors(["float32", "int64"], [(2,), (2,)])

    assert notation.listed(entries) == "f32[2], i64[2]"


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


# ------------------------------------------------------------------------------ foreign text

HOSTILE = {
    "escape": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "bell and return": ("a\x07\rb", r"a\x07\rb"),
    "line feed and tab": ("a\nb\tc", r"a\nb\tc"),
    "c1": ("a\x9b31mb", r"a\x9b31mb"),
    "next line": ("a\x85b", r"a\x85b"),
    "line and paragraph separators": ("a\u2028b\u2029", r"a\u2028b\u2029"),
    "override of direction": ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
    "half surrogate": ("a\ud800b", r"a\ud800b"),
    "nothing to see": ("a\u200b\ufeff\u00adb", r"a\u200b\ufeff\xadb"),
    "no character": ("a\uffffb\U0010ffff", r"a\uffffb\U0010ffff"),
    "null": ("\0", r"\x00"),
}


@pytest.mark.parametrize(("text", "written"), HOSTILE.values(), ids=HOSTILE)
def test_what_could_command_or_mislead_is_escaped(text, written):
    assert notation.foreign(text) == written


@pytest.mark.parametrize("text", ["a b", "größe", "注意力", "🔥", "[red]<b>&\"'\\", "", " x "])
def test_what_can_be_seen_stays_as_it_is(text):
    assert notation.foreign(text) == text


@given(st.text(), st.integers(1, 50))
def test_foreign_text_is_one_printable_line_of_bounded_length(text, limit):
    written = notation.foreign(text, limit)

    assert written.isprintable()
    assert len(written) <= limit
    assert notation.foreign(written, limit) == written


@given(st.text())
def test_a_sentence_is_one_printable_line_and_stays_what_it_is(text):
    written = notation.sentence(text)

    assert written.isprintable()
    assert notation.sentence(written) == written


def test_a_hundred_thousand_characters_keep_their_ends():
    text = "start" + "\x1b" * 100_000 + "end"

    assert notation.foreign(text, 40).startswith("start")
    assert notation.foreign(text, 40).endswith("end")
    assert len(notation.foreign(text, 40)) == 40
    assert len(notation.sentence("word " * 100_000)) <= 2000


@pytest.mark.parametrize(
    ("text", "width", "written"),
    [
        ("encoder_layer_10", 16, "encoder_layer_10"),
        ("encoder_layer_10", 15, "encoder…ayer_10"),
        ("encoder_layer_10", 5, "en…10"),
        ("encoder_layer_10", 3, "…10"),
        ("encoder_layer_10", 2, "e…"),
        ("encoder_layer_10", 1, "…"),
        ("encoder_layer_10", 0, ""),
        ("1234567890_block", 10, "…_block"),
        ("h.11.attn.2", 6, "h.…n.2"),
        ("0.1.2.3.4.5.6", 6, "…4.5.6"),
        ("layer1.0.conv1", 13, "layer….conv1"),
        ("layer1.0.conv1", 9, "laye…onv1"),
        ("size_1,024_big", 10, "…1,024_big"),
        ("size_1,024_big", 9, "size…_big"),
    ],
)
def test_of_a_text_the_middle_is_left_out_and_no_number_is_cut(text, width, written):
    assert notation.shorten(text, width) == written


@given(st.text(st.sampled_from("ab_.,0123456789"), max_size=30), st.integers(0, 30))
def test_numbers_are_there_whole_or_as_parts_of_an_address(text, width):
    short = notation.shorten(text, width)
    whole = set(re.findall(r"\d+", text.replace(",", ""))) | set(re.findall(r"\d+", text))

    assert len(short) <= width
    if short != text:
        assert set(re.findall(r"\d+", short)) <= whole


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "├─ 2 × 3 µs – ± … ✗ é 注"),
        ("ascii", r"|- 2 x 3 us - +- ... ! \xe9 \u6ce8"),
        ("cp1252", r"|- 2 × 3 µs – ± … ! é \u6ce8"),
        ("cp437", r"├─ 2 x 3 µs - ± ... ! é \u6ce8"),
        ("no such encoding", "├─ 2 × 3 µs – ± … ✗ é 注"),
    ],
)
def test_signs_that_an_encoding_lacks_are_written_by_others(encoding, written):
    assert notation.encodable("├─ 2 × 3 µs – ± … ✗ é 注", encoding) == written


@given(st.text(), st.sampled_from(["ascii", "cp1252", "cp437", "shift_jis", "utf-8"]))
def test_foreign_text_can_be_written_in_any_encoding(text, encoding):
    written = notation.encodable(notation.foreign(text), encoding)

    assert len(written.encode(encoding)) >= len(written)


def test_the_standard_output_says_which_encoding_it_takes(monkeypatch):
    import io

    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert notation.encodable("×") == "x"
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert notation.encodable("×") == "×"
    monkeypatch.setattr("sys.stdout", None)
    assert notation.encodable("×") == "×"
