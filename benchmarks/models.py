"""The models that are measured, with random weights; torchvision works on any build of torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A model, its input, and whether a backward pass follows the forward."""

    model: nn.Module
    x: torch.Tensor
    trains: bool

    def step(self) -> None:
        """Run the model once."""
        y = self.model(self.x)
        if self.trains:
            self.loss(y).backward()
            self.model.zero_grad()

    @staticmethod
    def loss(y: object) -> torch.Tensor:
        """Return one number to call backward on."""
        return getattr(y, "logits", y).mean()


def resnet18() -> tuple[nn.Module, torch.Tensor]:
    models = torchvision_models()
    return models.resnet18(), torch.randn(1, 3, 224, 224)


def swin_v2_b() -> tuple[nn.Module, torch.Tensor]:
    models = torchvision_models()
    return models.swin_v2_b(), torch.randn(1, 3, 224, 224)


def gpt2(layers: int, width: int, sequence: int) -> tuple[nn.Module, torch.Tensor]:
    torchvision_models()  # transformers imports torchvision where it is installed
    from transformers import GPT2Config, GPT2LMHeadModel

    heads = width // 64 if width > 64 else 4
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, use_cache=False)
    return GPT2LMHeadModel(config), torch.randint(0, config.vocab_size, (1, sequence))


BUILDERS: dict[str, tuple[Callable[[], tuple[nn.Module, torch.Tensor]], bool]] = {
    "resnet18": (resnet18, False),
    "swin_v2_b": (swin_v2_b, False),
    "gpt2": (lambda: gpt2(12, 768, 64), False),
    "gpt2-tiny": (lambda: gpt2(4, 64, 8), False),
    "resnet18-train": (resnet18, True),
    "gpt2-train": (lambda: gpt2(12, 768, 64), True),
}


def build(name: str, device: str = "cpu") -> Case:
    """Build a case on a device."""
    torch.manual_seed(0)
    builder, trains = BUILDERS[name]
    model, x = builder()
    return Case(model.to(device).train(trains), x.to(device), trains)


_stand_in = torch.library.Library("torchvision", "FRAGMENT")


def torchvision_models():
    """Return ``torchvision.models``, which a build for CUDA has with a CPU torch as well.

    Its C++ operators are missing then, of which the import names two.
    """
    spec = importlib.util.find_spec("torchvision")
    for library in Path(spec.origin).parent.glob("_C.*"):
        with suppress(OSError):
            torch.ops.load_library(library)
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _stand_in.define(name + schema)
    from torchvision import models

    return models
