"""By which names the runs of modules can be asked for."""

from __future__ import annotations

from collections import Counter, defaultdict

from opscope.records.calls import ModuleCall
from opscope.records.recording import Module, Recording


def run_addresses(recording: Recording) -> list[str]:
    """Return, for each module call, the address by which the module was called.

    A module that has several is called by the one below the module that called it: a shared
    activation is ``"blocks.1.act"`` where ``blocks.1`` runs it.
    """
    found: list[str] = []
    for run in recording.module_calls:
        module = recording.modules[run.module]
        around = run
        below = [] if module.aliases else [module.address]
        while not below and around.parent is not None:
            around = recording.module_calls[around.parent]
            below = _below(module, found[around.index])
        found.append(min(below, key=len) if below else module.address)
    return found


def _below(module: Module, address: str) -> list[str]:
    prefix = f"{address}." if address else ""
    names = (module.address, *module.aliases)
    direct = [name for name in names if name.rpartition(".")[0] == address]
    return direct or [name for name in names if prefix and name.startswith(prefix)]


def run_names(recording: Recording) -> list[list[str]]:
    """Return, for each module call, the keys that stand for it, without the model's own.

    These are the address by which it was called, alone and with the number of the run under
    that address; and any other address of the module under which it never ran.
    """
    addresses = run_addresses(recording)
    used: defaultdict[int, set[str]] = defaultdict(set)
    for run, address in zip(recording.module_calls, addresses, strict=True):
        used[run.module].add(address)
    runs: Counter[str] = Counter()
    found = []
    for run, address in zip(recording.module_calls, addresses, strict=True):
        names = []
        for name in _standing_for(recording, run, address, used[run.module]):
            runs[name] += 1
            names += [name, f"{name}:{runs[name]}"]
        found.append(names)
    return found


def _standing_for(recording: Recording, run: ModuleCall, address: str, used: set[str]) -> list[str]:
    module = recording.modules[run.module]
    others = [name for name in (module.address, *module.aliases) if name not in used]
    return [name for name in (address, *others) if name]


def is_within_itself(recording: Recording, run: int) -> bool:
    """Whether a run of a module is within another run of the same module."""
    runs = recording.module_calls
    around = runs[run].parent
    while around is not None:
        if runs[around].module == runs[run].module:
            return True
        around = runs[around].parent
    return False
