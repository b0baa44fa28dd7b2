"""The table of statistics."""

import re

import pytest
from rich.cells import cell_len

from opscope.exporters.tables.fit.fitted import as_text
from opscope.exporters.tables.statistics import statistics_table

NAMES = ("mean", "std", "min", "max", "zeros", "nonfinite")


def row(layer, numbers=(-1.23e-05, 4.56e07, -7.89, 123.0, 0.95, 0.001), gradient=(0.0,) * 6):
    found = {"step": 3, "layer": layer, "module": "fc"}
    found |= dict(zip(NAMES, numbers, strict=True))
    return found | {f"grad_{n}": None if gradient is None else g
                    for n, g in zip(NAMES, gradient or NAMES, strict=True)}  # fmt: skip


def shown(width, encoding="utf-8", rows=None):
    rows = rows or [row(f"a_layer_with_a_long_name_{i}_1") for i in range(12)]
    return as_text(statistics_table(rows, 3, "Net", width, encoding), width=width)


@pytest.mark.parametrize("width", range(30, 160, 9))
def test_the_table_fits_and_its_numbers_are_whole(width):
    text = shown(width)
    body = text.splitlines()[3:]

    assert max(map(cell_len, text.splitlines())) <= width
    assert len({re.split(r"\s{2,}", line)[0] for line in body}) == 12
    numbers = set(re.findall(r"\s(-?[\d.]+(?:e[-+]\d+)?%?)(?=\s|$)", text))
    assert numbers <= {"-1.23e-05", "4.56e+07", "-7.89", "123", "95%", "0.1%", "0", "3"}


def test_a_narrow_table_has_mean_and_bad_and_a_wide_one_all():
    assert shown(30).splitlines()[1].split() == ["layer", "mean", "bad"]
    assert shown(160).splitlines()[1].split() == (
        [
            "layer",
            "mean",
            "±",
            "std",
            "min",
            "max",
            "zeros",
            "bad",
            "grad",
            "mean",
            "±",
            "std",
            "min",
            "max",
            "zeros",
            "bad",
        ]
    )


def test_without_gradients_there_are_no_columns_for_them():
    head = shown(160, rows=[row("a", gradient=None)]).splitlines()[1]

    assert head.split() == ["layer", "mean", "±", "std", "min", "max", "zeros", "bad"]


def test_a_layer_without_gradient_has_dashes():
    rows = [row("a"), row("b", gradient=None)]

    assert shown(160, rows=rows).splitlines()[-1].split()[-6:] == ["–"] * 6


def test_ascii_gets_signs_that_it_has():
    text = shown(120, "ascii")

    assert text.isascii()
    assert "+- std" in text


def test_no_step_has_no_rows():
    assert as_text(statistics_table([], None, "Net"), width=120).splitlines() == [
        "Net: no step yet",
        "layer        mean      ± std         min         max   zeros    bad",
        "─" * 67,
    ]


def test_columns_do_not_jump_where_numbers_change():
    few, many = (1, 1, 1, 1, 0, 0), (-1.23e-05, 1.23e-05, -1.23e-05, -1.23e-05, 0, 0)
    short, long = (shown(120, rows=[row("a", numbers)]).splitlines() for numbers in (few, many))

    assert short[1:3] == long[1:3]
