"""Small configurations of models as users have them: torchvision's, timm's and transformers'."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from tests import zoo


def _tv(name, size=64, **options):
    return lambda: zoo._vision(name, size, **options)


def _timm(name, size=64, **options):
    def build():
        zoo._torchvision()
        timm = pytest.importorskip("timm")
        return zoo.Program(timm.create_model(name, num_classes=10, **options), zoo._image(size))

    return build


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def _hf(kind, model="Model", *, sizes=SIZES, **options):
    def build():
        zoo._torchvision()
        import transformers

        config = getattr(transformers, f"{kind}Config")(vocab_size=50, **sizes, **options)
        ids = torch.randint(3, 50, (2, 7))
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        kwargs = {"input_ids": ids, "attention_mask": mask}
        return zoo.Program(getattr(transformers, f"{kind}{model}")(config), kwargs=kwargs)

    return build


GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2}
KV = {"num_key_value_heads": 1, "max_position_embeddings": 32}
FEW: dict[str, Callable[[], zoo.Program]] = {
    "resnet18": _tv("resnet18"), "mobilenet_v3_small": _tv("mobilenet_v3_small"),
    "alexnet": _tv("alexnet", 63), "swin": zoo._swin, "vit": zoo._vit, "gpt2": zoo._gpt2,
    "llama": _hf("Llama", **KV), "bert": _hf("Bert"), "distilbert": _hf(
        "DistilBert", sizes={"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "squeezenet": _tv("squeezenet1_1"), "convnext": _tv("convnext_tiny"),
    "shufflenet": _tv("shufflenet_v2_x1_0"),
}  # fmt: skip
MANY: dict[str, Callable[[], zoo.Program]] = {
    **{n: _tv(n) for n in (
        "resnet34", "resnet50", "vgg11", "vgg11_bn", "squeezenet1_0", "densenet121", "mobilenet_v2",
        "mobilenet_v3_large", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "regnet_x_400mf",
        "efficientnet_b0", "swin_t", "swin_v2_t", "resnext50_32x4d", "wide_resnet50_2",
    )},
    "googlenet": _tv("googlenet", 96, init_weights=False, aux_logits=False),
    "inception_v3": _tv("inception_v3", 96, init_weights=False, aux_logits=False),
    "vit_b_16": _tv("vit_b_16", 64, image_size=64),
    **{n: _timm(n) for n in (
        "resnet10t", "resnetv2_50", "ghostnet_050", "lcnet_050", "tinynet_e", "mobilenetv4_conv_small",
        "efficientvit_b0", "repvgg_a0", "hrnet_w18_small", "dla34", "regnetz_005", "poolformer_s12",
        "edgenext_xx_small", "fbnetc_100", "convnext_atto", "convnextv2_atto", "rexnet_100",
        "mobilenetv3_small_050",
    )},
    **{n: _timm(n, img_size=64) for n in (
        "deit_tiny_patch16_224", "mixer_s16_224", "gmlp_s16_224", "resmlp_12_224",
        "cait_xxs24_224", "vit_tiny_patch16_224", "xcit_nano_12_p16_224",
    )},
    **{k.lower(): _hf(k) for k in ("Roberta", "Electra", "MPNet", "Ernie", "MegatronBert")},
    **{k.lower(): _hf(k, **KV) for k in ("Mistral", "Qwen2", "Phi", "Gemma", "StableLm", "Olmo")},
    "gptneox": _hf("GPTNeoX", max_position_embeddings=32),
    "opt": _hf("OPT", sizes={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                             "ffn_dim": 32, "word_embed_proj_dim": 16}),
    "bloom": _hf("Bloom", sizes={"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "gptneo": _hf("GPTNeo", sizes={"hidden_size": 16, "num_layers": 2, "num_heads": 2,
                                   "attention_types": [[["global", "local"], 1]]}),
    "albert": _hf("Albert", embedding_size=8),
}  # fmt: skip
BUILDERS = {**FEW, **MANY}


@cache
def model(name):
    """Return the one program of that name, in evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = BUILDERS[name]()
    program.module.eval()
    return program
