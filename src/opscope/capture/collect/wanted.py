"""Which collectors a trace is made with: one for each thing that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opscope.capture.collect.autograd.gradients import Gradients
from opscope.capture.collect.autograd.saved_tensors import SavedTensors
from opscope.capture.collect.collector import Collector, Editor, InnerCollector
from opscope.capture.collect.digests.digests import DigestCollector
from opscope.capture.collect.kept.activations import Activations
from opscope.capture.collect.kept.replay_inputs import ReplayInputs
from opscope.capture.collect.kept.transforms import SaveOptions
from opscope.capture.collect.nonfinite.checker import NonFiniteChecker
from opscope.capture.collect.storages import StorageLives
from opscope.capture.collect.user_collectors import MOMENTS, UserCollector
from opscope.capture.tables.tables import Tables
from opscope.errors import OptionError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be looked at while torch runs, beyond ops and calls.

    Attributes:
        save: How to keep activations; None for not at all.
        every_op: Whether to keep what every op gives, too.
        gradients: How to keep the gradients of what layers give; None for not at all.
        replayable: Whether to keep what a replay needs: every op's results, and copies of
            all that comes from outside, with the state of the random number generators.
        saved_for_backward: Whether to note what autograd keeps.
        memory: Whether to note when memory is allocated and freed, and what autograd keeps of it.
        digests: Whether to note each value in a few numbers.
        stop_on_nonfinite: Whether to raise where the program sees a NaN or an infinity.
        collectors: The user's own.
    """

    save: SaveOptions | None
    every_op: bool
    gradients: SaveOptions | None
    replayable: bool
    saved_for_backward: bool
    memory: bool
    digests: bool
    stop_on_nonfinite: bool
    collectors: tuple[Collector, ...]

    def make(self, tables: Tables) -> list[InnerCollector]:
        """Return the collectors, in the order in which they are called."""
        found: list[InnerCollector] = []
        if self.gradients is not None:
            found.append(Gradients(self.gradients))
        if self.memory:
            found.append(StorageLives(tables))
        if self.saved_for_backward or self.memory:
            found.append(SavedTensors(tables.values))
        if self.save is not None or self.replayable:
            options = SaveOptions() if self.save is None else self.save
            found.append(Activations(tables.log, every_op=self.every_op, options=options))
        if self.replayable:
            found.append(ReplayInputs(tables.log))
        if self.digests:
            found.append(DigestCollector(tables.log))
        if self.stop_on_nonfinite:
            found.append(NonFiniteChecker(tables))
        return [*found, *(UserCollector(collector, tables.log) for collector in self.collectors)]


def check_editors(editors: object) -> tuple[Editor, ...]:
    """Return the editors that were given, checked."""
    return _checked("editor", editors, ("replace",), "an object with a method `replace(call)`")


def check_collectors(collectors: object) -> tuple[Collector, ...]:
    """Return the collectors that were given, checked."""
    said = f"an object with some of the methods {', '.join(MOMENTS)}"
    return _checked("collector", collectors, MOMENTS, said)


def _checked(noun: str, given: object, methods: Sequence[str], said: str) -> tuple[Any, ...]:
    """Return objects each of which has one of some methods, else raise an `OptionError`."""
    if given.__class__ is tuple and not given:  # nearly always
        return ()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        message = f"{noun}s: {given!r} (must be a list of {noun}s)"
        raise OptionError(message)
    for one in given:
        has_any = any(callable(getattr(one, method, None)) for method in methods)
        if isinstance(one, type) or not has_any:
            message = f"{noun}s: {one!r} is no {noun} ({said})"
            raise OptionError(message)
    return tuple(given)
