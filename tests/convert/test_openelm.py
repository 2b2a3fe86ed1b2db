"""OpenELM, whose layers differ, against transformers' own Qwen3 layers put together as its code does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from hubquant.convert.restore import read_state_dict
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.gguf_file.reader import GGUFFile
from tests.convert.test_own_code import fused, renamed
from tests.support.conversion import Weights, assert_same, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = list(range(3, 53))
SIZES = [(2, 1, 256), (4, 2, 384), (6, 3, 512)]
NAMES = {
    "model.layers": "transformer.layers",
    "model.norm": "transformer.norm",
    "model.embed_tokens": "transformer.token_embeddings",
    "self_attn.o_proj": "attn.out_proj",
    "self_attn": "attn",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.down_proj": "ffn.proj_2",
}


def settings() -> dict[str, Any]:
    """As published, with the names of its code."""
    heads, kv_heads, widths = zip(*SIZES, strict=True)
    own = {
        "num_query_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_multipliers": [width / 256 for width in widths],
        "ffn_dim_divisor": 128,
        "ffn_with_glu": True,
        "activation_fn_name": "swish",
        "model_dim": 256,
        "max_context_length": 512,
        "num_transformer_layers": 3,
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "num_gqa_groups": 2,
        "qkv_multipliers": [0.5, 1.0],
        "rope_freq_constant": 10000,
        "rope_max_length": 1024,
        "share_input_output_layers": True,
    }
    gone = ("hidden_size", "num_hidden_layers", "max_position_embeddings", "num_attention_heads", "intermediate_size")
    more = ("num_key_value_heads", "rope_parameters", "tie_word_embeddings", "rms_norm_eps", "hidden_act")
    return {"architectures": ["OpenELMForCausalLM"], "model_type": "openelm"} | own | dict.fromkeys((*gone, *more), ...)


def build(folder: Path) -> tuple[Path, Weights, np.ndarray]:
    """A tiny one, its weights, and its logits [tokens, vocabulary]."""
    build_uneven("qwen3", folder, num_hidden_layers=len(SIZES), tie_word_embeddings=True, rms_norm_eps=1e-6)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    for i, (heads, kv_heads, width) in enumerate(SIZES):
        config = copy.copy(model.config)
        config.num_attention_heads, config.num_key_value_heads, config.intermediate_size = heads, kv_heads, width
        layer = Qwen3DecoderLayer(config, i)
        for x in layer.parameters():
            torch.nn.init.normal_(x, 1.0 if x.dim() == 1 else 0.0, 0.2)
        model.model.layers[i] = layer
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    kept = {name: x.clone() for name, x in model.state_dict().items() if name != "lm_head.weight"}
    fused(kept, "attn.qkv_proj")
    for name in [name for name in kept if "gate_proj" in name]:
        parts = kept.pop(name), kept.pop(name.replace("gate", "up"))
        kept[name.replace("mlp.gate_proj", "ffn.proj_1")] = torch.cat(parts)
    renamed(kept, NAMES)

    def edit(weights: Weights) -> None:
        weights.clear()
        weights |= kept

    return configure(edit_weights(folder, edit), **settings()), kept, logits


def test_layers_of_several_widths(tmp_path: Path) -> None:
    folder, weights, expected = build(tmp_path / "model")
    file = tmp_path / "model.gguf"
    assert "transformers lacks its code" in str(write_gguf(folder, file, "F32").cannot_run)
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    assert_same(dict(read_state_dict(GGUFFile.open(file))), weights)


REFUSED: list[tuple[dict[str, Any], type[HubquantError], str]] = [
    ({"num_kv_heads": [1, 2]}, CheckpointError, "as long as num_query_heads"),
    ({"ffn_multipliers": 4.0}, CheckpointError, "a list of numbers above 0"),
    ({"ffn_dim_divisor": 0}, CheckpointError, "whole numbers above 0"),
    ({"normalization_layer_name": "layer_norm"}, NotSupportedYet, "normalization_layer_name"),
    ({"share_input_output_layers": False}, NotSupportedYet, "tie_word_embeddings"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_settings_of_no_such_model(
    changes: dict[str, Any], error: type[HubquantError], message: str, tmp_path: Path
) -> None:
    folder = configure(build_uneven("qwen3", tmp_path, num_hidden_layers=1), **(settings() | changes))
    with pytest.raises(error) as refused:
        plan(folder)
    assert message in f"{refused.value} {refused.value.why}"
