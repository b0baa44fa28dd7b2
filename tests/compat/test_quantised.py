"""Quantised and packed modules are recorded, replayed, and their parameters counted."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
import torch.utils.mkldnn
from torch import nn
from torch.ao import quantization
from torch.ao.nn.quantized import dynamic
from torch.ao.nn.sparse import quantized as sparse_quantized
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import opscope
from opscope.capture.collect.kept.activations import Activations
from opscope.capture.collect.kept.replay_inputs import ReplayInputs
from opscope.operators import packed
from opscope.operators.known import InWords

pytestmark = [  # torch's own, of what it gave up
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ROWS, IMAGES, IDS, STEPS = (
    torch.rand(3, 16), torch.rand(2, 3, 6, 6), torch.randint(0, 10, (2, 4)), torch.rand(5, 2, 4),
)  # fmt: skip


class First(nn.Module):
    """Gives the first of what a recurrent module gives."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        given = self.inner(x)
        return given[0] if isinstance(given, tuple) else given


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.bag = nn.EmbeddingBag(10, 8, mode="sum")

    def forward(self, ids):
        return self.words(ids).sum(1) + self.bag(ids)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = quantization.QuantStub()
        self.first = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 4, 1, bias=False)
        self.sums = torch.ao.nn.quantized.FloatFunctional()
        self.last = nn.Linear(4, 2)
        self.end = quantization.DeQuantStub()

    def forward(self, x):
        x = self.relu(self.first(self.start(x)))
        x = self.sums.add(x, self.second(x)).mean([2, 3])
        return self.end(self.last(x))


class OneDNN(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = torch.utils.mkldnn.to_mkldnn(inner.eval())

    def forward(self, x):
        return self.inner(x.to_mkldnn()).to_dense()


class Own(nn.Module):
    """Packs by itself."""

    def __init__(self):
        super().__init__()
        weight = torch.quantize_per_tensor(torch.rand(4, 16), 0.1, 0, torch.qint8)
        self.mine = torch.ops.quantized.linear_prepack(weight, torch.rand(4))

    def forward(self, x):
        return torch.ops.quantized.linear_dynamic(x, W_prepack=self.mine)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.rand(8, 16))
        self.shift = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return nn.functional.linear(x, self.matrix, self.shift)


class Mine(dynamic.LSTM):
    """A class of a user's own, made of torch's."""


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        weight = torch.quantize_per_tensor(torch.rand(8, 16), 0.1, 0, torch.qint8)
        self.inner = sparse_quantized.dynamic.Linear(16, 8, 1, 4)
        self.inner.set_weight_bias(weight, torch.rand(8), 1, 4)

    def forward(self, x):
        return self.inner(x)


def rows():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def by_dynamics(model, dtype=torch.qint8):
    kinds = {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}
    return quantization.quantize_dynamic(model.eval(), kinds, dtype=dtype)


def static(model, given, config=None, fuse=()):
    model.eval().qconfig = config or quantization.get_default_qconfig("x86")
    if fuse:
        model = quantization.fuse_modules(model, [list(fuse)])
    prepared = quantization.prepare(model)
    prepared(given)
    return quantization.convert(prepared)


def by_graph(model, given):
    prepared = prepare_fx(model.eval(), quantization.get_default_qconfig_mapping("x86"), given)
    prepared(given)
    return convert_fx(prepared)


def of_mine():
    model = by_dynamics(First(nn.LSTM(4, 3, bidirectional=True)))
    model.inner.__class__ = Mine
    return model


def between_stubs(*layers):
    return nn.Sequential(quantization.QuantStub(), *layers, quantization.DeQuantStub())


def loaded(model):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


# What makes the quantised model, its input, and the float model, whose parameters it has.
MODELS = {
    "linear": (lambda: by_dynamics(rows()), ROWS, rows),
    "half precision": (lambda: by_dynamics(rows(), torch.float16), ROWS, rows),
    "without a bias": (lambda: by_dynamics(nn.Sequential(nn.Linear(16, 8, bias=False))), ROWS,
                       lambda: nn.Sequential(nn.Linear(16, 8, bias=False))),
    "LSTM": (lambda: by_dynamics(First(nn.LSTM(4, 3, 2))), STEPS, lambda: First(nn.LSTM(4, 3, 2))),
    "LSTM both ways": (of_mine, STEPS, lambda: First(nn.LSTM(4, 3, bidirectional=True))),
    "LSTM in half": (lambda: by_dynamics(First(nn.LSTM(4, 3)), torch.float16), STEPS,
                     lambda: First(nn.LSTM(4, 3))),
    "GRU": (lambda: by_dynamics(First(nn.GRU(4, 3))), STEPS, lambda: First(nn.GRU(4, 3))),
    "LSTMCell": (lambda: by_dynamics(First(nn.LSTMCell(16, 3))), ROWS,
                 lambda: First(nn.LSTMCell(16, 3))),
    "GRUCell": (lambda: by_dynamics(First(nn.GRUCell(16, 3))), ROWS,
                lambda: First(nn.GRUCell(16, 3))),
    "RNNCell": (lambda: by_dynamics(First(nn.RNNCell(16, 3))), ROWS,
                lambda: First(nn.RNNCell(16, 3))),
    "embeddings": (lambda: static(Tokens(), IDS, quantization.float_qparams_weight_only_qconfig),
                   IDS, Tokens),
    "four bits": (lambda: static(nn.Sequential(nn.EmbeddingBag(10, 8, mode="sum")), IDS,
                                 quantization.float_qparams_weight_only_qconfig_4bit),
                  IDS, lambda: nn.Sequential(nn.EmbeddingBag(10, 8, mode="sum"))),
    "static": (lambda: static(Image(), IMAGES, fuse=("first", "relu")), IMAGES, Image),
    "convolution in groups": (
        lambda: static(between_stubs(nn.Conv1d(4, 8, 3, groups=2)), torch.rand(2, 4, 9)),
        torch.rand(2, 4, 9), lambda: between_stubs(nn.Conv1d(4, 8, 3, groups=2))),
    "norms": (lambda: static(between_stubs(nn.BatchNorm2d(3), nn.GroupNorm(1, 3)), IMAGES),
              IMAGES, lambda: between_stubs(nn.BatchNorm2d(3), nn.GroupNorm(1, 3))),
    "graph mode": (lambda: by_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGES), IMAGES,
                   lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())),
    "scripted": (lambda: torch.jit.script(by_dynamics(rows())), ROWS, rows),
    "traced": (lambda: torch.jit.trace(by_dynamics(rows()), ROWS), ROWS, rows),
    "loaded": (lambda: loaded(static(Image(), IMAGES)), IMAGES, Image),
    "scripted LSTM": (lambda: torch.jit.script(by_dynamics(First(nn.LSTM(4, 3)))), STEPS,
                      lambda: First(nn.LSTM(4, 3))),
    "copied": (lambda: copy.deepcopy(by_dynamics(rows())), ROWS, rows),
    "oneDNN": (lambda: OneDNN(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), IMAGES,
               None),
    "oneDNN linear": (lambda: OneDNN(nn.Sequential(nn.Linear(16, 8), nn.ReLU())), ROWS,
                      None),
    "one's own": (Own, ROWS, None),
    "functional": (lambda: by_graph(Functional(), ROWS), ROWS, None),
}  # fmt: skip
COUNTS = {
    "oneDNN": 4 * 27 + 4 + 8, "oneDNN linear": 16 * 8 + 8, "one's own": 4 * 16 + 4,
    "functional": 8 * 16 + 8,
}  # fmt: skip


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_model_is_replayed_bit_for_bit(name, mode, layers):
    make, given, _ = MODELS[name]
    model = make()
    with mode():
        expected = model(given)
        with opscope.trace(model, layers=layers, replayable=True) as trace:
            found = model(given)
    assert torch.equal(found, expected)
    report = trace.validate()
    assert report, str(report)
    assert report.ops == len(trace.ops)


@pytest.mark.parametrize("name", MODELS)
def test_it_has_the_parameters_of_the_float_model_and_none_is_trained(name):
    make, given, plain = MODELS[name]
    model = make()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(given)
    found = {p.name: p.shape for p in trace.parameters if p.kind == "parameter"}
    if name in COUNTS:
        assert trace.totals.params == COUNTS[name]
    else:
        assert found == {n: tuple(p.shape) for n, p in plain().named_parameters()}
        assert trace.totals.params == sum(p.numel() for p in plain().parameters())
    normed = name == "norms"  # these keep parameters as they were
    assert normed or trace.totals.trainable == 0
    assert len(found) == trace.totals.parameter_tensors


def test_its_bytes_and_types_are_those_of_what_is_there():
    sizes = {}
    for name in ("linear", "half precision", "four bits", "LSTM in half"):
        make, given, _ = MODELS[name]
        model = make()
        with torch.no_grad(), opscope.trace(model) as trace:
            model(given)
        weights = {p.dtype for p in trace.parameters if "weight" in p.name}
        sizes[name] = weights, trace.totals.param_bytes
    assert sizes == {
        "linear": ({"qint8"}, 16 * 8 + 8 * 4 + 8 * 2 + 2 * 4),
        "half precision": ({"float16"}, (16 * 8 + 8 * 2) * 2 + (8 + 2) * 4),
        "four bits": ({"quint4x2"}, 10 * 8 // 2),
        "LSTM in half": ({"float16"}, (12 * 4 + 12 * 3) * 2 + 2 * 12 * 4),
    }


def test_a_row_of_the_table_has_the_parameters_of_its_module():
    model = by_dynamics(rows())
    with torch.no_grad(), opscope.trace(model) as trace:
        model(ROWS)
    text = str(trace.summary())
    assert "136" in text
    assert "154" in text
    assert str(trace)
    assert [str(layer) for layer in trace]


@pytest.mark.parametrize("name", ["linear", "LSTM", "GRUCell", "embeddings", "static", "scripted"])
def test_a_layer_has_the_parameters_that_it_was_given_packed(name):
    make, given, _ = MODELS[name]
    model = make()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(given)
    used = {p.name for layer in trace for p in layer.parameters}
    assert used == {p.name for p in trace.parameters if p.kind == "parameter"}
    assert trace.totals.used_tensors == trace.totals.parameter_tensors
    for layer in trace:
        addresses = {p.name.rpartition(".")[0] for p in layer.parameters}
        assert addresses <= {layer.module} or name == "scripted"  # which runs as one
        assert ("Computed from params" in str(layer)) == bool(addresses)
    graph = trace.graph(level="layer")
    listed = {name for _, node in graph.nodes(data=True) for name, _ in node["parameters"]}
    assert used <= listed


def test_packed_parameters_that_are_used_at_two_places_make_one_layer():
    model = by_dynamics(rows())
    with torch.no_grad(), opscope.trace(model) as trace:
        model[0](ROWS)
        model[0](ROWS)
        model[0](ROWS + 1)
    assert trace["lineardynamic_1_1:1"].passes == 3


def test_one_that_has_two_names_is_counted_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = by_dynamics(nn.Sequential(nn.Linear(16, 16)))
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    model = Twice()
    with torch.no_grad(), opscope.trace(model) as trace:
        model(ROWS)
    assert {p.name: p.aliases for p in trace.parameters} == {
        "a.0.weight": ("b.0.weight",), "a.0.bias": ("b.0.bias",),
    }  # fmt: skip
    assert trace.totals.params == 16 * 16 + 16


@pytest.mark.parametrize("engine", torch.backends.quantized.supported_engines)
def test_each_engine_replays_and_says_what_it_packed(engine):
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        models = [(by_dynamics(rows()), ROWS), (static(Image(), IMAGES), IMAGES)]
        models += [(Sparse(), ROWS)] if engine == "qnnpack" else []
        counts = []
        for model, given in models:
            with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
                model(given)
            assert trace.validate(), str(trace.validate())
            counts.append(trace.totals.params)
    finally:
        torch.backends.quantized.engine = before
    assert counts[0] == 154
    # QNNPACK gives the one without a bias one of zeros.
    assert counts[1] in {138, 142}
    assert counts[2:] in ([], [16 * 8 + 8])


# ------------------------------------------------------------- what is looked at, and kept


def test_what_is_packed_is_looked_into_only_when_the_record_is_read(monkeypatch):
    looked = []
    original = packed._contents
    monkeypatch.setattr(packed, "_contents", lambda held: (looked.append(1), original(held))[1])
    model = by_dynamics(rows())
    with torch.no_grad(), opscope.trace(model, save="all") as trace:
        model(ROWS)
    assert not looked
    assert trace.totals.params == trace.totals.params == 154
    assert len(looked) == 2


def test_a_model_that_is_gone_before_the_record_is_read_was_counted():
    model = by_dynamics(First(nn.LSTM(4, 3)))
    live = weakref.ref(model)
    with torch.no_grad(), opscope.trace(model) as trace, opscope.trace(layers=False) as other:
        model(STEPS)
        del model
        gc.collect()
        assert live() is None
    assert trace.totals.params == sum(p.numel() for p in nn.LSTM(4, 3).parameters())
    assert all(op.name != "empty" for op in other.ops)  # looking is no part of the program


def test_what_is_packed_is_let_go_of_with_the_trace():
    model = by_dynamics(rows())
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad(), opscope.trace(model) as trace:
            model(ROWS)
        live = [
            weakref.ref(one)
            for one in trace._block.session.tables.parameters._packed[id(model[0]._packed_params)][
                1
            ]
        ]
        assert [one() for one in live] != [None]
        del trace
        assert [one() for one in live] == [None]
    finally:
        gc.enable()


def test_no_object_is_kept_alive_unless_it_is_to_be_replayed():
    weight = torch.quantize_per_tensor(torch.rand(4, 16), 0.1, 0, torch.qint8)
    for replayable in (False, True):
        with opscope.trace(replayable=replayable) as trace:
            held = torch.ops.quantized.linear_prepack(weight, None)
            torch.ops.quantized.linear_dynamic(ROWS, held)
            torch.ops.quantized.linear_dynamic(X=ROWS, W_prepack=held)
        kept = [item for op in trace.ops for _, item in op.arguments]
        assert not any(isinstance(item, torch.ScriptObject) for item in kept)
        names = [item for item in kept if isinstance(item, InWords)]
        assert names == ["LinearPackedParamsBase"] * 2
        replay_inputs = trace._block.session.find(ReplayInputs)
        assert (replay_inputs is not None and len(replay_inputs.objects) == 2) is replayable


@pytest.mark.parametrize("name", ["linear", "LSTM", "embeddings", "static"])
def test_a_record_can_be_sent_and_read_elsewhere(name):
    """Whatever objects its ops took, alone or in lists."""
    make, given, _ = MODELS[name]
    model = make()
    with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
        model(given)
    again = pickle.loads(pickle.dumps(trace))
    assert again.recording == trace.recording
    assert again.totals == trace.totals
    words = [item for op in again.ops for _, item in op.arguments]
    flat = [w for item in words for w in (item if isinstance(item, list) else [item])]
    assert any(isinstance(item, InWords) for item in flat)


def test_what_was_not_kept_is_refused_by_its_name():
    from opscope.analysis.replay import replay

    model = by_dynamics(rows())
    with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
        model(ROWS)
    replay_inputs = trace._block.session.find(ReplayInputs)
    replay_inputs.objects.clear()
    report = replay(trace.recording, replay_inputs, trace._block.session.find(Activations).get, {})
    assert not report
    assert "takes a LinearPackedParamsBase, an object of C++ that was not kept" in str(report)
