"""The model's parameters and buffers: which tensor has which name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple
from weakref import ref

import torch
from torch import nn

from opscope.operators.packed import Packed, Size, may_pack, packed_in, tensors_in

Kind = Literal["parameter", "buffer"]
_Held = Literal["parameter", "frozen", "buffer"]  # frozen: is never trained, whatever it says


class ParameterRow(NamedTuple):
    """One parameter or buffer, however many names it has, as it is when the block is entered."""

    live: ref[torch.Tensor]
    name: str
    kind: Kind
    trainable: bool
    dtype: torch.dtype
    shape: tuple[int, ...]


class Holder(NamedTuple):
    """A module, all names that it has, and whether it is part of the model."""

    module: nn.Module
    names: list[str]
    of_model: bool


_WIDTH = len(ParameterRow._fields)
_NAME = 1
_MEASURED = 3  # from here on it is what `_measured` says


class Parameters:
    """The parameters and buffers of all modules with an address, and the rows they are.

    Attributes:
        of_row: By the row of a value, the number of the parameter that it is.
        aliases: By number, the other names that it has.
        lazy: The numbers of those that have no shape yet.
        of_model: The numbers of those that the model has.
        gone: Whether any of them was gone when they were last measured.
        waiting: Tensors that became parameters while the program ran, until what ran before is
            ingested: the ``id`` of the weak reference to each.
    """

    def __init__(self) -> None:
        self.of_row: dict[int, int] = {}
        self.aliases: dict[int, tuple[str, ...]] = {}
        self.lazy: set[int] = set()
        self.of_model: set[int] = set()
        self.gone = False
        self.waiting: set[int] = set()
        self._rows: list[Any] = []  # flat: an object for each would cost as much as an op
        self._numbers: dict[int, int] = {}
        self._replacing: list[ref[torch.Tensor]] = []  # that have the number of another one
        self._frozen: set[int] = set()
        self._packed: dict[int, tuple[ref[nn.Module], list[Packed]]] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._rows) // _WIDTH

    # -------------------------------------------------------------------------------- names

    def learn(self, module: nn.Module, address: str, since: int, *, packs: bool) -> None:
        """Name what a module itself holds.

        Args:
            module: It.
            address: Where it is.
            since: What has a lower number has a name already, and gets no other.
            packs: Whether it may hold packed ones.
        """
        prefix = f"{address}." if address else ""
        if module._parameters:
            self._add(module._parameters, prefix, "parameter", since)
        if packs:
            frozen = tensors_in(module)
            self._add(frozen, prefix, "frozen", since)
            self._learn_packed(module, address)
            self._add(_without(module._buffers, frozen), prefix, "buffer", since)
        elif module._buffers:
            self._add(module._buffers, prefix, "buffer", since)

    def forget(self, first: int, modules: Iterable[int]) -> None:
        """Forget those from a number on, and what is packed in modules, by their ``id``."""
        for module in modules:
            self._packed.pop(module, None)
        del self._rows[first * _WIDTH :]
        self._numbers = {key: number for key, number in self._numbers.items() if number < first}
        self.aliases = {number: names for number, names in self.aliases.items() if number < first}
        self._frozen = {number for number in self._frozen if number < first}
        self.lazy = {number for number in self.lazy if number < first}

    def own(self, numbers: Iterable[range]) -> None:
        """Take these for the model's, and all that is packed."""
        self.of_model = set(chain(*numbers))
        for _, packed in self._packed.values():
            for one in packed:
                one.of_model = True

    def put_under(self, prefix: str, numbers: Iterable[range]) -> None:
        """Have the names of the model's begin with a prefix."""
        for _, packed in self._packed.values():
            for one in packed:
                if one.of_model:
                    one.names = [(f"{prefix}.{first}", last) for first, last in one.names]
        for number in chain(*numbers):
            self._rows[number * _WIDTH + _NAME] = f"{prefix}.{self._rows[number * _WIDTH + _NAME]}"
            aliases = self.aliases.get(number, ())
            self.aliases[number] = tuple(f"{prefix}.{name}" for name in aliases)

    def give(
        self, module: nn.Module, address: str, name: str, tensor: torch.Tensor, since: int
    ) -> bool:
        """Name what a module is being given, as what it had by this name until then.

        Args:
            module: The module.
            address: Where it is.
            name: The attribute.
            tensor: What it is being given.
            since: What has a lower number has a name already, and gets no other.

        Returns:
            Whether it was no parameter or buffer before.
        """
        live, prefix = ref(tensor), f"{address}." if address else ""
        known = self._numbers.get(id(live))
        if known is not None:
            if prefix + name not in self._names(known):
                self._add({name: tensor}, prefix, "parameter", since)
            return False
        before: torch.Tensor | None = module._parameters.get(name)
        if before is None:
            before = module._buffers.get(name)
        number = None if before is None else self._numbers.get(id(ref(before)))
        only_name = number is not None and self._names(number) == (prefix + name,)
        if number is not None and only_name:
            self._numbers[id(live)] = number
            self._replacing.append(live)
        else:
            kind: Kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            self._add({name: tensor}, prefix, kind)
        return True

    def _names(self, number: int) -> tuple[str, ...]:
        return self._rows[number * _WIDTH + _NAME], *self.aliases.get(number, ())

    def name_again(
        self, holders: Sequence[Holder], moved: Mapping[str, str], gone: Iterable[int]
    ) -> None:
        """Give all that modules hold the names that it has now.

        Args:
            holders: The modules.
            moved: New addresses of modules that have lost theirs to others.
            gone: The numbers of what belongs to models that are gone.
        """
        names: dict[int, list[str]] = {}
        self.of_model = ours = set(gone)
        for holder in holders:
            for kind, name, tensor in _held(holder.module):
                number = self._number_now(tensor, name, kind)
                if number in ours and not holder.of_model:
                    continue
                names.setdefault(number, []).extend(
                    f"{address}.{name}" if address else name for address in holder.names
                )
                if holder.of_model:
                    ours.add(number)
            self._name_packed(holder)
        for number in range(self.count):
            at = number * _WIDTH + _NAME
            if number in names:
                self._rows[at], *aliases = names[number]
                self.aliases[number] = tuple(aliases)
            else:
                address, _, name = self._rows[at].rpartition(".")
                self._rows[at] = f"{moved[address]}.{name}" if address in moved else self._rows[at]

    def _number_now(self, tensor: torch.Tensor, name: str, kind: _Held) -> int:
        """Return the number of a tensor that a module holds, and take down what it is now."""
        number = self._numbers.get(id(ref(tensor)))
        if number is None:
            self._add({name: tensor}, "", kind)
            return self.count - 1
        if self.tensor(number) is not tensor:  # it has taken the place of that one
            self._measure(number, tensor)
        return number

    def _add(
        self,
        tensors: Mapping[str, torch.Tensor | None],
        prefix: str,
        held: _Held,
        since: int = 0,
    ) -> None:
        numbers, count = self._numbers, self.count
        kind: Kind = "buffer" if held == "buffer" else "parameter"
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            live = ref(tensor)  # the only one there is, while it is held
            number = numbers.setdefault(id(live), count)
            if number < since:
                continue
            if number < count:
                self.aliases[number] = (*self.aliases.get(number, ()), prefix + name)
            else:
                if held == "frozen":
                    self._frozen.add(number)
                count += 1
                self._rows += (live, prefix + name, kind, *self._measured(tensor, kind, number))

    # ---------------------------------------------------------------------------- inside objects

    def packed(self) -> Iterator[tuple[int | None, Size, bool]]:
        """Yield the parameters inside objects of C++, and whether they are the model's.

        Each comes with what tells the object apart.
        """
        for _, packed in self._packed.values():
            for one in packed:
                for size in one.sizes():
                    yield one.identity, size, one.of_model

    def _learn_packed(self, module: nn.Module, address: str) -> None:
        packed = packed_in(module, address)
        if not packed:
            return
        live, known = self._packed.get(id(module), (None, packed))
        if live is None or live() is not module:
            self._packed[id(module)] = ref(module), packed
            return
        for one, other in zip(known, packed, strict=False):  # by another name
            one.names += other.names

    def _name_packed(self, holder: Holder) -> None:
        live, packed = self._packed.get(id(holder.module), (None, []))
        if live is None or live() is not holder.module:
            return
        found = [packed_in(holder.module, name) for name in holder.names]
        for one, *others in zip(packed, *found, strict=False):
            one.names = [name for other in others for name in other.names]
            one.of_model = holder.of_model

    # ------------------------------------------------------------------------------------- rows

    def seen(self, live: ref[torch.Tensor], row: int) -> None:
        """Note that a row is a parameter, if it is one."""
        number = self._numbers.get(id(live))
        if number is not None and id(live) not in self.waiting:
            self.of_row[row] = number

    def number(self, tensor: torch.Tensor | None) -> int:
        """Return the number of a parameter, -1 for any other tensor, and for none."""
        return -1 if tensor is None else self._numbers.get(id(ref(tensor)), -1)

    def rows(self) -> Iterator[ParameterRow]:
        """Return all of them, by number."""
        return map(ParameterRow._make, zip(*[iter(self._rows)] * _WIDTH, strict=True))

    def tensor(self, number: int) -> torch.Tensor | None:
        """Return one of them while it is alive: the first that had its name."""
        live: ref[torch.Tensor] = self._rows[number * _WIDTH]
        return live()

    def lives(self, first: int) -> list[ref[torch.Tensor]]:
        """Return those from a number on."""
        return self._rows[first * _WIDTH :: _WIDTH]

    def buffers(self) -> Iterator[torch.Tensor]:
        """Return the buffers that are there."""
        for row in self.rows():
            if row.kind == "buffer" and (tensor := row.live()) is not None:
                yield tensor

    def measure(self) -> None:
        """Take down again what changed since: shapes, types, and what is trained."""
        self.gone = False
        lives, _, *known = (self._rows[field::_WIDTH] for field in range(_WIDTH))
        now = [live() for live in lives]
        for number, (tensor, kind, trainable, dtype, shape) in enumerate(
            zip(now, *known, strict=True)
        ):
            if tensor is None:
                self.gone = True
            elif not shape or (
                tensor.shape != shape
                or tensor.dtype is not dtype
                or (tensor.requires_grad is not trainable and kind == "parameter")
            ):
                self._measure(number, tensor)

    def _measure(self, number: int, tensor: torch.Tensor) -> None:
        at = number * _WIDTH
        kind = ParameterRow(*self._rows[at : at + _WIDTH]).kind
        self.lazy.discard(number)
        self._rows[at + _MEASURED : at + _WIDTH] = self._measured(tensor, kind, number)

    def _measured(
        self, tensor: torch.Tensor, kind: Kind, number: int
    ) -> tuple[bool, torch.dtype, tuple[int, ...]]:
        """Return whether it is trained, its type and its shape."""
        try:
            shape = tuple(tensor.shape)
        except RuntimeError:  # it has none until it is used
            shape = ()
            self.lazy.add(number)
        trainable = kind == "parameter" and tensor.requires_grad and number not in self._frozen
        return trainable, tensor.dtype, shape


def _without(
    tensors: Mapping[str, torch.Tensor | None], others: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    return {name: tensor for name, tensor in tensors.items() if name not in others}


def _held(module: nn.Module) -> Iterator[tuple[_Held, str, torch.Tensor]]:
    """Yield what a module itself holds, in the order of `Parameters.learn`."""
    frozen = tensors_in(module) if may_pack(module) else {}
    held: tuple[tuple[_Held, Mapping[str, torch.Tensor | None]], ...] = (
        ("parameter", module._parameters),
        ("frozen", frozen),
        ("buffer", _without(module._buffers, frozen)),
    )
    for kind, tensors in held:
        for name, tensor in tensors.items():
            if tensor is not None:
                yield kind, name, tensor
