import pytest
import torch
from torch import nn

import opscope
from opscope.errors import LayerNotFound, OptionError, RenderError
from opscope.exporters import picture


class Adds(nn.Module):
    """Adds up what it is given, and remembers how often it ran."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.runs = 0

    def forward(self, first, second=None, *, third=None):
        self.runs += 1
        total = self.fc(first)
        for other in (second, third):
            total = total if other is None else total + other
        return total


@pytest.fixture
def model():
    return Adds()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


x, y, z = (torch.ones(2, 3) for _ in range(3))


@pytest.mark.parametrize(
    ("args", "kwargs", "additions"),
    [
        (x, None, 0),
        ([x], None, 0),
        ((x, y), None, 1),
        ([x, y], {"third": z}, 2),
        ({"first": x, "third": z}, None, 1),
        ({"first": x}, {"second": y}, 1),
        (x, {"third": z}, 1),
        ([], {"first": x}, 0),
    ],
)
def test_inputs_are_a_tensor_a_list_or_a_dictionary(model, args, kwargs, additions):
    trace = opscope.log_forward_pass(model, args, kwargs)

    assert sum(layer.type == "add" for layer in trace) == additions
    assert sum(layer.type == "input" for layer in trace) == 1 + additions


def test_everything_is_saved_unless_told_otherwise(model):
    trace = opscope.log_forward_pass(model, x)

    assert all(layer.is_saved for layer in trace)
    assert torch.equal(trace["linear_1"].tensor_contents, model.fc(x))


@pytest.mark.parametrize("nothing", [None, "none"])
def test_nothing_is_saved_where_nothing_is_asked_for(model, nothing):
    assert not any(
        layer.is_saved for layer in opscope.log_forward_pass(model, x, layers_to_save=nothing)
    )


def test_the_labels_are_of_the_layers_to_save(model):
    trace = opscope.log_forward_pass(model, [x, y], layers_to_save=["fc", -1])

    assert trace.layer_labels == ["linear_1_2", "output_1_4"]


def test_a_layer_to_save_that_did_not_run_is_an_error(model):
    with pytest.raises(LayerNotFound, match="no layer answers to 'conv2d'"):
        opscope.log_forward_pass(model, x, layers_to_save=["conv2d"])


def test_the_models_mode_is_left_as_it_is(model):
    model.eval()
    opscope.log_forward_pass(model, x)

    assert not model.training


@pytest.mark.parametrize("vis_opt", ["rolled", "unrolled"])
@pytest.mark.parametrize("direction", ["down", "up", "right", "left"])
def test_a_picture_is_written_where_asked(model, vis_opt, direction, tmp_path, capsys):
    path = tmp_path / "net.dot"
    opscope.log_forward_pass(
        model, x, vis_opt=vis_opt, vis_outpath=path, vis_direction=direction, vis_nesting_depth=1
    )

    assert path.read_text(encoding="utf-8").startswith("digraph trace {")
    assert str(path) in capsys.readouterr().err


def test_no_picture_is_written_unless_asked(model, tmp_path):
    opscope.log_forward_pass(model, x)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("can", "name"), [(True, "opscope_graph.svg"), (False, "opscope_graph.dot")]
)
def test_a_picture_is_written_here_by_default(model, can, name, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "_with_system", lambda text, suffix: b"<svg/>")
    monkeypatch.setattr(picture.shutil, "which", lambda name: "dot" if can else None)
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    opscope.log_forward_pass(model, x, vis_opt="unrolled")

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_rolled_folds_the_passes_and_unrolled_does_not(model, tmp_path):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            for _ in range(3):
                x = self.fc(x)
            return x

    texts = {}
    for vis_opt in ("rolled", "unrolled"):
        opscope.log_forward_pass(Loop(), x, vis_opt=vis_opt, vis_outpath=f"{vis_opt}.dot")
        texts[vis_opt] = (tmp_path / f"{vis_opt}.dot").read_text(encoding="utf-8")

    assert ["linear_1_1 (×3)" in texts[v] for v in texts] == [True, False]
    assert ["linear_1_1:2" in texts[v] for v in texts] == [False, True]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vis_opt": "folded"}, OptionError, "unknown vis_opt: 'folded' (must be one of 'none', 'rolled', 'unrolled')"),
        ({"vis_opt": None}, OptionError, "unknown vis_opt: None (must be one of "),
        ({"vis_direction": "TB"}, OptionError, "unknown vis_direction: 'TB' (must be one of 'down', "),
        ({"vis_nesting_depth": 0}, OptionError, "depth: 0 (must be None, "),
        ({"vis_opt": "rolled", "vis_outpath": "net.jpg"}, OptionError, "cannot tell the format from 'net.jpg'"),
        ({"vis_opt": "rolled", "vis_outpath": "missing/net.svg"}, OptionError, "cannot write 'missing/net.svg': the folder 'missing'"),
        ({"layers_to_save": "conv2d"}, OptionError, "save: 'conv2d' (must be 'all', 'none', None or a list such as ['conv2d'])"),
        ({"layers_to_save": [None]}, OptionError, "save: None is no key"),
        ({"input_kwargs": [x]}, OptionError, "input_kwargs: list object (must be a dictionary)"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_before_the_model_runs(model, options, error, message):
    with pytest.raises(error) as raised:
        opscope.log_forward_pass(model, x, **options)

    assert str(raised.value).startswith(message)
    assert model.runs == 0


def test_a_picture_that_cannot_be_made_is_refused_before_the_model_runs(model, monkeypatch):
    monkeypatch.setattr(picture.shutil, "which", lambda name: None)

    with pytest.raises(RenderError):
        opscope.log_forward_pass(model, x, vis_opt="rolled", vis_outpath="net.png")
    assert model.runs == 0


@pytest.mark.parametrize("what", [lambda x: x, nn.Linear, "model", None])
def test_what_is_no_module_is_refused(what):
    with pytest.raises(OptionError, match=r"^model: \w+ object \(must be a torch.nn.Module\)"):
        opscope.log_forward_pass(what, x)


def test_the_models_own_error_comes_out_as_it_is(model):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        opscope.log_forward_pass(model, torch.ones(2, 4))
