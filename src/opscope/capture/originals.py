"""What came from outside, as it was when it was first seen: what a replay starts from."""

from __future__ import annotations

import torch


class Originals:
    """Copies of the storages that the program did not make itself, and of random states.

    A storage is copied once, whole, so that tensors that shared memory share it again.

    Attributes:
        storages: By storage number, a copy of its bytes.
        tensors: By row, a copy of a tensor that has no plain storage.
        generators: The state of each device's random number generator at the start.
        draws: The same before each op that draws from it, by op: the program may seed it
            between ops, as checkpointing does.
    """

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        self.generators: dict[str, torch.Tensor] = {}
        self.draws: dict[int, dict[str, torch.Tensor]] = {}

    def keep(
        self, tensor: torch.Tensor, storage: torch.UntypedStorage | None, row: int, number: int
    ) -> None:
        """Copy a tensor from outside, unless its storage was seen before."""
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(), torch.no_grad():
            if storage is None:
                self.tensors[row] = tensor.detach().clone()
            elif number not in self.storages:
                self.storages[number] = storage.clone()

    def keep_generators(self) -> None:
        """Take down the state of the default generators."""
        self.generators = _generators()

    def keep_draw(self, op: int) -> None:
        """Take it down again before an op that draws."""
        self.draws[op] = _generators()


def _generators() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            states[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    return states
