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

from hubquant.convert.head_order import InterleaveHalves
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError
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
}


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
    renamed(weights, names | {"embed_tokens": "word_embeddings"})


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
    "BailingMoeV2ForCausalLM": (GLM | {"use_qk_norm": True}, BAILING, as_bailing),
}


@pytest.mark.parametrize("name", OWN)
def test_the_same_weights_by_other_names(name: str, tmp_path: Path) -> None:
    theirs, own, rename = OWN[name]
    folder, file = build_uneven(STAND_INS[name], tmp_path / "model", **theirs), tmp_path / "model.gguf"
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    edit_weights(folder, rename)
    configure(folder, architectures=[name], model_type="own", **own)
    conversion = write_gguf(folder, file, "F32")
    assert "transformers lacks its code" in str(conversion.cannot_run)
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    if STAND_INS[name] == "llama":  # and the file has Llama's tensors
        assert np.array_equal(load_model(file)(torch.tensor([IDS])).logits[0].detach().numpy(), expected)


def test_quantizing_alone_is_possible(tmp_path: Path) -> None:
    folder = minicpm(tmp_path / "model")
    made = hubquant("quantize", str(folder), "--type", "Q8_0", "--out", str(tmp_path / "files"))
    assert made.code == 0, made.err
    refused = hubquant("plan", str(folder))
    assert refused.code == 2
    assert "transformers lacks its code" in refused.err


def test_factors_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = minicpm(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["scale_depth"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="scale_depth"):
        plan(folder)
