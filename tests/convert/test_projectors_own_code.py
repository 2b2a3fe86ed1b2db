"""Projectors of checkpoints that came with their own code: the file is that of the same model in transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.convert.conversion import stream
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_projectors import build
from tests.support.conversion import Weights, assert_same, configure, edit_weights, plan

LAYER = re.compile(r"^vision_tower\.encoder\.layer\.(\d+)\.")
INTERNVL = (
    (LAYER.pattern + r"attention\.projection_layer\.", r"vision_model.encoder.layers.\1.attn.proj."),
    (LAYER.pattern + r"layernorm_before\.", r"vision_model.encoder.layers.\1.norm1."),
    (LAYER.pattern + r"layernorm_after\.", r"vision_model.encoder.layers.\1.norm2."),
    (LAYER.pattern + r"lambda_", r"vision_model.encoder.layers.\1.ls"),
    (LAYER.pattern, r"vision_model.encoder.layers.\1."),
    (r"^vision_tower\.embeddings\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"^vision_tower\.embeddings\.patch_embeddings\.projection", "vision_model.embeddings.patch_embedding"),
    (r"^vision_tower\.embeddings\.position_embeddings", "vision_model.embeddings.position_embedding"),
    (r"^multi_modal_projector\.layer_norm", "mlp1.0"),
    (r"^multi_modal_projector\.linear_1", "mlp1.1"),
    (r"^multi_modal_projector\.linear_2", "mlp1.3"),
)


def convert(folder: Path) -> tuple[Metadata, dict[str, torch.Tensor]]:
    source = needed_projector(open_folder(folder, "tiny"))
    conversion = source.conversion()
    return conversion.metadata, dict(stream(conversion, source.checkpoint))


def check_same(folder: Path, edit: Any) -> None:
    """``edit`` makes the checkpoint of the other code of that in ``folder``."""
    metadata, expected = convert(folder)
    language_model = plan(folder)
    edit(folder)
    assert plan(folder).metadata == language_model.metadata
    found = convert(folder)
    assert found[0] == metadata
    assert_same(found[1], expected)


def rename(weights: Weights, names: tuple[tuple[str, str], ...]) -> None:
    for name in list(weights):
        for pattern, replacement in names:
            if re.search(pattern, name):
                weights[re.sub(pattern, replacement, name)] = weights.pop(name)
                break


def as_internvl_chat(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    seen = config["vision_config"]
    sizes = {name: seen[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act")}
    described = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "llm_config": config["text_config"],
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            **sizes,
            "image_size": 56,
            "patch_size": 14,
            "num_attention_heads": seen["num_attention_heads"],
            "layer_norm_eps": seen["layer_norm_eps"],
            "norm_type": "layer_norm",
            "qkv_bias": True,
            "qk_normalization": False,
        },
        "downsample_ratio": 0.5,
        "force_image_size": 56,
        "ps_version": "v2",
        "select_layer": -1,
        "tie_word_embeddings": config["tie_word_embeddings"],
    }
    (folder / "config.json").write_text(json.dumps(described))

    def edit(weights: Weights) -> None:
        for name in [name for name in weights if re.search(r"attention\.q_proj\.", name) and "vision" in name]:
            parts = [weights.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            weights[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        rename(weights, INTERNVL)

    edit_weights(folder, edit)


def test_internvl_chat(tmp_path: Path) -> None:
    check_same(build("internvl", tmp_path / "model"), as_internvl_chat)


@pytest.mark.parametrize(("setting", "value"), [("ps_version", "v1"), ("force_image_size", 112), ("select_layer", -4)])
def test_what_llama_cpp_has_otherwise_of_internvl_chat(setting: str, value: object, tmp_path: Path) -> None:
    folder = build("internvl", tmp_path / "model")
    as_internvl_chat(folder)
    with pytest.raises(NotSupportedYet, match=str(value)):
        convert(configure(folder, **{setting: value}))
