"""A recording is pickled whole, and copied not at all."""

import copy
import pickle
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given
from tests.builders import RECORDINGS, Sketch
from tests.strategies import recordings

from opscope.operators.known import InWords
from opscope.records.ops import Op
from opscope.records.recording import Recording


def as_plain(record):
    """Return a record as its class and fields, all the way down, each with its type."""
    if is_dataclass(record):
        return type(record), [as_plain(getattr(record, field.name)) for field in fields(record)]
    if isinstance(record, (tuple, list)):
        return type(record), [as_plain(item) for item in record]
    return type(record), record


@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_what_is_pickled_comes_back_as_it_was(make):
    assert as_plain(pickle.loads(pickle.dumps(make()))) == as_plain(make())


@given(recordings())
def test_whatever_is_pickled_comes_back_as_it_was(recording):
    assert as_plain(pickle.loads(pickle.dumps(recording))) == as_plain(recording)


@pytest.mark.parametrize(
    "arguments",
    [
        [(("alpha", 1),), (("alpha", True),), (("alpha", 1.0),)],
        [(("alpha", "1"),), (("alpha", InWords("1")),), ()],
        [(("sizes", (1, True)),), (("sizes", [1, 1.0]),), (("sizes", None),)],
    ],
)
def test_values_that_are_equal_but_not_the_same_stay_apart(arguments):
    ops = tuple(Op(place, "aten.add", arguments=given) for place, given in enumerate(arguments))
    recording = Recording(ops=ops)

    assert as_plain(pickle.loads(pickle.dumps(recording))) == as_plain(recording)


def test_a_copy_shares_what_nobody_can_change():
    recording = Sketch().build()

    assert copy.copy(recording) is recording
    assert copy.deepcopy(recording) is recording
    assert copy.deepcopy([recording])[0] is recording
