"""Memory after each op, by category, out of recordings written by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Sketch

from opscope.records.passes.layers import layer_passes
from opscope.records.recording import SavedTensor
from opscope.records.storages import StorageLife
from opscope.records.sums.memory import CATEGORIES, Memory


def recording(lives, saved=(), calls=6):
    """A program of some calls of one op each, with these storages."""
    sketch = Sketch()
    x = sketch.outside(2, 3)
    for _ in range(calls):
        x = sketch.call("relu", x)
    found = sketch.build()
    kept = tuple(SavedTensor("Node", "self", owner=0, storage=number) for number in saved)
    return dataclasses.replace(found, storages=tuple(lives), saved_tensors=kept)


def memory(lives, device="cpu", **more):
    found = recording(lives, **more)
    return Memory(found, layer_passes(found), device)


def test_memory_counts_from_its_allocation_to_its_end():
    found = memory([
        StorageLife(100),
        StorageLife(10, born=0, freed=2),
        StorageLife(1, born=1, freed=6),
        StorageLife(1000, born=3),
        StorageLife(7, born=2, freed=2),  # gone within the op
    ])  # fmt: skip

    assert found.before == 100
    assert list(found.live) == [110, 111, 101, 1101, 1101, 1101]
    assert found.peak_op == 3
    assert [one.nbytes for one in found.held(1)] == [100, 10, 1]
    assert [one.nbytes for one in found.held(None)] == [100]


def test_each_device_is_by_itself():
    lives = [StorageLife(5, "cuda:0", born=1), StorageLife(3, "cpu", born=0)]

    assert list(memory(lives, "cuda:0").live) == [0, 5, 5, 5, 5, 5]
    assert list(memory(lives, "cpu").live) == [3] * 6


def test_where_there_is_most_before_the_first_op_no_op_has_the_peak():
    found = memory([StorageLife(100, freed=1), StorageLife(10, born=3)])

    assert found.peak_op is None
    assert found.before == 100
    assert memory([], calls=0).peak_op is None


def trained():
    """A step with a parameter, its gradient, and what an optimizer keeps."""
    sketch = Sketch()
    weight, x = sketch.parameter("fc.weight", 4, 4), sketch.outside(2, 4)
    y = sketch.call("linear", x, weight)
    z = sketch.call("relu", y)
    g = sketch.backward("threshold_backward", z, forward=1)
    w = sketch.backward("mm", g, forward=0)
    kept = sketch.backward("detach", w, accumulates=0)
    found = sketch.build()
    storage = [value.storage for value in found.values]
    lives = [
        StorageLife(64, number=storage[weight]),
        StorageLife(32, number=storage[x]),
        StorageLife(33, number=storage[y], born=0, freed=3),
        StorageLife(34, number=storage[z], born=1, freed=3),
        StorageLife(35, number=storage[g], born=2, freed=4),
        StorageLife(65, number=storage[kept], born=4),
    ]
    saved = (SavedTensor("ReluBackward0", "result", owner=z, storage=storage[z]),)
    found = dataclasses.replace(found, storages=tuple(lives), saved_tensors=saved)
    return Memory(found, layer_passes(found), "cpu")


def test_what_memory_is_for_and_whose_it_is():
    found = trained()

    assert found.categories == [
        "parameters", "inputs", "temporaries", "activations", "temporaries", "gradients",
    ]  # fmt: skip
    names = {one.nbytes: one.name for op in range(5) for one in found.held(op)}
    assert names[64] == "fc.weight"
    assert names[34].startswith("relu_1")
    assert names[35].endswith(".backward")


@pytest.mark.parametrize("op", range(5))
def test_categories_add_up_to_the_whole_after_each_op(op):
    found = trained()
    curves = found.by_category()

    assert tuple(curves) == CATEGORIES
    assert sum(curve[op] for curve in curves.values()) == found.live[op]
    assert sum(one.nbytes for one in found.held(op)) == found.live[op]


numbers = st.integers(0, 7)
lives = st.builds(
    StorageLife,
    st.integers(0, 1000),
    born=st.none() | st.integers(0, 5),
    freed=st.none() | st.integers(0, 6),
).filter(lambda life: life.freed is None or life.freed >= (life.born or 0))


@given(st.lists(lives, max_size=12))
def test_the_curve_is_the_sum_of_what_is_held(found):
    found = memory(found)

    assert list(found.live) == [sum(one.nbytes for one in found.held(op)) for op in range(6)]
    at = found.peak_op
    most = found.before if at is None else found.live[at]
    assert most == max([found.before, *found.live])
