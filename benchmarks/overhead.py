"""What recording costs: every contender against the bare model, in turns, in one table.

nox -s bench -- --case resnet18 --case gpt2 --only opscope --rounds 50
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median, quantiles

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter

import torch
from contenders import Contender, contenders, options
from models import BUILDERS, Case, build
from rich.console import Console
from rich.table import Table

import opscope

torch.set_num_threads(1)
warnings.simplefilter("ignore")  # the peers' remarks

Cell = tuple[str, str]  # a number, and a remark in small

# What opscope aims at: ops and modules, with layers, with all activations saved.
TARGETS = {
    "resnet18": (1.10, 1.14, 1.25),
    "swin_v2_b": (1.10, 1.14, 1.25),
    "gpt2": (1.08, 1.12, 1.2),
    "gpt2-tiny": (1.6, 1.8, 2.2),
    "resnet18-train": (1.06, 1.08, 1.2),
    "gpt2-train": (1.6, 1.7, 2.0),
}
OURS = ("opscope ops", "opscope", "opscope save")

READINGS: dict[str, Callable[[opscope.Trace], object]] = {
    "recording": lambda trace: trace.recording,
    "layers": lambda trace: trace.passes,
    "layer table": lambda trace: str(trace.summary("layer")),
    "op graph": lambda trace: trace.graph("op"),
    "layer view": lambda trace: trace.graph("layer"),
    "DOT text": lambda trace: trace.to_dot().to_string(),
}


class Stopwatch:
    """Times one run; on an accelerator from idle to idle."""

    def __init__(self, device: str, *, cpu: bool = False) -> None:
        self._clock = time.process_time if cpu else time.perf_counter
        self._wait = (lambda: None) if device == "cpu" else torch.accelerator.synchronize

    def seconds(self, run: Callable[[], object]) -> float:
        self._wait()
        start = self._clock()
        run()
        self._wait()
        return self._clock() - start


def once(case: Case, contender: Contender, watch: Stopwatch) -> float:
    """Return the seconds of one run; what patches torch starts after a bare run each time."""
    with contender.around(), torch.set_grad_enabled(case.trains):
        if contender.patches:
            case.step()
        seconds = watch.seconds(lambda: contender.run(case))
    if contender.patches:
        gc.collect()
    return seconds


def try_out(case: Case, contender: Contender, watch: Stopwatch) -> float | str:
    """Return the seconds of a second run, or why there is none."""
    if case.trains and contender.no_backward:
        return contender.no_backward
    try:
        once(case, contender, watch)  # imports and caches
        return once(case, contender, watch)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def race(
    case: Case, runners: dict[str, Contender], watch: Stopwatch, rounds: int
) -> dict[str, list[float]]:
    """Let all run once a round, in a new order each; return ratios to that round's bare run."""
    ratios: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        order = random.Random(number).sample(sorted(runners), len(runners))
        seconds = {name: once(case, runners[name], watch) for name in order}
        for name, took in seconds.items():
            ratios[name].append(took / seconds["bare"])
    return ratios


def measure(
    case: Case, found: dict[str, Contender], watch: Stopwatch, rounds: int | None
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return each contender's ratios, or why it has none."""
    wall = Stopwatch(str(case.x.device))
    tried = {name: try_out(case, contender, wall) for name, contender in found.items()}
    ratios: dict[str, list[float]] = {}
    for patches, budget, fewest, most in ((True, 12, 3, 9), (False, 30, 7, 101)):
        able = {name: found[name] for name in found if not isinstance(tried[name], str)}
        runners = {name: c for name, c in able.items() if c.patches == patches}
        runners["bare"] = Contender(Case.step, patches)
        fits = int(budget / sum(float(tried[name]) for name in runners))
        fits = max(fewest, min(most, fits))
        if rounds:
            fits = max(fewest, rounds // 10) if patches else rounds
        if len(runners) > 1:
            ratios |= race(case, runners, watch, fits)
    return ratios, {name: reason for name, reason in tried.items() if isinstance(reason, str)}


def reading_times(name: str, device: str) -> list[float]:
    """Return the seconds of a bare run, two traces, and each reading of the second in turn."""

    case, watch = build(name, device), Stopwatch(device)
    trace = opscope.trace()

    def record() -> None:
        nonlocal trace
        with opscope.trace(case.model) as trace:
            case.step()

    def seconds(run: Callable[[], object]) -> float:
        gc.collect()  # or a collection of all that was imported falls into one of them
        return watch.seconds(run)

    with torch.set_grad_enabled(case.trains):
        case.step()
        took = [seconds(run) for run in (case.step, record, record)]
    return took + [seconds(lambda read=read: read(trace)) for read in READINGS.values()]


def spread(values: list[float] | None) -> Cell:
    """Return a median and the quartiles around it."""
    if not values:
        return "–", ""
    low, middle, high = quantiles(values, n=4)
    digits = 2 if middle < 10 else 0
    return f"{middle:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f}"


def show(title: str, header: list[str], rows: list[list[Cell]], *, markdown: bool) -> None:
    """Print a table, for the terminal or for GitHub."""
    if markdown:
        lines = [f"**{title}**\n", f"| {' | '.join(header)} |"]
        lines.append("| --- |" + " ---: |" * (len(header) - 1))
        for row in rows:
            cells = (f"{main} <sub>{small}</sub>" if small else main for main, small in row)
            lines.append(f"| {' | '.join(cells)} |")
        print("\n".join(lines), end="\n\n")
        return
    table = Table(title=title)
    for name in header:
        first = not table.columns
        table.add_column(
            name, justify="left" if first else "right", vertical="middle", no_wrap=first
        )
    for row in rows:
        table.add_row(*(f"{main}\n[dim]{small}[/]" if small else main for main, small in row))
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def main() -> None:
    """Measure what was asked for and print it."""
    found = options() if "--options" in sys.argv else contenders()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=BUILDERS, help="may be repeated")
    parser.add_argument("--only", action="append", choices=found, help="may be repeated")
    parser.add_argument("--options", action="store_true", help="opscope's own, not its peers")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    parser.add_argument("--rounds", type=int, help="a tenth of it for what patches torch")
    parser.add_argument("--markdown", action="store_true", help="print tables for GitHub")
    parser.add_argument("--cpu", action="store_true", help="process CPU time, not wall time")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    chosen = parser.parse_args()

    names = chosen.case or list(BUILDERS)
    found = {n: c for n, c in found.items() if n == "bare" or n in (chosen.only or found)}
    watch = Stopwatch(chosen.device, cpu=chosen.cpu)
    if chosen.check:
        found = {name: found[name] for name in ("bare", "empty mode", *OURS)}
    missed: list[str] = []
    rows: list[list[Cell]] = []
    notes: dict[str, list[str]] = {}
    for name in names:
        case = build(name, chosen.device)
        ratios, reasons = measure(case, found, watch, chosen.rounds)
        counts = sorted({len(values) for values in ratios.values()}, reverse=True)
        bare = median(once(case, found["bare"], watch) for _ in range(9))
        row = [(name, ""), ("/".join(map(str, counts)), ""), (f"{bare * 1e3:.1f} ms", "")]
        rows.append(row + [spread(ratios.get(other)) for other in found if other != "bare"])
        for ours, target in zip(OURS, TARGETS[name], strict=True):
            if ours in ratios and median(ratios[ours]) > target:
                missed.append(f"{name}, {ours}: {median(ratios[ours]):.2f}, not {target}")
        for other, reason in reasons.items():
            notes.setdefault(f"{other}: {reason}", []).append(name)
    clock = "process CPU time" if chosen.cpu else "wall time"
    title = f"{clock} × the bare model's, median and quartiles (torch {torch.__version__})"
    show(title, ["case", "rounds", *found], rows, markdown=chosen.markdown)
    for note, where in notes.items():
        print(f"– {note} ({', '.join(where)})")
    if chosen.check:
        sys.exit("\n".join(["missed:", *missed]) if missed else 0)

    rows = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in names:
            seconds = pool.submit(reading_times, name, chosen.device).result()
            rows.append([(name, ""), *((f"{s * 1e3:.1f}", "") for s in seconds)])
    title = "from a trace to its readings, in a fresh process, ms; each builds on those before it"
    header = ["case", "bare", "first trace", "second trace", *READINGS]
    show(title, header, rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
