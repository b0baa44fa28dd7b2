"""A hash of a tensor's elements that every device works out for itself, to the same bits.

The memory of the elements in their order is words of 64 bits, little-endian, in chunks of 32,768.
Of each chunk two sums are taken, modulo 2⁶⁴: of its words ``x``, and of their upper halves
``x >> 32``, each times an odd weight that goes by the place in the chunk. The sums, after the
element type and sizes, go through BLAKE2b, as do the bytes that fill no word; a chunk of up to 64
words goes through it as it is.

How good it is: two sums tell as much as the sums of the lower and upper halves apart. Were the
weights drawn afresh, two chunks that differ would agree in a sum of halves that differ with a
chance of at most 2⁻³² (differences in the sign bits of float32 alone), and of 2⁻⁶³ where any of the
halves differ in their last bits; both at once where both halves differ. (Multiply-shift hashing of
Dietzfelbinger; a sum ``Σ w·d`` modulo 2⁶⁴ with odd ``w``, where 2ᵗ divides all ``d``, t < 32, is 0 with
a chance of at most 2ᵗ⁻⁶³.)
One word that differs always shows. The weights are known: it tells runs apart, and is no
protection against one who makes two tensors that agree on purpose.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from sys import byteorder

import torch

CHUNK = 1 << 15
"""How many words are summed up at once: 256 KiB, which stay in a core's cache."""
SHORT = 64
_BLOCK = 64 * CHUNK  # how many words are multiplied at once on a device: 16 MiB
_GOLDEN, _MIX_1, _MIX_2 = (
    n - (1 << 64) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class ExactHash:
    """Takes up a tensor part by part: each of whole chunks, but for the last.

    Args:
        form: The element type and sizes, in words.
    """

    __slots__ = ("_state",)

    def __init__(self, form: str) -> None:
        self._state = blake2b(f"{form}\0".encode(), digest_size=16)

    def add(self, part: torch.Tensor) -> None:
        """Take up a flat tensor whose memory is in order and begins at a whole word."""
        step = 8 // part.itemsize
        whole = part.numel() // step * step
        head = part if whole == part.numel() else part[:whole]
        if whole:
            self._state.update(_in_bytes(sums_of(head.view(torch.int64))))
        if whole != part.numel():
            self._state.update(bytes(part[whole:].view(torch.uint8).tolist()))

    def hex(self) -> str:
        """Return 32 hex digits."""
        return self._state.hexdigest()


def sums_of(words: torch.Tensor) -> list[int]:
    """Return the two sums of each chunk of words, all first ones first; a few words as they are."""
    count = words.numel()
    if count <= SHORT:
        return words.tolist()
    if words.device.type != "cpu":
        return sums_on_device(words)
    weights = weights_on("cpu")
    firsts: list[int] = []
    seconds: list[int] = []
    for chunk in (words,) if count <= CHUNK else words.split(CHUNK):
        of_chunk = weights if chunk.numel() == CHUNK else weights[: chunk.numel()]
        firsts.append(int(torch.dot(chunk, of_chunk).item()))
        seconds.append(int(torch.dot(chunk >> 32, of_chunk).item()))
    return [*firsts, *seconds]


def sums_on_device(words: torch.Tensor) -> list[int]:
    """Return the same, by what every device can do, in few steps; a chunk is filled up with zeros."""
    weights = weights_on(str(words.device))
    firsts, seconds = [], []
    for block in words.split(_BLOCK):
        missing = -block.numel() % CHUNK
        rows = torch.nn.functional.pad(block, (0, missing)) if missing else block
        rows = rows.view(-1, CHUNK)
        firsts.append((rows * weights).sum(1))
        seconds.append(((rows >> 32) * weights).sum(1))
    return torch.cat([*firsts, *seconds]).tolist()


@cache
def weights_on(device: str) -> torch.Tensor:
    """Return the weight of each place in a chunk: splitmix64 of the places, made odd."""
    mixed = torch.arange(1, CHUNK + 1, dtype=torch.int64) * _GOLDEN
    mixed = (mixed ^ _shifted(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shifted(mixed, 27)) * _MIX_2
    return ((mixed ^ _shifted(mixed, 31)) | 1).to(device)


def _shifted(words: torch.Tensor, places: int) -> torch.Tensor:
    """Return words shifted to the right, zeros shifted in."""
    return (words >> places) & ((1 << (64 - places)) - 1)


def _in_bytes(numbers: Sequence[int]) -> bytes:
    found = array("q", numbers)
    if byteorder == "big":
        found.byteswap()
    return found.tobytes()
