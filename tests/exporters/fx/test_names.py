"""Names of arguments and attributes are those of the model where a program can have them."""

import ast
import copy
import pickle
import random
import string
import sys
import threading
import types

import pytest
import torch
from tests.exporters.fx.compare import check_same, record
from torch import fx, nn

import opscope
from opscope.exporters.fx.names import Attributes, add_placeholders, argument_names

# ------------------------------------------------------------------------------ arguments


class Weighted(nn.Module):
    """Takes any number of tensors by any names, and gives a sum that tells them apart."""

    def forward(self, **given):
        return sum((place + 1) * tensor for place, tensor in enumerate(given.values()))


def named(names):
    return {name: torch.rand(3) for name in names}


TOGETHER = {
    "a name of torch": ["torch", "device", "inf", "nan", "pytree"],
    "self": ["self_", "x", "getattr", "slice"],
    "built in": ["input", "len", "type", "id", "print"],
    "built in, and what they are renamed to": ["input_1", "input", "input_2"],
    "lower and upper case": ["X", "x", "aB", "a_b"],
    "what Python normalises": ["ﬁ", "fi", "ⅳ", "iv"],
    "other alphabets": ["größe", "gr__e", "вход", "输入", "_"],
    "keywords": ["class", "None", "lambda", "class_"],
    "no names": ["a b", "a-b", "a.b", "1", "", "²", "2x"],
    "what the program's own names are like": ["mul", "add", "check_input", "set_grad_mode"],
    "what ops are called": ["mul_tensor", "add_tensor", "getitem", "_constant_0"],
    "code": ["x): import os #", "x=print(1)", "*args", "x\n    raise", "x: int", "x, y"],
    "long": ["x" * 10_000, "x" * 9_999 + "y"],
    "dunder": ["__class__", "__init__", "__x"],
    "decorators": ["restores_grad_mode", "opscope_program_check_input", "forward"],
}


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_arguments_of_any_names_are_told_apart(names):
    model = Weighted()
    given = named(names)
    program = record(model, **given).to_fx()
    new = named(names)
    placeholders = [node.target for node in program.graph.nodes if node.op == "placeholder"]

    assert torch.equal(program(*new.values()), model(**new))
    assert torch.equal(program(**dict(zip(placeholders, new.values(), strict=True))), model(**new))
    assert torch.equal(fx.Interpreter(program).run(*new.values()), model(**new))
    assert torch.equal(pickle.loads(pickle.dumps(program))(*new.values()), model(**new))


def test_an_argument_keeps_the_name_that_it_has_if_it_can():
    kept = ["input", "x", "X", "größe", "type", "_x"]
    program = record(Weighted(), **named(kept)).to_fx()

    assert [node.target for node in program.graph.nodes if node.op == "placeholder"] == kept


@pytest.mark.parametrize("seed", range(30))
def test_no_name_of_an_argument_is_more_than_one(seed):
    draw = random.Random(seed)
    alphabet = "xX1_ .,*\"'\\\n#éﬁ²:=()🔥\u202e" + draw.choice(string.ascii_letters)
    texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 6))) for _ in range(8)]
    keys = [(text,) for text in dict.fromkeys(texts)]
    names = [name for _, name in argument_names(keys, [])]
    graph = fx.Graph()
    nodes = add_placeholders(graph, names)
    graph.output(tuple(nodes))
    program = fx.GraphModule({}, graph)
    (tree,) = ast.parse(program.code).body

    assert len({*names}) == len(keys)
    assert [argument.arg for argument in tree.args.args] == ["self", *names]
    assert program(*range(len(keys))) == tuple(range(len(keys)))


# ------------------------------------------------------------------------------ attributes


class Parts(nn.Module):
    """Has layers and parameters of any names, which no method checks."""

    def __init__(self, names):
        super().__init__()
        self.names = list(names)
        for name in self.names:
            self._modules[name] = nn.Linear(3, 3)
            self._parameters[f"{name}_p"] = nn.Parameter(torch.rand(3))

    def forward(self, x):
        for name in self.names:
            x = self._modules[name](x) * self._parameters[f"{name}_p"]
        return x


class Tensors(nn.Module):
    """Has parameters and buffers of any names."""

    def __init__(self, names):
        super().__init__()
        self.names = list(names)
        for name in self.names:
            self._parameters[name] = nn.Parameter(torch.rand(3))
            self._buffers[f"{name}_b"] = torch.rand(3)

    def forward(self, x):
        for name in self.names:
            x = x * self._parameters[name] + self._buffers[f"{name}_b"]
        return x


OF_MODULES = [
    "half",
    "forward",
    "train",
    "type",
    "T_destination",
    "training",
    "to",
    "eval",
    "_modules",
]
OF_PROGRAMS = ["graph", "code", "meta", "print_readable", "_graph", "recompile"]
ODD = ["a b", "a-b", "é", "²", "ﬁ", "fi", "ﬃ", "ffi", "self", "torch", "getattr", "0", "x" * 10_000]
HOSTILE = [
    '"', "\\", "'", "\n", "\0", "\u2028", "\ud800", "", "class", "None", "# COUNTER: 3", "#",
    'x"), print("', "__class__", "__init__", "{x}", "%s", "é\u202e",
]  # fmt: skip


@pytest.mark.parametrize("kind", [Parts, Tensors])
@pytest.mark.parametrize("names", [OF_MODULES, OF_PROGRAMS, ODD, HOSTILE])
def test_a_program_runs_whatever_its_parts_are_called(kind, names):
    torch.manual_seed(0)
    model = kind(names)
    program = record(model, torch.rand(2, 3)).to_fx()
    x = torch.rand(2, 3)

    check_same(model, program, x)
    assert len(program.state_dict()) == len(model.state_dict())
    for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("kind", [Parts, Tensors])
def test_what_could_not_keep_its_name_is_listed_with_it(kind):
    model = kind(
        [*OF_MODULES, *ODD, *filter(None, HOSTILE)]
    )  # an empty name torch itself leaves out
    program = record(model, torch.rand(2, 3)).to_fx()
    renamed = program.meta["renamed"]
    found = {
        renamed.get(name, name): tensor
        for name, tensor in program.state_dict(keep_vars=True).items()
    }
    expected = model.state_dict(keep_vars=True)

    assert found.keys() == expected.keys()
    assert all(tensor is expected[name] for name, tensor in found.items())
    assert {"é", "a b", "torch", "0", "x" * 10_000}.isdisjoint(
        name.partition(".")[0] for name in renamed.values()
    )


def test_a_module_called_a_dot_b_stays_beside_b_in_a():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(3, 3)})
            setattr(self, "a.b", nn.Linear(3, 3))

        def forward(self, x):
            return getattr(self, "a.b")(self.a["b"](x)) - self.a["b"](x)

    model = Both()
    with opscope.trace(model) as trace:
        model(torch.rand(2, 3))
    program = trace.to_fx()

    check_same(model, program, torch.rand(2, 3))
    assert sorted(program.meta["renamed"].values()) == ["a.b.bias", "a.b.weight"]


@pytest.mark.parametrize("first", ["parameter", "module"])
def test_a_parameter_called_like_a_module_of_others_stays_one(first):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.rand(3))
            setattr(self, "a.b", nn.Linear(3, 3))

        def forward(self, x):
            x = x * self.a if first == "parameter" else x
            return getattr(self, "a.b")(x) * self.a

    model = Both()
    check_same(model, record(model, torch.rand(2, 3)).to_fx(), torch.rand(2, 3))


def test_attributes_are_a_tree_whatever_order_they_come_in():
    draw = random.Random(0)
    names = ["a", "a.b", "a.b.c", "a.c", "b", "b.a", "a..b", ".", "a."]
    for _ in range(50):
        held = Attributes()
        draw.shuffle(names)
        tensors = {held.add(name, torch.rand(1)): name for name in (*names, *names)}
        graph = fx.Graph()
        graph.output(tuple(graph.create_node("get_attr", name) for name in tensors))
        program = fx.GraphModule(held.tensors, graph)

        assert len(tensors) == 2 * len(names)
        assert list(program()) == list(held.tensors.values())


@pytest.mark.skipif(
    (3, 12) <= sys.version_info[:2] <= (3, 13), reason="this Python nests 1,400 modules at most"
)
def test_two_thousand_modules_one_inside_the_other_are_no_deeper_than_python_is():
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.m, self.w = inner, nn.Parameter(torch.rand(3))

        def forward(self, x):
            return self.m(x) * self.w

    model = nn.Linear(3, 3)
    for _ in range(2000):
        model = Outer(model)
    x, found = torch.rand(2, 3), []

    def run():
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(50_000)
        try:
            found.append(record_quietly(model, x))
        finally:
            sys.setrecursionlimit(limit)

    threading.stack_size(512 * 2**20)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    threading.stack_size(0)
    ((trace, expected),) = found
    program = trace.to_fx()

    assert torch.equal(program(x), expected)
    assert len(list(program.parameters())) == 2002
    assert torch.equal(copy.deepcopy(program)(x), expected)
    node = next(node for node in reversed(program.graph.nodes) if "nn_module_stack" in node.meta)
    assert [*node.meta["nn_module_stack"].values()] == [("", "Outer")]


def record_quietly(model, x):
    with torch.no_grad(), opscope.trace(model) as trace:
        y = model(x)
    return trace, y


RAN = []


@pytest.mark.parametrize(
    "text",
    [
        'x"), __import__("hostile_fx").RAN.append(1), ("',
        "x'\n    __import__('hostile_fx').RAN.append(1)\n",
        "x): return __import__('hostile_fx').RAN.append(1)\ndef f(self",
        "# COUNTER: 1",
    ],
)
def test_no_text_of_a_model_is_run(text, monkeypatch):
    """As a class, an attribute, an argument, a key, a constant, a file and a function."""
    monkeypatch.setitem(sys.modules, "hostile_fx", types.SimpleNamespace(RAN=RAN))
    code = compile("lambda m, x: m.get(x)", text, "eval")
    kind = type(text, (Tensors,), {"get": Tensors.forward})
    model = kind([text])
    function = eval(code)

    def forward(given, flag="no"):
        return {0: function(model, given[text])}

    model.forward = forward
    program = record(model, {text: torch.rand(3)}, flag=text).to_fx()
    readable = program.print_readable(print_output=False)
    x = torch.rand(3)

    assert torch.equal(program(x)[0], model({text: x})[0])
    assert pickle.loads(pickle.dumps(program))(x)[0].shape == (3,)
    ast.parse(readable)
    assert not RAN


@pytest.mark.parametrize("name", ["# COUNTER: 3", "\n", "x' #"])
def test_a_message_with_a_name_in_it_is_still_a_line_of_the_program(name):
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self._parameters[name] = nn.Parameter(torch.rand(3))

        def forward(self, x):
            return x * self._parameters[name]

    model = Given()
    program = record(model, model._parameters[name]).to_fx()

    assert torch.equal(program(model._parameters[name]), model(model._parameters[name]))
    with pytest.raises(opscope.OptionError, match="x: was one tensor with parameter"):
        program(torch.rand(3))
