"""Are the FLOPs right? Real models, in evaluation and in a step of training, beside torch's counter.

nox -s flops -- --markdown benchmarks/flops.md

Where both differ, it says for which operators, and why.
"""

from __future__ import annotations

import argparse
import gc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import opscope
from zoo import MODES, Entry, entries, seed, short, step

WHY = {
    "_scaled_dot_product_flash_attention_for_cpu": "torch has no formula for attention on a CPU",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "torch has no formula for it on a CPU",
    "mkldnn_rnn_layer": "torch has no formula for oneDNN's LSTM",
    "mkldnn_rnn_layer_backward": "torch has no formula for oneDNN's LSTM",
    "_native_multi_head_attention": "torch has no formula for the fast path of attention",
    "_transformer_encoder_layer_fwd": "torch has no formula for the fast path of encoder layers",
    "convolution_backward": "torch counts the weight's gradient as if there were no groups",
    "addmv": "torch counts no product of a matrix with a vector",
    "mv": "torch counts no product of a matrix with a vector",
    "dot": "torch counts no product of two vectors",
    "vdot": "torch counts no product of two vectors",
    "_grouped_mm": "torch has no formula for products of groups, as experts are",
    "linalg_solve_triangular": "torch has no formula for solving triangular systems",
    "_euclidean_dist": "torch has no formula for distances, which are a product",
}


@dataclass(frozen=True)
class Row:
    """What both counted of one model in one mode, in FLOPs by operator."""

    entry: Entry
    mode: str
    reason: str = ""
    own: Counter[str] = field(default_factory=Counter)
    torchs: Counter[str] = field(default_factory=Counter)
    unknown: tuple[str, ...] = ()

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """By operator, what each of both counted, where that differs."""
        names = sorted({*self.own, *self.torchs})
        both = {name: (self.own[name], self.torchs[name]) for name in names}
        return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def try_out(entry: Entry, mode: str) -> Row:
    """Count one model with both."""
    torch.manual_seed(0)
    try:
        model, run = entry.build()
        model.train(mode == "train")
        counter = FlopCounterMode(display=False)
        seed()
        with counter:
            step(model, run, mode)
        model.zero_grad()
        seed()
        with opscope.trace(model) as trace:
            step(model, run, mode)
    except Exception as error:
        return Row(entry, mode, short(error))
    own: Counter[str] = Counter()
    for operator, work in trace.costs.operators.items():
        if work.flops:
            own[operator.split(".")[1].removesuffix("_")] += work.flops
    torchs = Counter({
        str(packet).partition(".")[2]: count
        for packet, count in counter.get_flop_counts()["Global"].items()
    })  # fmt: skip
    unknown = tuple(item.operator for item in trace.costs.unknown)
    return Row(entry, mode, "", own, torchs, unknown)


def report(rows: list[Row]) -> str:
    """Return what came of it, as Markdown."""
    ran = [row for row in rows if not row.reason]
    equal = [row for row in ran if not row.differences]
    explained = [row for row in ran if row.differences and set(row.differences) <= set(WHY)]
    lines = [
        f"{len(ran)} runs of {len({row.entry for row in ran})} models: {len(equal)} equal, operator "
        f"by operator; {len(explained)} differ only in operators that torch counts wrongly or not at "
        f"all; {len(ran) - len(equal) - len(explained)} differ otherwise; "
        f"{len(rows) - len(ran)} could not be run.",
        "",
        "| operator | why | runs | opscope, GFLOP | torch, GFLOP |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    sums: dict[str, list[int]] = {}
    for row in ran:
        for name, (own, torchs) in row.differences.items():
            known = sums.setdefault(name, [0, 0, 0])
            for place, number in enumerate((1, own, torchs)):
                known[place] += number
    for name, (runs, own, torchs) in sorted(sums.items()):
        why = WHY.get(name, "**not explained**")
        lines.append(f"| `{name}` | {why} | {runs} | {own / 1e9:.3f} | {torchs / 1e9:.3f} |")
    unknown = Counter(name for row in ran for name in row.unknown)
    lines += [
        "",
        "Not known to opscope: "
        + (
            ", ".join(f"`{name}` (in {count} runs)" for name, count in sorted(unknown.items()))
            or "nothing"
        )
        + ".",
    ]
    lines += [f"Not run: {row.entry.name} ({row.mode}), {row.reason}" for row in rows if row.reason]
    return "\n".join(lines) + "\n"


HEADER = """\
# FLOPs beside torch's `FlopCounterMode`

Each model of the zoo in evaluation and in a step of training, with random weights and small
inputs; both count products by the shapes of each operator, a multiplication and an addition as two.

    nox -s flops -- --markdown benchmarks/flops.md

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="text in the family or name of a model")
    parser.add_argument("--part", default="1/1", help="1/3 for the first third of the models")
    parser.add_argument("--markdown", type=Path, help="where to write what came of it")
    options = parser.parse_args()
    chosen = [
        entry for entry in entries()
        if not options.only or any(text in f"{entry.family} {entry.name}" for text in options.only)
    ]  # fmt: skip
    part, parts = map(int, options.part.split("/"))
    rows = []
    for entry in chosen[part - 1 :: parts]:
        for mode in MODES:
            rows.append(try_out(entry, mode))
            print(
                entry.name,
                mode,
                rows[-1].reason or rows[-1].differences or "equal",
                rows[-1].unknown,
            )
            gc.collect()
    text = report(rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(HEADER + text)


if __name__ == "__main__":
    main()
