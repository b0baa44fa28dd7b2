"""Independent observers: what ran, and what is left behind, without opscope."""

from __future__ import annotations

import gc
import inspect
import linecache
import weakref
from collections import Counter
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.modules.module as module_room
from torch.overrides import _pop_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode
from torch.utils._pytree import tree_leaves

from opscope.capture.log.containers import tensors_of
from opscope.records.passes.runs import run_names


class Witness(TorchDispatchMode):
    """Writes down each operator with the shapes of what it returned; holds no tensor."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not str(func).startswith("profiler."):
            self.ops.append((str(func), shapes(result)))
        return result


class Mortality(TorchDispatchMode):
    """Keeps weak references to all that operators return."""

    def __init__(self):
        super().__init__()
        self.refs = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.refs += [weakref.ref(item) for item in tensors(result)]
        return result

    def survivors(self):
        gc.collect()
        return [ref() for ref in self.refs if ref() is not None]


def shapes(result):
    """Return the shape of each tensor that an operator returned, None for an absent one."""
    if isinstance(result, torch.Tensor):
        return (tuple(result.shape),)
    if not isinstance(result, (tuple, list)):
        return ()
    return tuple(shape for item in result for shape in ((None,) if item is None else shapes(item)))


def recorded(trace):
    """Return what a trace says, in the form of `Witness.ops`."""
    values = trace.recording.values
    return [
        (op.operator, tuple(None if v is None else values[v].shape for v in op.outputs))
        for op in trace.ops
    ]


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def bits(value):
    """Return all there is to a program's output: each tensor's bytes, layout and autograd."""
    return [
        (
            tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.requires_grad,
            type(tensor.grad_fn),
        )
        for tensor in tensors(value)
    ]


class CallWitness:
    """Writes down each module call: address, parent's place, run number; with hooks of its own."""

    def __init__(self, model):
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack = []
        self._runs = Counter()
        self.calls = []

    def __enter__(self):
        self._handles = [
            module_room.register_module_forward_pre_hook(self._before),
            module_room.register_module_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    def _before(self, module, args):
        name = self._names[id(module)]
        self._runs[name] += 1
        parent = self._stack[-1] if self._stack else None
        self._stack.append(len(self.calls))
        self.calls.append((name, parent, self._runs[name], type(module).__name__))

    def _after(self, module, args, output):
        self._stack.pop()


def recorded_calls(trace):
    """Return what a trace says, in the form of `CallWitness.calls`."""
    return [
        (trace.modules[call.module].address, call.parent, call.number,
         trace.modules[call.module].class_name)
        for call in trace.recording.module_calls
    ]  # fmt: skip


def watchers():
    """Return how many modes and global module hooks are on in this process."""
    return {
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        **{name: len(hooks) for name, hooks in _global_hooks().items()},
    }


def remove_watchers():
    """Take away what `watchers` counts, lest one failing test makes the others fail."""
    while torch._C._len_torch_dispatch_stack():
        _pop_dispatch_mode()
    while torch._C._len_torch_function_stack():
        _pop_mode()
    for hooks in _global_hooks().values():
        hooks.clear()


def _global_hooks():
    return {
        name: value
        for name, value in vars(module_room).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


def attributes_of_torch():
    """Return every attribute of torch's namespaces that tracers like to patch."""
    spaces = (
        torch, torch.Tensor, torch._C._TensorBase, torch.nn.functional, torch.nn.Module,
        torch._C._nn, module_room,
    )  # fmt: skip
    return {
        (space.__name__, name): id(value) for space in spaces for name, value in vars(space).items()
    }


def state_of(module):
    """Return all about a model and its parts that must be as if it had not been watched."""
    if module is None:
        return None
    return {
        "modules": [
            (name, id(part), part.training, sorted(vars(part)), _hooks(part))
            for name, part in module.named_modules()
        ],
        "parameters": [(name, id(p), p.requires_grad) for name, p in module.named_parameters()],
        "attributes of parameters": [sorted(vars(p)) for p in module.parameters()],
        "state": [(name, bits(value)) for name, value in module.state_dict().items()],
    }


def _hooks(part):
    return {
        name: dict(value)
        for name, value in vars(part).items()
        if "hooks" in name and isinstance(value, dict)
    }


def line_of(thing, marker):
    """Return file and line, in a function or class, of the comment ``# <- marker``."""
    lines, first = inspect.getsourcelines(thing)
    (offset,) = [i for i, line in enumerate(lines) if line.rstrip().endswith(f"# <- {marker}")]
    return inspect.getsourcefile(thing), first + offset


def text_at(frame):
    """Return the line of source that a recorded frame points at."""
    return linecache.getline(frame.file, frame.line).strip()


@contextmanager
def untouched(module=None):
    """Check that nothing about torch and a model changes in this block."""
    before = watchers(), attributes_of_torch(), state_of(module)
    yield
    assert (watchers(), attributes_of_torch(), state_of(module)) == before


class OutputWitness:
    """Copies what each module gives as its forward hook sees it, unseen by any mode.

    Args:
        model: The model whose modules are watched.
        everywhere: Whether by one global hook, or by one hook on each module.
        gradients: Whether the gradients that reach it are copied too.
    """

    def __init__(self, model, *, everywhere=False, gradients=False):
        self._names = {}
        self._gradients = gradients
        for name, module in model.named_modules():
            self._names.setdefault(module, name)
        self._everywhere = everywhere
        self._runs = Counter()
        self.seen = {}
        self.reached = {}

    def __enter__(self):
        if self._everywhere:
            self._handles = [module_room.register_module_forward_hook(self._after)]
        else:
            self._handles = [m.register_forward_hook(self._after) for m in self._names]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    def _after(self, module, args, output):
        name = self._names.get(module)
        if name is None:
            return
        self._runs[name] += 1
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(), torch.no_grad():
            found = [tensor.detach().clone() for tensor in tensors_of(output)]
        if found:
            self.seen[name, self._runs[name]] = found
        if self._gradients:
            sums = self.reached[name, self._runs[name]] = []
            for place, tensor in enumerate(tensors_of(output)):
                sums.append(None)
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._add, sums, place))

    def _add(self, sums, place, gradient):
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(), torch.no_grad():
            before = sums[place]
            sums[place] = gradient.detach().clone() if before is None else before + gradient

    def differences(self, trace):
        """Return which outputs a trace gives otherwise, and how many it was asked for."""
        asked, wrong = 0, []
        for key, layer, expected in self._by_key(trace, self.seen):
            asked += 1
            found = layer.activation
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(expected) or not all(map(same_bits, found, expected)):
                wrong.append(key)
        return wrong, asked

    def gradient_differences(self, trace):
        """Return which gradients of outputs a trace gives otherwise, and how many there are."""
        asked, wrong = 0, []
        for key, layer, expected in self._by_key(trace, self.reached):
            if all(gradient is None for gradient in expected):
                if layer.has_gradient:
                    wrong.append(key)
                continue
            asked += 1
            found = layer.gradient if layer.has_gradient else None
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(expected) or not all(map(_same_or_none, found, expected)):
                wrong.append(key)
        return wrong, asked

    def _by_key(self, trace, seen):
        record = trace.recording
        for run, names in zip(record.module_calls, run_names(record), strict=True):
            expected = seen.get((record.modules[run.module].address, run.number))
            if expected is not None and names:
                yield names[1], trace[names[1]], expected


def _same_or_none(one, other):
    return one is other is None or (None not in (one, other) and same_bits(one, other))


def same_bits(one, other):
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(first, second)
