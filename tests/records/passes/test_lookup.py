import pytest
from hypothesis import given
from tests.builders import RECORDINGS, Exhibit, Sketch, branch, empty, nested, recurrent
from tests.strategies import recordings

from opscope.errors import AmbiguousLayer, LayerNotFound, OptionError
from opscope.records.passes.lookup import LayerIndex


def index_of(recording):
    return LayerIndex(recording, Exhibit(recording).passes)


@pytest.mark.parametrize(
    "key",
    ["linear_2_4", "linear_2", "linear_2_4:1", "linear_2:1", "blocks.1.fc", "blocks.1.fc:1", 4, -5],
)
def test_every_form_of_key_finds_the_layer(key):
    assert index_of(nested()).find(key).label == "linear_2_4"


def test_a_modules_address_finds_the_layer_that_leaves_it():
    index = index_of(nested())

    assert index.find("blocks.0").label == "add_1_3"
    assert index.find("blocks.0.act").label == "relu_1_2"


def test_an_alias_of_a_module_finds_the_same_layer():
    from dataclasses import replace

    recording = nested()
    modules = [replace(m, aliases=("tied",)) if m.address == "head" else m
               for m in recording.modules]  # fmt: skip

    assert index_of(replace(recording, modules=tuple(modules))).find("tied").label == "linear_3_7"


@pytest.mark.parametrize(("key", "label"), [("sin", "sin_1_2"), ("cos_", "cos_1_3")])
def test_a_substring_finds_the_one_layer_that_has_it(key, label):
    assert index_of(branch()).find(key).label == label


def test_a_substring_of_addresses_counts_where_no_label_has_it():
    assert index_of(nested()).find("ead").label == "linear_3_7"


def test_an_exact_key_wins_over_longer_labels_that_contain_it():
    sketch = Sketch()
    x = sketch.outside()
    for _ in range(11):
        x = sketch.call("sin", x)

    assert index_of(sketch.build()).find("sin_1").label == "sin_1_1"


@pytest.mark.parametrize("key", ["linear_1:2", "linear_1_1:2", "fc:2"])
def test_the_colon_chooses_a_pass(key):
    assert index_of(recurrent()).find(key).label == "linear_1_1:2"


@pytest.mark.parametrize(
    ("key", "first", "last"),
    [
        ("linear_1", "'linear_1:1'", "'linear_1:3'"),
        ("fc", "'fc:1'", "'fc:3'"),
        ("line", "'linear_1_1:1'", "'linear_1_1:3'"),
    ],
)
def test_a_key_of_several_passes_says_how_to_ask_for_one(key, first, last):
    with pytest.raises(AmbiguousLayer) as error:
        index_of(recurrent()).find(key)

    assert str(error.value) == f"{key!r} has 3 passes; ask for one of them, {first} to {last}"


def test_a_substring_of_several_layers_lists_them():
    with pytest.raises(AmbiguousLayer) as error:
        index_of(nested()).find("relu")

    assert str(error.value) == "'relu' fits 2 layers: 'relu_1_2', 'relu_2_5'"


def test_a_long_list_of_layers_is_cut():
    sketch = Sketch()
    x = sketch.outside()
    for _ in range(9):
        x = sketch.call("sin", x)

    with pytest.raises(AmbiguousLayer, match=r"'sin_6_6' and 3 more$"):
        index_of(sketch.build()).find("sin")


def test_an_unknown_key_lists_the_nearest():
    with pytest.raises(LayerNotFound) as error:
        index_of(branch()).find("sim_1")

    assert str(error.value).startswith("no layer answers to 'sim_1'; the nearest keys: 'sin_1'")


@pytest.mark.parametrize("key", ["anything", "", 0])
def test_an_unknown_key_of_an_empty_recording_lists_nothing(key):
    with pytest.raises(LayerNotFound) as error:
        index_of(empty()).find(key)

    assert str(error.value) == f"no layer answers to {key!r}: the trace has none"


@pytest.mark.parametrize("position", [6, -7, 10**30])
def test_a_position_out_of_range_says_the_range(position):
    with pytest.raises(LayerNotFound) as error:
        index_of(branch()).find(position)

    assert str(error.value) == f"no layer at position {position}: there are 6, from -6 to 5"


@pytest.mark.parametrize("key", [None, 1.0, True, ("relu",), b"relu"])
def test_a_key_of_another_type_is_refused(key):
    with pytest.raises(OptionError, match="by a string or a whole number, not by"):
        index_of(branch()).find(key)


def test_selecting_gives_each_pass_once_in_order():
    found = index_of(nested()).select(["head", "relu", 2, "linear_3", -1])

    labels = [item.label for item in found.passes]
    assert labels == ["relu_1_2", "relu_2_5", "linear_3_7", "output_1_8"]


def test_selecting_a_label_without_a_pass_selects_every_pass():
    found = index_of(recurrent()).select(["linear_1"])

    labels = [item.label for item in found.passes]
    assert labels == ["linear_1_1:1", "linear_1_1:2", "linear_1_1:3"]


def test_selecting_what_there_is_not_lists_the_nearest_keys():
    found = index_of(branch()).select(["relu", "sim", 99])

    assert [item.type for item in found.passes] == ["relu"]
    assert [message.partition("; ")[0] for message in found.unknown] == [
        "no layer answers to 'sim'",
        "no layer at position 99: there are 6, from -6 to 5",
    ]
    assert "the nearest keys: 'sin_1'" in found.unknown[0]


def test_a_module_whose_output_no_layer_gave_is_the_exit_of_none():
    """Such as one that ran in backward, in a program without a model."""
    sketch = Sketch("")
    with sketch.module("block"):
        sketch.backward("neg", sketch.outside())
    sketch.call("relu", sketch.outside())

    index = index_of(sketch.build())
    assert [index.exits_of(item) for item in index.passes] == [[]] * len(index.passes)


def test_a_name_that_is_a_label_and_another_layers_module_is_ambiguous():
    sketch = Sketch()
    x = sketch.outside()
    for address in ("relu_2", "relu_1"):
        with sketch.module(address, "ReLU", x):
            x = sketch.call("relu", x)
    index = index_of(sketch.build())

    with pytest.raises(AmbiguousLayer, match="'relu_1' fits 2 layers: 'relu_1_1', 'relu_2_2'"):
        index.find("relu_1")
    assert index.find("relu_1_1").label == "relu_1_1"


@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_every_lookup_key_of_a_layer_finds_it(make):
    index = index_of(make())

    assert all(index.find(key) is item for item in index.passes for key in index.keys_of(item))


@given(recordings())
def test_every_lookup_key_of_any_layer_finds_it(recording):
    index = index_of(recording)

    assert all(index.find(key) is item for item in index.passes for key in index.keys_of(item))


def test_a_key_of_many_passes_is_looked_up_once_for_the_keys_of_all_of_them(monkeypatch):
    index = index_of(recurrent())
    asked = []
    exactly = LayerIndex._exactly
    monkeypatch.setattr(
        LayerIndex, "_exactly", lambda self, key: asked.append(key) or exactly(self, key)
    )

    assert len([index.keys_of(item) for item in index.passes]) > 3
    assert "fc" in asked
    assert len(asked) == len(set(asked))


def test_keys_with_a_run_are_suggested_to_one_who_asked_for_a_run_only():
    index = index_of(branch())

    with pytest.raises(LayerNotFound, match=r"'sim_1'; the nearest keys: [^:]*$"):
        index.find("sim_1")
    with pytest.raises(LayerNotFound, match="the nearest keys: 'sin_1:1'"):
        index.find("sim_1:1")
