"""Tensors of every kind: subclasses, sparse, quantised, shared with numpy, and the odd shapes."""

import numpy as np
import pytest
import torch
from tests import invariants, witness
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.masked import masked_tensor
from torch.nested import nested_tensor
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map_only

import opscope
from opscope.errors import NotSaved

pytestmark = [  # torch's own, of its prototypes
    pytest.mark.filterwarnings("ignore:.*prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR|invariant).*:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao|torch.quant.*|quantize_per_tensor.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

X = torch.arange(1.0, 13.0).view(3, 4) / 12


class Named(torch.Tensor):
    """A subclass that lets every function do what it does, and keeps its class."""


class Names(witness.Witness):
    """Writes down operators alone: not every tensor has a shape."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


class Weight(nn.Parameter):
    """A parameter of a class of its own."""


class Wrapping(torch.Tensor):
    """Wraps a tensor, and does not say so."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


def jagged():
    rows = nested_tensor([X[:1], X[1:]], layout=torch.jagged)
    return (rows * 2).sin()


def nested():
    return nested_tensor([X[:1], X[1:]]).mul(2).sin()


def quantised():
    q = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
    return q.reshape(4, 3).dequantize() + 1


def packed():
    rows = nn.utils.rnn.pack_sequence([X, X[:2]])
    return nn.utils.rnn.pad_packed_sequence(rows)[0].sin()


PROGRAMS = {
    "subclass": (lambda: X.as_subclass(Named).sin() * 2, "sin"),
    "parameter subclass": (lambda: nn.functional.linear(X, Weight(X.clone())), "mm"),
    "buffer": (lambda: nn.Buffer(X.clone()) + 1, "add"),
    "wrapper that can be taken apart": (lambda: TwoTensor(X, X + 1).sin() * 2, "sin"),
    "wrapper, written": (lambda: TwoTensor(X.clone(), X.clone()).mul_(2).view(-1)[1:], "mul_"),
    "jagged": (jagged, "sin"),
    "nested": (nested, "sin"),
    "packed": (packed, "sin"),
    "COO": (lambda: (X.to_sparse() * 2).coalesce().values() + 1, "mul"),
    "CSR": (lambda: X.to_sparse_csr() @ X.t(), "mm"),
    "BSR": (lambda: (X[:2].to_sparse_bsr((2, 2))).to_dense(), "_to_dense"),
    "oneDNN": (lambda: X.to_mkldnn().relu().to_dense(), "relu"),
    "quantised": (quantised, "dequantize"),
    "complex": (lambda: torch.fft.fft(X).conj().imag + 1, "add"),
    "bool": (lambda: (X > 0.5).logical_not().any(), "any"),
    "8 bit float": (lambda: X.to(torch.float8_e4m3fn).float() * 2, "mul"),
    "unsigned": (lambda: torch.ones(3, dtype=torch.uint16).to(torch.int32) + 1, "add"),
    "empty": (lambda: torch.zeros(0, 3).sum(0), "sum"),
    "0-dim": (lambda: torch.tensor(2.0) * 3, "mul"),
    "expanded": (lambda: torch.ones(1).expand(3, 4) * X, "mul"),
    "expanded to size 0": (lambda: torch.ones(1).expand(0) * 2, "mul"),
    "non-contiguous": (lambda: X.t()[::2].flip(0).exp(), "exp"),
    "overlapping": (lambda: X.view(-1).as_strided((3, 5), (1, 2)).exp(), "exp"),
    "from numpy": (lambda: torch.from_numpy(np.ones(3)) * 2, "mul"),
    "from DLPack": (lambda: torch.from_dlpack(np.ones(3)) * 2, "mul"),
    "from a buffer": (lambda: torch.frombuffer(bytearray(8), dtype=torch.float32) + 1, "add"),
    "several results": (lambda: torch.max(X, 0).values.sort()[0], "sort"),
}


def dense(value):
    """Return a comparable form of any kind of tensor."""
    if isinstance(value, TwoTensor):
        return [value.a, value.b]
    if isinstance(value, Wrapping):
        return [value.inner]
    if value.is_nested:
        return list(value.unbind())
    return [value.to_dense() if value.layout is not torch.strided else value]


def same(a, b):
    return type(a) is type(b) and all(map(torch.equal, dense(a), dense(b)))


@pytest.mark.parametrize(("program", "operator"), PROGRAMS.values(), ids=PROGRAMS)
def test_any_kind_of_tensor_is_recorded_saved_and_replayed(program, operator, layers):
    program()  # what is cached at a first run is not the trace's doing
    with Names() as seen:
        expected = program()
    with opscope.trace(layers=layers, save="all") as trace:
        found = program()
    assert same(found, expected)
    assert [op.operator for op in trace.ops] == seen.ops
    layer = next(layer for layer in trace if operator in {op.name for op in layer.ops})
    saved = layer.activation
    assert layer.shape is None or isinstance(layer.shape, tuple)
    assert isinstance(saved[0] if isinstance(saved, tuple) else saved, torch.Tensor)
    last = [layer for layer in trace if layer.ops][-1].activation
    last = last[0] if isinstance(last, tuple) else last
    assert all(map(torch.equal, dense(last), dense(expected)))
    assert str(trace)
    assert trace.to_dot()
    invariants.check(trace)

    with opscope.trace(layers=layers, replayable=True) as trace:
        program()
    report = trace.validate()
    assert report, report
    assert report.ops == len(trace.ops) > 0


def test_a_subclass_that_results_are_given_is_no_input(layers):
    """It turns up under the result, as an object that no operator returned."""
    x = X.as_subclass(Named)
    with opscope.trace(layers=layers) as trace:
        y = x.sin() * 2
    assert isinstance(y, Named)
    assert [layer.type for layer in trace if layer.type == "input"] == ["input"]
    sin, mul = (layer for layer in trace if layer.ops)
    assert [child.label for child in sin.children if child.ops] == [mul.label]


def test_a_saved_wrapper_is_a_wrapper_with_its_values_of_then(layers):
    with opscope.trace(layers=layers, save="all") as trace:
        x = TwoTensor(X.clone(), X + 1)
        y = x.sin()
        y.mul_(0)
        x.mul_(0)
    assert isinstance(trace["sin"].activation, TwoTensor)
    assert torch.equal(trace["sin"].activation.a, X.sin())
    assert torch.equal(trace["clone"].activation, X), "written through the wrapper"


def test_the_shape_of_a_jagged_tensor_is_that_of_all_its_rows(layers):
    with opscope.trace(layers=layers) as trace:
        jagged()
    assert trace["sin"].shape == (3, 4)


@pytest.mark.parametrize("wrap", [lambda: masked_tensor(X, X > 0.5), lambda: Wrapping(X)])
def test_a_tensor_that_cannot_be_taken_apart_is_recorded_and_not_compared(wrap, layers):
    expected = wrap() * 2
    with opscope.trace(layers=layers, replayable=True, save="all") as trace:
        y = wrap() * 2
    kind = type(expected)
    assert type(y) is type(trace["mul"].activation) is kind
    assert [op.name for op in trace.ops][-1] == "mul"
    assert f"gave a {kind.__name__}, which cannot be taken apart" in str(trace.validate())
    invariants.check(trace)


def test_a_distributed_tensor_is_recorded_as_the_program_has_it(layers):
    """The ops are those on DTensors; what each does with its local part is inside of it."""
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = distribute_tensor(X, mesh, [Shard(0)])
        with opscope.trace(layers=layers, replayable=True, save="all") as trace:
            y = (x * 2).sum()
        assert [op.name for op in trace.ops] == ["mul", "sum"]
        assert torch.equal(trace["mul"].activation.full_tensor(), X * 2)
        assert torch.equal(y.full_tensor(), (X * 2).sum())
        assert trace.validate(), trace.validate()
        invariants.check(trace)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("share", "write"),
    [
        (lambda x: x.numpy(), lambda a: a.fill(0)),
        (np.from_dlpack, lambda a: np.copyto(a, 0)),
    ],
    ids=["numpy", "DLPack"],
)
def test_a_write_through_numpy_is_not_seen(share, write):
    """No operator runs. A saved activation changes with it, unless a transform copies it."""
    with opscope.trace(save="all") as trace:
        array = share(X.sin())
        array = array if array.flags.writeable else pytest.skip("read only")
        write(array)
    assert trace.ops[0].name == "sin"
    assert not trace["sin"].activation.any()
    with opscope.trace(save=opscope.Save("all", transform=torch.clone)) as trace:
        write(share(X.sin()))
    assert torch.equal(trace["sin"].activation, X.sin())


def test_memory_of_numpy_outlives_the_array(layers):
    with opscope.trace(layers=layers, save="all") as trace:
        y = torch.from_numpy(np.full(1000, 3.0)).mul(2)
    assert torch.equal(trace["mul"].activation, y)


def test_an_activation_in_memory_that_was_given_back_is_refused(layers):
    with opscope.trace(layers=layers, save="all") as trace:
        x = TwoTensor(X.clone(), X.clone()).sin()
        x.a.untyped_storage().resize_(0)
    with pytest.raises(NotSaved, match="freed"):
        _ = trace["sin"].activation
