"""Bytes that ops move are those that memory has to move, and no more."""

import pytest
import torch

import opscope

TABLE = 1000 * 8 * 4
ROW = 8 * 4


def moved(run):
    """Return what the last op that moves anything reads and fills."""
    table = torch.rand(1000, 8)
    with opscope.trace() as trace:
        run(table)
    last = trace.ops[-1].operator
    share = next(share for share in trace.breakdown() if share.name == last)
    assert share.calls == 1
    return share.read, share.given


INDEX = torch.tensor([3, 5, 7])
WIDE = INDEX[:, None].expand(3, 8).contiguous()
ROWS = torch.ones(3, 8)


@pytest.mark.parametrize(
    ("run", "read", "given"),
    [
        (lambda t: t + 1, TABLE, TABLE),
        (lambda t: torch.embedding(t, INDEX), 3 * ROW + 24, 3 * ROW),
        (lambda t: t[INDEX], 3 * ROW + 24, 3 * ROW),
        (lambda t: t.index_select(0, INDEX), 3 * ROW + 24, 3 * ROW),
        (lambda t: t.gather(0, WIDE), 3 * ROW + 3 * 8 * 8, 3 * ROW),
        (lambda t: t.index_copy_(0, INDEX, ROWS), 2 * 3 * ROW + 24, 3 * ROW),
        (lambda t: t.index_add_(0, INDEX, ROWS), 2 * 3 * ROW + 24, 3 * ROW),
        (lambda t: t.scatter_(0, WIDE, ROWS), 2 * 3 * ROW + 3 * 8 * 8, 3 * ROW),
        (lambda t: t.index_put_((INDEX,), ROWS), 2 * 3 * ROW + 24, 3 * ROW),
        (lambda t: t.index_put_((INDEX,), ROWS[:1].expand(3, 8)), 4 * ROW + 24, 3 * ROW),
        (lambda t: torch.index_select(t, 0, INDEX, out=ROWS.clone()), 3 * ROW + 24, 3 * ROW),
        (lambda t: t.index_copy(0, INDEX, ROWS), TABLE + 3 * ROW + 24, TABLE),
        (lambda t: t[0].expand(1000, 8).sum(), ROW, 4),
        (lambda t: t[:, 0].unfold(0, 500, 1).sum(), 1000 * 4, 4),
        (lambda t: torch.ops.aten.nll_loss_forward(t[:3], INDEX, None, 1, -100), 3 * 4 + 24, 8),
        (lambda t: t.t().clone(), TABLE, TABLE),
        (lambda t: t.zero_(), 0, TABLE),
        (torch.zeros_like, 0, TABLE),
        (torch.empty_like, 0, 0),
        (lambda t: t.view(8, 1000), 0, 0),
    ],
)
def test_what_an_op_moves_is_what_lies_in_memory(run, read, given):
    assert moved(run) == (read, given)


def test_rows_of_a_bag_are_read_however_few_it_gives():
    bag = torch.nn.EmbeddingBag(1000, 8)
    with opscope.trace() as trace:
        bag(INDEX, torch.tensor([0]))
    share = next(share for share in trace.breakdown() if "embedding_bag" in share.name)

    assert 3 * ROW < share.read <= 4 * ROW


def test_an_embedding_does_not_wait_for_its_whole_weight():
    embedding = torch.nn.Embedding(100_000, 8)
    with opscope.trace(embedding) as trace:
        embedding(INDEX)
    bound = trace.breakdown("module", peak_flops=1e12, bandwidth=1e9)[0].bound

    assert bound.least_ns == 2 * 3 * ROW + 24  # at a byte per nanosecond
