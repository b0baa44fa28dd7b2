"""Peak memory of a forward pass with every activation saved: resnet50, batch 8.

Each contender runs in a process of its own; what is compared is the peak of the process's
resident memory over what it was after the model was built.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

CONTENDERS = ("no_grad", "with grad", "opscope", "opscope, all saved", "TorchLens, all saved")


def measure(contender: str) -> float:
    """Run one contender in this process; return its peak, in MB."""
    import torch
    from models import torchvision_models

    torch.set_num_threads(1)
    model = torchvision_models().resnet50().train()
    x = torch.rand(8, 3, 224, 224)
    with torch.no_grad():
        model(x[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept: list[object] = []
    if contender == "no_grad":
        with torch.no_grad():
            kept.append(model(x))
    elif contender == "with grad":
        kept.append(model(x))
    elif contender.startswith("opscope"):
        import opscope

        with opscope.trace(model, save="all" if "saved" in contender else None) as trace:
            kept.append(model(x))
        kept.append(trace)
    else:
        import torchlens

        kept.append(torchlens.trace(model, x))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Measure every contender in a process of its own and print a table."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    table = Table("", "peak over the built model, MB", title="resnet50, batch 8, train mode")
    for contender in CONTENDERS:
        if contender.startswith("TorchLens") and find_spec("torchlens") is None:
            continue
        done = subprocess.run(
            [sys.executable, __file__, contender], capture_output=True, text=True, check=True
        )
        table.add_row(contender, f"{json.loads(done.stdout.splitlines()[-1]):,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
