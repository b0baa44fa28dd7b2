import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import RECORDINGS, Exhibit, Sketch, empty, nested, recurrent
from tests.strategies import recordings

from opscope.records.calls import ModuleCall
from opscope.records.recording import Module, Recording
from opscope.views.rows.layer_rows import LayerRows
from opscope.views.rows.module_rows import ModuleRows
from opscope.views.rows.table_rows import table_rows


def rows(recording, level="module", depth=None, phase="forward"):
    return table_rows(recording, Exhibit(recording).passes, level, depth, phase)


def test_modules_are_rows_with_their_children_below():
    assert [(row.name, row.depth) for row in rows(nested())] == [
        ("Nested", 0),
        ("blocks.0", 1), ("blocks.0.fc", 2), ("blocks.0.act", 2), ("add_1", 2),
        ("blocks.1", 1), ("blocks.1.fc", 2), ("blocks.1.act", 2), ("add_2", 2),
        ("head", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, ["Nested", "blocks.0", "blocks.1", "head"]),
     (2, ["Nested", "blocks.0", "blocks.0.fc", "blocks.0.act", "add_1", "blocks.1", "blocks.1.fc",
          "blocks.1.act", "add_2", "head"])],
)  # fmt: skip
def test_depth_bounds_how_deep_rows_are_indented(depth, expected):
    assert [row.name for row in rows(nested(), depth=depth)] == expected


def test_a_module_row_tells_what_it_holds_and_gives():
    row = rows(nested())[1]

    assert (row.kind, row.module, row.is_module, row.passes) == ("Block", "blocks.0", True, 1)
    assert (row.params, row.trainable, row.memory, row.time_ns) == (12, 9, 24, 4000)
    assert row.op == "linear ×2, relu, add"
    assert [v.shape for v in row.inputs] == [v.shape for v in row.outputs] == [(2, 3)]


def test_the_models_row_holds_every_parameter_once():
    assert rows(nested())[0].params == 36


def test_a_module_that_runs_several_times_is_one_row_with_the_time_of_all():
    row = rows(recurrent(passes=3))[1]

    assert (row.name, row.passes, row.time_ns, row.memory) == ("fc", 3, 6000, 3 * 24)


def test_what_runs_only_in_a_later_run_is_below_its_module_too():
    sketch = Sketch()
    x = sketch.outside()
    for inner in ("enc", "dec"):
        with sketch.module("step", "Step", x), sketch.module(f"step.{inner}", "Linear", x):
            x = sketch.call("linear", x)
        with sketch.module("out", "Linear", x):
            x = sketch.call("linear", x)

    assert [(row.name, row.depth, row.passes) for row in rows(sketch.build())] == [
        ("step", 0, 2), ("step.enc", 1, 1), ("step.dec", 1, 1), ("out", 0, 2),
    ]  # fmt: skip


def test_a_shared_module_is_a_row_below_each_that_calls_it_with_the_runs_there():
    sketch = Sketch()
    x = sketch.outside()
    with sketch.module(""):
        for block, times in (("a", 1), ("b", 2)):
            with sketch.module(block, "Block", x):
                for _ in range(times):
                    with sketch.module("a.act", "ReLU", x):
                        x = sketch.call("relu", x)
    recording = sketch.build()
    modules = [replace(m, aliases=("b.act",)) if m.address == "a.act" else m
               for m in recording.modules]  # fmt: skip
    found = rows(replace(recording, modules=tuple(modules)))

    assert [(row.name, row.passes, row.time_ns, row.memory) for row in found] == [
        ("Block", 1, 3000, 24), ("a", 1, 1000, 24), ("a.act", 1, 1000, 24),
        ("b", 1, 2000, 24), ("b.act", 2, 2000, 48),
    ]  # fmt: skip


def test_a_module_that_runs_itself_is_one_row_whose_time_is_counted_once():
    sketch = Sketch()
    x = sketch.outside()
    with sketch.module("tree", "Tree", x):
        x = sketch.call("relu", x)
        with sketch.module("tree", "Tree", x):
            x = sketch.call("relu", x)
            with sketch.module("tree.leaf", "Leaf", x):
                sketch.call("sin", x)

    assert [(row.name, row.depth, row.passes, row.time_ns) for row in rows(sketch.build())] == [
        ("tree", 0, 2, 3000), ("relu_1", 1, 1, 1000), ("relu_2", 1, 1, 1000),
        ("tree.leaf", 1, 1, 1000),
    ]  # fmt: skip


def test_what_a_container_computes_in_several_passes_is_one_row():
    named = {row.name: row.passes for row in rows(recurrent(passes=3))}

    assert named == {"Recurrent": 1, "fc": 3, "add_1": 3, "relu_1": 1}


def test_a_layer_folded_into_one_row_has_the_time_of_all_its_passes():
    row = next(row for row in rows(recurrent(passes=3)) if row.name == "add_1")

    assert (row.time_ns, row.memory) == (3000, 3 * 24)


def test_layers_are_rows_with_their_tensors_and_parameters():
    row = rows(nested(), "layer")[1]

    assert (row.name, row.kind, row.module) == ("linear_1_1", "linear", "blocks.0.fc")
    assert (row.op, row.params, row.trainable, row.memory) == ("linear ×2", 12, 9, 24)
    assert (len(row.inputs), len(row.outputs), row.source) == (1, 1, "net.py:11")


@given(recordings())
def test_there_is_a_row_for_each_pass_and_for_each_op(recording):
    passes = Exhibit(recording).passes

    assert [row.name for row in rows(recording, "layer")] == [item.label for item in passes]
    assert [row.kind for row in rows(recording, "op", phase="all")] == [
        op.operator for op in recording.ops
    ]


@given(recordings())
def test_there_is_a_row_for_each_module_that_ran(recording):
    found = [row.module for row in rows(recording) if row.is_module]

    assert sorted(found) == sorted(module.address for module in recording.modules)


@pytest.mark.parametrize("level", ["op", "layer"])
@given(recording=recordings(), depth=st.integers(1, 3))
def test_depth_leaves_out_what_ran_deeper(level, recording, depth):
    kept = rows(recording, level, depth)
    everything = rows(recording, level)

    assert kept == [row for row in everything if not row.module or row.module.count(".") < depth]


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_what_failed_is_marked(level):
    failed = [row.name for row in rows(RECORDINGS["failed"](), level) if row.failed]

    assert failed == {
        "op": ["1"], "layer": ["linear_1_2"], "module": ["Failed", "fc"]
    }[level]  # fmt: skip


@pytest.mark.parametrize("level", ["op", "layer", "module"])
def test_an_empty_recording_has_no_rows(level):
    assert rows(empty(), level) == []


def test_modules_nested_deeper_than_python_recurses_are_rows():
    sketch = Sketch()
    _nest(sketch, 1500)

    assert rows(sketch.build())[-1].depth == 1499


def _nest(sketch, depth):
    from contextlib import ExitStack

    x = sketch.outside()
    with ExitStack() as stack:
        for level in range(depth):
            stack.enter_context(sketch.module(".".join("m" * level), "Block", x))
        sketch.call("relu", x)


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_below_the_rows_that_a_climb_from_each_run_finds(seed):
    chosen = random.Random(seed)
    parents = [None] + [chosen.choice([None, *range(number)]) for number in range(1, 40)]
    order, children = [], {}
    for number, parent in enumerate(parents):
        children.setdefault(parent, []).append(number)
    pending = children[None][::-1]
    while pending:  # depth first, as runs begin
        order.append(pending.pop())
        pending += children.get(order[-1], [])[::-1]
    place = {number: at for at, number in enumerate(order)}
    modules = tuple(Module(n, f"m{n}", "M") for n in range(4))
    calls = tuple(
        ModuleCall(
            at, chosen.randrange(4), parent=None if parents[n] is None else place[parents[n]]
        )
        for at, n in enumerate(order)
    )
    rows = ModuleRows(LayerRows(Recording(modules=modules, module_calls=calls), ()))

    def paths(entry, above=()):
        for inner in entry.entries.values():
            path = (*above, inner.module)
            yield path, [run.index for run in inner.runs]
            yield from paths(inner, path)

    found = {}
    for run in calls:
        above = () if run.parent is None else found[run.parent]
        found[run.index] = (
            above[: above.index(run.module) + 1] if run.module in above else (*above, run.module)
        )
    expected = {}
    for index, path in found.items():
        expected.setdefault(path, []).append(index)
    assert dict(paths(rows._calls())) == expected
