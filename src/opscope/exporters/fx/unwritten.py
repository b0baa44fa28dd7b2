"""Memory that is read although no op wrote it: it was written past torch, or never.

So it is with arrays of numpy, and with what C++ writes by a pointer, such as the lengths that
``pad_packed_sequence`` gives. A program of ops has not got the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opscope import notation
from opscope.errors import TraceStateError
from opscope.records.ops import Op
from opscope.records.recording import Recording

_MAKERS = frozenset({
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
})  # fmt: skip


def check_written(recording: Recording, ops: Sequence[Op], given: Iterable[int]) -> None:
    """Raise if what a program gives, or writes into older memory, comes of unwritten memory.

    Args:
        recording: What happened.
        ops: The ops of the program.
        given: The values that it gives.

    Raises:
        TraceStateError: If it does.
    """
    values = recording.values
    unwritten: dict[int, int] = {}  # by storage, the op that made it
    spoilt: dict[int, int] = {}  # what was computed of that
    made_here: set[int] = set()

    def storages(indices: Iterable[int | None]) -> set[int]:
        found = {values[index].storage for index in indices if index is not None}
        return {storage for storage in found if storage is not None}

    def source_of(read: Iterable[int]) -> int | None:
        known = (sources[s] for s in read for sources in (spoilt, unwritten) if s in sources)
        return next(known, None)

    for op in ops:
        written, read = storages(op.writes), storages(r.value for r in op.reads)
        for storage in written:
            unwritten.pop(storage, None)
        fresh = storages(op.outputs) - read
        made_here |= fresh
        source = None if _asks_only(op) else source_of(read)
        if source is not None:
            if not written <= made_here:
                raise _refuse(recording, source)
            spoilt.update(dict.fromkeys(fresh | written, source))
        elif op.name in _MAKERS and any(values[v].numel for v in op.outputs if v is not None):
            unwritten.update(dict.fromkeys(fresh, op.index))
    source = source_of(storages(given))
    if source is not None:
        raise _refuse(recording, source)


def _asks_only(op: Op) -> bool:
    """Whether an op looks at the sizes of what it is given, and not at the elements."""
    return op.name.endswith("_like") or op.name.startswith("new_")


def _refuse(recording: Recording, index: int) -> TraceStateError:
    op = recording.ops[index]
    frames = recording.frames_of(op)
    where = f" at {notation.foreign(str(frames[0]))}" if frames else ""
    message = (
        f"the program gives what lies in the memory that op {index}, {op.operator}{where} made, "
        "and that no op wrote: it was written past torch, or never"
    )
    return TraceStateError(message)
