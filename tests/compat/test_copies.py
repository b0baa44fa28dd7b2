"""Models and traces are copied and pickled, inside a trace, after it, and the trace itself."""

import copy
import dataclasses
import gc
import io
import pickle
import re
import weakref

import pytest
import torch
from tests import invariants, witness, zoo
from torch import nn

import opscope
from opscope import NotSaved, TraceStateError

X = torch.ones(1, 5)


def saved_and_loaded(thing):
    file = io.BytesIO()
    # Below protocol 4, which torch.save takes by default, no torch.memory_format is pickled.
    torch.save(thing, file, pickle_protocol=4)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved_and_loaded,
}
copies = pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)


@pytest.fixture
def model():
    return zoo.SimpleRecurrent()


# ------------------------------------------------------------------------------- models


@copies
def test_a_model_that_is_copied_inside_a_trace_computes_the_same(model, made, layers):
    before = witness.state_of(model)
    with opscope.trace(model, layers=layers, save="all"):
        model(X)
        twin = made(model)
        model(X)
    assert witness.state_of(model) == before
    assert torch.equal(twin(X), model(X))
    assert [*vars(twin)] == [*vars(model)]
    assert [vars(parameter) for parameter in twin.parameters()] == [{}, {}]


@copies
def test_a_copy_that_runs_inside_the_trace_is_a_module_of_its_own(model, made, layers):
    with opscope.trace(model, layers=layers) as trace:
        model(X)
        made(model)(X)
    addresses = [module.address for module in trace.modules]
    assert addresses[:3] == ["", "fc", "SimpleRecurrent"]
    called = [call[0] for call in witness.recorded_calls(trace)]
    inner = "fc" if made is copy.copy else "SimpleRecurrent.fc"  # a shallow copy shares its parts
    assert called == ["", *["fc"] * 4, "SimpleRecurrent", *[inner] * 4]


@copies
def test_a_model_that_is_copied_after_a_trace_is_as_it_was(model, made):
    with opscope.trace(model, save="all") as trace:
        model(X)
    twin = made(model)
    assert torch.equal(twin(X), model(X))
    with opscope.trace(twin) as again:
        twin(X)
    assert again.layer_labels == trace.layer_labels


def test_weights_that_are_loaded_inside_a_trace_keep_their_names(model, layers):
    state = {name: value + 1 for name, value in model.state_dict().items()}
    with torch.no_grad(), opscope.trace(model, layers=layers) as trace:
        model.load_state_dict(state)
        model(X)
    used = [layer for layer in trace.layers if layer.type in ("linear", "addmm")]
    assert {p.name for layer in used for p in layer.parameters} >= {"fc.bias"}
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_the_result_of_a_traced_run_holds_nothing_of_the_trace(model, layers):
    with opscope.trace(model, layers=layers, save="all"):
        y = model(X)
    assert vars(y) == {}
    assert torch.equal(copy.deepcopy(y.detach()), y)


# ------------------------------------------------------------------------------- traces


@pytest.fixture(scope="module")
def trace():
    model = zoo.SimpleRecurrent()
    with opscope.trace(model, save="all", replayable=True) as trace:
        model(X).sum().backward()
    return trace


@copies
def test_a_copied_trace_has_the_whole_record(trace, made):
    twin = made(trace)
    assert twin.recording == trace.recording
    assert twin.layer_labels == trace.layer_labels
    assert twin["linear_1:2"].parents == (twin[twin["linear_1:2"].index - 1],)
    assert str(twin.summary()) == str(trace.summary())
    assert twin.to_dot().to_string() == trace.to_dot().to_string()
    assert type(twin) is opscope.Record
    assert repr(twin) == repr(trace).replace("Trace", "Record")
    invariants.check(twin)


@copies
def test_a_copied_trace_has_no_tensors_and_says_so(trace, made):
    twin = made(trace)
    for ask in (lambda: twin["linear_1:1"].activation, twin.validate, twin.to_fx):
        with pytest.raises(NotSaved, match="pickled or copied, which takes the record and no "):
            ask()
    assert "(values stayed with the original trace)" in str(twin["linear_1:1"])


def chosen():
    model = zoo.SimpleRecurrent()
    with opscope.trace(model, save=["linear_1:2", "fc"], gradients=["add_1"]) as trace:
        model(X).sum().backward()
    return trace


def differentiated():
    program = zoo.build("gpt2", training=True)
    with opscope.trace(program.module, save="all", gradients="all") as trace:
        loss = program.run()["logits"].mean()
    loss.backward()
    return trace


def kept():
    program = zoo.build("resnet18", training=True)
    with opscope.trace(program.module, saved_for_backward=True, replayable=True) as trace:
        program.run().sum().backward()
    return trace


def failed():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(4, 4))
    trace = opscope.trace(model, save="all", gradients="all")
    with pytest.raises(RuntimeError), trace:
        model(X)
    return trace


def bare():
    with opscope.trace(gradients="all", save=[0, -1]) as trace:
        x = torch.ones(2, requires_grad=True)
        y = torch.zeros(2, 2)
        y[0] = x * 2
        y.sum().backward()
    return trace


# A copy says that it has no values where the original shows some.
VALUES = re.compile(r"\n        .*?(?=\n    Params)", re.DOTALL)
QUESTIONS = {
    "labels": lambda t: t.layer_labels,
    "text": str,
    "layers as text": lambda t: [VALUES.sub("", str(layer)) for layer in t],
    "what is saved": lambda t: [layer.is_saved for layer in t],
    "what a gradient reached": lambda t: [layer.has_gradient for layer in t],
    "parents": lambda t: [[p.label for p in layer.parents] for layer in t],
    "backward ops": lambda t: [layer.backward_ops for layer in t],
    "keys": lambda t: [layer.lookup_keys for layer in t],
    "the table": lambda t: str(t.summary(phase="all")),
    "edges": lambda t: list(t.graph("layer", phase="all").edges(data=True)),
    "the picture": lambda t: t.to_dot().to_string(),
    "what autograd keeps": lambda t: str(t.saved_for_backward),
    "failure": lambda t: t.failure,
    "totals": lambda t: t.totals,
    "activations": lambda t: [layer.activation for layer in t],
    "gradients": lambda t: [layer.gradient for layer in t],
    "all gradients": lambda t: [layer.gradients for layer in t],
    "the first bad number": lambda t: t.first_nonfinite(),
    "validation": lambda t: t.validate(),
}


def answer(question, trace):
    try:
        return question(trace)
    except NotSaved:
        return NotSaved


@pytest.mark.parametrize("record", [chosen, differentiated, kept, failed, bare])
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_copy_answers_as_the_original_or_says_that_it_cannot(record, question):
    trace = record()
    for twin in (copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        found = answer(question, twin)
        assert found is NotSaved or found == answer(question, trace)
        again = answer(question, copy.copy(twin))
        assert (again is NotSaved) == (found is NotSaved)
        assert found is NotSaved or again == found


@copies
def test_a_copied_trace_cannot_be_entered(trace, made):
    with pytest.raises((TypeError, AttributeError)), made(trace):
        raise AssertionError


@pytest.mark.parametrize("made", [copy.deepcopy, COPIES["pickle"]])
def test_a_copied_layer_brings_its_trace(trace, made):
    twin = made(trace["linear_1:2"])
    assert str(twin.record) == str(trace["linear_1:2"].record)
    assert [child.label for child in twin.children] == ["add_1_2:2"]


@copies
def test_a_trace_that_is_still_recording_cannot_be_copied(made):
    unfinished = opscope.trace()
    with pytest.raises(TraceStateError, match="never entered"):
        made(unfinished)
    with unfinished, pytest.raises(TraceStateError, match="still being recorded"):
        made(unfinished)


PARTS = {
    "recording": lambda t: t.recording,
    "passes": lambda t: t.passes,
    "totals": lambda t: t.totals,
    "an op": lambda t: t.ops[0],
    "the modules": lambda t: t.modules,
}


@copies
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_the_parts_of_a_record_are_plain_data(trace, part, made):
    assert made(part(trace)) == part(trace)


def test_a_graph_can_be_pickled(trace):
    graph = trace.graph("layer")
    twin = pickle.loads(pickle.dumps(graph))
    assert list(twin.nodes(data=True)) == list(graph.nodes(data=True))
    assert list(twin.edges) == list(graph.edges)


def test_a_pickled_trace_is_read_where_no_model_is():
    """It holds neither classes nor functions of the program that was traced."""

    class Local(nn.Module):
        def forward(self, x):
            return torch.dropout(x, 0.5, train=True)

    model = Local()
    with opscope.trace(model) as trace:
        model(X)
    data = pickle.dumps(trace)
    del model, trace
    assert pickle.loads(data).layer_labels == ["input_1_0", "dropout_1_1", "output_1_2"]


def test_a_record_with_a_generator_of_its_own_can_be_pickled():
    with opscope.trace() as trace:
        torch.rand(2, generator=torch.Generator().manual_seed(3))
    assert [op.name for op in pickle.loads(pickle.dumps(trace)).ops] == ["rand"]


def test_records_are_frozen(trace):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.ops[0].operator = "other"


# ------------------------------------------------------------------- tensors swapped


def test_a_tensor_in_a_trace_cannot_be_swapped_until_the_trace_is_let_go_of(model):
    """Torch refuses to swap what a weak reference leads to, which is how tensors are known."""
    weight, other = model.fc.weight, nn.Parameter(torch.zeros(5, 5))
    with opscope.trace(model) as trace:
        model(X)
        with pytest.raises(RuntimeError, match="weakref associated"):
            torch.utils.swap_tensors(weight, other)
    with pytest.raises(RuntimeError, match="weakref associated"):
        torch.utils.swap_tensors(weight, other)
    assert trace.layer_labels
    del trace
    torch.utils.swap_tensors(weight, other)
    assert weight is model.fc.weight
    assert not weight.any()


def test_a_model_that_is_let_go_of_can_still_be_read_about(layers):
    model = zoo.SimpleRecurrent()
    with opscope.trace(model, layers=layers) as trace:
        model(X)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert "fc" in str(trace.summary())
    assert trace.graph().number_of_nodes()
    assert [parameter.name for parameter in trace.parameters] == ["fc.weight", "fc.bias"]
