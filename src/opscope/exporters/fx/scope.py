"""What of a record is to be a program: the call of the model, of another module, or the block."""

from __future__ import annotations

from opscope.errors import OptionError, TraceStateError, nearest
from opscope.records.calls import ModuleCall
from opscope.records.recording import Recording


def called(recording: Recording, module: str | None, *, is_named: bool) -> ModuleCall | None:
    """Return the module call that a program is asked for; None for the whole block.

    Args:
        recording: What happened.
        module: The module's address, with ``":2"`` for its second run; None for the model.
        is_named: Whether the trace was told which module the model is.

    Raises:
        OptionError: If no module ran there, or if it ran several times.
        TraceStateError: If the program failed, or if it is not clear which module is meant.
    """
    if module is not None:
        return _asked_for(recording, module)
    if recording.failure is not None:
        message = "a program that failed has no outputs; trace one that runs to its end"
        raise TraceStateError(message)
    roots = [run for run in recording.module_calls if run.is_root]
    outermost = roots if is_named else [r for r in recording.module_calls if r.parent is None]
    if len(outermost) <= 1:
        return outermost[0] if outermost else None
    keys = _keys(recording)
    names = [next(key for key, runs in keys.items() if runs == [run]) for run in outermost]
    ran = f"the model was called {len(roots)} times"
    if len(roots) != len(outermost):
        ran = f"{len(outermost)} module calls ran in the block, and none was named as the model"
    message = f"{ran}; to_fx needs a trace of one call, or to be told which: {_choices(names)}"
    raise TraceStateError(message)


def calls_inside(recording: Recording, call: ModuleCall | None) -> set[int | None]:
    """Return the indices of a module call and of all inside of it; for the block None as well."""
    inside: set[int | None] = {None} if call is None else {call.index}
    for run in recording.module_calls:
        if run.parent in inside:
            inside.add(run.index)
    return inside


def _asked_for(recording: Recording, module: str) -> ModuleCall:
    keys = _keys(recording)
    runs = keys.get(module)
    if runs is None:
        known = {m.address for m in recording.modules}.union(
            *(m.aliases for m in recording.modules)
        )
        what = f"no module ran at {module!r}"
        if module in known:
            what = f"the module {module!r} did not run" if module else "the model did not run"
        listed = ", ".join(repr(name) for name in nearest(module, filter(None, keys)))
        message = what + (f"; the nearest that did: {listed}" if listed else ": none did")
        raise OptionError(message)
    if len(runs) > 1:
        names = [f"{module}:{run.number}" for run in runs]
        message = f"module {module!r} ran {len(runs)} times; ask for one run: {_choices(names)}"
        raise OptionError(message)
    if runs[0].failed:
        message = (
            f"the module {module!r} failed, and has no outputs; ask for one that ran to its end"
        )
        raise TraceStateError(message)
    return runs[0]


def _keys(recording: Recording) -> dict[str, list[ModuleCall]]:
    """Return the calls that each address stands for; with the number of a run it is one."""
    found: dict[str, list[ModuleCall]] = {}
    for run in recording.module_calls:
        module = recording.modules[run.module]
        for address in (module.address, *module.aliases):
            found.setdefault(address, []).append(run)
    for address, runs in list(found.items()):
        for run in runs:
            found.setdefault(f"{address}:{run.number}", [run])
    return found


def _choices(names: list[str]) -> str:
    shown = ", ".join(f"to_fx({name!r})" for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
