"""Settings of models whose code is their own, or of some years ago, as files on the Hub have them."""

from __future__ import annotations

from typing import Any

import pytest

from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.convert.settings import check_answered, setting_notes
from hubquant.gguf_file.metadata import Metadata
from tests.convert.test_published_configs import code, model

FACTORS = [1.0 + 0.01 * i for i in range(16)]
PUBLISHED: dict[str, dict[str, Any]] = {
    "BLOOM 560M": {
        "architectures": ["BloomForCausalLM"],
        "apply_residual_connection_post_layernorm": False,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_embed": 1024,
        "n_inner": None,
        "n_layer": 24,
        "num_attention_heads": 16,
        "offset_alibi": 100,
        "pretraining_tp": 1,
        "seq_length": 2048,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "vocab_size": 250880,
    },
    "MPT 7B": {
        "architectures": ["MPTForCausalLM"],
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
            "attn_impl": "torch",
            "attn_pdrop": 0,
            "attn_type": "multihead_attention",
            "attn_uses_sequence_id": False,
            "clip_qkv": None,
            "prefix_lm": False,
            "qk_ln": False,
            "softmax_scale": None,
        },
        "d_model": 4096,
        "emb_pdrop": 0,
        "embedding_fraction": 1.0,
        "expansion_ratio": 4,
        "learned_pos_emb": True,
        "logit_scale": None,
        "max_seq_len": 2048,
        "model_type": "mpt",
        "n_heads": 32,
        "n_layers": 32,
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0,
        "vocab_size": 50432,
    },
    "DBRX Instruct": {
        "architectures": ["DbrxForCausalLM"],
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
        "d_model": 6144,
        "emb_pdrop": 0.0,
        "ffn_config": {
            "ffn_hidden_size": 10752,
            "model_type": "",
            "moe_jitter_eps": 0.01,
            "moe_loss_weight": 0.05,
            "moe_num_experts": 16,
            "moe_top_k": 4,
        },
        "initializer_range": 0.02,
        "max_seq_len": 32768,
        "model_type": "dbrx",
        "n_heads": 48,
        "n_layers": 40,
        "output_router_logits": False,
        "resid_pdrop": 0.0,
        "router_aux_loss_coef": 0.05,
        "vocab_size": 100352,
    },
    "MiniCPM3 4B": model(
        *("MiniCPM3ForCausalLM", 62, 2560, 40, 40, 6400),
        max_position_embeddings=32768,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        q_lora_rank=768,
        kv_lora_rank=256,
        rms_norm_eps=1e-5,
        rope_scaling={
            "type": "longrope",
            "long_factor": FACTORS,
            "short_factor": FACTORS,
            "original_max_position_embeddings": 32768,
        },
        scale_emb=12,
        dim_model_base=256,
        scale_depth=1.4,
        **code("minicpm", "MiniCPM3ForCausalLM"),
    ),
    "EXAONE 3.5 2.4B": {
        "architectures": ["ExaoneForCausalLM"],
        "activation_function": "silu",
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "head_dim": 80,
        "hidden_size": 2560,
        "intermediate_size": 7168,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 32768,
        "model_type": "exaone",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_layers": 30,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "vocab_size": 102400,
    },
    "Baichuan 7B": model(
        *("BaiChuanForCausalLM", 32, 4096, 32, 32, 11008),
        hidden_act="silu",
        max_position_embeddings=4096,
        rms_norm_eps=1e-06,
        tie_word_embeddings=False,
        model_type="baichuan",
        **code("baichuan", "BaiChuanForCausalLM"),
    ),
    "GLM-4 9B of June 2024": {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": 13696,
        "fp32_residual_connection": False,
        "hidden_size": 4096,
        "kv_channels": 128,
        "layernorm_epsilon": 1.5625e-07,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_layers": 40,
        "original_rope": True,
        "padded_vocab_size": 151552,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 500,
        "seq_length": 131072,
        "tie_word_embeddings": False,
    },
    "Qwen 7B": {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "emb_dropout_prob": 0.0,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "kv_channels": 128,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 32768,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": 8192,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "vocab_size": 151936,
    },
    "DeepSeek MoE 16B": model(
        *("DeepseekForCausalLM", 28, 2048, 16, 16, 10944),
        first_k_dense_replace=1,
        hidden_act="silu",
        max_position_embeddings=4096,
        model_type="deepseek",
        moe_intermediate_size=1408,
        moe_layer_freq=1,
        n_routed_experts=64,
        n_shared_experts=2,
        norm_topk_prob=False,
        num_experts_per_tok=6,
        rms_norm_eps=1e-06,
        rope_scaling=None,
        rope_theta=10000,
        scoring_func="softmax",
        seq_aux=True,
        tie_word_embeddings=False,
    ),
    "DeciLM 7B": model(
        *("DeciLMForCausalLM", 32, 4096, 32, 32, 14336),
        hidden_act="silu",
        max_position_embeddings=8192,
        model_type="deci",
        num_key_value_heads_per_layer=[4] * 15 + [2] * 17,
        rms_norm_eps=1e-05,
        rope_scaling=None,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    ),
    "OpenELM 270M": {
        "architectures": ["OpenELMForCausalLM"],
        "activation_fn_name": "swish",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "ffn_dim_divisor": 256,
        "ffn_multipliers": [0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0],
        "ffn_with_glu": True,
        "head_dim": 64,
        "initializer_range": 0.02,
        "max_context_length": 2048,
        "model_dim": 1280,
        "model_type": "openelm",
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "num_gqa_groups": 4,
        "num_kv_heads": [3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5],
        "num_query_heads": [12, 12, 12, 12, 12, 16, 16, 16, 16, 16, 16, 16, 20, 20, 20, 20],
        "num_transformer_layers": 16,
        "qkv_multipliers": [0.5, 1.0],
        "rope_freq_constant": 10000,
        "rope_max_length": 4096,
        "share_input_output_layers": True,
        "vocab_size": 32000,
        "auto_map": {"AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM"},
    },
    "Nemotron Super 49B": {
        "architectures": ["DeciLMForCausalLM"],
        "attention_bias": False,
        "block_configs": [
            {
                "attention": {
                    "n_heads_in_group": 8 if seen else None,
                    "no_op": not seen,
                    "num_sink_tokens": None,
                    "replace_with_linear": False,
                    "sparsify": None,
                    "unshifted_sink": False,
                    "use_prefill_window_in_sink_attention": False,
                    "window_length": None,
                },
                "ffn": {"ffn_mult": width, "no_op": False, "replace_with_linear": False, "sparsify": None},
            }
            for seen, width in [*5 * [(True, 2.625)], (True, 5.25), *39 * [(False, 1.3125)], *35 * [(True, 5.25)]]
        ],
        "hidden_act": "silu",
        "hidden_size": 8192,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "nemotron-nas",
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": None,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "LLaDA 8B": {
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": 4096,
        "embedding_size": 126464,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": 126336,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 12288,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "vocab_size": 126464,
        "weight_tying": False,
    },
}
LAYERS_AND_CONTEXT = {
    "BLOOM 560M": ("bloom", 24, 2048),
    "MPT 7B": ("mpt", 32, 2048),
    "DBRX Instruct": ("dbrx", 40, 32768),
    "MiniCPM3 4B": ("minicpm3", 62, 32768),
    "EXAONE 3.5 2.4B": ("exaone", 30, 32768),
    "Baichuan 7B": ("baichuan", 32, 4096),
    "GLM-4 9B of June 2024": ("chatglm", 40, 131072),
    "Qwen 7B": ("qwen", 32, 8192),
    "DeepSeek MoE 16B": ("deepseek", 28, 4096),
    "DeciLM 7B": ("deci", 32, 8192),
    "OpenELM 270M": ("openelm", 16, 2048),
    "Nemotron Super 49B": ("deci", 80, 131072),
    "LLaDA 8B": ("llada", 32, 4096),
}


def read(settings: dict[str, Any]) -> Metadata:
    """And no setting is without an answer or a note."""
    architecture, config = read_architecture(settings)
    metadata = architecture_metadata(architecture, config)
    check_answered(architecture, config)
    assert not [*setting_notes(architecture, config, settings)]
    return metadata


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_published_models_are_known(name: str) -> None:
    metadata = read(PUBLISHED[name])
    architecture, n_layer, context = LAYERS_AND_CONTEXT[name]
    assert metadata["general.architecture"].value == architecture
    assert metadata[f"{architecture}.block_count"].value == n_layer
    assert metadata[f"{architecture}.context_length"].value == context


def test_a_ratio_stretches_the_base_of_rope() -> None:
    assert read(PUBLISHED["GLM-4 9B of June 2024"])["chatglm.rope.freq_base"].value == 5e6


def test_half_of_qwens_width_is_that_of_a_matrix() -> None:
    assert read(PUBLISHED["Qwen 7B"])["qwen.feed_forward_length"].value == 22016


def test_widths_of_growing_layers() -> None:
    widths = read(PUBLISHED["OpenELM 270M"])["openelm.feed_forward_length"].value
    assert isinstance(widths, tuple)
    assert (widths[0], widths[1], widths[-1]) == (768, 1024, 5120)  # 0.73 times 1280 is 934


def test_widths_of_a_searched_model() -> None:
    widths = read(PUBLISHED["Nemotron Super 49B"])["deci.feed_forward_length"].value
    assert isinstance(widths, tuple)
    assert (*widths[4:7], widths[-1]) == (14336, 28672, 7168, 28672)
