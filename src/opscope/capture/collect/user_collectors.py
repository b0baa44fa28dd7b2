"""A collector of the user's, called so that it cannot harm the program or the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

import torch

from opscope.capture.collect.collector import Collector, InnerCollector
from opscope.capture.log.event_log import Log
from opscope.capture.log.hooks import Error, ReturnedCall, RunningOp
from opscope.capture.unchanged.outside import applied, described, drop_frames
from opscope.errors import CollectorError

MOMENTS = ("start", "resume", "before_op", "after_op", "returned", "stop", "result")


class UserCollector(InnerCollector):
    """Stands for a collector of the user's.

    Args:
        collector: It.
        log: Where nothing is to be written of what it runs.
    """

    def __init__(self, collector: Collector, log: Log) -> None:
        self._collector = collector
        self._log = ref(log)
        self._error: CollectorError | None = None

    def hears(self, moment: str) -> bool:
        """Whether the collector has a method of this name, of its own."""
        own = getattr(type(self._collector), moment, None)
        return moment in MOMENTS and own is not None and own is not getattr(Collector, moment)

    def start(self) -> None:
        """Begin."""
        self._error = None
        self._ask("start")

    def resume(self) -> None:
        """Go on."""
        self._ask("resume")

    def stop(self, buffers: Iterable[torch.Tensor], known: Iterable[Any]) -> None:
        """End."""
        self._ask("stop")

    def before_op(self, op: RunningOp) -> Error:
        """Have it look at an op that is about to run."""
        return self._ask("before_op", op)

    def after_op(self, op: RunningOp) -> Error:
        """Have it look at one that ran."""
        return self._ask("after_op", op)

    def returned(self, call: ReturnedCall) -> Error:
        """Have it look at a call that returned."""
        return self._ask("returned", call)

    def result(self) -> Any:
        """Return what it made of it all.

        Raises:
            CollectorError: If it raised, now or before.
        """
        found = self._result() if self.hears("result") and self._error is None else None
        if self._error is not None:
            raise self._error
        return found

    def _result(self) -> Any:
        try:
            return self._collector.result()
        except Exception as error:  # noqa: BLE001 (it is the user's code)
            self._fail("result", error)

    def _ask(self, moment: str, *given: Any) -> Error:
        """Call a method unless it failed before; return the error that is to stop the program."""
        if self._error is not None or not self.hears(moment):
            return None
        method: Callable[..., Any] = getattr(self._collector, moment)
        try:
            applied(lambda arguments: method(*arguments), given, self._log())
        except Exception as error:  # noqa: BLE001 (it is the user's code)
            self._fail(moment, error)
        return self._error if getattr(self._collector, "stops", False) else None

    def _fail(self, moment: str, error: Exception) -> None:
        name = type(self._collector).__name__
        message = f"the collector {name} is called no more: {moment} raised {described(error)}"
        self._error = CollectorError(message)
        self._error.__cause__ = error
        if not getattr(self._collector, "stops", False):  # a tensor that is held is another one
            drop_frames(error)
