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
from time import process_time
from timeit import Timer

import torch
from models import Case, build
from overhead import show
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from opscope.capture.operators import Plan
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

    def extend(self, items):
        pass


def keep(session: Session) -> None:
    """Leave nothing out."""


def no_values(session: Session) -> None:
    session.tape.values.seen(torch.ones(1))  # row 0, which is all that there is
    session.tape.values.seen = session.tape.values.made = lambda *_, **__: 0


def no_row(session: Session) -> None:
    session.tape.ops = session.tape.op_numbers = Ignore()


def no_places(session: Session) -> None:
    session.tape.places.of = lambda *_: 0


def no_calls(session: Session) -> None:
    session._functions._add = lambda *_, **__: None


def no_modules(session: Session) -> None:
    session.modules.install = session.modules.remove = lambda: None


def no_plans(session: Session) -> None:
    session._interceptor._plans = PLANS


PLANS: dict[int, Plan] = {}
PARTS: dict[str, Callable[[Session], None]] = {
    "identity and metadata of tensors": no_values,
    "append the op's row": no_row,
    "places": no_places,
    "append the layer call": no_calls,
    "module hooks": no_modules,
    "operators' plans, made once a trace": no_plans,
}


def record(case: Case, leave_out: Callable[[Session], None] = keep, *, layers: bool = True) -> None:
    """Run the case recorded, all but one part."""
    session = Session(case.model, layers=layers, save=False)
    leave_out(session)
    session.start(sys._getframe())
    case.step()
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
        "session": lambda: Session(case.model, layers=True, save=False),
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
    session = Session(case.model, layers=True, save=False)
    tape, x = session.tape, torch.ones(8)
    tape.values.seen(x)
    frame, boundary = sys._getframe(), sys._getframe(1)
    row = (None,) * 13
    plan = Plan(torch.ops.aten.detach.default)

    def loop(step: Callable[[], object], mode: object = None) -> float:
        def timed() -> float:
            return min(Timer(step).repeat(9, 2000)) / 2000

        if mode is None:
            return timed()
        with mode:
            return timed()

    def add() -> torch.Tensor:
        return torch.add(x, x)

    def fresh() -> None:
        session._interceptor._keep_results(plan, (x,), None, x.detach(), failed=0)

    bare = loop(add)
    return {
        "an op, bare": bare,
        "hop from C++ to Python, no op": loop(add, ConstantMode()),
        "+ hop and redispatch": loop(add, LeanMode()) - bare,
        "+ function mode": loop(add, EmptyFunctionMode()) - bare,
        "input identity, known": loop(lambda: tape.values.seen(x)),
        "output metadata, new view": loop(fresh) - loop(x.detach),
        "append the op's row": loop(lambda: tape.ops.extend(row)),
        "place, one frame": loop(lambda: tape.places.of(frame, boundary, 0, 0)),
        "operator's plan": loop(lambda: Plan(torch.ops.aten.add.Tensor)),
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    case = build("gpt2-tiny")
    with torch.no_grad():
        session = Session(case.model, layers=True, save=False)
        session.start(sys._getframe())
        case.step()
        session.stop(None, None)
        PLANS.update(session._interceptor._plans)
        ops, took = session.tape.op_count, in_situ(case, rounds)
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
    rows.append([("- session made", ""), cost("session")])
    rows.append([("- layers, of all", ""), cost("all", "layers=False")])
    rows += [
        [(f"- {name}, of all", ""), cost("all", name)] for name in (*PARTS, "garbage collection")
    ]
    show(f"in the model, µs per op ({ops} ops)", ["part", "µs"], rows, markdown=False)
    rows = [[(name, ""), (f"{seconds * 1e6:.2f}", "")] for name, seconds in tight.items()]
    show("alone, in a hot loop", ["part", "µs"], rows, markdown=False)


if __name__ == "__main__":
    main()
