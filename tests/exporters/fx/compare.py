"""Whether a program gives what the model gives, and is differentiated as it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from tests import invariants
from torch import nn
from torch.utils._pytree import tree_leaves

import opscope


class Model(nn.Module):
    """Two layers, and a function of them and of what is given."""

    def __init__(self, function, **parts):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *given, **named):
        return self.function(self, *given, **named)


def record(model, *args, grad=True, **kwargs):
    """Return a trace of one call of a model, without options or with ``layers=False``."""
    layers = kwargs.pop("layers", True)
    with torch.set_grad_enabled(grad), opscope.trace(model, layers=layers) as trace:
        model(*args, **kwargs)
    invariants.check(trace)
    return trace


def program_of(model, *args, **kwargs):
    return record(model, *args, **kwargs).to_fx()


def tensors_given(args, kwargs=None):
    """Return the tensors among arguments, in the order in which a program takes them."""
    return [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]


def leaves(value):
    """Yield what lies in containers, those of other libraries' classes and objects too."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif type(value).__module__ not in ("builtins", "torch") and hasattr(value, "__dict__"):
        yield from leaves(vars(value))
    else:
        yield value


def tensors(value):
    return [item for item in leaves(value) if isinstance(item, torch.Tensor)]


def same(one, other):
    """Whether two tensors are equal bit for bit, or both None."""
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def derivatives(value, parameters):
    """Return the gradients of a sum over what a model gave, None where it has none."""
    given = [t for t in tensors(value) if t.requires_grad]
    if not given:
        return [None] * len(parameters)
    for parameter in parameters:
        parameter.grad = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints, whose inputs need no gradient
        sum(item.abs().pow(2).sum() for item in given).backward()
    found = [None if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def check_same(model, program, *args, seed=0, **kwargs):
    """Assert that both give the same, and the same gradients, and change the same buffers.

    The program shares the model's parameters; a copy of the model runs in its stead.
    """
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    expected = other(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    torch.manual_seed(seed)
    found = program(*tensors_given(*copy.deepcopy((args, kwargs))))

    assert torch.is_grad_enabled()
    assert len(tensors(found)) == len(tensors(expected))
    assert all(map(same, tensors(found), tensors(expected)))
    assert [t.requires_grad for t in tensors(found)] == [t.requires_grad for t in tensors(expected)]
    wanted = derivatives(expected, list(other.parameters()))
    assert all(map(same, derivatives(found, list(model.parameters())), wanted))
    for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert same(mine, theirs)
