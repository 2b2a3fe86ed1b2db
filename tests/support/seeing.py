"""How transformers sees a picture: the embeddings that its language model takes, whatever a family wants it as."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Qwen2VLImageProcessor

MEAN, STD = [0.45, 0.5, 0.55], [0.25, 0.3, 0.35]
BREAK = 383  # the last token of a tiny vocabulary
# How transformers takes pictures: as they are, for states of some layers or of an adapter, with their size, as a part,
# in patches that are flat, with places, side by side or one after the other, with each patch in a row, or in patches of
# two frames.
SQUARE, STATES, ADAPTED, SIZED, PART = "square", "states", "adapted", "sized", "part"
PATCHES, PLACED, STRIP, GRID, FLAT, FRAMES = "patches", "placed", "strip", "grid", "flat", "frames"


def embeddings(model: Any, picture: np.ndarray[Any, Any], way: str) -> torch.Tensor:
    """Of transformers, float32 [n, width]."""
    x = (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    if way == PATCHES:
        given = patched(x, model.config.vision_config.patch_size)
    elif way == PLACED:
        seen = model.config.vision_config
        given = placed(x, getattr(seen, "model_patch_size", seen.patch_size))
    elif way in (GRID, FLAT):
        patches = cut(x, model.config.vision_config.patch_size)
        each = patches.flatten(0, 1)
        sizes = torch.tensor([[1, *patches.shape[:2]]])
        given = {"pixel_values": each.flatten(1) if way == FLAT else each, "image_grid_thw": sizes}
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
    if model.config.model_type == "hunyuan_vl":
        embedded = model.model.vision_tower.embeddings
        places = embedded.position_embedding.weight
        embedded.interpolate_pos_encoding = partial(stretched, places, embedded.position_edge)
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


def stretched(places: torch.Tensor, side: int, _: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[1 + side * side, n] -> [1, height * width, n] as Hunyuan-VL's own code and llama.cpp bring places to those of a
    picture: by factors that are a little larger than in transformers."""
    grid = places[1:].T.reshape(1, -1, side, side)
    factors = (float(height + 0.1) / side, float(width + 0.1) / side)
    return torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bilinear").flatten(2).transpose(1, 2)


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
