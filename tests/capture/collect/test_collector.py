"""Collectors of the user's: what they hear, and that they harm neither program nor record."""

import gc
import weakref

import pytest
import torch
from tests import zoo
from torch import nn

import opscope
from opscope import CollectorError, OptionError
from opscope.capture.collect.collector import InnerCollector
from opscope.capture.log.hooks import Hooks
from opscope.demo import ResNet18

X = torch.ones(2, 5)


class Everything:
    """Takes down all that it hears of."""

    def __init__(self):
        self.heard = []

    def start(self):
        self.heard.append("start")

    def resume(self):
        self.heard.append("resume")

    def before_op(self, op):
        assert op.result is None
        self.heard.append(("before", op.name))

    def after_op(self, op):
        self.heard.append(("after", op.name))

    def returned(self, call):
        self.heard.append((call.kind, call.name))

    def stop(self):
        self.heard.append("stop")

    def result(self):
        return self.heard


class Half:
    """Has just one method."""

    def __init__(self, moment, act, *, stops=False):
        self.stops = stops
        self.calls = 0

        def method(self, *given):
            self.calls += 1
            return act(*given)

        self.__class__ = type("Half", (), {moment: method})


def test_a_collector_hears_of_ops_and_calls_in_order(layers):
    one = Everything()
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    with torch.no_grad(), opscope.trace(model, layers=layers, collectors=[one]) as trace:
        model(X)
    calls = [[("function", "linear")], [("function", "relu")]] if layers else [[], []]
    assert trace.collected == (one.heard,)
    ops = [name for kind, name in (e for e in one.heard if len(e) == 2) if kind == "after"]
    assert ops == [op.operator for op in trace.ops]
    without_before = [e for e in one.heard if e[0] != "before"]
    assert without_before == [
        "start",
        *[("after", op.operator) for op in trace.ops if op.name in ("t", "addmm")],
        *calls[0], ("module", "0"),
        ("after", "aten.relu.default"), *calls[1], ("module", "1"), ("module", ""),
        "stop",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [zoo.SimpleRecurrent, ResNet18], ids=["recurrent", "resnet"])
def test_it_hears_of_each_op_of_a_real_model_once(make, layers):
    model = make().eval()
    x = X if make is zoo.SimpleRecurrent else torch.rand(1, 3, 64, 64)
    one = Everything()
    with (
        torch.no_grad(),
        opscope.trace(model, layers=layers, save="all", collectors=[one]) as trace,
    ):
        model(x)
    after = [name for kind, name in (e for e in one.heard if len(e) == 2) if kind == "after"]
    assert after == [op.operator for op in trace.ops]
    modules = [e[1] for e in one.heard if e[0] == "module"]
    assert sorted(modules) == sorted(
        trace.modules[call.module].address for call in trace.recording.module_calls
    )


def test_a_block_that_is_entered_again_is_resumed():
    one = Everything()
    trace = opscope.trace(collectors=[one])
    for _ in range(2):
        with trace:
            torch.relu(X)
    assert [e for e in one.heard if isinstance(e, str)] == ["start", "stop", "resume", "stop"]


def test_ops_of_a_backward_are_heard_of_too():
    one = Everything()
    x = torch.ones(3, requires_grad=True)
    with opscope.trace(collectors=[one]) as trace:
        x.sin().sum().backward()
    after = [e[1] for e in one.heard if e[0] == "after"]
    assert after == [op.operator for op in trace.ops]
    assert "aten.cos.default" in after


def test_arguments_have_their_names_and_results_are_there():
    found = {}

    def look(op):
        found[op.name] = dict(op.arguments()), op.result, [t.shape for t in op.written()]

    with opscope.trace(collectors=[Half("after_op", look)]):
        y = torch.add(X, X, alpha=2)
        y.mul_(3)
    named, result, written = found["aten.add.Tensor"]
    assert named["self"] is X
    assert named["alpha"] == 2
    assert result is y
    assert written == []
    assert found["aten.mul_.Tensor"][2] == [X.shape]


# -------------------------------------------------------------------- watching changes nothing


@pytest.mark.parametrize("moment", ["before_op", "after_op", "returned"])
def test_what_it_runs_is_neither_recorded_nor_felt(moment, layers):
    def act(_):
        torch.rand(3)
        torch.set_grad_enabled(False)
        nn.Linear(2, 2)(torch.ones(1, 2))
        opscope.trace().__enter__().__exit__(None, None, None)

    model = nn.Sequential(nn.Linear(5, 5), nn.Dropout())
    torch.manual_seed(1)
    plain = model(X)
    after = torch.rand(2)
    torch.manual_seed(1)
    with opscope.trace(model, layers=layers, collectors=[Half(moment, act)]) as trace:
        y = model(X)
        assert torch.is_grad_enabled()
        z = torch.rand(2)
    assert torch.equal(y, plain)
    assert torch.equal(z, after)
    with opscope.trace(model, layers=layers) as bare:
        model(X)
        torch.rand(2)
    assert [op.operator for op in trace.ops] == [op.operator for op in bare.ops]


def test_a_trace_inside_a_collector_records_what_the_collector_runs():
    inner = []

    def act(op):
        with opscope.trace() as trace:
            torch.sin(op.result)
        inner.append([op.operator for op in trace.ops])

    with opscope.trace(collectors=[Half("after_op", act)]) as trace:
        torch.relu(X)
    assert inner == [["aten.sin.default"]]
    assert [op.operator for op in trace.ops] == ["aten.relu.default"]


@pytest.mark.parametrize("moment", ["start", "before_op", "after_op", "returned", "stop", "resume"])
def test_one_that_raises_is_called_no_more_and_says_so(moment, layers):
    def act(*_):
        raise ZeroDivisionError("by nought")

    one, other = Half(moment, act), Everything()
    trace = opscope.trace(layers=layers, save="all", collectors=[one, other])
    for _ in range(2):
        with trace:
            torch.relu(X).neg()
            nn.ReLU()(X)
    assert len(trace.ops) == 6
    assert torch.equal(trace["neg_1"].activation, -torch.relu(X))
    assert one.calls == 1
    with pytest.raises(CollectorError) as error:
        _ = trace.collected
    assert str(error.value).startswith(
        f"the collector Half is called no more: {moment} raised ZeroDivisionError: by nought (at "
    )
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert other.heard[-1] == "stop"


@pytest.mark.parametrize("moment", ["before_op", "after_op"])
def test_one_that_wants_to_stops_the_program_at_the_op(moment, layers):
    def act(op):
        if op.name == "aten.neg.default":
            raise ValueError("enough")

    trace = opscope.trace(layers=layers, collectors=[Half(moment, act, stops=True)])
    refused = pytest.raises(CollectorError, match=r"Half is called no more: .* ValueError: enough")
    with refused, trace:
        torch.relu(X).neg().exp()
    names = [op.operator for op in trace.ops]
    assert names == ["aten.relu.default", "aten.neg.default"][: 1 + (moment == "after_op")]
    assert trace.failure.exception == "CollectorError"
    if moment == "after_op":
        assert trace.ops[trace.failure.op].operator == "aten.neg.default"


@pytest.mark.parametrize("kind", ["function", "module"])
def test_one_can_stop_the_program_as_a_call_returns(kind, layers):
    def act(call):
        if call.kind == kind:
            raise ValueError("enough")

    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    one = Half("returned", act, stops=True)
    heard = layers or kind == "module"
    try:
        with opscope.trace(model, layers=layers, collectors=[one]) as trace:
            model(X)
    except CollectorError:
        assert heard
        assert len(trace.ops) == 1
        assert trace.failure.exception == "CollectorError"
    else:
        assert not heard
        assert len(trace.ops) == 2


def test_an_interrupt_inside_of_it_is_the_users():
    def act(_):
        raise KeyboardInterrupt

    trace = opscope.trace(collectors=[Half("after_op", act)])
    with pytest.raises(KeyboardInterrupt), trace:
        torch.relu(X)
    assert len(trace.ops) == 1


def test_it_keeps_no_trace_alive():
    trace = opscope.trace(collectors=[Everything()], save="all", gradients="all", replayable=True)
    with trace:
        torch.relu(X)
    known = weakref.ref(trace)
    gc.disable()
    try:
        del trace
        assert known() is None
    finally:
        gc.enable()


# -------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("wrong", [Everything, [Everything], [object()], [3], "all", {1}, None])
def test_what_is_no_list_of_collectors_is_refused(wrong):
    with pytest.raises(OptionError, match=r"^collectors: "):
        opscope.trace(collectors=wrong)


def test_what_a_collector_has_no_method_for_costs_nothing():
    class Quiet(InnerCollector):
        def before_write(self, tensors):
            """Listen."""

    hooks = Hooks.of([Quiet(), InnerCollector()])
    assert [len(getattr(hooks, moment)) for moment in ("before_write", "before_op", "called")] == [
        1, 0, 0,
    ]  # fmt: skip


def test_a_class_that_inherits_from_the_protocol_hears_what_it_overrides():
    class Count(opscope.Collector):
        count = 0

        def after_op(self, op):
            self.count += 1

        def result(self):
            return self.count

    with opscope.trace(collectors=[Count(), Count()]) as trace:
        torch.relu(X)
    assert trace.collected == (1, 1)
    assert trace._block.session.tables.hooks.before_op == ()
