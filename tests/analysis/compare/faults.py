"""Faults that are planted in a copy of a model, each in one module, chosen at random."""

from __future__ import annotations

import copy
import random

from torch import nn

ACTIVATIONS = {"ReLU", "GELU", "SiLU", "Hardswish", "ReLU6", "GELUActivation", "NewGELUActivation",
               "SiLUActivation", "Tanh", "Sigmoid", "Hardsigmoid"}  # fmt: skip


def _leaves(model):
    return [(name, m) for name, m in model.named_modules() if name and not list(m.children())]


def _own(module):
    return [p for p in module.parameters(recurse=False) if p.dim() > 0]


def perturbed_weight(model, choose):
    name, module = choose([(n, m) for n, m in model.named_modules() if n and _own(m)])
    weight = choose(_own(module))
    weight.data.view(-1)[weight.numel() // 2] += 0.25
    return name


def swapped_activation(model, choose):
    known = [(n, m) for n, m in _leaves(model) if type(m).__name__ in ACTIVATIONS]
    name, module = choose(known)
    owner, _, local = name.rpartition(".")
    other = nn.Softplus() if type(module).__name__ != "Softplus" else nn.ReLU()
    setattr(model.get_submodule(owner), local, other)
    return name


def transposed_kernel(model, choose):
    known = [
        (n, m) for n, m in _leaves(model)
        if isinstance(getattr(m, "weight", None), nn.Parameter) and m.weight.dim() in (2, 4)
        and m.weight.shape[-1] == m.weight.shape[-2] > 1
    ]  # fmt: skip
    name, module = choose(known)
    module.weight.data = module.weight.data.transpose(-1, -2).contiguous()
    return name


def wrong_eps(model, choose):
    known = []
    for name, module in _leaves(model):
        known += [(name, module, a) for a in ("eps", "variance_epsilon") if hasattr(module, a)]
    name, module, attribute = choose(known)
    setattr(module, attribute, max(10 * getattr(module, attribute), 1e-5))
    return name


def forgotten_mask(model, choose):
    known = [
        (n, m) for n, m in model.named_modules()
        if n and "ttention" in type(m).__name__ and _takes_mask(m)
    ]  # fmt: skip
    name, module = choose(known)
    module.register_forward_pre_hook(_without_mask, with_kwargs=True)
    return name


def _takes_mask(module):
    return "attention_mask" in module.forward.__code__.co_varnames


def _without_mask(module, args, kwargs):
    names = module.forward.__code__.co_varnames[1:]
    args = tuple(None if n == "attention_mask" else a for n, a in zip(names, args, strict=False))
    return args, {**kwargs, **({"attention_mask": None} if "attention_mask" in kwargs else {})}


def dropout_left_on(model, choose):
    known = [(n, m) for n, m in _leaves(model) if isinstance(m, nn.Dropout) and m.p > 0]
    name, module = choose(known)
    module.train()
    return name


FAULTS = {f.__name__: f for f in (
    perturbed_weight, swapped_activation, transposed_kernel, wrong_eps, forgotten_mask,
    dropout_left_on,
)}  # fmt: skip


def plant(model, fault, seed):
    """Return a copy of a model with a fault, and the address of the module that has it.

    None where the model has no module that can have it. Whether it makes a difference (a module may be
    dead, or not run) is for the caller to see.
    """
    other = copy.deepcopy(model)
    try:
        return other, FAULTS[fault](other, random.Random(seed).choice)
    except IndexError:
        return None
