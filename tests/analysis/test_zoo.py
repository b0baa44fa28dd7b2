"""Real models, replayed bit for bit: a tenth of what ``nox -s zoo`` runs."""

import copy

import pytest
import torch
from tests import zoo
from tests.zoo import Program

import opscope

WORDS = 64
SIZES = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def words(length=9):
    return torch.randint(3, WORDS, (2, length))


def make(model, config, **options):
    zoo._torchvision()  # transformers imports it where it is installed
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, model)(getattr(transformers, config)(**options))


def segmentation():
    """A picture model with two heads, whose outputs are in a dictionary."""
    models, _ = zoo._torchvision()
    factory = models.segmentation.lraspp_mobilenet_v3_large
    model = factory(weights=None, weights_backbone=None, num_classes=5)
    return Program(model, (torch.rand(2, 3, 64, 64),))


def video():
    models, _ = zoo._torchvision()
    return Program(models.video.mc3_18(num_classes=5), (torch.rand(1, 3, 4, 32, 32),))


def bert():
    model = make("BertForMaskedLM", "BertConfig", **SIZES)
    ids = words()
    return Program(model, kwargs={"input_ids": ids, "labels": ids})


def t5():
    model = make(
        "T5ForConditionalGeneration", "T5Config", vocab_size=WORDS, d_model=32, d_kv=8, d_ff=64,
        num_layers=2, num_heads=4, decoder_start_token_id=0,
    )  # fmt: skip
    return Program(model, kwargs={"input_ids": words(), "labels": words(6)})


def mixtral():
    """Experts, with a loss of their own for the router."""
    model = make(
        "MixtralForCausalLM", "MixtralConfig", **SIZES, num_key_value_heads=2, head_dim=8,
        num_local_experts=4, num_experts_per_tok=2, attention_dropout=0.1,
        output_router_logits=True,
    )  # fmt: skip
    ids = words()
    return Program(model, kwargs={"input_ids": ids, "labels": ids, "use_cache": False})


def deepseek():
    """Writes keys, half by half, into memory that nothing was written to before."""
    model = make(
        "DeepseekV3ForCausalLM", "DeepseekV3Config", **SIZES, moe_intermediate_size=16,
        n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, kv_lora_rank=8,
        q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        first_k_dense_replace=1, num_key_value_heads=4,
    )  # fmt: skip
    return Program(model, kwargs={"input_ids": words(), "use_cache": False})


def opt():
    """Hands its scores on through a call that runs no op."""
    model = make("OPTForCausalLM", "OPTConfig", **SIZES, ffn_dim=64, word_embed_proj_dim=32)
    return Program(model, kwargs={"input_ids": words(), "use_cache": False})


def mamba():
    model = make(
        "MambaForCausalLM", "MambaConfig", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2,
        state_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Program(model, kwargs={"input_ids": words(), "use_cache": False})


def wav2vec2():
    model = make(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 2), conv_kernel=(10, 4, 2), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, vocab_size=WORDS, mask_time_prob=0.0,
    )  # fmt: skip
    return Program(model, kwargs={"input_values": torch.randn(2, 1600)})


BUILDERS = {
    build.__name__: build
    for build in (segmentation, video, bert, t5, mixtral, deepseek, opt, mamba, wav2vec2)
}
SHARED = ("resnet18", "gpt2", "vit")


def step(program, *, training):
    """Run it from one seed, in training with a backward pass; return all that it gave."""
    found = [item for item in leaves(program.run()) if item.is_floating_point()]
    if training:
        sum((item * item).mean() for item in found if item.requires_grad).backward()
    gradients = [item.grad for item in program.module.parameters() if item.grad is not None]
    return [item.detach().clone() for item in (*found, *gradients, *program.module.buffers())]


def leaves(output):
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return leaves(tuple(output.values()))
    return [leaf for item in output for leaf in leaves(item)] if isinstance(output, tuple) else []


@pytest.mark.filterwarnings("ignore")  # the models' own
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [*SHARED, *BUILDERS])
def test_a_real_model_is_replayed_bit_for_bit_and_runs_as_without_a_trace(name, training):
    program = zoo.build(name) if name in SHARED else BUILDERS[name]()
    program.module.train(training)
    bare = copy.deepcopy(program)
    with torch.set_grad_enabled(training):
        torch.manual_seed(1)
        expected = step(bare, training=training)
        torch.manual_seed(1)
        with opscope.trace(program.module, replayable=True) as trace:
            found = step(program, training=training)
    report = trace.validate()
    assert report, str(report)
    assert report.outputs
    assert report.ops == len(trace.ops) > 10
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
