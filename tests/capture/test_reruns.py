"""What runs again in a backward belongs to the layers that it repeats.

The oracle is in `tests.engine`: modules and parts of functions say by name what runs, and mark
the nodes that they made. A program is run under it, and again under a trace.
"""

import pytest
import torch
from tests.engine import applied, both, misplaced, mistakes, part
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def parameters(modules):
    return [p for module in modules for p in module.parameters()]


def leaf(*shape):
    return torch.rand(*(shape or (4, 8)), requires_grad=True)


def mlp(width=8, hidden=16):
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Tanh())


# ------------------------------------------------------------------------- the functions


class Chain(Function):
    """A checkpoint written by hand."""

    @staticmethod
    def forward(ctx, x, modules, *parameters):
        ctx.modules = modules
        ctx.save_for_backward(x)
        for module in modules:
            x = module(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = y = x.detach().requires_grad_()
            for module in ctx.modules:
                y = module(y)
        ours = parameters(ctx.modules)
        found = torch.autograd.grad(y, [x, *ours], gradient, allow_unused=True)
        return found[0], None, *found[1:]


class ChainWithContext(Chain):
    """The new style, accumulating by `.backward()`."""

    @staticmethod
    def forward(x, modules, *parameters):
        for module in modules:
            x = module(x)
        return x

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.modules, *_ = inputs
        ctx.save_for_backward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = y = x.detach().requires_grad_()
            for module in ctx.modules:
                y = module(y)
            y.backward(gradient * 1)
        return x.grad, None, *([None] * len(parameters(ctx.modules)))


class BlockByBlock(Function):
    """Keeps the input of each module, and runs one after the other again, the last first."""

    @staticmethod
    def forward(ctx, x, modules, *parameters):
        ctx.modules, kept = modules, []
        for module in modules:
            kept.append(x)
            x = module(x)
        ctx.save_for_backward(*kept)
        return x

    @staticmethod
    def backward(ctx, gradient):
        for module, x in reversed(list(zip(ctx.modules, ctx.saved_tensors, strict=True))):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                y = module(x)
            torch.autograd.backward(y, gradient)
            gradient = x.grad
        return gradient, None, *([None] * len(parameters(ctx.modules)))


class Reversible(Function):
    """Reversible residual blocks: nothing is kept but the result."""

    @staticmethod
    def forward(ctx, x, blocks, *parameters):
        ctx.blocks = blocks
        x1, x2 = x.chunk(2, dim=-1)
        for f, g in blocks:
            x1 = x1 + f(x2)
            x2 = x2 + g(x1)
        ctx.save_for_backward(x1, x2)
        return torch.cat([x1, x2], dim=-1)

    @staticmethod
    def backward(ctx, gradient):
        y1, y2 = ctx.saved_tensors
        d1, d2 = gradient.chunk(2, dim=-1)
        for f, g in reversed(ctx.blocks):
            with torch.enable_grad():
                y1 = y1.detach().requires_grad_()
                of_g = g(y1)
                of_g.backward(d2)
            with torch.no_grad():
                y2 = y2 - of_g
                d1 = d1 + y1.grad
            with torch.enable_grad():
                y2 = y2.detach().requires_grad_()
                of_f = f(y2)
                of_f.backward(d1)
            with torch.no_grad():
                y1 = y1 - of_f
                d2 = d2 + y2.grad
        count = sum(len(parameters(pair)) for pair in ctx.blocks)
        return torch.cat([d1, d2], dim=-1), None, *([None] * count)


class Coupling(nn.Module):
    """An additive coupling layer, which can be inverted."""

    def __init__(self, width=4):
        super().__init__()
        self.f, self.g = nn.Linear(width, width), mlp(width)

    def forward(self, x):
        x1, x2 = x.chunk(2, dim=-1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=-1)

    def inverse(self, y):
        y1, y2 = y.chunk(2, dim=-1)
        x2 = y2 - self.g(y1)
        x1 = y1 - self.f(x2)
        return torch.cat([x1, x2], dim=-1)


class Invertible(Function):
    """Runs the inverse without gradients, then the layer with them."""

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        y = module(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.module.inverse(ctx.saved_tensors[0])
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.module(x)
        ours = list(ctx.module.parameters())
        found = torch.autograd.grad(y, [x, *ours], gradient)
        return found[0], None, *found[1:]


class Attention(Function):
    """Attention in chunks of queries, which keeps no scores."""

    @staticmethod
    def chunk(query, key, value):
        scores = part("scores", lambda q, k: q @ k.transpose(-1, -2))(query, key)
        scores = part("scale", lambda s: s * 0.5)(scores)
        weights = part("softmax", lambda s: s.softmax(-1))(scores)
        return part("mix", lambda w, v: w @ v)(weights, value)

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        given = [Attention.chunk(q, key, value) for q in query.split(2, dim=-2)]
        return torch.cat(given, dim=-2)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), 0, 0
        for start in range(0, query.shape[-2], 2):
            chunk = slice(start, start + 2)
            with torch.enable_grad():
                q, k, v = (t.detach().requires_grad_() for t in (query[:, chunk], key, value))
                y = Attention.chunk(q, k, v)
            dq, dk, dv = torch.autograd.grad(y, [q, k, v], gradient[:, chunk])
            d_query[:, chunk] = dq
            d_key, d_value = d_key + dk, d_value + dv
        return d_query, d_key, d_value


class AttentionByTheLoss(Attention):
    """Differentiates the product with the gradient: a multiplication that the forward had not."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        return Attention.chunk(query, key, value)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            y = (Attention.chunk(q, k, v) * gradient).sum()
        return torch.autograd.grad(y, [q, k, v])


class Implicit(Function):
    """A fixed point found without gradients, and a linear system solved in the backward."""

    @staticmethod
    def forward(ctx, x, cell, *parameters):
        ctx.cell, z = cell, torch.zeros_like(x)
        for _ in range(6):
            z = cell(z, x)
        ctx.save_for_backward(z, x)
        return z

    @staticmethod
    def backward(ctx, gradient):
        z, x = ctx.saved_tensors
        with torch.enable_grad():
            z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
            again = ctx.cell(z, x)
        solved = gradient
        for _ in range(5):
            (product,) = torch.autograd.grad(again, z, solved, retain_graph=True)
            solved = gradient + product
        ours = list(ctx.cell.parameters())
        found = torch.autograd.grad(again, [x, *ours], solved)
        return found[0], None, *found[1:]


class Attached(Function):
    """Is handed the fixed point, and only runs the cell again."""

    @staticmethod
    def forward(ctx, z, x, cell, *parameters):
        ctx.cell = cell
        ctx.save_for_backward(z, x)
        return z * 1

    @staticmethod
    def backward(ctx, gradient):
        z, x = ctx.saved_tensors
        with torch.enable_grad():
            z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
            again = ctx.cell(z, x)
        ours = list(ctx.cell.parameters())
        found = torch.autograd.grad(again, [x, *ours], gradient * 2)
        return None, found[0], None, *found[1:]


class Cell(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.hidden, self.given, self.norm = (
            nn.Linear(width, width), nn.Linear(width, width), nn.LayerNorm(width),
        )  # fmt: skip

    def forward(self, z, x):
        return self.norm((self.hidden(z) + self.given(x)).tanh())


class Penalised(Function):
    """Adds the gradient of a penalty on a gradient, all computed in the backward."""

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        ctx.save_for_backward(x)
        return part("square", lambda y: y.pow(2))(module(x))

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = part("square", lambda y: y.pow(2))(ctx.module(x))
            (slope,) = torch.autograd.grad(y, x, gradient, create_graph=True)
            loss = slope.pow(2).sum() * 0.1
        ours = list(ctx.module.parameters())
        first = torch.autograd.grad(y, [x, *ours], gradient, retain_graph=True)
        second = torch.autograd.grad(loss, ours, allow_unused=True)
        total = [a if b is None else a + b for a, b in zip(first[1:], second, strict=True)]
        return first[0] + slope.detach(), None, *total


class Scaled(Function):
    """Computes its gradient itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * x).sin()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x * x).cos() * 2 * x


class Outer(Function):
    """Applies other functions, and runs them again."""

    @staticmethod
    def inside(x, module):
        x = part("first", lambda t: t.exp())(x)
        x = applied(Chain, x, (module,), *module.parameters(), name="inner chain")
        x = applied(Scaled, x, name="inner scaled")
        return part("last", lambda t: t.cos())(x)

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        ctx.save_for_backward(x)
        return Outer.inside(x, module)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = Outer.inside(x, ctx.module)
        ours = list(ctx.module.parameters())
        found = torch.autograd.grad(y, [x, *ours], gradient)
        return found[0], None, *found[1:]


class TwoResults(Function):
    @staticmethod
    def forward(ctx, x, a, b, *parameters):
        ctx.modules = a, b
        ctx.save_for_backward(x)
        return a(x), b(x)

    @staticmethod
    def backward(ctx, of_a, of_b):
        a, b = ctx.modules
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            torch.autograd.backward([a(x), b(x)], [of_a, of_b])
        return x.grad, None, None, *([None] * len(parameters(ctx.modules)))


class Cast(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, modules, *parameters):
        return Chain.forward(ctx, x, modules, *parameters)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        return Chain.backward(ctx, gradient)


class WithCheckpoint(Chain):
    reentrant = False

    @classmethod
    def wrap(cls, module):
        return lambda x: checkpoint(module, x, use_reentrant=cls.reentrant)

    @staticmethod
    def forward(ctx, x, modules, *parameters):
        return Chain.forward(ctx, x, modules, *parameters)

    @staticmethod
    def backward(ctx, gradient):
        ctx.modules = tuple(map(WithCheckpoint.wrap, ctx.modules))
        with torch.enable_grad():
            x = y = ctx.saved_tensors[0].detach().requires_grad_()
            for module in ctx.modules:
                y = module(y)
        y.backward(gradient)
        return x.grad, None, *([None] * (len(ctx.needs_input_grad) - 2))


# -------------------------------------------------------------------------- the programs

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


def chained(function, modules, times=1, shape=(4, 8)):
    modules = tuple(modules)

    def run():
        y = leaf(*shape) * 1
        for _ in range(times):
            y = applied(function, y, modules, *parameters(modules))
        y.sum().backward()

    return nn.ModuleList(modules), run


@program
def a_checkpoint_written_by_hand():
    return chained(Chain, [*mlp(), nn.LayerNorm(8), nn.Linear(8, 8)])


@program
def one_that_accumulates_by_backward():
    return chained(ChainWithContext, [*mlp(), nn.LayerNorm(8), nn.Linear(8, 8)])


@program
def one_that_is_applied_twice():
    return chained(Chain, mlp(), times=2)


@program
def block_by_block():
    return chained(BlockByBlock, [mlp(), nn.LayerNorm(8), mlp(), nn.GELU(), nn.GELU()])


@program
def with_dropout_and_batch_norm():
    return chained(Chain, [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU()])


@program
def convolutions():
    modules = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 2, 2),
    ]
    return chained(Chain, modules, shape=(2, 3, 10, 10))


@program
def recurrent_networks():
    class First(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0]

    return chained(Chain, [First(8, 8), nn.Linear(8, 8), First(8, 8)], shape=(3, 2, 8))


@program
def an_encoder_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return chained(BlockByBlock, [layer, nn.TransformerEncoderLayer(8, 2, 16)], shape=(2, 4, 8))


@program
def a_reversible_network():
    blocks = [(mlp(4), nn.Linear(4, 4)) for _ in range(3)]
    ours = [p for pair in blocks for p in parameters(pair)]

    def run():
        applied(Reversible, leaf() * 1, blocks, *ours).sum().backward()

    return nn.ModuleList(nn.ModuleList(pair) for pair in blocks), run


@program
def invertible_layers():
    model = nn.ModuleList([Coupling(), Coupling()])

    def run():
        y = leaf() * 1
        for module in model:
            y = applied(Invertible, y, module, *module.parameters())
        y.sum().backward()

    return model, run


def attention(function):
    def run():
        query, key, value = (leaf(2, 6, 4) * 1 for _ in range(3))
        applied(function, query, key, value).sin().sum().backward()

    return None, run


@program
def attention_in_chunks():
    return attention(Attention)


@program
def attention_by_the_loss():
    return attention(AttentionByTheLoss)


@program
def an_implicit_layer():
    model = nn.ModuleDict({"cell": Cell(), "head": nn.Linear(8, 2)})

    def run():
        z = applied(Implicit, leaf() * 1, model["cell"], *model["cell"].parameters())
        model["head"](z).sum().backward()

    return model, run


@program
def an_implicit_layer_solved_outside():
    model = nn.ModuleDict({"cell": Cell(), "head": nn.Linear(8, 2)})

    def run():
        x, cell = leaf() * 1, model["cell"]
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(4):
                z = cell(z, x)
        model["head"](applied(Attached, z, x, cell, *cell.parameters())).sum().backward()

    return model, run


@program
def an_implicit_layer_by_a_hook():
    model = nn.ModuleDict({"cell": Cell(), "head": nn.Linear(8, 2)})

    def run():
        x, cell = leaf() * 1, model["cell"]
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(4):
                z = cell(z, x)
        z = cell(z, x)
        at = z.detach().requires_grad_()
        around = cell(at, x)

        def solve(gradient):
            solved = gradient
            for _ in range(3):
                (product,) = torch.autograd.grad(around, at, solved, retain_graph=True)
                solved = gradient + product
            return solved

        z.register_hook(solve)
        model["head"](z).sum().backward()

    return model, run


@program
def a_gradient_penalty():
    model = mlp()

    def run():
        applied(Penalised, leaf() * 1, model, *model.parameters()).sum().backward()

    return model, run


@program
def functions_inside_a_function():
    model = mlp()

    def run():
        applied(Outer, leaf() * 1, model, *model.parameters()).sum().backward()

    return model, run


@program
def two_results():
    model = nn.ModuleList([mlp(), nn.Linear(8, 3)])

    def run():
        a, b = applied(TwoResults, leaf() * 1, *model, *model.parameters())
        (a.sum() + b.exp().sum()).backward()

    return model, run


@program
def mixed_precision():
    modules = [nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8)]
    model, run = chained(Cast, modules)

    def cast():
        with torch.autocast("cpu", torch.bfloat16):
            run()

    return model, cast


@program
def a_shared_module():
    shared = nn.Linear(8, 8)
    return chained(Chain, [shared, nn.ReLU(), shared, nn.Tanh(), shared])


@program
def a_checkpoint_inside():
    return chained(WithCheckpoint, [mlp(), nn.Linear(8, 8)])


def inside_a_checkpoint(reentrant):
    model = nn.Sequential(mlp(), nn.LayerNorm(8))

    def block(x):
        x = part("before", lambda t: t.exp())(x)
        x = applied(Chain, x, tuple(model), *model.parameters())
        return part("after", lambda t: t.tanh())(applied(Scaled, x))

    def run():
        checkpoint(block, leaf() * 1, use_reentrant=reentrant).sum().backward()

    return model, run


@program
def inside_a_checkpoint_by_hooks():
    return inside_a_checkpoint(reentrant=False)


@program
def inside_a_reentrant_checkpoint():
    return inside_a_checkpoint(reentrant=True)


@program
def a_graph_kept_for_several_backwards():
    modules = tuple(mlp())

    def run():
        y = applied(Chain, leaf() * 1, modules, *parameters(modules))
        y.sum().backward(retain_graph=True)
        y.backward(torch.ones_like(y), retain_graph=True)
        y.backward(torch.ones(4, 8))

    return nn.ModuleList(modules), run


@program
def a_function_applied_by_a_module():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            y = applied(Chain, x, tuple(self.inner), *self.inner.parameters())
            return x + applied(Scaled, y)

    model = nn.Sequential(Memory(), nn.Linear(8, 8), Memory())
    return model, lambda: model(leaf()).sum().backward()


@program
def a_function_around_the_whole_model():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    def run():
        for _ in range(2):
            applied(Chain, leaf() * 1, (model,), *model.parameters()).sum().backward()

    return model, run


@program
def functions_of_parameters():
    model = nn.ParameterDict({name: leaf(8, 8) for name in "ab"})

    class Functional(Function):
        @staticmethod
        def inside(x, a, b):
            x = part("a", lambda t, w: F.linear(t, w))(x, a)
            x = part("relu", lambda t: F.relu(t))(x)
            x = part("b", lambda t, w: F.linear(t, w))(x, b)
            return part("relu again", lambda t: F.relu(t))(x)

        @staticmethod
        def forward(ctx, x, a, b):
            ctx.save_for_backward(x, a, b)
            return Functional.inside(x, a, b)

        @staticmethod
        def backward(ctx, gradient):
            with torch.enable_grad():
                given = [t.detach().requires_grad_() for t in ctx.saved_tensors]
                y = Functional.inside(*given)
            return torch.autograd.grad(y, given, gradient.clone())

    return model, lambda: applied(Functional, leaf() * 1, *model.values()).sum().backward()


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_op_belongs_to_the_part_that_ran_it_or_made_its_node(name, layers):
    torch.manual_seed(0)
    model, run = PROGRAMS[name]()
    rows, trace = both(run, model=model, layers=layers)
    assert misplaced(rows, trace) == []
    assert mistakes(rows, trace) == []
    assert any(row.part and row.backward for row in rows)
