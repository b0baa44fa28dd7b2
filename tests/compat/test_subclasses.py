"""Tensors of a class of the user's own stay what they are, and nobody hears that they are watched."""

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import opscope

X = torch.rand(3, 4)


class Plain(torch.Tensor):
    """Leaves every function what it is, and keeps its class."""


class Heard(torch.Tensor):
    """Writes down what it is asked, and hands a label on."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        HEARD.append(str(func))
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, cls):
            found.label = next((a.label for a in args if hasattr(a, "label")), None)
        return found


class Silent(torch.Tensor):
    """Has torch functions pass it by: what they give is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl


HEARD = []


def given(kind):
    x = X.clone().as_subclass(kind)
    x.label = "mine"
    HEARD.clear()
    return x


CLASSES = [Plain, Heard]
OPTIONS = [{}, {"detach": False}, {"dtype": torch.float64}, {"device": "cpu"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_saved_has_the_class_that_the_program_has(kind, options):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Identity())
    x = given(kind)
    with opscope.trace(model, save=opscope.Save(**options)) as trace:
        y = model(x)
    assert type(y) is kind
    assert [type(layer.activation) for layer in trace] == [kind] * len(trace)
    expected = y.detach().as_subclass(torch.Tensor).to(options.get("dtype"))
    assert torch.equal(trace[-1].activation.as_subclass(torch.Tensor), expected)
    assert all(str(layer) for layer in trace)


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_set_on_it_is_on_what_is_saved(kind):
    x = given(kind)
    with opscope.trace(save="all") as trace:
        y = x.sin()
        y.label = "sine"  # later than the call: the value of that moment had none
        z = y.cos()
        z.label = "cosine"
        z.tan()
    assert getattr(trace["cos"].activation, "label", None) != "cosine"
    model = nn.Identity()
    with opscope.trace(model, save="all") as trace:
        model(x)
    assert trace["input"].activation.label == "mine"


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_copy_that_is_made_before_a_write_keeps_the_class(kind, detach):
    x = given(kind)
    with opscope.trace(save=opscope.Save("all", detach=detach)) as trace:
        y = x * 2
        y.add_(1)
        y[0] = 0
    saved = trace["mul"].activation
    assert type(saved) is kind
    assert torch.equal(saved.as_subclass(torch.Tensor), X * 2)
    assert type(trace["add"].activation) is kind


@pytest.mark.parametrize("kind", CLASSES)
def test_a_buffer_is_saved_in_its_class(kind):
    model = nn.BatchNorm1d(4)
    model.running_mean = model.running_mean.as_subclass(kind)
    with opscope.trace(model, save="all") as trace:
        model(X)
        model.running_mean.clone()
    assert type(model.running_mean) is kind
    assert type(trace["clone"].activation) is kind


def test_of_a_class_that_functions_pass_by_the_activation_is_what_the_program_has():
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 3))
    with opscope.trace(model, save="all") as trace:
        y = model(given(Silent))
    assert type(y) is torch.Tensor
    assert type(trace["input"].activation) is Silent
    assert type(trace["linear"].activation) is torch.Tensor


def test_a_parameter_is_saved_as_a_plain_tensor():
    class Weight(nn.Parameter):
        pass

    class Gives(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self):
            return self.weight

    for weight in (nn.Parameter(X.clone()), Weight(X.clone())):
        model = Gives(weight)
        with opscope.trace(model, save="all") as trace:
            model()
        assert type(trace["output"].activation) is torch.Tensor
        assert not trace["output"].activation.requires_grad


def test_a_wrapper_is_saved_as_one_with_values_of_its_own():
    with opscope.trace(save="all") as trace:
        y = TwoTensor(X.clone(), X + 1).mul(2)
        y.add_(1)
    saved = trace["mul"].activation
    assert type(saved) is TwoTensor
    assert torch.equal(saved.a, X * 2)
    assert torch.equal(saved.b, (X + 1) * 2)


def test_a_gradient_keeps_the_class_that_it_comes_in():
    x = TwoTensor(X.clone(), X + 1).requires_grad_()
    y = X.clone().requires_grad_()
    with opscope.trace(gradients="all") as trace:
        x.sin().sum().backward()
        y.cos().backward(torch.ones(3, 4).as_subclass(Plain))
    assert type(trace["sin"].gradient) is TwoTensor
    arrived = []
    z = y.cos()
    z.register_hook(lambda g: arrived.append(type(g)))
    z.backward(torch.ones(3, 4).as_subclass(Plain))
    assert [type(trace["cos"].gradient)] == arrived


@pytest.mark.parametrize("kind", [*CLASSES, Silent])
def test_a_record_of_them_is_replayed(kind):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))
    x = given(kind)
    with torch.no_grad(), opscope.trace(model, replayable=True) as trace:
        model(x).mul_(2)
    HEARD.clear()
    report = trace.validate()
    assert report, str(report)
    assert report.compared == 4
    assert not HEARD


# --------------------------------------------------------------------- what is heard


def in_place():
    return given(Heard).mul_(2).add_(1)


def several():
    return torch.max(given(Heard), 1)


def model_in_training():
    model = nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.Dropout())
    x = given(Heard)
    model(x).sum().backward()


def parameter():
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.rand(4, 4).as_subclass(Heard))
    HEARD.clear()
    model(X).sum().backward()


def buffer():
    model = nn.BatchNorm1d(4)
    model.running_mean = model.running_mean.as_subclass(Heard)
    HEARD.clear()
    model(X)


def other_data():
    x = given(Heard)
    x.data = torch.rand(2)
    return x.mul_(2)


PROGRAMS = [in_place, several, model_in_training, parameter, buffer, other_data,
            lambda: X.as_subclass(Heard), lambda: given(Heard).contiguous().split(1),
            lambda: given(Heard).shape, lambda: given(Heard).__setitem__(0, 1.0)]  # fmt: skip
WATCHING = [{}, {"layers": False}, {"save": "all"}, {"save": opscope.Save(detach=False)},
            {"save": "all", "layers": False}, {"replayable": True}, {"gradients": "all"},
            {"saved_for_backward": True}, {"stop_on_nonfinite": True}]  # fmt: skip


@pytest.mark.parametrize("options", WATCHING, ids=str)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_class_hears_what_it_hears_outside_and_nothing_when_the_trace_is_read(program, options):
    HEARD.clear()
    program()
    alone = list(HEARD)
    HEARD.clear()
    with opscope.trace(**options) as trace:
        program()
    assert alone == HEARD
    HEARD.clear()
    assert all(map(str, (trace, trace.summary(), *trace)))
    if "replayable" in options:
        trace.validate()
        trace.first_nonfinite()
    assert not HEARD
