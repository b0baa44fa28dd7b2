"""Tables of whole models at many widths: they fit, cut no number, and tell their rows apart."""

import re

import pytest
import torch
from rich.cells import cell_len
from torch import nn

import opscope
from opscope.demo import ResNet18

WIDTHS = (30, 36, 44, 60, 80, 100, 120, 200)
NUMBER = re.compile(r"(\d[\d.,]*)(…?)")


class Answer(nn.Module):
    """Gives a dictionary of several tensors."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2)
        self.head = nn.Linear(8, 12_345)

    def forward(self, x):
        hidden, (h, c) = self.lstm(x)
        return {"scores": self.head(hidden), "state": [h, c]}


class Branches(nn.Module):
    """Has modules with names of sixty characters that differ in the middle."""

    def __init__(self):
        super().__init__()
        for i in range(12):
            for word in ("alpha", "beta"):
                name = f"transformer_encoder_stage_{i}_with_{word}_branch_projection_output"
                self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


def deep():
    model = nn.Linear(4, 4)
    for _ in range(60):
        model = nn.Sequential(model, nn.ReLU())
    return model


MODELS = {
    "resnet18": (lambda: ResNet18().eval(), (1, 3, 64, 64)),
    "several outputs": (Answer, (5, 1, 8)),
    "long names": (Branches, (2, 4)),
    "deep": (deep, (2, 4)),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 1024, batch_first=True), 12),
        (4, 1, 8),
    ),
}


def cut(text, wide):
    """Return the numbers that are not in the wide table, nor the end of a long address there."""
    whole = {number for number, _ in NUMBER.findall(wide)}
    shown = {number for number, mark in NUMBER.findall(text.split("\n\n")[0]) if not mark}
    return {n for n in shown - whole if not any(number.endswith(f".{n}") for number in whole)}


def rows(text):
    """Return the names in the first column."""
    lines = text.split("\n\n")[0].splitlines()[3:]
    return [re.split(r"\s{2,}", line.lstrip("│├└─… "))[0] for line in lines]


@pytest.fixture(scope="module", params=MODELS)
def traced(request):
    make, sizes = MODELS[request.param]
    model = make()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(torch.rand(sizes))
    return trace


@pytest.mark.parametrize("level", ["module", "layer", "op"])
def test_a_table_fits_and_reads_as_the_wide_one(traced, level):
    table = traced.summary(level)
    wide = table.as_text(400)
    for width in WIDTHS:
        text = table.as_text(width)
        assert max(map(cell_len, text.split("\n"))) <= width
        assert not cut(text, wide), width
        assert len(rows(text)) == len(rows(wide))
        assert len(set(rows(text))) >= len(set(rows(wide))), width


@pytest.mark.parametrize("columns", [["source", "name", "input", "output"], ["params", "module"]])
@pytest.mark.parametrize("sort_by", [None, "name", "params"])
def test_chosen_and_sorted_columns_fit_too(traced, columns, sort_by):
    table = traced.summary("module", columns=columns, sort_by=sort_by)
    wide = table.as_text(2000)
    for width in WIDTHS:
        text = table.as_text(width)
        assert max(map(cell_len, text.split("\n"))) <= width
        assert not cut(text, wide), width


def test_lines_below_say_all_that_they_say_where_it_is_wide(traced):
    def said(width):
        return " ".join(traced.summary().as_text(width).split("\n\n")[1].split())

    assert {said(width) for width in WIDTHS} == {said(400)}
