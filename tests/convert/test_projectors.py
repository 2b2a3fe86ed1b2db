"""Files of projectors: llama.cpp makes the same embeddings of a picture as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM

from hubquant.convert.conversion import stream
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_llama_cpp import DELTA_NET, GEMMA4, GLM_EXPERTS, GROUPS, LATENT, LLAMA4, QWEN_EXPERTS
from tests.support.conversion import Weights, assert_same, edit_weights, relative_error, write_conversion, write_gguf
from tests.support.mtmd import Multimodal
from tests.support.multimodal import build_multimodal, rename
from tests.support.seeing import (
    ADAPTED,
    BREAK,
    FLAT,
    FRAMES,
    GRID,
    MEAN,
    PART,
    PATCHES,
    PLACED,
    SIZED,
    SQUARE,
    STATES,
    STD,
    STRIP,
    embeddings,
)

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [11, 11, 10]}
GEMMA4_SEEING = {"head_dim": 16, "num_key_value_heads": 2, "position_embedding_size": 32, "num_hidden_layers": 2}
GEMMA4_HEARING = {
    "model_type": "gemma4_audio",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [128, 4],
    "output_proj_dims": 48,
}
GLM = {"depth": 2, "num_hidden_layers": 2, "image_size": 112}
GLM_ROPE = MROPE | {"mrope_section": [8, 4, 4], "partial_rotary_factor": 0.5}
PARTS = {"image_grid_pinpoints": [[56, 112], [112, 56]]}
PIXTRAL = {"num_hidden_layers": 2, "head_dim": 16}
MINICPM = DELTA_NET | {"rope_parameters": MROPE, "seeing": {"num_hidden_layers": 4, "image_size": 980}}
MODELS: dict[str, tuple[tuple[str, str, str], dict[str, Any], str, tuple[int, int]]] = {
    "gemma3": (
        ("gemma3", "gemma3_text", "siglip_vision_model"),
        {
            "query_pre_attn_scalar": 64,
            "whole": {"mm_tokens_per_image": 4},
            "seeing": {"num_hidden_layers": 2},
            "tied": True,
        },
        SQUARE,
        (56, 56),
    ),
    "hunyuan_vl": (
        ("hunyuan_vl", "hunyuan_vl_text", "hunyuan_vl_vision"),
        {
            "rope_parameters": MROPE | {"mrope_section": [8, 8, 8, 8]},
            "tied": True,
            "seeing": {
                "max_image_size": 112,
                "text_hidden_size": 256,
                "num_hidden_layers": 2,
                "initializer_range": 0.3,
            },
        },
        FLAT,
        (504, 532),
    ),
    "idefics3": (("idefics3", "llama", "idefics3_vision"), {"seeing": {"num_hidden_layers": 2}}, PART, (56, 56)),
    "smolvlm": (
        ("smolvlm", "llama", "smolvlm_vision"),
        {"whole": {"scale_factor": 4}, "seeing": {"image_size": 112}},
        PART,
        (112, 112),
    ),
    "internvl": (
        ("internvl", "qwen2", "internvl_vision"),
        {"seeing": {"attention_bias": True, "num_hidden_layers": 2}},
        SQUARE,
        (56, 56),
    ),
    "janus": (
        ("janus", "llama", "janus_vision_model"),
        {"seeing": {"mlp_ratio": 2.0, "projection_dim": 256, "depth": 2}},
        SQUARE,
        (56, 56),
    ),
    "kimi_k25": (
        ("kimi_k25", "deepseek_v3", "kimi_k25_vision"),
        LATENT
        | GROUPS
        | {
            "seeing": {"pos_emb_height": 8, "pos_emb_width": 8, "num_hidden_layers": 3, "initializer_range": 0.3},
            "whole": {"projection_hidden_size": 32},
        },
        GRID,
        (112, 168),
    ),
    "lighton_ocr": (
        ("lighton_ocr", "qwen3", "pixtral"),
        {"seeing": {"num_hidden_layers": 2, "head_dim": 16, "hidden_act": "silu", "image_size": 112}, "tied": True},
        SIZED,
        (56, 112),
    ),
    "lfm2_vl": (
        ("lfm2_vl", "lfm2", "siglip2_vision_model"),
        {
            "layer_types": ["conv", "full_attention"],
            "whole": {"projector_hidden_size": 64},
            "seeing": {"num_hidden_layers": 2, "num_patches": 16},
            "tied": True,
        },
        PATCHES,
        (224, 252),
    ),
    "gemma4": (
        ("gemma4", "gemma4_text", "gemma4_vision"),
        GEMMA4 | {"tied": True, "pad_token_id": 0, "seeing": GEMMA4_SEEING | {"standardize": True}},
        PLACED,
        (336, 378),
    ),
    "gemma4, with sound": (
        ("gemma4", "gemma4_text", "gemma4_vision"),
        GEMMA4
        | {
            "tied": True,
            "pad_token_id": 0,
            "seeing": GEMMA4_SEEING | {"use_clipped_linears": True, "pooling_kernel_size": 2},
            "whole": {"audio_config": GEMMA4_HEARING},
        },
        PLACED,
        (224, 280),
    ),
    "gemma4_unified": (
        ("gemma4_unified", "gemma4_unified_text", "gemma4_unified_vision"),
        {name: value for name, value in GEMMA4.items() if name != "hidden_size_per_layer_input"}
        | {
            "tied": True,
            "pad_token_id": 0,
            "use_bidirectional_attention": None,
            "seeing": {"patch_size": 4, "mm_embed_dim": 96, "output_proj_dims": 96, "mm_posemb_size": 16},
            "whole": {"audio_config": {"model_type": "gemma4_unified_audio"}},
        },
        PLACED,
        (96, 108),
    ),
    "glm4v": (
        ("glm4v", "glm4v_text", "glm4v_vision"),
        {"seeing": GLM, "rope_parameters": GLM_ROPE},
        FRAMES,
        (112, 168),
    ),
    "glm4v_moe": (
        ("glm4v_moe", "glm4v_moe_text", "glm4v_moe_vision"),
        GLM_EXPERTS | {"seeing": GLM | {"attention_bias": True}, "rope_parameters": GLM_ROPE},
        FRAMES,
        (112, 112),
    ),
    "glm_ocr": (
        ("glm_ocr", "glm_ocr_text", "glm_ocr_vision"),
        {"seeing": GLM | {"intermediate_size": 64}, "rope_parameters": GLM_ROPE},
        FRAMES,
        (112, 168),
    ),
    "llama4": (
        ("llama4", "llama4_text", "llama4_vision_model"),
        LLAMA4 | {"num_hidden_layers": 2, "seeing": {"num_hidden_layers": 2, "intermediate_size": 128}},
        ADAPTED,
        (56, 56),
    ),
    "llava": (("llava", "llama", "clip_vision_model"), {"seeing": {"num_hidden_layers": 3}}, STATES, (56, 56)),
    "llava with siglip": (
        ("llava", "qwen2", "siglip_vision_model"),
        {
            "whole": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
            "seeing": {"num_hidden_layers": 2},
        },
        STATES,
        (56, 56),
    ),
    "llava_next": (
        ("llava_next", "llama", "clip_vision_model"),
        {"whole": PARTS, "seeing": {"num_hidden_layers": 3}},
        STATES,
        (56, 56),
    ),
    "llava_next with siglip": (
        ("llava_next", "granite", "siglip_vision_model"),
        {
            "whole": PARTS | {"vision_feature_layer": [-3, -1], "vision_feature_select_strategy": "full"},
            "seeing": {"num_hidden_layers": 3},
        },
        STATES,
        (56, 56),
    ),
    "minicpm_v": (
        ("minicpmv4_6", "qwen3_5_text", "minicpmv4_6_vision"),
        MINICPM | {"whole": {"image_size": 112, "insert_layer_id": 1}},
        STRIP,
        (112, 112),
    ),
    "minicpm_v with more": (
        ("minicpmv4_6", "qwen3_5_text", "minicpmv4_6_vision"),
        MINICPM | {"whole": {"image_size": 112, "insert_layer_id": 1, "downsample_mode": "4x"}},
        STRIP,
        (112, 112),
    ),
    "paddleocr_vl": (
        ("paddleocr_vl", "paddleocr_vl_text", "paddleocr_vl_vision"),
        {"rope_parameters": MROPE, "tied": True, "seeing": {"num_hidden_layers": 2}},
        GRID,
        (392, 420),
    ),
    "pixtral": (
        ("llava", "mistral", "pixtral"),
        {"seeing": PIXTRAL, "whole": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}},
        SIZED,
        (56, 112),
    ),
    "mistral3": (
        ("mistral3", "mistral", "pixtral"),
        {"seeing": PIXTRAL | {"hidden_act": "silu"}, "rms_norm_eps": 1e-5, "tied": True},
        SIZED,
        (112, 168),
    ),
    "qwen2_vl": (
        ("qwen2_vl", "qwen2_vl_text", "qwen2_vl_vision"),
        {"seeing": {"embed_dim": 32, "hidden_size": 256, "depth": 2, "mlp_ratio": 2}},
        FRAMES,
        (112, 168),
    ),
    "qwen2_5_vl": (
        ("qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_vl_vision"),
        {"seeing": {"fullatt_block_indexes": [1, 3], "depth": 4}},
        FRAMES,
        (252, 168),
    ),
    "qwen3_vl": (
        ("qwen3_vl", "qwen3_vl_text", "qwen3_vl_vision"),
        {"seeing": {"depth": 4, "num_hidden_layers": 4, "deepstack_visual_indexes": [1, 2]}, "rope_parameters": MROPE},
        FRAMES,
        (112, 168),
    ),
    "qwen3_vl_moe": (
        ("qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_moe_vision"),
        QWEN_EXPERTS | {"num_local_experts": 4, "rope_parameters": MROPE},
        FRAMES,
        (112, 56),
    ),
    "qwen3_5": (
        ("qwen3_5", "qwen3_5_text", "qwen3_5_vision"),
        DELTA_NET | {"rope_parameters": MROPE, "seeing": {"depth": 2, "num_hidden_layers": 2}},
        FRAMES,
        (112, 56),
    ),
    "qwen3_5_moe": (
        ("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_vision"),
        DELTA_NET | QWEN_EXPERTS | {"rope_parameters": MROPE, "shared_expert_intermediate_size": 96},
        FRAMES,
        (112, 56),
    ),
}
OLDER: dict[str, tuple[tuple[str, str], ...]] = {
    "gemma3": (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    "llava_next": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
    ),
    "mistral3": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    "internvl": (("vision_tower.", "model.vision_tower."), ("multi_modal_", "model.multi_modal_")),
    "lfm2_vl": (("model.vision_tower.", "model.vision_tower.vision_model."),),
    "janus": (("model.vision_model.", "vision_model."), ("model.aligner.", "aligner.")),
    "paddleocr_vl": (("visual.", "model.visual."), ("mlp_AR.", "model.projector.")),
    "qwen2_vl": (("model.visual.", "visual."),),
}
"""Names that the same tensors had in checkpoints of other versions of transformers."""


def build(name: str, folder: Path) -> Path:
    families, settings, _, _ = MODELS[name]
    build_multimodal(*families, folder, **settings)
    write_preprocessor(folder)
    if families[2] == "pixtral":
        add_break(folder / "tokenizer.json")
    return edit_weights(folder, fill)


def write_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))


def add_break(path: Path) -> None:
    """Make the last token, which the last of a tokenizer's merges makes, that of Pixtral's breaks."""
    tokenizer = json.loads(path.read_text())
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if number != BREAK}
    model["merges"].pop()
    added.append(added[0] | {"id": BREAK, "content": "[IMG_BREAK]"})
    path.write_text(json.dumps(tokenizer))


def fill(weights: Weights) -> None:
    """Matrices that transformers begins with zeros would hide all that comes before them."""
    generator = torch.Generator().manual_seed(1)
    for name, x in weights.items():
        if x.dim() == 0:  # a bound of Gemma 4's, which transformers begins with infinity
            weights[name] = torch.tensor(-1.5 if name.endswith("min") else 1.5)
        if x.dim() > 1 and not x.any():
            weights[name] = torch.randn(x.shape, generator=generator) / x.shape[-1] ** 0.5


def write_projector(folder: Path, path: Path, type: str) -> None:
    source = needed_projector(open_folder(folder, "tiny"))
    write_conversion(source.conversion(), source.checkpoint, path, type)


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_sees_what_transformers_sees(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build(name, tmp_path / "model")
    _, _, way, (height, width) = MODELS[name]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = embeddings(AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32), picture, way)
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        found = llama.see(picture, expected.shape[-1])
    assert max(relative_error(torch.from_numpy(part), expected) for part in found) <= 2e-3


@pytest.mark.parametrize("name", OLDER)
def test_names_of_other_versions_are_the_same_encoder(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "model")
    expected = tensors(folder)
    assert_same(tensors(rename(folder, *OLDER[name])), expected)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    source = needed_projector(open_folder(folder, "tiny"))
    return dict(stream(source.conversion(), source.checkpoint))


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("llama4", ["column by column"]),
        ("llava", ["sets the class token behind the patches"]),
        ("llava_next with siglip", ["one after the other"]),
        ("llava with siglip", []),
    ],
)
def test_gaps_of_llama_cpp_are_noted(name: str, notes: list[str], tmp_path: Path) -> None:
    found = needed_projector(open_folder(build(name, tmp_path), "tiny")).conversion().notes
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))
