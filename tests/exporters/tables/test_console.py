import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from tests.builders import RECORDINGS, Exhibit, nested, recurrent
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.exporters.tables.console import COLUMN_SETS, COLUMNS, ColumnName, Summary
from opscope.records.values import Value
from opscope.views.rows.table_rows import Row, table_rows


def summary(recording, level="module", **options):
    exhibit = Exhibit(recording)
    rows = table_rows(recording, exhibit.passes, level)
    return Summary(rows, exhibit.totals, title=recording.model_name, level=level, **options)


def names(table_summary, width=200):
    """Return the first cell of each row."""
    table = table_summary.table(width)
    return [cell.plain for cell in table.columns[0].cells]


@pytest.mark.parametrize("width", [40, 60, 120])
@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("make", [nested, recurrent], ids=["nested", "recurrent"])
def test_a_table_reads_as_before(make, level, width, golden):
    golden(
        f"{make.__name__}-{level}-{width}.txt",
        summary(make(), level).as_text(width).rstrip() + "\n",
    )


@pytest.mark.parametrize("width", [30, 31, 37, 44, 60, 80, 120, 160])
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
        ("module", 30, ["module", "output"]),
        ("module", 40, ["module", "output", "params"]),
        ("module", 60, ["module", "output", "params", "memory", "time"]),
        ("module", 80, ["module", "input", "output", "params", "memory", "time"]),
        ("layer", 40, ["layer", "output", "params", "time"]),
        ("layer", 60, ["layer", "module", "output", "params", "memory", "time"]),
        ("layer", 80, ["layer", "module", "aten ops", "output", "params", "memory", "time"]),
        ("op", 40, ["op", "type", "output", "time"]),
        ("op", 60, ["op", "type", "output", "memory", "time"]),
        ("op", 80, ["op", "type", "module", "output", "memory", "time"]),
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
    lines = summary(nested(), "layer", row_limit=7).as_text().splitlines()

    assert lines[9].startswith("add_2_6 ")
    assert lines[10:12] == ["… 2 more rows", ""]


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
        ({"columns": "name"}, "columns: 'name' (must be a list of names such as ['name', 'output'], or one of"),
        ({"columns": []}, "columns: [] (must be a list of names such as ['name', 'output'], or one of"),
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


@pytest.mark.parametrize("width", ["80", 80.0, None, True, 29, 0, -5])
def test_a_width_that_is_none_is_refused_by_name(width):
    table = summary(nested())

    for method in (table.as_text, table.table):
        with pytest.raises(OptionError, match=r"^width: "):
            method(width)


@pytest.mark.parametrize("width", [1, 2, 5, 10, 29])
def test_a_console_narrower_than_that_gets_what_there_is_room_for(width):
    file = io.StringIO()
    Console(file=file, width=width).print(summary(nested()))

    assert max(cell_len(line) for line in file.getvalue().splitlines()) <= width


@pytest.mark.parametrize("width", range(30, 130, 7))
def test_no_number_is_cut_and_no_row_looks_like_another(width):
    rows = [Row("Net", "Net", is_module=True, params=12_582_912, memory=2**31, time_ns=12_345_678)]
    rows += [
        Row(f"encoder.layers.encoder_layer_{i}", "EncoderBlock", 1, is_module=True,
            outputs=(Value(i, (8, 1024 + i, 4096)),), params=1_048_576 + i, time_ns=98_765_432)
        for i in range(12)
    ]  # fmt: skip
    made = Summary(rows, Exhibit(nested()).totals, title="Net", level="module")
    whole = set(re.findall(r"\d[\d.,]*", made.as_text(300)))
    table = made.as_text(width).split("\n\n")[0]
    body = [re.split(r"\s{2,}", line.lstrip("│├└─ "))[0] for line in table.splitlines()[3:]]

    assert len(body) == len(set(body)) == 13
    assert all(name.endswith("EncoderBlock") or "…" in name for name in body[1:])
    for number, mark in re.findall(r"(\d[\d.,]*)(…?)", table):
        assert mark or number in whole


def several(paths=(), **fields):
    values = (Value(0, (1, 5, 8)), Value(1, (1, 1, 8)), Value(2, (1, 1, 8)))
    rows = [Row("Net", "Net", is_module=True, outputs=values, output_paths=paths, **fields)]
    return Summary(rows, Exhibit(nested()).totals, title="Net", level="module")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((), "f32[1, 5, 8], 2 × f32[1, 1, 8]"),
        (("0", "1.0", "1.1"), "f32[1, 5, 8], 2 × f32[1, 1, 8]"),
        (("out", "h", "c"), "out f32[1, 5, 8], h f32[1, 1, 8], c f32[1, 1, 8]"),
        (("out", "hidden.0", "hidden.1"), "out f32[1, 5, 8], hidden 2 × f32[1, 1, 8]"),
    ],
)
def test_a_module_with_several_outputs_shows_what_each_is(paths, expected):
    text = several(paths).as_text(120)

    assert f" {expected} " in text
    assert " +2" not in text


@pytest.mark.parametrize("width", [30, 40, 50])
def test_outputs_that_there_is_no_room_for_leave_a_mark(width):
    made = several(("out", "h", "c"), params=123_456_789).as_text(width)

    assert "f32[1, 5, 8], …" in made or "f32" not in made


def test_inputs_say_what_they_are_too():
    values = (Value(0, (2, 3)), Value(1, (2, 4)))
    rows = [Row("Net", "Net", is_module=True, inputs=values, input_paths=("x", "mask"))]
    made = Summary(rows, Exhibit(nested()).totals, title="Net", level="module")

    assert "x f32[2, 3], mask f32[2, 4]" in made.as_text()


def test_a_root_that_ran_twice_says_its_name_once():
    rows = [Row("Sequential", "Sequential", is_module=True, passes=2)]
    made = Summary(rows, Exhibit(nested()).totals, title="Net", level="module")

    assert names(made) == ["Sequential (×2)"]


def test_chosen_columns_that_there_is_no_room_for_are_named():
    columns = ["name", "params", "memory", "time", "trainable"]
    text = summary(nested(), columns=columns).as_text(38)

    assert re.search(r"^… no room for [a-z, ]+$", text, re.MULTILINE)
    assert "no room" not in summary(nested(), columns=columns).as_text(80)
    assert "no room" not in summary(nested()).as_text(30)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1"])
@pytest.mark.parametrize("width", [30, 60, 120])
@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_a_table_is_written_in_any_encoding(make, width, encoding):
    made = summary(make(), columns=["name", "output", "time", "params"])
    lines = made.as_text(width, encoding).encode(encoding).decode(encoding).splitlines()

    assert max(map(cell_len, lines)) <= width
    assert max(map(cell_len, lines[:3])) > 3


def test_signs_of_ascii_stand_for_those_that_it_lacks():
    lines = summary(recurrent()).as_text(60, "ascii").splitlines()

    assert lines[2] == "-" * len(lines[2])
    assert lines[4].startswith("|- fc (x3) Linear ")
    assert lines[6].startswith("`- relu_1 ")
    assert lines[6].endswith(" 1 us")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_print_and_rich_write_what_the_stream_can_hold(encoding, monkeypatch):
    for write in (
        print,
        lambda made: Console().print(made),
        lambda made: Console().print(made.table(60)),
    ):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr("sys.stdout", stream)
        write(summary(nested()))
        stream.flush()
        assert "fc Linear" in stream.buffer.getvalue().decode(encoding)


def test_the_encoding_can_be_named_whatever_the_standard_output_is(monkeypatch):
    before = summary(nested()).as_text(60, "utf-8")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))

    assert summary(nested()).as_text(60, "utf-8") == before
    assert summary(nested()).as_text(60).isascii()


def test_a_thousand_nested_modules_are_a_table_of_bounded_size():
    rows = [
        Row(
            ".".join("0" * depth),
            "Sequential",
            depth,
            below=".".join("0" * (depth - 1)),
            is_module=True,
        )
        for depth in range(1, 1001)
    ]
    made = Summary(rows, Exhibit(nested()).totals, title="Net", level="module")

    assert len(made.as_text(80)) < 1010 * 81


def test_the_type_of_a_columns_name_is_the_list_of_columns():
    assert ColumnName.__args__ == COLUMNS


@pytest.mark.parametrize("encoding", ["asci", 5, "", "a\0", b"ascii"])
def test_an_encoding_that_there_is_not_is_refused_by_name(encoding):
    for method in (summary(nested()).as_text, summary(nested()).table):
        with pytest.raises(OptionError, match=r"^encoding: "):
            method(60, encoding)


@pytest.mark.parametrize("name", COLUMN_SETS)
def test_a_set_of_columns_is_the_columns_by_their_names(name):
    exhibit = Exhibit(nested())
    rows = table_rows(exhibit.recording, exhibit.passes, "module")
    named, listed = (
        Summary(rows, exhibit.totals, title="Net", level="module", columns=columns).as_text(200)
        for columns in (name, COLUMN_SETS[name])
    )

    without_size = [line for line in named.splitlines() if not line.startswith("size ")]
    assert without_size == listed.splitlines()
    assert (named != listed) == (name == "torchinfo")
    assert set(COLUMN_SETS[name]) <= set(COLUMNS)


def test_torchinfo_s_columns_have_kernels_shares_and_macs():
    model = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=2, padding=1), nn.MaxPool2d(2), nn.Dropout(0.3)
    )
    table = opscope.summary(model, input_size=(1, 3, 16, 16), columns="torchinfo")
    first, conv, pool, _ = table.to_dicts()

    assert (first["share"], conv["share"], pool["share"]) == (1.0, 1.0, 0.0)
    assert conv["kernel"] == [3, 5]
    assert pool["kernel"] == [2, 2]
    assert conv["macs"] == 8 * 8 * 7 * 8 * 3 * 15 // 8
    assert "3×5" in str(table)
    shapes = str(opscope.summary(model.train(), input_size=(1, 3, 16, 16), columns="shapes"))
    assert "stride=2, padding=1" in shapes
    assert "keep=0.7" in shapes


def test_a_set_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(OptionError, match="torchinfo"):
        opscope.summary(nn.ReLU(), input_size=(1,), columns="torchinf")


class Tied(nn.Module):
    """Its first and last layers share a weight, one is frozen, one is half frozen, one unused."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.partly = nn.Linear(4, 4)
        self.partly.bias.requires_grad_(requires_grad=False)
        self.unused = nn.Linear(4, 1)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.partly(self.frozen(self.embed(x))))


@pytest.fixture(scope="module")
def tied():
    model = Tied()
    with opscope.trace(model) as trace:
        model(torch.arange(3)).sum().backward()
    return trace


def cells(text, *names):
    """Return, for the row of each name, the last cell."""
    rows = (re.sub("[├└│─]", " ", line).split() for line in text.splitlines())
    last = {words[0]: words[-1] for words in rows if words}
    return [last[name] for name in names]


def test_parameters_that_are_frozen_or_tied_are_marked(tied):
    text = tied.summary(columns=["name", "params"]).as_text(100)

    found = cells(text, "Tied", "embed", "frozen", "partly", "head")
    assert found == ["85", "*40", "(20)", "20", "*40"]
    assert "24 frozen (in brackets)" in text
    assert "tied (*)   1 parameter with several names: embed.weight = head.weight" in text
    assert "unused     2 parameters that no op was given: unused.weight, unused.bias" in text


@pytest.mark.parametrize("level", ["layer", "op"])
def test_they_are_in_tables_of_layers_and_ops(tied, level):
    rows = tied.summary(level, columns=["name", "params"]).as_text(100).split("parameters")[0]

    assert rows.count("*40") == 2
    assert rows.count("(20)") == (level == "layer")
    assert "*" not in rows.replace("*40", "")


def test_a_trained_parameter_without_a_gradient_is_said_below():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    with opscope.trace(model) as trace:
        y = model[0](torch.ones(1, 2)) + model[1](torch.ones(1, 2)).detach()
        y.sum().backward()

    text = str(trace.summary())
    assert "no gradient 2 trained parameters without a gradient: 1.weight, 1.bias" in text
    assert "tied" not in text
    assert "unused" not in text
    assert "brackets" not in text


def test_blocks_that_are_one_row_are_marked_if_one_is_tied():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    blocks[2][0].weight = blocks[0][0].weight
    model = nn.Sequential(*blocks)
    with opscope.trace(model) as trace:
        model(torch.ones(1, 4))

    rows = trace.summary(columns=["name", "params"]).as_text(100).split("parameters")[0]
    assert "*44" in rows
    assert [row["params"] for row in trace.summary().to_dicts() if row["blocks"] == 3] == [44]


def test_the_size_that_torchinfo_estimates_is_there_with_its_columns(tied):
    totals = tied.totals
    size = next(
        line
        for line in tied.summary(columns="torchinfo").as_text(200).splitlines()
        if line.startswith("size")
    )
    whole = totals.input_bytes + totals.tensor_bytes + totals.param_bytes

    assert totals.input_bytes == 3 * 8
    assert f"24 B of inputs + {totals.tensor_bytes} B computed + {totals.param_bytes} B of" in size
    assert f"= {whole} B if nothing is freed" in size
    assert "size " not in str(tied.summary())


@pytest.fixture(scope="module")
def long():
    with opscope.trace() as trace:
        x = torch.ones(1)
        for _ in range(1500):
            x = x + 1
    return trace


@pytest.mark.parametrize("level", ["layer", "op", "module"])
def test_of_very_many_rows_a_page_is_printed_and_how_to_see_all(long, level):
    count = len(long.summary(level).to_dicts())
    lines = str(long.summary(level)).splitlines()

    if count <= 1000:
        assert not any(line.startswith("…") for line in lines)
    else:
        assert f"… {count - 1000:,} more rows: row_limit={count}" in lines
        assert len([line for line in lines if line.startswith("…")]) == 1
    every = str(long.summary(level, row_limit=count)).splitlines()
    assert len(every) == len(lines) + max(0, count - 1000) - (count > 1000)


def test_what_is_exported_is_all_but_for_a_limit(long):
    assert len(long.summary("op").to_dicts()) == 1501
    assert long.summary("op").to_csv().count("\n") == 1502
    assert long.summary("op").to_markdown().count("\n") == 1503
    assert len(long.summary("op", row_limit=3).to_dicts()) == 3
    last = long.summary("op", sort_by="-name", row_limit=1200)
    assert len(str(last).splitlines()) > 1200
    assert "… 301 more rows" in str(last).splitlines()


def test_a_page_of_a_sorted_table_is_its_first_rows(long):
    times = [row["time"] for row in long.summary("op", sort_by="time").to_dicts()]

    assert times == sorted(times, reverse=True)
    assert "… 501 more rows: row_limit=1501" in str(long.summary("op", sort_by="time"))
