"""Gemma 4 as it is published, and what of it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from hubquant.convert.config import read_architecture
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.models import identify
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.multimodal import rename

KINDS = ["sliding_attention", "full_attention"] * 2
CONFIG: dict[str, Any] = {
    "tie_word_embeddings": True,
    "num_hidden_layers": 4,
    "layer_types": KINDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 32,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 384,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_uneven("gemma4_text", tmp_path / "model", **CONFIG)


def test_the_published_form_is_the_same(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "saved.gguf", "F32")
    configure(folder, per_layer_config=..., global_head_dim=32, use_bidirectional_attention="vision")

    def unused(weights: Weights) -> None:
        for layer, size in ((2, 16), (3, 32)):
            stem = f"model.layers.{layer}.self_attn"
            weights |= {f"{stem}.{part}_proj.weight": torch.ones(2 * size, 64) for part in "kv"}
            weights[f"{stem}.k_norm.weight"] = torch.ones(size)

    write_gguf(edit_weights(folder, unused), tmp_path / "published.gguf", "F32")
    assert (tmp_path / "published.gguf").read_bytes() == (tmp_path / "saved.gguf").read_bytes()


def test_the_language_model_of_a_multimodal_checkpoint(folder: Path) -> None:
    alone = plan(folder)
    text = json.loads((folder / "config.json").read_text())
    del text["architectures"]
    whole = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": text}
    (folder / "config.json").write_text(json.dumps(whole))
    rename(folder, ("model.", "model.language_model."))
    edit_weights(folder, lambda weights: weights.update({"model.vision_tower.patch.weight": torch.ones(3)}))
    found = plan(folder)
    assert (found.shapes, found.metadata, found.taps) == (alone.shapes, alone.metadata, alone.taps)
    assert identify(folder).model_class == "Gemma4ForCausalLM"


def rope(**changes: Any) -> dict[str, Any]:
    full = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    window = {"rope_type": "default", "rope_theta": 1e4}
    return {"rope_parameters": {"full_attention": full | changes, "sliding_attention": window}}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (rope(rope_type="yarn"), NotSupportedYet, "rope type 'yarn'"),
        (rope(factor=8.0), NotSupportedYet, "this rope"),
        (rope(partial_rotary_factor=2), CheckpointError, "partial_rotary_factor"),
        (rope(rope_theta="x"), CheckpointError, "rope_theta"),
        ({"rope_parameters": [1]}, CheckpointError, "rope_parameters"),
        ({"use_bidirectional_attention": "all"}, NotSupportedYet, "use_bidirectional_attention"),
        ({"tie_word_embeddings": False}, NotSupportedYet, "tie_word_embeddings"),
        ({"hidden_activation": "silu"}, NotSupportedYet, "hidden_activation"),
        ({"num_kv_shared_layers": 4}, CheckpointError, "num_kv_shared_layers|configuration"),
        ({"num_kv_shared_layers": 1}, NotSupportedYet, "layers that share these keys"),
        ({"enable_moe_block": True}, CheckpointError, "num_experts"),
        ({"layer_types": KINDS[:3]}, HubquantError, "layer_types|configuration"),
        ({"layer_types": ["full_attention"] * 4, "num_kv_shared_layers": 0}, NotSupportedYet, "no layer of the kind"),
        ({"layer_types": "all"}, CheckpointError, "layer_types"),
        ({"per_layer_config": {"1": {"head_dim": 32}, "3": {"head_dim": 16}}}, NotSupportedYet, "heads that differ"),
        ({"per_layer_config": {layer: {"num_key_value_heads": 0} for layer in "13"}}, CheckpointError, "num_key_value"),
        ({"vocab_size_per_layer_input": 1000}, CheckpointError, "vocab_size_per_layer_input"),
        ({"intermediate_size": 128}, CheckpointError, "12 tensors have other shapes"),
    ],
)
def test_what_llama_cpp_does_not_compute_or_no_model_has(
    changes: dict[str, Any], error: type[HubquantError], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        plan(configure(folder, **changes))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({"a": 1})
SETTINGS = [
    *["layer_types", "per_layer_config", "global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"],
    *["num_kv_shared_layers", "use_double_wide_mlp", "hidden_size_per_layer_input", "vocab_size_per_layer_input"],
    *["enable_moe_block", "num_experts", "top_k_experts", "moe_intermediate_size", "final_logit_softcapping"],
    *["rope_parameters", "sliding_window", "head_dim", "num_attention_heads", "num_hidden_layers", "intermediate_size"],
]


@settings(max_examples=150)
@given(changes=st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=2))
def test_any_config_is_planned_or_refused(changes: dict[str, Any]) -> None:
    config = AutoConfig.for_model("gemma4_text", **CONFIG).to_dict() | changes
    try:
        architecture, parsed = read_architecture(config)
        for rule in architecture.rules:
            rule.metadata(parsed)
        for bundle in architecture.bundles(parsed):
            bundle.source_shapes()
        architecture.unused(parsed)
    except HubquantError:
        pass
