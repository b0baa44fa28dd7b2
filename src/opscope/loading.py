"""The front desk: `load`."""

from __future__ import annotations

from os import PathLike

from torch import nn

from opscope.keeping.files import load_layers
from opscope.record import Record


def load(path: str | PathLike[str], model: nn.Module | None = None) -> Record:
    """Return the record that `Record.save` wrote: it answers as the trace did.

    Nothing of the file is run or imported. Tensors are read from it when they are asked for; the file
    has to stay for that. `Record.validate` and the program of `Record.to_fx` run the operators that the
    record names: ask that of a file that you trust.

    Args:
        path: Where it is.
        model: The model that was traced, or another with the same parameters by name, shape and
            type: `Record.to_fx` makes a program of these, and with the names of the arguments.

    Raises:
        OptionError: If there is no such file, or the model is another.
        UnreadableFile: If it is no such file, is damaged, was changed, or is of a newer opscope.

    >>> import tempfile, torch, opscope
    >>> with opscope.trace(save="all") as trace:
    ...     y = torch.relu(torch.tensor([-1.0, 2.0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = opscope.load(trace.save(f"{folder}/run.opscope"))
    ...     record, record["relu"].activation
    (<opscope.Record of program: 2 ops, 3 layers>, tensor([0., 2.]))
    """
    return Record._of(load_layers(path, model))
