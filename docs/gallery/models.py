"""The models of the gallery, built without downloads."""

import torch
from torch import nn

# torchvision's wheel for CUDA registers these itself; with a CPU build of torch its import
# fails unless their schemas are there.
if not hasattr(torch.ops.torchvision, "nms"):
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class SimpleRecurrent(nn.Module):
    """The article's recurrent model: one linear layer, four times around."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(in_features=5, out_features=5)

    def forward(self, x):
        for _ in range(4):
            x = self.fc(x)
            x = x + 1
            x = x * 2
        return x


def vision(name, size=224, **options):
    """Return a model of torchvision with random weights, in eval mode, and an image."""
    import torchvision

    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    return model, torch.rand(1, 3, size, size)


def gpt2():
    """Return a GPT-2 of two layers and a sequence of 16 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=512, bos_token_id=0)
    config.eos_token_id = 0
    return GPT2LMHeadModel(config).eval(), torch.randint(0, 512, (1, 16))
