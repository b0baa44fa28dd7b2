"""What of a program is a result, on recordings written by hand."""

from dataclasses import replace

from tests.builders import Sketch

from opscope.records.flow.bad_numbers import BadNumbers
from opscope.records.flow.origins import Extent, Origin, Spot
from opscope.records.flow.results import Results, left_behind


def has(sketch, op=-1, output=0, **changes):
    """Whether an output of an op is a result, with some of the op's record changed."""
    recording = sketch.build()
    place = len(recording.ops) + op if op < 0 else op
    ops = list(recording.ops)
    ops[place] = replace(ops[place], **changes)
    return Results(replace(recording, ops=tuple(ops))).has(place, output)


def test_what_a_call_gives_back_to_python_is_a_result():
    sketch = Sketch()
    sketch.call("relu", sketch.outside())
    assert has(sketch)


def test_what_torch_itself_drops_is_none():
    sketch = Sketch()
    kept = sketch.call("relu", sketch.outside())
    sketch.call("ctc_loss", kept, ops=2, returned=(kept,))
    assert not has(sketch)


def test_what_a_call_gives_back_as_a_view_is_a_result():
    sketch = Sketch()
    sketch.call("reshape", sketch.call("relu", sketch.outside()), makes="view")
    assert has(sketch, 0)


def test_what_is_made_in_a_module_is_one_if_the_outermost_returns_it():
    sketch = Sketch()
    x = sketch.outside()
    with sketch.module("block"):
        dropped = sketch.call("log", x)
        with sketch.module("block.act"):
            sketch.call("relu", x)
    assert has(sketch, 1)
    assert not has(sketch, 0)
    assert dropped == 1


def test_what_is_written_is_one_even_if_nothing_is_returned():
    sketch = Sketch()
    sketch.call("__setitem__", sketch.outside(), makes="write", returned=())
    assert has(sketch, output=None)
    with sketch.module("block"):
        sketch.call("__setitem__", sketch.outside(), makes="write", returned=())
        sketch.call("relu", sketch.outside())
    assert not has(sketch, 1, None)


def two_outputs(function="std_mean", operator="aten.std_mean.correction"):
    sketch = Sketch()
    first = sketch.call(function, sketch.outside())
    second = sketch.value()
    sketch.ops[0] = replace(sketch.ops[0], operator=operator, outputs=(first, second))
    sketch.calls[0] = replace(sketch.calls[0], returned=(first, second))
    return sketch, first, second


def test_one_of_several_outputs_is_none_where_another_is_used():
    sketch, first, _ = two_outputs()
    assert has(sketch, 0, 1)
    sketch.call("relu", first)
    assert not has(sketch, 0, 1)
    assert has(sketch, 0, 0)


def test_each_of_a_list_that_goes_in_step_is_one():
    sketch, first, _ = two_outputs("_foreach_sqrt", "aten._foreach_sqrt.default")
    sketch.call("relu", first)
    assert has(sketch, 0, 1)


def test_what_an_operator_notes_for_its_backward_is_none_where_no_function_is_known():
    sketch, *_ = two_outputs("_ctc_loss", "aten._ctc_loss.default")
    assert has(sketch, 0, 0)
    assert not has(sketch, 0, 1)


def test_what_the_engine_makes_and_nothing_reads_is_handed_to_the_program():
    sketch = Sketch()
    sketch.backward("div", sketch.outside())
    assert has(sketch)
    assert not has(sketch, call_site=0)  # made by a hook, or a function's own backward


def test_of_what_is_left_the_first_that_is_a_result_is_told():
    sketch = Sketch()
    x = sketch.outside()
    with sketch.module("block"):
        sketch.call("log", x)
        sketch.call("relu", x)
    for _ in range(2):
        sketch.call("sqrt", x)
    bad = BadNumbers(lambda spot: None)
    for number, op in enumerate((0, 2, 3)):
        origin = Origin("NaN", op, f"op {op}", number=number)
        bad.spots[op] = [Spot(Extent(op), op, 0, nan=origin)]
    recording = sketch.build()
    assert left_behind(recording, bad, scaled=False).op == 2
    bad.accumulate(Extent(0), "0.weight")
    assert left_behind(recording, bad, scaled=True).op == 3
    assert left_behind(recording, bad, scaled=True) is None
    assert left_behind(recording, bad, scaled=False).seen_in == "the gradient of 0.weight"
