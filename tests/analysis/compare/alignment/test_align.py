import random

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import Sketch, branch, nested, recurrent

from opscope.analysis.compare.alignment.align import align
from opscope.analysis.compare.alignment.modules import module_pairs
from opscope.analysis.compare.alignment.sides import Side
from opscope.records.passes.layers import layer_passes


def aligned(a, b):
    """Return the names of the ops that are the same: operator and index in each."""
    sides = [Side(one, layer_passes(one)) for one in (a, b)]
    found = align(*sides, module_pairs(a, b, {}))
    pairs = {
        sides[0].numbers[x]: sides[1].numbers[y]
        for x, y in found.nodes.items()
        if sides[0].kinds[x] == "op"
    }
    return pairs, found


def chain(*functions, address="", site=None):
    sketch = Sketch("Net")
    x = sketch.outside()
    with sketch.module("", "Net", x):
        for function in functions:
            x = sketch.call(function, x)
    return sketch.build()


def test_equal_programs_are_aligned_op_by_op():
    for make in (nested, branch, recurrent):
        a = make()
        pairs, found = aligned(a, make())
        assert pairs == {op.index: op.index for op in a.ops}
        assert not found.calls


def test_an_insertion_and_a_removal_leave_the_rest_aligned():
    pairs, _ = aligned(chain("sin", "relu", "cos", "tanh"), chain("sin", "cos", "abs", "tanh"))

    assert pairs == {0: 0, 2: 1, 3: 3}


def test_a_function_in_the_stead_of_another_is_aligned_with_it():
    pairs, found = aligned(chain("sin", "relu", "cos"), chain("sin", "gelu", "cos"))

    assert pairs == {0: 0, 2: 2}
    assert found.calls == {1: 1}


def branches(order, extra=False):
    """Return a program of four branches of three ops each, run in some order."""
    sketch = Sketch("Net")
    x = sketch.call("tanh", sketch.outside()) if extra else sketch.outside()
    weights = [sketch.parameter(f"w{i}", 3, 3) for i in range(4)]
    ends, steps = {}, dict.fromkeys(range(4), 0)
    for i in order:
        value = ends.get(i, x)
        step = steps[i]
        ends[i] = (
            sketch.call("linear", value, weights[i]) if step == 1 else sketch.call("relu", value)
        )
        steps[i] += 1
    sketch.call("cat", *(ends[i] for i in range(4)))
    return sketch.build(), ends


def weights(recording, op):
    """Return the parameters that an op reads."""
    bound = recording.parameter_of_value
    return [bound[read.value] for read in recording.ops[op].reads if read.value in bound]


@given(st.randoms(use_true_random=False))
def test_order_does_not_matter_where_nothing_depends_on_it(source):
    order = [0, 1, 2, 3] * 3
    a, _ = branches(order)
    source.shuffle(order)
    b, _ = branches(order)

    pairs, _ = aligned(a, b)

    assert len(pairs) == len(a.ops)
    for x, y in pairs.items():
        assert a.ops[x].operator == b.ops[y].operator
        assert weights(a, x) == weights(b, y)


def test_branches_in_another_order_are_aligned_below_an_op_that_is_another():
    order = [0, 1, 2, 3] * 3
    a, _ = branches(order)
    random.Random(1).shuffle(order)
    b, _ = branches(order, extra=True)

    pairs, _ = aligned(a, b)

    assert [weights(a, x) for x in pairs] == [weights(b, y) for y in pairs.values()]
    assert sum(bool(weights(a, x)) for x in pairs) == 4
