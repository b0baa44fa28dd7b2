"""A recording that was written is the same when it is read, field by field, type by type."""

from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import zoo
from tests.builders import RECORDINGS, Sketch
from tests.records.columns.test_table import as_tables
from tests.storage.keeping import as_plain, read, written
from tests.strategies import recordings

import opscope
from opscope.errors import OptionError
from opscope.operators.known import InWords
from opscope.records.calls import Frame, LayerCall, Leaf, ModuleCall
from opscope.records.columns.table import Table
from opscope.records.containers import Container, Opaque, TensorAt
from opscope.records.ops import Op, Read
from opscope.records.recording import (
    Failure,
    GradientFlow,
    GradRegion,
    Module,
    Parameter,
    Recording,
    SavedTensor,
    UnseenCall,
)
from opscope.records.storages import StorageLife
from opscope.records.values import Digest, Value
from opscope.storage.recordings import parts


def same(recording):
    return as_plain(read(written(recording))) == as_plain(recording)


@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS)
def test_what_was_written_by_hand_is_read_as_it_was(make):
    assert same(make())
    assert same(as_tables(make()))


@given(recordings())
def test_whatever_was_written_is_read_as_it_was(recording):
    assert same(recording)


# ------------------------------------------------------------------- each field of each record

STRUCTURE = Container("dict", "OrderedDict", ("a", 2.0, (1, "b")), (TensorAt(0), 1j, Opaque("X")))
INNER = {Read: Read(1, "x", overwritten=True), Leaf: Leaf("a.0", 1), Frame: Frame("f.py", 3, "g")}


def something(name, hint, default):
    """Return what a field of a type may be, other than its default."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return next(choice for choice in inside if choice != default)
    if hint is bool:
        return not default
    if hint in INNER:
        return INNER[hint]
    if NoneType in inside and hint != get_type_hints(ModuleCall)["output_structure"]:
        return something(name, inside[0], default)
    if hint == get_type_hints(ModuleCall)["output_structure"]:
        return STRUCTURE
    if origin is tuple and len(inside) == 2 and inside[1] is ...:
        return (something(name, inside[0], MISSING),) * 2
    if origin is tuple:
        return tuple(something(name, part, MISSING) for part in inside)
    simple = {int: 1, float: -0.5, str: "text", range: range(1, 2), object: [1.0, (True, None)]}
    return simple[hint]


def full(kind, index):
    """Return a record of which every field is something else than its default."""
    hints = get_type_hints(kind)
    known = {f.name: something(f.name, hints[f.name], f.default) for f in fields(kind)}
    if "index" in known:
        known["index"] = index
    for name in ("parent", "earlier"):
        if name in known:
            known[name] = None if index == 0 else 0
    return kind(**known)


def complete():
    """Return a recording with two such records of each kind."""
    two = lambda kind: tuple(full(kind, index) for index in range(2))  # noqa: E731
    return Recording(
        model_name="Net\ud800",
        ops=two(Op),
        values=two(Value),
        layer_calls=two(LayerCall),
        module_calls=two(ModuleCall),
        modules=two(Module),
        parameters=two(Parameter),
        call_sites=((), (Frame("a.py", 1, "f"), Frame("b.py", 2, "g"))),
        duration_ns=2**40,
        seed=2**63 + 1,
        failure=full(Failure, 0),
        saved_tensors=two(SavedTensor),
        storages=two(StorageLife),
        digests={1: full(Digest, 0), 0: Digest("00", float("inf"), -0.0, sample=(1.0, -2.5))},
        parameter_of_value={1: 0, 0: 1},
        alive=(1, 0),
        gradient_flow=GradientFlow(frozenset({0, 1}), frozenset({(0, 1), (1, 0)})),
        grad_regions=two(GradRegion),
        unseen_calls=two(UnseenCall),
        grad_enabled=True,
        inference=True,
    )


def test_every_field_of_every_record_is_kept():
    recording = complete()
    default = Recording()
    assert all(getattr(recording, f.name) != getattr(default, f.name) for f in fields(recording))
    assert same(recording)
    assert same(as_tables(recording))


@pytest.mark.parametrize("name", parts())
def test_one_field_alone_is_kept(name):
    whole = complete()
    kept = {part: getattr(whole, part) for part in parts() if parts()[part] is not None}
    alone = replace(Recording(**kept), **{name: getattr(Recording(), name)})
    if name in ("saved_tensors", "storages", "digests", "alive", "failure", "grad_regions"):
        assert same(alone)
    one = Recording(**{name: getattr(whole, name)})
    if parts()[name] is None:
        assert same(one)


@pytest.mark.parametrize("name", ["saved_tensors", "storages", "digests", "alive"])
def test_none_and_nothing_are_told_apart(name):
    empty = {} if name == "digests" else ()
    assert getattr(read(written(Recording(**{name: empty}))), name) == empty
    assert getattr(read(written(Recording())), name) is None


def test_long_parts_of_a_recording_are_columns_and_the_others_tuples():
    found = read(written(as_tables(complete())))
    tables = {name for name in parts() if isinstance(getattr(found, name), Table)}
    assert tables == {"ops", "values", "layer_calls", "storages"}
    assert isinstance(found.modules, tuple)


# ----------------------------------------------------------------------------- arguments

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
    | st.sampled_from([torch.float16, torch.strided, torch.channels_last, torch.device("cuda", 1)])
    | st.builds(InWords, st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(st.lists(st.lists(st.tuples(st.text(), PLAIN), max_size=3).map(tuple), max_size=6))
def test_arguments_of_every_kind_are_kept(arguments):
    assert same(Recording(ops=tuple(Op(i, "f", arguments=a) for i, a in enumerate(arguments))))


@pytest.mark.parametrize(
    "values",
    [
        [1, True, 1.0, 0, False, 0.0, -0.0],
        ["1", InWords("1"), b"1", ("1",), ["1"]],
        [float("nan"), float("inf"), -float("inf"), complex(-0.0, float("nan"))],
        [2**53 + 1, -(2**53) - 1, 2**64, 10**5000],
    ],
)
def test_values_that_are_equal_but_not_the_same_stay_apart(values):
    ops = tuple(Op(i, "f", arguments=(("x", value),)) for i, value in enumerate(values))
    assert same(Recording(ops=ops))


def test_what_is_no_plain_data_is_kept_in_words():
    found = read(written(Recording(ops=(Op(0, "f", arguments=(("x", object()),)),))))
    [(name, kept)] = found.ops[0].arguments
    assert (name, kept) == ("x", "object of class object")
    assert isinstance(kept, InWords)


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"ops": (Op(0, "f", reads=(Read(10**9, "x"),)),)}, "its ops have a number in 'value'"),
        ({"ops": (Op(0, "f", outputs=(-1,)),)}, "cannot save this recording: its ops have"),
        ({"ops": (Op(0, "f", phase="later"),)}, "something in 'phase' that is no text"),
        ({"values": (Value(0, earlier=0),)}, "'earlier' that is none of the 1 values"),
        ({"values": (Value(0, shape=(2.5,)),)}, "something in 'shape' that is no numbers"),
        ({"layer_calls": (LayerCall(0, "f", ops=range(3)),)}, "a range in 'ops' past the end"),
        ({"ops": (Op(0, "f", grad_enabled=None),)}, "'grad_enabled' that is no flag"),
    ],
)
def test_a_recording_that_makes_no_sense_is_not_written(records, message):
    with pytest.raises(OptionError, match=message):
        written(Recording(**records))


def test_a_sketch_without_a_call_site_is_kept():
    sketch = Sketch()
    sketch.call("relu", sketch.outside())
    recording = sketch.build()
    assert same(replace(recording, ops=tuple(replace(op, call_site=None) for op in recording.ops)))


# ------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_recording_of_a_training_step_is_read_as_it_was(name):
    program = zoo.build(name, training=True)
    with opscope.trace(
        program.module, memory=True, saved_for_backward=True, gradients="all"
    ) as trace:
        given = program.run()
        if program.module is not None:
            loss = sum(tensor.float().sum() for tensor in _tensors(given))
            loss.backward()
    assert as_plain(read(written(trace.recording))) == as_plain(trace.recording)


def _tensors(given):
    if isinstance(given, torch.Tensor):
        return [given] if given.requires_grad else []
    items = given.values() if isinstance(given, dict) else given
    inside = (tuple, list, dict, torch.Tensor)
    return [t for item in items if isinstance(item, inside) for t in _tensors(item)]


def test_equal_recordings_are_the_same_file():
    assert written(as_tables(RECORDINGS["nested"]())) == written(RECORDINGS["nested"]())


def test_a_file_of_the_first_version_is_still_read():
    content = (Path(__file__).parent / "version_1.opscope").read_bytes()
    assert as_plain(read(content)) == as_plain(RECORDINGS["nested"]())
