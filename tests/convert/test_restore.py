from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hubquant.convert.restore import load_model, read_state_dict
from hubquant.errors import GGUFError, HubquantError, NotSupportedYet
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import Metadata, f32, i32s, string, u32
from hubquant.models.widened import Widened
from hubquant.quants import quantize
from tests.support.conversion import build_uneven, write_gguf

SHALLOW: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
DEEPSEEK: dict[str, Any] = {
    "num_hidden_layers": 2,
    "head_dim": ...,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 24,
}
LATENT: dict[str, Any] = {
    "head_dim": ...,
    "num_key_value_heads": 4,
    **{name: size for name, size in DEEPSEEK.items() if name.endswith(("_rank", "_head_dim"))},
}
GLM_EXPERTS: dict[str, Any] = {"n_routed_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
EXPERTS: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
BOTH_ROPES = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
GEMMA3N: dict[str, Any] = {
    "tie_word_embeddings": True,
    "num_hidden_layers": 25,
    "num_kv_shared_layers": 5,
    "vocab_size_per_layer_input": 384,
}
GEMMA4: dict[str, Any] = {
    "tie_word_embeddings": True,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "global_head_dim": 32,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 384,
}
GEMMA4_EXPERTS: dict[str, Any] = {
    "tie_word_embeddings": True,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "global_head_dim": 32,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}
DELTA_NET: dict[str, Any] = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}}
GRANITE_HYBRID: dict[str, Any] = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "mamba_n_heads": 8,
    "mamba_d_state": 16,
    "shared_intermediate_size": 48,
}
NEMOTRON_H: dict[str, Any] = {
    "num_hidden_layers": ...,
    "layers_block_type": ["full_attention", "mlp", "linear_attention"],
    "mamba_num_heads": 6,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
}
KIMI_LINEAR: dict[str, Any] = LATENT | {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "q_lora_rank": None,
    "linear_num_heads": 4,
    "linear_head_dim": 16,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
}
Entries = dict[str, tuple[int, ...]]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gemma4": ("gemma4_text", GEMMA4),
    "gemma4 with experts": ("gemma4_text", GEMMA4_EXPERTS),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    **{family: (family, {}) for family in ("granite", "olmo", "olmo2", "glm4", "phi", "starcoder2")},
    "cohere": ("cohere", {"tie_word_embeddings": True}),
    "granitemoe": ("granitemoe", {"num_local_experts": 4}),
    "nemotron": ("nemotron", {}),
    "falcon_mamba": ("falcon_mamba", {"intermediate_size": ..., "state_size": 8}),
    "granite_hybrid": ("granitemoehybrid", GRANITE_HYBRID | {"num_local_experts": 4}),
    "granite_hybrid without experts": ("granitemoehybrid", GRANITE_HYBRID | {"num_local_experts": 0}),
    "nemotron_h": ("nemotron_h", NEMOTRON_H),
    "nemotron_h with experts": (
        "nemotron_h",
        NEMOTRON_H
        | {"layers_block_type": ["full_attention", "moe", "linear_attention"], "n_routed_experts": 4}
        | {"moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48, "moe_latent_size": 40},
    ),
    "starcoder": (
        "gpt_bigcode",
        {"tie_word_embeddings": True, "head_dim": ..., "num_key_value_heads": ..., "intermediate_size": ...},
    ),
    "bitnet": ("bitnet", {"tie_word_embeddings": True, "hidden_act": "silu"}),
    "gpt2": ("gpt2", {"tie_word_embeddings": True}),
    "gptneox": ("gpt_neox", {"head_dim": ..., "num_key_value_heads": ...}),
    "falcon": ("falcon", {"tie_word_embeddings": True, "head_dim": ...}),
    "phi3": ("phi3", {}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_key_value_heads": 4}),
    "stablelm in parallel": ("stablelm", {"use_parallel_residual": True}),
    "gemma": ("gemma", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"tie_word_embeddings": True, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", {"tie_word_embeddings": True, "query_pre_attn_scalar": 16}),
    "gemma3n": ("gemma3n_text", GEMMA3N),
    "falcon_h1": ("falcon_h1", {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_norm_before_gate": False}),
    "jamba": ("jamba", {"num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 2, "num_experts": 4}),
    "lfm2": ("lfm2", {"num_hidden_layers": 2, "layer_types": ["full_attention", "conv"], "tie_word_embeddings": True}),
    "mamba": ("mamba", {"intermediate_size": 128, "state_size": 8, "tie_word_embeddings": True}),
    "mamba2": ("mamba2", {"num_heads": 8, "n_groups": 2, "state_size": 16}),
    "llama4": ("llama4_text", {"num_hidden_layers": 2, "num_local_experts": 4, "interleave_moe_layer_step": 2}),
    "olmo3": ("olmo3", {}),
    **{family: (family, {}) for family in ("iquestcoder", "jais2")},
    "granite_swa": ("granite_swa", {"num_hidden_layers": 2}),
    "granitemoe_swa": (
        "granitemoe_swa",
        {"num_hidden_layers": 2, "num_local_experts": 4, "shared_intermediate_size": 48},
    ),
    "youtu": ("youtu", LATENT),
    "laguna": (
        "laguna",
        EXPERTS
        | {"shared_expert_intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads_per_layer": [4, 6]}
        | {"layer_types": ["full_attention", "sliding_attention"]},
    ),
    "mistral4": (
        "mistral4",
        LATENT | {"moe_intermediate_size": 32, "n_routed_experts": 4, "qk_nope_head_dim": 16},
    ),
    "bloom": ("bloom", {"tie_word_embeddings": True, "head_dim": ...}),
    "mpt": ("mpt", {"tie_word_embeddings": True, "d_model": 64, "n_heads": 4, "head_dim": ...}),
    "dbrx": (
        "dbrx",
        {"d_model": 64, "head_dim": ..., "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0}}
        | {"ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "apertus": ("apertus", {}),
    "minicpm3": ("minicpm3", LATENT | {"v_head_dim": 16}),
    "bamba": (
        "bamba",
        {"num_hidden_layers": 2, "head_dim": ..., "attn_layer_indices": [0], "mamba_n_heads": 8, "mamba_d_state": 16},
    ),
    "hy_v3": ("hy_v3", EXPERTS | {"num_hidden_layers": 2}),
    "kimi_linear": ("kimi_linear", KIMI_LINEAR),
    "cohere2_moe": (
        "cohere2_moe",
        {"num_hidden_layers": 2, "tie_word_embeddings": True, "first_k_dense_replace": 1}
        | {"num_experts": 4, "num_shared_experts": 1, "prefix_dense_intermediate_size": 128},
    ),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek2": ("deepseek_v2", DEEPSEEK),
    "deepseek3": ("deepseek_v3", DEEPSEEK | {"n_group": 2, "topk_group": 1}),
    "glm4_moe": ("glm4_moe", GLM_EXPERTS | {"num_hidden_layers": 2}),
    **{family: (family, {}) for family in ("arcee", "ernie4_5", "glm", "hunyuan_v1_dense", "seed_oss")},
    "dots1": ("dots1", GLM_EXPERTS | {"num_key_value_heads": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "ernie4_5_moe": ("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "head_dim": ...}),
    "afmoe": ("afmoe", EXPERTS | {"num_hidden_layers": 2, "mup_enabled": True}),
    "exaone_moe": ("exaone_moe", EXPERTS | {"num_hidden_layers": 2}),
    "granitemoeshared": ("granitemoeshared", {"num_local_experts": 4, "shared_intermediate_size": 48}),
    "lfm2_moe": (
        "lfm2_moe",
        EXPERTS | {"num_hidden_layers": 2, "layer_types": ["full_attention", "conv"], "num_dense_layers": 1},
    ),
    "glm4_moe_lite": ("glm4_moe_lite", {name: x for name, x in DEEPSEEK.items() if name != "first_k_dense_replace"}),
    "deepseek32": ("deepseek_v32", DEEPSEEK | {"n_group": 2, "topk_group": 1, "index_n_heads": 4}),
    "glm_moe_dsa": ("glm_moe_dsa", DEEPSEEK | {"index_n_heads": 4, "index_head_dim": 32}),
    "deepseek4": (
        "deepseek_v4",
        {"num_hidden_layers": 2, "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"]}
        | {"mlp_layer_types": ["hash_moe", "moe"], "num_key_value_heads": 1, "head_dim": 128, "intermediate_size": ...}
        | {"partial_rotary_factor": 0.25, "q_lora_rank": 16, "o_groups": 2, "o_lora_rank": 8, "index_n_heads": 4}
        | {"index_head_dim": 64, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2},
    ),
    "hunyuan_moe": ("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2}),
    "mellum": ("mellum", EXPERTS | {"layer_types": ["sliding_attention"], "rope_parameters": BOTH_ROPES}),
    "mimo_v2_flash": (
        "mimo_v2_flash",
        GLM_EXPERTS
        | {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"], "head_dim": 24}
        | {"v_head_dim": 16},
    ),
    "minimax": (
        "minimax",
        {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4},
    ),
    "minimax_m2": ("minimax_m2", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "minimax_m3": (
        "minimax_m3_vl_text",
        {"num_hidden_layers": 2, "num_local_experts": 4, "rotary_dim": 8, "index_n_heads": 2, "index_head_dim": 16}
        | {"intermediate_size": 32, "dense_intermediate_size": 48, "shared_intermediate_size": 32}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
        | {"mlp_layer_types": ["dense", "sparse"], "layer_types": ["full_attention", "minimax_m3_sparse"]},
    ),
    "solar_open": ("solar_open", GLM_EXPERTS),
    "ministral3": ("ministral3", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}),
    "qwen3_next": ("qwen3_next", DELTA_NET | {"num_experts": 4, "moe_intermediate_size": 32}),
    "qwen3_5": ("qwen3_5_text", DELTA_NET | MROPE),
    "qwen3_5_moe": ("qwen3_5_moe_text", DELTA_NET | MROPE | {"num_experts": 4, "moe_intermediate_size": 32}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": True}),
}
NAMES = {
    "nemotron_h": (r"^backbone\.", "model."),
    "kimi_linear": (r"block_sparse_moe\.(\w+_proj)", r"mlp.\1"),
}
"""What transformers saves under another name than the family's checkpoints have."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_back_gives_the_same_weights(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = build_uneven(family, tmp_path / "model", dtype=dtype, **(SHALLOW | config))
    write_gguf(folder, tmp_path / "model.gguf", "F32" if dtype == torch.float32 else "BF16")
    older = NAMES.get(name.partition(" ")[0], ("^", ""))
    source = {re.sub(*older, key): x for key, x in load_file(folder / "model.safetensors").items()}
    source = {key: x for key, x in source.items() if not key.endswith(("_decay", "slope_rate"))}  # MiniMax's, computed
    if name == "deepseek4":
        names = {".attn.norm.": ".attn.kv_norm.", "head.weight": "lm_head.weight"}
        source = {next((k.replace(a, b) for a, b in names.items() if a in k), k): x for k, x in source.items()}
    found = dict(read_state_dict(GGUFFile.open(tmp_path / "model.gguf")))
    assert found.keys() == source.keys()
    for key, x in source.items():
        assert found[key].dtype == torch.float32
        # where 1 + x or -exp(x) is stored, the last bits of x are lost unless it was short
        inexact = key.endswith("A_log") or (
            name.startswith(("gemma", "nemotron", "qwen3_next", "qwen3_5", "minimax_m3"))
            and not name.startswith("gemma4")
            and x.dim() == 1
        )
        lost = 2**-22 if inexact else 0
        assert torch.equal(found[key].to(x.dtype), x) or (found[key] - x.float()).abs().max() <= lost


def test_a_loaded_model_is_whole(tmp_path: Path) -> None:
    folder = build_uneven("llama", tmp_path / "model", tie_word_embeddings=True, **SHALLOW)
    write_gguf(folder, tmp_path / "model.gguf", "Q8_0")
    model = load_model(tmp_path / "model.gguf")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    source = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    error = model.model.layers[0].mlp.up_proj.weight - source
    assert 0 < error.norm() / source.norm() < 0.01


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_half_precision_is_widened_when_it_is_used(type: str, tmp_path: Path) -> None:
    """With the same numbers as if it had been widened before; mixtral's experts are stacked and its rows reordered."""
    file = tmp_path / "model.gguf"
    write_gguf(build_uneven("mixtral", tmp_path / "model", **SHALLOW), file, type)
    model = load_model(file)
    matrices = {name: x for name, x in model.named_parameters() if x.ndim > 1 and "gate.weight" not in name}
    assert matrices
    assert all(isinstance(x, Widened) for x in matrices.values())
    weights = dict(read_state_dict(GGUFFile.open(file)))
    assert {x.dtype for x in weights.values()} == {torch.float32}
    ids = torch.arange(20)[None]
    found = model(ids).logits
    for name, x in model.named_parameters():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, torch.nn.Parameter(x + 0, requires_grad=False))
    assert not any(isinstance(x, Widened) for x in model.parameters())
    assert torch.equal(found, model(ids).logits)


def test_files_of_older_converters_have_fewer_keys(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(build_uneven("qwen3", tmp_path / "model", **SHALLOW), file, "F32")
    expected = load_model(file)(torch.arange(20)[None]).logits

    def older(metadata: Metadata, _: Entries) -> None:
        for key in ("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count"):
            del metadata[f"qwen3.{key}"]

    rewritten = rewrite(file, tmp_path / "older.gguf", older)
    assert torch.equal(load_model(rewritten)(torch.arange(20)[None]).logits, expected)


def rewrite(source: Path, target: Path, change: Callable[[Metadata, Entries], object]) -> Path:
    """The same file with other metadata or with zeros as other tensors."""
    gguf = GGUFFile.open(source)
    metadata, shapes = dict(gguf.metadata), {name: entry.shape for name, entry in gguf.tensors.items()}
    change(metadata, shapes)
    layout = plan_layout(metadata, [TensorEntry(name, shape, "F32") for name, shape in shapes.items()])
    with GGUFWriter(target, layout) as writer:
        for name, shape in shapes.items():
            same = name in gguf.tensors and gguf.tensors[name].shape == shape
            x = gguf.data(name) if same else quantize(torch.zeros(shape).view(-1, shape[-1]), "F32")
            writer.write(name, x)
        writer.finish()
    return target


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_gguf(build_uneven("llama", folder / "model", **SHALLOW), folder / "model.gguf", "F32")
    return folder / "model.gguf"


WRONG: dict[str, tuple[Callable[[Metadata, Entries], object], type[HubquantError], str]] = {
    "no architecture": (lambda keys, _: keys.pop("general.architecture"), GGUFError, "names no architecture"),
    "unknown architecture": (
        lambda keys, _: keys.update({"general.architecture": string("clip")}),
        NotSupportedYet,
        "architecture 'clip'",
    ),
    "missing tensor": (lambda _, tensors: tensors.pop("output_norm.weight"), GGUFError, "1 is missing: output_norm"),
    "unknown tensor": (lambda _, tensors: tensors.update({"x.weight": (4,)}), GGUFError, "1 is unknown: x.weight"),
    "more layers": (lambda keys, _: keys.update({"llama.block_count": u32(3)}), GGUFError, "18 are missing: blk.1"),
    "wrong shape": (
        lambda _, tensors: tensors.update({"output_norm.weight": (63,)}),
        GGUFError,
        r"1 tensor .*: output_norm.weight: .*\[63\] instead of \[64\]",
    ),
    "no heads": (
        lambda keys, _: keys.update({"llama.attention.head_count": u32(0)}),
        GGUFError,
        "num_attention_heads in the metadata is 0",
    ),
    "heads by layer": (
        lambda keys, _: keys.update({"llama.attention.head_count": i32s([4])}),
        NotSupportedYet,
        "differs between layers",
    ),
    "rope in words": (
        lambda keys, _: keys.update({"llama.rope.freq_base": string("high")}),
        GGUFError,
        'rope.freq_base in the metadata is "high"',
    ),
    "other rope": (
        lambda keys, _: keys.update({"llama.rope.scaling.type": string("longrope")}),
        NotSupportedYet,
        "rope scaling 'longrope'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_hold_no_model_are_named(case: str, tiny: Path, tmp_path: Path) -> None:
    change, error, reason = WRONG[case]
    with pytest.raises(error, match=reason):
        load_model(rewrite(tiny, tmp_path / "wrong.gguf", change))


values = st.one_of(
    st.integers(0, (1 << 32) - 1).map(u32),
    st.floats(width=32).map(f32),
    st.text(max_size=5).map(string),
    st.lists(st.integers(0, 9), max_size=3).map(i32s),
)


@settings(max_examples=60)
@given(data=st.data())
def test_any_metadata_is_a_model_or_refused(data: st.DataObject, tiny: Path) -> None:
    gguf = GGUFFile.open(tiny)
    keys = sorted(key for key in gguf.metadata if key.startswith("llama."))
    keys += ["llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scaling.original_context_length"]
    gguf.metadata |= data.draw(st.dictionaries(st.sampled_from(keys), values, min_size=1, max_size=2))
    with suppress(HubquantError):
        load_model(gguf)
