"""Files of projectors: llama.cpp makes the same embeddings of a picture as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, Qwen2VLImageProcessor

from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.support.conversion import Weights, edit_weights, relative_error, write_conversion, write_gguf
from tests.support.mtmd import Multimodal
from tests.support.multimodal import build_multimodal

MEAN, STD = [0.45, 0.5, 0.55], [0.25, 0.3, 0.35]
# How transformers takes pictures: as they are, as one of the parts of one, in patches, or in patches of two frames.
SQUARE, PARTS, PATCHES, FRAMES = "square", "parts", "patches", "frames"
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
    "idefics3": (("idefics3", "llama", "idefics3_vision"), {"seeing": {"num_hidden_layers": 2}}, PARTS, (56, 56)),
    "smolvlm": (
        ("smolvlm", "llama", "smolvlm_vision"),
        {"whole": {"scale_factor": 4}, "seeing": {"image_size": 112}},
        PARTS,
        (112, 112),
    ),
    "internvl": (
        ("internvl", "qwen2", "internvl_vision"),
        {"seeing": {"attention_bias": True, "num_hidden_layers": 2}},
        SQUARE,
        (56, 56),
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
}


def build(name: str, folder: Path) -> Path:
    families, settings, _, _ = MODELS[name]
    build_multimodal(*families, folder, **settings)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return edit_weights(folder, _fill)


def _fill(weights: Weights) -> None:
    """Matrices that transformers begins with zeros would hide all that comes before them."""
    generator = torch.Generator().manual_seed(1)
    for name, x in weights.items():
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
    if way in (SQUARE, PARTS):
        given = {"pixel_values": x[None] if way == SQUARE else x[None, None]}
    elif way == PATCHES:
        given = patched(x, model.config.vision_config.patch_size)
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
        found = model.get_image_features(**given).pooler_output
    result: torch.Tensor = torch.cat(list(found)) if isinstance(found, list | tuple) else found
    return result.reshape(-1, result.shape[-1])


def patched(x: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """[channels, height, width] -> as SigLIP 2 takes it: [1, n, side * side * channels]."""
    patches = x.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 3, 4, 0)
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
