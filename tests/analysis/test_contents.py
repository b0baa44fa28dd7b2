"""What was in memory at some moment: compared with the tensors themselves."""

from weakref import ref

import pytest
import torch

import opscope
from opscope.analysis.contents import Contents
from opscope.capture.collect.kept.activations import Activations
from opscope.records.flow.results import Results


def witnessed(options, tensors, steps):
    """Run steps one by one; note before each which values some tensors are, and their numbers."""
    seen = []
    with opscope.trace(**options) as trace:
        session, pool = trace._block.session, tensors()
        for step in (*steps, None):
            session.ingest()
            for tensor in pool:
                value = session.tables.values.rows[id(ref(tensor))]
                seen.append((session.tables.op_count, value, tensor.numpy().copy()))
            if step is not None:
                step(*pool)
    return trace, seen


def pool():
    x = torch.arange(12.0).view(3, 4) + 0
    return x, x[1], x[:, 2], x.t(), torch.zeros(3) + 5


def fill(x, row, column, turned, other):
    row.fill_(-1)


def copy(x, row, column, turned, other):
    column.copy_(other)


def zero(x, row, column, turned, other):
    turned[1:3].zero_()


def item(x, row, column, turned, other):
    x[2, 3] = 7.0


def shift(x, row, column, turned, other):
    x.add_(1)


def spread(x, row, column, turned, other):
    x[0] = other[0]


STEPS = [fill, copy, zero, item, shift, spread, copy, fill]


def contents_of(trace, is_known=lambda value: True):
    recording, activations = trace.recording, trace._block.session.find(Activations)

    def known(value):
        return activations.get(value) if is_known(value) else None

    return Contents(recording, known, Results(recording).memory)


@pytest.mark.parametrize("options", [{"replayable": True}, {"save": "all"}], ids=str)
@pytest.mark.parametrize("turn", range(4))
def test_contents_are_those_of_the_tensors(options, turn):
    trace, seen = witnessed(options, pool, STEPS[turn:] + STEPS[:turn])
    contents = contents_of(trace)
    found = [contents.before(op, value) for op, value, _ in seen]
    for (op, value, numbers), tensor in zip(seen, found, strict=True):
        assert tensor is None or (tensor.numpy() == numbers).all(), (op, value)
    unknown = sum(tensor is None for tensor in found)
    assert unknown == 0 if "replayable" in options else unknown < len(found) / 2


def test_what_is_not_known_is_said_to_be_unknown():
    with opscope.trace(replayable=True) as trace:
        x = torch.zeros(3).sin()
        x[torch.tensor([True, False, True])] = 1.0
        x + 1
    named = {op.name: op for op in trace.ops}
    sin, put, add = named["sin"], named["index_put_"], named["add"]
    (value,) = sin.outputs
    contents = contents_of(trace, lambda saved: saved == value)
    assert torch.equal(contents.before(put.index, value), torch.zeros(3))
    assert contents.before(add.index, value) is None
    assert contents.before(add.index, add.reads[0].value) is None
    assert contents.is_saved(value)
    assert not contents.is_saved(put.writes[0])


def test_the_op_that_brought_memory_is_the_first_that_showed_or_made_it():
    outside = torch.ones(4)
    with opscope.trace(replayable=True) as trace:
        made = torch.zeros(3)
        made.view(3, 1).add_(1)
        outside.view(2, 2).add_(outside.view(2, 2))
    contents, ops = contents_of(trace), trace.ops
    assert contents.brought(ops[2].writes[0]) == 0
    assert contents.brought(ops[-1].writes[0]) == 3
    assert contents.brought(ops[3].reads[0].value) == 3
