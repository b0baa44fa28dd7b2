import pytest
from hypothesis import given
from tests.builders import RECORDINGS
from tests.strategies import recordings

from opscope.records.values import Value, before_writes, each_before_writes


def one_by_one(recording):
    return [before_writes(recording.values, value.index) for value in recording.values]


@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_what_each_value_was_before_writes_is_what_each_is_asked_for_alone(make):
    assert each_before_writes(make().values) == one_by_one(make())


@given(recordings())
def test_what_any_value_was_before_writes_is_what_it_is_asked_for_alone(recording):
    assert each_before_writes(recording.values) == one_by_one(recording)


def test_a_value_may_come_before_the_one_that_it_was():
    values = (
        Value(0, origin="rewritten", earlier=2),
        Value(1, origin="rewritten", earlier=0),
        Value(2),
    )

    assert each_before_writes(values) == [values[2]] * 3
