"""The hash of a tensor: of its type, sizes and elements in order, by each device to the same bits."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opscope.capture.collect.digests import exact_hash
from opscope.capture.collect.digests.exact_hash import CHUNK, SHORT, sums_of, sums_on_device
from opscope.capture.collect.digests.summing import digest_of

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.complex64, torch.complex128, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.bool,
)  # fmt: skip
SIZES = (0, 1, 3, 7, 8, 63, 64, 65, 500, 4099, 2 * CHUNK + 3)


def hash_of(tensor):
    return digest_of(tensor).hash


def filled(count, dtype, seed=0):
    numbers = torch.randint(0, 2**8, (count * dtype.itemsize,), dtype=torch.uint8,
                            generator=torch.Generator().manual_seed(seed))  # fmt: skip
    if dtype is torch.bool:
        return numbers.view(torch.uint8) > 127
    return numbers.view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_bit_that_differs_anywhere_shows(dtype):
    for count in filter(None, SIZES):
        tensor = filled(count, dtype)
        found = hash_of(tensor)
        assert found == hash_of(tensor.clone())
        for place in {0, count // 2, count - 1}:
            other = tensor.clone()
            if dtype is torch.bool:
                other[place] = ~other[place]
            else:
                memory = other.view(torch.uint8)
                memory[place * dtype.itemsize] ^= 1 if place % 2 else 128
            assert hash_of(other) != found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_and_offsets_do_not_matter(dtype):
    whole = filled(2 * 37 * 53, dtype).reshape(37, 53, 2)
    for view in (whole[..., 0], whole[1:, :, 1].t(), whole[3:7], whole.permute(2, 0, 1)):
        assert hash_of(view) == hash_of(view.clone(memory_format=torch.contiguous_format))


def test_order_sizes_and_type_matter():
    square = torch.rand(50, 50)
    hashes = {
        hash_of(item)
        for item in (
            square, square.t(), square.flip(0), square.reshape(2500), square.reshape(25, 100),
            square.view(torch.int32), -square, square.roll(1), square.sort().values,
        )
    }  # fmt: skip
    assert len(hashes) == 9
    assert len({hash_of(torch.empty(size)) for size in ((0,), (0, 1), (1, 0))}) == 3
    assert hash_of(torch.tensor(1.0)) != hash_of(torch.tensor([1.0]))


def test_signs_of_zero_and_bits_of_nan_count():
    for count in (2, 1000):
        zeros, nan = torch.zeros(count), torch.full((count,), torch.nan)
        other = (nan.view(torch.int32) + 1).view(torch.float32)
        assert hash_of(zeros) != hash_of(-zeros)
        assert other.isnan().all()
        assert hash_of(nan) != hash_of(other)


@given(st.sets(st.integers(0, 999), min_size=1), st.sampled_from([0, 22, 23, 30, 31]))
def test_the_same_bit_flipped_in_any_places_shows(places, bit):
    # Flips of the uppermost bits cancel in a sum modulo 2^64 that takes words as they are.
    numbers = torch.arange(1000, dtype=torch.int32)
    other = numbers.clone()
    other[sorted(places)] ^= -(1 << 31) if bit == 31 else 1 << bit
    assert hash_of(numbers) != hash_of(other)


def test_negated_and_swapped_signs_show_at_every_size():
    for count in (130, 1000, CHUNK, 5 * CHUNK):
        numbers = torch.ones(count)
        numbers[::2] = -1.0
        first = numbers.clone()
        first[1], first[3] = -numbers[1], -numbers[3]
        assert len({hash_of(numbers), hash_of(-numbers), hash_of(first)}) == 3


@pytest.mark.parametrize("count", [SHORT + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 77])
def test_what_devices_do_gives_what_the_cpu_does(monkeypatch, count):
    words = filled(count, torch.int64)
    assert sums_on_device(words) == sums_of(words)
    monkeypatch.setattr(exact_hash, "_BLOCK", CHUNK)
    assert sums_on_device(words) == sums_of(words)


def test_it_is_what_the_page_says_worked_out_without_torch():
    from hashlib import blake2b

    def weight(place):
        word = 2**64 - 1
        mixed = (place + 1) * 0x9E3779B97F4A7C15 & word
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & word
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & word
        return (mixed ^ mixed >> 31) | 1

    tensor = filled(1001, torch.float32)
    memory = bytes(tensor.view(torch.uint8).tolist())
    words = [int.from_bytes(memory[at : at + 8], "little", signed=True) for at in range(0, 4000, 8)]
    sums = [
        sum(weight(place) * part for place, part in enumerate(parts)) % 2**64
        for parts in (words, [word >> 32 for word in words])
    ]
    expected = blake2b(b"float32[1001]\0", digest_size=16)
    expected.update(b"".join(number.to_bytes(8, "little") for number in sums) + memory[4000:])
    assert hash_of(tensor) == expected.hexdigest()


@pytest.mark.parametrize("seed", ["0", "7"])
def test_other_processes_find_the_same(seed):
    code = (
        "import torch; from opscope.capture.collect.digests.summing import digest_of;"
        "print(digest_of(torch.arange(99999.)).hash)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**__import__("os").environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert done.stdout.strip() == hash_of(torch.arange(99999.0))
