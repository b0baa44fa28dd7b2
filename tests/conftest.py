"""Fixtures for all rooms."""

import gc
import sys

import pytest
import torch
from tests import witness

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Start each test from the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


_frozen = {"modules": 0}  # so many of Python's


@pytest.fixture(autouse=True)
def libraries_are_not_collected():
    """Have the garbage collector pass over what was imported: many tests ask for all of it."""
    yield
    if len(sys.modules) > _frozen["modules"] + 100:
        gc.collect()
        gc.freeze()
        _frozen["modules"] = len(sys.modules)


@pytest.fixture(autouse=True)
def nothing_stays_on():
    """Fail a test that leaves a mode or a global module hook behind."""
    yield
    left = {name: count for name, count in witness.watchers().items() if count}
    witness.remove_watchers()
    assert not left


@pytest.fixture(params=[True, False], ids=["layers", "ops only"])
def layers(request):
    """Whether torch functions are recorded too."""
    return request.param
