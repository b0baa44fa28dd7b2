"""Looking at the numbers of tensors, and at where they lie."""

import pytest
import torch
from torch import nn

from opscope.capture.collect.nonfinite.looking import describe, kinds_of, lying, measured, unseen
from opscope.records.flow.origins import Kinds

NAN, INF = float("nan"), float("inf")
KINDS = {
    "good": ([0.0, 1.0], Kinds()),
    "nan": ([NAN, 1.0], Kinds(nan=True)),
    "inf": ([-INF, 1.0], Kinds(inf=True)),
    "both": ([NAN, INF], Kinds(nan=True, inf=True)),
}
FORMS = {
    "float64": torch.Tensor.double,
    "float16": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "complex": lambda t: t.to(torch.complex64),
    "sparse": torch.Tensor.to_sparse,
    "parameter": nn.Parameter,
    "expanded": lambda t: t.expand(3, 2),
    "a view": lambda t: torch.stack([t, t])[1],
    "needs a gradient": lambda t: t.clone().requires_grad_(),
    "inference": lambda t: torch.inference_mode()(t.clone)(),
    "jagged": lambda t: torch.nested.nested_tensor([t, t[:1]], layout=torch.jagged),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("numbers", "kinds"), KINDS.values(), ids=KINDS)
def test_kinds_are_found_in_every_form(form, numbers, kinds):
    tensor = form(torch.tensor(numbers))
    assert kinds_of(tensor) == kinds
    assert measured(tensor)[1] == kinds


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_small_floats_are_looked_at_in_full(dtype):
    assert kinds_of(torch.tensor([NAN, 1.0]).to(dtype)) == Kinds(nan=True)
    assert kinds_of(torch.tensor([0.5, 1.0]).to(dtype)) == Kinds()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, device="meta"), torch.ones(2, dtype=torch.int64), torch.ones(0),
        torch.full((4,), 3e38), torch.full((4096,), 60.0, dtype=torch.float16), torch.tensor(True),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_bad_is_said_of_what_holds_nothing_bad(tensor):
    assert kinds_of(tensor) == Kinds()
    assert measured(tensor)[1] == Kinds()


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.tensor([-1.5, 2.0]), "float32[2] from -1.5 to 2"),
        (torch.tensor([[NAN, 1.0, -INF]]), "float32[1, 3] from -inf to 1, 1 NaN"),
        (torch.full((2,), NAN), "float32[2], 2 NaN"),
        (torch.zeros(0, 3), "float32[0, 3]"),
        (torch.ones(2, dtype=torch.complex64), "complex64[2]"),
        (torch.tensor([1, 5]), "int64[2] from 1 to 5"),
        (torch.ones(2, device="meta"), "float32[2]"),
        (torch.ones(2).to_sparse(), "float32[2]"),
    ],
)
def test_a_tensor_is_described_by_type_sizes_range_and_how_many_are_nan(tensor, text):
    assert describe(tensor) == text


def test_looking_makes_no_node_and_is_seen_by_no_mode():
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.tensor([NAN], requires_grad=True)
    with Mode():
        before = torch.autograd._get_sequence_nr()
        kinds_of(x)
        describe(x)
        lying(x)
        assert torch.autograd._get_sequence_nr() == before
    assert not seen


def test_tensors_lie_in_their_storage_and_others_are_their_own_memory():
    x = torch.zeros(4)
    (whole, how), (part, _) = lying(x), lying(x[2:])
    assert whole.memory == part.memory
    assert whole.covers(part)
    assert not part.covers(whole)
    sparse = x.to_sparse()
    found = lying(sparse), lying(sparse)  # held: their numbers are ids
    one, other = (extent for extent, _ in found)
    assert one == other
    assert one.memory != whole.memory
    with unseen():
        assert how.tensor().data_ptr() == x.data_ptr()
        assert lying(sparse)[1].tensor() is sparse


def test_memory_that_was_freed_or_made_smaller_is_not_looked_at():
    x = torch.zeros(4)
    _, how = lying(x)
    x.untyped_storage().resize_(0)
    with unseen():
        assert how.tensor() is None
        del x
        assert how.tensor() is None
