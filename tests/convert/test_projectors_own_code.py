"""Projectors of checkpoints that came with their own code: the file is that of the same model in transformers, or it
computes what a model of transformers does that has the same weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM

from hubquant.convert.conversion import stream
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_projectors import MODELS, build, write_projector
from tests.support.conversion import Weights, assert_same, configure, edit_weights, plan, relative_error, write_gguf
from tests.support.mtmd import Multimodal
from tests.support.seeing import embeddings

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


MOONVIT = ("patch_size", "num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size")


def kimi_vl(config: Mapping[str, Any]) -> dict[str, Any]:
    seen = config["vision_config"]
    places = {f"init_pos_emb_{side}": seen[f"pos_emb_{side}"] for side in ("height", "width")}
    return {
        "architectures": ["KimiVLForConditionalGeneration"],
        "model_type": "kimi_vl",
        "ignore_index": -100,
        "media_placeholder_token_id": 163605,
        "text_config": config["text_config"],
        "vision_config": {
            "model_type": "moonvit",
            "merge_kernel_size": [2, 2],
            **{name: seen[name] for name in MOONVIT},
            **places,
        },
    }


def kimi_k2_5(config: Mapping[str, Any]) -> dict[str, Any]:
    plain = kimi_vl(config)
    seen = {f"vt_{name}" if name in MOONVIT[1:] else name: value for name, value in plain["vision_config"].items()}
    constants = {
        "pos_emb_type": "divided_fixed",
        "merge_type": "sd2_tpool",
        "mm_projector_type": "patchmerger",
        "mm_hidden_size": 32,
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
        "init_pos_emb_time": 4,
    }
    return {
        **plain,
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "text_config": {**config["text_config"], "model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]},
        "vision_config": {**seen, **constants, "model_type": "kimi_k25"},
    }


STAND_INS: dict[str, tuple[str, tuple[int, int], Callable[[Mapping[str, Any]], dict[str, Any]], dict[str, str]]] = {
    "KimiVLForConditionalGeneration": (
        "kimi_k25",
        (112, 112),  # as many patches as places, which llama.cpp interpolates otherwise
        kimi_vl,
        {
            "model.mm_projector.": "multi_modal_projector.",
            "mm_projector.proj.0.": "multi_modal_projector.linear_1.",
            "mm_projector.proj.2.": "multi_modal_projector.linear_2.",
        },
    ),
}
"""By a class that transformers has no code of: a model with the same weights, a picture's height and width, and what
makes its config.json of that one's, and the names of its tensors."""


def as_other(folder: Path, described: Callable[[Mapping[str, Any]], dict[str, Any]], names: Mapping[str, str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described(config)))
    edit_weights(folder, lambda weights: rename(weights, tuple((f"^{re.escape(a)}", b) for a, b in names.items())))


@pytest.mark.parametrize("name", STAND_INS)
def test_llama_cpp_sees_what_a_stand_in_sees(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    stand_in, (height, width), described, names = STAND_INS[name]
    folder = build(stand_in, tmp_path / "model")
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    expected = embeddings(model, picture, MODELS[stand_in][2])
    as_other(folder, described, names)
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        (found,) = llama.see(picture, expected.shape[-1])
    assert relative_error(torch.from_numpy(found), expected) <= 2e-3


def test_kimi_vl_has_its_places_interpolated_otherwise(tmp_path: Path) -> None:
    folder = build("kimi_k25", tmp_path)
    _, _, described, names = STAND_INS["KimiVLForConditionalGeneration"]
    as_other(folder, described, names)
    (note,) = needed_projector(open_folder(folder, "tiny")).conversion().notes
    assert "than 8 x 8 linearly" in note


def test_kimi_k2_5_as_it_is_published(tmp_path: Path) -> None:
    names = {"model.mm_projector.": "mm_projector.", "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed."}
    check_same(build("kimi_k25", tmp_path / "model"), lambda folder: as_other(folder, kimi_k2_5, names))
