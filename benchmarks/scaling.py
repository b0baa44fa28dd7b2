"""How recording and reading grow with the size of a program.

python benchmarks/scaling.py            # up to 100,000 ops; --million for one of 1,000,000
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import opscope

torch.set_num_threads(1)


def seconds(run: Callable[[], object]) -> float:
    """Return how long a run takes, after a collection."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def chain(length: int) -> Callable[[], None]:
    """Return a program of so many ops, each of which frees what the one before made."""

    def run() -> None:
        x = torch.ones(8)
        for _ in range(length - 1):
            x = x + 1

    return run


def recorded(run: Callable[[], None]) -> opscope.Trace:
    """Return the trace of a program."""
    with torch.no_grad(), opscope.trace() as trace:
        run()
    return trace


def resident() -> int:
    """Return the bytes that the process has in memory."""
    pages = open("/proc/self/statm").read().split()[1]  # noqa: PTH123, SIM115
    return int(pages) * resource.getpagesize()


def by_length(lengths: list[int]) -> None:
    """Print the cost per op, and the bytes of the record, of chains of several lengths."""
    for length in lengths:
        run = chain(length)
        with torch.no_grad():
            bare = min(seconds(run) for _ in range(3))
        gc.collect()
        before = resident()
        start = time.perf_counter()
        trace = recorded(run)
        took = time.perf_counter() - start - bare
        trace._block.session.ingest()
        ingested = time.perf_counter() - start - bare
        gc.collect()
        size = (resident() - before) / length
        micro = 1e6 / length
        print(
            f"{length:9,} ops: {took * micro:5.1f} µs/op in the block, "
            f"{ingested * micro:5.1f} once it is ingested, {size:5.0f} B/op"
        )
        del trace


def by_parameters(counts: list[int]) -> None:
    """Print the cost of a foreach op per tensor in its lists."""
    for count in counts:
        lists = [[torch.ones(4) for _ in range(count)] for _ in range(3)]
        repeats = max(3, 3000 // count)

        def run(lists: list[list[torch.Tensor]] = lists, repeats: int = repeats) -> None:
            for _ in range(repeats):
                torch._foreach_addcmul_(lists[0], lists[1], lists[2], 0.1)

        with torch.no_grad():
            bare = min(seconds(run) for _ in range(3))
            watched = min(seconds(lambda run=run: recorded(run)) for _ in range(3))
        each = (watched - bare) / repeats / count
        print(f"{count:6,} tensors a list: {each * 1e6:5.1f} µs/tensor more")


def readings(length: int) -> None:
    """Print how long the readings of a chain take."""
    trace = recorded(chain(length))
    print(f"{length:,} ops: record {seconds(lambda: trace.recording):.2f} s", end=", ")
    print(f"layers {seconds(lambda: trace.passes):.2f} s", end=", ")
    print(f"op graph {seconds(lambda: trace._reading.op_graph):.2f} s", end=", ")
    print(f"layer quotient {seconds(lambda: trace._reading.layer_graph):.2f} s", end=", ")
    print(f"rolled {seconds(lambda: trace.graph('layer', rolled=True)):.2f} s")


def nested(depth: int) -> None:
    """Print how long a model of so many nested modules takes to trace and to show."""
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(depth):
        model = nn.Sequential(model)
    sys.setrecursionlimit(20 * depth + 1000)  # for the model itself
    x = torch.ones(1, 2)
    with opscope.trace(model) as trace:
        model(x)
    sys.setrecursionlimit(1000)
    took = seconds(lambda: (trace.graph("module", 3), trace.summary(depth=3).as_text()))
    dot = seconds(lambda: trace.to_dot().to_string())
    print(f"{depth:,} nested modules: {len(trace.ops)} ops, views {took:.2f} s, DOT {dot:.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", action="store_true", help="a chain of 1,000,000 ops too")
    options = parser.parse_args()
    recorded(chain(100))
    by_length([1_000, 10_000, 100_000] + [1_000_000] * options.million)
    by_parameters([1, 10, 100, 1_000])
    readings(100_000)
    nested(2_000)


if __name__ == "__main__":
    main()
