"""What five tools say of five models in one table each, and what that costs.

python benchmarks/tables.py [TOOL ...]

Told are parameters and multiply-adds, the lines of the table and its width, and process CPU time for running,
looking and printing over that of the bare run: the median of three rounds after one that warms up.
torchinfo, tabulate (for torch's FLOP counter) and TorchLens are run where they are installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from statistics import median
from time import process_time

import torch
from models import torchvision_models
from rich.console import Console
from rich.table import Table
from torch import nn

ROUNDS = 3
Told = tuple[str, dict[str, int]]  # the table as text, and its numbers


class UNet(nn.Module):
    """Two steps down, two up, with what was there beside."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32)])
        self.middle = _block(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.larger = nn.ModuleList(
            [nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)]
        )
        self.up = nn.ModuleList([_block(64, 32), _block(32, 16)])
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = []
        for block in self.down:
            x = block(x)
            beside.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for larger, block in zip(self.larger, self.up, strict=True):
            x = block(torch.cat([larger(x), beside.pop()], 1))
        return self.out(x)


def _block(before: int, after: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for channels in (before, after):
        parts += [nn.Conv2d(channels, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts)


def cases() -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    models = torchvision_models()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    yield "ResNet-18", models.resnet18(), torch.rand(1, 3, 224, 224)
    yield "ViT-B/16", models.vit_b_16(), torch.rand(1, 3, 224, 224)
    yield "GPT-2", GPT2LMHeadModel(GPT2Config()), torch.randint(0, 50257, (1, 64))
    yield "LSTM", nn.LSTM(64, 128, 2, batch_first=True), torch.rand(4, 50, 64)
    yield "U-Net", UNet(), torch.rand(1, 3, 128, 128)


def opscope(model: nn.Module, x: torch.Tensor) -> Told:
    from opscope import trace as tracing

    with torch.no_grad(), tracing(model) as trace:
        model(x)
    return str(trace.summary()), {"params": trace.totals.params, "macs": trace.costs.forward.macs}


def torchinfo(model: nn.Module, x: torch.Tensor) -> Told:
    from torchinfo import summary

    names = (
        "input_size", "output_size", "num_params", "params_percent", "kernel_size", "mult_adds",
        "trainable",
    )  # fmt: skip
    found = summary(model, input_data=[x], verbose=0, depth=5, col_names=names)
    return str(found), {"params": found.total_params, "macs": found.total_mult_adds}


def flop_counter(model: nn.Module, x: torch.Tensor) -> Told:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False, depth=5) as counter:
        model(x)
    return counter.get_table(5), {"macs": counter.get_total_flops() // 2}


def profiler(model: nn.Module, x: torch.Tensor) -> Told:
    wanted = {"record_shapes": True, "profile_memory": True, "with_flops": True}
    with torch.no_grad(), torch.profiler.profile(**wanted) as profile:
        model(x)
    rows = profile.key_averages()
    text = rows.table(sort_by="self_cpu_time_total", row_limit=1000)
    return text, {"macs": sum(row.flops or 0 for row in rows) // 2}


def torchlens(model: nn.Module, x: torch.Tensor) -> Told:
    import torchlens as tl

    return str(tl.trace(model, x).summary()), {}


TOOLS: dict[str, Callable[[nn.Module, torch.Tensor], Told]] = {
    "opscope": opscope, "torchinfo": torchinfo, "FlopCounterMode": flop_counter,
    "profiler": profiler, "TorchLens": torchlens,
}  # fmt: skip


def cost(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        started = process_time()
        run()
        times.append(process_time() - started)
    return median(times)


def main() -> None:
    torch.set_num_threads(1)
    table = Table("model", "tool", "parameters", "GMAC", "lines", "width", "cost over bare")
    for name, model, x in cases():
        model.eval()
        with torch.no_grad():
            bare = cost(lambda model=model, x=x: model(x))
        for tool in sys.argv[1:] or TOOLS:
            look = TOOLS[tool]
            try:
                text, numbers = look(model, x)
            except ImportError as error:
                table.add_row(name, tool, f"not installed: {error.name}")
                continue
            took = cost(lambda look=look, model=model, x=x: look(model, x))
            lines = text.splitlines()
            params, macs = numbers.get("params"), numbers.get("macs")
            table.add_row(
                name, tool, "–" if params is None else f"{params:,}",
                "–" if macs is None else f"{macs / 1e9:.4g}",
                str(len(lines)), str(max(map(len, lines))), f"{took / bare:.2f}",
            )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
