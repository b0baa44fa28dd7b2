"""Programs with bad numbers: some that nobody gets to see, some that come to light.

Each is a function that returns a model, or None, and a function that runs it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from tests import zoo
from torch import nn
from torch.utils.checkpoint import checkpoint

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Expected:
    """What the error says; ``layer`` is how its label starts, and ``phase`` may be left open.

    ``forward`` says whether all of it is in the forward pass, which ``save="all"`` sees.
    """

    kind: str = "NaN"
    operator: str = ""
    came_in_with: str | None = None
    name: str | None = None
    layer: str | None = None
    seen_in: str = "what the block left"
    phase: str | None = None
    forward: bool = True
    made_of: str | None = None


def leaf(*shape, value=None):
    made = torch.rand(*shape) if value is None else torch.full(shape, float(value))
    return made.requires_grad_()


def bare(run):
    """A program without a model."""

    def made():
        return None, run

    made.__name__ = run.__name__
    return made


def model(module, *args, then=None):
    """A program that runs a model, and then a function on what it gives."""

    def run():
        output = module(*args)
        if then is not None:
            then(output)

    return module, run


class Lambda(nn.Module):
    """A model of one function, for the sake of its border."""

    def __init__(self, function, **tensors):
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, x, mask=None):
        return self.function(self, x) if mask is None else self.function(self, x, mask)


def backward(output):
    output.sum().backward()


def causal(size=4):
    return torch.full((size, size), -INF).triu(1)


def linear(*sizes, weight=None):
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    made = nn.Sequential(*layers)
    if weight is not None:
        with torch.no_grad():
            made[-1].weight[0, 0] = weight
    return made


# --------------------------------------------------------- what nobody gets to see: no alarm


def masked_by_where():
    x = torch.tensor([1.0, 0.0, -1.0])
    torch.where(x > 0, x.log(), 0.0).sum()


def masked_by_multiplying_later():
    x = torch.tensor([1.0, 0.0])
    (x.log() * 0).nan_to_num().sum()


def normalised_zero():
    F.normalize(leaf(2, 3, value=0), dim=1).sum().backward()


def norm_of_zero():
    leaf(3, value=0).norm().backward()


def cosine_of_zero():
    F.cosine_similarity(leaf(2, 3, value=0), leaf(2, 3), dim=1).sum().backward()


def distances_of_equal_points():
    x = leaf(4, 3)
    torch.cdist(x, x).sum().backward()


def sinc_of_zero():
    torch.sinc(leaf(3, value=0)).sum().backward()


def xlogy_of_zero():
    torch.xlogy(leaf(3, value=0), torch.zeros(3)).sum().backward()


def entropy_of_a_certain_outcome():
    p = torch.tensor([1.0, 0.0])
    torch.special.entr(p).sum()
    -(p * p.log()).nansum()


def a_logarithm_as_mask():
    scores = leaf(2, 4, 4)
    keep = torch.ones(4, 4).tril()
    (scores + keep.log()).softmax(-1).sum().backward()


def scores_masked_by_hand():
    q = leaf(2, 4, 8)
    scores = (q @ q.mT).masked_fill(torch.ones(4, 4).triu(1) > 0, -INF)
    (scores.softmax(-1) @ q).sum().backward()


def a_row_that_is_masked_out_afterwards():
    scores = torch.full((2, 3), -INF)
    scores[0] = 1.0
    weights = scores.softmax(-1)
    torch.where(weights.isnan(), 0.0, weights).sum()


def decoding_by_argmax():
    allowed = torch.tensor([1.0, 0.0, 1.0])
    (torch.rand(3) + allowed.log()).argmax()


def overwritten_whole():
    y = torch.zeros(3).log()
    y.zero_()
    y + 1


def overwritten_element_by_element():
    y = torch.tensor([1.0, 0.0, 1.0]).log()
    y[1] = 0.0


def overwritten_by_a_mask():
    y = torch.tensor([1.0, 0.0, 1.0]).log()
    y[y.isinf()] = 0.0


def overwritten_through_a_view():
    y = torch.zeros(2, 3).log()
    y.view(-1)[:3].fill_(0)
    y[1].copy_(torch.ones(3))


def overwritten_column_by_column():
    y = torch.zeros(3, 2) / 0
    for column in range(2):
        y[:, column] = column


def overwritten_by_out():
    y = torch.zeros(3).log()
    torch.exp(torch.ones(3), out=y)


def only_the_good_part_is_viewed():
    padded = torch.tensor([1.0, 2.0, 0.0]).log()
    padded[:2].sum().item()


def memory_that_nobody_wrote():
    def run():
        y = torch.empty(64, 64)
        y[:32].fill_(1.0)
        y[:32].sum().item()
        torch.empty_like(y).copy_(torch.ones(64, 64)).sum()
        torch.empty(64, 64).double().fill_(1)

    torch.empty(64, 64).fill_(NAN)  # which the allocator is likely to hand out again
    return None, run


def an_infinity_as_start():
    best = torch.full((3,), -INF)
    for _ in range(3):
        best = torch.maximum(best, torch.rand(3))
    torch.rand(3).clamp(max=INF)


def infinities_are_filled_in():
    torch.full((2,), -INF)
    torch.zeros(3).fill_(-INF)
    F.pad(torch.rand(2, 3), (1, 1), value=-INF)
    torch.rand(3).new_full((2,), INF)
    torch.where(torch.rand(3) > 0.5, torch.rand(3), -INF)


def an_unbounded_minimum():
    costs = torch.full((4, 4), INF)
    costs[0, 0] = 0.0
    for i in range(1, 4):
        costs[i] = torch.minimum(costs[i], costs[i - 1] + torch.rand(4))
    float(costs[-1].min())


def infinite_numbers_are_read():
    float(torch.full((), INF))
    torch.tensor([-INF, 1.0]).max().item()
    torch.tensor([-INF, 1.0])[0].item()


def a_graph_with_infinite_edges():
    return model(Lambda(lambda m, x: x + torch.rand(3, 3)), torch.full((3, 3), INF))


def a_model_that_returns_its_mask():
    return model(Lambda(lambda m, x: (x, causal())), torch.rand(2))


def a_model_whose_buffer_is_a_mask():
    net = Lambda(lambda m, x: x + m.mask, mask=causal())
    return model(net, leaf(4, 4), then=lambda y: y.softmax(-1))


def a_mask_given_to_the_model():
    return model(
        Lambda(lambda m, x, mask: (x + mask).softmax(-1)), leaf(4, 4), causal(), then=backward
    )


def a_nan_that_only_a_predicate_reads():
    y = torch.zeros(2) / torch.zeros(2)
    if not y.isfinite().all():
        return


def missing_numbers():
    x = torch.tensor([1.0, NAN, 3.0])
    x.nanmean().item()
    torch.nan_to_num(x).sum().item()
    torch.where(x.isnan(), torch.zeros(3), x).sum().item()
    x[~x.isnan()].sum().item()


def an_output_that_is_passed_over():
    sign, _ = torch.linalg.slogdet(torch.zeros(2, 2))
    (sign * 2).item()


def what_a_kernel_notes_for_itself():
    log_probs = torch.rand(5, 1, 3).log_softmax(-1)
    with torch.no_grad():
        F.ctc_loss(log_probs, torch.tensor([[1]]), torch.tensor([5]), torch.tensor([1])).item()
    F.ctc_loss(
        log_probs.requires_grad_(), torch.tensor([[1]]), torch.tensor([5]), torch.tensor([1])
    ).backward()


class Inspecting(nn.Module):
    def forward(self, x):
        _unused = (x * 0).log()
        return x * 2


def a_module_that_only_looks():
    return model(Inspecting(), torch.rand(3), then=torch.sum)


class Where(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x.sqrt(), 0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad / (2 * x.sqrt()), 0)


def a_function_that_masks_its_backward():
    Where.apply(leaf(3, value=0)).sum().backward()


def a_hook_that_mends_a_gradient():
    x = leaf(3, value=0)
    x.register_hook(torch.nan_to_num)
    torch.where(x > 0, x.sqrt(), 0).sum().backward()


def gradients_that_are_mended():
    net = linear(3, 3)
    optimizer = torch.optim.Adam(net.parameters())

    def run():
        y = net(torch.zeros(2, 3)) * 0
        torch.where(y > 0, y.sqrt(), 0).sum().backward()
        for parameter in net.parameters():
            torch.nan_to_num(parameter.grad, out=parameter.grad)
        optimizer.step()

    return net, run


def a_step_that_is_skipped():
    net = linear(3, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def run():
        y = net(torch.zeros(2, 3)) * 0
        torch.where(y > 0, y.sqrt(), 0).sum().backward()
        if all(p.grad.isfinite().all() for p in net.parameters()):
            optimizer.step()
        optimizer.zero_grad()

    return net, run


def scaled(clip=False, scale=2.0**120):
    def made():
        net = linear(3, 8, 3)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.AdamW(net.parameters(), 0.1)

        def run():
            for _ in range(2):
                loss = (net(torch.rand(4, 3)) * 1e3).pow(2).sum()
                scaler.scale(loss).backward()
                if clip:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0).item()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()

        return net, run

    return made


def scaled_without_a_step():
    net = linear(3, 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    return net, lambda: scaler.scale(net(torch.rand(2, 3)).pow(2).sum() * 100).backward()


def a_checkpoint():
    def block(x):
        return F.normalize(x, dim=0) + torch.where(x > 0, x.detach().log(), 0)

    for reentrant in (True, False):
        checkpoint(block, leaf(3, value=0) * 1, use_reentrant=reentrant).sum().backward()


def without_autograd():
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            x = torch.tensor([0.0, 1.0])
            torch.where(x > 0, x.log(), 0).sum().item()
            F.scaled_dot_product_attention(*torch.rand(3, 1, 2, 4, 8), attn_mask=causal())


def attention_of(**options):
    def run():
        q = leaf(1, 2, 4, 8)
        F.scaled_dot_product_attention(q, q, q, **options).sum().backward()

    return run


def multi_head(training, *, boolean):
    def made():
        net = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
        mask = causal() == -INF if boolean else causal()
        x = leaf(2, 4, 8)

        def run():
            net(x, x, x, attn_mask=mask, need_weights=training)[0].sum().backward()

        return net, run

    return made


def transformer(training):
    def made():
        net = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).train(training)
        padding = torch.tensor([[False, False, True], [False, True, True]])
        source, target = leaf(2, 3, 16), leaf(2, 4, 16)

        def run():
            mask = nn.Transformer.generate_square_subsequent_mask(4)
            net(
                source, target, tgt_mask=mask, src_key_padding_mask=padding,
                memory_key_padding_mask=padding,
            ).sum().backward()  # fmt: skip

        return net, run

    return made


def gpt2(training):
    def made():
        zoo._torchvision()  # transformers imports it where it is installed
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}
        net = GPT2LMHeadModel(GPT2Config(**sizes, attn_implementation="eager")).train(training)
        tokens = torch.randint(50, (2, 8))
        attended = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])

        def run():
            loss = net(tokens, attention_mask=attended, labels=tokens).loss
            if training:
                loss.backward()

        return net, run

    return made


def sparse_and_quantised():
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8).dequantize().sum()
        torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]).to_padded_tensor(0.0).sum()
        dense.to_sparse_csr().to_dense().sum()
    torch.sparse.mm(dense.to_sparse(), dense).sum()
    torch.ones(2, device="meta").log().sum()
    dense.to(torch.float8_e4m3fn).float().sum()


UNSEEN = {
    f.__name__: bare(f)
    for f in (
        masked_by_where, masked_by_multiplying_later, normalised_zero, norm_of_zero, cosine_of_zero,
        distances_of_equal_points, sinc_of_zero, xlogy_of_zero, entropy_of_a_certain_outcome,
        a_logarithm_as_mask, scores_masked_by_hand, a_row_that_is_masked_out_afterwards,
        decoding_by_argmax, overwritten_whole, overwritten_element_by_element,
        overwritten_by_a_mask, overwritten_through_a_view, overwritten_column_by_column,
        overwritten_by_out, only_the_good_part_is_viewed,
        an_infinity_as_start, infinities_are_filled_in, an_unbounded_minimum,
        infinite_numbers_are_read, a_nan_that_only_a_predicate_reads, missing_numbers,
        an_output_that_is_passed_over, what_a_kernel_notes_for_itself,
        a_function_that_masks_its_backward, a_hook_that_mends_a_gradient, a_checkpoint,
        without_autograd, sparse_and_quantised,
    )
} | {
    f.__name__: f
    for f in (
        a_graph_with_infinite_edges, a_model_that_returns_its_mask, a_model_whose_buffer_is_a_mask,
        a_mask_given_to_the_model, a_module_that_only_looks, gradients_that_are_mended,
        a_step_that_is_skipped, scaled_without_a_step, memory_that_nobody_wrote,
    )
} | {
    "attention": bare(attention_of(attn_mask=causal())),
    "causal attention": bare(attention_of(is_causal=True)),
    "boolean attention": bare(attention_of(attn_mask=torch.ones(4, 4).tril() > 0)),
    "multi-head in training": multi_head(training=True, boolean=False),
    "multi-head in training, boolean": multi_head(training=True, boolean=True),
    "multi-head in evaluation": multi_head(training=False, boolean=False),
    "a scaler, once too large": scaled(),
    "a scaler, clipping": scaled(clip=True),
    "a scaler whose scale is infinite": scaled(scale=3e38),
    "a transformer in training": transformer(training=True),
    "a transformer in evaluation": transformer(training=False),
    "GPT-2 in training": gpt2(training=True),
    "GPT-2 in evaluation": gpt2(training=False),
}  # fmt: skip


# ------------------------------------------------------------------------- what comes to light


def where_trap():
    net = linear(2, 3)

    def run():
        y = net(torch.zeros(4, 2)) * 0
        torch.where(y > 0, y.sqrt(), 0).sum().backward()

    return net, run


def where_trap_and_a_step():
    net = linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters())

    def run():
        y = net(torch.zeros(4, 2)) * 0
        torch.where(y > 0, y.sqrt(), 0).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return net, run


def where_trap_in_a_function():
    x = leaf(3, value=0)
    torch.where(x > 0, x.sqrt(), 0).sum().backward()


def gradient_that_is_returned():
    x = leaf(3, value=0)
    return torch.autograd.grad(torch.where(x > 0, x.sqrt(), 0).sum(), x)


def loss_of_nothing():
    return model(linear(2, 3), torch.rand(2, 2), then=_loss_of_nothing)


def _loss_of_nothing(output):
    F.cross_entropy(output, torch.tensor([-100, -100])).backward()


def weight_in(module, name, value=NAN):
    with torch.no_grad():
        module.get_parameter(name).view(-1)[0] = value
    return module


def nan_weight():
    return model(linear(2, 3, 1, weight=NAN), torch.rand(4, 2))


def nan_weight_trained():
    net = linear(2, 3, 1, weight=NAN)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def run():
        net(torch.rand(4, 2)).sum().backward()
        optimizer.step()

    return None, run


def infinite_weight():
    return model(linear(2, 3, 1, weight=INF), torch.rand(4, 2) + 1)


def tied_weight_under_autocast():
    net = linear(4, 4, weight=NAN)

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            net(torch.rand(2, 4))

    return net, run


def nan_buffer():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    net[1].running_var[0] = NAN
    return model(net, torch.rand(4, 2))


def nan_input():
    return model(linear(2, 3), torch.full((4, 2), NAN))


def nan_input_by_keyword():
    net = Lambda(lambda m, x, mask: x * mask)
    return net, lambda: net(torch.rand(2), mask=torch.tensor([NAN, 1.0]))


def nan_input_made_in_the_block():
    net = linear(2, 3)
    return net, lambda: net(torch.tensor([[NAN, 1.0]]))


def nan_input_that_goes_straight_through():
    return model(nn.Identity(), torch.full((2,), NAN))


def nan_data():
    data = torch.full((3,), NAN)

    def run():
        (data * 2).sum()

    return None, run


def nan_data_from_numpy():
    (torch.from_numpy(np.array([NAN, 1.0])) * 2).sum()


def nan_data_from_a_file():
    from io import BytesIO

    file = BytesIO()
    torch.save({"x": torch.tensor([NAN, 1.0])}, file)

    def run():
        file.seek(0)
        (torch.load(file)["x"] * 2).sum()

    return None, run


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([index, NAN if index == 3 else 0.0])


def nan_data_from_a_loader():
    net = linear(2, 3)

    def run():
        for batch in torch.utils.data.DataLoader(Broken(), batch_size=2):
            net(batch).sum()

    return net, run


def nan_weight_loaded_in_the_block():
    net, state = linear(2, 3), linear(2, 3, weight=NAN).state_dict()
    return net, lambda: net.load_state_dict(state)


def nan_as_an_argument():
    (torch.full((3,), NAN) * 2).sum()


def a_masked_row():
    net = Lambda(lambda m, x, mask: (x + mask).softmax(-1))
    return model(net, torch.rand(2, 3), torch.full((2, 3), -INF))


def a_row_masked_by_an_argument():
    torch.rand(2, 3).masked_fill(torch.ones(2, 3) > 0, -INF).softmax(-1).sum()


def a_logarithm_that_is_returned():
    return model(Lambda(lambda m, x: x.log()), torch.zeros(3))


def an_overflow_that_becomes_a_nan():
    x = torch.full((3,), 3e38) * 10
    (x - x).exp().sum()


def too_large_for_half():
    torch.full((3,), 1e5).half() + 1


def too_large_for_float8():
    torch.full((3,), 1e5).to(torch.float8_e5m2).float().sum()


def complex_numbers():
    (torch.zeros(3, dtype=torch.complex64) / 0).abs().sum()


def in_place():
    torch.full((3,), -1.0).log_()


def through_a_view():
    x = torch.ones(4)
    x[1:].div_(0)
    x.sum()


def one_element():
    x = torch.ones(3)
    x[1] = torch.zeros(()).log()
    x * 2


def written_to_out():
    torch.log(torch.zeros(3), out=torch.ones(3))


def of_a_list():
    torch._foreach_div_([torch.ones(3), torch.ones(2)], [1.0, 0.0])


def only_a_part_is_mended():
    y = torch.zeros(3).log()
    y[0] = 0.0


def bad_before_and_after_it_was_mended():
    x = torch.zeros(3)
    x.log_()
    x.fill_(1)
    x.div_(0)


def an_infinity_that_spreads():
    x = torch.tensor([1.0, 0.0]).log()
    (x - x).exp().sum()


def read_by_python():
    with torch.no_grad():
        float((torch.zeros(2) / torch.zeros(2)).sum())
        torch.rand(3).sum()


def lost_in_a_cast():
    (torch.zeros(3) / torch.zeros(3)).to(torch.int32)


def lost_in_an_argmax():
    return model(Lambda(lambda m, x: x / x), torch.zeros(3), then=torch.argmax)


def statistics_of_a_norm():
    net = nn.Sequential(Lambda(lambda m, x: x / x), nn.BatchNorm1d(3))
    return net, lambda: net(torch.zeros(4, 3))


def too_large_a_step():
    net = linear(2, 3)
    optimizer = torch.optim.SGD(net.parameters(), 1e38)

    def run():
        (net(torch.ones(4, 2)) * 100).sum().backward()
        optimizer.step()

    return net, run


def an_infinite_gradient():
    net, data = linear(2, 1), torch.tensor([[INF, 1.0]])
    return net, lambda: (net[0].weight * data).sum().backward()


def a_hook_that_breaks_a_gradient():
    x = leaf(3)
    x.register_hook(lambda gradient: gradient / 0)
    (x * 2).sum().backward()


class Breaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad.log() * 0 / 0


def a_function_that_breaks_its_backward():
    Breaking.apply(leaf(3)).sum().backward()


def a_checkpoint_with_the_trap():
    def block(x):
        return torch.where(x > 0, x.sqrt(), 0)

    net = linear(2, 3)

    def run():
        checkpoint(block, net(torch.rand(2, 2)) * 0, use_reentrant=False).sum().backward()

    return net, run


def scaled_loss_that_is_nan():
    net = linear(3, 3, weight=NAN)
    scaler = torch.amp.GradScaler("cpu")
    return None, lambda: scaler.scale(net(torch.rand(2, 3)).sum()).backward()


def without_autograd_and_seen():
    with torch.inference_mode():
        return F.softmax(torch.full((2, 3), -INF), -1).sum()


def a_part_of_the_model():
    net = nn.Sequential(linear(2, 2), Lambda(lambda m, x: x.log()))
    return net, lambda: net[1](net[0](torch.rand(2, 2)) * 0)


def a_sparse_product():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse()
    torch.sparse.mm(x, torch.ones(2, 2) / 0)


def recursion():
    class Halving(nn.Module):
        def forward(self, x, depth=2):
            return self(x / 0, 0) if depth == 2 else x + 1

    return model(Halving(), torch.ones(2))


def resnet(training):
    def made():
        net = zoo._torchvision()[0].resnet18().train(training)
        weight_in(net, "layer1.0.conv1.weight")
        return model(net, torch.rand(2, 3, 32, 32), then=backward)

    made.__name__ = "resnet_in_training" if training else "resnet_in_evaluation"
    return made


def gpt2_with_a_nan():
    net, run = gpt2(training=True)()
    return weight_in(net, "transformer.h.1.attn.c_attn.weight"), run


SEEN = {
    where_trap: Expected(operator="aten.div.Tensor", layer="sqrt_1", seen_in="the gradient of 0.weight", phase="backward", forward=False),
    where_trap_and_a_step: Expected(operator="aten.div.Tensor", layer="sqrt_1", seen_in="the gradient of 0.weight", phase="backward", forward=False),
    bare(where_trap_in_a_function): Expected(operator="aten.div.Tensor", layer="sqrt_1", seen_in="the gradient of a float32[3] leaf", phase="backward", forward=False),
    bare(gradient_that_is_returned): Expected(operator="aten.div.Tensor", layer="sqrt_1", phase="backward", forward=False),
    loss_of_nothing: Expected(operator="aten.nll_loss_forward.default", layer="crossentropy_1", seen_in="the loss"),
    nan_weight: Expected(came_in_with="parameter", name="1.weight", seen_in="what the model returned"),
    nan_weight_trained: Expected(came_in_with="parameter", name="1.weight", seen_in="the loss", forward=False),
    infinite_weight: Expected("Inf", came_in_with="parameter", name="1.weight", seen_in="what the model returned"),
    tied_weight_under_autocast: Expected(came_in_with="parameter", name="0.weight", seen_in="what the model returned"),
    nan_buffer: Expected(came_in_with="buffer", name="1.running_var", seen_in="what the model returned"),
    nan_input: Expected(came_in_with="input", name="input", seen_in="what the model returned"),
    nan_input_by_keyword: Expected(came_in_with="input", name="mask", seen_in="what the model returned"),
    nan_input_made_in_the_block: Expected(came_in_with="input", name="input", seen_in="what the model returned"),
    nan_input_that_goes_straight_through: Expected(came_in_with="input", name="input", seen_in="what the model returned"),
    nan_data: Expected(came_in_with="data"),
    bare(nan_data_from_numpy): Expected(came_in_with="data"),
    nan_data_from_a_file: Expected(came_in_with="data"),
    nan_data_from_a_loader: Expected(came_in_with="input", name="input", seen_in="what the model returned"),
    nan_weight_loaded_in_the_block: Expected(came_in_with="parameter", name="0.weight"),
    bare(nan_as_an_argument): Expected(operator="aten.full.default", came_in_with="argument", name="fill_value", layer="full_1"),
    a_masked_row: Expected(operator="aten._softmax.default", layer="softmax_1", seen_in="what the model returned", made_of="Inf that came in with input mask"),
    bare(a_row_masked_by_an_argument): Expected(operator="aten._softmax.default", layer="softmax_1", made_of="Inf that aten.masked_fill.Scalar was given as value"),
    a_logarithm_that_is_returned: Expected("Inf", "aten.log.default", layer="log_1", seen_in="what the model returned"),
    bare(an_overflow_that_becomes_a_nan): Expected("Inf", "aten.mul.Tensor", layer="mul_1"),
    bare(too_large_for_half): Expected("Inf", "aten._to_copy.default", layer="half_1"),
    bare(too_large_for_float8): Expected("Inf", "aten._to_copy.default", layer="to_1"),
    bare(complex_numbers): Expected("NaN", "aten.div.Tensor", layer="div_1"),
    bare(in_place): Expected("NaN", "aten.log_.default", layer="log_1"),
    bare(through_a_view): Expected("Inf", "aten.div_.Tensor", layer="div_1"),
    bare(one_element): Expected("Inf", "aten.log.default", layer="log_1"),
    bare(written_to_out): Expected("Inf", "aten.log.out", layer="log_1"),
    bare(of_a_list): Expected("Inf", "aten._foreach_div_.ScalarList", layer="foreachdiv_1", forward=False),
    bare(only_a_part_is_mended): Expected("Inf", "aten.log.default", layer="log_1"),
    bare(bad_before_and_after_it_was_mended): Expected("Inf", "aten.div_.Tensor", layer="div_1"),
    bare(an_infinity_that_spreads): Expected("Inf", "aten.log.default", layer="log_1"),
    bare(read_by_python): Expected("NaN", "aten.div.Tensor", layer="div_1", seen_in="a number that Python read"),
    bare(lost_in_a_cast): Expected("NaN", "aten.div.Tensor", layer="div_1"),
    lost_in_an_argmax: Expected("NaN", "aten.div.Tensor", layer="div_1", seen_in="what the model returned"),
    statistics_of_a_norm: Expected("NaN", "aten.div.Tensor", layer="div_1", seen_in="buffer 1.running_mean", forward=False),
    too_large_a_step: Expected("Inf", "aten.add_.Tensor", layer="add_1", seen_in="parameter 0.weight", phase="optimizer", forward=False),
    an_infinite_gradient: Expected("Inf", came_in_with="data", seen_in="the gradient of 0.weight", forward=False),
    bare(a_hook_that_breaks_a_gradient): Expected("Inf", "aten.div.Tensor", phase="backward", seen_in="the gradient of a float32[3] leaf", forward=False),
    bare(a_function_that_breaks_its_backward): Expected("NaN", "aten.div.Tensor", layer="mul_1", phase="backward", seen_in="the gradient of a float32[3] leaf", forward=False),
    a_checkpoint_with_the_trap: Expected("NaN", "aten.div.Tensor", phase="backward", layer="sqrt_1", seen_in="the gradient of 0.weight", forward=False),
    scaled_loss_that_is_nan: Expected(came_in_with="parameter", name="0.weight", seen_in="the loss"),
    bare(without_autograd_and_seen): Expected("NaN", "aten.softmax.int", layer="softmax_1", made_of="Inf that aten.full.default was given as fill_value"),
    a_part_of_the_model: Expected("Inf", "aten.log.default", layer="log_1"),
    bare(a_sparse_product): Expected("Inf", "aten.div.Tensor", layer="div_1"),
    recursion: Expected("Inf", "aten.div.Tensor", layer="div_1", seen_in="what the model returned"),
    resnet(training=True): Expected(came_in_with="parameter", name="layer1.0.conv1.weight", seen_in="buffer layer1.0.bn1.running_mean", forward=False),
    resnet(training=False): Expected(came_in_with="parameter", name="layer1.0.conv1.weight", seen_in="what the model returned"),
    gpt2_with_a_nan: Expected(came_in_with="parameter", name="transformer.h.1.attn.c_attn.weight", seen_in="what the model returned at loss"),
}  # fmt: skip
