"""What runs under the autograd engine: for which node, in which thread, called by what."""

from __future__ import annotations

from threading import get_ident
from types import FrameType
from typing import Any

from opscope.capture.log.events import Chain
from opscope.capture.tables.tables import Tables
from opscope.records.columns.columns import NONE
from opscope.torch_api import (
    RUN_BACKWARD,
    AccumulateGrad,
    current_autograd_node,
    current_graph_task,
)


def note_node(tables: Tables, frame: FrameType | None) -> Chain | None:
    """Note which autograd node the engine runs; return the frames of Python code in it.

    There is such code in hooks, custom functions and checkpoints.
    """
    log, op = tables.log, tables.log.op_count
    thread, task = get_ident(), current_graph_task()
    node = current_autograd_node()
    if node is not None:
        kind, number, parameter = node.__class__, node._sequence_nr(), NONE
        if kind is AccumulateGrad:
            number = NONE
            parameter = tables.parameters.number(node.variable)
        tables.nodes.extend((op, kind, number, parameter, task))
    if thread != log.thread:  # each device has a thread of its own
        tables.threads[op] = thread
    if runs := log.in_backward.get((thread, task)):
        tables.backward_run_of[op] = runs[-1][1]
    chain: list[Any] = []
    at = frame
    while at is not None and at.f_code is not RUN_BACKWARD:
        chain += (at.f_code, at.f_lasti)
        at = at.f_back
    if task not in tables.tasks:
        tables.tasks[task] = at is not None and (thread != log.thread or _is_in_engine(at.f_back))
    return tuple(chain) or None


def _is_in_engine(frame: FrameType | None) -> bool:
    """Whether the engine runs the code of a frame, which is then inside a backward."""
    while frame is not None:
        if frame.f_code is RUN_BACKWARD:
            return True
        frame = frame.f_back
    return False
