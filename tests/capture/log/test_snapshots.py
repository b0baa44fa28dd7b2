"""What is known of a tensor at one moment, and where it lies."""

import weakref

import pytest
import torch
from torch import nn

from opscope.capture.log.snapshots import storage_of, storage_ref, take_snapshot


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3),
        lambda: nn.Parameter(torch.ones(3)),
        lambda: torch.ones(3).to_sparse(),
        lambda: torch.ones(3).as_subclass(type("Own", (torch.Tensor,), {})),
    ],
    ids=["tensor", "parameter", "sparse", "subclass"],
)
def test_there_is_one_weak_reference_to_a_tensor(make):
    tensor = make()
    assert weakref.ref(tensor) is weakref.ref(tensor)
    assert take_snapshot(tensor)[0] is weakref.ref(tensor)


def test_it_is_the_same_after_only_autograd_held_the_tensor():
    x = torch.ones(3, requires_grad=True) * 1
    live = weakref.ref(x)
    y = x * x
    storage = weakref.ref(x.untyped_storage())
    del x
    saved = y.grad_fn._saved_self
    assert weakref.ref(saved.untyped_storage()) is storage
    assert weakref.ref(saved) is live


def test_views_of_a_tensor_lie_in_its_storage():
    x = torch.ones(4)
    assert storage_of(x[1:]) is storage_of(x) is x.untyped_storage()
    assert storage_ref(x[1:]) is storage_ref(x) is take_snapshot(x)[1]
    assert storage_ref(x) is not storage_ref(x.clone())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3).to_sparse(),
        lambda: torch.ones(2, 3).to_mkldnn(),
        lambda: nn.LazyLinear(2).weight,
    ],
    ids=["sparse", "oneDNN", "uninitialised"],
)
def test_some_tensors_have_no_storage_of_their_own(make):
    tensor = make()
    assert storage_of(tensor) is storage_ref(tensor) is take_snapshot(tensor)[1] is None
