"""Times of some ops together are the sums of their own."""

from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import recordings

from opscope.records.sums.times import OpTimes


@given(recordings(), st.data())
def test_a_range_of_ops_takes_as_long_as_its_ops_one_by_one(recording, data):
    count = len(recording.ops)
    start, stop = (data.draw(st.integers(0, count)) for _ in range(2))
    times = OpTimes(recording)

    assert times.of(range(start, stop)) == times.of(list(range(start, stop)))
    assert times.of(range(count)) == sum(op.duration_ns for op in recording.ops)
