"""Columns for a width."""

import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from opscope.exporters.tables.fit import fitted
from opscope.exporters.tables.fit.column import Column, Lists, Numbers, Words
from opscope.exporters.tables.fit.fitted import as_html, as_text
from opscope.exporters.tables.fit.fitting import fit_table, wrapped
from opscope.exporters.tables.fit.writer import Writer

WRITER = Writer("utf-8")
NAMES = st.text(st.sampled_from("ab_.019é注"), max_size=40)


def words(*texts, writer=WRITER):
    return Words(texts, writer)


def numbers(*texts):
    return Numbers([Text(text) for text in texts])


def heads(columns, width, **options):
    table = fit_table(columns, width, WRITER, title="T", **options).table()
    return [column.header for column in table.columns]


def shown(columns, width, **options):
    return as_text(fit_table(columns, width, WRITER, **{"title": "T", **options}), width=width)


# ---------------------------------------------------------------------------------- columns


def test_columns_go_in_the_order_of_their_rank_and_numbers_stay_whole():
    columns = [
        Column("name", words("a_long_name_of_a_layer_7"), 0, leads=True),
        Column("last", numbers("1,234"), 9),
        Column("first", numbers("123,456,789"), 1),
        Column("second", numbers("99.9 MiB"), 2),
    ]

    assert heads(columns, 60) == ["name", "last", "first", "second"]
    assert heads(columns, 40) == ["name", "first", "second"]
    assert heads(columns, 30) == ["name", "first"]
    for width in range(30, 60):
        found = re.findall(r"[\d,.]*\d", shown(columns, width))
        assert set(found) <= {"7", "1,234", "123,456,789", "99.9"}


def test_a_narrow_column_may_stay_where_a_wide_one_goes():
    columns = [
        Column("name", words("abc"), 0, leads=True),
        Column("wide", numbers("1" * 40), 1),
        Column("narrow", numbers("7"), 2),
    ]

    assert heads(columns, 30) == ["name", "narrow"]


def test_columns_stand_closer_before_one_is_left_out():
    columns = [Column("name", words("abcdef"), 0, leads=True), Column("n", numbers("12345"), 1)]

    assert "abcdef   12345" in shown(columns, 14)
    assert "abcdef  12345" in shown(columns, 13)
    assert "12345" not in shown(columns, 12)


def test_an_extra_column_comes_only_where_the_others_have_enough():
    def columns(is_extra):
        return [
            Column("name", words("x" * 30), 0, leads=True),
            Column("extra", words("y" * 20), 1, is_extra=is_extra),
        ]

    assert heads(columns(False), 40) == ["name", "extra"]
    assert heads(columns(True), 40) == ["name"]
    assert heads(columns(True), 60) == ["name", "extra"]


def test_what_has_no_room_is_named_where_it_was_asked_for():
    columns = [
        Column("name", words("abc"), 0, leads=True),
        Column("one", numbers("1" * 30), 1),
        Column("two", numbers("2" * 30), 2),
    ]

    assert shown(columns, 40, names_missing=True).endswith("\n… no room for two")
    assert shown(columns, 30, names_missing=True).endswith("\n… no room for one, two")
    assert "no room" not in shown(columns, 30)
    assert "no room" not in shown(columns, 80, names_missing=True)


def test_a_table_is_as_wide_as_its_title_if_there_is_room():
    columns = [Column("name", words("a", "b"), 0), Column("n", numbers("1", "2"), 1)]

    assert shown(columns, 60, title="A long title over a table").splitlines()[0] == (
        "A long title over a table"
    )
    assert (
        shown(columns, 30, title="A_title_of_more_than_30_characters").splitlines()[0]
        == ("A_title_of_mor…n_30_characters"[:30])
    )


def test_a_column_is_no_wider_than_what_it_shows():
    """The long list does not fit, and its column has no room for what is not there."""
    entries = [("", "f32[2]"), ("", "f32[12345, 67890, 12345, 67890]")]
    columns = [Column("a", Lists([entries], WRITER), 0), Column("n", numbers("1"), 1)]

    assert shown(columns, 50).splitlines()[-1] == "f32[2], f32[12345, 67890, 12345, 67890]   1"
    assert shown(columns, 35).splitlines()[-1] == "f32[2], …   1"


@given(st.lists(NAMES, min_size=1, max_size=4), st.integers(1, 80), st.integers(0, 10**12))
def test_no_line_is_wider_than_the_table_may_be(texts, width, number):
    columns = [
        Column("name", words(*texts), 0, leads=True),
        Column("list", Lists([[(text, f"f32[{number}]")] * 2 for text in texts], WRITER), 1),
        Column("n", numbers(*[f"{number:,}"] * len(texts)), 2),
    ]
    lines = shown(columns, width, title=texts[0]).splitlines()

    assert all(cell_len(line) <= width for line in lines)


# ------------------------------------------------------------------------------------- lines


PHRASES = ["11,689,512 (44.6 MiB),", "11,689,512 trainable,", "0 frozen"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, ["parameters 11,689,512 (44.6 MiB), 11,689,512 trainable, 0 frozen"]),
        (60, ["parameters 11,689,512 (44.6 MiB), 11,689,512 trainable,", "           0 frozen"]),
        (40, ["parameters 11,689,512 (44.6 MiB),", "  11,689,512 trainable, 0 frozen"]),
        (30, ["parameters", "  11,689,512 (44.6 MiB),", "  11,689,512 trainable,", "  0 frozen"]),
        (15, ["parameters", "  11,689,512", "  (44.6 MiB),", "  11,689,512", "  trainable,", "  0 frozen"]),
    ],
)  # fmt: skip
def test_a_long_line_is_broken_between_phrases(width, expected):
    assert wrapped("parameters", PHRASES, width, WRITER).plain.split("\n") == expected


@given(st.lists(st.text(st.sampled_from("abc 12"), min_size=1, max_size=50)), st.integers(8, 80))
def test_a_broken_line_is_never_too_wide(phrases, width):
    lines = wrapped("label", phrases, width, WRITER).plain.split("\n")

    assert all(cell_len(line) <= width for line in lines)


def test_text_and_html_are_without_what_the_terminal_is(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "10")

    assert as_text(Text("bold text", "bold"), Text("x"), width=40) == "bold text\nx"
    assert "<b>" not in as_html(Text("<b>"))


CELLS = st.lists(st.text("ab é日⁠—…", max_size=9), min_size=0, max_size=6)


@given(CELLS, st.integers(30, 60), st.sampled_from(["", "3 more rows"]))
def test_a_table_as_text_is_what_rich_shows_of_it(texts, width, more):
    columns = [
        Column("name", words(*texts), 0, "bold", leads=True),
        Column("n", numbers(*(f"{len(text)}" for text in texts)), 1),
        Column("again", words(*reversed(texts)), 2, "green"),
    ]
    table = fit_table(columns, width, WRITER, title="Title", more=more)

    assert as_text(table, width=width) == as_text(table.table(), width=width)


@pytest.mark.parametrize("width", [30, 80])
@pytest.mark.parametrize("color", [None, "truecolor"])
def test_a_long_table_is_shown_as_a_short_one_is(monkeypatch, width, color):
    texts = [f"layer_{number}" for number in range(40)]
    columns = [
        Column("name", words(*texts), 0, "bold", leads=True),
        Column("n", Numbers([Text(text[6:], "red") for text in texts]), 1, "cyan"),
        Column("other", words(*(text * 2 for text in texts)), 2, "green"),
    ]
    table = fit_table(columns, width, WRITER, title="Title", more="3 more rows")

    def shown():
        console = Console(file=StringIO(), width=width, color_system=color, force_terminal=True)
        console.print(table)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    short = shown()
    monkeypatch.setattr(fitted, "_MANY", 10)
    plain = re.compile(r"\x1b\[[0-9;]*m")
    assert [plain.sub("", line).rstrip() for line in shown()] == [
        plain.sub("", line).rstrip() for line in short
    ]
    colours = {"\x1b[31m", "\x1b[32m", "\x1b[1m"} if color else set()  # of texts, not of spaces
    assert all(colours <= set(plain.findall(line)) for line in shown()[3:-1])
