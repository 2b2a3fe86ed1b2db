"""Settings as files on the Hub have them, with what tools and older versions left in them."""

from __future__ import annotations

from typing import Any

import pytest

from hubquant.checkpoint.text_tower import is_multimodal, text_settings
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.convert.settings import check_answered, setting_notes


def model(name: str, layers: int, width: int, heads: int, kv_heads: int, ff: int, **more: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": width,
        "intermediate_size": ff,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }
    rest = {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": True, "vocab_size": 32000}
    return {"architectures": [name], "num_hidden_layers": layers, **sizes, **rest, **more}


def code(file: str, name: str) -> dict[str, Any]:
    return {
        "auto_map": {"AutoConfig": f"configuration_{file}.Config", "AutoModelForCausalLM": f"modeling_{file}.{name}"}
    }


DEEPSEEK = {
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "ep_size": 1,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
}
V3_ROPE = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "type": "yarn"}
SHORT, LONG = [1.0 + 0.01 * i for i in range(48)], [1.0 + 0.5 * i for i in range(48)]

T5_XXL = {
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

PUBLISHED: dict[str, tuple[dict[str, Any], str | None]] = {
    "FLUX.1 dev, text_encoder_2": (
        {**T5_XXL, "architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": 32128},
        None,
    ),
    "Wan 2.1, text_encoder": (
        {
            **T5_XXL,
            "architectures": ["UMT5EncoderModel"],
            "model_type": "umt5",
            "scalable_attention": True,
            "tokenizer_class": "T5Tokenizer",
            "vocab_size": 256384,
        },
        None,
    ),
    "Mistral 7B v0.1": (
        model(
            *("MistralForCausalLM", 32, 4096, 32, 8, 14336),
            max_position_embeddings=32768,
            rope_theta=10000.0,
            sliding_window=4096,
        ),
        "more than 4,096 tokens",
    ),
    "Mistral 7B v0.3": (
        model("MistralForCausalLM", 32, 4096, 32, 8, 14336, max_position_embeddings=32768, sliding_window=None),
        None,
    ),
    "Mixtral 8x7B": (
        model(
            *("MixtralForCausalLM", 32, 4096, 32, 8, 14336),
            max_position_embeddings=32768,
            router_aux_loss_coef=0.02,
            sliding_window=None,
            num_experts_per_tok=2,
            num_local_experts=8,
            output_router_logits=False,
            rope_theta=1e6,
        ),
        None,
    ),
    "Qwen2.5 7B": (
        model(
            *("Qwen2ForCausalLM", 28, 3584, 28, 4, 18944),
            max_position_embeddings=32768,
            max_window_layers=28,
            sliding_window=131072,
            use_sliding_window=False,
            use_mrope=False,
            rope_theta=1e6,
            attention_dropout=0.0,
        ),
        None,
    ),
    "Qwen3 30B-A3B": (
        model(
            *("Qwen3MoeForCausalLM", 48, 2048, 32, 4, 6144),
            decoder_sparse_step=1,
            head_dim=128,
            max_window_layers=48,
            mlp_only_layers=[],
            moe_intermediate_size=768,
            norm_topk_prob=True,
            num_experts=128,
            num_experts_per_tok=8,
            attention_bias=False,
            rope_scaling=None,
            sliding_window=None,
            use_sliding_window=False,
        ),
        None,
    ),
    "Phi-3 mini 4k": (
        model(
            *("Phi3ForCausalLM", 32, 3072, 32, 32, 8192),
            attention_bias=False,
            embd_pdrop=0.0,
            max_position_embeddings=4096,
            resid_pdrop=0.0,
            original_max_position_embeddings=4096,
            rope_scaling=None,
            sliding_window=2047,
            **code("phi3", "Phi3ForCausalLM"),
        ),
        "more than 2,047 tokens",
    ),
    "Phi-3 mini 128k": (
        model(
            *("Phi3ForCausalLM", 32, 3072, 32, 32, 8192),
            attention_bias=False,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            rope_scaling={"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
            sliding_window=262144,
            **code("phi3", "Phi3ForCausalLM"),
        ),
        "longrope",
    ),
    "DeepSeek V3": (
        model(
            *("DeepseekV3ForCausalLM", 61, 7168, 128, 128, 18432),
            **{**DEEPSEEK, "first_k_dense_replace": 3, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4},
            n_routed_experts=256,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_experts_per_tok=8,
            num_nextn_predict_layers=1,
            q_lora_rank=1536,
            routed_scaling_factor=2.5,
            rms_norm_eps=1e-6,
            scoring_func="sigmoid",
            topk_method="noaux_tc",
            max_position_embeddings=163840,
            rope_scaling={**V3_ROPE, "original_max_position_embeddings": 4096},
            model_type="deepseek_v3",
            **code("deepseek", "DeepseekV3ForCausalLM"),
        ),
        None,
    ),
    "DeepSeek V2 Lite": (
        model(
            *("DeepseekV2ForCausalLM", 27, 2048, 16, 16, 10944),
            **{**DEEPSEEK, "first_k_dense_replace": 1, "moe_intermediate_size": 1408, "n_group": 1, "topk_group": 1},
            n_routed_experts=64,
            n_shared_experts=2,
            norm_topk_prob=False,
            num_experts_per_tok=6,
            q_lora_rank=None,
            routed_scaling_factor=1.0,
            scoring_func="softmax",
            topk_method="greedy",
            **{"max_position_embeddings": 163840, **code("deepseek", "DeepseekV2ForCausalLM")},
            rope_scaling={
                **V3_ROPE,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096,
            },
        ),
        None,
    ),
    "Gemma 2 9B": (
        model(
            *("Gemma2ForCausalLM", 42, 3584, 16, 8, 14336),
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            cache_implementation="hybrid",
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            sliding_window_size=4096,
            max_position_embeddings=8192,
        ),
        None,
    ),
    "Gemma 3 1B": (
        model(
            *("Gemma3ForCausalLM", 26, 1152, 4, 1, 6912),
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            cache_implementation="hybrid",
            head_dim=256,
            query_pre_attn_scalar=256,
            rope_local_base_freq=10000,
            rope_theta=1000000,
            rope_scaling=None,
            sliding_window=512,
            sliding_window_pattern=6,
            max_position_embeddings=32768,
        ),
        None,
    ),
    "Gemma 3 4B": (
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 255999,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
        },
        None,
    ),
    "InternLM3 8B": (
        model(
            *("InternLM3ForCausalLM", 48, 4096, 32, 2, 10240),
            bias=False,
            qkv_bias=False,
            head_dim=128,
            max_position_embeddings=32768,
            rope_scaling={"factor": 6.0, "rope_type": "dynamic"},
            rope_theta=50000000,
            **code("internlm3", "InternLM3ForCausalLM"),
        ),
        "more than 32,768 tokens",
    ),
    "StarCoder2 3B": (
        model(
            *("Starcoder2ForCausalLM", 30, 3072, 24, 2, 12288),
            activation_function="gelu_pytorch_tanh",
            hidden_act="gelu_pytorch_tanh",
            mlp_type="default",
            norm_type="layer_norm",
            norm_epsilon=1e-5,
            sliding_window=4096,
            use_bias=True,
            max_position_embeddings=16384,
        ),
        "more than 4,096 tokens",
    ),
    "Command R7B": (
        model(
            *("Cohere2ForCausalLM", 32, 4096, 32, 8, 14336),
            attention_bias=False,
            cache_implementation="hybrid",
            logit_scale=0.25,
            rotary_pct=1.0,
            order_of_interleaved_layers="local_attn_first",
            position_embedding_type="rope_gptj",
            sliding_window=4096,
            sliding_window_pattern=4,
            use_embedding_sharing=True,
            use_gated_activation=True,
            use_parallel_block=True,
            max_position_embeddings=8192,
        ),
        None,
    ),
    "Falcon 7B": (
        {
            "architectures": ["FalconForCausalLM"],
            "alibi": False,
            "apply_residual_connection_post_layernorm": False,
            "bias": False,
            "hidden_dropout": 0.0,
            "hidden_size": 4544,
            "multi_query": True,
            "parallel_attn": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            **code("falcon", "FalconForCausalLM"),
        },
        None,
    ),
    "Falcon 40B of 2023": (
        {
            "architectures": ["RWForCausalLM"],
            "model_type": "RefinedWeb",
            "alibi": False,
            "bias": False,
            "hidden_size": 8192,
            "n_head": 128,
            "n_head_kv": 8,
            "n_layer": 60,
            "parallel_attn": True,
            "apply_residual_connection_post_layernorm": False,
            **code("RW", "RWForCausalLM"),
        },
        None,
    ),
    "StableLM 3B of 2023": (
        model(
            *("StableLMEpochForCausalLM", 32, 2560, 32, 32, 6912),
            norm_eps=1e-5,
            rope_pct=0.25,
            rope_theta=10000,
            max_position_embeddings=4096,
            **code("stablelm_epoch", "StableLMEpochForCausalLM"),
        ),
        None,
    ),
    "gpt-oss 20B": (
        model(
            *("GptOssForCausalLM", 24, 2880, 64, 8, 2880),
            attention_bias=True,
            experts_per_token=4,
            head_dim=64,
            initial_context_length=4096,
            num_experts_per_tok=4,
            num_local_experts=32,
            sliding_window=128,
            swiglu_limit=7.0,
            rope_scaling={
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "rope_type": "yarn",
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            max_position_embeddings=131072,
        ),
        None,
    ),
    "LFM2 1.2B": (
        model(
            *("Lfm2ForCausalLM", 16, 2048, 32, 8, 12288),
            block_auto_adjust_ff_dim=True,
            block_dim=2048,
            block_ff_dim=12288,
            block_multiple_of=256,
            block_ffn_dim_multiplier=1.0,
            block_mlp_init_scale=1.0,
            block_use_swiglu=True,
            theta=1e6,
            conv_L_cache=3,
            conv_bias=False,
            conv_dim=2048,
            full_attn_idxs=[2, 5, 8, 10, 12, 14],
            num_heads=32,
            tie_embedding=True,
            use_pos_enc=True,
            rope_theta=1e6,
        ),
        None,
    ),
    "MiniCPM 2B": (
        model(
            *("MiniCPMForCausalLM", 40, 2304, 36, 36, 5760),
            dim_model_base=256,
            scale_depth=1.4,
            scale_emb=12,
            rope_scaling=None,
            **code("minicpm", "MiniCPMForCausalLM"),
        ),
        None,
    ),
    "nomic-embed-text v1.5": (
        {
            "architectures": ["NomicBertModel"],
            "activation_function": "swiglu",
            "attn_pdrop": 0.0,
            "causal": False,
            "dense_seq_output": True,
            "fused_bias_fc": True,
            "fused_dropout_add_ln": True,
            "n_embd": 768,
            "n_head": 12,
            "n_inner": 3072,
            "n_layer": 12,
            "n_positions": 8192,
            "max_trained_positions": 2048,
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "prenorm": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "use_flash_attn": True,
            "vocab_size": 30528,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "use_rms_norm": False,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
            "use_xentropy": True,
            "pad_vocab_size_multiple": 64,
            "parallel_block": False,
            "summary_type": "cls_index",
            "resid_pdrop": 0.0,
            "layer_norm_epsilon": 1e-12,
            "type_vocab_size": 2,
            "model_type": "nomic_bert",
            **code("hf_nomic_bert", "NomicBertModel"),
        },
        None,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_published_models_are_known(name: str) -> None:
    given, expected = PUBLISHED[name]
    settings = text_settings(given) if is_multimodal(given) else given
    architecture, config = read_architecture(settings)
    architecture_metadata(architecture, config)
    check_answered(architecture, config)
    notes = [*setting_notes(architecture, config, settings)]
    assert len(notes) == (expected is not None), notes
    assert expected is None or expected in notes[0]
