"""Files that are damaged or made up: each is refused, or is a record; none costs more than its size."""

import json
import random
import tracemalloc
from functools import cache

import pytest
from tests import zoo
from tests.storage.keeping import as_plain, members, zipped

import opscope
from opscope.errors import OpscopeError

MOST = 32 << 20  # bytes for a file of some thousand


@cache
def original(folder):
    """Return a file of a training step with tensors, and what is in it."""
    program = zoo.build("recurrent")
    with opscope.trace(program.module, save="all", memory=True, gradients="all") as trace:
        program.run().sum().backward()
    content = trace.save(folder / "whole.opscope").read_bytes()
    return content, as_plain(opscope.load(folder / "whole.opscope").recording)


def asked(path):
    """Load a file and ask for all that is in it, with no more memory than is fair."""
    tracemalloc.start()
    try:
        record = opscope.load(path)
        found = as_plain(record.recording)
        tensors = dict(record._layers.tensors.kept())
        assert all(isinstance(name, str) for name in tensors)
    except OpscopeError:
        return None
    else:
        return found
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST, peak


def damaged(content, dice):
    """Return a file with bytes changed, left out, said twice, or put in."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at, span = dice.randrange(len(data) + 1), dice.choice([1, 1, 4, 100, 3000])
        match dice.randrange(6):
            case 0:
                data[at : at + 1] = bytes([(*data, 0)[at] ^ 1 << dice.randrange(8)])
            case 1:
                del data[at : at + span]
            case 2:
                data[at:at] = data[at : at + span]
            case 3:
                data[at : at + span] = dice.randbytes(min(span, len(data) - at))
            case 4:
                data = data[:at]
            case 5:
                data[at : at + 4] = dice.choice([b"\xff" * 4, bytes(4), b"\x00\x00\x00\x80"])
    return bytes(data)


def made_up(content, dice):
    """Return a file whose checksums are right, of members that were changed."""
    found = members(content)
    for _ in range(dice.choice([1, 1, 2])):
        name = dice.choice(sorted(found))
        if name.endswith(".json"):
            known = json.loads(found[name])
            found[name] = json.dumps(altered(known, dice)).encode()
        else:
            found[name] = damaged(found[name], dice)
    return zipped(found, signed=dice.random() < 0.9)


STRANGE = [
    0, 1, -1, 2, 255, 10**9, -(10**9), 2**63, 2**70, 10**18, True, None, 0.5, 1e308, "", "u1", "i8",
    "f8", "\ud800", "../x", [], {}, [[]], {"tuple": []}, {"torch": "load"}, {"first": 0, "step": 10**9},
    {"same": 3}, {"codes": {"first": 0, "step": 1}, "values": [1, 2]}, {"range": [0, 10**12, 1]},
    {"numbers": {"first": 10**9, "step": 0}}, {"lengths": {"first": 10**6, "step": 0}, "records": {}},
    {"bytes": "00" * 100}, {"int": "0x" + "f" * 100}, {"device": "cuda:99"}, "nan", {"float": "nan"},
]  # fmt: skip


def altered(known, dice):
    """Return a JSON value of which something is another, is missing, or is there twice."""
    if isinstance(known, (dict, list)) and known and dice.random() < 0.9:
        key = dice.choice(sorted(known) if isinstance(known, dict) else range(len(known)))
        match dice.randrange(12):
            case 0:
                del known[key]
            case 1 if isinstance(known, list):
                known.append(known[key])
            case 2 if isinstance(known, dict):
                other = dice.choice(sorted(known))
                known[key], known[other] = known[other], known[key]
            case 3 if isinstance(known, dict):
                known[dice.choice(["same", "first", "step", "new", "index"])] = dice.choice(STRANGE)
            case _:
                known[key] = altered(known[key], dice)
        return known
    if type(known) is int and dice.random() < 0.5:
        return known + dice.choice([-1, 1, 1000, 10**9])
    return dice.choice(STRANGE)


def check(tmp_path, seeds):
    whole, plain = original(tmp_path)
    path = tmp_path / "changed.opscope"
    loaded = 0
    for seed in seeds:
        dice = random.Random(seed)
        change = dice.choice([damaged, made_up])
        path.write_bytes(change(whole, dice))
        try:
            found = asked(path)
        except BaseException as error:
            error.add_note(f"seed {seed}, {change.__name__}") if hasattr(
                error, "add_note"
            ) else None
            raise
        loaded += found is not None
        if change is damaged:  # what a checksum is right for is what was written
            assert found is None or found == plain, seed
    return loaded


def test_a_changed_file_is_refused_or_a_record(tmp_path):
    assert check(tmp_path, range(300)) < 300


@pytest.mark.slow
def test_ten_thousand_changed_files_are_refused_or_records(tmp_path):
    assert check(tmp_path, range(300, 10_300)) < 10_000
