"""The zoo: real models from three libraries, with random weights and small inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from models import torchvision_models
from torch import nn

Run = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Entry:
    """A model that can be built: what makes it, and a function that runs it."""

    family: str
    name: str
    build: Callable[[], tuple[nn.Module, Run]]


def entries() -> Iterator[Entry]:
    """Give every model, by library."""
    libraries = {"torchvision": TORCHVISION, "timm": TIMM, "transformers": TRANSFORMERS}
    for family, models in libraries.items():
        for name, build in models.items():
            yield Entry(family, name, build)


def calling(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[nn.Module, Run]:
    return model, lambda module: module(*args, **kwargs)


# ------------------------------------------------------------------------- torchvision

_kernels = torch.library.Library("torchvision", "FRAGMENT")


def _torchvision():
    """Return ``torchvision.models``, able to run detection where its C++ operators are missing."""
    models = torchvision_models()
    from torchvision import extension
    from torchvision.ops import boxes

    if not extension._has_ops() and boxes._assert_has_ops is extension._assert_has_ops:
        _kernels.impl("nms", _nms, "CPU")
        boxes._assert_has_ops = lambda: None
        # Their own Python version, uncompiled.
        align = sys.modules["torchvision.ops.roi_align"]
        align._roi_align = align._roi_align.__wrapped__
    return models


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keep the best box, drop those that overlap with it, and so on."""
    order = scores.argsort(descending=True, stable=True)
    corner, opposite = boxes[order].split(2, dim=1)
    area = (opposite - corner).prod(1)
    size = torch.minimum(opposite[:, None], opposite) - torch.maximum(corner[:, None], corner)
    common = size.clamp(min=0).prod(2)
    overlaps = (common / (area[:, None] + area - common) > iou_threshold).tolist()
    kept: list[int] = []
    for place, row in enumerate(overlaps):
        if not any(row[other] for other in kept):
            kept.append(place)
    return order[torch.tensor(kept, dtype=torch.long)]


def _vision(name: str, *shape: int, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        factory = _torchvision().get_model_builder(name)
        return calling(factory(weights=None, **options), torch.rand(2, *shape))

    return build


def _segmentation(name: str) -> Callable[[], tuple[nn.Module, Run]]:
    return _vision(name, 3, 64, 64, weights_backbone=None, num_classes=5)


def _detection(name: str, size: int, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        factory = _torchvision().get_model_builder(name)
        sizes = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
        model = factory(
            weights=None, weights_backbone=None, num_classes=3, **sizes, **options
        )  # fmt: skip
        images = [torch.rand(3, size, size), torch.rand(3, size, size - 16)]
        box = torch.tensor([[4.0, 6.0, 40.0, 44.0], [10.0, 2.0, 30.0, 28.0]])
        target = {"boxes": box, "labels": torch.tensor([1, 2])}
        target["masks"] = torch.randint(2, (2, size, size), dtype=torch.uint8)
        if name.startswith("keypoint"):
            points = torch.rand(2, 17, 2) * 20 + 10
            target["keypoints"] = torch.cat([points, torch.ones(2, 17, 1)], 2)
        other = {**target, "masks": target["masks"][:, :, : size - 16]}

        def run(module: nn.Module) -> Any:
            return module(images, [target, other]) if module.training else module(images)

        return model, run

    return build


_FEW = {
    "rpn_post_nms_top_n_test": 20, "rpn_post_nms_top_n_train": 20,
    "box_batch_size_per_image": 16, "box_detections_per_img": 4,
}  # fmt: skip
TORCHVISION = {
    "convnext_tiny": _vision("convnext_tiny", 3, 32, 32),
    "densenet121": _vision("densenet121", 3, 32, 32),
    "efficientnet_b0": _vision("efficientnet_b0", 3, 32, 32),
    "googlenet": _vision("googlenet", 3, 96, 96, init_weights=False, aux_logits=True),
    "inception_v3": _vision("inception_v3", 3, 96, 96, init_weights=False, aux_logits=False),
    "mnasnet0_5": _vision("mnasnet0_5", 3, 32, 32),
    "mobilenet_v2": _vision("mobilenet_v2", 3, 32, 32),
    "mobilenet_v3_small": _vision("mobilenet_v3_small", 3, 32, 32),
    "regnet_x_400mf": _vision("regnet_x_400mf", 3, 32, 32),
    "regnet_y_400mf": _vision("regnet_y_400mf", 3, 32, 32),
    "resnet18": _vision("resnet18", 3, 64, 64),
    "resnext50_32x4d": _vision("resnext50_32x4d", 3, 32, 32),
    "shufflenet_v2_x0_5": _vision("shufflenet_v2_x0_5", 3, 32, 32),
    "squeezenet1_1": _vision("squeezenet1_1", 3, 48, 48),
    "swin_t": _vision("swin_t", 3, 64, 64),
    "swin_v2_t": _vision("swin_v2_t", 3, 64, 64),
    "deeplabv3_mobilenet_v3_large": _segmentation("deeplabv3_mobilenet_v3_large"),
    "fcn_resnet50": _segmentation("fcn_resnet50"),
    "lraspp_mobilenet_v3_large": _segmentation("lraspp_mobilenet_v3_large"),
    "mc3_18": _vision("mc3_18", 3, 4, 32, 32, num_classes=5),
    "r2plus1d_18": _vision("r2plus1d_18", 3, 4, 32, 32, num_classes=5),
    "swin3d_t": _vision("swin3d_t", 3, 4, 32, 32, num_classes=5),
    "raft_small": lambda: calling(
        _torchvision().optical_flow.raft_small(),
        *torch.rand(2, 1, 3, 128, 128),
        num_flow_updates=2,
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": _detection(
        "fasterrcnn_mobilenet_v3_large_fpn", 64, **_FEW
    ),
    "fcos_resnet50_fpn": _detection("fcos_resnet50_fpn", 64),
    "keypointrcnn_resnet50_fpn": _detection("keypointrcnn_resnet50_fpn", 64, **_FEW),
    "maskrcnn_resnet50_fpn": _detection("maskrcnn_resnet50_fpn", 64, **_FEW),
    "retinanet_resnet50_fpn": _detection("retinanet_resnet50_fpn", 64),
    "ssdlite320_mobilenet_v3_large": _detection("ssdlite320_mobilenet_v3_large", 64),
}


# -------------------------------------------------------------------------------- timm


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        torchvision_models()  # timm imports it
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=10, **options)
        return calling(model, torch.rand(2, 3, size, size))

    return build


def _timm_sized(name: str, size: int = 64, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    return _timm(name, size, img_size=size, **options)


TIMM = {
    "cait_xxs24_224": _timm_sized("cait_xxs24_224", 32, depth=4),
    "convnextv2_atto": _timm("convnextv2_atto"),
    "cspresnet50": _timm("cspresnet50", 32),
    "deit_tiny_patch16_224": _timm_sized(
        "deit_tiny_patch16_224", 64, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1
    ),
    "dla46_c": _timm("dla46_c"),
    "edgenext_xx_small": _timm("edgenext_xx_small"),
    "efficientformerv2_s0": _timm("efficientformerv2_s0", 224),
    "efficientvit_b0": _timm("efficientvit_b0"),
    "eva02_tiny_patch14_224": _timm_sized("eva02_tiny_patch14_224", 56, depth=4),
    "fastvit_t8": _timm("fastvit_t8"),
    "focalnet_tiny_srf": _timm("focalnet_tiny_srf"),
    "ghostnet_050": _timm("ghostnet_050", 32),
    "hgnetv2_b0": _timm("hgnetv2_b0", 32),
    "hrnet_w18_small": _timm("hrnet_w18_small"),
    "levit_128s": _timm("levit_128s", 224),
    "mambaout_femto": _timm("mambaout_femto"),
    "mixer_s32_224": _timm("mixer_s32_224", 224),
    "mobilevit_xxs": _timm("mobilevit_xxs", 64),
    "nf_regnet_b0": _timm("nf_regnet_b0"),
    "pit_ti_224": _timm("pit_ti_224", 224),
    "poolformer_s12": _timm("poolformer_s12"),
    "pvt_v2_b0": _timm("pvt_v2_b0"),
    "repvgg_a0": _timm("repvgg_a0", 32),
    "res2net50_14w_8s": _timm("res2net50_14w_8s", 32),
    "resnest14d": _timm("resnest14d", 32),
    "rexnet_100": _timm("rexnet_100", 32),
    "sequencer2d_s": _timm("sequencer2d_s", 224, layers=(1, 1, 1, 1)),
    "skresnet18": _timm("skresnet18", 32),
    "swinv2_cr_tiny_ns_224": _timm("swinv2_cr_tiny_ns_224", 64, img_size=64, window_size=2),
    "test_coatnet": _timm("test_coatnet", 160),
    "test_nfnet": _timm("test_nfnet"),
    "test_vit": _timm_sized("test_vit"),
    "visformer_tiny": _timm("visformer_tiny", 224),
    "volo_d1_224": _timm_sized("volo_d1_224"),
    "xcit_nano_12_p16_224": _timm("xcit_nano_12_p16_224"),
}


# ------------------------------------------------------------------------ transformers

WORDS = 64
_SIZES = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SHARED = {**_SIZES, "num_key_value_heads": 2, "attention_dropout": 0.1, "head_dim": 8}
_MASKING = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def _make(model: str, config: str, **options: Any) -> nn.Module:
    torchvision_models()  # transformers imports it where it is installed
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, model)(getattr(transformers, config)(**options))


def _words(length: int = 9) -> torch.Tensor:
    return torch.randint(3, WORDS, (2, length))


def _encoder(model: str, config: str, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        ids = _words()
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        return calling(_make(model, config, **options), input_ids=ids, attention_mask=mask)

    return build


def _masked(model: str, config: str, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    return _encoder(model, config, **{**_SIZES, **_MASKING, **options})


def _decoder(
    model: str, config: str, cache: str = "past_key_values", **options: Any
) -> Callable[[], tuple[nn.Module, Run]]:
    """A model that is called again for one more word, with its cache, when it does not train."""

    def build() -> tuple[nn.Module, Run]:
        ids, more = _words(), _words(1)

        def run(module: nn.Module) -> Any:
            if module.training:
                return module(input_ids=ids, labels=ids, use_cache=False)
            first = module(input_ids=ids, use_cache=True)
            return first, module(input_ids=more, use_cache=True, **{cache: first[cache]})

        return _make(model, config, **options), run

    return build


def _causal(name: str, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    return _decoder(f"{name}ForCausalLM", f"{name}Config", **{**_SHARED, **options})


def _pair(model: str, config: str, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    """An encoder and a decoder, with labels: the loss is part of it."""

    def build() -> tuple[nn.Module, Run]:
        ids, labels = _words(), _words(6)
        return calling(_make(model, config, **options), input_ids=ids, labels=labels)

    return build


def _pictures(
    model: str, config: str, size: int = 32, **options: Any
) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        image = torch.rand(2, 3, size, size)
        return calling(_make(model, config, **options), pixel_values=image)

    return build


def _sounds(model: str, config: str, **options: Any) -> Callable[[], tuple[nn.Module, Run]]:
    def build() -> tuple[nn.Module, Run]:
        return calling(_make(model, config, **options), input_values=torch.randn(2, 1600))

    return build


def _whisper() -> tuple[nn.Module, Run]:
    model = _make(
        "WhisperForConditionalGeneration", "WhisperConfig", **_BART, num_mel_bins=8,
        max_source_positions=20, max_target_positions=20, decoder_start_token_id=1,
    )  # fmt: skip
    return calling(model, input_features=torch.randn(2, 8, 40), labels=_words(6))


def _clip() -> tuple[nn.Module, Run]:
    text = {**_SIZES, "attention_dropout": 0.1}
    model = _make(
        "CLIPModel", "CLIPConfig", text_config=text, vision_config=_IMAGE, projection_dim=16
    )
    return calling(model, input_ids=_words(), pixel_values=torch.rand(2, 3, 32, 32))


def _siglip() -> tuple[nn.Module, Run]:
    model = _make(
        "SiglipModel", "SiglipConfig", text_config={**_SIZES, "projection_size": 32},
        vision_config=_IMAGE,
    )  # fmt: skip
    return calling(model, input_ids=_words(), pixel_values=torch.rand(2, 3, 32, 32))


def _llava() -> tuple[nn.Module, Run]:
    torchvision_models()
    from transformers import CLIPVisionConfig, LlamaConfig

    model = _make(
        "LlavaForConditionalGeneration", "LlavaConfig", vision_config=CLIPVisionConfig(**_IMAGE),
        text_config=LlamaConfig(**_SHARED), image_token_index=3, vision_feature_layer=-1,
    )  # fmt: skip
    ids = torch.cat([torch.full((2, 16), 3), _words(5) % 60 + 4], 1)
    return calling(model, input_ids=ids, pixel_values=torch.rand(2, 3, 32, 32))


def _mask2former() -> tuple[nn.Module, Run]:
    torchvision_models()
    from transformers import SwinConfig

    backbone = SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = _make(
        "Mask2FormerModel", "Mask2FormerConfig", backbone_config=backbone, feature_size=32,
        mask_feature_size=32, hidden_dim=32, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=5, encoder_feedforward_dim=32, dim_feedforward=32,
    )  # fmt: skip
    return calling(model, pixel_values=torch.rand(1, 3, 64, 64))


def _detr() -> tuple[nn.Module, Run]:
    torchvision_models()
    from transformers import ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
        out_features=["stage4"],
    )  # fmt: skip
    model = _make(
        "DetrForObjectDetection", "DetrConfig", use_timm_backbone=False,
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    return calling(model, pixel_values=torch.rand(2, 3, 64, 64))


def _patchtst() -> tuple[nn.Module, Run]:
    model = _make(
        "PatchTSTForPrediction", "PatchTSTConfig", num_input_channels=2, context_length=32,
        patch_length=8, patch_stride=8, prediction_length=4, d_model=16, num_hidden_layers=2,
        num_attention_heads=2, ffn_dim=32,
    )  # fmt: skip
    return calling(model, past_values=torch.randn(2, 32, 2), future_values=torch.randn(2, 4, 2))


_GPT = {
    "vocab_size": WORDS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_T5 = {
    "vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "vocab_size": WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16, 16, 16), "conv_stride": (5, 4, 2), "conv_kernel": (10, 4, 2),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2,
    "vocab_size": WORDS,
}  # fmt: skip
_MAMBA = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

TRANSFORMERS = {
    # encoders
    "albert": _masked("AlbertForMaskedLM", "AlbertConfig", embedding_size=16),
    "bert": _masked("BertForMaskedLM", "BertConfig"),
    "big_bird": _masked("BigBirdModel", "BigBirdConfig", attention_type="original_full"),
    "deberta_v2": _masked(
        "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "distilbert": _encoder(
        "DistilBertModel", "DistilBertConfig", vocab_size=WORDS, dim=32, n_layers=2, n_heads=4,
        hidden_dim=64, max_position_embeddings=64,
    ),
    "electra": _masked("ElectraModel", "ElectraConfig", embedding_size=16),
    "fnet": lambda: calling(
        _make("FNetModel", "FNetConfig", **_SIZES, type_vocab_size=2), input_ids=_words()
    ),
    "longformer": _masked("LongformerModel", "LongformerConfig", attention_window=4),
    "modernbert": _encoder("ModernBertModel", "ModernBertConfig", **_SIZES, local_attention=4),
    "mpnet": _masked("MPNetModel", "MPNetConfig"),
    "roberta": _masked("RobertaForMaskedLM", "RobertaConfig"),
    "roformer": _masked("RoFormerModel", "RoFormerConfig"),
    "xlnet": _encoder(
        "XLNetModel", "XLNetConfig", vocab_size=WORDS, d_model=32, n_layer=2, n_head=4, d_inner=64
    ),
    # decoders, with their cache
    "bloom": _decoder(
        "BloomForCausalLM", "BloomConfig", vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4,
        hidden_dropout=0.1, attention_dropout=0.1,
    ),
    "cohere": _causal("Cohere"),
    "falcon": _decoder(
        "FalconForCausalLM", "FalconConfig", **_SIZES, hidden_dropout=0.1, attention_dropout=0.1
    ),
    "gemma2": _causal("Gemma2", sliding_window=4),
    "gemma3": _decoder("Gemma3ForCausalLM", "Gemma3TextConfig", **_SHARED, sliding_window=4),
    "gpt2": _decoder("GPT2LMHeadModel", "GPT2Config", **_GPT),
    "gpt_neo": _decoder(
        "GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=WORDS, hidden_size=32, num_layers=2,
        num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4,
        max_position_embeddings=64,
    ),
    "gpt_neox": _causal("GPTNeoX", hidden_dropout=0.1),
    "gptj": _decoder("GPTJForCausalLM", "GPTJConfig", **_GPT, rotary_dim=4),
    "llama": _causal("Llama"),
    "mistral": _causal("Mistral", sliding_window=4),
    "olmo2": _causal("Olmo2"),
    "opt": _decoder("OPTForCausalLM", "OPTConfig", **_SIZES, ffn_dim=64, word_embed_proj_dim=32),
    "phi3": _causal("Phi3"),
    "qwen3": _causal("Qwen3"),
    # mixtures of experts
    "deepseek_v3": _causal(
        "DeepseekV3", moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
        n_group=2, topk_group=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, num_key_value_heads=4,
    ),
    "gpt_oss": _causal("GptOss", num_local_experts=4, num_experts_per_tok=2, sliding_window=4),
    "granitemoe": _causal("GraniteMoe", num_local_experts=4, num_experts_per_tok=2),
    "mixtral": _causal("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "olmoe": _causal("Olmoe", num_experts=4, num_experts_per_tok=2),
    "qwen2_moe": _causal(
        "Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    # encoder and decoder
    "bart": _pair("BartForConditionalGeneration", "BartConfig", **_BART),
    "led": _pair(
        "LEDForConditionalGeneration", "LEDConfig", **_BART, attention_window=4,
        max_encoder_position_embeddings=64, max_decoder_position_embeddings=64,
    ),
    "marian": _pair("MarianMTModel", "MarianConfig", **_BART, decoder_start_token_id=0),
    "pegasus": _pair("PegasusForConditionalGeneration", "PegasusConfig", **_BART),
    "prophetnet": _pair(
        "ProphetNetForConditionalGeneration", "ProphetNetConfig", vocab_size=WORDS,
        hidden_size=32, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4,
        num_decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
    ),
    "switch_transformers": _pair(
        "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", **_T5,
        num_experts=4, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
    ),
    "t5": _pair("T5ForConditionalGeneration", "T5Config", **_T5),
    # state spaces and recurrences
    "falcon_mamba": _decoder("FalconMambaForCausalLM", "FalconMambaConfig", "cache_params", **_MAMBA),
    "jamba": _causal(
        "Jamba", num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, num_experts=4,
        expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False, mamba_d_state=8,
        mamba_dt_rank=4,
    ),
    "mamba": _decoder("MambaForCausalLM", "MambaConfig", "cache_params", **_MAMBA),
    "mamba2": _decoder(
        "Mamba2ForCausalLM", "Mamba2Config", "cache_params", **_MAMBA, num_heads=8, head_dim=8,
        n_groups=2, chunk_size=4,
    ),
    "qwen3_next": _causal(
        "Qwen3Next", layer_types=["linear_attention", "full_attention"], num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "recurrent_gemma": lambda: calling(
        _make(
            "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", **_SHARED, lru_width=32,
            attention_window_size=4, block_types=["recurrent", "attention"],
        ),
        input_ids=_words(),
    ),
    "rwkv": lambda: calling(
        _make(
            "RwkvForCausalLM", "RwkvConfig", vocab_size=WORDS, hidden_size=32,
            num_hidden_layers=2, context_length=16,
        ),
        input_ids=_words(),
    ),
    # vision
    "beit": _pictures("BeitModel", "BeitConfig", **_IMAGE, **_MASKING),
    "convnext": _pictures(
        "ConvNextModel", "ConvNextConfig", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
        drop_path_rate=0.2,
    ),
    "detr": _detr,
    "dinov2": _pictures("Dinov2Model", "Dinov2Config", **_IMAGE, **_MASKING),
    "mask2former": _mask2former,
    "mobilevit": _pictures(
        "MobileViTModel", "MobileViTConfig", 64, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32], num_attention_heads=2, image_size=64,
    ),
    "segformer": _pictures(
        "SegformerForSemanticSegmentation", "SegformerConfig", 64, hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
    ),
    "swin": _pictures(
        "SwinModel", "SwinConfig", 64, image_size=64, embed_dim=16, depths=[2, 2],
        num_heads=[2, 2], window_size=4, **_MASKING,
    ),
    "vit": _pictures("ViTModel", "ViTConfig", **_IMAGE, **_MASKING),
    "vit_mae": _pictures(
        "ViTMAEForPreTraining", "ViTMAEConfig", **_IMAGE, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    ),
    "yolos": _pictures(
        "YolosForObjectDetection", "YolosConfig", 32, **{**_IMAGE, "image_size": [32, 32]},
        num_detection_tokens=5,
    ),
    # audio
    "audio_spectrogram_transformer": lambda: calling(
        _make(
            "ASTModel", "ASTConfig", **{**_IMAGE, **_MASKING}, max_length=32, num_mel_bins=16,
        ),
        input_values=torch.randn(2, 32, 16),
    ),
    "hubert": _sounds("HubertModel", "HubertConfig", **_SPEECH),
    "wav2vec2": _sounds("Wav2Vec2ForCTC", "Wav2Vec2Config", **_SPEECH),
    "wavlm": _sounds("WavLMModel", "WavLMConfig", **_SPEECH),
    "whisper": _whisper,
    # several kinds of input, and time series
    "clip": _clip,
    "llava": _llava,
    "siglip": _siglip,
    "patchtst": _patchtst,
}  # fmt: skip
