"""Converted files in llama.cpp's own runtime, against transformers on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from hubquant.convert.restore import load_model
from tests.support.conversion import build_uneven, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64}
WHOLE = {"sliding_window": None, "layer_types": ["full_attention"] * 2}
TIED = {"tie_word_embeddings": True}
GEMMA3 = {
    "num_hidden_layers": 7,
    "sliding_window": 32,
    "query_pre_attn_scalar": 64,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    },
}
GEMMA4 = TIED | {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 32,
    "hidden_size_per_layer_input": 0,
}
GEMMA4_SMALL = {
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 384,
}
GRANITE = {
    "attention_multiplier": 0.1,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
FALCON: dict[str, Any] = {"tie_word_embeddings": True, "head_dim": ...}
NEOX: dict[str, Any] = {"num_key_value_heads": ..., "head_dim": ...}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": True}
STRETCHED = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}
PHI_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LONGROPE: dict[str, Any] = PHI_ROPE | {
    "rope_type": "longrope",
    "short_factor": [1 + 0.01 * i for i in range(32)],
    "long_factor": [1 + 0.5 * i for i in range(32)],
}
LONGROPE_HALF = LONGROPE | {name: LONGROPE[name][:16] for name in ("short_factor", "long_factor")}
MAMBA2 = {"num_heads": 8, "n_groups": 2, "state_size": 32, "chunk_size": 32}
JAMBA = {
    "num_hidden_layers": 5,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 4,
}
FALCON_H1: dict[str, Any] = {
    "mamba_d_ssm": 384,
    "mamba_n_heads": 6,
    "mamba_n_groups": 2,
    "mamba_d_state": 32,
    "mamba_norm_before_gate": False,
    "mamba_rms_norm": True,
    "mamba_chunk_size": 32,
    "embedding_multiplier": 2.0,
    "lm_head_multiplier": 0.3,
    "mlp_multipliers": [0.8, 0.6],
    "key_multiplier": 0.7,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 1.2,
    "ssm_multipliers": [0.9, 1.1, 0.8, 1.3, 0.7],
    "ssm_in_multiplier": 1.4,
    "ssm_out_multiplier": 0.5,
}
GRANITE_HYBRID: dict[str, Any] = GRANITE | {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_n_groups": 2,
    "mamba_d_state": 32,
    "mamba_chunk_size": 32,
    "shared_intermediate_size": 96,
}
NEMOTRON_H: dict[str, Any] = {
    "num_hidden_layers": ...,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
    "mamba_num_heads": 6,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 32,
    "chunk_size": 32,
    "time_step_floor": 6.0,  # llama.cpp's softplus loses the last digits of short steps, which add up
}
NEMOTRON_H_EXPERTS = {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 96,
    "routed_scaling_factor": 1.5,
}
DELTA_NET = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]}
DEEPSEEK4: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "num_key_value_heads": 1,
    "head_dim": 128,
    "partial_rotary_factor": 0.25,
    "q_lora_rank": 48,
    "o_groups": 2,
    "o_lora_rank": 32,
    "sliding_window": 32,
    "index_n_heads": 16,
    "index_head_dim": 64,
    "index_topk": 8,
    "intermediate_size": ...,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "swiglu_limit": 3.0,
}
MINIMAX_01: dict[str, Any] = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
    "block_size": 64,
    **{f"{part}_alpha_factor": 1.75 for part in ("full_attn", "linear_attn", "mlp")},
}
MINIMAX_M3: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
    "dense_intermediate_size": 96,
    "shared_intermediate_size": 128,
    "routed_scaling_factor": 1.5,
    "rotary_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "index_n_heads": 2,
    "index_head_dim": 32,
    "layer_types": ["minimax_m3_sparse"] * 2,
}
MINIMAX_M3_DENSE = {
    "mlp_layer_types": ["dense", "sparse"],
    "layer_types": ["full_attention", "minimax_m3_sparse"],
}
LFM2 = {
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "conv_L_cache": 4,
    "block_multiple_of": 64,
    "block_ffn_dim_multiplier": 1.3,
}
GRANITE_4 = GRANITE | {
    "layer_types": ["full_attention"] * 2,
    "position_embedding_type": "rope",
    "num_local_experts": 0,
    "shared_intermediate_size": 96,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
WINDOWED = [*3 * ["sliding_attention"], "full_attention", "sliding_attention"]
LFM2_EXPERTS = QWEN_EXPERTS | {
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "num_dense_layers": 1,
}
LLAMA4 = EXPERTS | {"num_hidden_layers": 5, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 384}
OLMO3_ROPE = {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
GPT_OSS = EXPERTS | {
    "sliding_window": 32,
    "num_hidden_layers": 3,
    # the correction range ends at the eighth of 32 frequencies, so that llama.cpp need not round it
    "rope_parameters": YARN | {"truncate": False, "rope_theta": 1.0001 * (64 / (2 * np.pi)) ** 4},
}
LATENT: dict[str, Any] = {
    "head_dim": ...,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 48,
}
GROUPS = {"n_group": 4, "topk_group": 2}
YARN_LATENT = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
PLAIN_YARN = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}
GLM_EXPERTS: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.5,
}
LITE: dict[str, Any] = {name: size for name, size in LATENT.items() if name != "first_k_dense_replace"}
INDEXERS = {
    "num_hidden_layers": 3,
    "indexer_types": ["full", "full", "shared"],
    "index_n_heads": 4,
    "index_head_dim": 64,
}
ERNIE_EXPERTS = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64, "head_dim": ...}
DENSE_LATENT: dict[str, Any] = {
    "head_dim": ...,
    "num_key_value_heads": 4,
    **{name: size for name, size in LATENT.items() if name.endswith(("_rank", "_head_dim"))},
}
SINKS = {"num_hidden_layers": 5, "sliding_window": 32, "layer_rope_theta": [0, *4 * [10000.0]]}
MPT = {"num_key_value_heads": ..., "head_dim": ..., "n_heads": 6, "d_model": 192, "attn_config": {"clip_qkv": 2.0}}
DBRX: dict[str, Any] = {
    "d_model": 256,
    "head_dim": ...,
    "intermediate_size": ...,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 500000.0},
    "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
BAMBA: dict[str, Any] = {
    "num_hidden_layers": 3,
    "head_dim": ...,
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_n_groups": 2,
    "mamba_d_state": 32,
    "mamba_chunk_size": 32,
}
MISTRAL4 = {name: size for name, size in LATENT.items() if name not in ("head_dim", "first_k_dense_replace")} | {
    "qk_nope_head_dim": 32,
    "rope_parameters": YARN
    | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3, "partial_rotary_factor": 0.5},
}
LAGUNA: dict[str, Any] = QWEN_EXPERTS | {
    "shared_expert_intermediate_size": 96,
    "moe_routed_scaling_factor": 1.5,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", *3 * ["sliding_attention"]],
    "num_attention_heads_per_layer": [4, 6, 6, 6],
    "sliding_window": 32,
    "rope_parameters": {
        "full_attention": YARN | {"rope_theta": 500000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    },
}
COHERE_EXPERTS = {
    "num_hidden_layers": 6,
    "sliding_window": 32,
    "first_k_dense_replace": 1,
    "prefix_dense_intermediate_size": 384,
    "num_experts": 4,
    "num_shared_experts": 2,
    "expert_selection_fn": "sigmoid",
    "logit_scale": 0.25,
}
KIMI_LINEAR: dict[str, Any] = {name: LATENT[name] for name in LATENT if name.endswith("head_dim")} | {
    "head_dim": ...,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_heads": 4,
    "linear_head_dim": 32,
    "kv_lora_rank": 64,
    "num_experts": 8,
    "num_experts_per_token": 2,
    "num_shared_experts": 2,
    "moe_intermediate_size": 64,
    "num_expert_group": 4,
    "topk_group": 2,
    "pad_token_id": 0,
}
TEMPERED = YARN | {"mscale": 1.0, "mscale_all_dim": 0.5, "llama_4_scaling_beta": 0.3}

MIMO: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_hidden_layers": 4,
    "v_head_dim": 32,
    "sliding_window": 32,
    "layer_types": ["full_attention", *3 * ["sliding_attention"]],
    "mlp_layer_types": ["dense", "sparse", "sparse", "dense"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.35},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.35},
    },
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama with linear rope": ("llama", {"rope_parameters": LINEAR}),
    "llama with yarn": ("llama", {"rope_parameters": YARN}),
    "llama with yarn and its own scale": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama without groups": ("llama", {"num_key_value_heads": 4}),
    "llama with dynamic rope": ("llama", {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 4096}),
    "mistral with narrow heads": ("mistral", {"head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2 with yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3 with wide heads": ("qwen3", {"head_dim": 128}),
    "qwen3 in shards": ("qwen3", {}),
    "gemma": ("gemma", TIED),
    "gemma2 without caps": (
        "gemma2",
        TIED | {"query_pre_attn_scalar": 64, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2": ("gemma2", TIED | {"sliding_window": 32, "query_pre_attn_scalar": 64, "attn_logit_softcapping": 20.0}),
    "gemma3": ("gemma3_text", TIED | GEMMA3),
    "internlm3": ("internlm3", {"attention_bias": True, "mlp_bias": True}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "granite": ("granite", GRANITE),
    "granitemoe": ("granitemoe", GRANITE | EXPERTS),
    "granitemoeshared": ("granitemoeshared", TIED | GRANITE | EXPERTS | {"shared_intermediate_size": 96}),
    "olmo": ("olmo", {}),
    "olmo with clipping": ("olmo", {"clip_qkv": 2.0}),
    "olmo2": ("olmo2", {}),
    "cohere": ("cohere", TIED | {"logit_scale": 0.25}),
    "cohere2": ("cohere2", TIED | {"logit_scale": 0.25, "num_hidden_layers": 5, "sliding_window": 32}),
    "exaone4": ("exaone4", WHOLE),
    "exaone4 with llama3 rope": ("exaone4", WHOLE | {"rope_parameters": LLAMA3}),
    "glm4": ("glm4", {"attention_bias": True}),
    "nemotron": ("nemotron", {}),
    "phi2": ("phi", {}),
    "phi2, tied": ("phi", TIED),
    "phi3": ("phi3", {}),
    "phi3 with part of rope": ("phi3", {"rope_parameters": PHI_ROPE | {"partial_rotary_factor": 0.75}}),
    "phi3 in a short context": ("phi3", {"original_max_position_embeddings": 512, "rope_parameters": LONGROPE}),
    "phi3 in a long context": ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE}),
    "stablelm": ("stablelm", {"use_qkv_bias": True}),
    "stablelm in parallel": ("stablelm", {"use_parallel_residual": True}),
    "starcoder2": ("starcoder2", TIED),
    "bitnet": ("bitnet", TIED | {"hidden_act": "silu"}),
    "gpt2": ("gpt2", TIED),
    "starcoder": ("gpt_bigcode", TIED | {"num_key_value_heads": ..., "head_dim": ..., "seed": 1}),
    "gptneox": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "gptneox in parallel": ("gpt_neox", NEOX),
    "falcon 7b": ("falcon", FALCON),
    "falcon 11b": ("falcon", FALCON | NEW_FALCON | {"num_ln_in_parallel_attn": 1}),
    "falcon 40b": ("falcon", FALCON | NEW_FALCON),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "mamba": ("mamba", TIED),
    "mamba with its own output": ("mamba", {"state_size": 8, "time_step_rank": 24, "conv_kernel": 3}),
    "falcon_mamba": ("falcon_mamba", {"intermediate_size": ..., "state_size": 8, "mixer_rms_eps": 1e-5}),
    "mamba2": ("mamba2", MAMBA2),
    "granite_hybrid": ("granitemoehybrid", GRANITE_HYBRID | EXPERTS),
    "granite_hybrid without experts": ("granitemoehybrid", GRANITE_HYBRID | {"num_local_experts": 0}),
    "nemotron_h": ("nemotron_h", NEMOTRON_H),
    "nemotron_h with latent experts": ("nemotron_h", NEMOTRON_H | NEMOTRON_H_EXPERTS | {"moe_latent_size": 96}),
    "nemotron_h, experts": ("nemotron_h", NEMOTRON_H | NEMOTRON_H_EXPERTS),
    "granite 4 of attention alone": ("granitemoehybrid", GRANITE_4),
    "jamba": ("jamba", JAMBA),
    "jamba without experts": ("jamba", JAMBA | TIED | {"num_experts": 1, "num_experts_per_tok": 1}),
    "lfm2": ("lfm2", TIED | LFM2),
    "lfm2 as configured": ("lfm2", LFM2 | {"block_auto_adjust_ff_dim": False, "rope_parameters": LINEAR}),
    "lfm2_moe": ("lfm2_moe", TIED | LFM2_EXPERTS),
    "falcon_h1": ("falcon_h1", FALCON_H1),
    "falcon_h1, tied": ("falcon_h1", TIED | FALCON_H1 | {"mamba_rms_norm": False}),
    "gpt_oss": ("gpt_oss", GPT_OSS),
    "llama4": ("llama4_text", LLAMA4),
    "llama4 with rope in two parts": (
        "llama4_text",
        LLAMA4 | {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}, "interleave_moe_layer_step": 1},
    ),
    "exaone4 with windows": (
        "exaone4",
        {"num_hidden_layers": 64, "hidden_size": 64, "head_dim": 16, "sliding_window": 32, "initializer_range": 0.1},
    ),
    "olmo3": (
        "olmo3",
        {"head_dim": ..., "num_hidden_layers": 5, "sliding_window": 32, "rope_parameters": OLMO3_ROPE},
    ),
    "deepseek2": ("deepseek_v2", LATENT),
    "deepseek2 with yarn": ("deepseek_v2", LATENT | {"rope_parameters": YARN_LATENT}),
    "deepseek2 lite": (
        "deepseek_v2",
        LATENT | {"q_lora_rank": None, "num_hidden_layers": 27, "hidden_size": 64, "initializer_range": 0.1},
    ),
    "deepseek3": ("deepseek_v3", LATENT | GROUPS),
    "deepseek3 with yarn": ("deepseek_v3", LATENT | GROUPS | {"rope_parameters": YARN_LATENT}),
    "deepseek32": ("deepseek_v32", LATENT | GROUPS | {"index_n_heads": 4, "index_head_dim": 64}),
    "deepseek32 with yarn": (
        "deepseek_v32",
        LATENT | GROUPS | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "glm4_moe_lite": (
        "glm4_moe_lite",
        LITE | {"num_hidden_layers": 3, "mlp_layer_types": ["dense", "dense", "sparse"], "norm_topk_prob": False},
    ),
    # among fewer than index_topk tokens: beyond, ties of random weights fall this way or that
    "glm_moe_dsa": ("glm_moe_dsa", LITE | INDEXERS),
    "glm4_moe": ("glm4_moe", GLM_EXPERTS | {"attention_bias": True}),
    "gemma4": ("gemma4_text", GEMMA4),
    "gemma4 small": ("gemma4_text", GEMMA4 | GEMMA4_SMALL),
    "gemma4 with keys as values": (
        "gemma4_text",
        GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0},
    ),
    "gemma4 with experts": (
        "gemma4_text",
        GEMMA4
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
        # llama.cpp takes GELU from a table in F16, and more layers of it add up
        | {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "glm4_moe with norms of heads and yarn": (
        "glm4_moe",
        GLM_EXPERTS
        | {"use_qk_norm": True, "norm_topk_prob": False, "rope_parameters": YARN | {"partial_rotary_factor": 0.5}},
    ),
    "ministral3": ("ministral3", {"rope_parameters": TEMPERED}),
    "mixtral": ("mixtral", EXPERTS),
    "deepseek3 with all groups": ("deepseek_v3", LATENT | {"n_group": 4, "topk_group": 4}),
    "qwen2_moe, tied": ("qwen2_moe", TIED | QWEN_EXPERTS | {"shared_expert_intermediate_size": 96}),
    "qwen2_moe": ("qwen2_moe", QWEN_EXPERTS | {"shared_expert_intermediate_size": 96}),
    "qwen3_next": ("qwen3_next", DELTA_NET | QWEN_EXPERTS | {"shared_expert_intermediate_size": 96}),
    "qwen3_5": ("qwen3_5_text", DELTA_NET | {"rope_parameters": MROPE}),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        DELTA_NET | QWEN_EXPERTS | {"rope_parameters": MROPE, "shared_expert_intermediate_size": 96},
    ),
    "afmoe": (
        "afmoe",
        QWEN_EXPERTS | {"num_hidden_layers": 5, "sliding_window": 32, "mup_enabled": True, "route_scale": 2.5},
    ),
    "apertus": ("apertus", {"rope_parameters": LLAMA3}),
    "arcee": ("arcee", {"rope_parameters": YARN}),
    "chatglm": ("glm", {"rope_parameters": PHI_ROPE | {"partial_rotary_factor": 0.5}}),
    "dots1": ("dots1", GLM_EXPERTS | GROUPS | {"num_key_value_heads": 4, "first_k_dense_replace": 1}),
    "ernie4_5": ("ernie4_5", TIED),
    "ernie4_5_moe": ("ernie4_5_moe", TIED | ERNIE_EXPERTS | {"num_hidden_layers": 3}),
    "ernie4_5_moe without shared experts": ("ernie4_5_moe", ERNIE_EXPERTS | {"moe_num_shared_experts": 0}),
    "exaone_moe": (
        "exaone_moe",
        QWEN_EXPERTS | {"num_hidden_layers": 5, "sliding_window": 32, "rope_parameters": LLAMA3},
    ),
    "hunyuan": ("hunyuan_v1_dense", {"rope_parameters": STRETCHED}),
    "hunyuan_moe": ("hunyuan_v1_moe", TIED | {"num_experts": 4, "moe_topk": 2}),
    "mellum": (
        "mellum",
        QWEN_EXPERTS
        | {"num_hidden_layers": 5, "sliding_window": 32, "layer_types": WINDOWED, "rope_parameters": OLMO3_ROPE},
    ),
    "deepseek4": ("deepseek_v4", DEEPSEEK4),
    "deepseek4 with yarn": ("deepseek_v4", DEEPSEEK4 | {"index_topk": 64, "rope_parameters": YARN}),
    "mimo_v2_flash": ("mimo_v2_flash", MIMO),
    "minimax": ("minimax", MINIMAX_01),
    "minimax_m2": ("minimax_m2", EXPERTS | {"rotary_dim": 32}),
    "minimax_m3": ("minimax_m3_vl_text", MINIMAX_M3 | {"index_block_size": 16, "index_topk_blocks": 3}),
    "minimax_m3 with a dense layer": ("minimax_m3_vl_text", MINIMAX_M3 | MINIMAX_M3_DENSE),
    "seed_oss": ("seed_oss", {"head_dim": 32}),
    "solar_open": ("solar_open", GLM_EXPERTS | {"rope_parameters": YARN}),
    "qwen3_moe": ("qwen3_moe", QWEN_EXPERTS | {"norm_topk_prob": True}),
    "iquestcoder": ("iquestcoder", {}),
    "jais2": ("jais2", {}),
    "youtu": ("youtu", TIED | DENSE_LATENT),
    "granite_swa": ("granite_swa", TIED | GRANITE | SINKS),
    "granitemoe_swa": ("granitemoe_swa", GRANITE | SINKS | EXPERTS | {"shared_intermediate_size": 96}),
    "cohere2_moe": ("cohere2_moe", TIED | COHERE_EXPERTS),
    "cohere2_moe without shared experts": (
        "cohere2_moe",
        TIED
        | COHERE_EXPERTS
        | {"num_shared_experts": 0, "rms_norm_eps": 1e-5, "expert_selection_fn": "softmax", "first_k_dense_replace": 0},
    ),
    "bloom": ("bloom", TIED | {"num_key_value_heads": ..., "head_dim": ..., "n_head": 6, "hidden_size": 192}),
    "mpt": ("mpt", TIED | MPT),
    "dbrx": ("dbrx", DBRX),
    "minicpm3": ("minicpm3", TIED | DENSE_LATENT | {"v_head_dim": 64}),
    "minicpm3 in a long context": (
        "minicpm3",
        DENSE_LATENT | {"v_head_dim": 64, "rope_parameters": LONGROPE_HALF | {"original_max_position_embeddings": 64}},
    ),
    "bamba": ("bamba", BAMBA),
    "laguna": ("laguna", LAGUNA),
    "laguna with gates of elements": (
        "laguna",
        LAGUNA | {"gating": "per-element", "layer_types": 4 * ["full_attention"]},
    ),
    "kimi_linear": ("kimi_linear", KIMI_LINEAR),
    "hy_v3": ("hy_v3", QWEN_EXPERTS | {"num_hidden_layers": 3, "router_scaling_factor": 1.5}),
}
ALIKE = ("with", "without", "tied", "in ", "as configured", "11b")  # variants of one that is there


def alike(name: str) -> bool:
    return any(word in name for word in ALIKE)


VARIANTS_SLOW = [pytest.param(name, marks=pytest.mark.slow) if alike(name) else name for name in MODELS]
FLASH = ("minimax_m3",)
"""Whose sparse attention llama.cpp computes with flash attention alone."""
IDS = torch.randint(3, 380, (160,), generator=torch.Generator().manual_seed(0)).tolist()
# In normal form C, because llama.cpp does not normalize for Qwen as transformers does.
TEXT = (
    "Hello world! It's 12345 o'clock,  isn't it?\n\n\tdef f(x):\r\n    return x ** 2  # naïve café\n"
    "日本語のテスト、中文测试。한국어 Привет, мир! Ελληνικά עברית العربية हिन्दी 🙂👩‍👩‍👧 \u00a0 \u200b end"
)


def logits(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        result: NDArray[np.float32] = model(torch.tensor([IDS])).logits[0].numpy()
    return result


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", VARIANTS_SLOW)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = build_uneven(family, tmp_path / "model", **config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if name.endswith("in shards"):
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="500kB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    expected = logits(model)
    file = tmp_path / "model.gguf"
    write_gguf(folder, file, "F32")
    with LlamaCpp(file, flash=name in FLASH) as llama:
        found = llama.logits(IDS)
    assert relative_error(found, expected) <= 1e-3
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))
    assert relative_error(logits(load_model(file)), expected) <= 1e-4


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_half_precision_stays_close(family: str, tmp_path: Path) -> None:
    folder = build_uneven(family, tmp_path / "model", initializer_range=0.05)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    write_gguf(folder, tmp_path / "model.gguf", "F16")
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        assert relative_error(llama.logits(IDS), expected) <= 5e-3
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), expected) <= 5e-3


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_tokenization_is_identical(family: str, tmp_path: Path) -> None:
    folder = build_uneven(family, tmp_path / "model", num_hidden_layers=1)
    write_gguf(folder, tmp_path / "model.gguf", "F16")
    expected = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        assert llama.tokenize(TEXT) == expected
