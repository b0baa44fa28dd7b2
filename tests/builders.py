"""Recordings written by hand: plain data, no torch."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property

from opscope.graph.build import op_graph
from opscope.records.calls import Frame, LayerCall, Leaf, ModuleCall
from opscope.records.ops import Op, Read
from opscope.records.passes.layers import layer_passes
from opscope.records.recording import Failure, Module, Parameter, Recording
from opscope.records.sums.totals import totals
from opscope.records.values import Value
from opscope.views.quotients.levels import at_level

HOSTILE_NAMES = {
    "quotes": "say \"hi\" 'there'",
    "angle": "a<b>c",
    "ampersand": "x&y&lt;z",
    "colon": "a:1",
    "space": "two  words",
    "newline": "two\nlines",
    "backslash": "C:\\New\\Graph",
    "braces": "{a|b}[c]",
    "bracket": "]",
    "end of data": "]]>x",
    "arrow": "a->b",
    "semicolon": "a;b,c=d",
    "comment": "/* a */ // b #c",
    "emoji": "🔥fire",
    "cjk": "卷积层",
    "rtl": "שלום",
    "markup": "[bold]x[/bold]",
    "shortcode": ":smile:",
}
"""Names that a module may have, and that mean something to an output's syntax."""


class Sketch:
    """Writes a recording down, call by call; what is not said is filled in.

    Values are known by their index. Modules are ``with`` blocks, and give what was made
    last inside them.
    """

    def __init__(self, model_name="Net"):
        self.model_name = model_name
        self.values, self.ops, self.calls = [], [], []
        self.modules, self.parameters, self.call_sites = {}, [], []
        self.runs = []
        self.failure = None
        self._open = []
        self._named_sites = {}
        self._storages = 0
        self._bound = {}

    def value(self, shape=(2, 3), **fields):
        fields.setdefault("storage", self._new_storage())
        stride = tuple(_product(shape[i + 1 :]) for i in range(len(shape)))
        self.values.append(Value(len(self.values), tuple(shape), stride, **fields))
        return len(self.values) - 1

    def outside(self, *shape):
        return self.value(shape or (2, 3), origin="outside")

    def parameter(self, name, *shape, kind="parameter", read=True, **fields):
        number = len(self.parameters)
        value = self.value(shape, origin="outside") if read else None
        fields.setdefault("trainable", kind == "parameter")
        self.parameters.append(
            Parameter(number, name, kind=kind, shape=shape, value=value, **fields)
        )
        if read:
            self._bound[value] = number
        return value

    @contextmanager
    def module(self, address, class_name="Block", *given):
        known = self.modules.setdefault(
            address, Module(len(self.modules), address, class_name or "Block")
        )
        number = 1 + sum(run["module"] == known.index for run in self.runs)
        run = {
            "index": len(self.runs), "module": known.index, "number": number,
            "parent": self._open[-1] if self._open else None, "is_root": not address,
            "inputs": tuple(Leaf("", value) for value in given),
        }  # fmt: skip
        self.runs.append(run)
        self._open.append(run["index"])
        first_op, first_call, known_values = len(self.ops), len(self.calls), len(self.values)
        yield
        made = len(self.values) > known_values and self.failure is None
        run |= {
            "ops": range(first_op, len(self.ops)),
            "layer_calls": range(first_call, len(self.calls)),
            "outputs": (Leaf("", len(self.values) - 1),) if made else (),
            "failed": self.failure is not None,
            "duration_ns": sum(op.duration_ns for op in self.ops[first_op:]),
        }
        self._open.pop()

    def call(self, function, *given, ops=1, makes="fresh", shape=None, call_site=None, **fields):
        """Add a torch function with a chain of so many ops; return the value it gives."""
        site = self._site(call_site)
        start, value = len(self.ops), None
        shape = shape or (self.values[given[0]].shape if given else (2, 3))
        for step in range(ops):
            reads = given if step == 0 else (value,)
            value = self._op(function, reads, makes, shape, len(self.calls), site)
        fields.setdefault("returned", () if value is None else (value,))
        self.calls.append(
            LayerCall(
                len(self.calls), function, module_call=self._inner(), call_site=site,
                ops=range(start, len(self.ops)), duration_ns=1000 * ops,
                received=() if ops else given, **fields,
            )
        )  # fmt: skip
        return value

    def pass_through(self, kind, value, path=""):
        """Add an input, an output or a module that returned its input."""
        old = self.values[value]
        new = self.value(old.shape, origin="passed_through", earlier=value, made_by=old.made_by,
                         storage=old.storage)  # fmt: skip
        self.call(kind, value, ops=0, kind=kind, path=path, returned=(new,))
        return new

    def backward(self, name, *given, forward=None, accumulates=None):
        """Add an op of the autograd engine, for a forward op or a parameter's gradient."""
        value = self._op(name, given, "fresh", (2, 3), None, None)
        self.ops[-1] = _replace(
            self.ops[-1], phase="backward", forward_op=forward, accumulates=accumulates,
            module_call=None if forward is None else self.ops[forward].module_call,
        )  # fmt: skip
        return value

    def fail(self, function, *given, message="shapes do not match\nsecond line"):
        """Add a function whose last op raises."""
        self.call(function, *given)
        op, call = self.ops[-1], self.calls[-1]
        self.values.pop()
        self.ops[-1] = _replace(op, failed=True, outputs=(), writes=())
        self.calls[-1] = _replace(call, failed=True, returned=())
        frame = self.call_sites[call.call_site][0]
        self.failure = Failure(
            "RuntimeError", message, op.index, call.index, call.module_call, frame
        )

    def build(self):
        return Recording(
            model_name=self.model_name,
            ops=tuple(self.ops),
            values=tuple(self.values),
            layer_calls=tuple(self.calls),
            module_calls=tuple(ModuleCall(**run) for run in self.runs),
            modules=tuple(self.modules.values()),
            parameters=tuple(self.parameters),
            call_sites=tuple(self.call_sites),
            duration_ns=1000 * len(self.ops),
            seed=7,
            failure=self.failure,
            parameter_of_value=self._bound,
        )

    def _op(self, name, reads, makes, shape, call, place):
        index = len(self.ops)
        storage = self.values[reads[0]].storage if makes != "fresh" else self._new_storage()
        value = self.value(shape, storage=storage, origin=makes, made_by=index)
        names = ("self", "other", *(f"tensors[{i}]" for i in range(len(reads))))
        self.ops.append(
            Op(
                index, f"aten.{name}.default", tuple(map(Read, reads, names)), (value,),
                writes=(value,) if makes == "write" else (), layer_call=call,
                module_call=self._inner(), call_site=place, started_ns=1000 * index, duration_ns=1000,
            )
        )  # fmt: skip
        return value

    def _site(self, name):
        if name is None or name not in self._named_sites:
            self._named_sites[name] = len(self.call_sites)
            self.call_sites.append((Frame("net.py", 10 + len(self.call_sites), "forward"),))
        return self._named_sites[name]

    def _inner(self):
        return self._open[-1] if self._open else None

    def _new_storage(self):
        self._storages += 1
        return self._storages


def _product(sizes):
    result = 1
    for size in sizes:
        result *= size
    return result


def _replace(record, **fields):
    from dataclasses import replace

    return replace(record, **fields)


class Exhibit:
    """A recording with all that is worked out of it, for the rooms that take these."""

    def __init__(self, recording):
        self.recording = recording

    @cached_property
    def passes(self):
        return layer_passes(self.recording)

    @cached_property
    def ops(self):
        return op_graph(self.recording, self.passes)

    @cached_property
    def layers(self):
        return at_level(self.ops, "layer")

    @cached_property
    def totals(self):
        return totals(self.recording, self.passes)

    @property
    def labels(self):
        return [item.label for item in self.passes]


def empty():
    return Recording()


def one_op():
    """One function of a bare program."""
    sketch = Sketch("")
    sketch.call("relu", sketch.outside())
    return sketch.build()


def chain(length=3):
    sketch = Sketch("Chain")
    x = sketch.outside()
    with sketch.module("", "Chain", x):
        for _ in range(length):
            x = sketch.call("relu", x)
    return sketch.build()


def branch():
    """One value that two layers read, and whose results are added."""
    sketch = Sketch("Branch")
    x = sketch.pass_through("input", sketch.outside())
    with sketch.module("", "Branch", x):
        x = sketch.call("relu", x)
        left, right = sketch.call("sin", x), sketch.call("cos", x)
        y = sketch.call("add", left, right)
    sketch.pass_through("output", y)
    return sketch.build()


def nested():
    """Two blocks of a linear and an activation each, then a head."""
    sketch = Sketch("Nested")
    x = sketch.pass_through("input", sketch.outside(2, 3))
    with sketch.module("", "Nested", x):
        for block in ("blocks.0", "blocks.1"):
            with sketch.module(block, "Block", x):
                x = _linear(sketch, f"{block}.fc", x)
                with sketch.module(f"{block}.act", "ReLU", x):
                    x = sketch.call("relu", x)
                x = sketch.call("add", x, x)
        x = _linear(sketch, "head", x)
    sketch.parameter("head.mean", 3, kind="buffer", read=False)
    sketch.pass_through("output", x)
    return sketch.build()


def _linear(sketch, address, x):
    weight = sketch.parameter(f"{address}.weight", 3, 3)
    bias = sketch.parameter(f"{address}.bias", 3, trainable=False)
    with sketch.module(address, "Linear", x):
        return sketch.call("linear", x, weight, bias, ops=2)


def in_place():
    """A view is taken, the base is written, and the view is read."""
    sketch = Sketch("InPlace")
    x = sketch.call("zeros")
    view = sketch.call("view", x, makes="view", shape=(3, 2))
    sketch.call("add_", x, makes="write")
    sketch.call("relu", view)
    return sketch.build()


def recurrent(passes=3):
    """A linear and an addition, so many times over, and a ReLU after."""
    sketch = Sketch("Recurrent")
    x = sketch.pass_through("input", sketch.outside(2, 3))
    weight = sketch.parameter("fc.weight", 3, 3)
    with sketch.module("", "Recurrent", x):
        for _ in range(passes):
            with sketch.module("fc", "Linear", x):
                x = sketch.call("linear", x, weight, ops=2)
            x = sketch.call("add", x, call_site="after fc")
        x = sketch.call("relu", x)
    sketch.pass_through("output", x)
    return sketch.build()


def hostile():
    """A module, with a parameter and a block around two layers, for each hostile name."""
    sketch = Sketch('<b>&"Net"\n[red]')
    x = sketch.pass_through("input", sketch.outside(2, 3), path="a<b>&c")
    with sketch.module("", sketch.model_name, x):
        for name in HOSTILE_NAMES.values():
            weight = sketch.parameter(f"{name}.weight", 3, 3)
            with sketch.module(name, f"Class {name}", x):
                x = sketch.call("linear", x, weight)
                x = sketch.call("relu", x)
    sketch.pass_through("output", x)
    return sketch.build()


def failed():
    sketch = Sketch("Failed")
    x = sketch.pass_through("input", sketch.outside(2, 3))
    with sketch.module("", "Failed", x):
        x = sketch.call("relu", x)
        with sketch.module("fc", "Linear", x):
            sketch.fail("linear", x)
    return sketch.build()


RECORDINGS = {
    "empty": empty,
    "one op": one_op,
    "nested": nested,
    "in-place": in_place,
    "recurrent": recurrent,
    "hostile names": hostile,
    "failed": failed,
}
