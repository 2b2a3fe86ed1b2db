"""Models whose code is not part of transformers: another family with the same weights and factors stands for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.bitnet import WeightQuant

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.head_order import InterleaveHalves
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError
from tests.convert.test_llama_cpp import MINIMAX_01
from tests.support.ahead import add_ahead
from tests.support.cli import hubquant
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = list(range(3, 103))
STAND_INS = {
    "MiniCPMForCausalLM": "granite",
    "InternLM2ForCausalLM": "llama",
    "BailingMoeV2ForCausalLM": "glm4_moe",
    "XverseForCausalLM": "llama",
    "BaichuanForCausalLM": "llama",
    "BaiChuanForCausalLM": "llama",
    "ExaoneForCausalLM": "llama",
    "PanguEmbeddedForCausalLM": "llama",
    "OrionForCausalLM": "stablelm",
    "MaincoderForCausalLM": "hunyuan_v1_dense",
    "QWenLMHeadModel": "qwen2",
    "CodeShellForCausalLM": "starcoder2",
    "ChatGLMModel": "glm",
    "ChatGLMForConditionalGeneration": "glm",
    "DeepseekForCausalLM": "qwen2_moe",
    "BailingMoeForCausalLM": "granitemoeshared",
    "SarvamMoEForCausalLM": "glm4_moe",
    "DotsOCRForCausalLM": "qwen2",
    "DreamModel": "qwen2",
    "LLaDAModelLM": "llama",
    "LLaDAMoEModelLM": "qwen3_moe",
    "RND1": "qwen3_moe",
    "DeciLMForCausalLM": "llama",
    "BitnetForCausalLM": "bitnet",
    "OpenELMForCausalLM": "qwen3",
    "MiniMaxM1ForCausalLM": "minimax",
}
FILL_MASKS = ("DreamModel", "LLaDAModelLM", "LLaDAMoEModelLM", "RND1")


def minicpm(folder: Path) -> Path:
    """4 heads of 64, 2 layers."""
    build_uneven(
        "granite",
        folder,
        embedding_multiplier=12.0,
        residual_multiplier=1.4 / 2**0.5,
        logits_scaling=4.0,
        attention_multiplier=64**-0.5,
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"):
        del config[name]
    own = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64, "rope_scaling": None}
    path.write_text(json.dumps(config | own | {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm"}))
    return folder


def test_logits_equal_those_of_the_granite_with_its_factors(tmp_path: Path) -> None:
    folder, file = minicpm(tmp_path / "model"), tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == "minicpm"
    restored = load_model(file)
    assert restored.config.embedding_multiplier == 12
    with torch.no_grad():
        expected = restored(torch.tensor([IDS])).logits[0].numpy()
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def joined(weights: Weights, parts: tuple[str, ...], groups: int) -> Iterator[tuple[str, torch.Tensor]]:
    """(name of the first part, all parts in one, group by group) of each layer."""
    for name in [name for name in weights if parts[0] in name]:
        rows = [weights.pop(name.replace(parts[0], part)).unflatten(0, (groups, -1)) for part in parts]
        yield name, torch.cat(rows, dim=1).flatten(0, 1)


def renamed(weights: Weights, names: Mapping[str, str]) -> None:
    for name in list(weights):
        new = name
        for old, other in names.items():
            new = new.replace(old, other)
        weights[new] = weights.pop(name)


PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def as_internlm2(weights: Weights) -> None:
    for name, x in joined(weights, PROJECTIONS, groups=2):
        weights[name.replace(PROJECTIONS[0], "attention.wqkv")] = x
    names = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "lm_head": "output"}
    names |= {"self_attn.o_proj": "attention.wo", "embed_tokens": "tok_embeddings"}
    names |= {
        f"mlp.{long}_proj": f"feed_forward.{short}" for long, short in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
    }
    renamed(weights, names)


def as_bailing(weights: Weights) -> None:
    for name, x in joined(weights, PROJECTIONS, groups=1):
        weights[name.replace(PROJECTIONS[0], "attention.query_key_value")] = x
    names = {"self_attn.o_proj": "attention.dense", "self_attn.q_norm": "attention.query_layernorm"}
    names |= {"self_attn.k_norm": "attention.key_layernorm", "e_score_correction_bias": "expert_bias"}
    names |= {"embed_tokens": "word_embeddings", "shared_head.norm": "final_layernorm"}
    renamed(weights, names)


def as_they_are(weights: Weights) -> None:
    """Names of Llama and its kin."""


def as_baichuan(weights: Weights) -> None:
    for name, x in joined(weights, PROJECTIONS, groups=1):
        weights[name.replace(PROJECTIONS[0], "self_attn.W_pack")] = x


def as_exaone(weights: Weights) -> None:
    names = {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h"}
    names |= {"self_attn.o_proj": "attn.attention.out_proj", "self_attn": "attn.attention"}
    names |= {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
    names |= {"mlp.gate_proj": "mlp.c_fc_0", "mlp.up_proj": "mlp.c_fc_1", "mlp.down_proj": "mlp.c_proj"}
    renamed(weights, names)


def fused(weights: Weights, name: str) -> None:
    """Queries, keys and values in one matrix, and in one bias where they have any."""
    for first in [first for first in weights if PROJECTIONS[0] in first]:
        rows = [weights.pop(first.replace(PROJECTIONS[0], part)) for part in PROJECTIONS]
        weights[first.replace(PROJECTIONS[0], name)] = torch.cat(rows)


def as_qwen(weights: Weights) -> None:
    fused(weights, "attn.c_attn")
    names = {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h"}
    names |= {"self_attn.o_proj": "attn.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
    renamed(weights, names | {"mlp.gate_proj": "mlp.w2", "mlp.up_proj": "mlp.w1", "mlp.down_proj": "mlp.c_proj"})


def as_codeshell(weights: Weights) -> None:
    fused(weights, "attn.c_attn")
    names = {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h"}
    names |= {"self_attn.o_proj": "attn.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
    renamed(weights, names)


def as_chatglm(weights: Weights) -> None:
    fused(weights, "self_attention.query_key_value")
    names = {"model.embed_tokens": "transformer.embedding.word_embeddings", "lm_head": "transformer.output_layer"}
    names |= {"model.norm": "transformer.encoder.final_layernorm", "model.layers": "transformer.encoder.layers"}
    names |= {"self_attn.o_proj": "self_attention.dense"}
    renamed(weights, names | {"mlp.gate_up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h"})


def as_deepseek(weights: Weights) -> None:
    """Half of what the shared expert computes, which a router of zeros gives it; no biases."""
    for name in [name for name in weights if "shared_expert_gate" in name or name.endswith("_proj.bias")]:
        del weights[name]
    renamed(weights, {"shared_expert": "shared_experts"})
    for name in [name for name in weights if name.endswith("shared_experts.down_proj.weight")]:
        weights[name] = weights[name] / 2


def with_zeros(weights: Weights) -> None:
    for name in [name for name in weights if "shared_expert_gate" in name or name.endswith("_proj.bias")]:
        weights[name] = torch.zeros_like(weights[name])


def as_bailing1(weights: Weights) -> None:
    fused(weights, "attention.query_key_value")
    for name in [name for name in weights if "input_linear" in name]:
        x = weights.pop(name)
        if "shared_mlp" in name:
            gate, up = x.chunk(2)
            prefix = name.replace("shared_mlp.input_linear.weight", "mlp.shared_experts")
            weights |= {f"{prefix}.gate_proj.weight": gate.clone(), f"{prefix}.up_proj.weight": up.clone()}
            continue
        prefix = name.replace("block_sparse_moe.input_linear.weight", "mlp.experts")
        down = weights.pop(name.replace("input_linear", "output_linear"))
        for i, each in enumerate(x):
            gate, up = each.chunk(2)
            weights |= {f"{prefix}.{i}.gate_proj.weight": gate.clone(), f"{prefix}.{i}.up_proj.weight": up.clone()}
            weights[f"{prefix}.{i}.down_proj.weight"] = down[i].clone()
    names = {"self_attn.o_proj": "attention.dense", "embed_tokens": "word_embeddings"}
    names |= {"shared_mlp.output_linear": "mlp.shared_experts.down_proj"}
    renamed(weights, names | {"block_sparse_moe.router.layer": "mlp.gate"})


def as_dots_ocr(weights: Weights) -> None:
    weights["vision_tower.blocks.0.attn.qkv.weight"] = torch.zeros(3, 1)


def as_llada(weights: Weights) -> None:
    names = {"model.embed_tokens": "model.transformer.wte", "model.norm": "model.transformer.ln_f"}
    names |= {"model.layers": "model.transformer.blocks", "lm_head": "model.transformer.ff_out"}
    names |= {"self_attn.o_proj": "attn_out", "self_attn.": "", "post_attention_layernorm": "ff_norm"}
    names |= {"input_layernorm": "attn_norm", "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj"}
    renamed(weights, names | {"mlp.down_proj": "ff_out"})


def as_maincoder(weights: Weights) -> None:
    """Norms of heads behind rope, which rotates pairs that lie together."""
    renamed(weights, {"query_layernorm": "q_norm", "key_layernorm": "k_norm"})
    for name, heads in (("q_proj", 4), ("k_proj", 2), ("q_norm", 1), ("k_norm", 1)):
        for each in [each for each in weights if f"self_attn.{name}" in each]:
            weights[each] = InterleaveHalves(heads).there(weights[each]).contiguous()


BAILING = {
    "num_experts": 8,
    "num_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "score_function": "sigmoid",
    "partial_rotary_factor": 0.5,
    "moe_shared_expert_intermediate_size": 64,
    **dict.fromkeys(("n_routed_experts", "n_shared_experts", "rope_parameters", "use_qk_norm"), ...),
}
GLM = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_group": 4, "topk_group": 2}
SHARED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64} | {
    "shared_expert_intermediate_size": 128
}
MINIMAX = {
    f"layernorm_{part}_{factor}": value
    for part in ("full_attention", "linear_attention", "mlp")
    for factor, value in (("alpha", 1.75), ("beta", 1.0))
} | {
    "attn_type_list": [0, 1, 0],
    "rotary_dim": 64,
    "rope_theta": 1e6,
    "postnorm": True,
    "shared_intermediate_size": 0,
}
OWN_OF_MINIMAX = dict.fromkeys(
    [f"{part}_{factor}_factor" for part in ("full_attn", "linear_attn", "mlp") for factor in ("alpha", "beta")]
    + ["layer_types", "rope_parameters"],
    ...,
)
OWN: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Weights], None]]] = {
    "InternLM2ForCausalLM": ({}, {"bias": False}, as_internlm2),
    "XverseForCausalLM": ({}, {}, as_they_are),
    "BaichuanForCausalLM": (
        {"num_hidden_layers": 32, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_key_value_heads": 4},
        {},
        as_baichuan,
    ),
    "ExaoneForCausalLM": (
        {"rms_norm_eps": 1e-5},
        {"num_layers": 2, "activation_function": "silu", "layer_norm_epsilon": 1e-5}
        | dict.fromkeys(("num_hidden_layers", "hidden_act", "rms_norm_eps"), ...),
        as_exaone,
    ),
    "PanguEmbeddedForCausalLM": ({"attention_bias": True}, {"attention_bias": ..., "bias": True}, as_they_are),
    "OrionForCausalLM": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
        {"rms_norm_eps": 1e-5} | dict.fromkeys(("layer_norm_eps", "rope_parameters", "use_parallel_residual"), ...),
        as_they_are,
    ),
    "MaincoderForCausalLM": ({}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, as_maincoder),
    "QWenLMHeadModel": (
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-6},
        {"intermediate_size": 1024, "layer_norm_epsilon": 1e-6, "seq_length": 512, "rotary_emb_base": 10000}
        | {"no_bias": True, "kv_channels": 64, "scale_attn_weights": True, "rotary_pct": 1.0}
        | dict.fromkeys(("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_parameters"), ...),
        as_qwen,
    ),
    "CodeShellForCausalLM": (
        {},
        {"n_embd": 256, "n_head": 4, "num_query_groups": 2, "n_inner": 512, "n_layer": 2, "n_positions": 512}
        | {"layer_norm_epsilon": 1e-5, "position_embedding_type": "rope"}
        | dict.fromkeys(("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"), ...)
        | dict.fromkeys(("num_hidden_layers", "max_position_embeddings", "norm_epsilon", "rope_parameters"), ...),
        as_codeshell,
    ),
    "ChatGLMModel": (
        {"attention_bias": True, "rms_norm_eps": 1e-5}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5}},
        {"num_layers": 2, "padded_vocab_size": 384, "ffn_hidden_size": 512, "kv_channels": 64, "add_qkv_bias": True}
        | {"multi_query_attention": True, "multi_query_group_num": 2, "layernorm_epsilon": 1e-5, "rope_ratio": 5}
        | {"seq_length": 512, "rmsnorm": True, "original_rope": True}
        | dict.fromkeys(("num_hidden_layers", "vocab_size", "intermediate_size", "head_dim", "attention_bias"), ...)
        | dict.fromkeys(("num_key_value_heads", "rms_norm_eps", "rope_parameters", "max_position_embeddings"), ...),
        as_chatglm,
    ),
    "DeepseekForCausalLM": (
        SHARED | {"num_hidden_layers": 3, "mlp_only_layers": [0], "num_key_value_heads": 4},
        {"n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1}
        | dict.fromkeys(("num_experts", "mlp_only_layers", "shared_expert_intermediate_size"), ...),
        as_deepseek,
    ),
    "BailingMoeForCausalLM": (
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 256, "intermediate_size": 128}
        | {"attention_multiplier": 64**-0.5},
        {"num_experts": 4, "num_shared_experts": 2, "moe_intermediate_size": 128, "norm_topk_prob": True}
        | dict.fromkeys(("num_local_experts", "shared_intermediate_size", "attention_multiplier"), ...),
        as_bailing1,
    ),
    "SarvamMoEForCausalLM": (
        GLM
        | {"use_qk_norm": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        {name: value for name, value in BAILING.items() if name != "partial_rotary_factor"},
        as_bailing,
    ),
    "DotsOCRForCausalLM": ({}, {"vision_config": {"embed_dim": 8}, "image_token_id": 5}, as_dots_ocr),
    "DreamModel": ({"is_causal": False}, {"mask_token_id": 5}, as_they_are),
    "LLaDAModelLM": (
        {"is_causal": False},
        {"d_model": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 512, "rope": True}
        | {"max_sequence_length": 512, "layer_norm_type": "rms", "block_type": "llama", "weight_tying": False}
        | dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"), ...)
        | dict.fromkeys(("intermediate_size", "max_position_embeddings", "tie_word_embeddings"), ...),
        as_llada,
    ),
    "LLaDAMoEModelLM": (
        {"is_causal": False, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
        {"expert_intermediate_size": 64, "moe_intermediate_size": ..., "qk_layernorm": True},
        as_they_are,
    ),
    "RND1": (
        {"is_causal": False, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        | {"norm_topk_prob": True},
        {},
        as_they_are,
    ),
    "DeciLMForCausalLM": ({}, {"num_key_value_heads_per_layer": [2, 2], "num_key_value_heads": ...}, as_they_are),
    "MiniMaxM1ForCausalLM": (MINIMAX_01, MINIMAX | OWN_OF_MINIMAX, as_they_are),
    "BailingMoeV2ForCausalLM": (GLM | {"use_qk_norm": True}, BAILING, as_bailing),
}


@pytest.mark.parametrize("name", OWN)
def test_the_same_weights_by_other_names(name: str, tmp_path: Path) -> None:
    theirs, own, rename = OWN[name]
    folder, file = build_uneven(STAND_INS[name], tmp_path / "model", **theirs), tmp_path / "model.gguf"
    if name == "DeepseekForCausalLM":
        edit_weights(folder, with_zeros)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    if STAND_INS[name] == "glm4_moe":
        add_ahead(folder, "glm4_moe")
    edit_weights(folder, rename)
    configure(folder, architectures=[name], model_type="own", is_causal=..., **own)
    conversion = write_gguf(folder, file, "F32")
    assert "transformers lacks its code" in str(conversion.cannot_run)
    assert conversion.hparams["n_layer_nextn"] == (STAND_INS[name] == "glm4_moe")
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    if STAND_INS[name] == "llama" and name not in FILL_MASKS:  # and the file has Llama's tensors
        assert np.array_equal(load_model(file)(torch.tensor([IDS])).logits[0].detach().numpy(), expected)


def bitnet(folder: Path) -> Path:
    """Of 1bitLLM, which rounds its matrices to -1, 0 and 1 times a number whenever it uses them."""
    build_uneven("bitnet", folder, hidden_act="silu", tie_word_embeddings=True)
    edit_weights(folder, lambda x: renamed(x, {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}))
    return configure(folder, architectures=["BitnetForCausalLM"], model_type="llama", weight_bits=1, input_bits=8)


def test_matrices_of_bitnet_are_rounded_as_it_rounds_them(tmp_path: Path) -> None:
    folder, file = bitnet(tmp_path / "model"), tmp_path / "model.gguf"
    checkpoint = Checkpoint.from_folder(folder)
    conversion = write_gguf(folder, file, "F32")
    assert "transformers lacks its code" in str(conversion.cannot_run)
    restored = load_model(file)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        rounded = WeightQuant.apply(checkpoint.read("model.layers.1.mlp.up_proj.weight"))
        expected = restored(torch.tensor([IDS])).logits[0].numpy()
    assert torch.equal(restored.model.layers[1].mlp.up_proj.weight, rounded)
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_quantizing_alone_is_possible(tmp_path: Path) -> None:
    folder = minicpm(tmp_path / "model")
    made = hubquant("quantize", str(folder), "--type", "Q8_0", "--out", str(tmp_path / "files"))
    assert made.code == 0, made.err


def test_factors_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = minicpm(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["scale_depth"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="scale_depth"):
        plan(folder)
