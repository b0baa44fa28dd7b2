"""Digests in a row of bytes are those that were put in."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from opscope.records.columns.digests import Digests, packed
from opscope.records.values import Digest

NUMBERS = st.floats(allow_nan=False)
DIGESTS = st.builds(
    Digest, st.binary(min_size=16, max_size=16).map(bytes.hex), NUMBERS, NUMBERS, NUMBERS, NUMBERS,
    st.integers(0, 2**60), st.lists(NUMBERS, max_size=64).map(tuple),
)  # fmt: skip


@given(st.dictionaries(st.integers(0, 2**30), DIGESTS, max_size=8), st.binary(max_size=9))
def test_each_comes_back_by_its_value_also_from_a_pickle(digests, between):
    data, places = b"", {}
    for value, digest in digests.items():
        data += between
        places[value] = len(data)
        data += packed(digest)
    found = Digests(data, places)
    for one in (found, pickle.loads(pickle.dumps(found))):
        assert one == digests
        assert list(one) == sorted(digests)
        assert len(one) == len(digests)
        assert 2**30 + 1 not in one
