"""How recording and reading grow with the size of a program.

python benchmarks/scaling.py            # up to 100,000 ops; --million for one of 1,000,000
python benchmarks/scaling.py --long     # only what it takes to look at long records
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


class Adds(nn.Module):
    """A module of many small ops."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(100):
            x = x + 1
        return x


class Long(nn.Module):
    """A model that calls another so often that there are so many ops."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.block = Adds()
        self.calls = length // 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.calls):
            x = self.block(x)
        return x


def peak() -> int:
    """Return the most bytes that the process had in memory since `forget_peak`."""
    lines = open("/proc/self/status").read().splitlines()  # noqa: PTH123, SIM115
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Have the peak be what there is now."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")


def long_records(lengths: list[int]) -> None:
    """Print what it takes to look at records of several lengths: µs of processor time per op."""
    folded = 200_000  # the longest of which a graph is made
    print(f"{'ops':>9} {'trace':>6} {'read':>6} {'passes':>6} {'rows':>6} {'str':>6} {'rolled':>6}"
          "    peak     left")  # fmt: skip
    for length in lengths:
        model, x = Long(length), torch.ones(8)
        gc.collect()
        before = resident()
        forget_peak()
        took = []

        def timed(run: Callable[[], object], took: list[float] = took) -> None:
            start = time.process_time()
            run()
            took.append(time.process_time() - start)

        with opscope.trace(model) as trace:
            timed(lambda model=model, x=x: model(x))
        timed(lambda trace=trace: trace.recording)
        most = peak() - before
        timed(lambda trace=trace: trace.passes)
        timed(
            lambda trace=trace: [str(trace.summary(each, row_limit=10)) for each in ("layer", "op")]
        )
        timed(lambda trace=trace: str(trace))
        if length <= folded:
            timed(lambda trace=trace: trace.graph("layer", rolled=True))
        del trace
        gc.collect()
        left = resident() - before
        columns = [f"{seconds * 1e6 / length:6.2f}" for seconds in took] + ["     –"]
        print(
            f"{length:9,} {' '.join(columns[:6])} {most / 2**20:4,.0f} MB {left / 2**20:5,.0f} MB"
        )


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
    parser.add_argument("--long", action="store_true", help="only how long records are looked at")
    options = parser.parse_args()
    recorded(chain(100))
    if options.long:
        first = recorded(chain(100))  # libraries are loaded
        for level in ("layer", "op"):
            str(first.summary(level, row_limit=10))
        str(first), first.graph("layer", rolled=True)
        long_records([1_000, 10_000, 100_000] + [1_000_000] * options.million)
        return
    by_length([1_000, 10_000, 100_000] + [1_000_000] * options.million)
    by_parameters([1, 10, 100, 1_000])
    readings(100_000)
    nested(2_000)


if __name__ == "__main__":
    main()
