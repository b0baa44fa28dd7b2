"""A table's rows in other forms say what it shows, and can be read again."""

import csv
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.exporters.tables.console import COLUMNS
from opscope.exporters.tables.data import UNITS, VERSION

SCHEMA = json.loads(Path(__file__).parents[3].joinpath("docs/table.schema.json").read_text())


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 2)))
    x = torch.ones(3, 4)
    with opscope.trace(model) as trace:
        model(x).sum().backward()
    return trace


def test_dictionaries_have_numbers_in_their_units(trace):
    first, *_, last = trace.summary().to_dicts()

    assert first["flops"] == 2 * (3 * 4 * 8 + 3 * 8 * 2)
    assert first["macs"] * 2 == first["flops"]
    assert first["params"] == 4 * 8 + 8 + 8 * 2 + 2
    assert first["output"] == [{"path": "", "dtype": "float32", "shape": [3, 2]}]
    assert 0 < first["time"] < 100
    assert (first["depth"], first["is_module"], last["is_module"]) == (0, True, False)


@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("columns", [None, ["name"], ["flops", "output", "name"]])
def test_all_forms_have_the_rows_and_the_columns_of_the_table(trace, level, columns):
    table = trace.summary(level, columns=columns)
    dicts = table.to_dicts()
    names = [*(columns or COLUMNS), "depth", "is_module", "passes", "blocks", "last", "unknown_ops"]

    assert all(list(row) == names for row in dicts)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [list(row) for row in rows] == [names] * len(dicts)
    if "name" in names:
        assert [row["name"] for row in rows] == [row["name"] for row in dicts]
    assert json.loads(table.to_json())["rows"] == dicts
    lines = table.to_markdown().splitlines()
    assert len(lines) == 2 + len(dicts)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    latex = table.to_latex()
    assert latex.count(r"\\") == 1 + len(dicts)


def test_rows_that_were_left_out_are_left_out_in_all_forms(trace):
    table = trace.summary("op", sort_by="flops", row_limit=2)

    assert len(table.to_dicts()) == 2
    assert table.to_dicts()[0]["flops"] >= table.to_dicts()[1]["flops"]
    assert len(table.to_csv().splitlines()) == 3


def test_json_is_of_its_schema(trace):
    for level in ("op", "layer", "module"):
        found = json.loads(trace.summary(level).to_json())
        check(found, SCHEMA)
        assert found["version"] == VERSION == SCHEMA["properties"]["version"]["const"]
    assert set(UNITS) <= set(SCHEMA["$defs"]["row"]["properties"])
    assert set(COLUMNS) <= set(SCHEMA["$defs"]["row"]["properties"])


@pytest.mark.parametrize("number", [float("-inf"), float("inf"), float("nan")])
@pytest.mark.parametrize("level", ["op", "layer"])
def test_numbers_that_json_does_not_have_are_text(level, number):
    with opscope.trace() as trace:
        torch.ones(2).masked_fill(torch.tensor([True, False]), number)

    text = trace.summary(level).to_json()
    rows = json.loads(text, parse_constant=pytest.fail)["rows"]

    assert str(number) in [row["arguments"].get("value") for row in rows]
    flat = trace.graph(level, flat=True)
    for _, written in flat.nodes(data="arguments"):
        json.loads(written, parse_constant=pytest.fail)


KINDS = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip


def check(value, schema):
    """What of JSON Schema the schema uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        assert value == schema["const"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds:
        assert any(isinstance(value, KINDS[kind]) for kind in kinds), (value, kinds)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        assert set(schema.get("required", ())) <= set(value)
        if schema.get("additionalProperties") is False:
            assert set(value) <= set(known)
        for name, item in value.items():
            check(item, known.get(name, {}))
    if isinstance(value, list):
        for item in value:
            check(item, schema.get("items", {}))


def test_what_is_not_known_is_none_and_not_0():
    @torch.library.custom_op("tabledata::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    with opscope.trace() as trace:
        twice(torch.ones(2))
    row = trace.summary("op", columns=["type", "flops"]).to_dicts()[-1]

    assert (row["flops"], row["unknown_ops"]) == (None, 1)


def test_pandas_gets_a_frame_or_its_name_is_said(trace, monkeypatch):
    table = trace.summary("layer")
    if importlib.util.find_spec("pandas") is not None:
        assert list(table.to_pandas()["name"]) == [row["name"] for row in table.to_dicts()]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptionError, match="pip install pandas"):
        table.to_pandas()


@pytest.mark.parametrize("name", ["a|b", "<b>", "100%_&$#{}~^\\"])
def test_foreign_names_are_text_in_markdown_and_latex(name):
    class Odd(nn.Module):
        def forward(self, x):
            return x + 1

    model = nn.Sequential(Odd())
    model._modules = {name: model[0]}
    with opscope.trace(model) as trace:
        model(torch.ones(2))
    table = trace.summary(columns=["name", "params"])

    assert "<b>" not in table.to_markdown()
    assert all(line.replace("\\|", "").count("|") == 3 for line in table.to_markdown().splitlines())
    assert not any(sign in table.to_latex().replace("\\" + sign, "") for sign in "%#_")
