"""On a torch that lacks what opscope needs, the import says so; what it needs is in one list."""

import ast
import functools
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import opscope
from opscope.torch_api import INSTANCES, NEEDED, NODES, check_torch

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


def parts_of(node):
    """Return the names in a chain of attributes: ``torch._C._dispatch`` has three."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names(tree):
    """Yield the private names of torch that a file names, by themselves or to import them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = parts_of(node)
            if parts[:1] in (["torch"], ["nn"]) and any(map(private, parts)):
                yield ".".join(parts)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if any(map(private, name.split("."))))


@functools.cache
def own_names():
    """Return the private names that opscope itself gives, and those of the standard library."""
    found = {"_getframe", "_fields", "_make", "_replace", "_asdict", "_get_filters", "_type"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found - set(INSTANCES)


OTHERS = [path for path in SOURCES if path.name != "torch_api.py"]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_no_other_file_has_a_private_name_of_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(private_names(tree)) == []
    known = own_names() | set(INSTANCES)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if private(name)} <= known


def test_every_private_name_in_the_one_file_is_probed():
    tree = ast.parse((OTHERS[0].parent / "torch_api.py").read_text(encoding="utf-8"))
    short = {"_C": "_C", "_dispatch": "utils._python_dispatch", "_modules": "nn.modules.module",
             "_autograd": "autograd", "_overrides": "overrides"}  # fmt: skip
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [
        parts_of(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in inner
    ]
    full = [
        ".".join([short[parts[0]], *parts[1:]] if parts[0] in short else parts[1:])
        for parts in names
        if parts and (parts[0] in short or parts[0] == "torch")
    ]
    bases = {*short.values(), "autograd", "overrides"}
    missing = [name for name in full if name not in bases and name not in NEEDED]
    assert missing == []


def test_names_that_are_no_longer_used_are_taken_off_the_lists():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    others = "\n".join(path.read_text(encoding="utf-8") for path in OTHERS)
    assert [name for name in NEEDED if text.count(name.rpartition(".")[2]) < 2] == []
    assert [name for name in INSTANCES if name not in others] == []


@pytest.mark.parametrize("minor", range(10, 15))
def test_every_file_is_in_the_grammar_of_the_pythons_that_are_promised(minor):
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, minor))
