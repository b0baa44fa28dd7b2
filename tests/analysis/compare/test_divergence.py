from dataclasses import replace
from math import nan

import pytest
import torch
from tests.analysis.compare.sketches import compared, seen, vectors
from tests.builders import RECORDINGS, Sketch, branch, nested


def line(*functions, weight=True, sizes=(2, 3)):
    """Return a program: functions one after another, the second with a weight."""
    sketch = Sketch("Net")
    x = sketch.pass_through("input", sketch.outside(*sizes))
    given = sketch.parameter("fc.weight", 3, 3) if weight else None
    with sketch.module("", "Net", x):
        for place, function in enumerate(functions):
            more = (given,) if place == 1 and weight else ()
            x = sketch.call(function, x, *more)
    sketch.pass_through("output", x)
    return sketch.build()


LINE = ("sin", "linear", "relu", "cos")


def made_by(recording, operator):
    """Return the value that an op made."""
    return next(op.outputs[0] for op in recording.ops if op.name == operator)


@pytest.mark.parametrize("name", RECORDINGS)
def test_in_equal_programs_nothing_is_reported(name):
    a, b = RECORDINGS[name](), RECORDINGS[name]()

    assert not compared(a, b).rows
    assert not compared(a, b, vectors(a), vectors(b)).rows


def test_the_first_is_what_differs_while_all_that_it_depends_on_agrees():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    for operator in ("linear", "relu", "cos"):
        theirs[made_by(a, operator)] = ours[made_by(a, operator)] + 1

    found = compared(a, a, ours, theirs)

    assert seen(found) == [
        ("values", "first", "linear_1_2", "linear_1_2"),
        ("values", "follows", "relu_1_3", "relu_1_3"),
        ("values", "follows", "cos_1_4", "cos_1_4"),
    ]


def test_a_parameter_that_differs_is_the_cause_of_what_follows():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    weight = a.parameters[0].value
    theirs[weight] = ours[weight].clone()
    theirs[weight][4] *= 1.001
    theirs[made_by(a, "linear")] = ours[made_by(a, "linear")] * 1.01

    rows = compared(a, a, ours, theirs).rows

    assert [(row.kind, row.status) for row in rows] == [
        ("parameter", "first"),
        ("values", "follows"),
    ]
    assert rows[0].what == "parameter fc.weight differs"
    assert rows[0].module == "fc"


def test_an_input_that_differs_is_named():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    theirs = {index: tensor + 1 for index, tensor in theirs.items()}
    theirs[a.parameters[0].value] = ours[a.parameters[0].value]

    rows = compared(a, a, ours, theirs).rows

    assert (rows[0].kind, rows[0].status, rows[0].what) == ("input", "first", "the input differs")
    assert {row.status for row in rows[1:]} == {"follows"}


def test_values_that_are_not_known_are_looked_through():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    for operator in ("linear", "relu"):
        del ours[made_by(a, operator)]
    theirs[made_by(a, "cos")] = ours[made_by(a, "cos")] + 1

    assert seen(compared(a, a, ours, theirs))[0] == ("values", "first", "cos_1_4", "cos_1_4")


@pytest.mark.parametrize(("dtype", "error", "is_same"), [
    ("float32", 1e-7, True), ("float32", 1e-3, False), ("bfloat16", 1e-2, True),
    ("bfloat16", 0.2, False), ("float64", 1e-7, False),
])  # fmt: skip
def test_the_tolerance_is_that_of_the_coarser_type(dtype, error, is_same):
    a = line(*LINE)
    b = replace(a, values=tuple(replace(value, dtype=dtype) for value in a.values))
    if dtype == "float64":
        a = b
    ours, theirs = vectors(a), vectors(a)
    value = made_by(a, "linear")
    ours, theirs = ({i: t.double() for i, t in each.items()} for each in (ours, theirs))
    theirs[value] = theirs[value] * (1 + error)

    assert (not compared(a, b, ours, theirs).rows) is is_same


def test_rounding_that_grows_slowly_is_explained_and_a_jump_is_not():
    a = line("sin", "linear", "relu", "cos", "tanh")
    b = replace(a, values=tuple(replace(value, dtype="bfloat16") for value in a.values))
    ours = vectors(a)
    errors = {"sin": 0.005, "linear": 0.02, "relu": 0.08, "cos": 0.15, "tanh": 0.2}
    theirs = dict(ours)
    for operator, error in errors.items():
        theirs[made_by(a, operator)] = ours[made_by(a, operator)] * (1 + error)

    assert not compared(a, b, ours, theirs).rows
    theirs[made_by(a, "linear")] = ours[made_by(a, "linear")] * 2
    assert seen(compared(a, b, ours, theirs))[0] == ("values", "first", "linear_1_2", "linear_1_2")


def test_a_nan_is_named():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    theirs[made_by(a, "relu")] = ours[made_by(a, "relu")].clone()
    theirs[made_by(a, "relu")][0] = nan

    row = compared(a, a, ours, theirs).rows[0]

    assert (row.kind, row.a) == ("nonfinite", "relu_1_3")


def test_random_numbers_are_named():
    a = line("sin", "native_dropout", "cos")
    ours, theirs = vectors(a), vectors(a)
    theirs[made_by(a, "native_dropout")] = ours[made_by(a, "native_dropout")] * 2

    assert compared(a, a, ours, theirs).rows[0].kind == "random"


def with_argument(recording, operator, **arguments):
    ops = tuple(
        replace(op, arguments=tuple(arguments.items())) if op.name == operator else op
        for op in recording.ops
    )
    return replace(recording, ops=ops)


def test_another_setting_is_named_however_small_what_it_does():
    a = with_argument(line(*LINE), "relu", eps=1e-5)
    b = with_argument(line(*LINE), "relu", eps=1e-6)
    ours, theirs = vectors(a), vectors(a)
    theirs[made_by(a, "relu")] = ours[made_by(a, "relu")] * (1 + 1e-6)

    row = compared(a, b, ours, theirs).rows[0]

    assert (row.kind, row.status, row.what) == ("settings", "first", "eps 1e-05 → 1e-06")


def test_another_setting_with_the_same_result_has_no_effect():
    a = with_argument(line(*LINE), "relu", eps=1e-5)
    b = with_argument(line(*LINE), "relu", eps=1e-6)

    assert [row.status for row in compared(a, b, vectors(a), vectors(b)).rows] == ["no effect"]


def test_structure_is_compared_alone_where_no_values_are_known():
    a = with_argument(line(*LINE), "relu", eps=1e-5)
    b = with_argument(line("sin", "linear", "relu", "tan"), "relu", eps=1e-6)

    rows = compared(a, b).rows

    assert [(row.kind, row.status, row.what) for row in rows] == [
        ("settings", "structure", "eps 1e-05 → 1e-06"),
        ("function", "structure", "cos → tan"),
    ]


def test_sizes_and_types_are_named_where_they_differ_first():
    a = line("sin", "linear", "relu", "cos")
    wide = line("sin", "linear", "relu", "cos", sizes=(4, 3))
    value = made_by(a, "relu")
    types = tuple(replace(v, dtype="bfloat16") if v.index >= value else v for v in a.values)

    shapes = [row for row in compared(a, wide).rows if row.status in ("first", "structure")]
    dtypes = compared(a, replace(a, values=types)).rows

    assert [(row.kind, row.what) for row in shapes] == [
        ("input", "the input differs: f32[2, 3] → f32[4, 3]")
    ]
    assert (dtypes[0].kind, dtypes[0].a, dtypes[0].what) == (
        "dtype",
        "relu_1_3",
        "float32 → bfloat16",
    )
    assert len(dtypes) == 1


def test_three_ops_for_one_are_reported_and_no_error():
    a, b = line("sin", "linear", "mul", "add", "tanh", "cos"), line("sin", "linear", "gelu", "cos")
    ours, theirs = vectors(a), vectors(b)
    for operator in ("sin", "linear", "cos"):
        theirs[made_by(b, operator)] = ours[made_by(a, operator)]
    for value in a.parameters[0].value, 0, 1:
        theirs[value] = ours[value]
    theirs[len(b.values) - 1] = ours[len(a.values) - 1]
    theirs[made_by(b, "gelu")] = torch.tensor([5.0, 1, 4, 2, 8, 3])

    found = compared(a, b, ours, theirs)

    assert [(row.kind, row.status, row.what) for row in found.rows] == [
        ("other ops", "no effect", "mul, add, tanh → gelu")
    ]
    theirs[made_by(b, "cos")] = theirs[len(b.values) - 1] = ours[made_by(a, "cos")] + 3
    first = next(row for row in compared(a, b, ours, theirs).rows if row.status == "first")
    assert (first.kind, first.a, first.b) == ("other ops", "mul_1_3", "gelu_1_3")


def test_a_divergence_in_one_branch_is_none_of_the_other():
    a = branch()
    ours, theirs = vectors(a), vectors(a)
    for operator in ("sin", "add"):
        theirs[made_by(a, operator)] = ours[made_by(a, operator)] + 1

    assert seen(compared(a, a, ours, theirs)) == [
        ("values", "first", "sin_1_2", "sin_1_2"),
        ("values", "follows", "add_1_4", "add_1_4"),
    ]


def test_tolerances_of_the_user_count_for_every_type():
    a = line(*LINE)
    ours, theirs = vectors(a), vectors(a)
    for operator in ("linear", "relu", "cos"):
        theirs[made_by(a, operator)] = ours[made_by(a, operator)] * 1.01

    assert compared(a, a, ours, theirs).rows
    assert not compared(a, a, ours, theirs, rtol=0.1).rows
    assert not compared(a, a, ours, theirs, atol=1e3).rows
    theirs[made_by(a, "linear")] = ours[made_by(a, "linear")] * (1 + 1e-6)
    assert compared(a, a, ours, theirs, rtol=1e-9).rows


def test_a_row_says_where_in_both_programs():
    a = nested()
    ours, theirs = vectors(a), vectors(a)
    value = next(v for op in a.ops if op.name == "relu" for v in op.outputs)
    theirs[value] = ours[value] + 1

    row = compared(a, a, ours, theirs).rows[0]

    assert (row.module, row.other_module) == ("blocks.0.act", "blocks.0.act")
    assert row.source.startswith("net.py:")
    assert a.ops[row.op].name == "relu"
    assert row.error > row.allowed >= row.error_before == 0
    assert row.largest == 1


def test_torch_is_not_asked_to_save_what_it_computes():
    x = torch.rand(3, requires_grad=True)

    assert compared(line(*LINE), line(*LINE), {0: x}, {0: x}).rows == ()
