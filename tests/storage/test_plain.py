"""Plain data as JSON: nothing but what it stands for comes back, and nothing is run."""

import json

import pytest

from opscope.records.containers import Container, TensorAt
from opscope.storage.plain import decode, encode


def test_a_container_is_kept_with_its_keys():
    kept = Container("named tuple", "Pair", ("a", (1, None)), (TensorAt(3), {"b": [range(2)]}))
    assert decode(json.loads(json.dumps(encode(kept)))) == kept


@pytest.mark.parametrize(
    "found",
    [
        {"call": "os.system"},
        {"tuple": 3},
        {"torch": "load"},
        {"torch": "nn"},
        {"device": "no such device"},
        {"int": "0xg"},
        {"float": "12"},
        {"complex": [1.0]},
        {"tensor": -1},
        {"bytes": "0"},
        {"tuple": [], "dict": []},
        {},
        {"container": "heap", "class": "", "keys": [], "items": []},
        {"container": "list", "class": "", "keys": [0], "items": []},
        {"container": "list"},
        {"dict": [[[], 1]]},
    ],
)
def test_what_stands_for_nothing_is_refused(found):
    with pytest.raises((ValueError, TypeError, LookupError, RuntimeError)):
        decode(found)
