import inspect
import subprocess
import sys

import pytest

import opscope

PUBLIC = [
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

VIEW = [
    "rolled",
    "module",
    "collapse",
    "expand",
    "inputs",
    "outputs",
    "parameters",
    "buffers",
    "overwritten",
    "phase",
]
SIGNATURES = {
    "trace": (
        ["model"],
        [
            "layers",
            "save",
            "gradients",
            "replayable",
            "saved_for_backward",
            "memory",
            "digests",
            "stop_on_nonfinite",
            "collectors",
            "editors",
        ],
    ),
    "Save": (["what", "detach", "device", "dtype", "transform", "copy"], []),
    "Record": (["recording", "saved", "saved_gradients"], []),
    "watch": (["model"], ["every", "gradients"]),
    "log_forward_pass": (
        ["model", "input_args", "input_kwargs"],
        ["layers_to_save", "vis_opt", "vis_nesting_depth", "vis_direction", "vis_outpath"],
    ),
    "summary": (
        ["model"],
        [
            "input_data",
            "input_size",
            "dtypes",
            "device",
            "level",
            "depth",
            "columns",
            "sort_by",
            "row_limit",
            "expand",
        ],
    ),
    "register_flops": (["op"], ["get_raw"]),
    "Trace.graph": (["self", "level", "depth"], [*VIEW, "flat"]),
    "load": (["path", "model"], []),
    "assert_same": (["record", "path", "level"], ["include", "update"]),
    "Trace.save": (["self", "path"], ["tensors"]),
    "Trace.timeline": (["self", "path"], []),
    "Trace.text": (["self", "budget"], []),
    "Trace.breakdown": (["self", "by"], ["phase", "row_limit", "peak_flops", "bandwidth"]),
    "measure_peaks": (["device", "dtype"], []),
    "Trace.summary": (
        ["self", "level", "depth"],
        ["phase", "columns", "sort_by", "row_limit", "expand"],
    ),
    "Trace.to_dot": (["self", "level", "depth"], ["direction", "marks"]),
    "Trace.draw": (["self", "path", "level", "depth"], ["direction", "marks"]),
}


def test_the_public_names():
    assert sorted(opscope.__all__) == PUBLIC
    assert opscope.__all__ == sorted(opscope.__all__)


def test_every_public_name_is_there_and_documented():
    assert all(inspect.getdoc(getattr(opscope, name)) for name in PUBLIC)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_of_what_users_call(name):
    found = opscope
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    assert (positional, named) == SIGNATURES[name]


def test_a_trace_has_few_public_members():
    assert len([name for name in dir(opscope.Trace) if not name.startswith("_")]) <= 25


@pytest.mark.parametrize("verb", ["graph", "summary", "to_dot", "draw"])
def test_every_argument_is_documented(verb):
    function = getattr(opscope.Trace, verb)
    referred = (function, opscope.Trace.graph, opscope.Trace.to_dot)
    text = "\n".join(map(inspect.getdoc, referred))

    assert all(
        f"{name}:" in text or f"``{name}``" in text or name in ("self", "path")
        for name in inspect.signature(function).parameters
    )


@pytest.mark.parametrize("library", ["networkx", "pydot", "rich", "torch._dynamo", "hypothesis"])
def test_importing_opscope_does_not_load(library, loaded):
    assert library not in loaded


@pytest.fixture(scope="module")
def loaded():
    code = "import sys, torch; before = set(sys.modules); import opscope; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_misspelt_argument_is_pythons_own_error():
    with pytest.raises(TypeError, match="safe"):
        opscope.trace(safe="all")
