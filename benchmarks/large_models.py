"""The memory of training steps that this machine could not run: Llamas of 7 and 70 billion parameters.

python benchmarks/large_models.py [--tokens N]

Two steps of AdamW in bf16 on fake tensors, which have sizes and no data: on them attention is the fused
kernel, as it is where a model is trained. On ``meta`` torch takes it apart, and all scores are kept.
"""

from __future__ import annotations

import argparse
from time import process_time

import torch
from models import torchvision_models
from rich.console import Console
from rich.table import Table
from torch._subclasses import FakeTensorMode

import opscope

SIZES = {
    "7B": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "70B": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8,
    },
}  # fmt: skip


def memory_of(sizes: dict[str, int], tokens: int, *, checkpointed: bool):
    """Return the memory of two steps of a Llama of these sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32000, use_cache=False, **sizes)
    with FakeTensorMode() as fake:
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config).train()
        torch.set_default_dtype(torch.float32)
        x = torch.zeros(1, tokens, dtype=torch.long)
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
    if checkpointed:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters())
    with opscope.trace(model, memory=True) as trace, fake:
        for _ in range(2):
            optimizer.zero_grad()
            model(x, attention_mask=mask, labels=x).loss.backward()
            optimizer.step()
    return trace.memory


def main() -> None:
    """Look at each and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    torchvision_models()  # transformers imports torchvision, which has to find its operators
    table = Table(title=f"peak of two steps of AdamW, bf16, {options.tokens:,} tokens, GiB")
    names = ("parameters", "optimizer", "gradients", "activations", "temporaries")
    for title in ("model", "checkpointed", "peak", "in", *names, "seconds"):
        table.add_column(title, justify="right")
    for name, sizes in SIZES.items():
        for checkpointed in (False, True):
            started = process_time()
            memory = memory_of(sizes, options.tokens, checkpointed=checkpointed)
            parts = memory.by_category()
            cells = [f"{parts.get(part, 0) / 2**30:.1f}" for part in names]
            table.add_row(
                name, "yes" if checkpointed else "no", f"{memory.peak / 2**30:.1f}",
                memory.phase, *cells, f"{process_time() - started:.0f}",
            )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
