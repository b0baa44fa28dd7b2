"""What a tensor in a file may be."""

import pytest
import torch

from opscope.storage.forms import dtype_named, is_described, is_name, is_shape, kept_as


@pytest.mark.parametrize(
    "name", ["activation.0", "gradient.12.3", "outside.4", "generator.cuda:0", "draw.7.cpu"]
)
def test_what_is_kept_has_a_name(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "activation", "activation.-1", "activation.x", "gradient.1", "draw.cpu", "other.1"]
)
def test_nothing_is_kept_under_another_name(name):
    assert not is_name(name)


@pytest.mark.parametrize("shape", [None, 3, [1.0], [True], [-1], [2**63], [0, 2**62, 4]])
def test_no_tensor_has_sizes_that_torch_cannot_count(shape):
    assert not is_shape(shape)


@pytest.mark.parametrize("name", ["quint8", "strided", "load", "", 3])
def test_what_is_no_type_of_plain_elements_is_refused(name):
    with pytest.raises((LookupError, TypeError)):
        dtype_named(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float8_e8m0fnu], ids=str)
def test_a_description_holds_for_its_own_size_alone(dtype):
    name = str(dtype).removeprefix("torch.")
    kind, shape = kept_as(dtype, [2, 3])
    entry = {"dtype": kind, "shape": shape, "data_offsets": [8, 8 + 6 * dtype.itemsize]}
    described = {"dtype": name, "shape": [2, 3], "device": "cpu", "sha256": "00"}
    assert is_described(entry, described)
    assert not is_described(entry | {"data_offsets": [8, 9]}, described)
    assert not is_described(entry, described | {"shape": [3, 2]})
