"""A record that is wrong in any one way is found out, and the first difference is named."""

from dataclasses import replace

import pytest
import torch
from tests.witness import line_of
from torch import nn

import opscope
from opscope.analysis import replay as room
from opscope.capture.collect.kept.activations import Activations
from opscope.capture.collect.kept.replay_inputs import ReplayInputs


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        x = x.matmul(self.weight)  # <- mm
        left, right = x.split(2)  # <- split
        y = left - right  # <- sub
        y.add_(1)  # <- add_
        z = y * 3  # <- mul
        z = torch.dropout(z, 0.5, train=True)  # <- bernoulli_
        return z.exp()  # <- exp


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    model = Net()
    x = torch.rand(6, 4)[1:5]  # there is memory before and after it
    with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
        model(x)
    return trace


class Record:
    """A recording and its replay inputs, to be changed; an op is the first of its name."""

    def __init__(self, trace):
        self.recording = trace.recording
        kept = trace._block.session.find(ReplayInputs)
        self.replay_inputs = ReplayInputs(trace._block.session.tables.log)
        self.replay_inputs.storages = dict(kept.storages)
        self.replay_inputs.generators = dict(kept.generators)

    def op(self, name):
        return next(op for op in self.recording.ops if op.name == name)

    def change(self, name, **fields):
        ops = list(self.recording.ops)
        place = ops.index(self.op(name))
        ops[place] = replace(ops[place], **fields)
        self.recording = replace(self.recording, ops=tuple(ops))

    def change_value(self, index, **fields):
        values = list(self.recording.values)
        values[index] = replace(values[index], **fields)
        self.recording = replace(self.recording, values=tuple(values))

    def outside(self):
        bound = self.recording.parameter_of_value
        (found,) = [
            v for v in self.recording.values if v.origin == "outside" and v.index not in bound
        ]
        return found


def drop_an_in_place_op(record):
    add = record.op("add_")
    ops = tuple(op for op in record.recording.ops if op is not add)
    record.recording = replace(record.recording, ops=ops)


def drop_an_op(record):
    sub = record.op("sub")
    ops = tuple(op for op in record.recording.ops if op is not sub)
    record.recording = replace(record.recording, ops=ops)


def swap_two_ops(record):
    first, second = record.op("add_"), record.op("mul")
    ops = list(record.recording.ops)
    ops[first.index], ops[second.index] = second, first
    record.recording = replace(record.recording, ops=tuple(ops))


def wrong_constant(record):
    record.change("mul", arguments=(("other", 3.0000002),))


def wrong_value_read(record):
    first, second = record.op("sub").reads
    swapped = replace(first, value=second.value), replace(second, value=first.value)
    record.change("sub", reads=swapped)


def dropped_write(record):
    record.change("add_", writes=())


def write_to_another_value(record):
    record.change("add_", writes=record.op("sub").outputs, outputs=record.op("sub").outputs)


def wrong_overload(record):
    record.change("mul", operator="aten.div.Tensor")


def overload_that_does_not_fit(record):
    record.change("mul", operator="aten.mul.out")


def wrong_output_order(record):
    record.change("split", outputs=record.op("split").outputs[::-1])


def dropped_output(record):
    record.change("split", outputs=record.op("split").outputs[:1])


def changed_seed(record):
    torch.manual_seed(12345)
    record.replay_inputs.generators["cpu"] = torch.get_rng_state()


def changed_offset(record):
    record.change_value(record.outside().index, offset=0)


def changed_stride(record):
    record.change_value(record.outside().index, stride=(1, 4))


def changed_stride_of_a_result(record):
    record.change_value(record.op("mul").outputs[0], stride=(1, 2))


def changed_offset_of_a_view(record):
    record.change_value(record.op("split").outputs[1], offset=0)


def changed_shape_of_a_result(record):
    record.change_value(record.op("mul").outputs[0], shape=(4, 2))


def changed_original(record):
    number = record.outside().storage
    storage = record.replay_inputs.storages[number].clone()
    storage[5 * 4] ^= 1  # the lowest bit of one element
    record.replay_inputs.storages[number] = storage


CORRUPTIONS = {
    drop_an_in_place_op: "mul",
    drop_an_op: "add_",
    swap_two_ops: "mul",
    wrong_constant: "mul",
    wrong_value_read: "sub",
    dropped_write: "add_",
    write_to_another_value: "add_",
    wrong_overload: "mul",
    overload_that_does_not_fit: "mul",
    wrong_output_order: "split",
    dropped_output: "split",
    changed_seed: "bernoulli_",
    changed_offset: "mm",
    changed_stride: "mm",
    changed_stride_of_a_result: "mul",
    changed_offset_of_a_view: "split",
    changed_shape_of_a_result: "mul",
    changed_original: "mm",
}
"""Each with the op at which it must be noticed."""


def replayed(trace, record):
    labels = {item.call: item.label for item in trace.passes}
    saved = trace._block.session.find(Activations).get
    return room.replay(record.recording, record.replay_inputs, saved, labels)


def test_the_record_is_right_before_it_is_corrupted(trace):
    report = replayed(trace, Record(trace))

    assert report == trace.validate()
    assert report
    assert report.outputs == 1
    assert report.compared == len(trace.ops) == 10


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_corruption_is_found_and_its_op_layer_module_and_line_are_named(trace, corrupt):
    record, at = Record(trace), CORRUPTIONS[corrupt]
    op = record.op(at)
    layer = next(item.label for item in trace.passes if item.call == op.layer_call)
    corrupt(record)
    report = replayed(trace, record)
    file, line = line_of(Block.forward, at)

    assert not report
    assert report.difference is not None, report
    named = f"layer {layer}, module block, at {file}:{line}\n"
    assert f"in op {op.index}, " in str(report)
    assert named in str(report), report
    assert (report.difference.op, report.difference.module) == (op.index, "block")


@pytest.mark.parametrize("bare", [False, True], ids=["model", "bare"])
def test_a_difference_in_backward_names_the_layer_that_the_op_ran_for(bare):
    model = nn.Linear(3, 2)
    with opscope.trace(None if bare else model, replayable=True) as trace:
        nn.functional.linear(torch.rand(4, 3), model.weight).exp().sum().backward()
    assert trace.validate()
    wrong = next(op for op in trace.ops if op.phase == "backward" and op.name == "mul")
    record = Record(trace)
    record.change("mul", operator="aten.div.Tensor")
    trace._reading.recording = record.recording  # the layers are those of the right one
    difference = trace.validate().difference

    assert difference.op == wrong.index
    assert difference.layer == next(label for label in trace.layer_labels if "exp" in label)
