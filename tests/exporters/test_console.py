import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from tests.builders import RECORDINGS, Exhibit, nested, recurrent

from opscope.errors import OptionError
from opscope.exporters.console import COLUMNS, ColumnName, Summary
from opscope.views.rows import Row, table_rows


def summary(recording, level="module", **options):
    exhibit = Exhibit(recording)
    rows = table_rows(recording, exhibit.passes, level)
    return Summary(rows, exhibit.totals, title=recording.model_name, level=level, **options)


def names(table_summary, width=200):
    """Return the first cell of each row."""
    table = table_summary.table(width)
    return [cell.plain for cell in table.columns[0].cells]


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("make", [nested, recurrent], ids=["nested", "recurrent"])
def test_a_table_reads_as_before(make, level, width, golden):
    golden(
        f"{make.__name__}-{level}-{width}.txt",
        summary(make(), level).as_text(width).rstrip() + "\n",
    )


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_no_line_is_wider_than_asked(make, level, width):
    lines = summary(make(), level).as_text(width).splitlines()

    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_numbers_are_never_cut(width):
    rows = [Row("block." * 30, "Sequential", params=123_456_789, memory=2**30, time_ns=12_345_678)]
    text = Summary(
        rows, Exhibit(nested()).totals, title="Net", level="module", columns=None
    ).as_text(width)

    assert "123,456,789" in text
    assert "1.0 GiB" in text


def test_text_has_no_colour_and_no_trailing_space():
    text = summary(nested()).as_text()

    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_terminal_gets_colour_and_a_file_does_not():
    written = {}
    for terminal in (True, False):
        file = io.StringIO()
        Console(file=file, width=120, force_terminal=terminal).print(summary(nested()))
        written[terminal] = file.getvalue()

    assert "\x1b[" in written[True]
    assert "\x1b[" not in written[False]
    assert re.sub(r"\x1b\[[\d;]*m", "", written[True]) == written[False]


def test_repr_and_str_are_the_text():
    table = summary(nested())

    assert repr(table) == str(table) == table.as_text(120)


def test_the_table_is_richs_own():
    assert isinstance(summary(nested()).table(), Table)


def test_html_has_every_name_and_the_sums():
    html = summary(nested())._repr_html_()

    assert html.startswith("<pre ")
    assert all(part in html for part in ("Linear", "36 (144 B)", "10 aten ops"))


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"FORCE_COLOR": "1"}, {"COLUMNS": "40"}])
def test_text_and_html_are_the_same_in_any_terminal(environment, monkeypatch):
    table = summary(nested())
    before = (table.as_text(100), table._repr_html_())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert (table.as_text(100), table._repr_html_()) == before


def test_columns_are_those_asked_for_in_that_order():
    table = summary(nested(), "layer", columns=["params", "name", "source"]).table()

    assert [column.header for column in table.columns] == ["params", "layer", "source"]


@pytest.mark.parametrize(
    ("level", "width", "expected"),
    [
        ("module", 80, ["module", "output", "params", "memory", "time"]),
        ("module", 160, ["module", "input", "output", "params", "memory", "time"]),
        ("layer", 80, ["layer", "output", "params", "memory", "time"]),
        ("layer", 120, ["layer", "module", "aten ops", "output", "params", "memory", "time"]),
        ("op", 80, ["op", "type", "output", "memory", "time"]),
    ],
)
def test_a_narrow_console_gets_fewer_columns(level, width, expected):
    assert [c.header for c in summary(nested(), level).table(width).columns] == expected


def test_rows_keep_the_order_of_execution():
    assert names(summary(nested(), "layer")) == Exhibit(nested()).labels


def test_a_column_of_numbers_is_sorted_largest_first_and_the_minus_turns_it():
    largest = names(summary(nested(), "layer", sort_by="params"))
    smallest = names(summary(nested(), "layer", sort_by="-params"))

    assert largest[:3] == ["linear_1_1", "linear_2_4", "linear_3_7"]
    assert smallest[-3:] == ["linear_1_1", "linear_2_4", "linear_3_7"]


def test_a_column_of_text_is_sorted_from_a_and_the_minus_turns_it():
    labels = Exhibit(nested()).labels

    assert names(summary(nested(), "layer", sort_by="name")) == sorted(labels)
    assert names(summary(nested(), "layer", sort_by="-name")) == sorted(labels, reverse=True)


def test_sorted_modules_are_a_flat_list_of_full_addresses():
    found = names(summary(nested(), sort_by="name"))

    assert "blocks.0.fc Linear" in found
    assert not any(mark in name for name in found for mark in "├└│")


def test_modules_are_a_tree_and_named_from_the_row_above():
    """``blocks`` is a container that never runs itself, so it is no row."""
    assert names(summary(nested())) == [
        "Nested",
        "├─ blocks.0 Block", "│  ├─ fc Linear", "│  ├─ act ReLU", "│  └─ add_1",
        "├─ blocks.1 Block", "│  ├─ fc Linear", "│  ├─ act ReLU", "│  └─ add_2",
        "└─ head Linear",
    ]  # fmt: skip


def test_a_row_limit_says_how_many_rows_are_left_out():
    assert names(summary(nested(), "layer", row_limit=7))[-2:] == [
        "add_2_6",
        "… 2 more rows",
    ]


@pytest.mark.parametrize("limit", [9, 100])
def test_a_row_limit_that_nothing_exceeds_leaves_nothing_out(limit):
    assert names(summary(nested(), "layer", row_limit=limit)) == Exhibit(nested()).labels


def test_the_sums_are_of_all_rows_whatever_the_limit():
    assert summary(nested(), row_limit=1).as_text().splitlines()[-3:] == [
        "parameters 36 (144 B), 27 trainable, 9 frozen",
        "buffers    1 (12 B)",
        "computed   9 tensors (168 B newly allocated) by 9 layers, 10 aten ops",
    ]


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_what_failed_is_marked(level):
    assert any(
        name.endswith("✗") or "✗ " in name for name in names(summary(RECORDINGS["failed"](), level))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["nme"]}, "unknown column: 'nme' (must be one of 'name', 'type', "),
        ({"columns": [3]}, "unknown column: 3 (must be one of 'name', "),
        ({"columns": "name"}, "columns: 'name' (must be a list of names such as ['name', 'output'])"),
        ({"columns": []}, "columns: [] (must be a list of names such as ['name', 'output'])"),
        ({"sort_by": "nme"}, "unknown sort_by: 'nme' (must be one of 'name', "),
        ({"sort_by": "--time"}, "unknown sort_by: '-time' (must be one of 'name', "),
        ({"sort_by": 3}, "unknown sort_by: 3 (must be one of 'name', "),
        ({"row_limit": 0}, "row_limit: 0 (must be None, for all, or a whole number from 1)"),
        ({"row_limit": "3"}, "row_limit: '3' (must be None, for all, or a whole number from 1)"),
        ({"row_limit": True}, "row_limit: True (must be None, for all, or a whole number from 1)"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(options, message):
    with pytest.raises(OptionError) as error:
        summary(nested(), **options)

    assert str(error.value).startswith(message)


def test_the_type_of_a_columns_name_is_the_list_of_columns():
    assert ColumnName.__args__ == COLUMNS
