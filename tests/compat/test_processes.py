"""Other processes: they trace on their own, and what they do together is in the record."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tests import witness
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset

import opscope

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no fork, and no gloo here")


ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module", autouse=True)
def children_find_the_tests():
    """A spawned process imports this module by its name, from the path of this process."""
    sys.path.insert(0, ROOT)
    yield
    sys.path.remove(ROOT)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def traces_a_model(queue):
    torch.set_num_threads(1)
    with opscope.trace(model := network()) as trace:
        model(torch.ones(1, 2))
    queue.put(trace)


def runs_a_model(queue):
    torch.set_num_threads(1)
    queue.put(network()(torch.ones(1, 2)).item())


def in_a_process(way, function):
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    process = context.Process(target=function, args=(queue,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork, where there are threads
        process.start()
    result = queue.get(timeout=120)
    process.join(timeout=60)
    assert process.exitcode == 0
    return result


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_process_traces_and_hands_its_trace_back(way):
    model = network()
    with opscope.trace(model) as expected:
        model(torch.ones(1, 2))
    found = in_a_process(way, traces_a_model)
    assert found.layer_labels == expected.layer_labels
    assert witness.recorded(found) == witness.recorded(expected)


@pytest.mark.parametrize("function", [traces_a_model, runs_a_model])
def test_a_process_that_is_forked_inside_a_trace_is_not_in_it(function, layers):
    x = torch.ones(2)
    with opscope.trace(layers=layers) as trace:
        x.sin()
        in_a_process("fork", function)
        x.cos()
    assert [op.name for op in trace.ops] == ["sin", "cos"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_data_loader_are_the_same_and_its_workers_unseen(workers, layers):
    def total(around):
        torch.manual_seed(0)
        model, data = network(), TensorDataset(torch.arange(12.0).reshape(6, 2))
        loader = DataLoader(
            data, 2, shuffle=True, num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        with torch.no_grad(), around as trace:
            return sum(model(x).sum().item() for (x,) in loader), trace

    plain, _ = total(torch.no_grad())
    found, trace = total(opscope.trace(layers=layers))
    assert found == plain
    stacked = [op for op in trace.ops if op.name == "stack"]
    assert len(stacked) == (0 if workers else 3)
    assert len([call for call in trace.recording.module_calls if call.is_root]) == 3


# ------------------------------------------------------------------- two of them together


def two_processes(rank, port, queue):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = {name: program(rank, opscope.trace) for name, program in PROGRAMS.items()}
    plain = {name: program(rank, Plainly) for name, program in PROGRAMS.items()}
    ranks = [None, None]
    distributed.all_gather_object(ranks, [steps_of_ranks(rank), steps_of_ranks(0)])
    if rank == 0:
        queue.put({name: (*found[name], plain[name][0]) for name in found} | {"ranks": ranks})
    distributed.barrier()
    distributed.destroy_process_group()


class Plainly:
    """Stands where a trace would."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def collectives(rank, around):
    x = torch.full((2,), float(rank + 1))
    with around() as trace:
        distributed.all_reduce(x)
        both = [torch.empty(2), torch.empty(2)]
        distributed.all_gather(both, x)
        y = both[1] + 1
        distributed.broadcast(y, 1)
        z = y * 2
    return z.tolist(), trace


def functional(rank, around):
    from torch.distributed._functional_collectives import all_reduce

    with around() as trace:
        y = all_reduce(torch.full((2,), float(rank)), "sum", distributed.group.WORLD) + 1
    return y.tolist(), trace


def distributed_data_parallel(rank, around):
    model = nn.parallel.DistributedDataParallel(network())
    with around(model) as trace:
        model(torch.full((1, 2), rank + 1.0)).sum().backward()
    return [p.grad.tolist() for p in model.parameters()], trace


def steps_of_ranks(data):
    model, x = nn.parallel.DistributedDataParallel(network()), torch.full((1, 2), data + 1.0)
    with opscope.trace(model, digests=True) as trace:
        model(x).sum().backward()
    return trace


def fully_sharded(rank, around):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = network(), init_device_mesh("cpu", (2,))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    with around(model, save="all") as trace:
        model(torch.full((1, 2), rank + 1.0)).sum().backward()
    return [p.grad.full_tensor().tolist() for p in model.parameters()], trace


PROGRAMS = {
    "collectives": collectives,
    "functional": functional,
    "ddp": distributed_data_parallel,
    "fsdp": fully_sharded,
}


@pytest.fixture(scope="module")
def together():
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=two_processes, args=(rank, port, queue)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = queue.get(timeout=240)
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_processes_compute_together_is_what_they_do_untraced(together, name):
    traced, _, plain = together[name]
    assert traced == plain


def of(together, name):
    return together[name][1]


def test_collectives_are_ops_with_their_group(together):
    trace = of(together, "collectives")
    ran = [op for op in trace.ops if op.operator.startswith("c10d.")]
    assert [op.name for op in ran] == ["allreduce_", "allgather_", "broadcast_"]
    for op in ran:
        assert dict(op.arguments)["process_group"] == "ProcessGroup('0', ranks=[0, 1])"


def test_what_a_collective_writes_is_read_from_it(together):
    trace = of(together, "collectives")
    by_name = {op.name: f"op_{op.index}" for op in trace.ops}
    graph = trace.graph()
    assert list(graph.predecessors(by_name["add"])) == [by_name["allgather_"]]
    assert by_name["add"] in graph.predecessors(by_name["broadcast_"])
    assert list(graph.predecessors(by_name["mul"])) == [by_name["broadcast_"]]
    assert by_name["allreduce_"] in graph.predecessors(by_name["allgather_"])


def test_functional_collectives_are_ops_too(together):
    ran = of(together, "functional").ops
    reduced = next(op for op in ran if op.operator == "_c10d_functional.all_reduce.default")
    assert dict(reduced.arguments) == {"reduce_op": "sum", "group_name": "0"}
    assert ran[-1].name == "add"


def test_the_gradients_of_ddp_are_reduced_in_the_backward_pass(together):
    trace = of(together, "ddp")
    (reduced,) = [op for op in trace.ops if op.operator.startswith("c10d.")]
    assert reduced.name == "allreduce_"
    assert reduced.phase == "backward"
    assert [call[0] for call in witness.recorded_calls(trace)][:3] == ["", "module", "module.0"]


def test_fsdp_gathers_before_each_part_and_scatters_behind_it(together):
    trace = of(together, "fsdp")
    ran = [(op.phase == "backward", op.name) for op in trace.ops if op.operator.startswith("c10d.")]
    assert ran[:2] == [(False, "_allgather_base_")] * 2
    assert ran.count((True, "_reduce_scatter_base_")) == 2
    assert [module.address for module in trace.modules] == ["", "0", "1", "2"]
    assert [parameter.shape for parameter in trace.parameters][:2] == [(3, 2), (3,)]


def test_a_collective_is_not_replayed():
    """It would wait for processes that are not there."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with opscope.trace(replayable=True) as trace:
            distributed.all_reduce(torch.ones(2))
    finally:
        distributed.destroy_process_group()
    pickle.dumps(trace)  # it has the group in words
    report = trace.validate()
    assert not report
    assert "is a collective, which other processes take part in" in str(report)


def test_a_step_of_two_ranks_differs_first_in_what_they_were_given(together):
    (one, same), (two, again) = together["ranks"]

    comparison = opscope.compare(one, two)
    assert comparison.first.what == "the input differs"
    assert not any(row.kind == "parameter" for row in comparison.rows)
    assert opscope.compare(same, again).same
    assert opscope.fingerprint(one, "op") == opscope.fingerprint(two, "op")


def test_what_a_collective_gives_has_no_digest_as_it_may_not_be_there_yet(together):
    (trace, _), _ = together["ranks"]
    (reduced,) = [op for op in trace.ops if op.operator.startswith("c10d.")]
    assert reduced.writes
    assert not set(reduced.writes) & set(trace.recording.digests)
