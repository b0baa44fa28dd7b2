"""A record that was saved and loaded answers all that the trace did."""

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests import invariants, zoo
from tests.storage.keeping import as_plain, changed, members, zipped
from torch import nn

import opscope
from opscope import NotSaved, OptionError, Save, TraceStateError, UnreadableFile
from opscope.storage.forms import kept_as

X = torch.ones(2, 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.opscope"


def steps(given):
    """Run a backward from all that a program gave."""
    found = [t for t in _tensors(given) if t.requires_grad]
    if found:
        sum(tensor.float().sum() for tensor in found).backward()


def _tensors(given):
    if isinstance(given, torch.Tensor):
        return [given]
    items = given.values() if isinstance(given, dict) else given
    inside = (tuple, list, dict, torch.Tensor)
    return [t for item in items if isinstance(item, inside) for t in _tensors(item)]


def training(name, **options):
    program = zoo.build(name, training=True)
    with opscope.trace(program.module, memory=True, saved_for_backward=True, **options) as trace:
        steps(program.run())
    return program, trace


# ----------------------------------------------------------------------- every question

QUESTIONS = {
    "text": str,
    "short text": repr,
    "labels": lambda t: t.layer_labels,
    "layers as text": lambda t: [str(layer) for layer in t],
    "keys": lambda t: [layer.lookup_keys for layer in t],
    "what is saved": lambda t: [(layer.is_saved, layer.has_gradient) for layer in t],
    "summary": lambda t: [str(t.summary(level)) for level in ("op", "layer", "module")],
    "backward": lambda t: str(t.summary("module", phase="backward")),
    "breakdown": lambda t: [str(t.breakdown(by)) for by in ("operator", "line", "module")],
    "digest": lambda t: t.text(),
    "costs": lambda t: (str(t.costs), t.costs.layers, t.costs.modules),
    "totals": lambda t: t.totals,
    "memory": lambda t: str(t.memory),
    "saved for backward": lambda t: str(t.saved_for_backward),
    "picture": lambda t: [t.to_dot(depth=depth).to_string() for depth in (None, 1)],
    "parameters": lambda t: t.parameters,
}
VIEWS = [
    {"level": "op", "phase": "all"},
    {"level": "layer", "rolled": True},
    {"level": "module", "depth": 1},
]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_loaded_record_answers_as_the_trace_did(name, path):
    _, trace = training(name)
    record = opscope.load(trace.save(path))
    assert as_plain(record.recording) == as_plain(trace.recording)
    for question, ask in QUESTIONS.items():
        expected = ask(trace)
        if question == "short text":
            expected = expected.replace("Trace", "Record")
        assert ask(record) == expected, question
    for view in VIEWS:
        first, second = trace.graph(**view), record.graph(**view)
        assert list(second.nodes(data=True)) == list(first.nodes(data=True))
        assert list(second.edges(data=True)) == list(first.edges(data=True))
    invariants.check(record)


@pytest.mark.parametrize("name", zoo.SMALL)
def test_tensors_and_programs_are_those_of_the_trace(name, path):
    program, trace = training(name, gradients="all", replayable=True)
    record = opscope.load(trace.save(path))
    for layer, loaded in zip(trace, record, strict=True):
        assert loaded.has_gradient == layer.has_gradient
        same_tensors(loaded.gradients, layer.gradients)
    assert record.validate() == trace.validate()
    assert record.validate()
    assert record.first_nonfinite() is None
    assert called(record.to_fx()) == called(trace.to_fx())
    again = opscope.load(path, model=program.module)
    assert str(again.to_fx().code) == str(trace.to_fx().code)


def called(program):
    """Return what a program calls; without its model it does not know the names of its inputs."""
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def same_tensors(found, expected):
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same_tensors(*pair)
        return
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_activations_are_those_of_the_trace(path):
    program = zoo.build("gpt2")
    with opscope.trace(program.module, save="all") as trace:
        program.run()
    record = opscope.load(trace.save(path))
    for layer, loaded in zip(trace, record, strict=True):
        same_tensors(loaded.activation, layer.activation)
    assert [str(layer) for layer in record] == [str(layer) for layer in trace]


def test_of_chosen_layers_the_activations_of_these_are_there(path):
    model = zoo.SimpleRecurrent()
    with opscope.trace(model, save=["linear_1:2", "fc"]) as trace:
        model(X)
    record = opscope.load(trace.save(path))
    assert record.layer_labels == trace.layer_labels
    same_tensors(record[record.layer_labels[0]].activation, trace[trace.layer_labels[0]].activation)
    with pytest.raises(
        NotSaved, match="the activation of add_1_2:1 was not saved; trace with save"
    ):
        record["add_1_2:1"].activation  # noqa: B018


def test_a_loaded_record_is_saved_again_and_pickled(path, tmp_path):
    model = zoo.SimpleRecurrent()
    with opscope.trace(model, save="all", replayable=True) as trace:
        model(X)
    record = opscope.load(trace.save(path))
    again = opscope.load(record.save(tmp_path / "again.opscope"))
    assert path.read_bytes() == (tmp_path / "again.opscope").read_bytes()
    assert again.validate()
    twin = pickle.loads(pickle.dumps(record))
    assert as_plain(twin.recording) == as_plain(trace.recording)


# --------------------------------------------------------------------------- with a model


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()


def test_a_program_is_made_of_the_model_that_is_given(model, path):
    with torch.no_grad(), opscope.trace(model) as trace:
        y = model(X)
    trace.save(path)
    with pytest.raises(NotSaved, match=r"the tensor '0.weight' is gone"):
        opscope.load(path).to_fx()
    program = opscope.load(path, model=model).to_fx()
    assert torch.equal(program(X), y)
    assert program.get_parameter("0.weight") is model[0].weight


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(5, 4)), "has no parameter '1.weight', has no parameter '1.bias'"),
        (
            nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
            r"has '0.weight' as float32\[4, 6\], not float32\[4, 5\]",
        ),
        (nn.Sequential(nn.Linear(5, 4).half(), nn.BatchNorm1d(4)), "'0.weight' as float16"),
        (nn.Sequential(), "and 4 more differences"),
        (3, "model: int object"),
    ],
)
def test_another_model_is_refused(model, path, other, message):
    with opscope.trace(model) as trace:
        model(X)
    with pytest.raises(OptionError, match=message):
        opscope.load(trace.save(path), model=other)


def test_where_a_bad_number_came_from_is_known_with_the_model(model, path):
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    with torch.no_grad(), opscope.trace(model, save="all") as trace:
        model(X)
    trace.save(path)
    found = opscope.load(path, model=model).first_nonfinite()
    assert str(found) == str(trace.first_nonfinite())
    assert found.name == "0.weight"
    with pytest.raises(
        NotSaved, match=r"has no parameters; load it with opscope.load\(path, model"
    ):
        opscope.load(path).first_nonfinite()


def test_where_a_bad_number_came_from_is_known_of_a_program_without_parameters(path):
    data = torch.tensor([1.0, float("inf")])
    with opscope.trace(save="all") as trace:
        (torch.log(torch.zeros(2)) - data).sum()
    assert str(opscope.load(trace.save(path)).first_nonfinite()) == str(trace.first_nonfinite())


# ----------------------------------------------------------------------- what cannot be kept


class Wrapped(torch.Tensor):
    """A subclass without a dispatch of its own."""


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.eye(3).to_sparse(), r"it is torch.sparse_coo, not strided"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "it is quantised"),
        (lambda: torch.ones(2, device="meta"), "it is on the device meta, and has no elements"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "it is nested"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning", "ignore:.*quantiz.*")
def test_a_tensor_that_no_file_can_hold_says_why(make, why, path):
    tensor = make()
    with opscope.trace(save="all") as trace:
        tensor.clone()
        torch.ones(2)
    record = opscope.load(trace.save(path))
    with pytest.raises(NotSaved, match=rf"the activation of clone_1_1 is not in .*: {why}"):
        record["clone"].activation  # noqa: B018
    assert "(not in the file)" in str(record["clone"])
    assert torch.equal(record["ones"].activation, torch.ones(2))


def test_a_subclass_comes_back_as_a_plain_tensor(path):
    with opscope.trace(save="all") as trace:
        torch.ones(2).as_subclass(Wrapped) + 1
    found = opscope.load(trace.save(path))["add"].activation
    assert type(trace["add"].activation) is Wrapped
    assert type(found) is torch.Tensor
    assert torch.equal(found, torch.full((2,), 2.0))


@pytest.mark.parametrize(
    "transform", [torch.Tensor.tolist, lambda t: (float(t.sum()), {"n": t.numel()}), lambda _: None]
)
def test_plain_data_that_a_transform_made_is_kept(transform, path):
    with opscope.trace(save=Save("all", transform=transform)) as trace:
        torch.tensor([1.5, -0.0]) + 1
    record = opscope.load(trace.save(path))
    assert record["add"].activation == trace["add"].activation
    assert type(record["add"].activation) is type(trace["add"].activation)
    assert record["add"].is_saved


def test_what_else_a_transform_made_is_not_kept_and_neither_is_what_it_raised(path):
    with opscope.trace(save=Save("all", transform=lambda tensor: {tensor.shape})) as trace:
        torch.ones(2)
    with pytest.raises(NotSaved, match="a set is no tensor, number, text or container of these"):
        opscope.load(trace.save(path))["ones"].activation  # noqa: B018
    with opscope.trace(save=Save("all", transform=lambda tensor: tensor.nope)) as trace:
        torch.ones(2)
    with pytest.raises(NotSaved, match="saving it raised AttributeError"):
        opscope.load(trace.save(path))["ones"].activation  # noqa: B018


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64,
     torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.uint32],
)  # fmt: skip
def test_every_type_of_numbers_is_kept_bit_for_bit(dtype, path):
    bits = torch.arange(2 * 3 * dtype.itemsize, dtype=torch.uint8) % (
        2 if dtype is torch.bool else 251
    )
    with opscope.trace(save="all") as trace:
        bits.view(dtype).view(2, 3).t().clone()
    found, expected = opscope.load(trace.save(path))["clone"].activation, trace["clone"].activation
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (
        found.contiguous().view(torch.uint8).tolist()
        == expected.contiguous().view(torch.uint8).tolist()
    )


def test_tensors_without_elements_or_sizes_are_kept(path):
    with opscope.trace(save="all") as trace:
        torch.ones(0, 3)
        torch.tensor(2.0).neg()
    record = opscope.load(trace.save(path))
    assert record["ones"].activation.shape == (0, 3)
    assert record["neg"].activation.item() == -2


def test_a_view_of_the_conjugate_is_kept_as_what_it_is(path):
    with opscope.trace(save="all") as trace:
        torch.tensor([1 + 2j]).conj()
    assert opscope.load(trace.save(path))["conj"].activation.item() == 1 - 2j


def test_without_tensors_the_record_alone_is_written(path):
    with opscope.trace(save="all", replayable=True) as trace:
        torch.ones(1000)
    record = opscope.load(trace.save(path, tensors=False))
    assert path.stat().st_size < 4000
    with pytest.raises(NotSaved, match="it was not there when the file was written"):
        record["ones"].activation  # noqa: B018
    with pytest.raises(NotSaved, match="replayable=True"):
        record.validate()


def test_a_copy_is_saved_without_tensors(path):
    with opscope.trace(save="all") as trace:
        torch.ones(2)
    record = opscope.load(pickle.loads(pickle.dumps(trace)).save(path))
    assert str(record.summary()) == str(trace.summary())
    with pytest.raises(NotSaved, match="not in"):
        record["ones"].activation  # noqa: B018
    with pytest.raises(NotSaved, match="saved from a copy of a trace"):
        record.to_fx()


# ------------------------------------------------------------------------ traces of all sorts


def failed():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(4, 4))
    trace = opscope.trace(model, save="all")
    with pytest.raises(RuntimeError), trace:
        model(X)
    return trace


def empty():
    with opscope.trace() as trace:
        pass
    return trace


def twice():
    model = zoo.SimpleRecurrent()
    trace = opscope.trace(model, replayable=True)
    for _ in range(2):
        with trace:
            model(X).sum().backward()
    return trace


def bare():
    with opscope.trace(layers=False, replayable=True) as trace:
        torch.ones(2) + 1
    return trace


@pytest.mark.parametrize("make", [failed, empty, twice, bare])
def test_a_trace_of_any_sort_is_kept(make, path):
    trace = make()
    record = opscope.load(trace.save(path))
    assert as_plain(record.recording) == as_plain(trace.recording)
    assert str(record) == str(trace)
    assert record.failure == trace.failure
    if make in (twice, bare):
        assert record.validate() == trace.validate()


def test_a_trace_that_is_open_is_not_saved(path):
    with opscope.trace() as trace, pytest.raises(TraceStateError, match="still being recorded"):
        trace.save(path)
    assert not path.exists()


def test_what_was_digested_is_kept(path):
    from opscope.records.values import Digest

    with opscope.trace() as trace:
        torch.ones(2)
    digests = {0: Digest("0f" * 16, 1.5, float("nan"), -0.0, 2.0, 3, (1.0, float("inf")))}
    record = opscope.Record(dataclasses.replace(trace.recording, digests=digests))
    assert as_plain(opscope.load(record.save(path)).recording.digests) == as_plain(digests)


# -------------------------------------------------------------------------------- places


def test_what_is_much_alike_is_kept_as_it_is_rather_than_refused(path, monkeypatch):
    monkeypatch.setattr("opscope.storage.archive._LEAST", 0)
    monkeypatch.setattr("opscope.storage.archive._TIMES", 1)
    with opscope.trace() as trace:
        for _ in range(300):
            torch.ones(1)
    trace.save(path)
    with zipfile.ZipFile(path) as archive:
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
    assert packed == ["header.json"]
    assert as_plain(opscope.load(path).recording) == as_plain(trace.recording)
    monkeypatch.setattr("opscope.storage.archive._TIMES", 0)
    with pytest.raises(OptionError, match="so much alike that they take no room"):
        trace.save(path)
    assert zipfile.is_zipfile(path)


def test_a_named_pipe_is_written_to(path):
    os.mkfifo(path)
    trace = bare()
    with ThreadPoolExecutor(1) as other:
        content = other.submit(path.read_bytes)
        trace.save(path)
    place = path.with_name("read.opscope")
    place.write_bytes(content.result())
    assert as_plain(opscope.load(place).recording) == as_plain(trace.recording)


@pytest.mark.parametrize(
    "columns",
    [
        {"offset": {"same": 10**6}},
        {"offset": {"same": -1}},
        {"stride": {"same": [-1]}},
        {"stride": {"same": []}},
        {"shape": {"same": [-1]}},
        {"shape": {"same": [2**62, 4]}, "stride": {"same": [0, 0]}},
        {"dtype": {"same": "float64"}},
        {"dtype": {"same": "load"}},
    ],
    ids=str,
)
def test_a_value_outside_of_its_storage_is_refused(columns, path):
    x = torch.ones(4)
    with opscope.trace(replayable=True) as trace:
        x * 2
    content = trace.save(path).read_bytes()
    other = lambda table: table["columns"].update(columns)  # noqa: E731
    path.write_bytes(changed(content, "values.json", other))
    with pytest.raises(UnreadableFile, match="value 0 lies outside of its storage"):
        opscope.load(path).layers[0].activation  # noqa: B018


@pytest.mark.parametrize("name", ["run.zip", "missing/run.opscope", 3])
def test_a_place_that_cannot_be_written_to_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError):
        empty().save(name)


class InBytes:
    """A path that says in bytes where it leads."""

    def __fspath__(self):
        return b"run.opscope"


@pytest.mark.parametrize("name", [".", "none.opscope", "a\0b", 3, b"run.opscope", InBytes()])
def test_what_is_no_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"cannot read|must be a string"):
        opscope.load(name)


def test_a_file_that_is_refused_is_named(path):
    path.write_bytes(b"no zip")
    with pytest.raises(UnreadableFile, match=r"cannot read '.*run.opscope': it is no zip"):
        opscope.load(path)


def test_an_old_file_stays_where_saving_fails(path, monkeypatch):
    trace = bare()
    trace.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("opscope.keeping.files.write_tensors", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_changed_after_it_was_loaded_gives_no_other_tensor(path):
    with opscope.trace(save="all") as trace:
        torch.ones(64)
    record = opscope.load(trace.save(path))
    content = path.read_bytes()
    at = content.index(members(content)["tensors.safetensors"]) + 200
    path.write_bytes(content[:at] + b"\x07" + content[at + 1 :])
    with pytest.raises(
        UnreadableFile, match="was changed: the activation of ones_1_0 has other bytes"
    ):
        record["ones"].activation  # noqa: B018
    path.unlink()
    with pytest.raises(UnreadableFile, match="which has the activation of ones_1_0"):
        record["ones"].activation  # noqa: B018


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known["tensors"]["activation.0"].update(shape=[1]),
        lambda known: known["tensors"]["activation.0"].update(dtype="float64"),
        lambda known: known["tensors"]["activation.0"].update(dtype="load"),
        lambda known: known["tensors"]["activation.0"].update(sha256=3),
        lambda known: known["tensors"]["activation.0"].pop("sha256"),
        lambda known: known["tensors"]["activation.0"].pop("device"),
        lambda known: known["plain"].update({"outside.0": 3}),
        lambda known: known["tensors"].update(other=known["tensors"]["activation.0"]),
        lambda known: known.update(saved=[None]),
        lambda known: known["circumstances"].update(is_model_named=3),
        lambda known: known["circumstances"].update(other=True),
        lambda known: known["circumstances"].update(scaler_sites=["x", None]),
        lambda known: known.pop("plain"),
        *(
            lambda known, name=name: known["missing"].update({name: "gone"})
            for name in (
                "activation",
                "activation.x",
                "activation.\u0661",
                "activation.0.0",
                "other.0",
                "gradient.0",
                "gradient.0.x",
                "gradient.0." + "9" * 5000,
                "generator",
                "draw.0",
                "",
            )
        ),
    ],
)
def test_tensors_that_are_not_as_they_are_described_are_refused(change, path):
    with opscope.trace(save="all") as trace:
        torch.ones(2)
    path.write_bytes(changed(trace.save(path).read_bytes(), "tensors.json", change))
    with pytest.raises(UnreadableFile):
        opscope.load(path)


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [
        ("float32", [0, 10**30], [0, 0]),
        ("float32", [0, 2**62, 4], [0, 0]),
        ("float32", [2], [0.0, 8.0]),
        ("float32", [2], [False, 8]),
        ("quint8", [8], [0, 8]),
    ],
)
def test_tensors_that_torch_cannot_make_are_refused(dtype, shape, offsets, path):
    with opscope.trace(save="all") as trace:
        torch.ones(2)
    found = members(trace.save(path).read_bytes())
    known = json.loads(found["tensors.json"])
    known["tensors"]["activation.0"].update(dtype=dtype, shape=shape)
    found["tensors.json"] = json.dumps(known).encode()
    kind, kept_shape = kept_as(getattr(torch, dtype), shape)
    entry = {"dtype": kind, "shape": kept_shape, "data_offsets": offsets}
    header = json.dumps({"activation.0": entry}).encode()
    data = bytes(offsets[1] and 8)
    found["tensors.safetensors"] = len(header).to_bytes(8, "little") + header + data
    path.write_bytes(zipped(found))
    with pytest.raises(UnreadableFile, match=r"is not as it is described|quint8"):
        opscope.load(path)


@pytest.mark.parametrize("device", ["privateuseone", "fpga", "meta", "cuda:99", "nowhere", None])
def test_a_tensor_of_a_device_that_is_not_here_comes_back_on_the_cpu(device, path):
    with opscope.trace(save="all") as trace:
        torch.ones(2)
    elsewhere = lambda known: known["tensors"]["activation.0"].update(device=device)  # noqa: E731
    path.write_bytes(changed(trace.save(path).read_bytes(), "tensors.json", elsewhere))
    if device is None:
        with pytest.raises(UnreadableFile):
            opscope.load(path)
    else:
        found = opscope.load(path)["ones"].activation
        assert found.device.type == "cpu"
        assert found.tolist() == [1, 1]


# ------------------------------------------------------------------------------- nothing runs


def test_loading_imports_nothing_more_and_runs_nothing(path):
    training("recurrent", replayable=True)[1].save(path)
    code = (
        "import sys, opscope\n"
        f"opscope.load({str(path)!r})  # so that all of opscope and torch is imported that it takes\n"
        "events = []\n"
        "sys.addaudithook(lambda name, args: events.append(name))\n"
        f"record = opscope.load({str(path)!r})\n"
        "print({name for name in events if name.split('.')[0] in "
        "('exec', 'compile', 'pickle', 'marshal', 'subprocess', 'os', 'socket', 'ctypes')})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_code_of_the_room_can_run_what_it_reads():
    room = Path(opscope.__file__).parent / "storage"
    words = re.compile(
        r"\b(pickle|marshal|eval|exec|shelve|__import__|import_module|torch\.load)\b\(?"
    )
    for file in room.rglob("*.py"):
        assert not words.search(file.read_text(encoding="utf-8")), file
