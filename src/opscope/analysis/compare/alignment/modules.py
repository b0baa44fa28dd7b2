"""Which module calls, and which parameters, of two programs are the same.

By address first, as a map of names has them; what is left by likeness, among the children of calls
that are the same: by what the parameters hold, where that is known; by class and parameters, by
parameters alone (sizes in any order, as a transposed weight has them), by class, by about how many
parameters there are; and each tells only where as many are like that in both. A wrapper that is like
nothing is looked through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log2, prod

from opscope.analysis.compare.alignment.sequences import common
from opscope.errors import OptionError, nearest
from opscope.records.recording import Recording


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is the same in two programs, by index in the first.

    Attributes:
        runs: Module calls.
        parameters: Parameters and buffers.
    """

    runs: Mapping[int, int]
    parameters: Mapping[int, int]


Norms = Callable[[int], float | None]
"""Gives the norm of a parameter, None where that is not known."""


def module_pairs(
    a: Recording,
    b: Recording,
    names: Mapping[str, str],
    norms: tuple[Norms, Norms] | None = None,
) -> Pairs:
    """Return which module calls and parameters are the same.

    Args:
        a: A program.
        b: Another.
        names: By the address of a module in the first, that in the second; what is below goes along.
        norms: What is known of the parameters of each.

    Raises:
        OptionError: For an address that there is not; lists the nearest.
    """
    _check(names, a, b)
    by_name = {(_address(b, run), b.module_calls[run].number): run for run in _runs(b)}
    runs = {
        run: by_name[key]
        for run in _runs(a)
        if (key := (_renamed(_address(a, run), names), a.module_calls[run].number)) in by_name
    }
    _add_alike(runs, _Tree(a, norms and norms[0]), _Tree(b, norms and norms[1]))
    addresses = {_address(a, run): _address(b, other) for run, other in reversed(runs.items())}
    return Pairs(runs, _parameters(a, b, names, addresses))


def _check(names: Mapping[str, str], a: Recording, b: Recording) -> None:
    for given, recording, which in (*((n, a, "first") for n in names),
                                    *((n, b, "second") for n in names.values())):  # fmt: skip
        known = [module.address for module in recording.modules]
        below = any(f"{address}.".startswith(f"{given}.") for address in known)
        if not isinstance(given, str) or not (below or given in known):
            close = ", ".join(nearest(str(given), known))
            message = f"modules: the {which} program has no module {given!r}; the nearest: {close}"
            raise OptionError(message)


def _runs(recording: Recording) -> range:
    return range(len(recording.module_calls))


def _address(recording: Recording, run: int) -> str:
    return recording.modules[recording.module_calls[run].module].address


def _renamed(address: str, names: Mapping[str, str]) -> str:
    """Return an address as the second program has it: by the longest name that it begins with."""
    fitting = [name for name in names if f"{address}.".startswith(f"{name}.")]
    if not fitting:
        return address
    longest = max(fitting, key=len)
    return names[longest] + address[len(longest) :]


class _Tree:
    """The module calls of one program, and what tells them apart."""

    def __init__(self, recording: Recording, norms: Norms | None = None) -> None:
        self.recording = recording
        self._norms = norms
        self.children: dict[int | None, list[int]] = {}
        for run in recording.module_calls:
            self.children.setdefault(run.parent, []).append(run.index)
        self._below: dict[str, list[int]] = {}
        for parameter in recording.parameters:
            owner = parameter.name.rpartition(".")[0]
            while True:
                self._below.setdefault(owner, []).append(parameter.index)
                if not owner:
                    break
                owner = owner.rpartition(".")[0]
        self._sorted = cache(self._sorted_shapes)

    def _sorted_shapes(self, address: str) -> tuple[tuple[int, ...], ...]:
        parameters = [self.recording.parameters[number] for number in self._below.get(address, ())]
        return tuple(sorted(tuple(sorted(parameter.shape)) for parameter in parameters))

    def contents(self, run: int) -> Hashable:
        """Return the norms of a module's parameters, and of all below it, None if not known."""
        below = self._below.get(_address(self.recording, run), ())
        norms = [self._norms(number) if self._norms else None for number in below]
        known = sorted(norm for norm in norms if norm is not None)
        if not known or len(known) < len(norms):
            return None
        return tuple(float(f"{norm:.4g}") for norm in known), self.shapes(run)

    def shapes(self, run: int) -> tuple[tuple[int, ...], ...]:
        """Return the sizes of a module's parameters, and of all below it, in any order."""
        return self._sorted(_address(self.recording, run))

    def class_name(self, run: int) -> str:
        """Return the class of a module."""
        return self.recording.modules[self.recording.module_calls[run].module].class_name

    def size(self, run: int) -> int:
        """Return how many elements the parameters have, of all below it too."""
        return sum(prod(shape) for shape in self.shapes(run))

    def amount(self, run: int, shift: float = 0.0) -> Hashable:
        """Return about how large a module is, to a quarter of a power of two; None for nothing.

        A ``shift`` of half a step puts together what is near to the edge of one.
        """
        size = self.size(run)
        return (run in self.children, round(4 * log2(size) + shift)) if size else None


_Key = Callable[[_Tree, int], Hashable]
_LIKENESS: tuple[_Key, ...] = (
    lambda tree, run: tree.contents(run),
    lambda tree, run: (tree.class_name(run), tree.shapes(run)),
    lambda tree, run: (run in tree.children, tree.shapes(run)) if tree.shapes(run) else None,
    lambda tree, run: (tree.class_name(run), bool(tree.shapes(run))),
    lambda tree, run: tree.amount(run),
    lambda tree, run: tree.amount(run, 0.5),
)


def _add_alike(runs: dict[int, int], left: _Tree, right: _Tree) -> None:
    """Add the calls that are alike, among the children of those that are the same."""
    taken = set(runs.values())
    waiting: list[tuple[int | None, int | None]] = [(None, None), *runs.items()]
    while waiting:
        p, q = waiting.pop()
        ours = [run for run in left.children.get(p, ()) if run not in runs]
        theirs = [run for run in right.children.get(q, ()) if run not in taken]
        while ours and theirs:
            for key in _LIKENESS:
                keys = [key(left, run) for run in ours], [key(right, run) for run in theirs]
                for i, j in _alike(ours, theirs, *keys):
                    runs[i] = j
                    taken.add(j)
                    waiting.append((i, j))
                ours = [run for run in ours if run not in runs]
                theirs = [run for run in theirs if run not in taken]
            most = max((tree.size(run) for tree, some in ((left, ours), (right, theirs))
                        for run in some if run in tree.children), default=None)  # fmt: skip
            if most is None:
                break
            ours = _opened(left, ours, runs, most)
            theirs = _opened(right, theirs, taken, most)


def _alike(
    ours: Sequence[int], theirs: Sequence[int], a: Sequence[Hashable], b: Sequence[Hashable]
) -> list[tuple[int, int]]:
    """Return the calls whose keys are the same, in order; of keys that as many have in both."""
    counts = Counter(a), Counter(b)
    return [
        (ours[i], theirs[j])
        for i, j in common(a, b)
        if a[i] is not None and counts[0][a[i]] == counts[1][a[i]]
    ]


def _opened(
    tree: _Tree, runs: Sequence[int], taken: Mapping[int, int] | set[int], size: int
) -> list[int]:
    """Return the calls inside of those of a size, in the stead of these."""
    found: list[int] = []
    for run in runs:
        if run in tree.children and tree.size(run) >= size:
            found += [child for child in tree.children[run] if child not in taken]
        else:
            found.append(run)
    return found


def _parameters(
    a: Recording, b: Recording, names: Mapping[str, str], addresses: Mapping[str, str]
) -> dict[int, int]:
    """Return which parameters are the same: those of one name in modules that are the same."""
    by_name = {name: p.index for p in reversed(b.parameters) for name in (*p.aliases, p.name)}
    found: dict[int, int] = {}
    for parameter in a.parameters:
        for name in (parameter.name, *parameter.aliases):
            owner, _dot, local = name.rpartition(".")
            places = [addresses.get(owner), _renamed(owner, names)]
            others = [
                f"{place}{'.' if place else ''}{local}" for place in places if place is not None
            ]
            known = [by_name[other] for other in others if other in by_name]
            # What modules that are only alike call the same may be something else.
            by_likeness = owner in addresses and addresses[owner] != _renamed(owner, names)
            if known and by_likeness and b.parameters[known[0]].numel != parameter.numel:
                continue
            if known:
                found[parameter.index] = known[0]
                break
    return found
