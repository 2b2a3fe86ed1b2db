"""Settings of models with states in the place of attention, as files on the Hub have them."""

from __future__ import annotations

from typing import Any

import pytest

from hubquant.errors import HubquantError
from tests.convert.test_published_configs import code, model
from tests.convert.test_published_older_configs import read

KIMI_LINEAR = model(
    *("KimiLinearForCausalLM", 27, 2304, 32, 32, 9216),
    bos_token_id=163584,
    eos_token_id=163586,
    first_k_dense_replace=1,
    head_dim=72,
    hidden_act="silu",
    kv_lora_rank=512,
    linear_attn_config={
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "head_dim": 128,
        "kda_layers": [layer for layer in range(1, 27) if layer % 4],
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    mla_use_nope=True,
    model_max_length=1048576,
    model_type="kimi_linear",
    moe_intermediate_size=1024,
    moe_layer_freq=1,
    moe_renormalize=True,
    moe_router_activation_func="sigmoid",
    num_expert_group=1,
    num_experts=256,
    num_experts_per_token=8,
    num_nextn_predict_layers=0,
    num_shared_experts=1,
    pad_token_id=163839,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    rms_norm_eps=1e-05,
    rope_scaling=None,
    rope_theta=10000.0,
    routed_scaling_factor=2.446,
    tie_word_embeddings=False,
    topk_group=1,
    use_grouped_topk=True,
    v_head_dim=128,
    **code("kimi", "KimiLinearForCausalLM"),
)


RWKV6_1B6 = {
    "architectures": ["Rwkv6ForCausalLM"],
    "attention_hidden_size": 2048,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_size": 64,
    "head_size_divisor": 8,
    "hidden_size": 2048,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "model_type": "rwkv6",
    "num_attention_heads": 64,
    "num_hidden_layers": 24,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "transformers_version": "4.34.0",
    "use_cache": True,
    "vocab_size": 65536,
    **code("rwkv6", "Rwkv6ForCausalLM"),
}
RWKV7_1B5 = {
    "a_low_rank_dim": 96,
    "architectures": ["RWKV7ForCausalLM"],
    "attn": None,
    "attn_mode": "chunk",
    "bos_token_id": 1,
    "decay_low_rank_dim": 96,
    "eos_token_id": 2,
    "fuse_cross_entropy": True,
    "fuse_norm": False,
    "gate_low_rank_dim": 256,
    "head_dim": 64,
    "hidden_act": "sqrelu",
    "hidden_ratio": 4.0,
    "hidden_size": 2048,
    "initializer_range": 0.006,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "model_type": "rwkv7",
    "norm_bias": True,
    "norm_eps": 1e-05,
    "norm_first": True,
    "num_heads": None,
    "num_hidden_layers": 24,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "v_low_rank_dim": 64,
    "vocab_size": 65536,
    **code("rwkv7", "RWKV7ForCausalLM"),
}


def test_rwkv() -> None:
    six = {key.removeprefix("rwkv6."): kv.value for key, kv in read(RWKV6_1B6).items()}
    assert (six["feed_forward_length"], six["time_mix_extra_dim"], six["time_decay_extra_dim"]) == (7168, 32, 64)
    seven = {key.removeprefix("rwkv7."): kv.value for key, kv in read(RWKV7_1B5).items()}
    assert seven == {
        "general.architecture": "rwkv7",
        "vocab_size": 65536,
        "context_length": 1048576,
        "embedding_length": 2048,
        "block_count": 24,
        "feed_forward_length": 8192,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": pytest.approx(1e-5),
        "wkv.head_size": 64,
        "attention.decay_lora_rank": 96,
        "attention.iclr_lora_rank": 96,
        "attention.value_residual_mix_lora_rank": 64,
        "attention.gate_lora_rank": 256,
    }


def test_kimi_linear_48b() -> None:
    metadata = {key.removeprefix("kimi-linear."): kv.value for key, kv in read(KIMI_LINEAR).items()}
    assert metadata["attention.head_count_kv"] == tuple(int(layer % 4 == 0 or layer == 27) for layer in range(1, 28))
    assert (metadata["kda.head_dim"], metadata["ssm.conv_kernel"], metadata["context_length"]) == (128, 4, 1048576)
    assert (metadata["attention.key_length"], metadata["attention.key_length_mla"]) == (576, 192)
    assert (metadata["expert_used_count"], metadata["leading_dense_block_count"]) == (8, 1)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other heads": ({"linear_attn_config": KIMI_LINEAR["linear_attn_config"] | {"num_heads": 16}}, "16 heads of delta"),
    "compressed queries": ({"q_lora_rank": 512}, "compresses no queries"),
    "with positions": ({"mla_use_nope": False}, "mla_use_nope"),
    "other scores": ({"moe_router_activation_func": "softmax"}, "moe_router_activation_func"),
    "weights as they are": ({"moe_renormalize": False}, "norm_topk_prob"),
    "layers of no kind": ({"layer_types": 27 * ["sliding_attention"]}, "layer_types"),
    "layers in words": ({"linear_attn_config": {"full_attn_layers": "all", "kda_layers": []}}, "no kimi_linear config"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str) -> None:
    changes, reason = REFUSED[case]
    with pytest.raises(HubquantError, match=reason):
        read(KIMI_LINEAR | changes)
