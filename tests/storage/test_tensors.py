"""Tensors are written in the format of safetensors, as its library reads and writes it."""

import io

import pytest
import torch
from tests.storage.keeping import members

import opscope
from opscope.errors import NotSaved
from opscope.storage.archive import ArchiveReader, ArchiveWriter
from opscope.storage.recordings import member_names
from opscope.storage.tensors import DESCRIBED, MEMBER, NotThere, StoredTensors, write_tensors

KEPT = {
    "activation.0": torch.arange(6.0).view(2, 3).t(),
    "activation.1": torch.tensor(True),
    "activation.2": torch.empty(0, 2, dtype=torch.bfloat16),
    "activation.3": torch.tensor([1 + 2j, -0.0j]),
    "gradient.3.0": torch.ones(2).expand(4, 2),
    "storage.1": torch.tensor([1, 2], dtype=torch.int16).untyped_storage(),
    "draw.12.cuda:0": torch.arange(5, dtype=torch.uint8),
    "activation.4": (1, [2.5, None]),
    "activation.5": {object()},
    "activation.6": NotThere("it is gone"),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.opscope"
    with path.open("wb") as stream, ArchiveWriter(stream) as archive:
        write_tensors(archive, KEPT.items(), saved="all")
        archive.finish()
    return path


@pytest.fixture
def stored(file):
    with file.open("rb") as stream:
        return StoredTensors(ArchiveReader(stream, member_names() | {MEMBER, DESCRIBED}), file)


def test_each_is_what_it_was(stored):
    for name, tensor in KEPT.items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(stored.get(name, "it"), tensor)
            assert stored.get(name, "it").dtype == tensor.dtype
    assert stored.get("storage.1", "it").view(torch.int16).tolist() == [1, 2]
    assert stored.get("activation.4", "it") == (1, [2.5, None])
    assert stored.known["saved"] == "all"


def test_what_is_not_there_says_why(stored):
    with pytest.raises(NotSaved, match=r"the value is not in '.*': it is gone"):
        stored.get("activation.6", "the value")
    with pytest.raises(NotSaved, match="a set is no tensor"):
        stored.get("activation.5", "the value")
    with pytest.raises(NotSaved, match="it was not there when the file was written"):
        stored.get("activation.9", "the value")


def test_names_are_read_as_what_they_are_of(stored):
    assert stored.numbers("gradient") == [("3", "0")]
    assert stored.numbers("draw") == [("12", "cuda:0")]
    assert {int(number) for (number,) in stored.numbers("activation")} == set(range(7))


def test_the_library_reads_what_was_written(file):
    library = pytest.importorskip("safetensors.torch")
    found = library.load(members(file.read_bytes())[MEMBER])
    assert torch.equal(found["activation.0"], KEPT["activation.0"])
    assert torch.equal(torch.view_as_complex(found["activation.3"]), KEPT["activation.3"])
    assert found["activation.2"].dtype == torch.bfloat16
    assert set(found) == {name for name in KEPT if name not in
                          ("activation.4", "activation.5", "activation.6")}  # fmt: skip


def test_a_tensor_is_read_alone(file, stored, monkeypatch):
    read = []
    monkeypatch.setattr("opscope.storage.tensors.bytearray", lambda data: read.append(len(data)) or
                        bytearray(data), raising=False)  # fmt: skip
    stored.get("activation.0", "it")
    assert read == [24]


def test_tensors_are_saved_inside_of_another_trace_without_being_recorded(tmp_path):
    with opscope.trace(save="all") as first:
        torch.ones(3)
    with opscope.trace() as second:
        record = opscope.load(first.save(tmp_path / "run.opscope"))
        assert record["ones"].activation.tolist() == [1, 1, 1]
    assert len(second.ops) == 0


def test_a_file_of_nothing_has_no_tensors():
    file = io.BytesIO()
    with ArchiveWriter(file) as archive:
        write_tensors(archive, ())
        archive.finish()
    assert set(members(file.getvalue())) == {"header.json", DESCRIBED}
