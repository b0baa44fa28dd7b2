"""A fingerprint is of the structure alone, and of all of it."""

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests import builders, zoo
from torch import nn

import opscope
from opscope.analysis.structure.canonical import hashed
from opscope.analysis.structure.fingerprints import LEVELS, OF_LEVEL, fingerprint_of
from opscope.records.calls import Frame
from opscope.records.ops import Read


def fingerprint(recording, level="layer", parts=None):
    return fingerprint_of(recording, level, OF_LEVEL[level] if parts is None else parts)


def traced(model, *args, **kwargs):
    with torch.no_grad(), opscope.trace(model) as trace:
        model(*args, **kwargs)
    return trace


# ----------------------------------------------------------------- recordings written by hand

SOUND = {name: make for name, make in builders.RECORDINGS.items() if name != "failed"}
SOUND["branch"] = builders.branch


def changed(records, index, **fields):
    """Return records with other fields in one of them."""
    return (*records[:index], replace(records[index], **fields), *records[index + 1 :])


def mutations(recording):
    """Yield recordings in which one thing is another, each with what it is."""
    ops, values, calls = recording.ops, recording.values, recording.layer_calls
    for op in ops:
        yield (
            "operator",
            replace(recording, ops=changed(ops, op.index, operator="aten.other.default")),
        )
        for place, read in enumerate(op.reads):
            others = [
                value.index
                for value in values[: op.outputs[0]]
                if value.origin != "passed_through"
                and value.index not in {r.value for r in op.reads}
                and recording.parameter_of_value.get(value.index) is None
            ]
            for other in others[-2:]:
                reads = (*op.reads[:place], Read(other, read.argument), *op.reads[place + 1 :])
                yield "edge", replace(recording, ops=changed(ops, op.index, reads=reads))
    for call in calls:
        yield "function", replace(recording, layer_calls=changed(calls, call.index, function="f"))
        for value in call.returned:
            shape = (*values[value].shape, 5)
            yield "shape", replace(recording, values=changed(values, value, shape=shape))
            yield "dtype", replace(recording, values=changed(values, value, dtype="int8"))
    for item in recording.parameters:
        for name, fields in (
            ("name", {"name": "renamed"}), ("size", {"shape": (9, 9)}), ("kind", {"kind": "other"})
        ):  # fmt: skip
            parameters = changed(recording.parameters, item.index, **fields)
            yield f"{name} of a parameter", replace(recording, parameters=parameters)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("level", LEVELS)
def test_every_change_of_structure_changes_it(name, level):
    recording = SOUND[name]()
    found = fingerprint(recording, level)
    of_ops = {"operator"} if level == "layer" else {"function", "shape", "dtype"}
    # Layers are told by their functions, and ops by operators; edges that go to the second op of
    # a call within the call are nobody's business at the level of layers.
    seen = set()
    for what, other in mutations(recording):
        if what in of_ops or (what == "edge" and level == "layer" and _is_within(recording, other)):
            continue
        seen.add(what)
        assert fingerprint(other, level) != found, what
    assert seen or not recording.ops


def _is_within(recording, other):
    """Whether the op that reads something else read what its own call made."""
    for before, after in zip(recording.ops, other.ops, strict=True):
        if before.reads != after.reads:
            return before.index != recording.layer_calls[before.layer_call].ops.start
    return False


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("level", LEVELS)
def test_files_lines_times_and_places_in_memory_do_not_matter(name, level):
    recording = SOUND[name]()
    elsewhere = replace(
        recording,
        model_name="Other",
        call_sites=tuple((Frame("/tmp/x.py", 1, "g"),) for _ in recording.call_sites),
        ops=tuple(replace(op, started_ns=5, duration_ns=7, call_site=None) for op in recording.ops),
        values=tuple(
            replace(v, device="cuda:3", storage=None if v.storage is None else v.storage + 40)
            for v in recording.values
        ),
        modules=tuple(replace(m, class_name="C") for m in recording.modules),
        seed=99,
    )
    assert fingerprint(elsewhere, level) == fingerprint(recording, level)


def wired(order, pairs):
    """A layered program whose independent layers run in an order of choice."""
    sketch = builders.Sketch("Net")
    x = sketch.pass_through("input", sketch.outside())
    with sketch.module("", "Net", x):
        made = dict.fromkeys(range(len(pairs)))
        for place in order:
            made[place] = sketch.call(f"f{place}", x)
        for left, right in pairs:
            sketch.call("add", made[left % len(pairs)], made[right % len(pairs)])
    return sketch.build()


@given(
    st.integers(2, 6).flatmap(
        lambda count: st.tuples(
            st.permutations(range(count)),
            st.lists(
                st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=count, max_size=count
            ),
        )
    )
)
def test_the_order_of_independent_branches_does_not_matter(drawn):
    order, pairs = drawn
    for level in LEVELS:
        straight = fingerprint(wired(range(len(pairs)), pairs), level)
        assert fingerprint(wired(order, pairs), level) == straight


def alike(order, wires):
    """A program of calls of one function, of which nothing is done with the last results."""
    sketch = builders.Sketch("")
    x = sketch.outside()
    made = {}
    while len(made) < len(wires):
        for place in order:
            read = wires[place]
            if place not in made and all(source in made for source in read):
                made[place] = sketch.call("f", x, *(made[source] for source in read))
    return sketch.build()


@st.composite
def programs(draw):
    """Draw which of the earlier calls each call reads, and an order that they may run in."""
    count = draw(st.integers(2, 12))
    wires = []
    for place in range(count):
        sources = st.integers(0, place - 1) if place else st.nothing()
        wires.append(tuple(draw(st.lists(sources, max_size=2)) if place else []))
    return wires, draw(st.permutations(range(count)))


@example(([(), (), (), (), (0, 2), (1, 3)], [0, 1, 3, 2, 4, 5]))
@example(([(), (), (), (), (), (), (0, 2), (1, 3), (2, 4), (3, 5)], [0, 1, 3, 2, 4, 5, 6, 7, 8, 9]))
@example(([(), (), (0,), (1,)], [0, 1, 3, 2]))
@settings(max_examples=300)
@given(programs())
def test_the_order_of_calls_that_are_all_alike_does_not_matter(drawn):
    wires, order = drawn
    for level in LEVELS:
        straight = fingerprint(alike(range(len(wires)), wires), level)
        assert fingerprint(alike(order, wires), level) == straight


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=4),
       st.integers(0, 3), st.booleans())  # fmt: skip
def test_another_wire_is_another_program(pairs, which, is_left):
    left, right = pairs[which]
    other = list(pairs)
    other[which] = ((left + 1) % 4, right) if is_left else (left, (right + 1) % 4)
    if sorted(other) != sorted(pairs):
        for level in LEVELS:
            assert fingerprint(wired(range(4), pairs), level) != fingerprint(
                wired(range(4), other), level
            )


def test_one_result_that_is_read_twice_is_not_two_alike():
    def program(is_shared):
        sketch = builders.Sketch("")
        x = sketch.outside()
        one, two = sketch.call("relu", x), sketch.call("relu", x)
        sketch.call("add", one, one if is_shared else two)
        sketch.call("mul", two, two if is_shared else one)
        return sketch.build()

    assert fingerprint(program(is_shared=True)) != fingerprint(program(is_shared=False))


def test_all_writes_through_views_are_wires():
    def program(is_first):
        def run():
            x = torch.zeros(4)
            y = torch.ones(2) * 2
            x[:2].add_(y if is_first else 1)
            x[2:].mul_(3)
            return x + 1

        with opscope.trace() as trace:
            run()
        return trace

    assert opscope.fingerprint(program(is_first=True)) != opscope.fingerprint(
        program(is_first=False)
    )


# ------------------------------------------------------------------------------- real models

SMALL = [
    "alexnet", "convnext_tiny", "densenet121", "densenet161", "densenet169", "densenet201",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "efficientnet_b5", "efficientnet_v2_s", "efficientnet_v2_m", "googlenet", "inception_v3",
    "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "resnet18", "resnet34", "resnet50", "resnet101",
    "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_s", "swin_v2_t", "vgg11", "vgg11_bn",
    "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32",
    "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip


# These work out their widths with tensors, and cannot be made without memory.
REGNETS = [f"regnet_{kind}_{size}" for kind in "xy" for size in ("400mf", "800mf", "1_6gf")]


def on_meta(name, rows=2):
    models = zoo._torchvision()[0]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name in REGNETS else "meta"):
        model = getattr(models, name)(**options).eval().to("meta")
    with torch.device("meta"):
        return traced(model, torch.empty(rows, 3, 299 if name == "inception_v3" else 224, 224))


def test_over_60_models_are_told_apart_and_each_is_the_same_for_every_batch_size():
    known, parts = {}, ["dtypes", "parameters"]
    own = [name for name in zoo.MODULES if name not in SMALL]
    names = [*SMALL, *REGNETS, *own]
    for name in names:
        if name in own:
            program = zoo.build(name)
            trace = traced(program.module, *program.args, **program.kwargs)
        else:
            trace = on_meta(name)
        found = tuple(opscope.fingerprint(trace, level) for level in LEVELS)
        of_any_batch = opscope.fingerprint(trace, include=parts)
        for one in (*found, of_any_batch):
            assert one not in known, (name, known[one])
            known[one] = name
        if name in ("resnet18", "swin_t", "vit_b_16", "densenet121", "shufflenet_v2_x1_0"):
            twice = on_meta(name, rows=6)
            assert opscope.fingerprint(twice) != found[0]
            assert opscope.fingerprint(twice, include=parts) == of_any_batch
    assert len(names) > 60


@pytest.mark.parametrize("name", zoo.MODULES)
@pytest.mark.parametrize("level", LEVELS)
def test_other_weights_and_data_give_the_same(name, level):
    first = zoo.build(name)
    second = zoo.build(name)
    with torch.no_grad():
        for parameter in second.module.parameters():
            parameter.uniform_(0.1, 0.2)
    assert opscope.fingerprint(
        traced(first.module, *first.args, **first.kwargs), level
    ) == opscope.fingerprint(traced(second.module, *second.args, **second.kwargs), level)


def on_device(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", [name for name in zoo.MODULES if name != "gpt2"])
def test_layers_on_the_meta_device_are_those_on_the_cpu(name):
    # In evaluation the encoder is one fused kernel on the CPU, and on no other device.
    program = zoo.build(name, training=name == "encoder")
    here = traced(program.module, *program.args, **program.kwargs)
    args = [on_device(item, "meta") for item in program.args]
    kwargs = {key: on_device(item, "meta") for key, item in program.kwargs.items()}
    there = traced(program.module.to("meta"), *args, **kwargs)
    assert opscope.fingerprint(here) == opscope.fingerprint(there)


class Weighted(nn.Module):
    """Calls a function with two weights and what it is given."""

    def __init__(self, function):
        super().__init__()
        self.first = nn.Parameter(torch.rand(4, 4))
        self.second = nn.Parameter(torch.rand(4, 4))
        self.function = function

    def forward(self, x):
        return self.function(x, self.first, self.second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, v, w: x - v, lambda x, v, w: v - x),
        (lambda x, v, w: x @ v, lambda x, v, w: v @ x),
        (lambda x, v, w: x + (v - w), lambda x, v, w: x + (w - v)),
        (lambda x, v, w: torch.cat([x, v, w]), lambda x, v, w: torch.cat([v, x, w])),
        (lambda x, v, w: torch.where(x > 0, v, w), lambda x, v, w: torch.where(x > 0, w, v)),
        (lambda x, v, w: nn.functional.layer_norm(x, [4, 4], v, w),
         lambda x, v, w: nn.functional.layer_norm(x, [4, 4], w, v)),
    ],
    ids=["sub", "matmul", "sub of weights", "cat", "where", "layer_norm"],
)  # fmt: skip
@pytest.mark.parametrize("level", LEVELS)
def test_weights_that_change_places_are_another_program(one, other, level):
    found = [
        opscope.fingerprint(traced(Weighted(function), torch.rand(4, 4)), level)
        for function in (one, other)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda p, q: torch.linalg.multi_dot([p, q, p]), lambda p, q: torch.linalg.multi_dot([p, q, q])),
        (lambda p, q: torch.linalg.multi_dot([p, p, q]), lambda p, q: torch.linalg.multi_dot([p, q, q])),
        (lambda p, q: torch.einsum("ij,jk,kl->il", p, q, p),
         lambda p, q: torch.einsum("ij,jk,kl->il", p, q, q)),
        (lambda p, q: nn.functional.triplet_margin_loss(p, q, p),
         lambda p, q: nn.functional.triplet_margin_loss(p, q, q)),
    ],
    ids=["multi_dot", "multi_dot, twice in a row", "einsum", "triplet_margin_loss"],
)  # fmt: skip
@pytest.mark.parametrize("level", LEVELS)
def test_a_layer_of_several_ops_that_is_given_another_tensor_twice_is_another(one, other, level):
    found = []
    for function in (one, other):
        with torch.no_grad(), opscope.trace() as trace:
            x = torch.rand(4, 4)
            function(x.relu(), x.sigmoid())
        found.append(opscope.fingerprint(trace, level))
    assert found[0] != found[1]


@pytest.mark.parametrize("name", [name for name in zoo.MODULES if name != "encoder"])
def test_layers_are_the_same_in_every_grad_mode(name):
    """Where `inference_mode` leaves `linear` whole, its op reads in another order."""
    program = zoo.build(name)
    found = set()
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode(), opscope.trace(program.module) as trace:
            program.module(*program.args, **program.kwargs)
        found.add(opscope.fingerprint(trace))
    assert len(found) == 1


def test_attention_by_another_kernel_is_the_same_layer():
    x = torch.rand(2, 4, 8, 16)
    found = []
    for kernel in (nn.attention.SDPBackend.MATH, nn.attention.SDPBackend.FLASH_ATTENTION):
        with nn.attention.sdpa_kernel(kernel), torch.no_grad(), opscope.trace() as trace:
            nn.functional.scaled_dot_product_attention(x, x * 2, x * 3)
        found.append(trace)
    assert len(found[0].ops) != len(found[1].ops)
    assert opscope.fingerprint(found[0]) == opscope.fingerprint(found[1])
    assert opscope.fingerprint(found[0], "op") != opscope.fingerprint(found[1], "op")


PROGRAM = """
import torch, opscope
model = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
with opscope.trace(model) as trace:
    model(torch.rand(2, 5, 16)).sum().backward()
print(opscope.fingerprint(trace), opscope.fingerprint(trace, "op"))
"""


def test_characters_that_an_older_python_has_no_table_of_are_hashed_as_there():
    plain = rb"('\U0001fae8 \ud800',)"
    assert hashed("\U0001fae8 \ud800") == blake2b(plain, digest_size=16).digest()


def test_every_process_finds_the_same():
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().split()) == 2
