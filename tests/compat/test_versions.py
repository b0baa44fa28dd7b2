"""On a torch that lacks what opscope needs, the import says so; what it needs is in one list."""

import ast
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import opscope
from opscope.capture.torch_api import NEEDED, NODES, check_torch

SOURCES = sorted(Path(opscope.__file__).parent.rglob("*.py"))


def test_this_torch_has_all_that_is_needed():
    check_torch()


class Without:
    """A torch that lacks one name."""

    def __init__(self, whole, missing):
        self._whole, self._missing = whole, missing

    def __getattr__(self, name):
        head, _, rest = self._missing.partition(".")
        if name != head:
            return getattr(self._whole, name)
        if not rest:
            raise AttributeError(name)
        return Without(getattr(self._whole, name), rest)


@pytest.mark.parametrize("name", NEEDED)
def test_a_torch_that_lacks_one_name_is_refused_by_that_name(name):
    with pytest.raises(opscope.UnsupportedTorch) as caught:
        check_torch(Without(torch, name))
    assert f"torch {torch.__version__}, which has no torch.{name}, needed to" in str(caught.value)
    assert "torch 2.10 is the oldest" in str(caught.value)


@pytest.mark.parametrize("name", NODES)
def test_a_torch_whose_nodes_lack_something_is_refused_by_that_name(name):
    factor = torch.ones(1, requires_grad=True)
    node = (factor * factor).grad_fn
    check_torch(torch, node)
    with pytest.raises(opscope.UnsupportedTorch) as caught:
        check_torch(torch, Without(node, name))
    assert f"`{name}` of autograd's nodes, needed to" in str(caught.value)


def test_the_nodes_are_looked_at_where_no_gradients_are_recorded():
    with torch.inference_mode(), torch.no_grad():
        check_torch()


def test_a_torch_that_has_next_to_nothing_is_refused_too():
    with pytest.raises(opscope.OpscopeError, match=r"torch 1\.0, which has no torch\.utils"):
        check_torch(types.SimpleNamespace(__version__="1.0"))


def test_the_import_is_what_fails_as_an_import_error_and_leaves_nothing():
    program = (
        "import sys, torch\n"
        "del torch.utils._python_dispatch.TorchDispatchMode.ignore_compile_internals\n"
        "torch.__version__ = '2.8.0'\n"
        "try:\n"
        "    import opscope\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
        "print(sorted(name for name in sys.modules if name.startswith('opscope.')))\n"
        "print(len(torch.nn.modules.module._global_forward_hooks))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    error, modules, hooks = done.stdout.splitlines()
    assert error.startswith("UnsupportedTorch opscope cannot work with torch 2.8.0, which has no ")
    assert "interceptor" not in modules
    assert hooks == "0"


def underscored(path):
    """Return every dotted name of torch's with an underscored part that a file uses."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            name = ast.unparse(node)
            if re.fullmatch(r"torch(\.\w+)*\._[a-zA-Z]\w*(\.\w+)*", name):
                yield name.removeprefix("torch.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("torch.")
                if re.search(r"(^|\.)_", name):
                    yield name


# Written as `frames = torch._C._dynamo.eval_frame`, whose parts are listed.
SHORT = {"_C._dynamo.eval_frame"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_underscored_name_that_is_used_is_in_the_list(path):
    missing = {
        name
        for name in underscored(path)
        if name not in SHORT and not any(f"{known}.".startswith(f"{name}.") for known in NEEDED)
    }
    assert not missing


def test_names_that_are_no_longer_used_are_taken_off_the_list():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    unused = [name for name in NEEDED if text.count(name.rpartition(".")[2]) < 2]
    assert not unused


@pytest.mark.parametrize("minor", range(10, 15))
def test_every_file_is_in_the_grammar_of_the_pythons_that_are_promised(minor):
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, minor))
