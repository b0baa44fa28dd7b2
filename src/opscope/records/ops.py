"""One run of an aten operator each, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from opscope.operators.known import name_of
from opscope.operators.settings import settings

T = TypeVar("T")

Phase = Literal["forward", "backward", "optimizer", "other"]
"""Which part of a training step an op is in: ``"backward"`` is all that the autograd engine
runs, ``"optimizer"`` all under an optimizer's own methods, and ``"other"`` what works on the
results of these two outside of them, such as clipping of gradients."""

PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "other")


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor that an op was given.

    Attributes:
        value: What it was.
        argument: As which argument.
        overwritten: Whether the op writes all of it without a look at what it held.
    """

    value: int
    argument: str
    overwritten: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """One aten operator call that the dispatcher saw.

    Attributes:
        index: Place in `Recording.ops`, in the order of execution.
        operator: Such as ``"aten.convolution.default"``.
        reads: The tensors given to it, with the argument that each was.
        outputs: Values it returned, in order; None for an absent one.
        writes: Values that it wrote over older memory, returned or not.
        arguments: The other arguments, by name, as they were given, but for `InWords`.
        packed: Indices of the parameters that it was given inside objects of C++.
        layer_call: Index of the layer call that it ran in, None in backward.
        module_call: Index of the innermost module call; in backward that of ``forward_op``.
        call_site: Number of the calling context, see `Recording.call_sites`.
        grad_enabled: Whether autograd recorded.
        inference: Whether ``inference_mode`` was on.
        phase: Which part of a training step it is in.
        sequence_nr: Autograd's number: of the node it made, or in backward of the
            node that ran it; None where there is none.
        node: In backward, the class name of the autograd node that ran it.
        forward_op: In backward, the index of the forward op that it belongs to.
        accumulates: The parameter to whose gradient it adds, an index.
        recomputed: Whether it runs ``forward_op`` again, or is part of running its layer again,
            for a checkpoint or in the backward of a custom function.
        by_autograd: Whether it is a `detach` by which autograd keeps a tensor for itself.
        started_ns: Nanoseconds since the trace began.
        duration_ns: Nanoseconds it took under the dispatch mode.
        failed: Whether it raised.
        custom_function: Whether it ran in the forward of a custom `torch.autograd.Function`.
    """

    index: int
    operator: str
    reads: tuple[Read, ...] = ()
    outputs: tuple[int | None, ...] = ()
    writes: tuple[int, ...] = ()
    arguments: tuple[tuple[str, object], ...] = ()
    packed: tuple[int, ...] = ()
    layer_call: int | None = None
    module_call: int | None = None
    call_site: int | None = None
    grad_enabled: bool = False
    inference: bool = False
    phase: Phase = "forward"
    sequence_nr: int | None = None
    node: str | None = None
    forward_op: int | None = None
    accumulates: int | None = None
    recomputed: bool = False
    by_autograd: bool = False
    started_ns: int = 0
    duration_ns: int = 0
    failed: bool = False
    custom_function: bool = False

    def named_arguments(self, tensor: Callable[[int], T]) -> dict[str, object | T]:
        """Return all arguments by name, lists put together, each tensor as ``tensor`` gives it."""
        found: dict[str, Any] = {}
        lists: dict[str, dict[int, Any]] = {}
        pairs = [*self.arguments, *((read.argument, tensor(read.value)) for read in self.reads)]
        for name, item in pairs:
            base, bracket, place = name.partition("[")
            if bracket:
                lists.setdefault(base, {})[int(place[:-1])] = item
            else:
                found[name] = item
        found.update({base: [items[i] for i in sorted(items)] for base, items in lists.items()})
        return found

    def settings(self) -> dict[str, Any]:
        """Return what it was set to, as JSON has it: arguments that tell what was asked for."""
        # A dropout is made of numbers that say what is kept, by a probability of its own.
        kept = {"p": "keep"} if self.name.startswith("bernoulli") else {}
        return settings((kept.get(name, name), value) for name, value in self.arguments)

    @property
    def name(self) -> str:
        """The operator without namespace and overload: ``"convolution"``."""
        return name_of(self.operator)
