"""What happened between enter and exit, as plain data.

Nothing here knows torch: a recording can be written by hand in a test. Records
refer to one another by index into the tuples of the one `Recording`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

from opscope.notation import foreign, sentence
from opscope.operators.settings import settings
from opscope.records.calls import Frame, LayerCall, ModuleCall
from opscope.records.ops import Op
from opscope.records.storages import StorageLife
from opscope.records.values import Digest, Value


@dataclass(frozen=True, slots=True)
class GradRegion:
    """Ops that ran under a grad mode which was set inside of the block.

    It is the innermost that counts where they lie in one another. What custom autograd functions
    set in their forward is none, nor is ``inference_mode``.

    Attributes:
        enabled: Whether autograd was to record.
        ops: Indices of the ops.
        module_call: Index of the innermost module call in which it was set.
    """

    enabled: bool
    ops: range
    module_call: int | None = None


@dataclass(frozen=True, slots=True)
class UnseenCall:
    """A call that no op shows, and that decides on what follows.

    Attributes:
        function: ``"tolist"``, which hands numbers to Python; ``"register_hook"``, after which a
            gradient may become another; ``"data"``, which gives the tensor another's memory.
        value: The value of the tensor whose method it is.
        module_call: Index of the innermost module call in which it was called.
    """

    function: str
    value: int
    module_call: int | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A module at its address (``"features.6"``; the traced model's own is ``""``)."""

    index: int
    address: str
    class_name: str
    aliases: tuple[str, ...] = ()
    training: bool = False

    @property
    def depth(self) -> int:
        """How deep it lies: 0 for the model, 1 for its children."""
        return self.address.count(".") + 1 if self.address else 0


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter or buffer of the model; one that several names share is one record.

    Attributes:
        index: Place in `Recording.parameters`.
        name: Its first name, such as ``"features.0.weight"``.
        aliases: Its other names.
        kind: ``"parameter"`` or ``"buffer"``.
        shape: Sizes in elements; empty if it is not ``initialised``.
        dtype: The element type's name.
        itemsize: Bytes per element; half a byte for elements of four bits.
        trainable: Whether it requires a gradient.
        value: The value that it was when first read, None if never read.
        initialised: Whether it has a shape, which a lazy one has once it was used.
        of_model: Whether the model has it when the block ends; not of a module that was made on
            the way, say, or has been taken out of the model.
    """

    index: int
    name: str
    aliases: tuple[str, ...] = ()
    kind: Literal["parameter", "buffer"] = "parameter"
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    itemsize: float = 4
    trainable: bool = False
    value: int | None = None
    initialised: bool = True
    of_model: bool = True

    @property
    def numel(self) -> int:
        """The number of elements."""
        count = int(self.initialised)
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take."""
        return ceil(self.numel * self.itemsize)


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor that an autograd node keeps for its backward.

    Attributes:
        node: The node's class name, such as ``"ReluBackward0"``.
        name: What the node calls the tensor: ``"input"``, ``"weight"``, ``"result"``.
        owner: The value that the call which made the node returned.
        shape: Sizes in elements.
        dtype: The element type's name.
        nbytes: Bytes of the whole memory that stays because of it.
        storage: Number of the storage, None where it is not known.
        maker: The first value in that storage, None where that is not known.
        parameter: The parameter or buffer that it is, an index.
        packed: Whether a hook, such as a checkpoint's, keeps something in its stead.
    """

    node: str
    name: str
    owner: int
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    nbytes: int = 0
    storage: int | None = None
    maker: int | None = None
    parameter: int | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Where gradients were seen to flow, where they were asked for.

    Attributes:
        reached: The values that a gradient reached.
        pairs: Values ``(source, result)`` between which one flowed.
    """

    reached: frozenset[int] = frozenset()
    pairs: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception that left the context, and what was running when it was raised."""

    exception: str
    message: str
    op: int | None = None
    layer_call: int | None = None
    module_call: int | None = None
    frame: Frame | None = None

    def __str__(self) -> str:
        return f"{foreign(self.exception)}: {sentence(self.message, 300)}"


@dataclass(frozen=True, slots=True)
class Recording:
    """All that was recorded between enter and exit.

    The ops, values and layer calls are tuples where a recording is written by hand. Those of a trace
    are each a `Table`, which makes a record as it is asked for.

    ``call_sites`` holds each calling context's frames, the innermost first; ``alive`` the values that
    the tensors were that were there when the block ended, None where that is not known; and
    ``gradient_flow`` where gradients had flowed when the recording was copied. ``grad_enabled`` and
    ``inference`` are those of the first time that the block was entered. ``digests`` are those of
    values by their index, None where none were asked for: of what ops computed or wrote and of
    what came from outside. There is none of a view, whose bytes are those of what it shows; of what was
    ``"rewritten"`` through another tensor, as what was written has one; nor of memory that nobody wrote.
    """

    model_name: str = ""
    ops: Sequence[Op] = ()
    values: Sequence[Value] = ()
    layer_calls: Sequence[LayerCall] = ()
    module_calls: tuple[ModuleCall, ...] = ()
    modules: tuple[Module, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    call_sites: tuple[tuple[Frame, ...], ...] = ()
    duration_ns: int = 0
    seed: int = 0
    failure: Failure | None = None
    saved_tensors: tuple[SavedTensor, ...] | None = None
    storages: Sequence[StorageLife] | None = None
    digests: Mapping[int, Digest] | None = None
    parameter_of_value: dict[int, int] = field(default_factory=dict)
    alive: tuple[int, ...] | None = None
    gradient_flow: GradientFlow = GradientFlow()
    grad_regions: tuple[GradRegion, ...] = ()
    unseen_calls: tuple[UnseenCall, ...] = ()
    grad_enabled: bool = False
    inference: bool = False

    def __copy__(self) -> Recording:
        """Return itself: nothing in it is changed."""
        return self

    def __deepcopy__(self, _: object) -> Recording:
        """Return itself, likewise."""
        return self

    def call_of(self, op: Op) -> int | None:
        """Return the layer call that an op ran in, or in backward belongs to."""
        if op.forward_op is not None:
            return self.ops[op.forward_op].layer_call
        return op.layer_call

    def settings_of(self, ops: Iterable[int], calls: Iterable[int] = ()) -> dict[str, Any]:
        """Return what some ops were set to, the kernel of a convolution among it; the first counts.

        Args:
            ops: Indices of ops.
            calls: Indices of layer calls; those without ops have arguments of their own.
        """
        found: dict[str, Any] = {}
        for number in ops:
            op = self.ops[number]
            if "conv" in op.name:
                weights = [r.value for r in op.reads if r.argument == "weight"]
                if weights:
                    found.setdefault("kernel_size", list(self.values[weights[0]].shape[2:]))
            for name, value in op.settings().items():
                found.setdefault(name, value)
        for number in calls:
            for name, value in settings(self.layer_calls[number].arguments).items():
                found.setdefault(name, value)
        return found

    def frames_of(self, op: Op) -> tuple[Frame, ...]:
        """Return the frames that led to an op, or in backward to its forward op."""
        site, call = op.call_site, self.call_of(op)
        if site is None and call is not None:
            site = self.layer_calls[call].call_site
        return () if site is None else self.call_sites[site]
