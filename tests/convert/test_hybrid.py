"""Models in which layers differ, or have a state instead of attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from hubquant.convert.config import read_architecture
from hubquant.convert.restore import read_config
from hubquant.convert.rules.heads_by_layer import periodic
from hubquant.errors import CheckpointError, GGUFError, HubquantError, NotSupportedYet
from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.metadata import i32s
from hubquant.models.tiny import build
from hubquant.sources.gguf import _hparams
from tests.support.cli import hubquant
from tests.support.conversion import Weights, build_uneven, edit_weights, plan, write_gguf

SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
MAMBA2 = SMALL | {"num_heads": 8, "n_groups": 2, "state_size": 16}
JAMBA = SMALL | {"attn_layer_period": 3, "attn_layer_offset": 1, "num_experts": 4, "num_hidden_layers": 5}
LFM2 = SMALL | {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
FALCON_H1 = SMALL | {
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_norm_before_gate": False,
    "embedding_multiplier": 2.0,
    "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 2.0],
}
DELTA_NET = SMALL | {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [1, 1, 0]}
MROPE = {"rope_parameters": ROPE}
EXPERTS = DELTA_NET | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_next": EXPERTS,
    "qwen3_5_text": DELTA_NET | MROPE,
    "qwen3_5_moe_text": EXPERTS | MROPE,
    "mamba": SMALL,
    "mamba2": MAMBA2,
    "jamba": JAMBA,
    "lfm2": LFM2,
    "falcon_h1": FALCON_H1,
}


@pytest.mark.parametrize("family", MODELS)
def test_every_linear_module_that_is_called_is_observed(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path / "model", **MODELS[family])
    model = AutoModelForCausalLM.from_pretrained(folder)
    called: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.arange(20)[None])
    conversion = plan(folder)
    assert called <= {tap.module for tap in conversion.taps.values()}
    assert conversion.taps.keys() <= conversion.shapes.keys()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mamba, wider": ("mamba", SMALL | {"expand": 3}, "expand '3'"),
    "mamba with biases": ("mamba", SMALL | {"use_bias": True}, "use_bias"),
    "mamba2 with clamped steps": ("mamba2", MAMBA2 | {"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
    "jamba, wider": ("jamba", JAMBA | {"mamba_expand": 3}, "mamba_expand '3'"),
    "falcon_h1 with biases": ("falcon_h1", FALCON_H1 | {"projectors_bias": True}, "projectors_bias"),
    "falcon_h1, norm first": ("falcon_h1", FALCON_H1 | {"mamba_norm_before_gate": True}, "norm_before_gate"),
    "qwen3_next, other heads": ("qwen3_next", EXPERTS | {"linear_value_head_dim": 8}, "key heads of 32"),
    "qwen3_5 in another order": (
        "qwen3_5_text",
        DELTA_NET | MROPE | {"layer_types": ["full_attention", "linear_attention"] * 2},
        "this order of layers",
    ),
    "lfm2 with narrow heads": ("lfm2", LFM2 | {"head_dim": 8}, "4 heads of 8 in a model of width 64"),
    "lfm2 with biases": ("lfm2", LFM2 | {"conv_bias": True}, "conv_bias"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str, tmp_path: Path) -> None:
    family, config, reason = REFUSED[case]
    with pytest.raises(NotSupportedYet, match=reason):
        plan(build(family, tmp_path, **config))


def test_time_steps_of_a_rank_that_fits_no_block(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from tests.support.llamacpp import LlamaCpp

    folder = build_uneven("jamba", tmp_path / "jamba", **JAMBA, mamba_dt_rank=20)
    assert hubquant("quantize", str(folder), "-t", "Q8_0", "-o", str(tmp_path)).code == 0
    tensors = GGUFFile.open(tmp_path / "jamba-Q8_0.gguf").tensors
    assert {name for name, entry in tensors.items() if entry.type == "F16"} == {
        f"blk.{layer}.ssm_dt.weight" for layer in (0, 2, 3)
    }
    with LlamaCpp(tmp_path / "jamba-Q8_0.gguf") as llama:
        assert np.isfinite(llama.logits(list(range(3, 60)))).all()


def test_rotated_sections_wider_than_heads(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mrope_section"):
        plan(build("qwen3_5_text", tmp_path, **DELTA_NET))  # transformers' default is for wider heads


def test_key_value_heads_are_counted_in_the_first_layer(tmp_path: Path) -> None:
    conversion = write_gguf(build_uneven("lfm2", tmp_path / "model", **LFM2), tmp_path / "model.gguf", "F32")
    assert conversion.metadata["lfm2.attention.head_count_kv"] == i32s([0, 2, 0])
    assert conversion.hparams["n_head_kv"] == 0
    assert _hparams(GGUFFile.open(tmp_path / "model.gguf").metadata, "lfm2")["n_head_kv"] == 0


@pytest.mark.parametrize("counts", [[0, 2], [0, 2, 1], [0, -2, 2]])
def test_key_value_heads_that_fit_no_model(counts: list[int], tmp_path: Path) -> None:
    write_gguf(build_uneven("lfm2", tmp_path / "model", **LFM2), tmp_path / "model.gguf", "F32")
    gguf = GGUFFile.open(tmp_path / "model.gguf")
    gguf.metadata["lfm2.attention.head_count_kv"] = i32s(counts)
    with pytest.raises(GGUFError, match="head_count_kv"):
        read_config(gguf)


def test_the_text_tower_of_a_checkpoint_with_images(tmp_path: Path) -> None:
    folder = build_uneven("qwen3_5_text", tmp_path / "model", **DELTA_NET, **MROPE)
    conversion = plan(folder)
    path = folder / "config.json"
    text = json.loads(path.read_text())
    del text["architectures"]

    def outer(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith("model.")]:
            weights[name.replace("model.", "model.language_model.", 1)] = weights.pop(name)
        weights["model.visual.patch_embed.proj.weight"] = torch.zeros(4, 4)
        weights["mtp.fc.weight"] = torch.zeros(4, 4)

    edit_weights(folder, outer)
    config = {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text}
    path.write_text(json.dumps(config | {"tie_word_embeddings": False, "vision_config": {}}))
    found = plan(folder)
    assert found.shapes == conversion.shapes
    assert found.metadata == conversion.metadata


def test_stacked_experts_are_the_same(tmp_path: Path) -> None:
    folder = build_uneven("qwen3_5_moe_text", tmp_path / "model", **EXPERTS, **MROPE)
    write_gguf(folder, tmp_path / "apart.gguf", "F32")

    def stacked(weights: Weights) -> None:
        for layer in range(4):
            mlp = f"model.layers.{layer}.mlp.experts"
            gate, up, down = (
                torch.stack([weights.pop(f"{mlp}.{i}.{name}_proj.weight") for i in range(4)])
                for name in ("gate", "up", "down")
            )
            weights[f"{mlp}.gate_up_proj"] = torch.cat([gate, up], dim=1)
            weights[f"{mlp}.down_proj"] = down

    write_gguf(edit_weights(folder, stacked), tmp_path / "stacked.gguf", "F32")
    assert (tmp_path / "stacked.gguf").read_bytes() == (tmp_path / "apart.gguf").read_bytes()


@given(st.integers(1, 20), st.integers(1, 8), st.data())
def test_periods_are_found(n_layer: int, period: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, period - 1))
    layers = [layer % period == offset for layer in range(n_layer)]
    found, first = periodic(layers)
    assert first < found
    assert [layer % found == first for layer in range(n_layer)] == layers


@pytest.mark.parametrize("marked", [(1, 2), (3, 5), (0, 1, 3)])
def test_uneven_layers_have_no_period(marked: tuple[int, ...]) -> None:
    with pytest.raises(NotSupportedYet):
        periodic([layer in marked for layer in range(6)])


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({"a": 1})
SETTINGS = [
    *["num_heads", "n_groups", "state_size", "time_step_rank", "time_step_limit", "expand", "conv_kernel"],
    *["attn_layer_period", "attn_layer_offset", "expert_layer_period", "num_experts", "mamba_dt_rank", "mamba_expand"],
    *["layer_types", "full_attn_idxs", "conv_L_cache", "block_ffn_dim_multiplier", "block_multiple_of", "block_ff_dim"],
    *["mamba_d_ssm", "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mlp_multipliers", "key_multiplier"],
    *[
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "rope_parameters",
        "moe_intermediate_size",
    ],
    *["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"],
]


@settings(max_examples=200)
@given(family=st.sampled_from(list(MODELS)), changes=st.dictionaries(st.sampled_from(SETTINGS), values, max_size=2))
def test_any_config_is_planned_or_refused(family: str, changes: dict[str, Any]) -> None:
    config = AutoConfig.for_model(family, **MODELS[family], num_attention_heads=4).to_dict() | changes
    try:
        architecture, parsed = read_architecture(config)
        for rule in architecture.rules:
            rule.metadata(parsed)
        if parsed.num_hidden_layers < 100:
            for bundle in architecture.bundles(parsed):
                bundle.source_shapes()
    except HubquantError:
        pass
