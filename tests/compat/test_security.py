"""Nothing that opscope is given is taken for code: no file is run, and no name is either."""

import ast
import pickle
import random
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import opscope
from opscope.exporters.picture import can_render

SOURCES = sorted(Path(opscope.__file__).parent.rglob("*.py"))
# What runs code, or makes objects that do when they are made, out of text or bytes.
FUNCTIONS = {"eval", "exec", "compile", "__import__"}
METHODS = {"loads", "load", "system", "popen", "run_path", "unsafe_load"}
READS_CODE = {"pickle", "marshal", "shelve", "dill", "yaml", "code", "runpy", "ctypes"}
HARMLESS = {"json.loads"}  # makes numbers, texts, lists and dictionaries, nothing else
# It calls one function of the C library, by a name that stands there; it looks at a tensor's own bytes.
MAY = {"garbage": {"ctypes"}, "tensors": {"ctypes"}}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_room_runs_what_it_reads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {func.id for func in calls if isinstance(func, ast.Name)} & FUNCTIONS
    methods = [func for func in calls if isinstance(func, ast.Attribute)]
    assert not {func.attr for func in methods if ast.unparse(func) not in HARMLESS} & METHODS
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
    }
    assert not (imported & READS_CODE) - MAY.get(path.stem, set())


def test_programs_are_started_without_a_shell():
    started = [
        ast.unparse(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func)
    ]
    assert len(started) == 1
    assert "shell" not in started[0]


RAN = []
HOSTILE = [
    '"',
    "\\",
    "\n",
    "\0",
    "class",
    "'",
    "a b",
    "<script>x</script>",
    'x"), getattr(getattr(__import__("hostile"), "RAN"), "append")(1), getattr(self, "y',
    '"); __import__("hostile") #',
    "\n    import hostile\n",
    "$(touch x)",
    "`touch x`",
    "{x}",
    "%s",
    "[bold]",
    "é\u202e",
]


class Named(nn.Module):
    """Has a part and a parameter of any name."""

    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(2, 2))
        self.register_parameter(f"{name}_", nn.Parameter(torch.ones(2)))

    def forward(self, x):
        return next(self.children())(x) * next(iter(self._parameters.values()))


@pytest.fixture(params=HOSTILE, ids=ascii)
def traced(request, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hostile", types.SimpleNamespace(RAN=RAN))
    monkeypatch.chdir(tmp_path)
    model, x = Named(request.param), torch.ones(1, 2)
    with opscope.trace(model) as trace:
        expected = model(x)
    yield request.param, trace, x, expected
    assert not RAN
    RAN.clear()


def test_a_program_runs_whatever_the_names_are_and_nothing_else(traced):
    _, trace, x, expected = traced
    program = trace.to_fx()
    assert torch.equal(program(x), expected)
    assert len(list(program.parameters())) == 3


ALPHABET = "ab1_ .\"'\\\n\t\0#:;,()[]{}=@%`$<>éﬁ²\u2028\u202e\ud800🔥"
WORDS = [
    "class",
    "self",
    "torch",
    "half",
    "import hostile",
    "x" * 10_000,
    "__class__",
]


class Odd(nn.Module):
    """Has modules, parameters and buffers of any names, and takes and gives dictionaries of them."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self._modules[name] = nn.Linear(2, 2)
            self._parameters[f"{name}p"] = nn.Parameter(torch.rand(2))
            self._buffers[f"{name}b"] = torch.rand(2)

    def forward(self, given, **named):
        found = {}
        for name, x in given.items():
            y = self._modules[name](x) * self._parameters[f"{name}p"] + self._buffers[f"{name}b"]
            found[name] = y + named.get(name, 0)
        return found


@pytest.mark.parametrize("seed", range(25))
def test_names_drawn_from_anything_stay_text_in_a_program(seed, monkeypatch):
    monkeypatch.setitem(sys.modules, "hostile", types.SimpleNamespace(RAN=RAN))
    draw = random.Random(seed)
    drawn = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 5))) for _ in range(5)]
    names = [name for name in dict.fromkeys([*drawn, draw.choice(WORDS)]) if name != "given"]
    model = Odd(names)
    given = {name: torch.rand(1, 2) for name in names}
    named = {name: torch.rand(2) for name in draw.sample([n for n in names if n != "self"], 2)}
    with torch.no_grad(), opscope.trace(model) as trace:
        expected = model(given, **named)
    program = trace.to_fx()
    found = program(*given.values(), *named.values())

    assert list(found) == names
    assert all(torch.equal(found[name], expected[name]) for name in names)
    assert (
        pickle.loads(pickle.dumps(program))(*given.values(), *named.values()).keys() == found.keys()
    )
    assert not RAN


def test_two_names_that_are_written_alike_stay_two_parameters():
    model = nn.ModuleDict({'a"': nn.Linear(2, 2), "a\\": nn.Linear(2, 2)})
    model.forward = types.MethodType(lambda self, x: self['a"'](x) + self["a\\"](x), model)
    x = torch.ones(1, 2)
    with opscope.trace(model) as trace:
        expected = model(x)
    assert torch.equal(trace.to_fx()(x), expected)


def test_a_name_is_text_in_every_output(traced, tmp_path):
    name, trace, _, _ = traced
    assert trace[name].module == name
    assert trace.graph(module=name).number_of_nodes()
    assert "<script>" not in trace._repr_html_()
    assert str(trace)
    assert str(trace.summary())
    trace.draw(tmp_path / "x.dot")
    if can_render(".svg"):
        written = trace.draw(tmp_path / "x.svg").read_text(encoding="utf-8")
        assert "<script" not in written
    assert {path.suffix for path in tmp_path.iterdir()} <= {".dot", ".svg"}
