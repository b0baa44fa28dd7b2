"""Record every aten operator a PyTorch program runs, and look at the record.

Ten lines of it::

    import opscope

    with opscope.trace(model, save="all") as trace:   # any code that runs torch
        y = model(x)

    print(trace)                                # structure, hierarchy, layers
    trace.summary(depth=2)                      # a rich table
    trace["conv2d_3"].activation                # also .shape, .module, .source, .parents
    trace.graph(level="layer", rolled=True)     # a networkx.DiGraph
    trace.draw("model.svg", depth=2)            # the suffix chooses the format

    opscope.log_forward_pass(model, x, vis_opt="rolled")  # all of it in one call
"""

import opscope.torch_api  # noqa: F401  # first: it says what torch lacks that others need
from opscope.capture.collect.collector import Collector, Editor
from opscope.capture.log.hooks import ReturnedCall, RunningOp
from opscope.errors import (
    AmbiguousLayer,
    CollectorError,
    LayerNotFound,
    NonFiniteError,
    NotSaved,
    OpscopeError,
    OptionError,
    ProgramChanged,
    RenderError,
    TargetError,
    TraceStateError,
    UnreadableFile,
    UnsupportedTorch,
)
from opscope.layer import Layer
from opscope.loading import load
from opscope.operators.flops.counting import register_flops
from opscope.operators.flops.peaks import measure_peaks
from opscope.record import Record
from opscope.saving import Save
from opscope.tracer import Trace, trace
from opscope.verbs.comparing import compare
from opscope.verbs.forward_pass import log_forward_pass
from opscope.verbs.one_run import summary
from opscope.verbs.pinning import assert_same, fingerprint
from opscope.verbs.watching import Watch, watch
from opscope.version import __version__ as __version__

__all__ = [
    "AmbiguousLayer",
    "Collector",
    "CollectorError",
    "Editor",
    "Layer",
    "LayerNotFound",
    "NonFiniteError",
    "NotSaved",
    "OpscopeError",
    "OptionError",
    "ProgramChanged",
    "Record",
    "RenderError",
    "ReturnedCall",
    "RunningOp",
    "Save",
    "TargetError",
    "Trace",
    "TraceStateError",
    "UnreadableFile",
    "UnsupportedTorch",
    "Watch",
    "assert_same",
    "compare",
    "fingerprint",
    "load",
    "log_forward_pass",
    "measure_peaks",
    "register_flops",
    "summary",
    "trace",
    "watch",
]
