"""Programs whose backward runs things again: what people write to save memory, and more.

Each returns its model and a function that runs it. Parts have names, see `tests.engine`; where
passes are told apart by these, modules have none, and there is no model.
"""

from __future__ import annotations

import random

import torch
from tests.engine import applied, part
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


def parameters(modules):
    return [p for module in modules for p in module.parameters()]


def leaf(*shape):
    return torch.rand(*(shape or (4, 8)), requires_grad=True)


def again(tensor):
    return tensor.detach().requires_grad_()


def mlp(width=8, hidden=16):
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Tanh())


def none_for_the_rest(context, *gradients):
    return *gradients, *[None] * (len(context.needs_input_grad) - len(gradients))


# ----------------------------------------------------------------- checkpoints by hand


class Chain(Function):
    """Runs modules, and all of them again."""

    @staticmethod
    def forward(ctx, x, modules, *parameters):
        ctx.modules = modules
        ctx.save_for_backward(x)
        for module in modules:
            x = module(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = y = again(ctx.saved_tensors[0])
            for module in ctx.modules:
                y = module(y)
        ours = [p for module in ctx.modules for p in getattr(module, "parameters", list)()]
        found = torch.autograd.grad(y, [x, *ours], gradient, allow_unused=True)
        return none_for_the_rest(ctx, found[0], None, *found[1:])


class NewStyle(Chain):
    """With `setup_context`, `once_differentiable`, and by `.backward()`."""

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
        with torch.enable_grad():
            x = y = again(ctx.saved_tensors[0])
            for module in ctx.modules:
                y = module(y)
            y.backward(gradient * 1)
        return none_for_the_rest(ctx, x.grad)


class PieceByPiece(Function):
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
        for module, kept in reversed(list(zip(ctx.modules, ctx.saved_tensors, strict=True))):
            with torch.enable_grad():
                x = again(kept)
                y = module(x)
            torch.autograd.backward(y, gradient)
            gradient = x.grad
        return none_for_the_rest(ctx, gradient)


class Cast(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, modules, *parameters):
        return Chain.forward(ctx, x, modules, *parameters)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        return Chain.backward(ctx, gradient)


class Hooked(Chain):
    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = y = again(ctx.saved_tensors[0])
            for module in ctx.modules:
                y = module(y)
                y.register_hook(lambda g: g * 2)
        y.backward(gradient)
        return none_for_the_rest(ctx, x.grad)


class Checkpointed(Chain):
    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = y = again(ctx.saved_tensors[0])
            for module in ctx.modules:
                y = checkpoint(module, y, use_reentrant=False)
        y.backward(gradient)
        return none_for_the_rest(ctx, x.grad)


def chained(function, modules, times=1, shape=(4, 8)):
    modules = tuple(modules)

    def run():
        y = leaf(*shape) * 1
        for _ in range(times):
            y = applied(function, y, modules, *parameters(modules))
        y.sum().backward()

    return nn.ModuleList(modules), run


@program
def a_checkpoint_by_hand():
    return chained(Chain, [*mlp(), nn.LayerNorm(8), nn.Linear(8, 8)])


@program
def one_of_the_new_style():
    return chained(NewStyle, [*mlp(), nn.LayerNorm(8), nn.Linear(8, 8)])


@program
def one_applied_twice():
    return chained(Chain, mlp(), times=2)


@program
def piece_by_piece():
    return chained(PieceByPiece, [mlp(), nn.LayerNorm(8), mlp(), nn.GELU(), nn.GELU()])


@program
def dropout_and_batch_norm():
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
def encoder_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return chained(PieceByPiece, [layer, nn.TransformerEncoderLayer(8, 2, 16)], shape=(2, 4, 8))


@program
def a_shared_module():
    shared = nn.Linear(8, 8)
    return chained(Chain, [shared, nn.ReLU(), shared, nn.Tanh(), shared])


@program
def modules_that_write_in_place():
    return chained(Chain, [nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)])


@program
def hooks_on_tensors():
    return chained(Hooked, [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)])


@program
def a_checkpoint_inside():
    return chained(Checkpointed, [mlp(), nn.Linear(8, 8)])


@program
def mixed_precision():
    model, run = chained(Cast, [nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8)])

    def cast():
        with torch.autocast("cpu", torch.bfloat16):
            run()

    return model, cast


@program
def mixed_precision_in_the_forward_only():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            y = applied(Chain, leaf() * 1, tuple(model), *model.parameters())
        y.float().sum().backward()

    return model, run


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
def a_function_around_the_whole_model():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    def run():
        for _ in range(2):
            applied(Chain, leaf() * 1, (model,), *model.parameters()).sum().backward()

    return model, run


@program
def a_function_applied_by_a_module():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def inner(self, x):
            x = part("sin", torch.sin)(self.a(x))
            return part("cos", torch.cos)(self.b(x))

        def forward(self, x):
            x = part("sin before", torch.sin)(x)
            y = applied(Chain, x, (self.inner,), *self.parameters())
            return x + applied(Scaled, y)

    model = nn.Sequential(Memory(), nn.Linear(8, 8))
    return model, lambda: model(leaf()).sum().backward()


@program
def one_per_step_of_a_loop():
    cell = nn.Linear(8, 8)

    def step(number):
        return part(f"step {number}", lambda x: cell(x).tanh())

    class Step(Chain):
        pass

    def run():
        x = leaf() * 1
        for number in range(4):
            x = applied(Step, x, (step(number),), *cell.parameters(), name=f"function {number}")
        x.sum().backward()

    return None, run


# ------------------------------------------------------------ reversible and invertible


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
                y1 = again(y1)
                of_g = g(y1)
                of_g.backward(d2)
            with torch.no_grad():
                y2 = y2 - of_g
                d1 = d1 + y1.grad
            with torch.enable_grad():
                y2 = again(y2)
                of_f = f(y2)
                of_f.backward(d1)
            with torch.no_grad():
                y1 = y1 - of_f
                d2 = d2 + y2.grad
        return none_for_the_rest(ctx, torch.cat([d1, d2], dim=-1))


@program
def a_reversible_network():
    blocks = [(mlp(4), nn.Linear(4, 4)) for _ in range(3)]
    ours = [p for pair in blocks for p in parameters(pair)]

    def run():
        applied(Reversible, leaf() * 1, blocks, *ours).sum().backward()

    return nn.ModuleList(nn.ModuleList(pair) for pair in blocks), run


@program
def a_reversible_network_of_one_block():
    """Which pass is repeated is known by the order alone."""
    f, g = mlp(4), nn.Linear(4, 4)

    def run():
        for parameter in parameters((f, g)):
            parameter.grad = None
        blocks = [
            (part(f"f{i}", lambda x: f(x).sin()), part(f"g{i}", lambda x: g(x).sin()))
            for i in range(3)
        ]
        applied(Reversible, leaf() * 1, blocks, *parameters((f, g))).sum().backward()

    return None, run


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
            x = again(x)
            y = ctx.module(x)
        found = torch.autograd.grad(y, [x, *ctx.module.parameters()], gradient)
        return found[0], None, *found[1:]


@program
def invertible_layers():
    model = nn.ModuleList([Coupling(), Coupling()])

    def run():
        y = leaf() * 1
        for module in model:
            y = applied(Invertible, y, module, *module.parameters())
        y.sum().backward()

    return model, run


# ----------------------------------------------------------------------------- attention


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
        return torch.cat([Attention.chunk(q, key, value) for q in query.split(2, dim=-2)], dim=-2)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), 0, 0
        for start in range(0, query.shape[-2], 2):
            chunk = slice(start, start + 2)
            with torch.enable_grad():
                q, k, v = map(again, (query[:, chunk], key, value))
                y = Attention.chunk(q, k, v)
            dq, dk, dv = torch.autograd.grad(y, [q, k, v], gradient[:, chunk])
            d_query[:, chunk] = dq
            d_key, d_value = d_key + dk, d_value + dv
        return d_query, d_key, d_value


class AttentionByALoss(Attention):
    """Differentiates the product with the gradient: a multiplication that the forward had not."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        return Attention.chunk(query, key, value)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            given = [again(t) for t in ctx.saved_tensors]
            y = (Attention.chunk(*given) * gradient).sum()
        return torch.autograd.grad(y, given)


def attention(function):
    def run():
        given = (leaf(2, 6, 4) * 1 for _ in range(3))
        applied(function, *given).sin().sum().backward()

    return None, run


@program
def attention_in_chunks():
    return attention(Attention)


@program
def attention_by_a_loss():
    return attention(AttentionByALoss)


# ------------------------------------------------------------------------ implicit layers


class Cell(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.hidden, self.given = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, z, x):
        return self.norm((self.hidden(z) + self.given(x)).tanh())

    def solve(self, x, steps=4):
        z = torch.zeros_like(x)
        for _ in range(steps):
            z = self(z, x)
        return z


class Implicit(Function):
    """A fixed point found without gradients, and a linear system solved in the backward."""

    @staticmethod
    def forward(ctx, x, cell, *parameters):
        ctx.cell = cell
        z = cell.solve(x)
        ctx.save_for_backward(z, x)
        return z

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            z, x = map(again, ctx.saved_tensors)
            around = ctx.cell(z, x)
        solved = gradient
        for _ in range(5):
            (product,) = torch.autograd.grad(around, z, solved, retain_graph=True)
            solved = gradient + product
        found = torch.autograd.grad(around, [x, *ctx.cell.parameters()], solved)
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
        with torch.enable_grad():
            z, x = map(again, ctx.saved_tensors)
            around = ctx.cell(z, x)
        found = torch.autograd.grad(around, [x, *ctx.cell.parameters()], gradient * 2)
        return None, found[0], None, *found[1:]


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
            z = cell.solve(x)
        model["head"](applied(Attached, z, x, cell, *cell.parameters())).sum().backward()

    return model, run


@program
def an_implicit_layer_by_a_hook():
    model = nn.ModuleDict({"cell": Cell(), "head": nn.Linear(8, 2)})

    def run():
        x, cell = leaf() * 1, model["cell"]
        with torch.no_grad():
            z = cell.solve(x)
        z = cell(z, x)
        at = again(z)
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
def an_implicit_layer_without_modules():
    weight = nn.Parameter(torch.rand(8, 8) * 0.1)
    cell = part("cell", lambda z, x: torch.tanh(z @ weight + x))

    class Bare(Function):
        @staticmethod
        def forward(ctx, x, weight):
            z = torch.zeros_like(x)
            for _ in range(6):
                z = cell(z, x)
            ctx.save_for_backward(z, x)
            return z

        @staticmethod
        def backward(ctx, gradient):
            z, x = (t.detach() for t in ctx.saved_tensors)
            solved = gradient
            for _ in range(9):
                with torch.enable_grad():
                    at = again(z)
                    y = cell(at, x)
                solved = gradient + torch.autograd.grad(y, at, solved)[0]
            with torch.enable_grad():
                x = again(x)
                y = cell(z, x)
            return torch.autograd.grad(y, [x, weight], solved)

    return nn.ParameterList([weight]), lambda: applied(Bare, leaf() * 1, weight).sum().backward()


@program
def a_differential_equation():
    field = mlp(4)

    class Adjoint(Function):
        @staticmethod
        def forward(ctx, z, *parameters):
            for _ in range(4):
                z = z + 0.1 * field(z)
            ctx.save_for_backward(z)
            return z

        @staticmethod
        def backward(ctx, gradient):
            state = torch.cat([ctx.saved_tensors[0], gradient], -1)
            for _ in range(4):
                with torch.enable_grad():
                    z, adjoint = state.chunk(2, -1)
                    z = again(z)
                    y = field(z)
                d_adjoint, *found = torch.autograd.grad(y, [z, *field.parameters()], adjoint)
                state = state + 0.1 * torch.cat([-y.detach(), d_adjoint], -1)
            return state.chunk(2, -1)[1], *found

    return field, lambda: applied(Adjoint, leaf(4, 4), *field.parameters()).sum().backward()


# --------------------------------------------------------------- what else backwards compute


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
            x = again(ctx.saved_tensors[0])
            y = part("square", lambda y: y.pow(2))(ctx.module(x))
            (slope,) = torch.autograd.grad(y, x, gradient, create_graph=True)
            loss = slope.pow(2).sum() * 0.1
        ours = list(ctx.module.parameters())
        first = torch.autograd.grad(y, [x, *ours], gradient, retain_graph=True)
        second = torch.autograd.grad(loss, ours, allow_unused=True)
        total = [a if b is None else a + b for a, b in zip(first[1:], second, strict=True)]
        return first[0] + slope.detach(), None, *total


@program
def a_gradient_penalty():
    model = mlp()

    def run():
        applied(Penalised, leaf() * 1, model, *model.parameters()).sum().backward()

    return model, run


class Outer(Function):
    """Applies other functions, and runs them again."""

    @staticmethod
    def inside(x, module):
        x = part("first", torch.exp)(x)
        x = applied(Chain, x, (module,), *module.parameters(), name="inner chain")
        x = applied(Scaled, x, name="inner scaled")
        return part("last", torch.cos)(x)

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        ctx.save_for_backward(x)
        return Outer.inside(x, module)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = again(ctx.saved_tensors[0])
            y = Outer.inside(x, ctx.module)
        found = torch.autograd.grad(y, [x, *ctx.module.parameters()], gradient)
        return found[0], None, *found[1:]


@program
def functions_inside_a_function():
    model = mlp()

    def run():
        applied(Outer, leaf() * 1, model, *model.parameters()).sum().backward()

    return model, run


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
            x = again(ctx.saved_tensors[0])
            torch.autograd.backward([a(x), b(x)], [of_a, of_b])
        return none_for_the_rest(ctx, x.grad)


@program
def two_results():
    model = nn.ModuleList([mlp(), nn.Linear(8, 3)])

    def run():
        a, b = applied(TwoResults, leaf() * 1, *model, *model.parameters())
        (a.sum() + b.exp().sum()).backward()

    return model, run


class Differentiable(Function):
    """Can be differentiated twice, though it runs a module again."""

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].view_as(ctx.saved_tensors[0])
            y, ours = ctx.module(x), ctx.module.parameters()
            found = torch.autograd.grad(y, [x, *ours], gradient, create_graph=True)
        return found[0], None, *found[1:]


def twice_differentiated(function, *args):
    def run():
        x = leaf() * 1
        y = applied(function, x, *args)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        slope.pow(2).sum().backward()

    return run


@program
def a_gradient_of_a_gradient():
    return None, twice_differentiated(Scaled)


@program
def a_gradient_of_a_gradient_through_a_module():
    model = mlp()
    return model, twice_differentiated(Differentiable, model, *model.parameters())


@program
def functions_of_parameters():
    model = nn.ParameterDict({name: leaf(8, 8) for name in "ab"})

    class Functional(Function):
        @staticmethod
        def inside(x, a, b):
            x = part("relu", F.relu)(part("a", F.linear)(x, a))
            return part("relu again", F.relu)(part("b", F.linear)(x, b))

        @staticmethod
        def forward(ctx, x, a, b):
            ctx.save_for_backward(x, a, b)
            return Functional.inside(x, a, b)

        @staticmethod
        def backward(ctx, gradient):
            with torch.enable_grad():
                given = [again(t) for t in ctx.saved_tensors]
                y = Functional.inside(*given)
            return torch.autograd.grad(y, given, gradient.clone())

    return model, lambda: applied(Functional, leaf() * 1, *model.values()).sum().backward()


@program
def a_module_called_with_other_parameters():
    model = mlp()

    class Swapped(Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x, *parameters)
            return model(x)

        @staticmethod
        def backward(ctx, gradient):
            with torch.enable_grad():
                x, *ours = map(again, ctx.saved_tensors)
                names = dict(zip(dict(model.named_parameters()), ours, strict=True))
                y = torch.func.functional_call(model, names, (x,))
            return torch.autograd.grad(y, [x, *ours], gradient)

    return model, lambda: applied(Swapped, leaf() * 1, *model.parameters()).sum().backward()


def by_function(differentiate):
    model = mlp()

    class ByFunction(Function):
        @staticmethod
        def inside(x):
            return part("sin", torch.sin)(model(x))

        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            return ByFunction.inside(x)

        @staticmethod
        def backward(ctx, gradient):
            found = differentiate(ByFunction.inside, ctx.saved_tensors[0], gradient)
            return none_for_the_rest(ctx, found)

    return model, lambda: applied(ByFunction, leaf() * 1, *model.parameters()).sum().backward()


@program
def by_torch_func():
    return by_function(lambda f, x, gradient: torch.func.vjp(f, x)[1](gradient)[0])


@program
def by_autograd_functional():
    return by_function(lambda f, x, gradient: torch.autograd.functional.vjp(f, x, gradient)[1])


@program
def a_backward_hook_that_runs_a_module():
    model = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8)])

    def run():
        hook = model[0].register_full_backward_hook(lambda m, given, got: (model[1](given[0]),))
        model[1](model[0](leaf() * 1)).sum().backward()
        hook.remove()

    return model, run


@program
def tensors_unpacked_by_running_a_module():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def run():
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: model(t.detach()))
        y = model(leaf() * 1)
        with hooks:
            y = part("square", lambda t: t * t)(y)
        y.sum().backward()

    return model, run


# --------------------------------------------------------------------- with checkpoints


def inside_a_checkpoint(reentrant):
    model = nn.Sequential(mlp(), nn.LayerNorm(8))

    def block(x):
        x = part("before", torch.exp)(x)
        x = applied(Chain, x, tuple(model), *model.parameters())
        return part("after", torch.tanh)(applied(Scaled, x))

    def run():
        checkpoint(block, leaf() * 1, use_reentrant=reentrant).sum().backward()

    return model, run


@program
def inside_a_checkpoint_by_hooks():
    return inside_a_checkpoint(reentrant=False)


@program
def inside_a_reentrant_checkpoint():
    return inside_a_checkpoint(reentrant=True)


def checkpoints_in_a_loop(reentrant):
    def block(number):
        def run(x):
            for name, function in (("sin", torch.sin), ("exp", torch.exp), ("cos", torch.cos)):
                x = part(f"{name} {number}", function)(x)
            return x

        return run

    def run():
        x = leaf() * 1
        for number in range(4):
            x = checkpoint(block(number), x, use_reentrant=reentrant)
        x.sum().backward()

    return None, run


@program
def checkpoints_in_a_loop_by_hooks():
    return checkpoints_in_a_loop(reentrant=False)


@program
def reentrant_checkpoints_in_a_loop():
    return checkpoints_in_a_loop(reentrant=True)


# ----------------------------------------------------------------------------- at random


class Pieces(Function):
    """Runs pieces again, at once or one by one, from what was kept or from copies of it."""

    @staticmethod
    def forward(ctx, x, pieces, how, *parameters):
        ctx.pieces, ctx.how, kept = pieces, how, []
        for piece in pieces:
            kept.append(x.clone() if "copied" in how else x)
            x = piece(x)
        ctx.save_for_backward(*kept[: 1 if "at once" in how else None])
        return x

    @staticmethod
    def run_again(ctx, x, pieces, gradient):
        with torch.enable_grad():
            x = y = again(x)
            for piece in pieces:
                y = piece(y)
            if "loss" in ctx.how:
                y, gradient = (y * gradient).sum(), None
        y.backward(gradient)
        return x.grad

    @staticmethod
    def backward(ctx, gradient):
        kept = ctx.saved_tensors
        if "at once" in ctx.how:
            return none_for_the_rest(ctx, Pieces.run_again(ctx, *kept, ctx.pieces, gradient))
        for piece, x in reversed(list(zip(ctx.pieces, kept, strict=True))):
            gradient = Pieces.run_again(ctx, x, [piece], gradient) * 1
        return none_for_the_rest(ctx, gradient)


class Random:
    """A program of modules, functions, loops, checkpoints and custom functions in each other.

    Each part has a name of its own in each turn of each loop.
    """

    def __init__(self, seed, depth=3):
        self.random = random.Random(seed)
        self.model = nn.ModuleList()
        self.count = 0
        self.body = self.tree(depth)

    def run(self):
        self.body(torch.rand(2, 4, requires_grad=True) * 1.5, "").sum().backward()

    def leaf(self):
        self.count += 1
        name, kind = f"part {self.count}", self.random.randrange(8)
        if kind < 4:
            module = (
                lambda: nn.Linear(4, 4), lambda: nn.LayerNorm(4), lambda: nn.Dropout(0.2),
                lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
            )[kind]()  # fmt: skip
            self.model.append(module)
        elif kind < 6 and len(self.model):
            module = self.random.choice(self.model)
        else:
            module = (torch.sin, lambda x: (x * 0.1).exp(), lambda x: x * 0.5 + x.cos())[kind % 3]
        return lambda x, turn: part(name + turn, module)(x)

    def tree(self, depth):
        if depth == 0 or self.random.random() < 0.2:
            return self.leaf()
        below = [self.tree(depth - 1) for _ in range(self.random.randint(1, 3))]
        self.count += 1
        name, kind = f"part {self.count}", self.random.randrange(7)

        def run(x, turn):
            for each in below:
                x = each(x, turn)
            return x

        def loop(x, turn):
            for number in range(3):
                x = run(x, f"{turn}.{number}")
            return x

        def residual(x, turn):
            return part(name + turn, torch.add)(x, run(x, turn))

        how = "".join(word for word in ("at once", "copied", "loss") if self.random.random() < 0.5)

        def function(x, turn):
            pieces = [lambda x, each=each: each(x, turn) for each in below]
            ours = self.model.parameters()
            return applied(Pieces, x, pieces, how, *ours, name=f"function {name}{turn}")

        def checkpointed(x, turn):
            return checkpoint(lambda x: run(x, turn), x, use_reentrant=kind == 6)

        return (loop, residual, function, function, function, checkpointed, checkpointed)[kind]
