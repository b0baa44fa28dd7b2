"""Memory is noted from its allocation to the moment when nobody has it, as the allocator does."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from tests import zoo
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import opscope
from opscope.errors import NotSaved

KIB = 1024


def traced(program, model=None, **options):
    with opscope.trace(model, memory=True, **options) as trace:
        program()
    return trace


def lives(trace):
    """What each op's memory was, by operator: size, and after how many ops it was freed."""
    return [
        (trace.ops[life.born].name, life.nbytes, life.freed)
        for life in trace.recording.storages
        if life.born is not None
    ]


def test_memory_is_there_until_its_last_tensor_goes():
    def program():
        a = torch.ones(256)
        b = a.view(16, 16)
        del a
        c = b + 1
        del b
        c.mul_(2)
        d = c.t()
        del c
        assert d.shape == (16, 16)

    # ones, view, add, mul_, t
    assert lives(traced(program)) == [("ones", KIB, 3), ("add", KIB, 5)]


def test_what_stays_after_the_block_was_not_freed():
    kept = []
    trace = traced(lambda: kept.append(torch.ones(256) + 1))

    assert lives(trace) == [("ones", KIB, 2), ("add", KIB, None)]
    assert trace.memory.live[-1] == 2 * KIB  # as `add` ends, both are there
    kept.clear()
    assert lives(trace) == [("ones", KIB, 2), ("add", KIB, None)]


def test_what_was_there_before_is_seen_as_it_is_used_and_as_it_goes():
    before = [torch.ones(512)]

    def program():
        torch.relu(before[0])
        before.clear()
        torch.ones(1)

    trace = traced(program)
    first = trace.recording.storages[0]
    assert (first.nbytes, first.born, first.freed) == (2 * KIB, None, 1)
    assert trace.memory.before == 2 * KIB
    assert list(trace.memory.live) == [4 * KIB, 4]


def test_parameters_that_are_not_used_are_there_too_and_a_shared_one_once():
    model = nn.ModuleDict({"used": nn.Linear(16, 16), "not": nn.Linear(16, 16, bias=False)})
    model["again"] = model["not"]
    model.register_buffer("table", torch.ones(64))
    trace = traced(lambda: model["used"](torch.ones(1, 16)), model)

    assert trace.memory.by_category()["parameters"] == 16 * 33 * 4
    whole = nn.Sequential(model["used"])
    whole.unused, whole.again = model["not"], model["not"]
    trace = traced(lambda: whole(torch.ones(1, 16)), whole)
    assert trace.memory.by_category()["parameters"] == 16 * 33 * 4
    assert sum(one.name.startswith("unused") for one in trace.memory.held()) == 1


def test_a_checkpoint_keeps_less_and_makes_it_again():
    blocks = [(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 64)) for _ in range(4)]
    model = nn.Sequential(*(nn.Sequential(*block) for block in blocks))
    x = torch.ones(512, 64)

    def plainly():
        model(x).sum().backward()

    def again():
        y = x
        for block in model:
            y = checkpoint(block, y, use_reentrant=False)
        y.sum().backward()

    full, less = (traced(program, model).memory for program in (plainly, again))
    assert less.peak < full.peak
    assert less.by_phase()["forward"] < full.by_phase()["forward"]


def allocated(program):
    """What the profiler says was allocated at most, more than before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        program()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class Step:
    """A step of training, from a state that is put back before each."""

    def __init__(self, program, *, optimizes):
        self.program, self.model = program, program.module
        self.optimizer = torch.optim.AdamW(self.model.parameters()) if optimizes else None

    def clean(self):
        self.model.zero_grad()
        if self.optimizer is not None:
            self.optimizer.state.clear()

    def __call__(self):
        found = self.program.run()
        tensors = found if isinstance(found, (tuple, list)) else [found]
        if isinstance(found, dict):
            tensors = list(found.values())
        loss = sum(t.sum() for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad)
        if isinstance(loss, torch.Tensor):
            loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()


@pytest.mark.filterwarnings("ignore")  # the profiler's own, once a process
@pytest.mark.parametrize(
    ("name", "optimizes"),
    [
        ("gpt2", False), ("gpt2", True), ("encoder", False), ("encoder", True),
        ("recurrent", False), ("recurrent", True),
        ("vit", True),  # whose peak in backward is inside of a convolution's, which is not seen
    ],
)  # fmt: skip
def test_the_peak_is_that_of_the_allocator(name, optimizes):
    program = zoo.build(name, training=False)
    step = Step(program, optimizes=optimizes)
    step()  # what is made once, such as caches of positions
    step.clean()
    expected = allocated(step)
    step.clean()
    trace = traced(step, program.module)
    memory = trace.memory

    assert memory.peak - memory.before == pytest.approx(expected, rel=0.02, abs=2 * KIB)


def test_on_meta_it_is_what_it_is_for_real():
    peaks = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model, x = (
                nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8)),
                torch.ones(32, 64),
            )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(model=model, x=x, optimizer=optimizer):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()

        memory = traced(lambda step=step: (step(), step()), model).memory
        assert memory.device == device
        peaks.append((memory.peak, memory.by_category()))
    assert peaks[0] == peaks[1]


def test_entered_again_it_goes_on():
    kept = []
    with opscope.trace(memory=True) as trace:
        kept += [torch.ones(256), torch.ones(512)]
    kept.pop()
    with trace:
        torch.relu(kept[0])
        kept.clear()
        torch.ones(1)

    assert [(name, size) for name, size, _ in lives(trace)] == [
        ("ones", KIB), ("ones", 2 * KIB), ("relu", KIB), ("ones", 4),
    ]  # fmt: skip
    assert list(trace.memory.live) == [KIB, 3 * KIB, 2 * KIB, 4]


def test_a_copy_has_it_too_and_without_the_option_it_is_refused():
    trace = traced(lambda: torch.ones(256) + 1)
    copy = pickle.loads(pickle.dumps(trace))

    assert copy.memory.peak == trace.memory.peak == 2 * KIB
    assert str(copy.memory) == str(trace.memory)
    with opscope.trace() as other:
        torch.ones(1)
    with pytest.raises(NotSaved, match="memory=True"):
        _ = other.memory


def test_watching_keeps_nothing_alive_and_leaves_nothing_behind():
    x = torch.ones(256)
    storage = x.untyped_storage()
    count = weakref.getweakrefcount(storage)
    trace = traced(lambda: torch.relu(x))
    assert weakref.getweakrefcount(storage) <= count + 1  # the trace's own reference
    del trace
    gc.collect()
    assert weakref.getweakrefcount(storage) == count


def test_sparse_tensors_and_symbols_do_no_harm():
    def program():
        torch.eye(3).to_sparse() @ torch.ones(3, 3)
        torch.vmap(torch.sin)(torch.ones(4))

    assert traced(program).memory.peak > 0


def test_a_storage_that_an_op_was_given_is_not_kept():
    ends = []

    def program():
        for _ in range(3):
            made = copy.deepcopy(torch.ones(256))
            ends.append(weakref.ref(made.untyped_storage()))
            del made

    for options in ({}, {"memory": True}):
        ends.clear()
        with opscope.trace(**options) as trace:
            program()
        gc.collect()
        assert [end() for end in ends] == [None] * 3
        assert len(trace.ops) > 3


def test_data_that_is_made_on_the_way_is_not_there_before():
    data = [1.0] * 1024
    trace = traced(lambda: [torch.tensor(data).sum() for _ in range(5)])

    assert trace.memory.before == 0
    assert trace.memory.peak < 3 * 4 * KIB


def test_memory_that_gets_another_size_counts_as_it_is():
    def program():
        grown = torch.empty(0)
        grown.resize_(1024)
        torch.ones(1)
        given = torch.mul(torch.ones(1024), 2, out=torch.empty(0))
        torch.ones(1)
        assert given.shape == (1024,)

    live = traced(program).memory.live
    assert max(live) >= 3 * 4 * KIB
    assert live[1] == 4 * KIB


def test_what_the_model_holds_counts_whatever_becomes_of_it_later():
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    model(torch.ones(1, 64)).sum().backward()
    trace = traced(lambda: torch.ones(1), model)
    model.double()
    del model
    gc.collect()

    assert trace.memory.before == 2 * 64 * 64 * 4
    assert trace.memory.by_category(0) == {
        "parameters": 64 * 64 * 4, "gradients": 64 * 64 * 4, "temporaries": 4,
    }  # fmt: skip
    assert {one.name for one in trace.memory.held(0)} >= {"0.weight", "0.weight.grad"}


def test_a_wrapper_has_its_memory_in_what_it_wraps():
    def program():
        a = torch.ones(256)
        nested = torch.nested.nested_tensor([a, a], layout=torch.jagged)
        torch.ones(1)
        assert nested.is_nested

    assert traced(program).memory.peak <= 4 * KIB
