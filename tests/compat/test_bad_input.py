"""Wrong uses of the public API: each says what is right, before anything ran."""

import os
import sys
import types

import pytest
import torch
from tests import witness
from torch import nn

import opscope
from opscope import (
    AmbiguousLayer,
    LayerNotFound,
    NotSaved,
    OpscopeError,
    OptionError,
    TraceStateError,
)
from opscope.cli import main

X = torch.ones(1, 2)


class Watched(nn.Module):
    """Counts how often it ran."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.ran = 0

    def forward(self, x):
        self.ran += 1
        return self.part(x)


@pytest.fixture
def model():
    return Watched()


@pytest.fixture(scope="module")
def trace():
    with opscope.trace(model := Watched()) as trace:
        model(X)
    trace.model = model
    return trace


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run each in a folder of its own, in which it must leave nothing."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.listdir(tmp_path)  # noqa: PTH208 (names only)


MODEL = "must be a torch.nn.Module"
FLAG = "(must be True or False)"
SAVE = "(must be 'all', 'none', None or a list"
KEY = "is no key (a key is a label, an address or a position)"
DEVICE = "(must be a device that is there, such as 'cpu', or None)"
DEPTH = "(must be None, for all levels, or a whole number from 1)"
LEVEL = "(must be one of 'op', 'layer', 'module')"
ADDRESSES = "(must be addresses of modules, a function from an address to a bool, or None)"
COLUMNS = "(must be a list of names such as ['name', 'output'], or one of"
COLUMN = "(must be one of 'name', 'type', 'module', 'op', 'input', 'output', 'params',"
LIMIT = "(must be None, for all, or a whole number from 1)"
PATH = "(must be a string or a pathlib.Path)"
SUFFIX = "(the name must end in one of .dot, .gv, .svg, .png, .pdf)"
VIEW = "(must be one of 'rolled', 'module', 'collapse', 'expand', 'inputs', 'outputs',"
ASK = "a layer is asked for by a string or a whole number"

STARTING = {
    "a number as the model": ((3,), {}, MODEL),
    "a function as the model": ((torch.sin,), {}, "call it inside `with opscope.trace():`"),
    "a class as the model": ((nn.ReLU,), {}, MODEL),
    "a name as the model": (("resnet18",), {}, MODEL),
    "a list of models": (([nn.ReLU()],), {}, MODEL),
    "layers as a number": ((), {"layers": 1}, FLAG),
    "layers as a list": ((), {"layers": ["relu"]}, FLAG),
    "replayable as a word": ((), {"replayable": "yes"}, FLAG),
    "save as a label": ((), {"save": "relu_1"}, SAVE),
    "save in capitals": ((), {"save": "ALL"}, SAVE),
    "save as True": ((), {"save": True}, SAVE),
    "save as a function": ((), {"save": lambda layer: True}, SAVE),
    "save as a generator": ((), {"save": (key for key in ["relu"])}, SAVE),
    "save as a set": ((), {"save": {"relu"}}, SAVE),
    "save as bytes": ((), {"save": b"all"}, SAVE),
    "a tensor to save": ((), {"save": [torch.ones(1)]}, KEY),
    "a module to save": ((), {"save": [nn.ReLU()]}, KEY),
    "an empty key to save": ((), {"save": ["relu", ""]}, KEY),
    "replayable and cast": (
        (),
        {"replayable": True, "save": opscope.Save(dtype=torch.half)},
        "no device, dtype or transform",
    ),
}


@pytest.mark.parametrize(("args", "options", "right"), STARTING.values(), ids=STARTING)
def test_a_trace_that_cannot_be_is_refused(args, options, right):
    with witness.untouched(), pytest.raises(OptionError) as caught:
        opscope.trace(*args, **options)
    assert right in str(caught.value)


FORMS = {
    "detach as None": ({"detach": None}, FLAG),
    "a device that there is not": ({"device": "gpu"}, DEVICE),
    "a device number below 0": ({"device": -1}, DEVICE),
    "a device of another machine": ({"device": "cuda:999"}, DEVICE),
    "a list of devices": ({"device": ["cpu"]}, DEVICE),
    "the name of a dtype": ({"dtype": "float16"}, "(must be a torch.dtype such as"),
    "a type as a dtype": ({"dtype": float}, "(must be a torch.dtype such as"),
    "a transform by name": ({"transform": "clone"}, "(must be a function of a tensor, or"),
    "a key that is none": ({"what": [1.5]}, KEY),
    "a label by itself": ({"what": "relu"}, SAVE),
    "copy as a number": ({"copy": 0}, FLAG),
}


@pytest.mark.parametrize(("fields", "right"), FORMS.values(), ids=FORMS)
def test_a_form_in_which_nothing_can_be_saved_is_refused(fields, right):
    with pytest.raises(OptionError) as caught:
        opscope.Save(**fields)
    assert right in str(caught.value)


READING = {
    "no such level": (lambda t: t.graph("modul"), LEVEL),
    "a level as a number": (lambda t: t.graph(2), LEVEL),
    "a level as a list": (lambda t: t.summary(["op"]), LEVEL),
    "no level": (lambda t: t.to_dot(None), LEVEL),
    "a depth of 0": (lambda t: t.graph(depth=0), DEPTH),
    "a depth below 0": (lambda t: t.to_dot(depth=-1), DEPTH),
    "half a level": (lambda t: t.summary(depth=1.5), DEPTH),
    "a depth as a word": (lambda t: t.graph(depth="all"), DEPTH),
    "rolled as a word": (lambda t: t.graph(rolled="yes"), FLAG),
    "inputs as a number": (lambda t: t.graph(inputs=2), FLAG),
    "outputs as None": (lambda t: t.to_dot(outputs=None), FLAG),
    "buffers as a list": (lambda t: t.to_dot(buffers=[]), FLAG),
    "a module that is not there": (lambda t: t.graph(module="prt"), "nearest addresses: 'part'"),
    "a module itself": (lambda t: t.graph(module=t.model), "(must be the address of a module"),
    "a module by number": (lambda t: t.graph(module=0), "(must be the address of a module"),
    "nothing to collapse": (lambda t: t.graph(collapse=["prt"]), "nearest addresses: 'part'"),
    "a number to collapse": (lambda t: t.graph(collapse=3), ADDRESSES),
    "numbers to expand": (lambda t: t.graph(expand=[3]), ADDRESSES),
    "a module to expand": (lambda t: t.to_dot(expand=[t.model]), ADDRESSES),
    "an option that is none": (lambda t: t.to_dot(colour="red"), VIEW),
    "a direction of Graphviz": (lambda t: t.to_dot(direction="LR"), "'down', 'up', 'right', "),
    "a column": (lambda t: t.summary(columns="name"), COLUMNS),
    "no column": (lambda t: t.summary(columns=[]), COLUMNS),
    "a number of columns": (lambda t: t.summary(columns=3), COLUMNS),
    "an unknown column": (lambda t: t.summary(columns=["name", "flips"]), COLUMN),
    "a column by number": (lambda t: t.summary(columns=[0]), COLUMN),
    "sorted by what there is not": (lambda t: t.summary(sort_by="flips"), COLUMN),
    "sorted by a number": (lambda t: t.summary(sort_by=-1), COLUMN),
    "no rows": (lambda t: t.summary(row_limit=0), LIMIT),
    "rows below 0": (lambda t: t.summary(row_limit=-3), LIMIT),
    "rows as a word": (lambda t: t.summary(row_limit="10"), LIMIT),
    "rows as True": (lambda t: t.summary(row_limit=True), LIMIT),
    "a path as None": (lambda t: t.draw(None), PATH),
    "a path as a number": (lambda t: t.draw(1), PATH),
    "a path as bytes": (lambda t: t.draw(b"x.dot"), PATH),
    "a path without a suffix": (lambda t: t.draw("picture"), SUFFIX),
    "an empty path": (lambda t: t.draw(""), SUFFIX),
    "a suffix that there is not": (lambda t: t.draw("x.jpeg"), SUFFIX),
    "a folder that there is not": (lambda t: t.draw("no/x.dot"), "the folder 'no' does not exist"),
    "a file as a folder": (lambda t: t.draw(f"{__file__}/x.dot"), "Not a directory"),
    "a name that is too long": (lambda t: t.draw("x" * 300 + ".dot"), "name too long"),
    "a name with a zero": (lambda t: t.draw("x\0.dot"), "embedded null"),
    "a place without files": (lambda t: t.draw("/proc/x.dot"), "cannot write '/proc/x.dot'"),
    "a layer as a key": (lambda t: t[t.layers[0]], ASK),
    "a slice": (lambda t: t[1:3], ASK),
    "None as a key": (lambda t: t[None], ASK),
}


@pytest.mark.parametrize(("call", "right"), READING.values(), ids=READING)
def test_a_view_that_cannot_be_is_refused(trace, call, right):
    with witness.untouched(), pytest.raises(OptionError) as caught:
        call(trace)
    assert right in str(caught.value)


STATES = {
    "a label that there is not": (lambda t: t["relu_7"], LayerNotFound, "'relu_1'"),
    "a position too far": (lambda t: t[99], LayerNotFound, "there are 5, from -5 to 4"),
    "a label of two layers": (lambda t: t["linear"], AmbiguousLayer, "'linear_1_1', 'linear_2_3'"),
    "an activation that was not saved": (
        lambda t: t["relu_1"].activation, NotSaved, "trace with save='all' or save=['relu_1_2']",
    ),
    "validated without copies": (
        lambda t: t.validate(), NotSaved, "opscope.trace(..., replayable=True)",
    ),
    "left twice": (
        lambda t: t.__exit__(None, None, None), TraceStateError, "not being recorded",
    ),
    "read before it was entered": (
        lambda t: opscope.trace().ops, TraceStateError, "read it after `with opscope.trace(",
    ),
    "left before it was entered": (
        lambda t: opscope.trace().__exit__(None, None, None), TraceStateError, "after it was",
    ),
    "a program of two runs": (
        lambda t: twice().to_fx(), TraceStateError, "to_fx needs a trace of one call",
    ),
}  # fmt: skip


def twice():
    model = nn.ReLU()
    with opscope.trace(model) as trace:
        model(model(X))
    return trace


@pytest.mark.parametrize(("call", "kind", "right"), STATES.values(), ids=STATES)
def test_what_the_trace_does_not_have_is_refused(trace, call, kind, right):
    with witness.untouched(), pytest.raises(kind) as caught:
        call(trace)
    assert right in str(caught.value)
    assert isinstance(caught.value, OpscopeError)


LOGGING = {
    "a function": ({"model": torch.sin}, MODEL),
    "no model": ({"model": None}, MODEL),
    "a list of named inputs": ({"input_kwargs": [X]}, "(must be a dictionary)"),
    "a numbered named input": ({"input_kwargs": {1: X}}, "is a string, not 1"),
    "inputs by number": ({"input_args": {0: X}}, "is a string, not 0"),
    "a picture as True": ({"vis_opt": True}, "(must be one of 'none', 'rolled', 'unrolled')"),
    "a depth of 0": ({"vis_nesting_depth": 0}, DEPTH),
    "a direction of Graphviz": ({"vis_direction": "TB"}, "'down', 'up', 'right', 'left'"),
    "a path as a number": ({"vis_opt": "rolled", "vis_outpath": 3}, PATH),
    "a suffix that there is not": ({"vis_opt": "rolled", "vis_outpath": "x.gif"}, SUFFIX),
    "a path that is too long": ({"vis_opt": "rolled", "vis_outpath": "x" * 300 + ".dot"}, "long"),
    "a label to save": ({"layers_to_save": "linear"}, SAVE),
    "a tensor to save": ({"layers_to_save": [X]}, KEY),
}


@pytest.mark.parametrize(("options", "right"), LOGGING.values(), ids=LOGGING)
def test_a_pass_that_cannot_be_logged_is_refused_before_the_model_runs(model, options, right):
    call = {"model": model, "input_args": X, **options}
    with witness.untouched(model), pytest.raises(OptionError) as caught:
        opscope.log_forward_pass(**call)
    assert right in str(caught.value)
    assert model.ran == 0


RAN = []


class Noted(nn.ReLU):
    """Is what the command line would run."""

    def forward(self, x):
        RAN.append(x)
        return super().forward(x)


COMMANDS = {
    "a depth of 0": (("summary", "--depth", "0"), "depth: 0"),
    "an unknown column": (("summary", "--columns", "name,flips"), "unknown column: 'flips'"),
    "no column": (("summary", "--columns", ""), "unknown column: ''"),
    "sorted by what there is not": (("summary", "--sort-by", "flips"), "unknown sort_by: 'flips'"),
    "no rows": (("summary", "--row-limit", "0"), "row_limit: 0"),
    "a table of one letter": (("summary", "--width", "1"), "--width: 1"),
    "a depth below 0": (("draw", "-o", "x.dot", "--depth", "-1"), "depth: -1"),
    "a suffix that there is not": (("draw", "-o", "x.gif"), SUFFIX),
    "a folder that there is not": (("draw", "-o", "no/x.dot"), "does not exist"),
    "a demo of one letter": (("demo", "-o", "x.dot", "--width", "1"), "--width: 1"),
}


@pytest.mark.parametrize(("command", "right"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_cannot_be_carried_out_is_refused_before_the_model_runs(
    command, right, capsys, monkeypatch
):
    monkeypatch.setattr("opscope.demo.ResNet18", Noted)
    name, *options = command
    target = () if name == "demo" else (f"{__name__}:Noted", "--input", "1x2")
    monkeypatch.setitem(sys.modules, __name__, types.SimpleNamespace(Noted=Noted))
    assert main([name, *target, *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("opscope: error: ")
    assert right in shown.err
    assert not RAN


def test_there_are_enough_wrong_uses_in_these_tables():
    tables = (STARTING, FORMS, READING, STATES, LOGGING, COMMANDS)
    assert sum(map(len, tables)) >= 100


@pytest.mark.parametrize("program", [lambda: 1 / 0, lambda: torch.ones(2) @ torch.ones(3)])
def test_a_wrong_program_is_no_wrong_use(program):
    with pytest.raises((ZeroDivisionError, RuntimeError)) as caught, opscope.trace():
        program()
    assert not isinstance(caught.value, OpscopeError)
