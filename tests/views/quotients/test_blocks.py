"""Blocks that are made alike are one row, which stands for all of them; nothing else is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import zoo
from torch import nn

import opscope
from opscope.errors import OptionError
from opscope.views.quotients.blocks import grouped


class Block(nn.Module):
    def __init__(self, width=4, *, bias=True, twice=False):
        super().__init__()
        self.fc = nn.Linear(4, width, bias=bias)
        self.out = nn.Linear(width, 4)
        self.twice = twice

    def forward(self, x):
        x = self.out(self.fc(x).relu())
        return x * 2 if self.twice else x


X = torch.ones(2, 4)


def rows(*blocks, expand=(), **options):
    model = nn.Sequential(*blocks)
    with opscope.trace(model) as trace:
        model(X).sum().backward()
    return trace.summary(expand=expand, **options).to_dicts(), trace


def blocks_of(found):
    return [(row["name"], row["blocks"]) for row in found if row["type"] == "Block"]


def test_blocks_that_repeat_are_one_row_with_the_sums_of_all():
    folded, trace = rows(*[Block() for _ in range(5)])
    opened = trace.summary(expand="all").to_dicts()
    row = next(row for row in folded if row["blocks"] == 5)
    each = [row for row in opened if row["type"] == "Block"]

    assert blocks_of(folded) == [("0", 5)]
    assert len(each) == 5
    for name in ("params", "trainable", "flops", "macs", "elements", "memory"):
        assert row[name] == sum(one[name] for one in each)
    for name in ("time", "backward"):
        assert row[name] == pytest.approx(sum(one[name] for one in each))
    assert "0–4 (×5) Block" in str(trace.summary())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Block(width=5), [("0", 3), ("3", 1), ("4", 3)]),
        (Block(bias=False), [("0", 3), ("3", 1), ("4", 3)]),
        (Block(twice=True), [("0", 3), ("3", 1), ("4", 3)]),
        (nn.Identity(), [("0", 3), ("4", 3)]),
    ],
    ids=["width", "parameters", "calls", "class"],
)
def test_a_block_that_is_made_otherwise_parts_them(other, expected):
    found, _ = rows(*[Block() for _ in range(3)], other, *[Block() for _ in range(3)])

    assert blocks_of(found) == expected


def test_frozen_ones_are_others():
    frozen = Block().requires_grad_(False)
    found, _ = rows(*[Block() for _ in range(3)], frozen)

    assert blocks_of(found) == [("0", 3), ("3", 1)]


def test_two_are_not_folded_and_modules_without_modules_never():
    found, _ = rows(Block(), Block(), *[nn.Linear(4, 4) for _ in range(4)])

    assert blocks_of(found) == [("0", 1), ("1", 1)]
    assert sum(row["type"] == "Linear" for row in found) == 8


def test_one_block_that_is_used_again_is_passes_and_not_blocks():
    block = Block()
    found, _ = rows(block, block, block)

    assert blocks_of(found) == [("0", 1)]
    assert next(row["passes"] for row in found if row["type"] == "Block") == 3


def test_shared_parameters_count_once():
    made = [Block() for _ in range(3)]
    for block in made[1:]:
        block.fc = made[0].fc
    model = nn.Sequential(*made)
    with opscope.trace(model) as trace:
        model(X)
    for row in trace.summary().to_dicts():
        if row["blocks"] > 1:
            assert row["params"] == 4 * 5 + 3 * 4 * 5


def test_a_block_that_failed_stays_by_itself():
    class Fails(Block):
        def forward(self, x):
            super().forward(x)
            if x.sum() > 10**6:
                raise ValueError
            return x * 10**3

    model = nn.Sequential(*[Fails() for _ in range(5)])
    with pytest.raises(ValueError), opscope.trace(model) as trace:
        model(X)
    text = str(trace.summary())
    assert "✗" in text


@pytest.mark.parametrize(
    ("expand", "expected"),
    [
        (["2"], [("0", 1), ("1", 1), ("2", 1), ("3", 3)]),
        (["3.fc"], [("0", 3), ("3", 1), ("4", 1), ("5", 1)]),
        (["0", "5"], [("0", 1), ("1", 4), ("5", 1)]),
        ("all", [(str(i), 1) for i in range(6)]),
    ],
)
def test_blocks_are_opened_by_their_address(expand, expected):
    found, _ = rows(*[Block() for _ in range(6)], expand=expand)

    assert blocks_of(found) == expected
    if expand == ["2"]:
        assert {"2.fc", "2.out"} <= {row["name"] for row in found}


@pytest.mark.parametrize("expand", ["2", ["7"], [2], 3])
def test_what_there_is_not_is_refused(expand):
    with pytest.raises(OptionError, match="expand"):
        rows(*[Block() for _ in range(3)], expand=expand)
    with pytest.raises(OptionError, match="expand"):
        opscope.summary(nn.Sequential(Block()), X, expand=expand)


def test_sorted_rows_are_each_their_own():
    found, _ = rows(*[Block() for _ in range(4)], sort_by="flops")

    assert len(blocks_of(found)) == 4


@pytest.mark.parametrize("name", ["gpt2", "vit", "encoder", "resnet18"])
def test_real_models_have_the_same_sums_folded_and_opened(name):
    program = zoo.build(name)
    with torch.no_grad(), opscope.trace(program.module) as trace:
        program.run()
    folded, opened = (trace.summary(expand=way).to_dicts() for way in ((), "all"))

    assert len(folded) <= len(opened)
    tops = [[row["flops"] for row in found if row["depth"] == 1] for found in (folded, opened)]
    assert sum(filter(None, tops[0])) == sum(filter(None, tops[1]))


def test_a_gpt2_of_twelve_blocks_fits_a_screen():
    zoo._torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=12, n_embd=16, n_head=2, vocab_size=50)
    config.bos_token_id = config.eos_token_id = None
    text = str(opscope.summary(GPT2LMHeadModel(config).eval(), torch.zeros(1, 4, dtype=torch.long)))

    assert "h.0–h.11 (×12) GPT2Block" in text
    assert len(text.splitlines()) < 40


class One:
    inside = ()

    def __init__(self, form, name, *, is_block):
        self.form, self.name, self.is_block = form, name, is_block

    def __str__(self):
        return "alike"


@given(
    st.lists(st.tuples(st.sampled_from("aab"), st.integers(0, 3), st.booleans())),
    st.sets(st.integers(0, 8)),
)
def test_groups_have_each_entry_once_and_blocks_in_a_range(drawn, opened):
    entries, number = [], 0
    for form, step, is_block in drawn:
        number += min(step, 1)
        entries.append(One(form + str(is_block), f"h.{number}", is_block=is_block))
    groups = list(
        grouped(entries, lambda e: e.form, lambda e: e.name if e.is_block else None, str, opened)
    )

    assert sorted(map(id, (entry for group in groups for entry in group))) == sorted(
        map(id, entries)
    )
    for group in groups:
        assert len(group) == 1 or len(group) >= 3
        assert len({one.form for one in group}) == 1
        if len(group) > 1 and group[0].is_block:
            numbers = [int(one.name.removeprefix("h.")) for one in group]
            assert numbers == list(range(numbers[0], numbers[0] + len(group)))
        if len(group) > 1:
            assert not {entries.index(one) for one in group} & opened


class Residual(nn.Module):
    def __init__(self, count=12, skipped=()):
        super().__init__()
        self.h, self.skipped = nn.ModuleList(Block() for _ in range(count)), skipped

    def forward(self, x):
        for at, block in enumerate(self.h):
            x = x + block(x) if at not in self.skipped else x + 1
        return x


def test_blocks_with_what_goes_around_them_are_two_rows():
    model = Residual()
    with opscope.trace(model) as trace:
        model(X)
    folded, opened = (trace.summary(expand=way).to_dicts() for way in ((), "all"))
    shown = [(row["type"], row["blocks"]) for row in folded if row["depth"] == 1]

    assert shown == [("Block", 12), ("add", 12)]
    assert sum(row["flops"] for row in folded[1:]) == opened[0]["flops"]
    assert "h.0–h.11 (×12) Block" in str(trace.summary())
    assert "add_1 (×12)" in str(trace.summary())


def test_a_block_that_was_skipped_parts_those_around_it():
    found = opscope.summary(Residual(9, skipped=[4]), X).to_dicts()

    assert [(r["name"], r["last"]) for r in found if r["type"] == "Block"] == [
        ("h.0", "h.3"), ("h.5", "h.8"),
    ]  # fmt: skip


class InOrder(nn.Module):
    def __init__(self, order, blocks):
        super().__init__()
        self.h, self.order = nn.ModuleList(blocks), order

    def forward(self, x):
        for at in self.order:
            x = self.h[at](x)
        return x


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (range(5), [("h.0", "h.4", 5)]),
        ([0, 2, 4], [("h.0", "", 1), ("h.2", "", 1), ("h.4", "", 1)]),
        ([3, 1, 0], [("h.3", "", 1), ("h.1", "", 1), ("h.0", "", 1)]),
        ([0, 1, 2, 4], [("h.0", "h.2", 3), ("h.4", "", 1)]),
    ],
)
def test_a_range_stands_for_all_between_its_ends(order, expected):
    model = InOrder(order, [Block() for _ in range(5)])
    found = opscope.summary(model, X).to_dicts()

    assert [(r["name"], r["last"], r["blocks"]) for r in found if r["type"] == "Block"] == expected


def test_blocks_that_are_set_otherwise_compute_otherwise_or_give_other_types_are_others():
    dilated = [nn.Sequential(nn.Conv1d(8, 8, 3, dilation=2**i, padding=2**i)) for i in range(4)]
    found = opscope.summary(nn.Sequential(*dilated), torch.ones(1, 8, 32)).to_dicts()
    assert {row["blocks"] for row in found} == {1}

    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), Mean()) for _ in range(4))

        def forward(self, x):
            return [block(x.repeat(2**i, 1)) for i, block in enumerate(self.h)]

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean()

    found = opscope.summary(Grows(), X).to_dicts()
    assert {row["blocks"] for row in found} == {1}


def test_modules_made_on_the_way_do_not_part_blocks():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return nn.ReLU()(self.fc(x))

    found = opscope.summary(nn.Sequential(*[Makes() for _ in range(4)]), X).to_dicts()
    assert [row["blocks"] for row in found if row["type"] == "Makes"] == [4]


def test_a_list_of_blocks_is_opened_by_its_own_address():
    model = InOrder(range(5), [Block() for _ in range(5)])
    found = opscope.summary(model, X, expand=["h"]).to_dicts()

    assert [row["blocks"] for row in found if row["type"] == "Block"] == [1] * 5
