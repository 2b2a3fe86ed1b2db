"""Files of projectors: llama.cpp makes the same embeddings of a picture as transformers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, Qwen2VLImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as CLASSES

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import stream
from hubquant.convert.projectors.conversion import plan_projector, projector_of
from hubquant.errors import NotSupportedYet
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_llama_cpp import DELTA_NET, GEMMA4, GLM_EXPERTS, LLAMA4, QWEN_EXPERTS
from tests.support.conversion import Weights, assert_same, edit_weights, relative_error, write_conversion, write_gguf
from tests.support.mtmd import Multimodal
from tests.support.multimodal import build_multimodal, describe, rename

MEAN, STD = [0.45, 0.5, 0.55], [0.25, 0.3, 0.35]
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [11, 11, 10]}
# How transformers takes pictures: as they are, for states of some layers or of an adapter, with their size, as a part,
# in patches that are flat, with places, side by side or one after the other, or in patches of two frames.
SQUARE, STATES, ADAPTED, SIZED, PART = "square", "states", "adapted", "sized", "part"
PATCHES, PLACED, STRIP, GRID, FRAMES = "patches", "placed", "strip", "grid", "frames"
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
BREAK = 383  # the last token of a tiny vocabulary
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
TURNED = {"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3", {"seeing": {"hidden_act": "relu"}}, "hidden_act 'relu'"),
    ("gemma3", {"seeing": {"image_size": [56, 70]}}, "image_size"),
    ("gemma4", {"seeing": {"num_key_value_heads": 1}}, "num_key_value_heads 1"),
    ("gemma4", {"seeing": {"rope_parameters": {"rope_type": "axial", "rope_theta": 10.0}}}, "rope_theta 10.0"),
    ("glm4v", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("llama4", {"seeing": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}}, "rope_theta 100.0"),
    ("llava", {"whole": {"multimodal_projector_bias": False}}, "multimodal_projector_bias false"),
    ("llava", {"whole": {"vision_feature_select_strategy": "full"}}, "vision_feature_select_strategy 'full'"),
    ("llava_next", {"whole": {"vision_feature_layer": [-1, -2]}}, "vision_feature_layer [-1, -2]"),
    ("pixtral", {"seeing": TURNED}, "rope_theta 100.0"),
    ("pixtral", {"whole": {"vision_feature_layer": -2}}, "vision_feature_layer -2"),
    ("pixtral", {"whole": {"vision_feature_select_strategy": "default"}}, "vision_feature_select_strategy default"),
    ("pixtral", {"whole": {"projector_hidden_act": "silu"}}, "projector_hidden_act 'silu'"),
    ("mistral3", {"rms_norm_eps": 1e-6}, "rms_norm_eps 1e-06"),
    ("internvl", {"seeing": {"norm_type": "rms_norm"}}, "norm_type rms_norm"),
    ("internvl", {"seeing": {"use_qk_norm": True}}, "norm_type layer_norm with use_qk_norm"),
    ("janus", {"seeing": {"depth": 3}}, "depth 3"),
    ("lfm2_vl", {"whole": {"projector_bias": False}}, "projector_bias false"),
    ("minicpm_v", {"whole": {"merger_times": 2}}, "merger_times 2"),
    ("minicpm_v", {"whole": {"downsample_mode": "2x"}}, "downsample_mode 2x"),
    ("minicpm_v", {"seeing": {"window_kernel_size": [4, 4]}}, "window_kernel_size [4, 4]"),
    ("minicpm_v", {"seeing": {"image_size": 224}}, "16 x 16 places"),
    ("paddleocr_vl", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("paddleocr_vl", {"seeing": TURNED}, "rope_theta 100.0"),
    ("qwen2_vl", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("qwen2_5_vl", {"seeing": {"fullatt_block_indexes": [1, 2]}}, "fullatt_block_indexes"),
    ("qwen2_5_vl", {"seeing": {"window_size": 56}}, "window_size 56"),
    ("qwen3_vl", {"seeing": {"temporal_patch_size": 4}}, "temporal_patch_size 4"),
    ("qwen3_vl", {"seeing": TURNED}, "rope_theta 100.0"),
]
"""Settings that llama.cpp does not compute."""


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


def embeddings(model: Any, picture: np.ndarray[Any, Any], way: str) -> torch.Tensor:
    """Of transformers, float32 [n, width]."""
    x = (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    if way == PATCHES:
        given = patched(x, model.config.vision_config.patch_size)
    elif way == PLACED:
        given = placed(x, model.config.vision_config.patch_size)
    elif way == GRID:
        patches = cut(x, model.config.vision_config.patch_size)
        given = {"pixel_values": patches.flatten(0, 1), "image_grid_thw": torch.tensor([[1, *patches.shape[:2]]])}
    elif way == STRIP:
        side = model.config.vision_config.patch_size
        rows = x.unflatten(1, (-1, side)).permute(1, 0, 2, 3)
        sizes = torch.tensor([[n // side for n in x.shape[1:]]], dtype=torch.int32)
        given = {"pixel_values": torch.cat(list(rows), -1)[None], "target_sizes": sizes}
    elif way == PART:
        given = {"pixel_values": x[None, None]}
    elif way != FRAMES:
        given = {"pixel_values": x[None], **({"image_sizes": [picture.shape[:2]]} if way == SIZED else {})}
    else:
        seen = model.config.vision_config
        processor = Qwen2VLImageProcessor(
            do_resize=False,
            image_mean=MEAN,
            image_std=STD,
            patch_size=seen.patch_size,
            merge_size=seen.spatial_merge_size,
        )
        given = dict(processor(picture, return_tensors="pt"))
    with torch.no_grad():
        if way == STATES:
            return projected(model.model, given["pixel_values"])
        seeing = model if hasattr(model, "get_image_features") else model.model
        found = seeing.get_image_features(**given)
    if way == ADAPTED:
        return by_columns(flat(model.multi_modal_projector(found.last_hidden_state)).detach())
    result, stacked = flat(found.pooler_output), getattr(found, "deepstack_features", None) or ()
    if way == SIZED and model.config.model_type != "lighton_ocr":
        return with_breaks(result, model, picture)
    return torch.cat([result, *map(flat, stacked)], -1)


def cut(x: torch.Tensor, side: int) -> torch.Tensor:
    """[channels, height, width] -> patches [rows, columns, channels, side, side]."""
    return x.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)


def placed(x: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """[3, height, width] -> patches [1, n, side * side * 3] and their places [1, n, 2], the first from the left."""
    patches = cut(x, side).movedim(2, -1)
    rows, columns = torch.meshgrid(*map(torch.arange, patches.shape[:2]), indexing="ij")
    places = torch.stack([columns.flatten(), rows.flatten()], -1)
    return {"pixel_values": patches.reshape(1, len(places), -1), "image_position_ids": places[None]}


def by_columns(x: torch.Tensor) -> torch.Tensor:
    """[side * side, width] in the order that llama.cpp gives Llama 4's in."""
    side = math.isqrt(len(x))
    return x.reshape(side, side, -1).transpose(0, 1).flatten(0, 1)


def projected(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """[1, 3, height, width] -> [n_patches, width] of LLaVA's. llama.cpp sets CLIP's class token behind the patches, so
    that each has the position before its own, and leaves out the first of all as if that were it."""
    embedded, layers = model.vision_tower.embeddings, model.config.vision_feature_layer
    if behind := hasattr(embedded, "class_embedding"):
        embedded.position_embedding.weight.copy_(embedded.position_embedding.weight.roll(1, 0))
    states = model.vision_tower(pixels, output_hidden_states=True).hidden_states
    taken = torch.cat([states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], -1)
    result = flat(model.multi_modal_projector(taken))
    return result.roll(-1, 0)[1:] if behind else result


def with_breaks(x: torch.Tensor, model: Any, picture: np.ndarray[Any, Any]) -> torch.Tensor:
    """[rows * columns, width] -> [rows * columns + rows - 1, width]: a token between rows, as Pixtral has it."""
    rows = picture.shape[0] // model.config.vision_config.patch_size // getattr(model.config, "spatial_merge_size", 1)
    end = model.get_input_embeddings().weight[BREAK].detach().expand(rows, 1, -1)
    return torch.cat([x.reshape(rows, -1, x.shape[-1]), end], 1).flatten(0, 1)[:-1]


def flat(found: Any) -> torch.Tensor:
    """[..., width], perhaps of several pictures -> [n, width]."""
    x = torch.cat(list(found)) if isinstance(found, list | tuple) else found
    return x.reshape(-1, x.shape[-1])


def patched(x: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """[channels, height, width] -> as SigLIP 2 takes it: [1, n, side * side * channels]."""
    patches = cut(x, side).movedim(2, -1)
    pixels = patches.reshape(1, -1, side * side * x.shape[0])
    mask = torch.ones(pixels.shape[:2], dtype=torch.long)
    return {
        "pixel_values": pixels,
        "spatial_shapes": torch.tensor([patches.shape[:2]]),
        "pixel_attention_mask": mask,
    }


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


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_llama_cpp_does_not_compute(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    families, settings, _, _ = MODELS[name]
    parts = {part: settings.get(part, {}) | changes.get(part, {}) for part in ("seeing", "whole")}
    described = describe(*families, **(settings | changes | parts))
    config = described.to_dict() | {"architectures": [CLASSES[families[0]]]}
    projector = projector_of(config)
    assert projector is not None
    write_preprocessor(tmp_path)
    with pytest.raises(NotSupportedYet, match=re.escape(message)):
        plan_projector(projector, config, tmp_path, Checkpoint({}, {}, tmp_path))


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


@pytest.mark.parametrize(
    ("name", "processor"),
    [("smolvlm", {"max_image_size": {"longest_edge": 224}}), ("lfm2_vl", {"max_image_tokens": 512})],
)
def test_a_processor_that_llama_cpp_does_not_have(name: str, processor: dict[str, Any], tmp_path: Path) -> None:
    families, settings, _, _ = MODELS[name]
    config = describe(*families, **settings).to_dict() | {"architectures": [CLASSES[families[0]]]}
    projector = projector_of(config)
    assert projector is not None
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    with pytest.raises(NotSupportedYet, match=next(iter(processor))):
        plan_projector(projector, config, tmp_path, Checkpoint({}, {}, tmp_path))
