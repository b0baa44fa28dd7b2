"""Where the microseconds per op go: parts of opscope left out in turn, and parts alone.

python benchmarks/profile_hot_path.py [--rounds N]

The model is the worst case of overhead.py, 166 tiny ops. Leaving a part out in a real
model shows what it costs there, with cold caches; alone in a hot loop it costs less.
The first table is of process CPU time, which a busy machine disturbs less; what is left out
is not independent of the rest, so the parts do not add up to all.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from random import Random
from statistics import median, quantiles
from time import perf_counter, process_time
from timeit import Timer

import torch
from models import Case, build
from overhead import show
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import opscope
from opscope.capture.log.event_log import Log, LogRow
from opscope.capture.log.snapshots import take_snapshot
from opscope.capture.session import Session


class LeanMode(TorchDispatchMode):
    """The empty mode, without the wrapper that opscope does without."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func._op(*args, **kwargs) if kwargs else func._op(*args)


class ConstantMode(LeanMode):
    """Returns the same tensor whatever is asked: the hop from C++ to Python and back."""

    constant = torch.ones(8)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.constant


class EmptyFunctionMode(TorchFunctionMode):
    """Sees every torch function and does nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Ignore(list):
    """A column that nothing is written to."""

    def __iadd__(self, items):
        return self

    def append(self, item):
        pass


def keep(session: Session) -> None:
    """Leave nothing out."""


class Blind(Log):
    """Looks at no tensor."""

    __slots__ = ()

    def read(self, tensor):
        return SNAPSHOT[0]

    def note(self, tensor):
        return SNAPSHOT


class Nowhere(Log):
    """Looks at no frame."""

    __slots__ = ()

    def chain(self, frame):
        return ()


def no_snapshots(session: Session) -> None:
    session.tables.log.__class__ = Blind


def no_rows(session: Session) -> None:
    session.tables.log.ops = Ignore()


def no_frames(session: Session) -> None:
    session.tables.log.__class__ = Nowhere


def no_calls(session: Session) -> None:
    session.tables.log.events = Ignore()


def no_modules(session: Session) -> None:
    session.modules.install = session.modules.remove = lambda: None


SNAPSHOT = take_snapshot(torch.ones(1))
PARTS: dict[str, Callable[[Session], None]] = {
    "identity and metadata of tensors": no_snapshots,
    "append the op's row": no_rows,
    "frames of the caller": no_frames,
    "append calls and module runs": no_calls,
    "module hooks": no_modules,
}


def record(case: Case, leave_out: Callable[[Session], None] = keep, *, layers: bool = True) -> None:
    """Run the case recorded, all but one part."""
    session = Session(case.model, layers=layers)
    leave_out(session)
    session.start(sys._getframe())
    case.step()
    session.stop(None, None)


def enter_and_leave(case: Case) -> None:
    session = Session(case.model, layers=True)
    session.start(sys._getframe())
    session.stop(None, None)


def inside(mode: Callable[[], TorchDispatchMode | TorchFunctionMode], case: Case) -> None:
    with mode():
        case.step()


def without_gc(case: Case) -> None:
    gc.disable()
    record(case)
    gc.enable()


def in_situ(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each variant, in turns, each run warmed up by itself."""
    variants: dict[str, Callable[[], object]] = {
        "bare": case.step,
        "empty mode": lambda: inside(LeanMode, case),
        "empty function mode": lambda: inside(EmptyFunctionMode, case),
        "all": lambda: record(case),
        "layers=False": lambda: record(case, layers=False),
        "session": lambda: enter_and_leave(case),
        "garbage collection": lambda: without_gc(case),
    }
    for name, part in PARTS.items():
        variants[name] = lambda part=part: record(case, part)
    took: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in Random(number).sample(sorted(variants), len(variants)):
            variants[name]()
            start = process_time()
            variants[name]()
            took[name].append(process_time() - start)
    return took


def alone(case: Case) -> dict[str, float]:
    """Return the seconds of single steps in a hot loop."""
    x = torch.ones(8)
    log = Log()
    log.read(x)
    frame = sys._getframe()
    log.boundary = sys._getframe(1)
    row = (None,) * len(LogRow._fields)

    def loop(step: Callable[[], object], mode: object = None) -> float:
        def timed() -> float:
            return min(Timer(step).repeat(9, 2000)) / 2000

        if mode is None:
            return timed()
        with mode:
            return timed()

    def add() -> torch.Tensor:
        return torch.add(x, x)

    def sees_assignments() -> None:
        log.sees_assignments = True

    bare = loop(add)
    read = loop(lambda: log.read(x))
    sees_assignments()
    return {
        "an op, bare": bare,
        "hop from C++ to Python, no op": loop(add, ConstantMode()),
        "+ hop and redispatch": loop(add, LeanMode()) - bare,
        "+ function mode": loop(add, EmptyFunctionMode()) - bare,
        "opscope ops": loop(add, opscope.trace(layers=False)) - bare,
        "opscope": loop(add, opscope.trace()) - bare,
        "an input, known": loop(lambda: log.read(x)),
        "an input, known, layers=False": read,
        "an output: its snapshot": loop(lambda: take_snapshot(x)),
        "append the op's row": loop(lambda: log.ops.extend(row)),
        "frames of the caller, one": loop(lambda: log.chain(frame)),
        "ingest an op, later": ingested(case),
    }


def ingested(case: Case) -> float:
    """Return the seconds to ingest an op of the case, its layer call and module runs included."""
    took = []
    for _ in range(20):
        session = Session(case.model, layers=True)
        session.start(sys._getframe())
        case.step()
        session.stop(None, None)
        start = perf_counter()
        session.ingest()
        took.append((perf_counter() - start) / session.tables.op_count)
    return median(took)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    case = build("gpt2-tiny")
    with torch.no_grad():
        session = Session(case.model, layers=True)
        session.start(sys._getframe())
        case.step()
        session.stop(None, None)
        ops, took = session.tables.log.op_count, in_situ(case, rounds)
        tight = alone(case)

    def cost(more: str, less: str = "") -> tuple[str, str]:
        zero = [0.0] * rounds
        pairs = zip(took.get(more, zero), took.get(less, zero), strict=True)
        low, _, high = quantiles(((a - b) / ops * 1e6 for a, b in pairs), n=4)
        middle = (median(took.get(more, zero)) - median(took.get(less, zero))) / ops * 1e6
        return f"{middle:.1f}", f"{low:.1f} to {high:.1f}"

    rows = [[("bare model", ""), cost("bare")]]
    over = ("all", "layers=False", "empty mode", "empty function mode")
    rows += [[(f"{name}, over bare", ""), cost(name, "bare")] for name in over]
    rows.append([("- entering and leaving, of all", ""), cost("session")])
    rows.append([("- layers, of all", ""), cost("all", "layers=False")])
    rows += [
        [(f"- {name}, of all", ""), cost("all", name)] for name in (*PARTS, "garbage collection")
    ]
    show(f"in the model, µs per op ({ops} ops)", ["part", "µs"], rows, markdown=False)
    rows = [[(name, ""), (f"{seconds * 1e6:.2f}", "")] for name, seconds in tight.items()]
    show("alone, in a hot loop", ["part", "µs"], rows, markdown=False)


if __name__ == "__main__":
    main()
