"""What each op was given: as which argument each tensor, and all that is none."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opscope.capture.tables.rows import TensorSlot
from opscope.capture.tables.tables import Tables
from opscope.operators.known import InWords
from opscope.operators.plans import Met, Plan, Slots
from opscope.records.columns.columns import NONE

Named = tuple[tuple[str, object], ...]
_WIDTH = 3  # of a row of `Tables.ops`


class Forms:
    """The few ways in which all ops of the tables were called.

    Attributes:
        plans: By op, the number of its operator among ``plan_table``.
        codes: By op, the number of the form of its call among ``table``.
        table: For each form, which argument each thing is that was read, or would have been if
            it were a tensor, and whether it is overwritten unread.
        with_objects: The ops of operators that take objects of C++.
    """

    def __init__(self, tables: Tables, count: int) -> None:
        self.table: list[tuple[tuple[str, bool], ...]] = []
        self._known: dict[Any, tuple[int, int]] = {}
        plans: dict[int, int] = {}
        self.plan_table: list[Plan] = []
        self.plans = array("i")
        self.codes = array("i")
        for slots, constants, named in _rows(tables, count):
            key: Any = slots
            if slots.lists or named:
                key = slots, constants[len(slots.constant_names) :], _slots_among(named)
            found = self._known.get(key)
            if found is None:
                plan = plans.setdefault(id(slots.plan), len(plans))
                if plan == len(self.plan_table):
                    self.plan_table.append(slots.plan)
                found = self._known[key] = plan, len(self.table)
                overwrites = slots.plan.overwrites
                names = _read_names(slots, constants, named)
                self.table.append(tuple((n, n.partition("[")[0] in overwrites) for n in names))
            self.plans.append(found[0])
            self.codes.append(found[1])
        takes_objects = {number for number, plan in enumerate(self.plan_table) if plan.objects}
        self.with_objects = (
            [op for op, plan in enumerate(self.plans) if plan in takes_objects]
            if takes_objects
            else []
        )


class Arguments:
    """By op, all arguments that are no tensors; a column of the recording.

    Args:
        tables: What was recorded.
        reads_end: By op, where what it read ends among `Tables.reads`.
        packed: By what tells an object of C++ from others, the parameters in it.
    """

    __slots__ = ("_numbers", "_ops", "_packed", "_reads", "_reads_end")

    def __init__(
        self, tables: Tables, reads_end: Sequence[int], packed: Mapping[int | None, tuple[int, ...]]
    ) -> None:
        # Not the tables itself, which may hold what was saved.
        self._ops, self._reads, self._numbers = tables.ops, tables.reads, tables.numbers
        self._reads_end = reads_end
        self._packed = packed

    def __len__(self) -> int:
        return len(self._reads_end)

    def __getitem__(self, op: int) -> Named:
        arguments = tuple(self._others(op))
        if not self._ops[_WIDTH * op].plan.objects:
            return arguments
        return _without_identity(arguments)

    def __iter__(self) -> Iterator[Named]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        return list, (list(self),)

    def packed(self, ops: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return, for those of some ops that were given any, the parameters inside objects."""
        found = {}
        for op in ops:
            objects = _objects(tuple(self._others(op)))
            numbers = [n for item in objects for n in self._packed.get(item.identity, ())]
            if numbers:
                found[op] = tuple(numbers)
        return found

    def _others(self, op: int) -> Iterator[tuple[str, object]]:
        """Yield an op's arguments that are no tensors, as they were given."""
        slots, constants, named = self._ops[_WIDTH * op : _WIDTH * (op + 1)]
        at = self._reads_end[op - 1] if op else 0

        def numbers(names: Sequence[str]) -> Iterator[tuple[str, object]]:
            """Yield what was given in the place of tensors."""
            nonlocal at
            for name in names:
                if self._reads[at] == NONE:
                    yield name, self._numbers.get(at)
                at += 1

        yield from numbers(slots.tensor_names)
        count = len(slots.constant_names)
        for name, value in zip(slots.constant_names, constants[:count], strict=True):
            yield name, list(value) if value.__class__ is tuple else value
        for (_, name), length in zip(slots.lists, constants[count:], strict=True):
            if not length:
                yield name, None if length is None else []
            yield from numbers(_places(name, length))
        for name, value in (named or {}).items():
            if not isinstance(value, TensorSlot):
                yield name, value
            else:
                yield from numbers([name] if value.count is None else _places(name, value.count))


def _rows(
    tables: Tables, count: int
) -> Iterator[tuple[Slots, tuple[Any, ...], dict[str, Any] | None]]:
    return zip(*[iter(tables.ops[: _WIDTH * count])] * _WIDTH, strict=True)


def _places(name: str, length: int | None) -> list[str]:
    return [f"{name}[{position}]" for position in range(length or 0)]


def _slots_among(named: Mapping[str, Any] | None) -> tuple[tuple[str, int | None], ...]:
    """Return the tensors among named arguments, and how many each is."""
    return tuple((n, v.count) for n, v in (named or {}).items() if isinstance(v, TensorSlot))


def _read_names(
    slots: Slots, constants: tuple[Any, ...], named: Mapping[str, Any] | None
) -> list[str]:
    """Return the argument that each tensor is which an op read, in order."""
    names = list(slots.tensor_names)
    for (_, name), length in zip(slots.lists, constants[len(slots.constant_names) :], strict=True):
        names += _places(name, length)
    for name, count in _slots_among(named):
        names += [name] if count is None else _places(name, count)
    return names


def _objects(arguments: Named) -> list[Met]:
    """Return the objects of C++ among an op's arguments."""
    items = (item if isinstance(item, list) else [item] for _, item in arguments)
    return [item for several in items for item in several if isinstance(item, Met)]


def _without_identity(arguments: Named) -> Named:
    def plain(item: object) -> object:
        if isinstance(item, list):
            return [plain(one) for one in item]
        return InWords(item) if isinstance(item, Met) else item

    return tuple((name, plain(item)) for name, item in arguments)
