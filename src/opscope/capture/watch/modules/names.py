"""Which module has which address: as the model has it when the block ends."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import methodcaller
from types import FunctionType
from typing import Any, NamedTuple
from weakref import ref

from torch import nn

from opscope.capture.log.events import Live, Named
from opscope.capture.tables.parameters import Holder
from opscope.capture.tables.tables import Tables
from opscope.capture.unchanged.fused_kernels import FAST_PATHS
from opscope.capture.watch.compiled import wrapped
from opscope.capture.watch.modules.module_info import Kind, ModuleInfo, Top
from opscope.operators.packed import may_pack, never_packs
from opscope.torch_api import DisableTorchFunction

_KEYS, _VALUES = methodcaller("keys"), methodcaller("values")
_MOST_ALIASES = 16  # of one module; a model that shares itself over and over has no end of them


class _Path(NamedTuple):
    """The modules above one, on the way to it from the model."""

    module: nn.Module
    above: _Path | None

    def has(self, module: nn.Module) -> bool:
        """Whether it passes through a module."""
        at: _Path | None = self
        while at is not None:
            if at.module is module:
                return True
            at = at.above
        return False


class ModuleNames:
    """The modules with an address, in the order in which they were met.

    A module outside of the model's tree, a stranger, has the name of its class and a number.

    Args:
        tables: Where parameters are.
        is_named: Whether it is known which module is the model; else it is the first that runs.

    Attributes:
        modules: All of them.
        by_id: The same by ``id`` of the module, which may be another one's by now.
        root: The model.
    """

    def __init__(self, tables: Tables, *, is_named: bool) -> None:
        self.modules: list[ModuleInfo] = []
        self.by_id: dict[int, ModuleInfo] = {}
        self.root: Top | None = None
        self._tables = tables
        self._kinds: dict[type, Kind] = {}
        self._is_named = is_named
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        # Whether names may have changed; the models; the modules of them, and how much these hold.
        self._is_changed = False
        self._models: Sequence[Top] = ()
        self._tree: list[ModuleInfo] = []
        self._held = 0

    def known(self, module: nn.Module) -> ModuleInfo | None:
        """Return what is known of a module."""
        known = self.by_id.get(id(module))
        return None if known is None or known.live() is not module else known

    def address(self, module: nn.Module) -> str:
        """Return the address of a module, the name of its class if it has none."""
        known = self.known(wrapped(module))
        return module.__class__.__name__ if known is None else known.address

    def meet(self, module: nn.Module) -> ModuleInfo:
        """Name a module that was met by itself, and all below it."""
        is_root = self.root is None
        before = len(self.modules), self._tables.parameters.count
        try:
            name = "" if is_root else self._free_name(type(module).__name__)
            first = 0 if is_root else before[1]
            known = Top(before[0], module, name, first, self._kind_of(module))
            self._learn(module, name, known)
        except BaseException:
            self._forget(*before)
            raise
        if is_root:
            self.root, known.is_special, self._tables.root = known, True, known.index
            self._models = (known,)
            self._tables.parameters.own(known.holds)
            self._tree = list(self.modules)
            self._held = self._now_held()
            if not self._is_named:  # it may turn out to be one of several
                self._taken.add(known.class_name)
        return known

    def registered(self, module: nn.Module, name: str, item: Any) -> None:
        """Take down that a module is given another module, a parameter or a buffer."""
        known = self.known(module)
        if known is None or item is None:
            return
        self._is_changed = True
        prefix = f"{known.address}." if known.address else ""
        with DisableTorchFunction():
            if isinstance(item, nn.Module):
                inner = wrapped(item)
                if self.known(inner) is None:
                    self._learn(inner, prefix + name, known.top)
                return
            parameters, top = self._tables.parameters, known.top
            before = parameters.count
            if parameters.give(module, known.address, name, item, top.first):
                top.holds += _numbers(before, parameters.count)
                self._write_down([ref(item)])

    def look_again(self, several: Sequence[Top] = ()) -> None:
        """Give all modules the names that they have now, if those may not be as they were.

        Args:
            several: The models, if there is no one model; each is then named by its class.
        """
        root = self.root
        if root is None:
            return
        if several and not root.address:
            if root.live() is None:
                self._put_under(root.class_name)
            root.address = root.class_name
        models = several or (root,)
        parameters = self._tables.parameters
        if list(models) != list(self._models):
            self._models, self._is_changed = models, True  # they may share what they hold
        gone = [known for known in models if known.live() is None]
        held = [numbers for known in gone for numbers in known.holds]
        if len(gone) == len(models):
            parameters.own(held)
            return
        # What is gone may have given its place, and its ``id``, to another.
        is_changed = self._is_changed or parameters.gone or self._now_held() != self._held
        if not is_changed:
            return
        found: dict[int, Holder] = {}
        for known in models:
            _name_below(known.live(), known.address, found, of_model=True)
        for other in self.modules:
            if other.top is other:
                _name_below(other.live(), other.address, found, of_model=False)
        self._rename(list(found.values()), chain(*held))
        self._is_changed = False

    # ------------------------------------------------------------------------------------------

    def _forget(self, modules: int, parameters: int) -> None:
        """Forget modules and parameters from a number on: an interrupt came as they were named."""
        self._taken.difference_update(known.address for known in self.modules[modules:])
        keys = [key for key, known in self.by_id.items() if known.index >= modules]
        self._tables.parameters.forget(parameters, keys)
        for key in keys:
            del self.by_id[key]
        del self.modules[modules:]

    def _kind_of(self, module: nn.Module) -> Kind:
        kind = module.__class__
        found = self._kinds.get(kind)
        if found is None:
            most = _most_arguments(getattr(kind, "forward", None))
            is_fast = issubclass(kind, FAST_PATHS)
            found = Kind(kind.__name__, most, is_fast, not never_packs(kind))
            self._kinds[kind] = found
        return found

    def _learn(self, model: nn.Module, address: str, top: Top) -> None:
        """Give addresses to a module and all below it, as `named_modules` would.

        Args:
            model: The module.
            address: Its own.
            top: What it is, or is somewhere below.
        """
        by_id, modules, parameters = self.by_id, self.modules, self._tables.parameters
        before = parameters.count

        def take(name: str, module: nn.Module, path: _Path | None) -> bool:
            known, kind = by_id.get(id(module)), self._kind_of(module)
            if known is None or known.live() is not module:
                known = top
                if top.live() is not module:
                    known = ModuleInfo(len(modules), module, name, top, kind)
                modules.append(known)
                by_id[id(module)] = known
            elif known.top is not top:  # the model's, say, in a module that is not
                return False
            elif len(known.aliases) < _MOST_ALIASES and not (path and path.has(module)):
                known.aliases += (name,)
            else:
                return False
            self._taken.add(name)
            packs = kind.may_pack and may_pack(module)
            if packs or module._parameters or module._buffers:
                parameters.learn(module, name, top.first, packs=packs)
            return True

        _walk(model, address, take)
        top.holds += _numbers(before, parameters.count)
        self._write_down(parameters.lives(before))

    def _write_down(self, lives: list[Live]) -> None:
        """Write when tensors became parameters, if the program had begun."""
        log = self._tables.log
        if lives and log.known:
            self._tables.parameters.waiting.update(map(id, lives))
            log.write(Named(lives))

    def _now_held(self) -> int:
        """Return a number that tells what the model has by which name, and of which classes.

        Not all that gives a module something else is told of: `Module.to` writes to ``_buffers``,
        and a lazy module changes its class.
        """
        modules = [known.live() for known in self._tree]
        held: list[dict[str, Any]] = []
        for module in modules:
            if module is not None:
                held += module._modules, module._parameters, module._buffers
        sizes, held = [*map(len, held)], [*filter(None, held)]
        names, things = (chain.from_iterable(map(part, held)) for part in (_KEYS, _VALUES))
        return hash((*map(type, modules), *sizes, *names, *map(id, things)))

    def _free_name(self, name: str) -> str:
        """Return a name that is not taken: this one, or with a number."""
        found = name
        while found in self._taken:
            self._numbers[name] = number = self._numbers.get(name, 1) + 1
            found = f"{name}#{number}"
        return found

    def _put_under(self, prefix: str) -> None:
        """Have the addresses of the model, and of all below it, begin with a name."""
        for known in self._tree:
            names = [
                f"{prefix}.{name}" if name else prefix for name in (known.address, *known.aliases)
            ]
            known.address, known.aliases = names[0], tuple(names[1:])
            self._taken.update(names)
        if self.root is not None:
            self._tables.parameters.put_under(prefix, self.root.holds)

    def _rename(self, found: Sequence[Holder], gone: Iterable[int]) -> None:
        """Give modules these names; the model had some parameters more in modules that are gone."""
        named: list[ModuleInfo] = []
        for module, names, _ in found:
            known = self.known(module)
            if known is None:
                known = ModuleInfo(
                    len(self.modules), module, names[0], self._models[0], self._kind_of(module)
                )
                self.by_id[id(module)] = known
                self.modules.append(known)
            known.address, known.aliases = names[0], tuple(names[1:])
            known.class_name = module.__class__.__name__
            named.append(known)
        self._tree = [known for known, holder in zip(named, found, strict=True) if holder.of_model]
        self._held = self._now_held()
        parameters = self._tables.parameters
        before = parameters.count
        parameters.name_again(found, self._rename_others(named), gone)
        self._write_down(parameters.lives(before))

    def _rename_others(self, named: Sequence[ModuleInfo]) -> dict[str, str]:
        """Rename modules that others have the names of, and return how, by the old name."""
        taken = {name for known in named for name in (known.address, *known.aliases)}
        self._taken |= taken
        kept, moved = {known.index for known in named}, {}
        for known in self.modules:
            if known.index not in kept:  # gone, or no longer the model's
                known.aliases = tuple(name for name in known.aliases if name not in taken)
                if known.address in taken:
                    old, known.address = known.address, self._free_name(known.class_name)
                    moved[old] = known.address
        return moved


def _numbers(first: int, end: int) -> list[range]:
    return [range(first, end)] if first < end else []


def _name_below(
    model: nn.Module | None, address: str, found: dict[int, Holder], *, of_model: bool
) -> None:
    """Add the names of a module and all below it, unless it is there already."""

    def take(name: str, module: nn.Module, path: _Path | None) -> bool:
        holder = found.get(id(module))
        if holder is None:
            found[id(module)] = Holder(module, [name], of_model)
        elif holder.of_model and not of_model:
            return False
        elif len(holder.names) <= _MOST_ALIASES and not (path and path.has(module)):
            holder.names.append(name)
        else:
            return False
        return True

    if model is not None and id(model) not in found:
        _walk(model, address, take)


def _walk(
    model: nn.Module, address: str, take: Callable[[str, nn.Module, _Path | None], bool]
) -> None:
    """Call a function with each module and its name, as `named_modules` would.

    Modules below one are not gone into if it returns False.
    """
    pending: list[tuple[str, nn.Module, _Path | None]] = [(address, model, None)]
    while pending:
        name, module, path = pending.pop()
        if take(name, module, path) and module._modules:
            prefix, path = f"{name}." if name else "", _Path(module, path)
            for child, inner in reversed(module._modules.items()):
                if inner is not None:
                    pending.append((prefix + child, wrapped(inner), path))


def _most_arguments(forward: Any) -> int:
    """Return how many arguments ``forward`` of a class takes, a large number for any number."""
    if not isinstance(forward, FunctionType):
        return sys.maxsize
    code = forward.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return sys.maxsize
    return code.co_argcount + code.co_kwonlyargcount - 1  # itself
