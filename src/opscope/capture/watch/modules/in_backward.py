"""Which module runs while the autograd engine does: a checkpoint, say, runs it again.

Such a run is no run of the program. It is noted for the ops inside it alone; `reruns` finds
what of the forward they repeat.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

from torch import nn

from opscope.capture.tables.tables import Tables
from opscope.capture.unchanged.tracers import is_tracing
from opscope.capture.watch.dispatch import Interceptor
from opscope.records.columns.columns import NONE
from opscope.torch_api import count_dispatch_modes, current_graph_task, dispatch_mode_stack

if TYPE_CHECKING:
    from opscope.capture.watch.modules.module_info import ModuleInfo


class InBackward:
    """Notes the runs of modules inside backwards."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._running = tables.log.in_backward

    def enter(self, module: nn.Module, known: ModuleInfo | None) -> None:
        """Note that a module begins to run, if it does so in a backward that is watched."""
        key = get_ident(), current_graph_task()
        if key[1] == -1 or (count_dispatch_modes() > 1 and is_tracing()):
            return
        if key[0] != self._tables.log.thread and not self._is_watched():
            return
        index = NONE if known is None or known.live() is not module else known.index
        running, runs = self._running.setdefault(key, []), self._tables.backward_runs
        runs.append((index, running[-1][1] if running else NONE))
        running.append((id(module), len(runs) - 1))

    def leave(self, module: nn.Module) -> None:
        """Note that it ended, and those inside it that a BaseException left open."""
        key = get_ident(), current_graph_task()
        running = self._running.get(key)
        if running is None or all(called != id(module) for called, _ in running):
            return
        while running.pop()[0] != id(module):
            pass
        if not running:
            del self._running[key]

    def _is_watched(self) -> bool:
        """Whether the engine took the dispatch mode along to this thread, a device's."""
        return any(
            isinstance(mode, Interceptor) and mode.writes_to(self._tables)
            for mode in dispatch_mode_stack()
        )
