"""What is no key, no option or no selection is refused, with the valid ones nearby."""

import pytest
import torch
from tests import zoo
from torch import nn

import opscope
from opscope import AmbiguousLayer, LayerNotFound, NotSaved, OptionError

X = torch.ones(2, 3)


class Watched(nn.Module):
    """Counts how often it ran."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU())
        self.head = nn.Linear(3, 1)
        self.ran = 0

    def forward(self, x):
        self.ran += 1
        return self.head(self.features(x))


@pytest.fixture
def model():
    return Watched()


@pytest.fixture
def trace(model):
    with opscope.trace(model) as trace:
        model(X)
    return trace


@pytest.fixture
def recurrent():
    model, x = zoo.SimpleRecurrent(), torch.ones(6, 5)
    with opscope.trace(model) as trace:
        model(x)
    return trace


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("linear_9_9", "linear_1_1"),
        ("liner_1_1", "linear_1_1"),
        ("linear_1_1:2", "linear_1_1:1"),
        ("relu_1_2:0", "relu_1_2:1"),
        ("linear_1_7", "linear_1_1"),
        ("features.9", "features.3"),
        ("features.0:2", "features.0:1"),
        ("Head", "head"),
        ("zzzzzz", "input_1_0"),
        ("", "input_1_0"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(trace, key, nearest):
    with pytest.raises(LayerNotFound) as caught:
        trace[key]
    assert f"no layer answers to {key!r}" in str(caught.value)
    assert repr(nearest) in str(caught.value)
    assert isinstance(caught.value, KeyError)


def test_no_more_than_five_keys_are_suggested(trace):
    with pytest.raises(LayerNotFound) as caught:
        trace["lineaar"]
    assert 1 <= str(caught.value).partition("nearest keys")[2].count(",") + 1 <= 5


@pytest.mark.parametrize(
    ("key", "fits"),
    [
        ("relu", ["relu_1_2", "relu_2_4"]),
        ("linear", ["linear_1_1", "linear_2_3", "linear_3_5"]),
        ("_1", ["input_1_0", "linear_1_1", "relu_1_2", "output_1_6"]),
        ("features.", ["linear_1_1", "relu_1_2", "linear_2_3", "relu_2_4"]),
    ],
)
def test_a_key_that_fits_several_layers_lists_them(trace, key, fits):
    with pytest.raises(AmbiguousLayer) as caught:
        trace[key]
    assert f"{key!r} fits {len(fits)} layers" in str(caught.value)
    for label in fits:
        assert repr(label) in str(caught.value)


def test_of_many_layers_that_fit_a_few_are_named_and_the_rest_counted():
    model = nn.Sequential(*(nn.ReLU() for _ in range(30)))
    with opscope.trace(model) as trace:
        model(X)
    with pytest.raises(AmbiguousLayer) as caught:
        trace["relu"]
    named = str(caught.value).count("relu_")
    assert "fits 30 layers: 'relu_1_1', 'relu_2_2'" in str(caught.value)
    assert named < 10
    assert str(caught.value).endswith(f"and {30 - named} more")


@pytest.mark.parametrize("key", ["linear_1_1", "linear_1", "fc"])
def test_a_layer_with_several_passes_says_how_many_and_how_to_ask(recurrent, key):
    with pytest.raises(AmbiguousLayer) as caught:
        recurrent[key]
    assert f"{key!r} has 4 passes" in str(caught.value)
    assert f"'{key}:1' to '{key}:4'" in str(caught.value)
    assert recurrent[f"{key}:4"] is recurrent["linear_1_1:4"]


def test_a_substring_of_a_layer_with_several_passes_says_its_full_name(recurrent):
    with pytest.raises(AmbiguousLayer, match="'linear_1_1:1' to 'linear_1_1:4'"):
        recurrent["inea"]


def test_a_pass_that_did_not_run_is_refused_with_those_that_did(recurrent):
    with pytest.raises(LayerNotFound, match="'linear_1_1:4'"):
        recurrent["linear_1_1:5"]


def test_a_module_that_two_layers_leave_is_ambiguous_without_its_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            x = self.act(x)
            return self.act(x + 1)

    with opscope.trace(model := Twice()) as trace:
        model(X)
    with pytest.raises(AmbiguousLayer, match="'act' fits 2 layers: 'relu_1_1', 'relu_2_3'"):
        trace["act"]
    assert (trace["act:1"].label, trace["act:2"].label) == ("relu_1_1", "relu_2_3")


@pytest.mark.parametrize("position", [7, 100, -8, -100])
def test_a_position_out_of_range_is_refused_with_the_range(trace, position):
    with pytest.raises(LayerNotFound) as caught:
        trace[position]
    assert f"no layer at position {position}: there are 7, from -7 to 6" in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [None, 1.0, True, ("linear_1_1",), ["linear_1_1"], slice(0, 2), torch.tensor(1), b"relu"],
    ids=["None", "float", "bool", "tuple", "list", "slice", "tensor", "bytes"],
)
def test_a_key_of_another_type_is_refused(trace, key):
    with pytest.raises(OptionError, match="a string or a whole number"):
        trace[key]


def log(model, **options):
    return opscope.log_forward_pass(model, X, **options)


@pytest.mark.parametrize("value", ["role", "", "Rolled", "both", None, True, 0, ["rolled"]])
def test_another_vis_opt_is_refused_before_the_model_runs_with_the_three_that_are(model, value):
    with pytest.raises(OptionError) as caught:
        log(model, vis_opt=value)
    assert str(caught.value) == (
        f"unknown vis_opt: {value!r} (must be one of 'none', 'rolled', 'unrolled')"
    )
    assert model.ran == 0


@pytest.mark.parametrize("depth", [0, -1, 1.0, "2", True, [1], float("inf")])
def test_another_nesting_depth_is_refused_before_the_model_runs(model, depth):
    with pytest.raises(OptionError, match=r"depth: .* \(must be None.*whole number from 1\)"):
        log(model, vis_nesting_depth=depth)
    assert model.ran == 0


def test_another_direction_is_refused_before_the_model_runs(model):
    with pytest.raises(OptionError, match="'down', 'up', 'right', 'left'"):
        log(model, vis_direction="sideways")
    assert model.ran == 0


@pytest.mark.parametrize("name", ["model.jpeg", "model", "nowhere/model.svg"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_model_runs(model, name, tmp_path):
    with pytest.raises(OptionError):
        log(model, vis_opt="rolled", vis_outpath=tmp_path / name)
    assert model.ran == 0


@pytest.mark.parametrize(
    "value",
    [
        "linear_1_1", "", 3, 1.5, True, {"linear"}, {"linear": 1},
        [None], [1.5], [True], [["linear"]], [""], ["linear", None], [b"linear"],
    ],
    ids=repr,
)  # fmt: skip
def test_layers_to_save_of_the_wrong_type_is_refused_before_the_model_runs(model, value):
    with pytest.raises(OptionError):
        log(model, layers_to_save=value)
    assert model.ran == 0


def test_a_lone_name_for_layers_to_save_is_refused_with_the_list_to_write(model):
    with pytest.raises(OptionError, match=r"a list such as \['linear_1_1'\]"):
        log(model, layers_to_save="linear_1_1")


@pytest.mark.parametrize(
    ("keys", "wrong", "nearest"),
    [
        (["linear_1_1", "reluu"], "reluu", "relu_1_2"),
        (["features.8"], "features.8", "features.3"),
        (["linear_9_1"], "linear_9_1", "linear_1"),
        (["linear_1_1:2"], "linear_1_1:2", "linear_1_1:1"),
    ],
)
def test_an_entry_that_matches_nothing_is_refused_with_the_nearest(model, keys, wrong, nearest):
    with pytest.raises(LayerNotFound) as caught:
        log(model, layers_to_save=keys)
    assert f"no layer answers to {wrong!r}" in str(caught.value)
    assert repr(nearest) in str(caught.value)


@pytest.mark.parametrize("position", [7, -8])
def test_an_entry_out_of_range_is_refused_with_the_range(model, position):
    with pytest.raises(LayerNotFound, match="there are 7, from -7 to 6"):
        log(model, layers_to_save=["relu", position])


def test_no_picture_is_written_where_an_entry_matches_nothing(model, tmp_path):
    path = tmp_path / "model.dot"
    with pytest.raises(LayerNotFound):
        log(model, layers_to_save=["nonsense"], vis_opt="rolled", vis_outpath=path)
    assert not path.exists()


@pytest.mark.parametrize("model", [lambda x: x, nn.ReLU, None, "alexnet"])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(OptionError, match=r"must be a torch\.nn\.Module"):
        log(model)


def test_an_unknown_option_is_refused_by_name(model):
    with pytest.raises(TypeError, match="vis_option"):
        log(model, vis_option="rolled")
    assert model.ran == 0


@pytest.mark.parametrize("save", [None, "none", [], ["relu"]])
def test_an_activation_that_was_not_saved_says_how_to_save_it(model, save):
    history = log(model, layers_to_save=save)
    with pytest.raises(NotSaved, match=r"linear_2_3 was not saved.*save='all'.*\['linear_2_3'\]"):
        _ = history["linear_2"].tensor_contents
    assert not history["linear_2"].is_saved
