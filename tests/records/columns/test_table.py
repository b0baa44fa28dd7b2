import copy
import pickle
from array import array
from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import given
from tests import zoo
from tests.strategies import recordings

import opscope
from opscope.records.columns.columns import (
    NONE,
    Coded,
    Flag,
    Joined,
    Less,
    Optional,
    Overlaid,
    Ragged,
    RaggedKnown,
    RaggedOptional,
    Ranges,
    Same,
    Sparse,
    codes_of,
)
from opscope.records.columns.table import (
    Reads,
    Table,
    changed,
    column,
    plain_reads,
    read_values,
    value_bytes,
)
from opscope.records.passes.layers import layer_passes
from opscope.records.recording import Recording
from opscope.records.sums.totals import totals
from opscope.records.values import Value

COLUMNS = {
    "same": (Same("x", 3), ["x", "x", "x"]),
    "optional": (Optional(array("i", [4, NONE, 0])), [4, None, 0]),
    "coded": (Coded(bytearray([1, 0, 1]), ["a", "b"]), ["b", "a", "b"]),
    "codes of": (Coded(*codes_of("bab")), ["b", "a", "b"]),
    "sparse": (Sparse(0, {1: 7}, 3), [0, 7, 0]),
    "nothing else": (Sparse(0, {}, 3), [0, 0, 0]),
    "flag": (Flag([0, 2, 3], 2), [False, True, True]),
    "ranges": (Ranges([0, 2], [2, 2]), [range(2), range(2, 2)]),
    "less": (Less([5, 7], [2, 7]), [3, 0]),
    "ragged": (Ragged([1, 1, 3], array("i", [4, 5, 6, 9])), [(4,), (), (5, 6)]),
    "ragged optional": (RaggedOptional([2], [4, NONE]), [(4, None)]),
    "ragged known": (RaggedKnown([2, 3], [4, NONE, NONE]), [(4,), ()]),
    "joined": (Joined([1], Same(2, 0), range(5, 7)), [1, 5, 6]),
    "overlaid": (Overlaid([1, 2, 3], {1: None}), [1, None, 3]),
}


@pytest.mark.parametrize(("kind", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_is_a_sequence(kind, expected):
    assert list(kind) == expected == [kind[at] for at in range(len(kind))]
    assert list(pickle.loads(pickle.dumps(kind))) == expected


def points(count):
    return Table(Value, count, {"index": range(count), "offset": [2 * at for at in range(count)]})


def test_a_table_is_in_all_things_a_tuple():
    table, plain = points(5), tuple(Value(at, offset=2 * at) for at in range(5))

    assert table == plain
    assert plain == table
    assert hash(table) == hash(plain)
    assert repr(table) == repr(plain)
    assert list(table) == list(plain)
    assert list(reversed(table)) == list(reversed(plain))
    assert [table[0], table[-1], *table[1:4:2]] == [plain[0], plain[-1], *plain[1:4:2]]
    assert plain[2] in table
    assert table.index(plain[3]) == 3
    assert table + plain == plain + table == plain + plain
    assert table != plain[:-1]
    assert table != list(plain)
    assert copy.deepcopy(table) == pickle.loads(pickle.dumps(table)) == table


@pytest.mark.parametrize("index", [5, -6])
def test_what_is_not_in_a_table_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"index {index} of 5 records"):
        points(5)[index]


def test_records_are_made_when_they_are_asked_for_and_not_held_for_ever():
    made = []

    @dataclass
    class Counted:
        index: int

        def __post_init__(self):
            made.append(self.index)

    table = Table(Counted, 10**6, {"index": range(10**6)})
    assert len(table) == 10**6
    assert table[7] is table[7]
    assert list(column(table, "index")[:3]) == [0, 1, 2]
    assert made == [7]
    for at in range(20_000):
        table[at]
    assert len(table._held) < 5_000


def test_records_of_which_some_are_changed():
    table, plain = points(3), tuple(points(3))
    fields = {"offset": {1: 9}, "origin": {1: "view"}}

    expected = (plain[0], replace(plain[1], offset=9, origin="view"), plain[2])
    assert changed(table, fields) == changed(plain, fields) == expected
    assert table == plain


def as_tuples(recording):
    """Return a recording whose records are all there."""
    kept = {
        field.name: tuple(getattr(recording, field.name))
        for field in fields(Recording)
        if isinstance(getattr(recording, field.name), Table)
    }
    return replace(recording, **kept)


def as_tables(recording):
    """Return a recording by hand with its records in columns."""
    return replace(recording, **{name: tabled(getattr(recording, name)) for name in TABLES})


def tabled(records):
    if not records:
        return records
    names = [field.name for field in fields(records[0])]
    columns = {name: [getattr(record, name) for record in records] for name in names}
    return Table(type(records[0]), len(records), columns)


TABLES = ("ops", "values", "layer_calls")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["recurrent", "function", "lstm", "encoder"])
def test_the_records_of_a_trace_are_what_they_would_be_if_all_were_made(name, backward):
    program = zoo.build(name)
    with opscope.trace(program.module) as trace:
        given = program.run()
        if backward and program.module is not None:
            (given[0] if isinstance(given, tuple) else given).sum().backward()
    recording = trace.recording
    eager = as_tuples(recording)

    assert all(isinstance(getattr(recording, name), Table) for name in TABLES)
    assert eager == recording
    assert pickle.loads(pickle.dumps(recording)) == eager
    assert [r.index for r in recording.ops] == list(range(len(recording.ops)))
    assert list(map(tuple, read_values(recording.ops))) == list(read_values(eager.ops))
    assert list(plain_reads(recording.ops)) == list(plain_reads(eager.ops))
    assert list(value_bytes(recording.values)) == [value.nbytes for value in eager.values]
    assert isinstance(column(recording.ops, "reads"), Reads)
    passes = layer_passes(eager)
    assert passes == trace.passes
    assert tuple(trace.passes) == passes
    assert totals(eager, tuple(passes)) == trace.totals


@given(recordings())
def test_what_follows_from_columns_follows_from_records(recording):
    columns = as_tables(recording)

    assert columns == recording
    passes = layer_passes(recording)
    assert layer_passes(columns) == passes
    assert totals(columns, passes) == totals(recording, tuple(passes))
