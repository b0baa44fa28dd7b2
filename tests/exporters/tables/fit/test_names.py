"""The tree of names in a table's first column."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from opscope.exporters.tables.fit.names import Names
from opscope.exporters.tables.fit.writer import Writer
from opscope.views.rows.table_rows import Row


def module(name, kind="Linear", depth=1, **fields):
    return Row(name, kind, depth, is_module=True, **fields)


def names(rows, width, *, is_tree=True, encoding="utf-8"):
    cells = Names(rows, Writer(encoding), is_tree=is_tree)
    return [cell.plain for cell in cells.fit(width)]


NET = [module("Net", "Net", 0), module("conv_1", "Conv2d"), module("head", "Head")]
NET += [module("head.fc", "Linear", 2, below="head"), Row("add_1", "add", 2)]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (20, ["Net", "├─ conv_1 Conv2d", "└─ head Head", "   ├─ fc Linear", "   └─ add_1"]),
        (15, ["Net", "├ conv_1 Conv2d", "└ head Head", "  ├ fc Linear", "  └ add_1"]),
        (14, ["Net", "├conv_1 Conv2d", "└head Head", " ├fc Linear", " └add_1"]),
        (12, ["Net", "├conv_1 C…2d", "└head Head", " ├fc Linear", " └add_1"]),
    ],
)
def test_the_tree_draws_in_before_a_name_is_cut(width, expected):
    assert names(NET, width) == expected


def test_passes_and_failures_are_never_cut():
    rows = [
        module("a_module_with_a_name", "AClassWithAName", 0, passes=1_000),
        module("another_module_with_a_name", "AClassWithAName", 0, failed=True),
    ]

    for width in range(20, 60):
        first, second = names(rows, width, is_tree=False)
        assert " (×1000) " in first
        assert " ✗ " in second


def test_a_class_that_is_the_name_is_said_once():
    rows = [module("Sequential", "Sequential", 0, passes=2)]

    assert names(rows, 40) == ["Sequential (×2)"]


def test_a_name_is_told_from_the_row_above_also_where_it_is_long():
    outer = "layers." * 100
    rows = [module(f"{outer}0", "Block", 1), module(f"{outer}0.fc", below=f"{outer}0", depth=2)]

    assert names(rows, 300)[1] == "   └─ fc Linear"


@pytest.mark.parametrize("width", [30, 40, 60])
def test_deep_trees_say_that_the_outermost_levels_are_not_drawn(width):
    rows = [module("x" if depth else "Net", "Block", depth) for depth in range(2000)]
    found = names(rows, width)

    assert found[:2] == ["Net Block", "└x Block"]
    assert all(name.startswith("…") and name.endswith("└x Block") for name in found[width:])
    assert max(map(cell_len, found)) <= width


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_the_tree_can_be_written_in(encoding):
    rows = [*NET, module("größe_注意力_" * 5, "Wörter", 1, passes=3, failed=True)]
    for width in (18, 25, 40, 80):
        for name in names(rows, width, encoding=encoding):
            assert cell_len(name.encode(encoding).decode(encoding)) <= width


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("ab_.12注"), min_size=1, max_size=40),
            st.sampled_from(["Linear", "MultiheadAttentionWithBias", "注意力"]),
            st.integers(0, 60),
            st.integers(1, 20),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(18, 90),
)
def test_no_name_is_wider_than_its_column(rows, width):
    made = [module(n, k, d, passes=p, failed=f) for n, k, d, p, f in rows]

    assert max(map(cell_len, names(made, width))) <= width


def test_twelve_blocks_are_twelve_names_at_any_width():
    rows = [module("Model", "Model", 0)]
    rows += [module(f"encoder.layers.encoder_layer_{i}", "EncoderBlock") for i in range(12)]

    for width in range(18, 60):
        found = names(rows, width)
        assert len(set(found)) == 13
        assert all(str(i) in name.replace("_", " ").split()[-2] for i, name in enumerate(found[1:]))
