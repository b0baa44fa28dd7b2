"""The article's listings run as written, and its rows hold; each test quotes its row."""

import re
from importlib.metadata import requires
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import pytest
import torch
from tests import pictures, witness, zoo
from tests.zoo import SimpleRecurrent
from torch import nn

import opscope as tl
from opscope.exporters import picture as picture_room

torchvision = SimpleNamespace(models=zoo._torchvision()[0])

ALEXNET_LAYERS = [
    "input_1_0", "conv2d_1_1", "relu_1_2", "maxpool2d_1_3", "conv2d_2_4", "relu_2_5",
    "maxpool2d_2_6", "conv2d_3_7", "relu_3_8", "conv2d_4_9", "relu_4_10", "conv2d_5_11",
    "relu_5_12", "maxpool2d_3_13", "adaptiveavgpool2d_1_14", "flatten_1_15", "dropout_1_16",
    "linear_1_17", "relu_6_18", "dropout_2_19", "linear_2_20", "relu_7_21", "linear_3_22",
    "output_1_23",
]  # fmt: skip
ALEXNET_TEXT = """\
Log of AlexNet forward pass:
    Model structure: purely feedforward, without branching; 23 total modules.
    24 tensors (4.8 MiB) computed in forward pass; 24 tensors (4.8 MiB) saved.
    16 parameter operations (61100840 params total; 233.1 MiB).
    Random seed: 3210097511
    Time elapsed: #s
    Module Hierarchy:
        features:
            features.0, features.1, features.2, features.3, features.4, features.5, features.6, features.7, features.8,
            features.9, features.10, features.11, features.12
        avgpool
        classifier:
            classifier.0, classifier.1, classifier.2, classifier.3, classifier.4, classifier.5, classifier.6
    Layers:
"""
CONV_TEXT = r"""Layer conv2d_3_7, operation 8/24:
    Output tensor: shape=\(1, 384, 13, 13\), dtype=torch.float32, size=253.5 KiB
        tensor\(\[\[(.+,){4}.+\],
( {16}\[(.+,){4}.+\],?
){3} {16}\[(.+,){4}.+\]\]\)\.\.\.
    Params: Computed from params with shape \(384,\), \(384, 192, 3, 3\); 663936 params total \(2.5 MiB\)
    Parent Layers: maxpool2d_2_6
    Child Layers: relu_3_8
    Function: conv2d \(gradfunc=ConvolutionBackward0\) ?
    Computed inside module: features.6
    Time elapsed:  \d\.\d{3}E[-+]\d\ds
    Arguments: kernel_size=3, padding=1
(    Source: .*alexnet\.py:\d+, in forward
)?    Output of modules: features.6
    Output of bottom-level module: features.6
    Lookup keys: -17, 7, conv2d_3_7, (?:.*, )?conv2d_3_7:1, (?:.*, )?features.6, features.6:1"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def log(model, x, vis_opt, depth=None, **options):
    """Run as a listing does, and return the log and the picture that it wrote."""
    history = tl.log_forward_pass(
        model, x, vis_opt=vis_opt, vis_nesting_depth=depth, vis_outpath="model.dot", **options
    )
    dot = history.to_dot("layer", depth, rolled=vis_opt == "rolled")
    assert Path("model.dot").read_text(encoding="utf-8") == dot.to_string()
    return history, pictures.read(dot)


@pytest.fixture(scope="module")
def alexnet():
    return torchvision.models.alexnet()


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 224, 224)


@pytest.fixture(scope="module")
def model_history(alexnet, image):
    torch.manual_seed(3210097511)
    return tl.log_forward_pass(alexnet, image, layers_to_save="all")


# ------------------------------------------------------------------------- the listings


def test_the_recurrent_listing_runs_as_written(capsys):
    x = torch.rand(6, 5)
    simple_recurrent = SimpleRecurrent()
    model_history = tl.log_forward_pass(simple_recurrent, x, layers_to_save="all", vis_opt="rolled")
    print(model_history["linear_1_1:2"].tensor_contents)  # noqa: T201
    assert model_history["linear_1_1:2"].tensor_contents.shape == (6, 5)
    first = (simple_recurrent.fc(x) + 1) * 2
    assert torch.equal(model_history["linear_1_1:2"].tensor_contents, simple_recurrent.fc(first))
    assert capsys.readouterr().out.startswith("tensor([[")


def test_the_alexnet_listing_runs_as_written_and_prints_what_it_shows(capsys):
    alexnet = torchvision.models.alexnet()
    x = torch.rand(1, 3, 224, 224)
    torch.manual_seed(3210097511)
    model_history = tl.log_forward_pass(alexnet, x, layers_to_save="all", vis_opt="unrolled")
    print(model_history)  # noqa: T201
    listed = "".join(f"        {i}: {label} \n" for i, label in enumerate(ALEXNET_LAYERS))
    out = re.sub(r"Time elapsed: \d+\.\d+s", "Time elapsed: #s", capsys.readouterr().out)
    assert out == ALEXNET_TEXT + listed


def test_the_layer_listing_prints_what_it_shows_in_its_order(model_history, capsys):
    print(model_history["conv2d_3_7"])  # noqa: T201
    assert re.fullmatch(CONV_TEXT, capsys.readouterr().out.rstrip("\n"))


def test_the_corner_that_is_printed_is_the_activations(model_history):
    numbers = re.findall(r"-?\d+\.\d{4}", str(model_history["conv2d_3_7"]).split("Params")[0])
    corner = model_history["conv2d_3_7"].tensor_contents[0, 0, :5, :5]
    assert [float(n) for n in numbers] == pytest.approx(corner.flatten().tolist(), abs=6e-5)


def test_the_lookup_keys_that_are_printed_all_give_the_layer(model_history):
    for layer in model_history:
        printed = str(layer).rpartition("Lookup keys: ")[2].split(", ")
        assert printed[:2] == [str(layer.index - 24), str(layer.index)]
        for key in printed:
            assert model_history[int(key) if key.lstrip("-").isdigit() else key] is layer


def test_the_activation_listing_gives_the_tensor(model_history, capsys):
    print(model_history["conv2d_3_7"].tensor_contents)  # noqa: T201
    assert capsys.readouterr().out.startswith("tensor([[[[")
    assert model_history["conv2d_3_7"].tensor_contents.shape == (1, 384, 13, 13)


def test_the_selection_listing_gives_exactly_its_six_labels(alexnet, image, capsys):
    """layers_to_save=['conv2d_3_7', 'features', -5, 'linear']"""
    model_history = tl.log_forward_pass(
        alexnet, image, vis_opt="unrolled", layers_to_save=["conv2d_3_7", "features", -5, "linear"]
    )
    print(model_history.layer_labels)  # noqa: T201
    expected = [
        "conv2d_3_7", "maxpool2d_3_13", "linear_1_17", "dropout_2_19", "linear_2_20", "linear_3_22",
    ]  # fmt: skip
    assert capsys.readouterr().out.strip() == str(expected)
    assert [layer.label for layer in model_history if layer.is_saved] == expected
    saved = sum(layer.tensor_contents.nbytes for layer in model_history if layer.is_saved)
    assert f"6 tensors ({saved / 1024:.1f} KiB) saved" in str(model_history)


# ------------------------------------------------------------------------------ the rows


@pytest.mark.parametrize("name", ["lstm", "resnet18"])
def test_row_1(name):
    """One line, no change to the model: the model, its parameters, buffers, hooks, mode,
    device, the global RNG and torch itself are after the call what a plain forward would
    have left.
    """
    plain, traced = zoo.build(name, training=True), zoo.build(name, training=True)
    torch.manual_seed(3)
    expected = plain.run()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    before = witness.watchers(), witness.attributes_of_torch()
    identities = [(id(p), p.data_ptr(), p.device) for p in traced.module.parameters()]
    history = tl.log_forward_pass(traced.module, traced.args)
    saved = [layer.tensor_contents for layer in history if layer.type == "output"]
    assert [t.tolist() for t in saved] == [t.tolist() for t in witness.tensors(expected)]
    assert torch.equal(torch.get_rng_state(), after)
    assert (witness.watchers(), witness.attributes_of_torch()) == before
    assert identities == [(id(p), p.data_ptr(), p.device) for p in traced.module.parameters()]
    one, other = witness.state_of(plain.module), witness.state_of(traced.module)
    assert other["state"] == one["state"]
    for left, right in zip(one["modules"], other["modules"], strict=True):
        assert (left[0], *left[2:]) == (right[0], *right[2:])


@pytest.mark.parametrize("name", ["alexnet", "gpt2", "recurrent", "googlenet"])
def test_row_2_operations(name):
    """Every operation: function-level layers as in the listing; under them every aten op."""
    program = zoo.shared(name)
    with witness.Witness() as seen:
        program.run()
    with tl.trace(program.module) as trace:
        program.run()
    under = [op.operator for layer in trace for op in layer.ops]
    assert under == [name for name, _ in seen.ops]


def test_row_2_calls_that_dispatch_nothing():
    """`dropout` in eval and other calls that dispatch nothing still count as layers."""
    program = zoo.shared("alexnet")
    history = tl.log_forward_pass(program.module, program.args)
    assert history.layer_labels == ALEXNET_LAYERS
    assert [label for label in ALEXNET_LAYERS[1:-1] if not history[label].ops] == [
        "dropout_1_16", "dropout_2_19",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "label"),
    [
        (lambda x: nn.functional.max_pool2d(x, 2), "maxpool2d_1_1"),
        (lambda x: x + 1, "add_1_1"),
        (lambda x: x.add(1), "add_1_1"),
        (lambda x: x.add_(1), "add_1_1"),
        (torch.Tensor.exp, "exp_1_1"),
    ],
)
def test_row_3_names(call, label):
    """The function's name, lower case, without underscores (`max_pool2d` → `maxpool2d`;
    `__add__`, `add_` → `add`); then its count among its type from 1; then its place among
    all layers from 0 (`input_1_0`). `output_1_23` closes.
    """

    class Model(nn.Module):
        def forward(self, x):
            return call(x)

    history = tl.log_forward_pass(Model(), torch.rand(1, 2, 4, 4))
    assert history.layer_labels == ["input_1_0", label, "output_1_2"]


def test_rows_3_and_4_in_a_loop():
    """Both advance only at a layer's first pass. Passes from 1. In `layer_labels` the pass
    is shown only where a layer has more than one.
    """
    history = tl.log_forward_pass(SimpleRecurrent(), torch.rand(6, 5))
    loop = [f"{name}:{n}" for n in range(1, 5) for name in ("linear_1_1", "add_1_2", "mul_1_3")]
    assert history.layer_labels == ["input_1_0", *loop, "output_1_4"]


@pytest.mark.parametrize(
    "key",
    ["conv2d_3", "conv2d_3:1", "conv2d_3_7", "conv2d_3_7:1", "features.6", "features.6:1", 7, -17],
)
def test_row_5_exact_keys(model_history, key):
    """Full label, short label (`conv2d_3`), with or without `:pass`, module address with or
    without `:pass`, position, negative position.
    """
    assert model_history[key] is model_history.layers[7]


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("features", "maxpool2d_3_13"),
        ("features:1", "maxpool2d_3_13"),
        ("classifier", "linear_3_22"),
        ("avgpool", "adaptiveavgpool2d_1_14"),
        ("flat", "flatten_1_15"),
        ("adaptive", "adaptiveavgpool2d_1_14"),
        ("_23", "output_1_23"),
    ],
)
def test_row_5_modules_and_substrings(model_history, key, label):
    """The layer that leaves that module, at any level: `'features'` is `maxpool2d_3_13`; a
    substring that fits one layer only.
    """
    assert model_history[key].label == label


@pytest.mark.parametrize("save", [None, "none", []])
def test_row_6_nothing(save):
    """`None`/`'none'`/`[]` (metadata only)."""
    history = tl.log_forward_pass(SimpleRecurrent(), torch.rand(6, 5), layers_to_save=save)
    assert len(history.layer_labels) == 14
    assert not any(layer.is_saved for layer in history)
    assert history["linear_1:3"].shape == (6, 5)
    assert "0 tensors (0 B) saved" in str(history)


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        (["add_1_2"], ["add_1_2:1", "add_1_2:2", "add_1_2:3", "add_1_2:4"]),
        (["add_1:3", "add_1_2:1"], ["add_1_2:1", "add_1_2:3"]),
        ([-1, 0, -1, "input"], ["input_1_0", "output_1_4"]),
        (["fc:2", 4, "linear_1_1:2"], ["linear_1_1:2"]),
        (["put", "fc:1"], ["input_1_0", "linear_1_1:1", "output_1_4"]),
        (("mul_1_3:4",), ["mul_1_3:4"]),
    ],
)
def test_row_6_lists(keys, labels):
    """A list in any of the forms of row 5; what is no exact key is a substring that selects
    all that contain it. Result: union, no duplicates, execution order. With a list,
    `layer_labels` holds just the saved ones.
    """
    history = tl.log_forward_pass(SimpleRecurrent(), torch.rand(6, 5), layers_to_save=keys)
    assert history.layer_labels == labels
    assert [layer.label for layer in history if layer.is_saved] == labels
    assert all(layer.tensor_contents.shape == (6, 5) for layer in history if layer.is_saved)


def test_row_6_activations_are_those_that_hooks_see(alexnet, image):
    """`'all'`: every saved activation is bit for bit what a forward hook sees leave a module."""
    seen = {}

    def keep(name):
        return lambda module, args, output: seen.__setitem__(name, output.detach().clone())

    handles = [
        module.register_forward_hook(keep(name)) for name, module in alexnet.named_modules() if name
    ]
    torch.manual_seed(5)
    expected = alexnet(image)
    for handle in handles:
        handle.remove()
    torch.manual_seed(5)
    history = tl.log_forward_pass(alexnet, image)
    assert len(seen) == 23
    leaves = {layer.module for layer in history if layer.module}
    assert len(leaves) == 21  # all but the two Sequentials
    for name in leaves:  # the relus are in place: what they overwrite must have been kept
        assert torch.equal(history[name].tensor_contents, seen[name]), name
    assert torch.equal(history["features"].tensor_contents, seen["features"])
    assert torch.equal(history["flatten"].tensor_contents, torch.flatten(seen["avgpool"], 1))
    assert torch.equal(history[0].tensor_contents, image)
    assert torch.equal(history[-1].tensor_contents, expected)


@pytest.mark.parametrize(("option", "written"), [("none", 0), ("rolled", 1), ("unrolled", 1)])
def test_row_7(option, written, tmp_path):
    """`'none'`, `'rolled'`, `'unrolled'`."""
    tl.log_forward_pass(SimpleRecurrent(), torch.rand(6, 5), vis_opt=option)
    assert len(list(tmp_path.iterdir())) == written


def test_row_8():
    """Passes of one layer folded into one node, `linear_1_1 (x4)`; an edge whose passes
    differ says which (`In 2-4`, `Out 1-3`, `Out 4`).
    """
    _, picture = log(SimpleRecurrent(), torch.rand(6, 5), vis_opt="rolled")
    linear, add, mul = "linear_1_1 (×4)", "add_1_2 (×4)", "mul_1_3 (×4)"
    assert list(picture.nodes) == ["input_1_0", linear, add, mul, "output_1_4"]
    said = {
        ends: (look.get("taillabel"), look.get("headlabel")) for ends, look in picture.edges.items()
    }
    assert said == {
        ("input_1_0", linear): (None, "In 1"),
        (linear, add): (None, None),
        (add, mul): (None, None),
        (mul, linear): ("Out 1-3", "In 2-4"),
        (mul, "output_1_4"): ("Out 4", None),
    }


def test_row_9():
    """Every pass a node, `linear_1_1:2`."""
    history, picture = log(SimpleRecurrent(), torch.rand(6, 5), vis_opt="unrolled")
    assert list(picture.nodes) == history.layer_labels
    chain = history.layer_labels
    assert set(picture.edges) == set(pairwise(chain))
    assert not any({"taillabel", "headlabel"} & set(look) for look in picture.edges.values())


GREEN, RED, GREY, WHITE = "#c9ecc4", "#f8c4bf", "#dcdcdc", "#ffffff"


@pytest.fixture(scope="module")
def alexnet_picture(model_history):
    return pictures.read(model_history.to_dot())


@pytest.mark.parametrize(
    ("title", "lines", "look"),
    [
        ("input_1_0", ["1×3×224×224 (588.0 KiB)"], ("ellipse", GREEN)),
        ("output_1_23", ["1×1000 (3.9 KiB)"], ("ellipse", RED)),
        (
            "conv2d_3_7",
            ["1×384×13×13 (253.5 KiB)", "params 384×192×3×3, 384", "@features.6"],
            ("box", GREY),
        ),
        ("relu_3_8", ["1×384×13×13 (253.5 KiB)", "@features.7"], ("box", WHITE)),
        ("flatten_1_15", ["1×9216 (36.0 KiB)"], ("ellipse", WHITE)),
    ],
)
def test_row_10_nodes(alexnet_picture, title, lines, look):
    """Bold title, output shape and size, parameter shapes, module address; input green,
    output red, layers with parameters grey; box for the output of a leaf module, oval
    otherwise.
    """
    assert alexnet_picture.texts(title) == [title, *lines]
    assert f"<b>{title}</b>" in alexnet_picture.nodes[title]["label"]
    assert alexnet_picture.look(title) == look


def test_row_10_frames_and_caption(alexnet_picture):
    """Boxes around modules with `@address (xN)` and class; the caption gives the model's
    name, tensors (size), parameters (size).
    """
    assert alexnet_picture.caption == [
        "AlexNet", "24 tensors (2.3 MiB newly allocated)", "61,100,840 params (233.1 MiB)",
    ]  # fmt: skip
    frames = {title: frame["lines"][1:] for title, frame in alexnet_picture.frames.items()}
    assert frames == {"@features": ["Sequential"], "@classifier": ["Sequential"]}
    framed = {
        title: [name for name, node in alexnet_picture.nodes.items() if title in node["frames"]]
        for title in frames
    }
    assert framed == {"@features": ALEXNET_LAYERS[1:14], "@classifier": ALEXNET_LAYERS[16:23]}


class Twice(nn.Module):
    """A block of two layers that runs twice."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 5), nn.ReLU())

    def forward(self, x):
        for _ in range(2):
            x = self.block(x)
        return x


@pytest.mark.parametrize(
    ("option", "frames"), [("rolled", ["@block (×2)"]), ("unrolled", ["@block:1", "@block:2"])]
)
def test_row_10_frames_of_modules_that_run_several_times(option, frames):
    """Boxes around modules with `@address (xN)` and class."""
    _, picture = log(Twice(), torch.rand(6, 5), vis_opt=option)
    assert [frame["lines"] for frame in picture.frames.values()] == [
        [title, "Sequential"] for title in frames
    ]
    inside = [name for name, node in picture.nodes.items() if node["frames"]]
    assert len(inside) == 2 * len(frames)


@pytest.fixture(scope="module")
def googlenet():
    program = zoo.shared("googlenet")
    with tl.trace(program.module) as trace:
        program.run()
    return program.module, trace


def module_boxes(picture):
    return {
        title: node["lines"][1:]
        for title, node in picture.nodes.items()
        if node.get("shape") == "box3d"
    }


@pytest.mark.parametrize(
    ("depth", "boxes", "inside"),
    [(1, [], []), (2, ["branch1", "branch2", "branch3", "branch4"], ["cat"])],
)
def test_row_11_an_inception_module(googlenet, depth, boxes, inside):
    """Modules deeper than d become one node (3-D box: address, class, output shape and
    size, number of layers, parameters); edges inside vanish, doubles merge.
    """
    _, trace = googlenet
    picture = pictures.read(trace.to_dot(depth=depth))
    found = module_boxes(picture)
    within = {f"@inception3a.{name}" for name in boxes}
    assert {title for title in found if title.startswith("@inception3a.")} == within
    assert ("@inception3a" in found) == (depth == 1)
    assert ("@inception3a" in picture.frames) == (depth == 2)
    joined = [title for title, node in picture.nodes.items() if "@inception3a" in node["frames"]]
    assert sorted(t.partition("_")[0] for t in set(joined) - within) == inside


def test_row_11_what_a_box_says(googlenet):
    """3-D box: address, class, output shape and size, number of layers, parameters."""
    model, trace = googlenet
    found = module_boxes(pictures.read(trace.to_dot(depth=1)))
    params = sum(p.numel() for p in model.inception3a.parameters())
    assert found["@inception3a"] == [
        "Inception", "2×256×12×12 (288.0 KiB)", "20 layers", f"{params:,} params",
    ]  # fmt: skip
    assert len([title for title in found if title.startswith("@inception")]) == 9


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("option", ["rolled", "unrolled"])
def test_row_11_edges(googlenet, depth, option):
    """Edges inside vanish, doubles merge."""
    _, trace = googlenet
    whole = trace.graph("layer", parameters=False, buffers=False)
    picture = pictures.read(trace.to_dot(depth=depth, rolled=option == "rolled"))
    home = {}
    for node, attributes in whole.nodes(data=True):
        around = [address for address, _, _ in attributes["module_stack"] if address]
        boxes = [f"@{a}" for a in around if f"@{a}" in module_boxes(picture)]
        home[node] = boxes[0] if boxes else node
    expected = {(home[a], home[b]) for a, b in whole.edges if home[a] != home[b]}
    assert set(picture.edges) == expected
    assert set(picture.nodes) == set(home.values())


def test_row_11_the_deepest_level_is_the_whole(googlenet):
    """Modules deeper than d become one node."""
    _, trace = googlenet
    depths = (1, 2, 3, 4, None)  # inception3a.branch2.0.conv lies at 4
    sizes = [len(pictures.read(trace.to_dot(depth=depth)).nodes) for depth in depths]
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    assert sizes[3] == sizes[4] == len(trace)


def test_row_11_the_articles_option(googlenet):
    """`vis_nesting_depth=d`."""
    model, trace = googlenet
    image = zoo.shared("googlenet").args
    _, picture = log(model, image, "rolled", 1, layers_to_save=None)
    other = pictures.read(trace.to_dot(depth=1, rolled=True))
    assert picture.edges == other.edges
    assert [picture.texts(title) for title in picture.nodes] == [
        other.texts(title) for title in other.nodes
    ]


def test_row_12():
    """`swin_v2_b`: logged, drawn, every layer's activation at hand."""
    program = zoo.shared("swin_v2_b")
    expected = program.run()
    history, picture = log(program.module, program.args, vis_opt="unrolled")
    assert 1000 < len(history) < 3000
    assert set(picture.nodes) == set(history.layer_labels)
    for layer in history:
        kept = layer.tensor_contents
        tensors = kept if isinstance(kept, tuple) else (kept,)
        assert [tuple(t.shape) for t in tensors] == [value.shape for value in layer.outputs]
    assert torch.equal(history[-1].tensor_contents, expected)


def test_row_12_activations_are_those_that_hooks_see():
    """Every layer's activation at hand."""
    program = zoo.shared("swin_v2_b")
    seen = {}
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, output.clone())
        )
        for name, module in program.module.named_modules()
        if name.endswith((".attn", ".reduction", "norm1")) or name in {"head", "norm"}
    ]
    program.run()
    for handle in handles:
        handle.remove()
    history = tl.log_forward_pass(program.module, program.args)
    assert len(seen) > 50
    for name, value in seen.items():
        assert torch.equal(history[name].tensor_contents, value), name


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x, steps, exit_early):
        for _ in range(steps):
            x = torch.tanh(self.fc(x)) if steps % 2 else torch.relu(self.fc(x))
        return x if exit_early else self.head(x)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("exit_early", [True, False])
def test_row_15(steps, exit_early):
    """Loops, branches, early exits, whatever ran."""
    history = tl.log_forward_pass(Dynamic(), (torch.rand(2, 4), steps, exit_early))
    act = "tanh" if steps % 2 else "relu"
    head = ["linear"] if not exit_early else [] if steps else ["identity"]
    types = ["input", *["linear", act] * steps, *head, "output"]
    assert [layer.type for layer in history] == types
    graph = history.graph("layer", parameters=False)
    (chain,) = nx.all_simple_paths(graph, history[0].label, history[-1].label)
    assert chain == history.layer_labels


def test_row_16_what_pip_installs():
    """`pip install`, Graphviz for pictures."""
    needed = [text for text in requires("opscope") if "extra ==" not in text]
    assert sorted(re.match(r"[\w-]+", text)[0] for text in needed) == [
        "networkx", "pydot", "rich", "torch",
    ]  # fmt: skip


def test_row_16_without_graphviz(monkeypatch, tmp_path):
    """`pip install`, Graphviz for pictures: without it the listing still runs, and writes DOT."""
    monkeypatch.setattr(picture_room.shutil, "which", lambda name: None)
    monkeypatch.setattr(picture_room, "find_spec", lambda name: None)
    tl.log_forward_pass(SimpleRecurrent(), torch.rand(6, 5), vis_opt="rolled")
    (written,) = tmp_path.iterdir()
    assert written.name == "opscope_graph.dot"
    assert "linear_1_1 (×4)" in written.read_text(encoding="utf-8")


def test_a_very_long_record_is_cut_in_the_middle_and_says_how_to_see_all():
    x = torch.ones(1)
    with torch.no_grad(), tl.trace() as trace:
        for _ in range(2500):
            torch.relu(x)
    lines = str(trace).splitlines()
    first = lines.index("    Layers:") + 1
    assert len(lines) - first == 2001
    left_out = f"{len(trace.layer_labels) - 2000:,}"
    assert lines[first + 1000] == f"        … {left_out} more; trace.layer_labels has all"
    assert lines[first].split() == ["0:", trace.layer_labels[0]]
    assert lines[-1].split() == [f"{len(trace) - 1}:", trace.layer_labels[-1]]
