"""Whatever names, files and messages hold, what is shown of them is text, in lines of bounded length."""

import copy
import io
import re
from xml.etree import ElementTree as ET

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.overrides import wrap_torch_function

import opscope
from opscope.capture.collect.kept.activations import Activations
from opscope.exporters import picture
from opscope.exporters.picture import can_render

ODD = {
    "escape": "\x1b[2J\x1b]0;title\x07",
    "return": "real\r\nFAKE\x0b\x0c\x08",
    "c1": "\x9b31m\x90\x85",
    "lines": "a\u2028b\u2029c\x85d",
    "direction": "\u202eabc\u2066\u200f",
    "unseen": "\u200b\ufeff\u00ad\u00a0",
    "markup": "[red]x[/red][bold][/] :smile:",
    "html": "<script>alert(1)</script>&lt;\"'",
    "dot": '"];}\n\\N\\l{|}<b>]</b>',
    "ansi in escape": "\\x1b[0m",
    "surrogate": "\ud800\udfff",
    "long": "x" * 100_000,
    "long and odd": "\x1b\n\u202e" * 30_000,
}

SOURCE = """
def make(nn, odd, function):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(f"lin{odd}", nn.Linear(2, 2))
            self.register_buffer(f"buf{odd}", nn.Linear(1, 1).weight.detach())
        def forward(self, x):
            y = function(getattr(self, f"lin{odd}")(x[f"in{odd}"]))
            return {f"one{odd}": y * getattr(self, f"buf{odd}"), f"two{odd}": [y + 1, y.reshape(-1)]}
    return Block
"""


class Raised(Exception):
    """Says anything."""


def hostile(odd):
    """Return a model of which modules, classes, functions, files, keys have odd names."""
    codable = odd.encode(
        errors="ignore"
    ).decode()  # Python's own limit to names of classes and files

    def function(x):
        return x.relu()

    function.__name__ = f"fun{codable}"
    wrapped = wrap_torch_function(lambda x: (x,))(function)
    wrapped.__name__ = f"fun{codable}"
    spelled = {}
    file = f"file{codable}.py".replace("\0", "")
    exec(compile(SOURCE, file, "exec"), spelled)
    block = spelled["make"](nn, odd, wrapped)
    block.__name__ = block.__qualname__ = f"Block{codable}".replace("\0", "")

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(f"block{odd}", block())
            self.register_parameter(f"scale{odd}", nn.Parameter(torch.ones(2)))

        def forward(self, x, fail=None):
            found = getattr(self, f"block{odd}")({f"in{odd}": x[f"x{odd}"]})
            if fail is not None:
                raise fail
            return {**found, f"three{odd}": found[f"one{odd}"] * getattr(self, f"scale{odd}")}

    Outer.__name__ = Outer.__qualname__ = f"Outer{codable}"
    return Outer()


@pytest.fixture(params=ODD.values(), ids=ODD)
def odd(request):
    return request.param


@pytest.fixture
def traced(odd):
    model = hostile(odd)
    x = {f"x{odd}": torch.rand(1, 2, requires_grad=True)}
    with opscope.trace(model, save="all", saved_for_backward=True, gradients="all") as trace:
        given = model(x)
        (given[f"one{odd}"] + given[f"three{odd}"]).sum().backward()
    return trace


def assert_plain(text, longest=2100):
    """Check that a text cannot command a terminal, nor hide or turn round what it says."""
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines), ascii(text[:1000])
    assert max(map(len, lines)) <= longest


def test_a_trace_and_its_layers_print_as_plain_lines(traced):
    texts = [str(traced), repr(traced), *map(str, traced), *map(repr, traced)]
    texts += [str(layer.source) for layer in traced if layer.source]

    for text in texts:
        assert_plain(text, 24 * 210)
    assert all(text.isprintable() for text in (repr(traced), *map(repr, traced)))
    assert len(str(traced).split("\n")) < 60  # no name has made lines of its own


@pytest.mark.parametrize("level", ["op", "layer", "module"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_tables_are_plain_lines_no_wider_than_asked(traced, level, phase):
    columns = opscope.exporters.tables.console.COLUMNS if level == "module" else None
    made = traced.summary(level, phase=phase, columns=columns)
    for width in (30, 60, 120, 300):
        assert_plain(made.as_text(width), width)
        assert made.as_text(width, "ascii").isascii()
    assert_plain(str(made), 120)


def test_other_tables_are_plain_lines(traced, odd):
    assert_plain(str(traced.saved_for_backward), 120)
    assert_plain(traced.saved_for_backward.as_text(40), 40)
    model = hostile(odd)
    watch = opscope.watch(model)
    with watch:
        model({f"x{odd}": torch.rand(1, 2)})
    file = io.StringIO()
    Console(file=file, width=100).print(watch)
    Console(file=file, width=100).print(traced, traced.summary(), watch.table(60))
    assert_plain(file.getvalue(), 100)


def test_markup_is_shown_and_not_obeyed():
    model = hostile("[red]x[/red]")
    with opscope.trace(model) as trace:
        model({"x[red]x[/red]": torch.rand(1, 2)})
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=True, color_system="truecolor")
    console.print(trace)

    assert "[red]x[/red]" in re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


def test_notebooks_get_text(traced):
    for html in (traced._repr_html_(), traced.saved_for_backward._repr_html_()):
        assert "<script" not in html
        inner = re.sub(r"</?(?:pre|span)[^<>]*>", "", html)
        assert "<" not in inner
        assert_plain(inner, 1000)


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_pictures_are_text_that_is_well_formed(traced, level, tmp_path, monkeypatch):
    for depth in (None, 1):
        text = traced.to_dot(level, depth, parameters=True, buffers=True).to_string()
        assert_plain(text, 5000)
        assert len(text) < 50_000
        for renderer in ("system", "in process"):
            if renderer == "in process":
                monkeypatch.setattr(picture.shutil, "which", lambda name: None)
            if not can_render(".svg"):
                continue
            target = tmp_path / "x.svg"
            root = ET.parse(traced.draw(target, level, depth)).getroot()
            shown = [text for text in root.itertext() if text.strip()]
            assert_plain("\n".join(shown).replace("\xa0", " "), 200)
            assert "<script" not in target.read_text(encoding="utf-8")


def test_errors_are_plain_lines(traced, odd, tmp_path):
    keys = [f"{odd}?", f"block{odd}.nothing", f"{traced[1].label}{odd}", "a"]
    asked = [lambda key=key: traced[key] for key in keys]
    asked += [
        lambda: traced.summary(odd),
        lambda: traced.summary(columns=[odd]),
        lambda: traced.summary(sort_by=odd),
        lambda: traced.graph(module=odd),
        lambda: traced.graph(collapse=[odd]),
        lambda: traced.draw(tmp_path / odd[:200]),
        lambda: traced.to_dot(direction=odd),
        lambda: opscope.trace(odd),
        lambda: opscope.trace(save=odd),
        lambda: opscope.trace(save=opscope.Save(device=odd)),
        lambda: opscope.log_forward_pass(hostile(odd), {}, vis_opt=odd),
        lambda: copy.deepcopy(traced)[1].activation,
        traced.validate,
        lambda: traced.summary().as_text(odd),
    ]
    for ask in asked:
        with pytest.raises(opscope.OpscopeError) as error:
            ask()
        for text in (str(error.value), repr(error.value), *error.value.args):
            assert text.isprintable()
            assert len(text) <= 4100  # a `repr` doubles what is escaped


def test_what_was_saved_of_nothing_is_told_in_plain_lines(odd):
    model = hostile(odd)
    with opscope.trace(model) as trace:
        model({f"x{odd}": torch.rand(1, 2)})
    for layer in trace:
        for ask in (lambda: layer.activation, lambda: layer.gradient):  # noqa: B023
            with pytest.raises(opscope.NotSaved) as error:
                ask()
            assert str(error.value).isprintable()
            assert len(str(error.value)) <= 2100


def test_a_failure_is_told_in_plain_lines(odd):
    model = hostile(odd)
    kind = type(f"Error{odd}".encode(errors="ignore").decode().replace("\0", ""), (Raised,), {})
    with pytest.raises(Raised), opscope.trace(model) as trace:
        model({f"x{odd}": torch.rand(1, 2)}, kind(odd))

    assert_plain(str(trace), 5000)
    assert str(trace.failure).isprintable()
    assert len(str(trace.failure)) < 600
    assert trace.failure.message == odd


def test_the_first_bad_number_is_told_in_plain_lines(odd):
    model = hostile(odd)
    getattr(model, f"scale{odd}").data.fill_(float("inf"))
    x = {f"x{odd}": torch.zeros(1, 2)}
    getattr(getattr(model, f"block{odd}"), f"buf{odd}").fill_(0)
    with (
        pytest.raises(opscope.NonFiniteError) as error,
        opscope.trace(model, stop_on_nonfinite=True),
    ):
        model(x)

    assert_plain(str(error.value), 1000)


def test_a_replay_is_told_in_plain_lines(odd):
    model = hostile(odd)
    with opscope.trace(model, replayable=True) as trace:
        model({f"x{odd}": torch.rand(1, 2)})
    good = trace.validate()
    activations = trace._block.session.find(Activations)
    value = trace[f"lin{odd}" if len(odd) < 1000 else 1].record.values[0]
    activations.get(value).add_(1)
    bad = trace.validate()

    assert good
    assert not bad
    for text in (str(good), str(bad)):
        assert_plain(text, 1000)


def test_keys_stay_what_they_are(traced, odd):
    label = next(label for label in traced.layer_labels if label.startswith("fun"))

    assert traced[label].label == label
    assert traced[f"block{odd}.lin{odd}"].module == f"block{odd}.lin{odd}"
    assert [module.address for module in traced.modules][1] == f"block{odd}"


def test_the_picture_of_one_call_is_announced_in_a_plain_line(tmp_path, capsys):
    path = tmp_path / "\x1b[2J\u202epicture.dot"
    opscope.log_forward_pass(nn.Linear(2, 2), torch.ones(1, 2), vis_opt="rolled", vis_outpath=path)

    assert path.exists()
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


class Talkative(torch.Tensor):
    """A tensor that shows itself as it likes."""

    def __repr__(self, **kwargs):
        return "\x1b[2J\r\u202e\n" + "x" * 100_000 + "\n" * 1000


def test_a_tensor_that_shows_itself_as_it_likes_is_shown_as_text():
    with opscope.trace(save="all") as trace:
        torch.ones(2).as_subclass(Talkative) + 1

    for layer in trace:
        assert_plain(str(layer))
        assert len(str(layer)) < 10_000
