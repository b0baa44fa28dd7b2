"""The edges between ops: named cases, and random programs against what memory shows.

``OPSCOPE_FUZZ=10000 pytest tests/graph/test_dataflow.py`` runs that many random programs. A program
that fails is cut down and printed as code, with its seed: ``fuzzer.generate(seed)``.
"""

import os
import random

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from tests import invariants
from tests.graph import fuzzer, oracle

import opscope
from opscope.graph import memory
from opscope.records.flow import regions

PROGRAMS = int(os.environ.get("OPSCOPE_FUZZ", "300"))
CHUNK = 25
CHUNKS = range(0, PROGRAMS, CHUNK)


def graph(program, *, layers=True) -> nx.DiGraph:
    with opscope.trace(layers=layers) as trace:
        program()
    invariants.check(trace)
    return trace.graph(level="op")


def into(found: nx.DiGraph, node: str) -> dict[str, tuple[str, str]]:
    """Return the kind and argument of each edge into a node."""
    return {
        source: (data["kind"], data["argument"])
        for source, _, data in found.in_edges(node, data=True)
    }


# --------------------------------------------------------------------------- named cases


def test_a_view_read_after_its_base_was_written_depends_on_view_and_write(layers):
    def program():
        x = torch.zeros(4)
        view = x[:2]
        x.add_(1)
        view.neg()

    assert into(graph(program, layers=layers), "op_3") == {
        "op_1": ("alias", "self"),
        "op_2": ("write", "self"),
    }


def test_a_base_read_after_a_write_through_a_view_depends_on_both(layers):
    def program():
        x = torch.zeros(4)
        x[1].fill_(3.0)
        x.neg()

    assert into(graph(program, layers=layers), "op_3") == {
        "op_0": ("data", "self"),
        "op_2": ("write", "self"),
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param(lambda x: x.narrow(0, 0, 2), lambda x: x.narrow(0, 2, 2), id="halves"),
        pytest.param(lambda x: x[::2], lambda x: x[1::2], id="even and odd rows"),
        pytest.param(lambda x: x.select(1, 1), lambda x: x.select(1, 2), id="columns"),
        pytest.param(lambda x: x.diagonal(), lambda x: x.diagonal(1), id="diagonals"),
        pytest.param(lambda x: x.split(2, 1)[0], lambda x: x.select(1, 3), id="split columns"),
    ],
)
def test_a_write_to_a_slice_is_no_parent_of_a_disjoint_slice(written, read):
    def program():
        x = torch.zeros(4, 4)
        one, other = written(x), read(x)
        one.add_(1)
        other.neg()

    found = graph(program)
    assert found.nodes["op_4"]["label"] == "neg"
    assert into(found, "op_4") == {"op_2": ("alias", "self")}


def test_a_row_depends_on_writes_to_columns_and_not_to_other_rows(layers):
    def program():
        x = torch.zeros(3, 3)
        row = x.select(0, 2)
        x.select(0, 0).add_(1)
        x.select(1, 1).mul_(2)
        row.neg()

    assert into(graph(program, layers=layers), "op_6") == {
        "op_1": ("alias", "self"),
        "op_5": ("write", "self"),
    }


def test_writers_that_were_overwritten_in_part_are_all_parents():
    def program():
        x = torch.zeros(4)
        x[:2].add_(1)
        x[1:3].mul_(2)
        x[:3]
        x.neg()

    found = graph(program)
    writes = {"op_2": ("write", "self"), "op_4": ("write", "self")}
    assert into(found, "op_5") == writes  # a view reads what it shows
    assert into(found, "op_6") == {"op_0": ("data", "self"), **writes}


def test_what_later_writes_cover_together_is_no_parent():
    def program():
        x = torch.zeros(4)
        x[:1].add_(1)
        x[:3].mul_(2)
        x[3:].fill_(2)
        x.neg()

    assert into(graph(program), "op_7") == {
        "op_4": ("write", "self"),
        "op_6": ("write", "self"),
    }


def test_only_the_last_of_full_writes_is_a_parent(layers):
    def program():
        x = torch.zeros(4)
        other = x.detach()
        x.add_(1)
        other.fill_(2)
        x.neg()

    assert into(graph(program, layers=layers), "op_4") == {"op_3": ("write", "self")}


def test_in_place_ops_make_a_chain(layers):
    def program():
        torch.zeros(4).add_(1).mul_(2).relu_().neg()

    found = graph(program, layers=layers)
    for op in range(1, 5):
        assert into(found, f"op_{op}") == {f"op_{op - 1}": ("data", "self")}


def test_out_is_written_unread(layers):
    def program():
        x, y, out = torch.ones(2), torch.ones(2), torch.zeros(2)
        torch.add(x, y, out=out)
        out.neg()

    found = graph(program, layers=layers)
    assert into(found, "op_3") == {"op_0": ("data", "self"), "op_1": ("data", "other")}
    assert into(found, "op_4") == {"op_3": ("data", "self")}


def test_out_into_a_slice_is_a_write_of_that_slice():
    def program():
        x, out = torch.ones(2), torch.zeros(4)
        last = out[3:]
        torch.neg(x, out=out[1:3])
        out.neg()
        last.neg()

    found = graph(program)
    assert into(found, "op_4") == {"op_0": ("data", "self")}
    assert into(found, "op_5") == {"op_1": ("data", "self"), "op_4": ("write", "self")}
    assert into(found, "op_6") == {"op_2": ("alias", "self")}


def test_foreach_reads_and_writes_each_tensor_of_its_lists(layers):
    def program():
        x, y, z = torch.ones(2), torch.ones(2), torch.zeros(2)
        torch._foreach_add_([x, y], [z, z])
        y.neg()

    found = graph(program, layers=layers)
    assert into(found, "op_3") == {
        "op_0": ("data", "self[0]"),
        "op_1": ("data", "self[1]"),
        "op_2": ("data", "other[0],other[1]"),
    }
    assert into(found, "op_4") == {"op_3": ("data", "self")}


def test_swapped_data_is_followed_to_the_other_storage(layers):
    def program():
        x, y = torch.ones(2), torch.zeros(2)
        x.data = y
        y.add_(1)
        x.neg()

    assert into(graph(program, layers=layers), "op_3") == {"op_2": ("write", "self")}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_data_moved_within_its_storage_is_followed(layers, mode):
    x = torch.zeros(4)

    def program():
        first, last = x.split(2)
        first.add_(1)
        with mode():
            x.data = last
        x.neg()

    found = graph(program, layers=layers)
    negated = next(node for node, label in found.nodes(data="label") if label == "neg")
    add = next(node for node, label in found.nodes(data="label") if label == "add_")
    assert found.pred[negated]
    assert not nx.has_path(found, add, negated)


def test_a_write_to_data_is_a_write_to_the_tensor(layers):
    def program():
        x = torch.zeros(4, requires_grad=True)
        x.data[1:].fill_(1)
        x.neg()

    found = graph(program, layers=layers)
    assert found.nodes["op_3"]["label"] == "fill_"
    assert into(found, "op_4") == {"op_0": ("data", "self"), "op_3": ("write", "self")}


def test_a_tensor_with_the_id_and_storage_of_a_freed_one_is_another(layers):
    tensors, storages = [], []

    def program():
        # Until memory is given again, which depends on what else is on the heap.
        while len({*tensors}) == len(tensors) or len({*storages}) == len(storages):
            x = torch.zeros(4)
            tensors.append(id(x))
            storages.append(x.untyped_storage()._cdata)
            x.neg()
            del x

    found = graph(program, layers=layers)
    for op in range(1, 2 * len(tensors), 2):
        assert into(found, f"op_{op}") == {f"op_{op - 1}": ("data", "self")}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("norm", [F.batch_norm, F.instance_norm])
def test_running_statistics_are_written_in_training(layers, mode, norm):
    mean, variance, x = torch.zeros(3), torch.ones(3), torch.randn(4, 3, 5)

    def program():
        with mode():
            norm(x, mean, variance, None, None, True, 0.1)
            mean.neg()

    found = graph(program, layers=layers)
    negated = next(node for node, label in found.nodes(data="label") if label == "neg")
    (writer,) = into(found, negated)
    assert found.nodes[writer]["kind"] == "op"


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_running_statistics_are_only_read_in_evaluation(layers, mode):
    mean, variance, x = torch.zeros(3), torch.ones(3), torch.randn(4, 3)

    def program():
        with mode():
            F.batch_norm(x, mean, variance, training=False)
            mean.neg()

    found = graph(program, layers=layers)
    negated = next(node for node, label in found.nodes(data="label") if label == "neg")
    (source,) = into(found, negated)
    assert found.nodes[source]["kind"] != "op"


def test_dropout_in_evaluation_hands_its_input_on():
    def program():
        x = torch.ones(2)
        F.dropout(x, 0.5, training=False).neg()

    found = graph(program)
    (call,) = into(found, "op_1")
    assert found.nodes[call]["label"] == "dropout"
    assert into(found, call) == {"op_0": ("data", "input")}
    assert into(graph(program, layers=False), "op_1") == {"op_0": ("data", "self")}


@pytest.mark.parametrize(
    "widen",
    [
        pytest.param(lambda part, whole: part.resize_(10), id="resize_"),
        pytest.param(lambda part, whole: part.as_strided((10,), (1,)), id="as_strided"),
        pytest.param(lambda part, whole: part.as_strided_((10,), (1,)), id="as_strided_"),
        pytest.param(
            lambda part, whole: torch.ones(1).set_(whole.untyped_storage(), 0, (10,), (1,)),
            id="set_ to a storage",
        ),
    ],
)
def test_a_view_of_more_than_it_was_made_from_depends_on_earlier_writes_there(layers, widen):
    def program():
        whole = torch.zeros(10)
        part = whole[:4]
        whole[6:].add_(1)
        widen(part, whole).neg()

    found = graph(program, layers=layers)
    negated = next(node for node, label in found.nodes(data="label") if label == "neg")
    assert nx.has_path(found, "op_0", negated)
    assert nx.has_path(found, "op_3", negated)


def test_an_op_that_no_function_ran_for_is_no_call_that_handed_its_input_on():
    def program():
        x, y = torch.ones(2), torch.zeros(3)
        x.set_(y)  # the function mode is not told of `set_`
        x.neg()

    found = graph(program)
    assert {data["kind"] for _, data in found.nodes(data=True)} == {"op", "output"}
    assert into(found, "op_3") == {"op_2": ("alias", "self")}


def test_a_view_whose_history_torch_refuses_to_tell_does_not_break_the_program(layers):
    x = torch.ones(3, requires_grad=True)

    def program():
        y = x * 1
        with torch.no_grad():
            y[1:].neg_()  # `grad_fn` of what this returns raises

    assert into(graph(program, layers=layers), "op_2") == {"op_1": ("alias", "self")}


# ----------------------------------------------------- what is overwritten, and what is not


def leads(found: nx.DiGraph, source: str, target: str) -> bool:
    """Whether the result of the last op of the one name is in what the other's is given."""
    ops = {data["label"]: node for node, data in found.nodes(data=True) if data["kind"] == "op"}
    return nx.has_path(found, ops[source], ops[target])


def _foreach_copy(y, other):
    torch._foreach_copy_([y], [other])


def _assign(y, other):
    y[...] = other


def _out(y, other):
    torch.neg(other, out=y)


@pytest.mark.parametrize(
    "fill",
    [
        lambda y, other: y.copy_(other), lambda y, other: y.zero_(), lambda y, other: y.fill_(2),
        lambda y, other: y.normal_(), lambda y, other: y.uniform_(), lambda y, other: y.random_(3),
        lambda y, other: y.bernoulli_(0.5), _foreach_copy, _assign, _out,
    ],
    ids=["copy_", "zero_", "fill_", "normal_", "uniform_", "random_", "bernoulli_", "_foreach_copy_",
         "setitem", "out"],
)  # fmt: skip
def test_what_is_overwritten_whole_is_no_ancestor(fill, layers):
    x = torch.arange(6.0)

    def program():
        y = x + 1
        fill(y, x * 5)
        return y / 2

    found = graph(program, layers=layers)
    assert not leads(found, "add", "div")


def test_what_is_overwritten_is_shown_where_it_is_asked_for():
    x = torch.arange(6.0)
    with opscope.trace() as trace:
        y = x + 1
        y.copy_(x * 5)
    edges = trace.graph(overwritten=True).edges(data="kind")
    assert ("op_0", "op_2", "overwrite") in edges
    assert ("op_0", "op_2") not in trace.graph().edges
    assert ("add_1_1", "copy_1_3") in trace.graph("layer", overwritten=True).edges
    assert [layer.label for layer in trace["copy_1"].parents] == ["mul_1_2"]


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.mul_(2), lambda y: y.masked_fill_(y > 1, 0.0), lambda y: y[::2].neg_(),
        lambda y: y.index_copy_(0, torch.tensor([0]), torch.ones(1)), lambda y: y.lerp_(y, 0.5),
        lambda y: y.scatter_(0, torch.tensor([1]), 3.0), lambda y: torch.add(y, 1, out=y),
    ],
    ids=["mul_", "masked_fill_", "a slice", "index_copy_", "lerp_", "scatter_", "out of itself"],
)  # fmt: skip
def test_what_is_overwritten_in_part_or_looked_at_is_an_ancestor(write, layers):
    x = torch.arange(6.0)

    def program():
        y = x - 1
        write(y)
        return y / 2

    assert leads(graph(program, layers=layers), "sub", "div")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (lambda y: y[:3], lambda y: y[3:]),
        (lambda y: y.view(2, 3)[0], lambda y: y.view(2, 3)[1]),
        (lambda y: y[::2], lambda y: y[1::2]),
        (lambda y: y.chunk(2)[0], lambda y: y.chunk(2)[1]),
        (lambda y: y.narrow(0, 0, 2), lambda y: y.as_strided((2,), (1,), 4)),
        (lambda y: y.unfold(0, 2, 4)[0], lambda y: y.split([2, 2, 2])[1]),
        (lambda y: y.view(2, 3).t()[0], lambda y: y.view(2, 3).unbind(1)[2]),
    ],
    ids=["halves", "rows", "strides", "chunks", "as_strided", "windows", "columns"],
)
def test_a_view_of_bytes_that_a_write_did_not_touch_has_nothing_of_it(written, read, layers):
    x = torch.arange(6.0)

    def program():
        y = x + 1
        written(y).mul_(2)
        return read(y) / 2

    found = graph(program, layers=layers)
    assert not leads(found, "mul_", "div")
    assert leads(found, "add", "div")


def test_a_view_made_before_leads_to_no_more_than_what_is_left_of_it(layers):
    def program():
        x = torch.zeros(6)
        x[:3].add_(1)
        flat = x.view(2, 3)
        x[:3].fill_(2)
        flat.neg()

    found = graph(program, layers=layers)
    assert leads(found, "fill_", "neg")
    assert leads(found, "zeros", "neg")
    assert not leads(found, "add_", "neg")


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "pass_through",
    [torch.broadcast_tensors, torch.atleast_1d],
    ids=["broadcast_tensors", "atleast_1d"],
)
def test_tensors_that_one_call_hands_on_have_each_its_own_source(pass_through, mode, layers):
    a, b = torch.ones(3), torch.ones(3)

    def program():
        with mode():
            left, right = pass_through(a.sin(), b.cos())
            left.exp(), right.neg()

    found = graph(program, layers=layers)
    assert leads(found, "sin", "exp")
    assert leads(found, "cos", "neg")
    assert not leads(found, "sin", "neg")
    assert not leads(found, "cos", "exp")


# ----------------------------------------------------------------------- random programs


def problems(program: fuzzer.Program, *, layers: bool) -> list[str]:
    base = oracle.observe(program)
    writers = oracle.writers_of(program, base)
    return oracle.check(oracle.graph_of(program, layers=layers), base, writers).problems


def report(program: fuzzer.Program, *, layers: bool) -> str:
    """Cut a failing program down, and return it as code with what is wrong."""
    smallest = fuzzer.minimise(program, lambda other: bool(problems(other, layers=layers)))
    found = "\n".join(problems(smallest, layers=layers))
    return f"seed {program.seed}, layers={layers}, cut down to:\n\n{smallest}\n\n{found}"


@pytest.mark.parametrize("first", CHUNKS)
def test_random_programs_have_exactly_the_edges_that_memory_shows(first):
    for seed in range(first, min(first + CHUNK, PROGRAMS)):
        program = fuzzer.generate(seed)
        base = oracle.observe(program)
        writers = oracle.writers_of(program, base)
        for layers in (True, False):
            graph = oracle.graph_of(program, layers=layers)
            if oracle.check(graph, base, writers).problems:
                pytest.fail(report(program, layers=layers), pytrace=False)


@pytest.mark.parametrize("first", CHUNKS)
def test_a_changed_result_reaches_only_what_the_graph_leads_to(first):
    for seed in range(first, min(first + CHUNK, PROGRAMS), 3):
        program = fuzzer.generate(seed)
        base = oracle.observe(program)
        found = oracle.graph_of(program, layers=bool(seed % 2))
        chosen = random.Random(seed)
        producers = [op for op, produced in enumerate(base.produced) if produced]
        for op in chosen.sample(producers, min(6, len(producers))):
            differ = oracle.reached_from(program, base, op, hold=False)
            assert not oracle.check_reach(found, base, op, differ).problems, str(program)


# -------------------------------------------------------- whether any of this can fail


@pytest.fixture(scope="module")
def observed():
    """A few programs with what memory shows of them, and their graphs."""
    found = []
    for seed in range(1000, 1008):
        program = fuzzer.generate(seed)
        base = oracle.observe(program)
        writers = oracle.writers_of(program, base)
        found.append((program, base, writers, oracle.graph_of(program, layers=False)))
    return found


def test_both_oracles_find_the_same_readers_of_each_op(observed):
    compared = 0
    for program, base, writers, _ in observed[:4]:
        for op, produced in enumerate(base.produced):
            if produced:
                differ = oracle.reached_from(program, base, op, hold=True)
                assert differ == {reader for reader, seen in writers.items() if op in seen}
                compared += len(differ)
    assert compared > 100


def test_an_edge_that_is_left_out_is_missed(observed):
    dropped = {"data": 0, "write": 0, "alias": 0}
    for _, base, writers, graph in observed:
        before = oracle.check(graph, base, writers).missing
        for source, target, data in list(graph.edges(data=True)):
            if not target.startswith("op_") or not source.startswith("op_"):
                continue  # another tensor from outside may stand for the one left out
            readers = [(int(target[3:]), name) for name in data["argument"].split(",")]
            if all(reader in base.empty for reader in readers):
                continue
            less = graph.copy()
            less.remove_edge(source, target)
            noticed = len(oracle.check(less, base, writers).missing) > len(before)
            # Nothing but contents is looked at: a view that was overwritten shows none of it.
            assert noticed or data["kind"] == "alias", (source, target, data)
            dropped[data["kind"]] += noticed
    assert min(dropped.values()) > 10, dropped


def test_an_edge_from_an_op_that_wrote_nothing_of_it_is_false(observed):
    added = 0
    chosen = random.Random(0)
    for _, base, writers, graph in observed:
        before = oracle.check(graph, base, writers).false
        for op, name in chosen.sample(sorted(writers), min(20, len(writers))):
            others = [n for n in range(op) if not graph.has_edge(f"op_{n}", f"op_{op}")]
            if (op, name) in base.empty or not others:
                continue
            for kind in ("data", "write", "alias"):
                other = chosen.choice(others)
                more = graph.copy()
                more.add_edge(f"op_{other}", f"op_{op}", kind=kind, argument=name)
                # Contents that came through a view were written by that op all the same.
                wrote = kind != "alias" and other in writers[op, name]
                found = oracle.check(more, base, writers).false
                assert (len(found) > len(before)) is not wrote
                added += not wrote
    assert added > 200


def test_an_edge_to_the_wrong_argument_is_noticed(observed):
    renamed = 0
    for _, base, writers, graph in observed:
        for source, target, data in list(graph.edges(data=True)):
            if data["argument"] == "other" and (int(target[3:]), "self") not in base.empty:
                wrong = graph.copy()
                wrong.edges[source, target]["argument"] = "tensors[7]"
                assert oracle.check(wrong, base, writers).problems
                renamed += 1
    assert renamed > 3


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda whole, writes: ([], False), id="writes are forgotten"),
        pytest.param(
            lambda whole, writes: ([n for n, r in writes if regions.overlap(whole, r)], False),
            id="what is left to cover is not tracked",
        ),
        pytest.param(
            lambda whole, writes: ([n for n, _ in writes], False), id="regions are ignored"
        ),
        pytest.param(
            lambda whole, writes: (regions.last_writers(whole, writes)[0][:1], False),
            id="only the last writer counts",
        ),
    ],
)
def test_a_broken_rule_shows_in_random_programs(observed, monkeypatch, broken):
    monkeypatch.setattr(memory, "last_writers", broken)
    assert any(
        oracle.check(oracle.graph_of(program, layers=False), base, writers).problems
        for program, base, writers, _ in observed
    )


def test_the_same_seed_gives_the_same_program():
    assert fuzzer.generate(5) == fuzzer.generate(5)
    assert fuzzer.generate(5).lines != fuzzer.generate(6).lines


def test_a_printed_program_runs_as_it_is(observed):
    for program, base, *_ in observed:
        namespace = {"torch": torch, "F": F, "opscope": opscope}
        exec(str(program), namespace)
        assert [op.operator for op in namespace["trace"].ops] == base.names


def test_random_programs_use_every_kind_of_step():
    ops = {name for seed in range(60) for name in oracle.observe(fuzzer.generate(seed)).names}
    wanted = {
        "view", "slice", "select", "narrow", "split", "unbind", "permute", "transpose", "expand",
        "diagonal", "squeeze", "unsqueeze", "as_strided", "unfold", "detach", "t_", "squeeze_",
        "unsqueeze_", "resize_", "set_", "add_", "mul_", "relu_", "clamp_", "copy_", "fill_",
        "zero_", "index_put_", "masked_fill_", "index_add_", "index_copy_", "index_select", "cat",
        "stack", "clone", "_foreach_add_", "_foreach_mul_", "native_batch_norm", "batch_norm",
        "mm", "sum", "mean", "_to_copy", "empty", "where", "softmax", "_softmax",
    }  # fmt: skip
    assert wanted - {name.split(".")[1] for name in ops} == set()
    assert {name for name in ops if name.endswith(("out", "max.dim_max"))} >= {
        "aten.add.out", "aten.mul.out", "aten.cat.out", "aten.max.dim_max",
    }  # fmt: skip


def test_a_failing_program_is_cut_down_to_what_fails():
    program = fuzzer.generate(3)
    kept = program.lines[-1]
    smallest = fuzzer.minimise(program, lambda other: kept in other.lines)
    assert kept in smallest.lines
    assert len(smallest.lines) < len(program.lines) / 2
    assert fuzzer.runs(smallest)
