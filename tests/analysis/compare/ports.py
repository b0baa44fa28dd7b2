"""A GPT-2 written by hand: other names than transformers', and three projections where it has one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        y = self.norm_a(x)
        q, k, v = (
            p(y).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm_b(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, words=50, places=16, width=16, layers=2, heads=2):
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def ported(original):
    """Return the hand-written model with the weights of transformers' one."""
    model = Gpt().eval()
    known, new = original.state_dict(), {}
    for ours, theirs in (
        ("tokens", "transformer.wte"),
        ("places", "transformer.wpe"),
        ("head", "lm_head"),
    ):
        new[f"{ours}.weight"] = known[f"{theirs}.weight"]
    names = {"norm": "transformer.ln_f"}
    for i in range(len(model.blocks)):
        block, other = f"blocks.{i}.", f"transformer.h.{i}."
        names |= {f"{block}norm_a": f"{other}ln_1", f"{block}norm_b": f"{other}ln_2"}
        for kind in ("weight", "bias"):
            fused = known[f"{other}attn.c_attn.{kind}"].chunk(3, -1)
            for name, part in zip("qkv", fused, strict=True):
                new[f"{block}{name}.{kind}"] = part.t().contiguous()
            for ours, theirs in (
                ("out", "attn.c_proj"),
                ("up", "mlp.c_fc"),
                ("down", "mlp.c_proj"),
            ):
                new[f"{block}{ours}.{kind}"] = known[f"{other}{theirs}.{kind}"].t().contiguous()
    for ours, theirs in names.items():
        new |= {f"{ours}.{kind}": known[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(new)
    return model
