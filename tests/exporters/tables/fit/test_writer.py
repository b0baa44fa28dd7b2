"""Texts shortened so that rows can be told apart."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from opscope.exporters.tables.fit.writer import Writer

WRITER = Writer("utf-8")
NAMES = st.text(st.sampled_from("ab_.019é注"), max_size=40)


@given(st.lists(NAMES, min_size=1, max_size=6), st.integers(1, 30))
def test_no_text_is_wider_than_its_room(texts, width):
    short = WRITER.apart(texts, [width] * len(texts))

    assert all(cell_len(text) <= width for text in short)


@given(st.lists(NAMES, min_size=1, max_size=6), st.integers(1, 30))
def test_what_fits_is_whole_and_what_is_cut_has_a_mark(texts, width):
    for text, short in zip(texts, WRITER.apart(texts, [width] * len(texts)), strict=True):
        assert short == text if cell_len(text) <= width else "…" in short


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True), st.integers(9, 20))
def test_numbered_names_are_told_apart_by_whole_numbers(places, width):
    texts = [f"encoder_layer_{place}" for place in places]
    short = WRITER.apart(texts, [width] * len(texts))

    assert len(set(short)) == len(texts)
    assert [re.findall(r"\d+", text) for text in short] == [[str(place)] for place in places]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["encoder_layer_1", "encoder_layer_11"], ["encode…layer_1", "encode…ayer_11"]),
        (["first_of_the_blocks", "later_of_the_blocks"], ["first_…_blocks", "later_…_blocks"]),
        (
            ["transformer_alpha_projection", "transformer_beta_projection"],
            ["…mer_alpha_pr…", "…mer_beta_pro…"],
        ),
        (["layer1.0.conv1", "layer2.0.conv1"], ["layer1.0.conv1", "layer2.0.conv1"]),
        (
            ["layer1.downsample.0", "layer2.downsample.0", "layer1.downsample.1"],
            ["layer1…ample.0", "layer2…ample.0", "layer1…ample.1"],
        ),
        (["block_7_of_the_net_a", "block_7_of_the_net_a"], ["block_…e_net_a"] * 2),
    ],
)
def test_what_is_left_out_is_what_names_have_in_common(texts, expected):
    short = WRITER.apart(texts, [14] * len(texts))

    assert len(set(short)) == len(set(texts))
    assert short == expected


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, "p f32[2, 4], q f32[2, 5]"),
        (24, "p f32[2, 4], q f32[2, 5]"),
        (23, "p f32[2, 4], …"),
        (14, "p f32[2, 4], …"),
        (13, "f32[2, 4]…"),
        (9, "f32[2, 4…"),
        (8, "f32[2,…"),
        (4, "f32…"),
    ],
)
def test_of_a_list_the_last_entries_go_first(width, expected):
    assert WRITER.list([("p", "f32[2, 4]"), ("q", "f32[2, 5]")], width) == expected


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (33, "past_key_values 24 × f32[1, 2, 3]"),
        (28, "past_…alues 24 × f32[1, 2, 3]"[:28]),
        (20, "… 24 × f32[1, 2, 3]"),
        (16, "24 × f32[1, 2,…"),
    ],
)
def test_a_name_in_a_list_makes_room_before_the_tensor(width, expected):
    short = WRITER.list([("past_key_values", "24 × f32[1, 2, 3]")], width)

    assert cell_len(short) <= width
    assert (short == expected) if width != 28 else short.endswith("24 × f32[1, 2, 3]")


def test_an_encoding_that_lacks_the_mark_gets_dots():
    assert Writer("ascii").shorten("encoder_layer_10", 10) == "enc...r_10"
    assert Writer("cp1252").shorten("encoder_layer_10", 10) == "enco…er_10"
