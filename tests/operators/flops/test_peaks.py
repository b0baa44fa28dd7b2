"""What a device does at most is measured as it is, and nothing of it is recorded."""

import pytest
import torch

import opscope
from opscope.errors import OptionError
from opscope.operators.flops import peaks


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(peaks, "_SIDE", 64)
    monkeypatch.setattr(peaks, "_BYTES", 1 << 16)


def test_both_are_rates_that_a_machine_can_have():
    found = opscope.measure_peaks()

    assert 1e6 < found.peak_flops < 1e16
    assert 1e6 < found.bandwidth < 1e14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_type_that_computes_is_measured(dtype):
    assert opscope.measure_peaks("cpu", dtype).peak_flops > 0


def test_nothing_of_it_is_recorded_and_the_modes_stay_as_they_are():
    with opscope.trace() as trace:
        opscope.measure_peaks()
        y = torch.ones(2).requires_grad_() * 2
    assert [op.name for op in trace.ops] == ["ones", "mul"]
    assert y.requires_grad


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("meta", torch.float32, "'cpu'"),
        ("cpu", torch.int64, "bfloat16"),
        ("cpu", "float32", "bfloat16"),
        ("nowhere", torch.float32, "'cpu'"),
        (torch.device("cuda", 99), torch.float32, "'cpu'"),
        ("privateuseone", torch.float32, "'cpu'"),
        ("cpu", torch.float4_e2m1fn_x2, "float4_e2m1fn_x2"),
    ],
)
def test_what_cannot_be_measured_is_refused(device, dtype, message):
    with pytest.raises(OptionError, match=message):
        opscope.measure_peaks(device, dtype)


def test_what_takes_long_is_done_once(monkeypatch):
    rounds = []
    monkeypatch.setattr(peaks, "_SECONDS", 0)

    peaks._quickest(lambda: rounds.append(1), torch.device("cpu"))

    assert len(rounds) == 1
