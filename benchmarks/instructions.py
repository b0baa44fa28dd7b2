"""How many machine instructions a recorded call takes, whatever else the machine is doing.

python benchmarks/instructions.py    # needs valgrind; about a minute

Runs itself under callgrind, which counts only inside of each loop.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

STEPS = 300  # so few that no batch of ops is ingested among them


def control(*options: str) -> None:
    """Have callgrind do something to this very process."""
    command = ["callgrind_control", *options, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


def count() -> None:
    """Run each variant with instructions counted, one dump for each."""
    import torch
    from profile_hot_path import EmptyFunctionMode, LeanMode
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

    import opscope

    class EmptyMode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    x, model = torch.ones(8), nn.Linear(8, 8)
    variants: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "bare": nullcontext,
        "empty mode": EmptyMode,
        "lean empty mode": LeanMode,
        "empty function mode": EmptyFunctionMode,
        "opscope ops": lambda: opscope.trace(layers=False),
        "opscope": opscope.trace,
        "opscope save": lambda: opscope.trace(save="all"),
    }
    programs: dict[str, Callable[[], object]] = {
        "torch.add": lambda: torch.add(x, x),
        "nn.Linear": lambda: model(x),
    }
    gc.disable()  # a collection that falls into one of the loops is no matter of that loop's
    with torch.no_grad():
        for name, make in variants.items():
            for program, step in programs.items():
                with make():
                    for _ in range(STEPS):
                        step()
                    control("--instr=on")
                    for _ in range(STEPS):
                        step()
                    control("--instr=off")
                control(f"--dump={name} / {program}")
                control("--zero")


def main() -> None:
    """Print the instructions per call."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--count",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        for dump in sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:])):
            text = dump.read_text()
            name = re.search(r"^desc: Trigger: dump (.*)$", text, re.M)
            total = re.search(r"^totals: (\d+)", text, re.M)
            if name and total:
                print(f"{name[1]:45s} {int(total[1]) / STEPS:10,.0f}")


if __name__ == "__main__":
    count() if "--count" in sys.argv else main()
