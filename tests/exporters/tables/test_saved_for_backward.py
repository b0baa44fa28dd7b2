"""The table of what autograd keeps."""

import re

import pytest
from rich.cells import cell_len
from rich.table import Table

from opscope.errors import OptionError
from opscope.exporters.tables.saved_for_backward import SavedForBackward
from opscope.views.rows.saved_for_backward import KeptTensor


def kept(layer="linear_1_1", kind="activation", made_by="relu_1_2", nbytes=4096, **fields):
    given = {"module": "fc", "node": "AddmmBackward0", "name": "mat1", "shape": (2, 3)}
    given |= {"dtype": "float32", "shared": False, **fields}
    return KeptTensor(layer=layer, kind=kind, made_by=made_by, nbytes=nbytes, **given)


def several():
    return SavedForBackward(
        [kept(f"a_layer_with_a_long_name_{i}_1", nbytes=123_456_789 + i) for i in range(12)]
        + [kept(None, "packed", None), kept(kind="outside", made_by=None, shared=True)]
        + [kept(kind="parameter", made_by="fc.weight")],
        "Net",
    )


@pytest.mark.parametrize("width", range(30, 130, 9))
def test_the_table_fits_and_tells_its_rows_apart(width):
    text = several().as_text(width)
    table = text.split("\n\n")[0].splitlines()[3:]

    assert max(map(cell_len, text.splitlines())) <= width
    assert len(table) == 14
    assert len({re.split(r"\s{2,}", line)[0] for line in table[:12]}) == 12
    assert sum("117.7 MiB" in line for line in table) == 12


def test_a_wide_table_has_every_column():
    text = several().as_text()

    assert text == repr(several())
    assert text.splitlines()[:2] == [
        "Net: saved for backward",
        "kept by                         as     made by    tensor         memory",
    ]
    assert text.splitlines()[-1] == (
        "1.4 GiB kept alive by the backward; besides 1 parameter; 1 packed by hooks (checkpoints)"
    )


def test_the_rows_are_those_of_tensors_but_parameters():
    table = several().table(60)

    assert isinstance(table, Table)
    assert table.row_count == 14


@pytest.mark.parametrize("width", ["80", 29, None, 80.0])
def test_a_width_that_is_none_is_refused_by_name(width):
    for method in (several().table, several().as_text):
        with pytest.raises(OptionError, match=r"^width: "):
            method(width)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_table_is_written_in_any_encoding(encoding):
    text = several().as_text(40, encoding)

    assert max(map(cell_len, text.encode(encoding).decode(encoding).splitlines())) <= 40


def test_a_notebook_gets_html_without_a_stray_tag():
    html = SavedForBackward([kept("<b>x")], "<i>")._repr_html_()

    assert html.startswith("<pre")
    assert "<b>" not in html
    assert "&lt;b&gt;x" in html


def test_nothing_kept_is_an_empty_table():
    assert SavedForBackward([], "Net").as_text(30).endswith("\n0 B kept alive by the backward")


@pytest.mark.parametrize("encoding", ["asci", 5, "", "a\0", b"ascii"])
def test_an_encoding_that_there_is_not_is_refused_by_name(encoding):
    for method in (several().table, several().as_text):
        with pytest.raises(OptionError, match=r"^encoding: "):
            method(60, encoding)
