"""What happened between enter and exit, as plain data.

Nothing here knows torch: a recording can be written by hand in a test. Records
refer to one another by index into the tuples of the one `Recording`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, TypeVar

from opscope.notation import foreign, sentence
from opscope.records.containers import LONE, LONE_ARGUMENT, Structure

T = TypeVar("T")

Origin = Literal["outside", "fresh", "view", "write", "handed", "rewritten"]
"""How a value came to be: it was there before, an op made it in new memory, an op
made it as a view of older memory, an op wrote it over older memory, a call that
dispatched nothing handed its input on, or an op wrote some of its bytes through another
tensor, such as a slice of it."""

CallKind = Literal["function", "identity", "input", "output"]
"""What a layer call is: a torch function, a module that returned its input unchanged, or
a tensor that entered or left the traced model."""


Phase = Literal["forward", "backward", "optimizer", "other"]
"""Which part of a training step an op is in: ``"backward"`` is all that the autograd engine
runs, ``"optimizer"`` all under an optimizer's own methods, and ``"other"`` what works on the
results of these two outside of them, such as clipping of gradients."""

PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "other")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor at one moment, between two writes.

    Attributes:
        index: Place in `Recording.values`.
        shape: Sizes in elements.
        stride: Strides in elements; empty where the layout has none.
        offset: Offset into the storage, in elements.
        dtype: The element type's name, such as ``"float32"``.
        itemsize: Bytes per element.
        device: Such as ``"cpu"`` or ``"cuda:0"``.
        storage: Number of the storage it lives in, None where the layout has none.
        origin: How it came to be.
        made_by: Index of the op that made it, or for ``origin="rewritten"`` of the last that
            wrote some of it; None where no op did.
        handed_from: For ``origin="handed"``, the value that was handed on; for ``"rewritten"``,
            the value that the same tensor was before.
    """

    index: int
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    dtype: str = "float32"
    itemsize: int = 4
    device: str = "cpu"
    storage: int | None = None
    origin: Origin = "fresh"
    made_by: int | None = None
    handed_from: int | None = None

    @property
    def numel(self) -> int:
        """The number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take; expanded elements count each time."""
        return self.numel * self.itemsize


@dataclass(frozen=True, slots=True)
class Frame:
    """One position in Python code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{foreign(self.file)}:{self.line}"


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


class InWords(str):
    """What a record says of an argument that it does not keep, as an object of C++ is."""

    __slots__ = ()


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
        place: Number of the calling context, see `Recording.places`.
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
    place: int | None = None
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

    @property
    def name(self) -> str:
        """The operator without namespace and overload: ``"convolution"``."""
        return name_of(self.operator)


def name_of(operator: str) -> str:
    """Return an operator without namespace and overload.

    >>> name_of("aten.convolution.default")
    'convolution'
    """
    parts = operator.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One torch function called from Python, with the ops that it dispatched.

    Attributes:
        index: Place in `Recording.layer_calls`, in the order of execution.
        function: The function's name as torch spells it: ``"max_pool2d"``, ``"add_"``.
        kind: What sort of call it is.
        path: For inputs and outputs, where among them the tensor was; see `Leaf`.
        module_call: Index of the innermost module call it ran in.
        place: Number of the calling context.
        ops: Indices of its ops, which are contiguous; empty where it handed its input on.
        received: For a call without ops, the values it was given.
        returned: The values that it returned.
        started_ns: Nanoseconds since the trace began.
        duration_ns: Nanoseconds it took.
        grad_fn: Class name of the autograd node of what it returned.
        phase: Which part of a training step it is in.
        failed: Whether it raised.
    """

    index: int
    function: str
    kind: CallKind = "function"
    path: str = ""
    module_call: int | None = None
    place: int | None = None
    ops: range = range(0)
    received: tuple[int, ...] = ()
    returned: tuple[int, ...] = ()
    started_ns: int = 0
    duration_ns: int = 0
    grad_fn: str | None = None
    phase: Phase = "forward"
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor found in a module's inputs or outputs, with the path that leads to it.

    The path is empty for a lone tensor. That of an input begins with the argument's place
    or name: ``"1"``, ``"attention_mask"`` or ``"past_key_values.0.1"``.
    """

    path: str
    value: int


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One run of a module.

    Attributes:
        index: Place in `Recording.module_calls`, in the order of entering.
        module: Index into `Recording.modules`.
        number: Which run of that module it is, from 1.
        parent: Index of the module call around it.
        place: Number of the calling context.
        is_root: Whether it is a call of the traced model from outside.
        inputs: Tensors passed in, by place or by name.
        outputs: Tensors returned.
        input_structure: The arguments it was called with, the inputs numbered in them.
        output_structure: What it returned, the outputs numbered in it.
        ops: Indices of the ops that ran inside, at any depth.
        layer_calls: Indices of the layer calls that ran inside, at any depth.
        started_ns: Nanoseconds since the trace began.
        duration_ns: Nanoseconds it took.
        failed: Whether it raised.
        grad_enabled: Whether autograd recorded when it was called. What was set in places that
            no function mode sees is not known, inside of the model.
        inference: Whether ``inference_mode`` was on when the model was called.
    """

    index: int
    module: int
    number: int = 1
    parent: int | None = None
    place: int | None = None
    is_root: bool = False
    inputs: tuple[Leaf, ...] = ()
    outputs: tuple[Leaf, ...] = ()
    input_structure: Structure = LONE_ARGUMENT
    output_structure: Structure = LONE
    ops: range = range(0)
    layer_calls: range = range(0)
    started_ns: int = 0
    duration_ns: int = 0
    failed: bool = False
    grad_enabled: bool = False
    inference: bool = False


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

    The ops, values and layer calls of a trace are no tuples but `opscope.records.columns.table.Table`,
    which can be read in the same ways and makes each record as it is asked for.

    ``places`` holds each calling context's frames, the innermost first; ``alive`` the values that
    the tensors were that were there when the block ended, None where that is not known; and
    ``gradient_flow`` where gradients had flowed when the recording was copied. ``grad_enabled`` and
    ``inference`` are those of the first time that the block was entered.
    """

    model_name: str = ""
    ops: tuple[Op, ...] = ()
    values: tuple[Value, ...] = ()
    layer_calls: tuple[LayerCall, ...] = ()
    module_calls: tuple[ModuleCall, ...] = ()
    modules: tuple[Module, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    places: tuple[tuple[Frame, ...], ...] = ()
    duration_ns: int = 0
    seed: int = 0
    failure: Failure | None = None
    saved_tensors: tuple[SavedTensor, ...] | None = None
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

    def frames_of(self, op: Op) -> tuple[Frame, ...]:
        """Return the frames that led to an op, or in backward to its forward op."""
        place, call = op.place, self.call_of(op)
        if place is None and call is not None:
            place = self.layer_calls[call].place
        return () if place is None else self.places[place]


def before_writes(recording: Recording, index: int) -> Value:
    """Return the value that a tensor was before it was written through another tensor.

    It is the same tensor at an earlier moment, and any but a ``"rewritten"`` value itself.
    """
    value = recording.values[index]
    while value.origin == "rewritten" and value.handed_from is not None:
        value = recording.values[value.handed_from]
    return value


def each_before_writes(recording: Recording) -> list[Value]:
    """Return the same for every value: in one pass, where each may have been written often."""
    found: list[Value] = []
    for value in recording.values:
        earlier = value.handed_from
        if value.origin != "rewritten" or earlier is None:
            found.append(value)
        elif earlier < len(found):
            found.append(found[earlier])
        else:
            found.append(before_writes(recording, earlier))
    return found
