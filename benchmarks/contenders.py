"""Who is measured: ways to look at a model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from models import Case
from torch.profiler import ProfilerActivity, profile
from torch.utils._debug_mode import DebugMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import opscope

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Contender:
    """A way to look at a model while it runs.

    Attributes:
        run: Runs the case once, watched; this is what is timed.
        patches: Whether it replaces functions of torch. It is measured after the others,
            in fewer rounds, so that what it leaves in caches costs nobody else.
        around: What is made ready before, and taken away after, untimed.
        no_backward: Why it cannot watch a backward pass, if so.
    """

    run: Callable[[Case], object]
    patches: bool = False
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    no_backward: str = ""


def inside(context: Callable[[Case], AbstractContextManager[object]]) -> Contender:
    """Return the contender that is a context manager around the step."""

    def run(case: Case) -> None:
        with context(case):
            case.step()

    return Contender(run)


class EmptyMode(TorchDispatchMode):
    """Sees every operator and does nothing: what any recorder at this level costs at least."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def profiler(case: Case) -> profile:
    """Return torch's profiler for the case's device."""
    activities = [ProfilerActivity.CPU]
    if case.x.is_cuda:
        activities.append(ProfilerActivity.CUDA)
    return profile(activities=activities, record_shapes=True)


def profiler_table(case: Case) -> None:
    """Run the case in torch's profiler and print its table to a string."""
    with profiler(case) as found:
        case.step()
    found.key_averages(group_by_input_shape=True).table()


@contextmanager
def hooks(model: nn.Module) -> Iterator[dict[str, object]]:
    """Save what every module returns, by hooks of one's own."""
    saved: dict[str, object] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            saved[name] = output

        return hook

    handles = [module.register_forward_hook(keep(n)) for n, module in model.named_modules()]
    try:
        yield saved
    finally:
        for handle in handles:
            handle.remove()


def contenders() -> dict[str, Contender]:
    """Return all that can be measured here, the bare model first."""
    found = {
        "bare": Contender(Case.step),
        "empty mode": inside(lambda _: EmptyMode()),
        "opscope ops": inside(lambda case: opscope.trace(case.model, layers=False)),
        "opscope": inside(lambda case: opscope.trace(case.model)),
        "opscope save": inside(lambda case: opscope.trace(case.model, save="all")),
        "FLOP counter": inside(lambda _: FlopCounterMode(display=False)),
        "Debug mode": inside(lambda _: DebugMode()),
        "profiler": inside(profiler),
        "profiler table": Contender(profiler_table),
        "module hooks": inside(lambda case: hooks(case.model)),
    }
    peers = {
        "torchinfo": torchinfo, "torchview": torchview, "nnsight": nnsight, "torchlens": torchlens,
    }  # fmt: skip
    for package, peer in peers.items():
        if find_spec(package):
            found |= peer()
    return found


def options() -> dict[str, Contender]:
    """Return opscope with each of the options of `opscope.trace` that cost something."""
    every = {
        "opscope": {},
        "gradients": {"gradients": "all"},
        "saved for backward": {"saved_for_backward": True},
        "stop on nonfinite": {"stop_on_nonfinite": True},
        "replayable": {"replayable": True},
        "digests": {"digests": True},
    }
    found = {"bare": Contender(Case.step)}
    for name, chosen in every.items():
        found[name] = inside(lambda case, chosen=chosen: opscope.trace(case.model, **chosen))
    found["watch"] = inside(lambda case: opscope.watch(case.model))
    return found


def torchinfo() -> dict[str, Contender]:
    """Return torchinfo's one function, silent."""
    from torchinfo import summary

    def run(case: Case) -> None:
        summary(case.model, input_data=case.x, device=case.x.device, verbose=0)

    return {"torchinfo": Contender(run, no_backward="runs the forward itself")}


def torchview() -> dict[str, Contender]:
    """Return torchview's one function; no picture is rendered."""
    from torchview import draw_graph

    def run(case: Case) -> None:
        draw_graph(case.model, input_data=case.x, device=case.x.device)

    return {"torchview": Contender(run, patches=True, no_backward="runs the forward itself")}


def nnsight() -> dict[str, Contender]:
    """Return nnsight saving the output of every innermost module, each the first time it runs."""
    from nnsight import NNsight

    nets: WeakKeyDictionary[nn.Module, tuple[NNsight, list[object]]] = WeakKeyDictionary()

    def wrap(model: nn.Module, x: torch.Tensor) -> tuple[NNsight, list[object]]:
        """Wrap a copy, whose modules have to be asked for in the order in which they run."""
        copy = deepcopy(model)
        with hooks(copy) as saved:
            copy(x)
        names = [name for name in saved if name and not list(copy.get_submodule(name).children())]
        net = NNsight(copy)
        return net, [net.get(name) for name in names]

    def run(case: Case) -> None:
        if case.model not in nets:  # in the first run, which is not timed
            nets[case.model] = wrap(case.model, case.x)
        net, modules = nets[case.model]
        with net.trace(case.x):
            saved = list().save()  # noqa: C408
            for module in modules:
                saved.append(module.output)
            output = net.output.save()
        if case.trains:
            case.loss(output).backward()
            net._module.zero_grad()

    return {"nnsight": Contender(run)}


def torchlens() -> dict[str, Contender]:
    """Return TorchLens from its cheapest call to the one that saves activations."""
    import torchlens as tl
    from torchlens.backends.torch.wrappers import unwrap_torch, wrap_torch
    from torchlens.fastlog.types import CaptureSpec

    @contextmanager
    def wrapped() -> Iterator[None]:
        """Wrap torch before the clock starts, as in a process that has traced before."""
        wrap_torch()
        try:
            yield
        finally:
            unwrap_torch()

    def record(case: Case) -> None:
        tl.record(case.model, case.x, default_op=CaptureSpec(save_out=False))

    def trace(case: Case) -> None:
        tl.trace(case.model, case.x, capture=tl.options.CaptureOptions(layers_to_save="none"))

    def save(case: Case) -> None:
        options = tl.options.CaptureOptions(layers_to_save="all", backward_ready=case.trains)
        log = tl.trace(case.model, case.x, capture=options)
        if case.trains:
            log.log_backward(case.loss(log[log.layer_labels[-1]].out))
            case.model.zero_grad()

    no_output = "returns no output to call backward on unless it saves it"
    return {
        "TorchLens record": Contender(record, True, wrapped, no_output),
        "TorchLens trace": Contender(trace, True, wrapped, no_output),
        "TorchLens save": Contender(save, True, wrapped),
    }
