"""Copies that stand for a parameter: what autocast keeps of it, and casts by hand."""

from __future__ import annotations

from opscope.operators.known import is_copy
from opscope.records.columns.table import column, read_values
from opscope.records.recording import Recording


def stand_ins(recording: Recording) -> dict[int, int]:
    """Return, for each value that stands for a parameter or buffer, which it is.

    It stands for one if an op copied, cast or quantised it, whatever else it was given being
    parameters too (scales, say). A copy that was written to since is none.
    """
    known = recording.parameter_of_value
    found: dict[int, int] = {}
    if not known:
        return found

    def behind(index: int) -> int | None:
        value = recording.values[index]
        while value.origin == "passed_through" and value.earlier is not None:
            value = recording.values[value.earlier]
        return known.get(value.index, found.get(value.index))

    operators, reads = column(recording.ops, "operator"), read_values(recording.ops)
    outputs, writes = column(recording.ops, "outputs"), column(recording.ops, "writes")
    copies = {operator: is_copy(operator) for operator in set(operators)}
    for op, (operator, values) in enumerate(zip(operators, reads, strict=True)):
        if not copies[operator] or not values or writes[op]:
            continue
        parameters = [behind(value) for value in values]
        first = parameters[0]
        if first is not None and all(number is not None for number in parameters):
            found.update((v, first) for v in outputs[op] if v is not None)
    return found


def parameters_behind(recording: Recording) -> dict[int, int]:
    """Return the parameter or buffer that each value is, stands for, or was passed through from."""
    found = {**stand_ins(recording), **recording.parameter_of_value}
    values = recording.values
    sources = zip(column(values, "origin"), column(values, "earlier"), strict=True)
    for value, (origin, source) in enumerate(sources if found else ()):
        if origin == "passed_through" and source is not None:
            if source in found:
                found[value] = found[source]
            else:
                found.pop(value, None)
    return found
