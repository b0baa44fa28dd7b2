"""What is asked of a fingerprint at the front desk."""

import copy
import pickle

import pytest
import torch
from torch import nn

import opscope
from opscope.errors import OptionError, ProgramChanged


def traced(program):
    with opscope.trace() as trace:
        program()
    return trace


def test_a_copy_of_the_record_has_that_of_the_trace():
    trace = traced(lambda: torch.relu(torch.ones(2)))
    for level in ("layer", "op"):
        assert opscope.fingerprint(copy.copy(trace), level) == opscope.fingerprint(trace, level)


def test_arguments_are_told_where_that_is_asked_for():
    one, two = (traced(lambda eps=eps: torch.layer_norm(torch.ones(4), [4], eps=eps))
                for eps in (1e-5, 1e-3))  # fmt: skip
    everything = ["shapes", "dtypes", "parameters", "arguments"]
    assert opscope.fingerprint(one) == opscope.fingerprint(two)
    assert opscope.fingerprint(one, include=everything) != opscope.fingerprint(
        two, include=everything
    )


def test_what_is_included_matters_and_its_order_does_not():
    trace = traced(lambda: torch.ones(2))
    hashes = {opscope.fingerprint(trace, include=parts) for parts in ([], ["shapes"], ["dtypes"])}
    assert len(hashes) == 3
    assert opscope.fingerprint(trace, include=["dtypes", "shapes"]) == opscope.fingerprint(
        trace, include=("shapes", "dtypes", "shapes")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"level": "module"}, "unknown level: 'module'.*'layer', 'op'"),
        ({"include": ["weights"]}, "unknown part to include: 'weights'.*'shapes', 'dtypes'"),
        ({"include": "shapes"}, "include: 'shapes' .must be None, or a list"),
    ],
)
def test_what_there_is_not_is_refused(arguments, said):
    with pytest.raises(OptionError, match=said):
        opscope.fingerprint(traced(lambda: torch.ones(2)), **arguments)
    with pytest.raises(OptionError, match="record: int object"):
        opscope.fingerprint(3)


def net(activation=nn.ReLU, width=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, width), activation(), nn.Linear(width, 2))
    with torch.no_grad(), opscope.trace(model) as trace:
        model(torch.ones(1, 2))
    return trace


@pytest.fixture
def golden(tmp_path, monkeypatch):
    monkeypatch.delenv("OPSCOPE_UPDATE", raising=False)
    path = tmp_path / "golden.opscope"
    opscope.assert_same(net(), path, update=True)
    return path


def test_the_same_program_passes_whatever_its_weights(golden):
    torch.manual_seed(7)
    opscope.assert_same(net(), golden)
    opscope.assert_same(opscope.load(golden), golden)
    opscope.assert_same(net(), str(golden), "op")


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (lambda: net(nn.GELU), "relu → gelu"),
        (lambda: net(width=4), "linear"),
        (lambda: net(nn.Identity), "relu"),
    ],
)
def test_another_fails_and_says_in_what(golden, trace, message):
    with pytest.raises(ProgramChanged, match="golden") as raised:
        opscope.assert_same(trace(), golden)

    assert isinstance(raised.value, AssertionError)
    assert message in raised.value.difference
    assert message in str(raised.value)
    assert "OPSCOPE_UPDATE=1" in str(raised.value).splitlines()[0]
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_the_level_and_what_is_included_decide(golden):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad(), opscope.trace(model) as larger:
        model(torch.ones(5, 2))

    with pytest.raises(ProgramChanged):
        opscope.assert_same(larger, golden)
    opscope.assert_same(larger, golden, include=["parameters", "dtypes"])


def test_a_file_is_renewed_where_that_is_asked_for_and_only_then(golden, monkeypatch):
    before = golden.read_bytes()
    with pytest.raises(ProgramChanged):
        opscope.assert_same(net(nn.GELU), golden, update=False)
    opscope.assert_same(net(), golden, update=True)
    assert golden.read_bytes() == before  # as it is still of this structure

    monkeypatch.setenv("OPSCOPE_UPDATE", "1")
    with pytest.raises(ProgramChanged):
        opscope.assert_same(net(nn.GELU), golden, update=False)
    opscope.assert_same(net(nn.GELU), golden)
    monkeypatch.delenv("OPSCOPE_UPDATE")
    opscope.assert_same(net(nn.GELU), golden)


def test_a_file_that_is_not_there_is_made_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSCOPE_UPDATE", "0")
    path = tmp_path / "new.opscope"
    with pytest.raises(OptionError, match="OPSCOPE_UPDATE=1"):
        opscope.assert_same(net(), path)
    assert not path.exists()
    opscope.assert_same(net(), path, update=True)
    opscope.assert_same(net(), path)


def test_no_tensor_is_in_it(tmp_path):
    model = nn.Linear(100, 100)
    with opscope.trace(model, save="all", replayable=True) as trace:
        model(torch.ones(1, 100))
    opscope.assert_same(trace, tmp_path / "golden.opscope", update=True)
    assert (tmp_path / "golden.opscope").stat().st_size < 20_000


@pytest.mark.parametrize("update", ["yes", 1])
def test_whether_to_renew_is_a_bool(golden, update):
    with pytest.raises(OptionError, match="update"):
        opscope.assert_same(net(), golden, update=update)


def test_what_is_wired_otherwise_is_told_from_it(tmp_path):
    a, b = torch.ones(2), torch.zeros(2)
    with opscope.trace() as one:
        (a + 1) - (b * 2)
    with opscope.trace() as two:
        x = a + 1
        (b * 2) - x
    opscope.assert_same(one, tmp_path / "golden.opscope", update=True)
    with pytest.raises(ProgramChanged) as raised:
        opscope.assert_same(two, tmp_path / "golden.opscope")
    assert raised.value.difference
