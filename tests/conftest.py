"""Fixtures for all rooms."""

import pytest
import torch
from tests import witness

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Start each test from the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


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
