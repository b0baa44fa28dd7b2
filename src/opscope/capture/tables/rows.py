"""What a row of the tables is, and the numbers of very many rows by column."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from opscope.records.calls import CallKind
from opscope.records.columns.columns import NONE
from opscope.records.containers import LONE, LONE_ARGUMENT, Structure

GRAD, INFERENCE, BACKWARD, FAILED, IN_CALL = 1, 2, 4, 8, 16


# Module, call site, flags, where what it reads, makes and writes ends, autograd's number, times.
OP_NUMBERS = Struct("=6i3q")
PACK_OP = OP_NUMBERS.pack
SITE = Struct("=i")  # the call site, the second number of an op and of a call


class PassThrough(NamedTuple):
    """What else there is to tell of a layer call that returned what it was given."""

    received: tuple[int, ...]
    kind: CallKind = "function"
    path: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()


# Module, call site, where its ops start and end, where its returned rows end, start and end in time.
CALL_NUMBERS = Struct("=5i4x2q")  # in which times are at places that eight bytes fit into
PACK_CALL = CALL_NUMBERS.pack


class NodeRow(NamedTuple):
    """One row of `Tables.nodes`: the autograd node that an op of the engine ran for.

    ``number`` is autograd's, ``parameter`` the one whose gradient the node accumulates, and
    ``task`` the engine's number for the backward.
    """

    op: int
    kind: type
    number: int
    parameter: int
    task: int

    @property
    def evaluation(self) -> tuple[Any, ...]:
        """What is the same for all ops of one evaluation of the node."""
        return self[1:]


class TensorSlot:
    """Stands for a tensor, or a list of ``count`` of them, among an op's named arguments."""

    __slots__ = ("count",)

    def __init__(self, count: int | None = None) -> None:
        self.count = count


class FailureMark:
    """Which one was running when the last exception was raised, until the trace ends.

    Only the first that a given exception passes through is noted: the innermost.
    """

    __slots__ = ("_error", "_index")

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._index: int | None = None

    def note(self, error: BaseException, index: int) -> None:
        """Note what an exception passes through."""
        if error is not self._error:
            self._error, self._index = error, index

    def of(self, error: BaseException) -> int | None:
        """Return what was running when ``error``, or what it was raised from, was raised."""
        at: BaseException | None = error
        while at is not None:
            if at is self._error:
                return self._index
            at = at.__cause__ or at.__context__
        return None

    def forget(self) -> None:
        """Let go of the exception."""
        self._error = None


# The row of each tensor that a module was given or gave, with its path. Of tuples of tuples the
# garbage collector lets go, of lists it does not.
Leaves = tuple[tuple[str, int], ...]


class ModuleRun:
    """One run of a module.

    Attributes:
        number: Which run of the module it is, counted from 1.
        parent: The run that it is in.
        call_site: Where it is in the program; a root module is at the same wherever it is called.
        called_from: The call site of this very run.
        inputs: The rows it was given, each with its path.
        outputs: The rows it gave.
        given: The arguments in which the inputs were.
        gave: What the outputs were in.
        grad_enabled: Whether autograd recorded when it began.
        inference: Whether inference mode was on when the model around it began.
    """

    __slots__ = (
        "call_end", "call_site", "call_start", "called_from", "end", "failed", "gave", "given", "grad_enabled", "index",
        "inference", "inputs", "is_root", "module", "number", "op_end", "op_start", "outputs",
        "parent", "start",
    )  # fmt: skip

    def __init__(self, index: int, module: int, number: int, parent: int) -> None:
        self.index = index
        self.module = module
        self.number = number
        self.parent = parent
        self.call_site = self.called_from = NONE
        self.is_root = self.failed = self.grad_enabled = self.inference = False
        self.inputs: Leaves = ()
        self.outputs: Leaves = ()
        self.given: Structure = LONE_ARGUMENT
        self.gave: Structure = LONE
        self.op_start = self.op_end = self.call_start = self.call_end = 0
        self.start = self.end = 0


class Numbers:
    """What was given in the place of tensors, by its place among all that was read, in order."""

    __slots__ = ("_places", "_values")

    def __init__(self) -> None:
        self._places = array("i")
        self._values: list[Any] = []

    def put(self, place: int, value: Any) -> None:
        """Add one, after all others."""
        self._places.append(place)
        self._values.append(value)

    def get(self, place: int) -> Any:
        """Return what was given there, None for nothing."""
        at = bisect_left(self._places, place)
        is_known = at < len(self._places) and self._places[at] == place
        return self._values[at] if is_known else None

    def __len__(self) -> int:
        return len(self._values)

    def __delitem__(self, which: slice) -> None:
        del self._places[which]
        del self._values[which]


class OpColumns(NamedTuple):
    """The numbers of all ops: the ends are those of each in `Tables.reads`, `made` and `wrote`."""

    module: array[int]
    call_site: array[int]
    flags: array[int]
    reads_end: array[int]
    made_end: array[int]
    wrote_end: array[int]
    sequence: array[int]
    started: array[int]
    ended: array[int]


class CallColumns(NamedTuple):
    """The numbers of all layer calls: of the ops and of what each returned, where they end."""

    module: array[int]
    call_site: array[int]
    ops_start: array[int]
    ops_end: array[int]
    returned_end: array[int]
    started: array[int]
    ended: array[int]


def unpacked(packed: bytearray, small: int, large: Sequence[int]) -> Iterator[array[int]]:
    """Yield the columns of packed rows: so many of four bytes, then those at these places of eight."""
    width = large[-1] + 1
    with memoryview(packed) as whole:
        for at in range(small):
            with whole.cast("i") as numbers, numbers[at :: 2 * width] as column:
                yield array("i", column)
        for at in large:
            with whole.cast("q") as numbers, numbers[at::width] as column:
                yield array("q", column)
