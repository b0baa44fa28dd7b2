"""The real models that tests run, with random weights and small inputs, built in one place."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, relu


@dataclass
class Program:
    """Something to run: a function of tensors, most often a module."""

    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self):
        return self.call if isinstance(self.call, nn.Module) else None

    def run(self):
        return self.call(*self.args, **self.kwargs)

    def state(self):
        """Copies of the buffers, the only state that a forward pass changes."""
        return [] if self.module is None else [b.clone() for b in self.module.buffers()]

    def restore(self, state):
        for buffer, kept in zip(
            [] if self.module is None else self.module.buffers(), state, strict=True
        ):
            buffer.copy_(kept)


class SimpleRecurrent(nn.Module):
    """The article's example."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(in_features=5, out_features=5)

    def forward(self, x):
        for _ in range(4):
            x = self.fc(x)
            x = x + 1
            x = x * 2
        return x


def juggle(x):
    """A function without a module: views, in-place writes, ``out=``, lists, an indexed write."""
    first, second = x.chunk(2)
    first.add_(1)
    y = torch.empty_like(second)
    torch.mul(first, second, out=y)
    y[0] = 5.0
    z = torch.stack([relu(y), x[:2].t().contiguous().t()])
    torch._foreach_mul_([z, y], 2.0)
    return {"z": z.sum(), "rest": [y, z.flatten()]}


@cache
def _torchvision():
    # The wheel is the CUDA one: with a build of torch for the CPU its operators are missing,
    # and its import registers fake kernels for these two.
    library = torch.library.Library("torchvision", "FRAGMENT")
    _load_operators()
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision.models, library


def _load_operators():
    """Load torchvision's operators where they go with this torch, as its import will."""
    found = importlib.util.find_spec("torchvision")
    if found is None:
        pytest.skip("torchvision is not installed", allow_module_level=True)
    for path in Path(found.origin).parent.glob("_C*.so"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(path)


def _image(size):
    return (torch.rand(2, 3, size, size),)


def _vision(name, size, **options):
    return Program(getattr(_torchvision()[0], name)(**options), _image(size))


def _gpt2():
    _torchvision()  # transformers imports it where it is installed
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    ids = torch.randint(50, (2, 7))
    kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Program(GPT2LMHeadModel(config), kwargs=kwargs)


def _vit():
    _torchvision()
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    return Program(ViTModel(config), kwargs={"pixel_values": _image(16)[0]})


def _encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return Program(nn.TransformerEncoder(layer, 2), (torch.rand(2, 5, 16),))


def _swin():
    """The operators of `swin_v2_b`, in a tenth of its layers."""
    _torchvision()
    from torchvision.models import swin_transformer as room

    model = room.SwinTransformer(
        [4, 4], 24, [2, 1], [2, 2], [8, 8], num_classes=10, stochastic_depth_prob=0.2,
        block=room.SwinTransformerBlockV2, downsample_layer=room.PatchMergingV2,
    )  # fmt: skip
    return Program(model.eval(), _image(64))


_BUILDERS: dict[str, Callable[[], Program]] = {
    "alexnet": lambda: _vision("alexnet", 63),
    "resnet18": lambda: _vision("resnet18", 64),
    "googlenet": lambda: _vision("googlenet", 96, init_weights=False),
    "swin_v2_b": lambda: _vision("swin_v2_b", 64),
    "swin": _swin,
    "gpt2": _gpt2,
    "vit": _vit,
    "lstm": lambda: Program(
        nn.LSTM(8, 12, num_layers=2, dropout=0.5, batch_first=True), (torch.rand(2, 5, 8),)
    ),
    "encoder": _encoder,
    "recurrent": lambda: Program(SimpleRecurrent(), (torch.rand(6, 5),)),
    "function": lambda: Program(juggle, (torch.rand(4, 3),)),
}
NAMES = tuple(name for name in _BUILDERS if name != "swin_v2_b")  # which takes seconds
MODULES = tuple(name for name in NAMES if name != "function")
SMALL = ("resnet18", "gpt2", "vit", "lstm", "encoder", "recurrent")
"""Those that are quick to copy."""
HAVE_TRAINING = tuple(name for name in NAMES if name not in {"recurrent", "function"})
"""Those that run otherwise in training: they have dropout or batch norm."""


@cache
def _prototype(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _BUILDERS[name]()


def shared(name, *, training=False):
    """Return the one program of that name, for tests that leave it as it was."""
    program = _prototype(name)
    if program.module is not None:
        program.module.train(training)
    return program


def build(name, *, training=False):
    """Return a program of its own, for tests that change it or let go of it."""
    program = copy.deepcopy(_prototype(name))
    if program.module is not None:
        program.module.train(training)
    return program


def cache_name(module):
    """Return what a model of transformers calls the keys and values of the steps before.

    It is an argument, and a field of what the model gives; its name depends on the version.
    """
    return "cache" if "cache" in signature(module.forward).parameters else "past_key_values"
