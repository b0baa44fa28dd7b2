"""What an operator reads, writes and aliases, worked out once per overload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from operator import itemgetter
from typing import Any

import torch

from opscope.operators.known import (
    FILL_WHOLE,
    QUESTIONS,
    TRAINING_FLAGS,
    UNDECLARED_WRITES,
    InWords,
)
from opscope.torch_api import OpOverload

_TENSOR_TYPES = ("Tensor", "Optional[Tensor]")
_LIST_TYPES = (
    "List[Tensor]",
    "List[Optional[Tensor]]",
    "Optional[List[Tensor]]",
    "Optional[List[Optional[Tensor]]]",
    "List[List[Tensor]]",  # the collectives'
)


def _getter(positions: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]] | None:
    """Return a function that takes these positions of a tuple, as a tuple; None for none."""
    if not positions:
        return None
    if len(positions) == 1:
        return itemgetter(slice(positions[0], positions[0] + 1))
    return itemgetter(*positions)


def unnested(items: Any) -> Any:
    """Return a list of tensors, also of one of lists of them."""
    if items and isinstance(items[0], (list, tuple)):
        return [item for inner in items for item in inner]
    return items


def results(result: Any) -> Iterator[torch.Tensor | None]:
    """Yield the tensors of what an op gave, lists of lists too; None for each absent one."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for item in result:
            if item is None or isinstance(item, torch.Tensor):
                yield item
            else:
                yield from results(item)


def _in_words(get: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """Return a getter that says objects of C++ in words, so that none is kept alive."""
    return lambda args: tuple(map(described, get(args)))


def _with_tuples(get: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """Return a getter of tuples instead of lists, which the garbage collector visits for ever."""
    return lambda args: tuple(
        [tuple(value) if value.__class__ is list else value for value in get(args)]
    )


class Met(InWords):
    """What a record says of an object of C++ that an op was given.

    Attributes:
        identity: What tells it from others, as long as it is there.
    """

    identity: int | None = None


def described(value: Any) -> Any:
    """Return what a record says of an argument: a process group by its name and ranks."""
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, torch.UntypedStorage):
        return InWords(f"storage of {value.nbytes()} bytes")
    if not isinstance(value, torch.ScriptObject):
        return value
    name = str(value._type().name())  # type: ignore[attr-defined]
    if name != "ProcessGroup":
        met = Met(name)
        met.identity = identity_of(value)
        return met
    group = torch.distributed.ProcessGroup.unbox(value)
    try:
        ranks = torch.distributed.get_process_group_ranks(group)
        known = f"{group.group_name!r}, ranks={ranks}"
    except (KeyError, RuntimeError, ValueError):  # one that was made by hand has no name
        known = f"size={group.size()}"
    return InWords(f"{name}({known})")


def identity_of(held: Any) -> int | None:
    """Return what tells an object of C++ from others; each of Python's views of it has it."""
    try:
        return hash(held)
    except (NotImplementedError, RuntimeError, TypeError):
        return None


class Plan:
    """How to read the arguments of one operator overload.

    Attributes:
        func: The overload; holding it keeps its ``id`` from being reused.
        call: What to call to run it; skips one Python frame where there is one.
        name: Such as ``"aten.add.Tensor"``.
        arguments: The names of the schema's arguments, in order.
        positional: Per number of positional arguments, the `Slots` of that call.
        kinds: Per argument, ``"tensor"``, ``"list"`` (of tensors) or ``"other"``.
        writes: Names of the tensor arguments that it writes.
        overwrites: Those that it writes whole, without a look at what they held.
        flag: Place and name of the argument without which it writes none of them.
        skip: Whether it is no computation (the profiler's own marks, reads of metadata).
        draws: Whether it draws random numbers.
        numbers: The places of arguments that are lists of numbers.
        objects: The places of arguments that are objects of C++, such as process groups.
        opaque: Whether nothing is known of its arguments: a higher-order operator.
    """

    __slots__ = (
        "arguments", "call", "draws", "flag", "func", "kinds", "name", "numbers", "objects",
        "opaque", "overwrites", "positional", "skip", "writes",
    )  # fmt: skip

    def __init__(self, func: Any) -> None:
        self.func = func
        self.call = getattr(func, "_op", func)
        self.name = str(func)
        self.skip = self.name.startswith("profiler.") or self.name in QUESTIONS
        self.draws = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        schema = getattr(func, "_schema", None)
        self.opaque = schema is None
        types = [str(argument.type) for argument in (() if schema is None else schema.arguments)]
        held = ("torch.classes", "Storage")  # of a storage a tensor is made; it is not to be kept
        self.objects = frozenset(i for i, name in enumerate(types) if any(x in name for x in held))
        self.numbers = frozenset(
            i for i, name in enumerate(types) if "List[" in name and _kind(name) == "other"
        )
        if schema is None:
            self.arguments: tuple[str, ...] = ()
            self.kinds: tuple[str, ...] = ()
            self.writes: frozenset[str] = frozenset()
            self.overwrites: frozenset[str] = frozenset()
        else:
            self.arguments = tuple(argument.name for argument in schema.arguments)
            self.kinds = tuple(map(_kind, types))
            declared = {
                argument.name
                for argument in schema.arguments
                if argument.alias_info is not None and argument.alias_info.is_write
            }
            undeclared = UNDECLARED_WRITES.get(schema.name, ())
            if schema.name.startswith("c10d::") and schema.name.endswith("_"):
                undeclared = self.arguments[:1]  # what collectives give, or change in place
            # These change their input's metadata, not its elements.
            retags = torch.Tag.inplace_view in func.tags or schema.name == "aten::set_"
            writes = set() if retags else declared.union(undeclared)
            self.writes = frozenset(writes.intersection(self.arguments))
            out = {argument.name for argument in schema.arguments if argument.is_out}
            out.update(name for name in undeclared if name.startswith("output"))
            first = self.arguments[:1] if schema.name in FILL_WHOLE else ()
            self.overwrites = frozenset(out.union(first))
        # Where the flag is that says whether the undeclared writes happen at all.
        flags = [pair for pair in enumerate(self.arguments) if pair[1] in TRAINING_FLAGS]
        undeclared_too = schema is not None and schema.name in UNDECLARED_WRITES
        self.flag = flags[0] if flags and undeclared_too else None
        self.positional: dict[int, Slots] = {}

    def written(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> list[torch.Tensor]:
        """Return the tensors among a call's arguments that it writes."""
        if self.flag is not None:
            place, name = self.flag
            if not (args[place] if place < len(args) else (kwargs or {}).get(name, True)):
                return []
        found: list[Any] = [args[i] for i in self.slots(len(args)).writes]
        if kwargs:
            found.extend(value for name, value in kwargs.items() if name in self.writes)
        flat: list[Any] = []
        for item in found:
            flat.extend(unnested(item)) if isinstance(item, (list, tuple)) else flat.append(item)
        return [item for item in flat if isinstance(item, torch.Tensor)]

    def objects_in(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the objects of C++ among a call's arguments, by name."""
        names = [self.arguments[place] for place in sorted(self.objects)]
        named = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        return {name: named[name] for name in names if name in named}

    def slots(self, count: int) -> Slots:
        """Return where things sit in a call of ``count`` positional arguments."""
        found = self.positional.get(count)
        if found is None:
            found = self.positional[count] = Slots(self, count)
        return found


class Slots:
    """Where tensors, lists of tensors and other arguments sit in one form of a call."""

    __slots__ = (
        "constant_names",
        "constants",
        "lists",
        "plan",
        "tensor_names",
        "tensors",
        "writes",
    )

    def __init__(self, plan: Plan, count: int) -> None:
        names = [*plan.arguments, *(f"arg{i}" for i in range(len(plan.arguments), count))]
        kinds = [*plan.kinds, *("other" for _ in range(len(plan.kinds), count))]
        tensors = [i for i in range(count) if kinds[i] == "tensor"]
        constants = [i for i in range(count) if kinds[i] == "other" and not plan.opaque]
        self.plan = plan
        self.tensors = tuple(tensors)
        self.tensor_names = tuple(names[i] for i in tensors)
        self.lists = tuple((i, names[i]) for i in range(count) if kinds[i] == "list")
        self.constants = _getter(constants)
        if self.constants is not None and plan.objects.intersection(constants):
            self.constants = _in_words(self.constants)
        if self.constants is not None and plan.numbers.intersection(constants):
            self.constants = _with_tuples(self.constants)
        self.constant_names = tuple(names[i] for i in constants)
        self.writes = tuple(i for i in range(count) if names[i] in plan.writes)


_plans: dict[int, Plan] = {}


def plan_of(func: Any) -> Plan:
    """Return an overload's plan, made once a process: reading a schema takes 40 µs."""
    found = _plans.get(id(func))
    if found is None:
        found = _plans[id(func)] = Plan(func)
    return found


def _kind(schema_type: str) -> str:
    if schema_type in _TENSOR_TYPES:
        return "tensor"
    return "list" if schema_type in _LIST_TYPES else "other"


def overload(operator: str) -> Any:
    """Return the operator overload of a name such as ``"aten.add.Tensor"``, None if none is."""
    found: Any = torch.ops
    for part in operator.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found if isinstance(found, OpOverload) else None


def named_arguments(function: Any, given: Mapping[int | str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return arguments of a torch function by their names; those whose names it hides are left out.

    Args:
        function: Such as ``torch.nn.functional.dropout``, or a method of tensors.
        given: Arguments by place or name.

    >>> named_arguments(torch.dropout, {1: 0.5, "train": False})
    (('p', 0.5), ('train', False))
    """
    try:
        names = list(signature(function).parameters)
    except (ValueError, TypeError):  # it is written in C++
        operator = overload(f"aten.{getattr(function, '__name__', '')}.default")
        names = [] if operator is None else [item.name for item in operator._schema.arguments]
    places = dict(enumerate(names))
    found = (
        (key if isinstance(key, str) else places.get(key), item) for key, item in given.items()
    )
    return tuple((name, item) for name, item in found if name is not None)


def drew(operator: str, arguments: Mapping[str, object]) -> bool:
    """Whether an operator drew random numbers: torch says it may, and no argument that it did not.

    >>> drew("aten.native_dropout.default", {"p": 0.5, "train": True}), drew("aten.rand.default", {})
    (True, True)
    >>> drew("aten.native_dropout.default", {"p": 0.5, "train": False}), drew("aten.add.Tensor", {})
    (False, False)
    """
    found = overload(operator)
    if found is None or not plan_of(found).draws:
        return False
    # What equals its default is not among the arguments of a record.
    usual = {item.name: item.default_value for item in found._schema.arguments}
    given = {**usual, **arguments}
    is_off = any(given.get(flag, True) is False for flag in ("train", "training"))
    return not is_off and given.get("dropout_p", 1) != 0
