"""Small programs without a model, for what a replay must get right one at a time."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def _x():
    return torch.arange(12.0).view(4, 3) / 12


def in_place_relu():
    return (_x() - 0.5).relu_()


def views():
    return _x().t()[1:].unsqueeze(0).expand(2, 2, 4).reshape(-1)


def writes_through_views():
    x = _x()
    x[0].add_(1)
    x.view(-1)[2:5].mul_(3)
    x[:, 0] = 5.0
    return x + 1


def given_results():
    out = torch.zeros(4, 3)
    torch.add(_x(), _x(), out=out)
    return torch.mul(out, _x(), out=torch.ones(0))


def foreach():
    both = [_x(), _x() + 1]
    torch._foreach_mul_(both, 2.0)
    return torch._foreach_add(both, both)


def replaced_data():
    x, wide = torch.zeros(2, 2), torch.arange(12.0).view(3, 4)
    x.add_(1)
    x.data = wide[1:, 1:3]
    x.mul_(2)
    return wide + x.sum()


def inference_mode():
    with torch.inference_mode():
        x = _x() * 2
        x.add_(1)
        x[0].mul_(3)
        return x


def no_dimensions():
    return torch.tensor(2.0) * torch.tensor(3) + 1


def no_elements():
    return torch.zeros(0, 3).sum(0) + torch.ones(3), torch.zeros(3, 0) * 2


def complex_numbers():
    x = torch.complex(_x(), _x() + 1)
    return x.conj() * x, x.imag.neg(), torch.view_as_real(x), x.conj().imag + 1


def booleans():
    x = _x()
    return ((x > 0.2) & (x < 0.8)).logical_not().any(), x[x > 0.5], x.nonzero()


def sparse():
    x = _x().to_sparse()
    return x * 2, torch.sparse.mm(x, torch.ones(3, 2)), x.coalesce().values() + 1


def sparse_gradient():
    nn.Embedding(5, 3, sparse=True)(torch.tensor([1, 2, 1])).sum().backward()


def not_a_number():
    return torch.tensor([float("nan"), 0.0, -0.0]) / 0 + 1


def half_precision():
    return (_x().bfloat16() @ _x().t().bfloat16()).half()


def several_results():
    x = _x()
    return x.sort(), x.topk(2), x.max(0), x.split(3)


def dropout():
    return torch.dropout(torch.ones(64), 0.5, train=True)


def random_numbers():
    x = torch.rand(8) + torch.randn(8) + torch.randperm(8)
    return torch.bernoulli(torch.sigmoid(x)), torch.rrelu_(x, training=True)


def uninitialised_then_filled():
    return torch.empty(5).fill_(3) + 1, torch.empty_like(_x()).zero_()


def uninitialised_then_viewed():
    rows = torch.empty(64, 64)
    for row in rows:
        row.fill_(2)
    return rows * 3


def seeded_inside():
    torch.rand(8)
    torch.manual_seed(4)
    return torch.rand(8)


def checkpointed():
    x = torch.ones(64, requires_grad=True)
    y = checkpoint(lambda x: torch.dropout(x, 0.5, train=True).sin(), x, use_reentrant=False)
    y.sum().backward()


def second_gradient():
    x = _x().requires_grad_()
    (once,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return torch.autograd.grad(once.sum(), x)


def vmapped():
    return torch.func.vmap(lambda row: row.sin() * 2)(_x())


def without_memory():
    return torch.ones(3, device="meta") + 1


PROGRAMS = (
    in_place_relu, views, writes_through_views, given_results, foreach, replaced_data,
    inference_mode, no_dimensions, no_elements, complex_numbers, booleans, sparse,
    sparse_gradient, not_a_number, half_precision, several_results, dropout, random_numbers,
    uninitialised_then_filled, uninitialised_then_viewed, seeded_inside, checkpointed,
    second_gradient, vmapped, without_memory,
)  # fmt: skip
