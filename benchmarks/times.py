"""How far the times that opscope tells leave its own cost out: sums beside the bare run.

python benchmarks/times.py [--rounds N] [--case NAME ...] [--markdown]

The bare model and the traced one run in turns, in one process, on one thread. Told are the sum of
the times of all ops (of which every table and `trace.breakdown` are made), beside the bare run; and
how long the traced run itself took, which no table tells.
"""

from __future__ import annotations

import argparse
from statistics import median, quantiles
from time import perf_counter_ns

import torch
from models import Case, build
from overhead import show

import opscope

CASES = ("resnet18", "swin_v2_b", "gpt2", "gpt2-tiny", "resnet18-train", "gpt2-train")


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return the sums over the bare run of the same round."""
    found: dict[str, list[float]] = {"ops": [], "traced": []}
    for turn in range(rounds + 2):
        started = perf_counter_ns()
        case.step()
        bare = perf_counter_ns() - started
        started = perf_counter_ns()
        with opscope.trace(case.model) as trace:
            case.step()
        traced = perf_counter_ns() - started
        if turn >= 2:  # the first ones warm up
            found["ops"].append(sum(op.duration_ns for op in trace.ops) / bare)
            found["traced"].append(traced / bare)
    return found


def main() -> None:
    """Measure each case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.case or CASES:
        case = build(name)
        with torch.set_grad_enabled(case.trains):
            found = measure(case, options.rounds)
        cells = []
        for numbers in found.values():
            low, _, high = quantiles(numbers, n=4)
            cells.append((f"{median(numbers):.2f}", f"{low:.2f}–{high:.2f}"))
        rows.append([(name, ""), *cells])
    title = "time × the bare run's, median and quartiles"
    show(title, ["case", "sum of ops", "traced run"], rows, markdown=options.markdown)


if __name__ == "__main__":
    main()
