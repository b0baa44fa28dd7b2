"""The rule of bad numbers, on steps that are made up: no torch."""

from dataclasses import dataclass, field
from math import inf, nan

import pytest

from opscope.operators.known import asks_for_form
from opscope.records.flow.bad_numbers import LOSS, BadNumbers, Step
from opscope.records.flow.origins import Arrival, Extent, Kinds, kinds_of_numbers
from opscope.records.flow.regions import region

NAN, INF, GOOD = Kinds(nan=True), Kinds(inf=True), Kinds()


@dataclass
class Made:
    """A tensor, as a watcher would know it."""

    extent: Extent
    held: Kinds = GOOD
    came: Arrival = field(default_factory=lambda: Arrival("data"))
    handle: object = None

    def kinds(self):
        return self.held

    def text(self):
        return "float32[2]"

    def arrival(self):
        return self.came


class Program:
    """Runs ops that are made up, each in new memory unless it is said where."""

    def __init__(self, look_again=lambda spot: None):
        self.bad = BadNumbers(look_again)
        self.count = 0
        self.memories = 0

    def memory(self, start=0, size=2):
        self.memories += 1
        return Extent(self.memories, region((size,), (1,), start, 4))

    def outside(self, held=GOOD, kind="data", name=None):
        return Made(self.memory(), held, Arrival(kind, name))

    def run(self, *reads, gives=GOOD, into=None, operator="aten.op.default", **fields):
        """Run an op, and return what it gave."""
        result = Made(into or self.memory(), gives)
        bad = [(None if into else 0, result)] if gives else []
        named = [(f"argument{i}", tensor) for i, tensor in enumerate(reads)]
        self.bad.follow(
            Step(
                self.count, operator, named, writes=[into] if into else [], bad=bad, **fields
            )
        )  # fmt: skip
        self.count += 1
        return result

    def seen(self, tensor, where=LOSS):
        return self.bad.seen(tensor, where, self.count)

    def left(self):
        return [spot.op for spot in self.bad.left()]


def test_a_number_that_an_op_makes_of_good_ones_comes_from_that_op():
    program = Program()
    error = program.seen(program.run(program.outside(), gives=NAN, operator="aten.log.default"))
    assert (error.kind, error.operator, error.op) == ("NaN", "aten.log.default", 0)
    assert error.ranges == ("argument0 float32[2]",)
    assert error.seen_in == "the loss"


def test_what_is_made_of_it_comes_from_the_same_op():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    last = program.run(program.run(first, gives=NAN), program.outside(), gives=NAN)
    assert program.seen(last).op == 0


def test_of_two_origins_the_first_is_told():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    second = program.run(program.outside(), gives=NAN)
    assert program.seen(program.run(second, first, gives=NAN)).op == 0


def test_a_nan_that_comes_of_an_infinity_that_grew_comes_from_that():
    program = Program()
    grown = program.run(program.outside(), gives=INF)
    error = program.seen(program.run(grown, gives=NAN))
    assert (error.kind, error.op, error.made_of) == ("Inf", 0, None)


@pytest.mark.parametrize("kind", ["buffer", "input", "data", "memory"])
def test_an_infinity_that_came_in_is_meant_and_a_nan_that_comes_of_it_is_not(kind):
    program = Program()
    mask = program.outside(INF, kind, "mask")
    masked = program.run(mask, program.outside(), gives=INF)
    assert program.seen(masked) is None
    error = program.seen(program.run(masked, gives=NAN))
    assert (error.kind, error.op) == ("NaN", 1)
    assert error.made_of == f"Inf that came in with {kind} mask"


def test_an_infinity_of_a_parameter_is_not_meant():
    program = Program()
    weight = program.outside(INF, "parameter", "0.weight")
    error = program.seen(program.run(weight, gives=INF))
    assert (error.came_in_with, error.name, error.operator, error.op) == (
        "parameter", "0.weight", "", None
    )  # fmt: skip


@pytest.mark.parametrize("number", [inf, -inf, [1.0, -inf], complex(0, inf)])
def test_an_infinity_among_the_arguments_is_meant(number):
    program = Program()
    filled = program.run(program.outside(), gives=INF, arguments=[("value", number)])
    assert program.seen(filled) is None
    error = program.seen(program.run(filled, gives=NAN))
    assert error.made_of == "Inf that aten.op.default was given as value"


def test_a_nan_among_the_arguments_is_told_as_such():
    program = Program()
    error = program.seen(program.run(gives=NAN, arguments=[("value", nan)]))
    assert (error.came_in_with, error.name, error.op) == ("argument", "value", 0)
    assert str(error).startswith("aten.op.default was given NaN as value")


def test_of_several_infinities_that_which_is_not_meant_counts():
    program = Program()
    mask = program.outside(INF)
    grown = program.run(program.outside(), gives=INF)
    assert program.seen(program.run(mask, grown, gives=INF)).op == 0


def test_what_is_told_once_is_not_told_again():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    assert program.seen(first) is not None
    assert program.seen(program.run(first, gives=NAN)) is None
    assert program.left() == []


# -------------------------------------------------------------------------- what is left


def test_what_no_op_has_taken_up_is_left():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    assert program.left() == [0]
    program.run(first)
    assert program.left() == []


@pytest.mark.parametrize(
    ("held", "fields", "taken"),
    [
        (NAN, {"gives_only": "truths"}, True),
        (NAN, {"gives_only": "whole numbers"}, False),
        (INF, {"gives_only": "whole numbers"}, True),
        (NAN, {"is_view": True}, False),
        (NAN, {"operator": "aten.zeros_like.default"}, False),
        (NAN, {"operator": "aten.new_empty.default"}, False),
    ],
    ids=str,
)
def test_what_takes_it_up(held, fields, taken):
    program = Program()
    first = program.run(program.outside(), gives=held)
    fields = dict(fields)
    if (only := fields.pop("gives_only", None)) is not None:
        step = Step(1, "aten.op.default", [("self", first)], gives=only)
        program.bad.follow(step)
    else:
        program.run(first, **fields)
    assert (program.left() == []) is taken


def test_memory_that_nothing_wrote_is_not_left():
    program = Program()
    garbage = program.outside(NAN, "memory")
    copied = program.run(garbage, gives=NAN)
    assert program.left() == []
    assert program.seen(copied).came_in_with == "memory"


def test_memory_that_was_freed_is_left_if_nothing_took_it_up():
    program = Program()
    program.run(program.outside(), gives=NAN)
    program.run(program.run(program.outside(), gives=NAN))
    program.bad.forget(lambda spot: True)
    assert not program.bad
    assert program.left() == [0]


# ------------------------------------------------------------------------------ writes


def test_what_is_written_over_is_bad_no_longer():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    program.run(into=first.extent)
    assert program.left() == []
    assert not program.bad


def test_a_bad_number_that_is_written_comes_from_what_was_there_before():
    program = Program()
    first = program.run(program.outside(), gives=NAN)
    program.run(first, gives=NAN, into=first.extent)
    assert program.left() == [1]
    assert program.seen(Made(first.extent, NAN)).op == 0


@pytest.mark.parametrize(("still", "left"), [(NAN, [1]), (GOOD, []), (None, [0])])
def test_of_what_is_written_in_part_the_rest_is_looked_at_again(still, left):
    program = Program(lambda spot: still)
    first = program.run(program.outside(), gives=NAN)
    part = Extent(first.extent.memory, region((1,), (1,), 0, 4))
    program.run(into=part)
    assert program.left() == left


def test_other_parts_of_a_memory_are_left_alone():
    program = Program(lambda spot: pytest.fail("it was not written"))
    first = program.run(program.outside(), gives=NAN)
    program.run(into=Extent(first.extent.memory, region((2,), (1,), 2, 4)))
    assert program.left() == [0]


def test_two_parts_of_a_memory_have_their_own_origins():
    program = Program(lambda spot: NAN)
    whole = program.memory(size=4)
    halves = [Extent(whole.memory, region((2,), (1,), start, 4)) for start in (0, 2)]
    for half in halves:
        program.run(program.outside(), gives=NAN, into=half)
    assert [program.seen(Made(half, NAN)).op for half in halves] == [0, 1]


# --------------------------------------------------------------------------- gradients


def test_no_infinity_is_meant_in_a_gradient():
    program = Program()
    gradient = program.run(program.outside(INF), gives=INF)
    assert program.left() == []
    program.bad.accumulate(gradient.extent, "0.weight")
    assert program.bad.has_gradients
    assert program.left() == [0]
    assert program.seen(gradient, "parameter 0.weight").seen_in == "the gradient of 0.weight"


def test_what_comes_of_a_gradient_is_told_to_be_seen_there():
    program = Program()
    gradient = program.run(program.outside(), gives=NAN)
    program.bad.accumulate(gradient.extent, "0.weight")
    state = program.run(gradient, gives=NAN)
    assert program.seen(state, "parameter 0.weight").seen_in == "the gradient of 0.weight"


def test_a_gradient_that_is_written_in_place_stays_one():
    program = Program()
    gradient = program.run(program.outside(INF), gives=INF)
    program.bad.accumulate(gradient.extent, "0.weight")
    program.run(gradient, gives=INF, into=gradient.extent)
    assert program.seen(gradient).seen_in == "the gradient of 0.weight"


def test_who_asks_of_one_gradient_whether_it_is_finite_sees_to_all():
    program = Program()
    gradients = [program.run(program.outside(), gives=NAN) for _ in range(2)]
    for number, gradient in enumerate(gradients):
        program.bad.accumulate(gradient.extent, f"{number}.weight")
    program.bad.follow(Step(2, "aten.isnan.default", [("self", gradients[0])], gives="truths"))
    assert program.left() == []
    assert program.seen(gradients[1]) is not None


def test_what_a_scaler_looked_at_is_no_alarm_and_nothing_that_comes_of_it():
    program = Program()
    gradient = program.run(program.outside(), gives=INF)
    program.bad.accumulate(gradient.extent, "0.weight")
    name = "aten._amp_foreach_non_finite_check_and_unscale_.default"
    program.run(gradient, gives=INF, into=gradient.extent, operator=name)
    norm = program.run(gradient, gives=INF)
    clipped = program.run(gradient, norm, gives=NAN)
    assert [program.seen(tensor) for tensor in (gradient, norm, clipped)] == [None] * 3
    assert program.left() == []
    other = program.run(program.outside(), gives=NAN)
    assert program.seen(program.run(other, norm, gives=NAN)).op == 4


def test_a_scale_may_be_too_large_but_not_the_loss():
    program = Program()
    assert program.seen(program.run(program.outside(), gives=INF, by_scaler=True)) is None
    loss = program.run(program.outside(), gives=INF)
    assert program.seen(program.run(loss, gives=INF, by_scaler=True)).op == 1


# --------------------------------------------------------------------- the model's own


def test_what_is_loaded_into_a_parameter_came_in_with_it():
    program = Program()
    copy = "aten.copy_.default"
    weight = program.run(program.outside(NAN), gives=NAN, into=program.memory(), operator=copy)
    assert program.bad.keep(weight, "parameter", "0.weight", copy, 0) is None
    error = program.seen(program.run(weight, gives=NAN))
    assert (error.came_in_with, error.name) == ("parameter", "0.weight")


def test_what_is_computed_into_a_parameter_is_seen_there():
    program = Program()
    data = program.outside(NAN)
    weight = program.run(data, gives=NAN, into=program.memory(), operator="aten.add_.Tensor")
    error = program.bad.keep(weight, "parameter", "0.weight", "aten.add_.Tensor", 0)
    assert (error.came_in_with, error.seen_in) == ("data", "parameter 0.weight")
    made = program.run(program.outside(), gives=NAN)
    copied = program.run(made, gives=NAN, into=program.memory(), operator="aten.copy_.default")
    assert program.bad.keep(copied, "buffer", "mean", "aten.copy_.default", 2).op == 1


def test_data_that_enters_the_model_is_its_input():
    program = Program()
    batch = program.run(program.outside(NAN), gives=NAN)
    program.bad.enter(batch.extent, "input", "x")
    error = program.seen(program.run(batch, gives=NAN))
    assert (error.came_in_with, error.name) == ("input", "x")


def test_a_tensor_that_is_a_part_is_told_by_the_whole():
    program = Program()
    part = program.outside(NAN)
    part.came = Arrival("parameter", "0.weight", text="float32[3, 2]")
    assert program.seen(program.run(part, gives=NAN)).ranges == ("float32[3, 2]",)


# ------------------------------------------------------------------------- of an op's form


def test_lists_that_go_in_step_are_traced_one_by_one():
    program = Program()
    good, bad = program.outside(), program.outside(NAN)
    given = [Made(program.memory(), kinds) for kinds in (INF, NAN)]
    reads = [("self[0]", good), ("self[1]", bad), ("scale", program.outside())]
    program.bad.follow(Step(0, "aten._foreach_mul.Tensor", reads, bad=list(enumerate(given))))
    errors = [program.seen(tensor) for tensor in given]
    assert (errors[0].kind, errors[0].came_in_with) == ("Inf", None)
    assert errors[0].ranges == ("self[0] float32[2]", "scale float32[2]")
    assert (errors[1].kind, errors[1].came_in_with) == ("NaN", "data")


def test_lists_that_are_written_are_traced_one_by_one():
    program = Program()
    tensors = [program.outside() for _ in range(12)]
    reads = [(f"self[{i}]", tensor) for i, tensor in enumerate(tensors)]
    written = Made(tensors[11].extent, INF)
    program.bad.follow(
        Step(
            0, "aten._foreach_mul_.Scalar", reads, writes=[t.extent for t in tensors],
            bad=[(None, written)],
        )
    )  # fmt: skip
    assert program.seen(written).ranges == ("self[11] float32[2]",)


def test_many_tensors_are_not_all_told_of():
    program = Program()
    error = program.seen(program.run(*[program.outside() for _ in range(20)], gives=NAN))
    assert len(error.ranges) == 9
    assert error.ranges[-1] == "12 more"


@pytest.mark.parametrize(
    ("item", "kinds"),
    [
        (1.0, GOOD), (nan, NAN), (-inf, INF), (complex(nan, 0), NAN), (True, GOOD), (None, GOOD),
        ([1.0, [nan, inf]], Kinds(nan=True, inf=True)), ("inf", GOOD),
    ],
)  # fmt: skip
def test_numbers_among_arguments_are_looked_at(item, kinds):
    assert kinds_of_numbers(item) == kinds


def test_what_asks_for_the_form_of_a_tensor_reads_no_numbers():
    assert asks_for_form("aten.empty_like.default")
    assert asks_for_form("aten.new_full.default")
    assert not asks_for_form("aten.sum.default")
    assert not asks_for_form("inductor_compiled_code")


def test_an_extent_without_elements_overlaps_nothing():
    empty, whole = Extent(1, None), Extent(1)
    assert not empty.overlaps(whole)
    assert not whole.overlaps(empty)
    assert whole.covers(empty)
    assert not empty.covers(whole)
    assert empty.covers(empty)
