"""Does a record say all that happened? Real models, traced, replayed and compared bit for bit.

What a trace says that each module gave is held against what a forward hook on it saw.

nox -s zoo -- --only transformers --markdown benchmarks/zoo.md
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import platform
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from zoo_models import Entry, Run, entries

import opscope

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.witness import OutputWitness

torch.set_num_threads(1)
warnings.simplefilter("ignore")  # the models' own

MODES = ("eval", "train")
COLUMNS = (
    "family", "model", "mode", "ops", "compared", "uninitialised", "modules", "gradients", "result",
)  # fmt: skip
Result = Literal["valid", "not valid", "not run"]


@dataclass(frozen=True)
class Row:
    """What came of one model in one mode."""

    entry: Entry
    mode: str
    result: Result
    reason: str = ""
    ops: int | None = None
    compared: int | None = None
    uninitialised: int | None = None
    modules: int | None = None
    gradients: int | None = None

    def cells(self) -> tuple[str, ...]:
        numbers = (self.ops, self.compared, self.uninitialised, self.modules, self.gradients)
        result = f"{self.result}: {self.reason}" if self.reason else self.result
        counts = ("–" if number is None else f"{number:,}" for number in numbers)
        return (self.entry.family, self.entry.name, self.mode, *counts, result)


def tensors(thing: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Give the tensors in an output: in containers, and in objects such as caches."""
    seen = set() if seen is None else seen
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from tensors(item, seen)
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from tensors(item, seen)
    elif not isinstance(thing, (nn.Module, type)) and id(thing) not in seen:
        seen.add(id(thing))
        yield from tensors(getattr(thing, "__dict__", {}), seen)


def step(model: nn.Module, run: Run, mode: str) -> list[torch.Tensor]:
    """Run a model, in training with a backward pass; return all that it gave and left."""
    with torch.set_grad_enabled(mode == "train"):
        found = list(tensors(run(model)))
        if mode == "train":
            parts = [item for item in found if item.requires_grad and item.is_floating_point()]
            torch.stack([(part * part).mean() for part in parts]).sum().backward()
    found += [item.grad for item in model.parameters() if item.grad is not None]
    return [item.detach().clone() for item in (*found, *model.buffers())]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether two runs gave the same, bit for bit."""
    return len(one) == len(other) and all(map(same_bits, one, other))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (item.contiguous().reshape(-1).view(torch.uint8) for item in (one, other))
    return torch.equal(first, second)


def seed() -> None:
    """Start all random numbers anew: some models mask by NumPy's."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - it is theirs


def try_out(entry: Entry, mode: str) -> Row:
    """Run a model without a trace and with one, and replay that."""
    torch.manual_seed(0)
    try:
        model, run = entry.build()
        model.train(mode == "train")
        bare = copy.deepcopy(model)
        seed()
        expected = step(bare, run, mode)
    except Exception as error:
        return Row(entry, mode, "not run", short(error))
    try:
        seed()
        train = mode == "train"
        hooks = OutputWitness(model, gradients=train)
        gradients = "all" if train else "none"
        with hooks, opscope.trace(model, replayable=True, save="all", gradients=gradients) as trace:
            found = step(model, run, mode)
        report = trace.validate()
        wrong, modules = hooks.differences(trace)
        unlike, reached = hooks.gradient_differences(trace)
    except Exception as error:
        return Row(entry, mode, "not valid", short(error))
    reason = ""
    if not report:
        reason = " ".join(str(report).split())
    elif not same(expected, found):
        reason = "the traced run gave something else than the run without a trace"
    elif not report.outputs:
        reason = "no output was compared"
    elif wrong:
        reason = f"{len(wrong)} modules gave something else, {wrong[0]} among them"
    elif unlike:
        reason = f"other gradients reached {len(unlike)} modules, {unlike[0]} among them"
    return Row(
        entry, mode, "not valid" if reason else "valid", reason,
        report.ops, report.compared, report.uninitialised, modules, reached,
    )  # fmt: skip


def short(error: Exception) -> str:
    """Return what was raised, on one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) < 160 else f"{text[:159]}…"


def tally(rows: list[Row]) -> str:
    """Return how many there are of each result, in words."""
    count = Counter(row.result for row in rows)
    models = len({row.entry for row in rows if row.result != "not run"})
    parts = [f"{count[result]} {result}" for result in ("valid", "not valid", "not run")]
    values = sum(row.compared or 0 for row in rows)
    modules = sum(row.modules or 0 for row in rows)
    gradients = sum(row.gradients or 0 for row in rows)
    return (
        f"{models} models run: {', '.join(parts)}; {values:,} values, the outputs of {modules:,} "
        f"module runs and the gradients that reached {gradients:,} compared"
    )


def table(rows: list[Row]) -> Table:
    found = Table(*COLUMNS, caption=tally(rows), caption_justify="left")
    for column in found.columns[3:8]:
        column.justify = "right"
    for row in rows:
        style = {"valid": None, "not valid": "red", "not run": "yellow"}[row.result]
        found.add_row(*row.cells(), style=style)
    return found


HEADER = """\
# Replay of real models

Every model runs without a trace and with one, from the same seed, in evaluation under
`no_grad` and in training with dropout and a backward pass; weights are random, inputs and
configurations small. A model is *valid* if `trace.validate()` reproduces every value bit for
bit and the traced run gave, bit for bit, the outputs, gradients and buffers of the run without
a trace; and if what the trace says that each module gave is, bit for bit, what a forward hook on
it saw, and in training the gradient that reached it what a hook on that tensor saw. *Not run* are those that cannot be built or run without a trace either. Decoders run in
evaluation twice, the second time with the cache of the first. *Uninitialised* is memory that
nothing was written to yet; it cannot be compared.

    nox -s zoo -- --markdown benchmarks/zoo.md

"""


def markdown(rows: list[Row]) -> str:
    packages = ("torch", "torchvision", "timm", "transformers")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    lines = [
        f"Python {platform.python_version()}, {', '.join(versions)}, on the CPU.\n",
        f"**{tally(rows)}**\n",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [f"| {' | '.join(c.replace('|', '∣') for c in row.cells())} |" for row in rows]
    return HEADER + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="of family/model")
    parser.add_argument("--part", default="1/1", metavar="i/n", help="every n-th model")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    chosen = [e for e in entries() if options.only in f"{e.family}/{e.name}"][part - 1 :: parts]
    start = time.perf_counter()
    rows = []
    for entry in chosen:
        for mode in MODES:
            since = time.perf_counter()
            row = try_out(entry, mode)
            rows.append(row)
            seconds = time.perf_counter() - since
            print(f"{seconds:5.1f} s  {'  '.join(row.cells())}", file=sys.stderr, flush=True)
        gc.collect()
    console = Console()
    console.print(table(rows))
    console.print(f"{time.perf_counter() - start:.0f} s")
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows), encoding="utf-8")
    return 1 if any(row.result == "not valid" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
