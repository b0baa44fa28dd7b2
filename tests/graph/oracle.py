"""What really flows from op to op, observed in memory; and a checker of opscope's edges.

Nothing here looks at how opscope works out its edges. A program is run again under a small
dispatch mode of this module's own, which knows of each op what it was *given* (every
tensor among its arguments) and what it *produced*: its outputs in storages that nobody
saw before, the arguments that its schema says it writes, and those whose contents were
seen to change although the schema does not say so. Then

* `writers_of` makes what is produced carry its producer's number. The program runs once
  per binary digit of those numbers, and after each op everything that it produced is
  filled with that digit. What an op is given then spells, byte by byte, which op wrote
  that byte last. It is exact: no result survives that could hide a difference.
* `reached_from` changes what one op produced and lets all others compute on, so that the
  change spreads as far as it goes; with ``hold=True`` the others' results are put back to
  what they were without the change, so that only those given the changed bytes differ.

What they cannot tell, and `check` therefore leaves open:

* Tensors without elements hold nothing that could differ.
* An ``alias`` edge is about the tensor object: whether the op at its other end was the last
  to return that very object without producing what is in it. That is observed too, but
  apart from contents: such an op produces nothing.
* A write counts for the whole argument, also where a mask or an index leaves some of it as it
  was. What an op fills whole, whatever it held (``copy_``, ``fill_``, ``out=``), it does not look
  at: that is tried, on other values than the program's.
* A view op looks at the bytes that its results show, and at no others; one of several tensors
  that gives as many (``broadcast_tensors``) has of each argument its own.
* What a call that dispatched nothing passed through is followed through, not judged.
* ``reached_from(hold=False)`` misses what a saturating op, a comparison or a cast swallows;
  it never reports too much, since ops that were given the same are made to give the same.
* Memory that ``resize_`` adds belongs to nobody until it is written.
* Bytes from outside that no tensor from outside showed before they were viewed (``set_`` and
  ``as_strided`` reach such) need no edge: there was no tensor that it could come from.
* Outside tensors are one source: that an edge comes from outside is checked, not from where.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from tests.graph.fuzzer import Program
from torch.utils._python_dispatch import TorchDispatchMode

import opscope

NOBODY, OUTSIDE = -1, -2  # and below: OUTSIDE - 5 is what a tensor given to op 5 showed first
_NEVER = 2**30
Argument = tuple[int, str]
"""The op that is given a tensor, and the name of the argument."""

# The element whose every byte is 1, so that it is recognised through `view(dtype)` too.
# Indices must stay in bounds, and are never viewed as another type.
_ONES = {
    torch.int64: 1,
    torch.bool: True,
    **{
        dtype: torch.ones(dtype.itemsize, dtype=torch.uint8).view(dtype).item()
        for dtype in (torch.float32, torch.float64, torch.int32, torch.int16, torch.uint8)
    },
}


# ---------------------------------------------------------------------------- watching


class _Watcher(TorchDispatchMode):
    """Numbers the ops and works out what each is given and what it produces."""

    def __init__(self, base: Base | None = None) -> None:
        super().__init__()
        self.base = base
        self.names: list[str] = []
        self.storages = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def before(self, op: int, given: list[tuple[str, torch.Tensor]]) -> None:
        """Look at the tensors that an op is given."""

    def look(self, op: int, held: list[tuple[str, list[torch.Tensor]]]) -> None:
        """Look at copies of what an op sees of each argument."""

    def after(self, op: int, produced: list[torch.Tensor]) -> None:
        """Change what it produced; each is an alias that autograd does not know."""

    def outside(self, tensor: torch.Tensor) -> None:
        """Change all of a tensor's storage, at its first snapshot, when it came from outside."""

    def nobody(self, memory: torch.Tensor) -> None:
        """Change elements that nobody wrote."""
        memory.zero_()

    def meet(self, tensor: torch.Tensor) -> bool:
        """Number a tensor's storage; return whether it is met for the first time.

        The number is kept on the storage's Python object, which lives as long as it does.
        """
        storage = tensor.untyped_storage()
        if hasattr(storage, "_oracle_number"):
            return False
        storage._oracle_number = self.storages
        storage._oracle_size = storage.nbytes()
        self.storages += 1
        return True

    def notice_growth(self, tensor: torch.Tensor) -> None:
        """See to the bytes that an op added to a storage: ``resize_``, ``out=``, ``set_``."""
        storage = tensor.untyped_storage()
        size = getattr(storage, "_oracle_size", None)
        if size is not None and storage.nbytes() > size:
            self.nobody(_whole(tensor)[size // tensor.itemsize :])
            storage._oracle_size = storage.nbytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        op = len(self.names)
        self.names.append(str(func))
        given = list(_arguments(func, args, kwargs or {}))
        for _, tensor in given:
            if self.meet(tensor):
                self.outside(tensor)
        lain = [_number(tensor) for _, tensor in given]
        held = [(name, [_copy(tensor)]) for name, tensor in given]
        self.before(op, given)
        before = [] if self.base else [(_alias(tensor), _copy(tensor)) for _, tensor in given]
        result = func(*args, **(kwargs or {}))
        written = _declared_writes(func, given)
        if self.base is None:
            written |= self.notice(given, written, before, _probe(func, args, kwargs or {}))
        else:
            written |= self.base.undeclared[op]
        outputs = [item for _, item in _tensors("", result)]
        for tensor in (*(tensor for _, tensor in given), *outputs):
            self.notice_growth(tensor)
        fresh = [item for item in outputs if _number(item) is None]
        is_view = bool(outputs) and not written and (not fresh or _reshapes(func))
        if fresh and _reshapes(func):  # set_ to a storage that no op was given
            self.meet(fresh[0])
            self.outside(fresh.pop())
        for item in fresh:
            if self.meet(item):
                self.nobody(_whole(item))

        def shows(name: str, number: int | None, item: torch.Tensor) -> bool:
            is_set = func.overloadpacket.__name__ == "set_"  # the tensor lets go of what it was
            return _number(item) == number and not (is_set and name == "self")

        if is_view:
            # Of several tensors, as many views are each of its own.
            pairs = len(outputs) == len(given) > 1
            held = [
                (name, [_copy(item) for item in of_it if shows(name, number, item)])
                for (name, _), number, of_it in zip(
                    given, lain, [[item] for item in outputs] if pairs else [outputs] * len(given),
                    strict=True,
                )
            ]  # fmt: skip
        if self.base is None:
            self.overwritten |= {(op, name) for name in _overwritten(func, args, kwargs, written)}
        self.look(op, held)
        produced = [tensor for name, tensor in given if name in written]
        self.name_makers(op, outputs, fresh, produced)
        produced = [_alias(tensor) for tensor in (*produced, *fresh)]
        if "empty" in func.__name__:
            for tensor in produced:
                tensor.fill_(1)
        self.after(op, produced)
        return result

    def notice(self, given, written, before, probed) -> set[str]:
        """Return the arguments that were written without a word: only the first run does."""
        raise NotImplementedError

    def name_makers(self, op, outputs, fresh, produced) -> None:
        """Note on tensor objects which op made them a view: only the first run does."""


class Base(_Watcher):
    """The program as it is.

    Attributes:
        undeclared: Per op, the arguments that it wrote although its schema is silent.
        viewed_by: Per argument, the op that last returned that tensor object as a view.
        empty: The arguments without elements.
        overwritten: The arguments that ops fill whole, whatever they held.
        shown: Per storage from outside, for each byte the first op that was given a tensor
            from outside which shows it.
        given: Per op, copies of what it saw of each argument.
        produced: Per op, copies of what it produced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.undeclared: list[set[str]] = []
        self.viewed_by: dict[Argument, int] = {}
        self.empty: set[Argument] = set()
        self.overwritten: set[Argument] = set()
        self.shown: dict[int, torch.Tensor] = {}
        self.given: list[list[tuple[str, list[torch.Tensor]]]] = []
        self.produced: list[list[torch.Tensor]] = []

    def before(self, op, given):
        for name, tensor in given:
            maker, place = getattr(tensor, "_oracle_maker", (None, None))
            if place != _place(tensor):  # no op made it what it is
                self._show(op, tensor)
            elif maker is not None:
                self.viewed_by[op, name] = maker

    def outside(self, tensor):
        size = tensor.untyped_storage().nbytes()
        self.shown[_number(tensor)] = torch.full((size,), _NEVER, dtype=torch.int32)

    def _show(self, op, tensor):
        number = _number(tensor)
        if number in self.shown and tensor.numel():
            shown = self.shown[number]
            shape = (*tensor.shape, tensor.itemsize)
            stride = (*(step * tensor.itemsize for step in tensor.stride()), 1)
            start = tensor.storage_offset() * tensor.itemsize
            places = torch.arange(tensor.untyped_storage().nbytes())
            places = places.as_strided(shape, stride, start).reshape(-1)
            places = places[places < len(shown)]  # the rest was added since
            self.shown[number] = shown.scatter(0, places, shown[places].clamp(max=op))

    def look(self, op, held):
        self.given.append(held)
        for name, seen in held:
            if seen and not any(copy.numel() for copy in seen):
                self.empty.add((op, name))

    def notice(self, given, written, before, probed):
        taken = {_number(tensor) for name, tensor in given if name in written}
        changed = set() if probed is None else probed
        for (name, _), (memory, copy) in zip(given, before, strict=True):
            # Running statistics are left to the trial: they may share memory with the input.
            if probed is None and _number(memory) not in taken and not _same(copy, _copy(memory)):
                changed.add(name)
        self.undeclared.append(changed)
        return changed

    def name_makers(self, op, outputs, fresh, produced):
        for tensor in (*fresh, *produced):
            tensor._oracle_maker = (None, _place(tensor))
        filled = {id(tensor) for tensor in (*fresh, *produced)}
        for tensor in outputs:
            if id(tensor) not in filled:
                tensor._oracle_maker = (op, _place(tensor))

    def after(self, op, produced):
        self.produced.append([tensor.clone() for tensor in produced])


class _Digits(_Watcher):
    """Fills everything with one binary digit of the number of the op that produced it."""

    def __init__(self, base: Base, digit: int) -> None:
        super().__init__(base)
        self.digit = digit
        self.read: list[torch.Tensor] = []

    def look(self, op, held):
        for _, seen in held:
            flat = [copy.reshape(-1) for copy in seen]
            flat = [item if item.dtype == torch.int64 else item.view(torch.uint8) for item in flat]
            digits = [(item != 0).to(torch.uint8) for item in flat]
            self.read.append(torch.cat(digits) if digits else torch.empty(0, dtype=torch.uint8))

    def after(self, op, produced):
        for tensor in produced:
            self._fill(tensor, 1 + op)

    def nobody(self, memory):
        self._fill(memory, 0)

    def outside(self, tensor):
        shown = self.base.shown[_number(tensor)]
        count = len(self.base.names)
        digits = (1 + count + shown.clamp(max=count)) >> self.digit & 1
        if tensor.dtype == torch.int64:
            _whole(tensor).copy_(digits[:: tensor.itemsize])
        else:
            torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).copy_(digits)

    def _fill(self, tensor: torch.Tensor, number: int) -> None:
        tensor.fill_(_ONES[tensor.dtype] if number >> self.digit & 1 else 0)


class _Change(_Watcher):
    """Changes what one op produced and sees which arguments of later ops differ."""

    def __init__(self, base: Base, target: int, *, hold: bool) -> None:
        super().__init__(base)
        self.target = target
        self.hold = hold
        self.differ: set[Argument] = set()

    def look(self, op, held):
        for (name, seen), (_, known) in zip(held, self.base.given[op], strict=True):
            if not all(map(_same, seen, known)) and (op, name) not in self.base.overwritten:
                self.differ.add((op, name))

    def after(self, op, produced):
        if op == self.target:
            for tensor in produced:
                _put(tensor, _other(tensor))
        elif self.hold or not any((op, name) in self.differ for name, _ in self.base.given[op]):
            for tensor, copy in zip(produced, self.base.produced[op], strict=True):
                _put(tensor, copy)


def _put(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Write values to a tensor, whose elements may be one and the same along some dimensions."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor, values = tensor.narrow(dim, 0, 1), values.narrow(dim, 0, 1)
    tensor.copy_(values)


def _arguments(func, args, kwargs) -> Iterator[tuple[str, torch.Tensor]]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        yield from _tensors(argument.name, value)
    for name, value in kwargs.items():
        yield from _tensors(name, value)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _tensors(f"{name}[{position}]", item)


def _reshapes(func) -> bool:
    """Whether an op gives its argument another shape or memory, and writes none."""
    return torch.Tag.inplace_view in func.tags


def _probe(func, args, kwargs) -> set[str] | None:
    """Return the running statistics that an op writes, tried on values that must change.

    None for an op without any.
    """
    names = [argument.name for argument in func._schema.arguments]
    if not any(name.startswith("running") for name in names):
        return None

    def other(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        low = 1.37 if name.startswith("running") else 3.0
        return torch.linspace(low, low + 2, value.numel(), dtype=value.dtype).view(value.shape)

    trial = {
        name: other(name, value)
        for name, value in (*zip(names, args, strict=False), *kwargs.items())
    }
    before = {name: _copy(v) for name, v in trial.items() if isinstance(v, torch.Tensor)}
    func(**trial)
    return {name for name, copy in before.items() if not _same(copy, _copy(trial[name]))}


_tried: dict[Argument, bool] = {}


def _overwritten(func, args, kwargs, written: set[str]) -> list[str]:
    """Return the arguments that an op fills whole: what they held makes no difference."""
    found = []
    for name in sorted(written):
        key = str(func), name.partition("[")[0]
        if key not in _tried and not dict(_arguments(func, args, kwargs or {}))[name].numel():
            continue
        if key not in _tried:
            _tried[key] = all(_fills(func, args, kwargs or {}, name, seed) for seed in range(3))
        if _tried[key]:
            found.append(name)
    return found


def _fills(func, args, kwargs, tested: str, seed: int) -> bool:
    """Whether an op gives the same on two contents of an argument, the others being anything.

    Masks and indices reach next to nothing, so that what they leave alone shows.
    """
    outcomes = []
    for variant in (0, 1):
        numbers = torch.Generator().manual_seed(seed)

        def other(name: str, value: Any, numbers=numbers, variant=variant) -> Any:
            if isinstance(value, (list, tuple)):
                return [other(f"{name}[{place}]", item) for place, item in enumerate(value)]
            if not isinstance(value, torch.Tensor):
                return value
            scale = 1.0 if value.is_floating_point() else 8.0  # no clamp may hide what it was
            made = (torch.rand(value.shape, generator=numbers) - 0.5) * scale
            if value.dtype in (torch.bool, torch.int64):
                scale, made = 1.0, torch.zeros(value.shape)
            if name == tested:
                made = made + variant * scale / 4
            return (made if value.is_floating_point() else made.ceil()).to(value.dtype)

        names = [argument.name for argument in func._schema.arguments]
        given = [other(name, value) for name, value in zip(names, args, strict=False)]
        named = {name: other(name, value) for name, value in kwargs.items()}
        outcome = [item for _, item in _tensors("", func(*given, **named))]
        outcome += [item for _, item in _arguments(func, given, named)]
        outcomes.append(list(map(_copy, outcome)))
    return all(map(_same, *outcomes))


def _declared_writes(func, given) -> set[str]:
    if _reshapes(func):
        return set()
    names = {a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write}
    return {name for name, _ in given if name.partition("[")[0] in names}


def _number(tensor: torch.Tensor) -> int | None:
    return getattr(tensor.untyped_storage(), "_oracle_number", None)


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return _number(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor's storage as elements of its type."""
    storage = tensor.untyped_storage()
    length = storage.nbytes() // tensor.itemsize
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (length,), (1,))


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same memory as a tensor that autograd knows nothing of."""
    return torch.empty(0, dtype=tensor.dtype).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return _alias(tensor).clone(memory_format=torch.contiguous_format)


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN is the same as itself, 0 not as -0."""
    if one.shape != two.shape:
        return False
    one, two = one.reshape(-1), two.reshape(-1)
    return torch.equal(one.view(torch.uint8), two.view(torch.uint8))


def _other(tensor: torch.Tensor) -> torch.Tensor:
    """Return values that differ from a tensor's in every element, each by another amount."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if tensor.dtype == torch.int64:
        return 1 - tensor
    amount = torch.arange(1, tensor.numel() + 1).reshape(tensor.shape)
    if not tensor.is_floating_point():
        return tensor + amount.to(tensor.dtype)
    tame = tensor.isfinite() & (tensor.abs() < 1e4)
    return torch.where(tame, tensor + amount * 0.3720119, amount * 0.6180340).to(tensor.dtype)


# ---------------------------------------------------------------------------- evidence


def observe(program: Program) -> Base:
    """Run a program as it is."""
    base = Base()
    program.run(base)
    return base


def writers_of(program: Program, base: Base) -> dict[Argument, frozenset[int]]:
    """Return, per argument of each op, who wrote the bytes that the op looks at.

    That is the numbers of ops, NOBODY, and OUTSIDE minus the op that first showed them. What
    `lift_fresh` first showed, numbers of Python's, are its own.
    """
    count = len(base.names)
    if not any(base.given):
        return {}
    total: torch.Tensor | None = None
    for digit in range((2 * count + 1).bit_length()):
        run = _Digits(base, digit)
        program.run(run)
        assert run.names == base.names
        bits = torch.cat(run.read).to(torch.int32) << digit
        total = bits if total is None else total + bits
        sizes = [len(piece) for piece in run.read]
    pieces = torch.split(total, sizes)
    arguments = [(op, name) for op, given in enumerate(base.given) for name, _ in given]

    def writer(number: int) -> int:
        if number <= count:
            return number - 1
        first = number - 1 - count
        lifted = first < count and base.names[first] == "aten.lift_fresh.default"
        return first if lifted else OUTSIDE - first

    found = {
        argument: frozenset(map(writer, set(piece.tolist()))) - {argument[0]}
        for argument, piece in zip(arguments, pieces, strict=True)
    }
    return found | dict.fromkeys(base.overwritten, frozenset())


def reached_from(program: Program, base: Base, op: int, *, hold: bool) -> set[Argument]:
    """Return the arguments that differ once what an op produced is changed."""
    run = _Change(base, op, hold=hold)
    program.run(run)
    assert run.names == base.names
    return run.differ


# ------------------------------------------------------------------------------ checks


@dataclass
class Verdict:
    """What is wrong with a graph, and how much was looked at."""

    missing: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    ops: int = 0
    edges: int = 0
    pairs: int = 0

    @property
    def problems(self) -> list[str]:
        return [*self.missing, *self.false]

    def __iadd__(self, other: Verdict) -> Verdict:
        self.missing += other.missing
        self.false += other.false
        self.ops += other.ops
        self.edges += other.edges
        self.pairs += other.pairs
        return self


def graph_of(program: Program, *, layers: bool) -> nx.DiGraph:
    """Return the graph of ops that opscope records of a program."""
    trace = opscope.trace(layers=layers)
    program.run(trace)
    return trace.graph(level="op")


def check(graph: nx.DiGraph, base: Base, writers: dict[Argument, frozenset[int]]) -> Verdict:
    """Hold a graph against what was observed, argument by argument, both ways.

    Missing: an op wrote bytes that an argument shows, and is neither its source nor behind
    it through views alone. False: an edge from an op that wrote none of those bytes, or,
    for an alias, that did not give that tensor object as a view; an op behind it, through
    views alone, of whose bytes nothing is left; any edge to what is filled whole.
    """
    verdict = Verdict(ops=len(base.names))
    operators = [data["operator"] for _, data in graph.nodes(data=True) if data["operator"]]
    if operators != base.names:
        verdict.missing.append(f"other ops ran: {operators} against {base.names}")
        return verdict
    claims: dict[Argument, list[tuple[Any, str]]] = defaultdict(list)
    for source, target, data in graph.edges(data=True):
        if target.startswith("op_"):
            for name in data["argument"].split(","):
                claims[_op(target), name].append((source, data["kind"]))
    behind: dict[Any, set[int]] = {}
    for argument in sorted(writers.keys() | claims.keys()):
        seen = writers.get(argument, frozenset())
        found: set[int] = set()
        for source, kind in claims[argument]:
            verdict.edges += 1
            found |= _behind(graph, source, kind, behind)
            if problem := _false(base, argument, source, kind, seen):
                verdict.false.append(problem)
        verdict.pairs += argument[0] + 1
        if argument not in base.empty:
            # One that led to a writer is an ancestor in any case.
            known = {_op(node) for op in seen for node in _ancestors(graph, op)}
            verdict.false += [
                f"{_spell(base, writer)} is behind what {_spell(base, argument[0])} reads as "
                f"{argument[1]}, though nothing of it is left"
                for writer in sorted(found - seen - known)
                if writer >= 0 and base.produced[writer]
            ]
        # Bytes from outside need an edge if a tensor showed them before they were viewed.
        first = min((op for op in found if op >= 0 and not base.produced[op]), default=argument[0])
        verdict.missing += [
            f"{_spell(base, writer)} wrote what {_spell(base, argument[0])} reads as {argument[1]}"
            for writer in sorted(seen - found - {NOBODY})
            if writer >= 0 or (OUTSIDE not in found and OUTSIDE - writer <= first)
        ]
    return verdict


def check_reach(graph: nx.DiGraph, base: Base, op: int, differ: set[Argument]) -> Verdict:
    """Hold a graph against what a change of one op's results changed: all must be its heirs."""
    heirs = nx.descendants(graph, f"op_{op}")
    missing = [
        f"{_spell(base, op)} changes {_spell(base, reader)} as {name}, which it does not lead to"
        for reader, name in sorted(differ)
        if f"op_{reader}" not in heirs
    ]
    return Verdict(missing=missing, pairs=len(base.names) - op - 1)


def _false(base: Base, argument: Argument, source: str, kind: str, seen: frozenset[int]) -> str:
    """Return what is wrong with an edge; nothing if it is right or cannot be told."""
    if source.startswith("call_"):
        return ""
    writer = _op(source)
    if kind == "alias":
        true = base.viewed_by.get(argument) == writer and argument not in base.overwritten
    else:
        true = argument in base.empty or writer in seen
        true |= writer == OUTSIDE and min(seen, default=NOBODY) <= OUTSIDE
    if true:
        return ""
    where = f"{_spell(base, argument[0])} as {argument[1]}"
    return f"{kind} edge from {_spell(base, writer)} to {where}"


def _behind(graph: nx.DiGraph, source: str, kind: str, known: dict[Any, set[int]]) -> set[int]:
    """Return a source and, where it only passed memory on, all that is behind it."""
    if kind != "alias" and not source.startswith("call_"):
        return {_op(source)}
    if source not in known:
        known[source] = {_op(source)} if source.startswith("op_") else set()
        for before, _, data in graph.in_edges(source, data=True):
            known[source] |= _behind(graph, before, data["kind"], known)
    return known[source]


def _ancestors(graph: nx.DiGraph, op: int) -> set[Any]:
    return nx.ancestors(graph, f"op_{op}") if op >= 0 else set()


def _op(node: str) -> int:
    return int(node[3:]) if node.startswith("op_") else OUTSIDE


def _spell(base: Base, op: int) -> str:
    return "outside" if op <= OUTSIDE else f"op_{op} ({base.names[op]})"
