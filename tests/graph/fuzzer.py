"""Random torch programs, as lines of Python that can be printed, replayed and cut down.

A program is data: its lines are what runs, so what is printed is what failed. The same
seed always gives the same program.

What a line computes does not matter, only what memory it reads and writes; shapes never
depend on values, so an oracle may put other values in place of the real ones as long as
two conventions hold: tensors of int64 are indices and hold 0 and 1 only, and a dimension
that is indexed has at least two elements.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import CodeType
from typing import Any

import torch

_MODES = {"": "", "no_grad": "with torch.no_grad(): ", "inference": "with torch.inference_mode(): "}
_FLOATS = (torch.float32, torch.float64)
_INDEX = torch.int64
_ERRORS = (
    RuntimeError, NameError, IndexError, TypeError, ValueError, AttributeError, UserWarning,
)  # fmt: skip
_MANY = 14  # live variables, above which a program must free one


@dataclass(frozen=True)
class Program:
    """Lines that make the inputs, and lines that are watched."""

    inputs: tuple[str, ...]
    lines: tuple[str, ...]
    seed: int | None = None

    def run(self, watch: AbstractContextManager[Any]) -> None:
        """Run the lines inside a context, on inputs made before it."""
        namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        exec(self._codes[0], namespace)
        with watch:
            exec(self._codes[1], namespace)

    @cached_property
    def _codes(self) -> tuple[CodeType, CodeType]:
        inputs = compile("\n".join(self.inputs), "<inputs>", "exec")
        return inputs, compile("\n".join(self.lines), "<program>", "exec")

    def __str__(self) -> str:
        head = [] if self.seed is None else [f"# seed {self.seed}"]
        body = [f"    {line}" for line in self.lines]
        return "\n".join([*head, *self.inputs, "with opscope.trace() as trace:", *body])


def generate(seed: int, steps: int | None = None) -> Program:
    """Return the program of a seed, of 20 to 40 steps."""
    writer = _Writer(seed)
    with _strict_warnings():
        for _ in range(steps or writer.random.randint(20, 40)):
            writer.step()
    return Program(tuple(writer.inputs), tuple(writer.lines), seed)


def minimise(program: Program, fails: Callable[[Program], bool], budget: int = 400) -> Program:
    """Return a program that still fails and has as few lines as can be had by dropping some."""
    size = len(program.lines) // 2
    while size:
        start = len(program.lines)
        while start > 0 and budget > 0:
            start -= size
            kept = (*program.lines[: max(start, 0)], *program.lines[start + size :])
            smaller = runnable(replace(program, lines=kept))
            budget -= 1
            if len(smaller.lines) < len(program.lines) and fails(smaller):
                program = smaller
        size //= 2
    for line in reversed(program.inputs):
        inputs = tuple(kept for kept in program.inputs if kept != line)
        smaller = replace(program, inputs=inputs)
        if runs(smaller) and fails(smaller):
            program = smaller
    return program


def runs(program: Program) -> bool:
    """Whether the inputs can be made and no line raises."""
    try:
        return len(runnable(program).lines) == len(program.lines)
    except NameError:
        return False


def runnable(program: Program) -> Program:
    """Return the program without the lines that raise, once others were dropped."""
    namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    kept = []
    with _strict_warnings():
        exec("\n".join(program.inputs), namespace)
        for line in program.lines:
            try:
                exec(line, namespace)
            except _ERRORS:
                continue
            kept.append(line)
    shorter = replace(program, lines=tuple(kept))
    # A line that raised may have got halfway.
    return shorter if len(kept) == len(program.lines) else runnable(shorter)


@contextmanager
def _strict_warnings() -> Iterator[None]:
    """Have every warning raise each time, also those that torch gives only once."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        torch.set_warn_always(before)


def _holds_anything(tensor: torch.Tensor) -> bool:
    """Whether what happens to be in memory will do as its elements."""
    return tensor.dtype not in (_INDEX, torch.bool)


class _Unsuitable(Exception):
    """No variable fits the step that was drawn."""


class _Writer:
    """Writes a program line by line, running each to know what shapes there are."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.inputs = [
            "x0 = torch.linspace(-1, 1, 12).reshape(3, 4)",
            "x1 = torch.linspace(-2, 3, 8)",
            "x2 = x1.reshape(2, 4)[:, 1:3]",
            "x3 = torch.linspace(0, 1, 24, dtype=torch.float64).reshape(2, 3, 4)",
            f"x4 = torch.linspace(1, 2, 12).reshape(4, 3){self.random.choice(['', '.requires_grad_()'])}",
            "i0 = torch.tensor([0, 1, 1])",
        ]
        self.mode = ""
        self.made = 0
        self.namespace: dict[str, Any] = {}
        self.replay()

    def replay(self) -> None:
        """Bring the variables to where they are after the lines so far."""
        self.namespace = {"torch": torch, "F": torch.nn.functional}
        for line in (*self.inputs, *self.lines):
            exec(line, self.namespace)

    def step(self) -> None:
        """Add a line that runs without an error or a warning."""
        if self.random.random() < 0.12:
            self.mode = self.random.choice(["", "", "no_grad", "inference"])
        while True:
            make = self.random.choices(_STEPS, _WEIGHTS)[0]
            if len(self.variables()) > _MANY:
                make = _Writer.free
            try:
                line = _MODES[self.mode] + make(self)
            except (_Unsuitable, RuntimeError, IndexError, TypeError):
                continue  # an expression of variables that fits nothing
            try:
                exec(compile(line, "<line>", "exec"), self.namespace)
            except _ERRORS:
                self.replay()
                continue
            self.lines.append(line)
            return

    # ------------------------------------------------------------------ what there is

    def variables(self) -> list[str]:
        return [n for n, v in self.namespace.items() if isinstance(v, torch.Tensor)]

    def pick(self, fits: Callable[[torch.Tensor], bool] = lambda _: True) -> str:
        """Return a variable, a recent one more often than an old one."""
        names = [n for n in self.variables() if fits(self.namespace[n])]
        if not names:
            raise _Unsuitable
        return self.random.choices(names, range(2, len(names) + 2))[0]

    def value(self, expression: str) -> torch.Tensor:
        with torch.no_grad():
            return eval(expression, self.namespace)

    def new(self) -> str:
        """Return a name to assign to; sometimes one in use, whose tensor is freed thereby."""
        if self.random.random() < 0.12:
            return self.pick()
        self.made += 1
        return f"v{self.made - 1}"

    def number(self) -> str:
        return str(self.random.choice([-1.5, -0.5, 0.25, 0.5, 1.25, 2.0, 3.0]))

    def shape(self) -> tuple[int, ...]:
        dims = self.random.choice([0, 1, 1, 2, 2, 2, 3, 4])
        return tuple(self.random.choice([1, 2, 2, 3, 4] + [0] * (dims == 2)) for _ in range(dims))

    def dim(self, tensor: torch.Tensor, least: int = 0) -> int:
        dims = [d for d, size in enumerate(tensor.shape) if size >= least]
        if not dims:
            raise _Unsuitable
        return self.random.choice(dims)

    def spot(self, fits: Callable[[torch.Tensor], bool] = lambda _: True) -> str:
        """Return a variable or an expression for a view of one."""
        name = self.pick(fits)
        tensor = self.namespace[name]
        for _ in range(self.random.choice([0, 0, 1, 1, 2])):
            name, tensor = self.deeper(name, tensor)
        return name

    def deeper(self, name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        if not tensor.dim():
            return f"{name}.data", tensor
        d = self.dim(tensor)
        size = tensor.shape[d]
        at = self.random.randrange(max(size, 1))
        commas = ":, " * d
        choices = [
            f"{name}[{commas}{at}:]",
            f"{name}[{commas}:{at + 1}]",
            f"{name}[{commas}::2]",
            f"{name}[{commas}1::2]",
            f"{name}.narrow({d}, {at}, {self.random.randint(0, size - at) if size else 0})",
            f"{name}.transpose({d}, {self.dim(tensor)})",
            f"{name}.data",
        ]
        if size:
            choices += [f"{name}[{commas}{at}]", f"{name}.select({d}, {at - size})"]
        if tensor.dim() > 1:
            choices += [f"{name}.diagonal(0, 0, 1)", f"{name}.mT"]
        chosen = self.random.choice(choices)
        return chosen, self.value(chosen)

    def operand(self, shape: torch.Size, dtypes: tuple[torch.dtype, ...] = _FLOATS) -> str:
        """Return something that broadcasts to a shape."""

        def fits(tensor: torch.Tensor) -> bool:
            if tensor.dtype not in dtypes:
                return False
            try:
                return torch.broadcast_shapes(tensor.shape, shape) == shape
            except RuntimeError:
                return False

        if self.random.random() < 0.2:
            return f"torch.ones({tuple(shape)})"
        return self.pick(fits)

    def operand_or_number(self, shape: torch.Size) -> str:
        return self.number() if self.random.random() < 0.4 else self.operand(shape)

    # ------------------------------------------------------------------ new memory

    def create(self) -> str:
        shape, number = self.shape(), self.number()
        return f"{self.new()} = " + self.random.choice([
            f"torch.ones({shape})",
            f"torch.zeros({shape}, dtype=torch.float64)",
            f"torch.full({shape}, {number})",
            f"torch.linspace(-1, 1, 12).reshape(3, 4) * {number}",
            f"torch.empty({shape})",
            f"torch.empty_like({self.pick(_holds_anything)})",
            f"torch.zeros_like({self.pick()})",
            f"{self.pick()}.new_ones({shape})",
            f"torch.tensor([{number}, 1.0])",
            "torch.zeros(5, dtype=torch.int32)",
            "torch.ones((2, 3), dtype=torch.int16)",
        ])  # fmt: skip

    def free(self) -> str:
        return f"del {self.random.choice(self.variables())}"

    def recreate(self) -> str:
        """Free a tensor and make another: its id, and its storage's, are most likely reused."""
        name = self.pick()
        shape = tuple(self.namespace[name].shape)
        other = self.random.choice([
            f"torch.ones({shape})", f"torch.full({shape}, 0.5)", "x0 * 2" if "x0" in self.namespace else "torch.ones(2)",
        ])  # fmt: skip
        return f"{name} = None; {name} = {other}"

    # ------------------------------------------------------------------ views

    def view(self) -> str:
        name = self.pick()
        tensor = self.namespace[name]
        d, e = (self.dim(tensor), self.dim(tensor)) if tensor.dim() else (0, 0)
        order = list(range(tensor.dim()))
        self.random.shuffle(order)
        choices = [
            f"{name}.view(-1)",
            f"{name}.reshape(-1)",
            f"{name}.reshape({tuple(reversed(tensor.shape))})",
            f"{name}.permute({tuple(order)})",
            f"{name}.unsqueeze({self.random.randint(0, tensor.dim())})",
            f"{name}.squeeze()",
            f"{name}.expand({(2, *tensor.shape)})",
            f"{name}.detach()",
            f"{name}.data",
            f"{name}[...]",
            f"{name}.view_as({name})",
            f"{name}[None]",
            f"{name}.flatten()",
        ]
        if tensor.dim():
            choices += [f"{name}.transpose({d}, {e})", f"{name}.movedim({d}, {e})"]
        if tensor.dim() == 2:
            choices += [f"{name}.t()", f"{name}.diagonal({self.random.choice([-1, 0, 1])})"]
        return f"{self.new()} = {self.random.choice(choices)}"

    def part(self) -> str:
        """A view of a part of a tensor."""
        expression = self.spot(lambda t: t.dim() > 0)
        expression, _ = self.deeper(expression, self.value(expression))
        return f"{self.new()} = {expression}"

    def pieces(self) -> str:
        name = self.pick(lambda t: t.dim() > 0 and max(t.shape) > 1)
        tensor = self.namespace[name]
        d = self.dim(tensor, 2)
        size = tensor.shape[d]
        cut = self.random.randint(1, size - 1)
        one, two = self.new(), self.new()
        both = f"{one}, {two}"
        choices = [
            f"{both} = {name}.split([{cut}, {size - cut}], {d})",
            f"{both} = {name}.tensor_split([{cut}], {d})",
            f"{one} = {name}.unbind({d})[{cut}]",
            f"{one} = {name}.chunk(2, {d})[0]",
            f"{one} = {name}.unfold({d}, 2, 1)",
            f"{one} = torch.split({name}, 1, {d})[{cut}]",
        ]
        if size == 2:
            choices += [f"{both} = {name}.unbind({d})", f"{both} = {name}.chunk(2, {d})"]
        if size % 2 == 0:
            choices.append(f"{one} = {name}.unflatten({d}, (2, {size // 2}))")
        return self.random.choice(choices)

    def strided(self) -> str:
        """A view of any part of the storage, be it outside of the tensor."""
        name = self.pick(lambda t: t.untyped_storage().nbytes() >= 4 * t.itemsize)
        tensor = self.namespace[name]
        length = tensor.untyped_storage().nbytes() // tensor.itemsize
        start = self.random.randrange(length)
        step = self.random.choice([1, 1, 2])
        count = self.random.randint(1, 1 + (length - 1 - start) // step)
        return f"{self.new()} = {name}.as_strided(({count},), ({step},), {start})"

    def reinterpret(self) -> str:
        """A view of the same bytes as another type of element."""
        name = self.pick(lambda t: t.dtype in (*_FLOATS, torch.int32, torch.int16))
        dtype = self.random.choice(["float32", "int32", "int16"])
        return f"{self.new()} = {name}.view(torch.{dtype})"

    def retag(self) -> str:
        """Another shape for the same tensor object."""
        name = self.pick()
        tensor = self.namespace[name]
        d = self.dim(tensor) if tensor.dim() else 0
        return self.random.choice([
            f"{name}.t_()",
            f"{name}.squeeze_()",
            f"{name}.unsqueeze_({self.random.randint(0, tensor.dim())})",
            f"{name}.transpose_({d}, -1)",
            f"{name}.swapaxes_({d}, 0)",
            f"{name}.detach_()",
            f"{name}.as_strided_((2,), (1,))",
        ])  # fmt: skip

    def resize(self) -> str:
        name = self.pick(lambda t: t.numel() > 0 and _holds_anything(t))
        count = self.namespace[name].numel()
        size = self.random.choice([count, count + 3, max(1, count // 2), 2 * count])
        return f"{name}.resize_({size})"

    def set_storage(self) -> str:
        name = self.pick()
        dtype = self.namespace[name].dtype
        other = self.pick(lambda t: t.dtype == dtype)
        tensor = self.namespace[other]
        length = tensor.untyped_storage().nbytes() // tensor.itemsize
        start = self.random.randrange(max(length, 1))
        return self.random.choice([
            f"{name}.set_({self.spot(lambda t: t.dtype == dtype)})",
            f"{name}.set_({other}.untyped_storage(), {start}, ({length - start},), (1,))",
            f"{name}.set_({other}, {start}, ({length - start},), (1,))",
        ])  # fmt: skip

    def swap_data(self) -> str:
        name = self.pick()
        return f"{name}.data = {self.spot()}"

    # ------------------------------------------------------------------ writes

    def write(self) -> str:
        spot = self.spot(lambda t: t.dtype in _FLOATS)
        shape = self.value(spot).shape
        number = self.number()
        return self.random.choice([
            lambda: f"{spot}.add_({self.operand_or_number(shape)})",
            lambda: f"{spot}.mul_({self.operand_or_number(shape)})",
            lambda: f"{spot}.sub_({self.operand(shape)}, alpha={number})",
            lambda: f"{spot}.relu_()",
            lambda: f"{spot}.clamp_(-0.75, 0.75)",
            lambda: f"{spot}.tanh_()",
            lambda: f"torch.relu_({spot})",
            lambda: f"F.leaky_relu_({spot}, 0.1)",
            lambda: f"{spot}.neg_()",
            lambda: f"{spot}.masked_fill_({spot} > 0, {number})",
            lambda: f"{spot}.lerp_({self.operand(shape)}, 0.5)",
            lambda: f"{spot}.addcmul_({self.operand(shape)}, {self.operand(shape)}, value={number})",
        ])()  # fmt: skip

    def augment(self) -> str:
        name = self.pick(lambda t: t.dtype in _FLOATS)
        operator = self.random.choice(["+=", "*=", "-="])
        return f"{name} {operator} {self.operand_or_number(self.namespace[name].shape)}"

    def overwrite(self) -> str:
        spot = self.spot()
        tensor = self.value(spot)
        if tensor.dtype == _INDEX:
            return self.random.choice([
                f"{spot}.zero_()",
                f"{spot}.fill_(1)",
                f"{spot}.copy_({self.operand(tensor.shape, (_INDEX, torch.bool))})",
            ])  # fmt: skip
        return self.random.choice([
            lambda: f"{spot}.zero_()",
            lambda: f"{spot}.fill_({self.number()})",
            lambda: f"{spot}.copy_({self.operand(tensor.shape, (*_FLOATS, torch.int32, _INDEX))})",
            lambda: f"{spot}[...] = {self.operand_or_number(tensor.shape)}",
        ])()  # fmt: skip

    def assign(self) -> str:
        """Assignment to an element, a row, a slice or a mask."""
        name = self.pick(lambda t: t.dtype in _FLOATS and t.dim() > 0 and t.shape[0] > 1)
        tensor = self.namespace[name]
        row = self.random.randrange(tensor.shape[0])
        return self.random.choice([
            lambda: f"{name}[{row}] = {self.operand_or_number(tensor.shape[1:])}",
            lambda: f"{name}[{row}:] = {self.number()}",
            lambda: f"{name}[..., 0] = {self.number()}",
            lambda: f"{name}[{name} > 0] = {self.number()}",
            lambda: f"{name}[{self.index()}] = {self.operand_or_number(tensor.shape[1:])}",
        ])()  # fmt: skip

    def index(self) -> str:
        return self.pick(lambda t: t.dtype == _INDEX and t.dim() == 1)

    def scatter(self) -> str:
        """Writes to places that a tensor names."""
        name = self.spot(lambda t: t.dtype in _FLOATS and t.dim() > 0)
        tensor = self.value(name)
        d = self.dim(tensor, 2)
        index = self.index()
        count = len(self.namespace[index])
        sizes = tuple(count if i == d else size for i, size in enumerate(tensor.shape))
        rows = f"torch.ones({sizes}, dtype={tensor.dtype})"
        choices = [
            f"{name}.index_add_({d}, {index}, {rows})",
            f"{name}.index_copy_({d}, {index}, {rows})",
            f"{name}.index_fill_({d}, {index}, {self.number()})",
            f"{name}.masked_fill_({name} > 0, {self.number()})",
            f"{name}.masked_fill_({self.mask(tensor)}, {self.number()})",
        ]
        if d == 0:
            value = f"torch.tensor({self.number()}, dtype={tensor.dtype})"
            choices += [
                f"{name}.index_put_(({index},), {value}, accumulate=True)",
                f"{name}.index_put_(({index},), {value})",
            ]
        if tensor.dim() == 1:
            choices.append(f"{name}.scatter_(0, {index}, {self.number()})")
        return self.random.choice(choices)

    def mask(self, tensor: torch.Tensor) -> str:
        return self.operand(tensor.shape, (torch.bool,))

    def out(self) -> str:
        target = self.spot(lambda t: t.dtype in _FLOATS)
        shape = self.value(target).shape
        return self.random.choice([
            lambda: f"torch.add({self.operand(shape)}, {self.operand(shape)}, out={target})",
            lambda: f"torch.mul({self.exactly(shape)}, {self.number()}, out={target})",
            lambda: f"torch.tanh({self.exactly(shape)}, out={target})",
            lambda: f"torch.sum({self.stacked(shape)}, 0, out={target})",
            lambda: f"torch.amax({self.stacked(shape)}, 0, out={target})",
        ])()  # fmt: skip

    def out_new(self) -> str:
        """Into memory that the op itself makes larger."""
        name = self.new()
        source = self.pick(lambda t: t.dtype == torch.float32)
        return f"{name} = torch.empty(0); " + self.random.choice([
            f"torch.neg({source}, out={name})",
            f"torch.cat([{source}, {source}], out={name})",
        ])  # fmt: skip

    def out_two(self) -> str:
        one, two = self.new(), self.new()
        source = self.pick(lambda t: t.dtype == torch.float32 and t.dim() > 0 and t.numel() > 0)
        d = self.dim(self.namespace[source], 2)
        if self.namespace[source].shape[d] != 2:  # the indices must stay below 2
            raise _Unsuitable
        empty = "torch.empty(0), torch.empty(0, dtype=torch.int64)"
        return f"{one}, {two} = {empty}; torch.max({source}, {d}, out=({one}, {two}))"

    def exactly(self, shape: torch.Size) -> str:
        return self.pick(lambda t: t.shape == shape and t.dtype in _FLOATS)

    def stacked(self, shape: torch.Size) -> str:
        return self.pick(
            lambda t: t.dim() > 0 and t.shape[0] > 0 and t.shape[1:] == shape and t.dtype in _FLOATS
        )

    def foreach(self) -> str:
        one = self.spot(lambda t: t.dtype in _FLOATS)
        two = self.spot(lambda t: t.dtype in _FLOATS)
        lists = f"[{one}, {two}]"
        if self.random.random() < 0.2:
            lists = f"[{one}, {two}, {self.pick(lambda t: t.dtype in _FLOATS)}]"
            return f"torch._foreach_{self.random.choice(['neg_', 'zero_', 'tanh_'])}({lists})"
        shapes = [self.value(one).shape, self.value(two).shape]
        others = [f"torch.ones({tuple(shape)})" for shape in shapes]
        others = [self.exactly(s) if self.random.random() < 0.5 else o for s, o in zip(shapes, others, strict=True)]  # fmt: skip
        other = f"[{', '.join(others)}]"
        name = self.new()
        return self.random.choice([
            f"torch._foreach_add_({lists}, {self.number()})",
            f"torch._foreach_mul_({lists}, {self.number()})",
            f"torch._foreach_add_({lists}, {other}, alpha=0.5)",
            f"torch._foreach_mul_({lists}, {other})",
            f"torch._foreach_copy_({lists}, {other})",
            f"torch._foreach_addcmul_({lists}, {other}, {other}, 0.5)",
            f"{name} = torch._foreach_mul({lists}, {other})[1]",
        ])  # fmt: skip

    # ------------------------------------------------------------------ computing

    def compute(self) -> str:
        name = self.spot(lambda t: t.dtype in _FLOATS)
        tensor = self.value(name)
        choices = [
            lambda: f"{name} + {self.operand_or_number(tensor.shape)}",
            lambda: f"{name} * {self.operand(tensor.shape)}",
            lambda: f"torch.relu({name})",
            lambda: f"{name}.sin()",
            lambda: f"torch.where({name} > 0, {name}, {self.operand(tensor.shape)})",
            lambda: f"{name}.clone()",
            lambda: f"{name}.contiguous()",
            lambda: f"{name}.masked_fill({self.mask(tensor)}, 0.5)",
            lambda: f"{name}.sum()",
            lambda: f"{name}.repeat({(2, *[1] * tensor.dim())})",
        ]
        if tensor.dim():
            d = self.dim(tensor)
            choices += [
                lambda: f"{name}.sum({d}, keepdim=True)",
                lambda: f"{name}.mean({d})",
                lambda: f"{name}.cumsum({d})",
                lambda: f"{name}.softmax({d})",
                lambda: f"{name}.flip({d})",
                lambda: f"{name}.roll(1, {d})",
                lambda: f"F.layer_norm({name}, ({tensor.shape[-1]},))",
                lambda: f"torch.cat([{name}, {name}], {d})",
                lambda: f"{name}.index_select({self.dim(tensor, 2)}, {self.index()})",
            ]
        if tensor.dim() == 1 and len(tensor) > 1:
            choices.append(lambda: f"{name}[{self.index()}]")
        return f"{self.new()} = {self.random.choice(choices)()}"

    def join(self) -> str:
        one = self.spot(lambda t: t.dtype in _FLOATS and t.dim() > 0)
        shape = self.value(one).shape
        two, three = self.exactly(shape), self.exactly(shape)
        joint = self.random.choice(["cat", "stack", "vstack"])
        return f"{self.new()} = torch.{joint}([{one}, {two}, {three}])"

    def multiply(self) -> str:
        one = self.pick(lambda t: t.dtype in _FLOATS and t.dim() == 2)
        tensor = self.namespace[one]
        two = self.pick(
            lambda t: t.dtype == tensor.dtype and t.dim() == 2 and tensor.shape[1] in t.shape
        )
        if self.namespace[two].shape[0] == tensor.shape[1]:
            return f"{self.new()} = {one} @ {two}"
        return f"{self.new()} = {self.random.choice([f'{one} @ {two}.t()', f'F.linear({one}, {two})'])}"

    def convert(self) -> str:
        name = self.pick(_holds_anything)
        tensor = self.namespace[name]
        return f"{self.new()} = {name}" + self.random.choice([
            ".to(torch.float64)", ".int()", ".float()", ".to(torch.int16)", " > 0",
            f".to({tensor.dtype})",
        ])  # fmt: skip

    def decide(self) -> str:
        """An index tensor, from values."""
        name = self.pick(lambda t: t.dim() == 1 and t.numel() > 0 and t.dtype != _INDEX)
        return f"{self.new()} = ({name} > 0).long()"

    def pass_through(self) -> str:
        """What may well return its very input, or several of them."""
        name = self.pick(lambda t: t.dtype in _FLOATS)
        if self.random.random() < 0.2:
            other = self.operand(self.namespace[name].shape)
            return f"{self.new()}, {self.new()} = torch.broadcast_tensors({other}, {name})"
        return f"{self.new()} = " + self.random.choice([
            f"F.dropout({name}, 0.5, training=False)",
            f"{name}.contiguous()",
            f"{name}.to({self.namespace[name].dtype})",
            f"{name}.reshape({tuple(self.namespace[name].shape)})",
            f"{name}.expand_as({name})",
            f"{name}.requires_grad_(False)" if not self.namespace[name].requires_grad else name,
        ])  # fmt: skip

    def normalise(self) -> str:
        """Batch norm, which writes its running statistics without saying so."""
        name = self.pick(lambda t: t.dtype in _FLOATS and t.dim() in (2, 3) and t.numel() > 0)
        tensor = self.namespace[name]
        if tensor.numel() == tensor.shape[1]:
            raise _Unsuitable
        statistics = [
            self.spot(lambda t: t.dim() > 0 and t.dtype == tensor.dtype and not t.requires_grad)
            for _ in range(2)
        ]
        for number, spot in enumerate(statistics):
            if self.value(spot).shape != tensor.shape[1:2]:
                statistics[number] = f"torch.ones({tensor.shape[1]}, dtype={tensor.dtype})"
        training = self.random.random() < 0.7
        call = f"{self.new()} = F.batch_norm({name}, mean, var, training={training}, momentum=0.3)"
        return f"mean, var = {', '.join(statistics)}; {call}"


_CHANCES: dict[Callable[[_Writer], str], float] = {
    _Writer.create: 3,
    _Writer.free: 1.5,
    _Writer.recreate: 1.5,
    _Writer.view: 7,
    _Writer.part: 5,
    _Writer.pieces: 4,
    _Writer.strided: 1,
    _Writer.reinterpret: 1,
    _Writer.retag: 2,
    _Writer.resize: 0.7,
    _Writer.set_storage: 1,
    _Writer.swap_data: 1.2,
    _Writer.write: 7,
    _Writer.augment: 2,
    _Writer.overwrite: 4,
    _Writer.assign: 4,
    _Writer.scatter: 3,
    _Writer.out: 3,
    _Writer.out_new: 0.7,
    _Writer.out_two: 0.5,
    _Writer.foreach: 3,
    _Writer.compute: 8,
    _Writer.join: 2,
    _Writer.multiply: 2,
    _Writer.convert: 2,
    _Writer.decide: 1.5,
    _Writer.pass_through: 1.5,
    _Writer.normalise: 1.5,
}
_STEPS = list(_CHANCES)
_WEIGHTS = list(_CHANCES.values())
