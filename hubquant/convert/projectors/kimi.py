"""Kimi-VL and Kimi-K2.5: MoonViT, a vision transformer with learned places and rotary embeddings, of whose patches four
become one embedding.

Kimi-VL has no code in transformers; its encoder is that of Kimi-K2.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hubquant.convert.head_order import PairsByAxis
from hubquant.convert.operations import Beside, Dimensions, Scale, reshape
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import thirds, weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_EPSILON = 1e-5  # of the encoder's norms in transformers' code; llama.cpp has one for the projector's too
_CONSTANTS = {
    "pos_emb_type": "divided_fixed",
    "merge_type": "sd2_tpool",
    "mm_projector_type": "patchmerger",
    "projector_hidden_act": "gelu",
}
_FEWEST = 8  # patches of a picture
_MOST = 16384  # where the processor has no limit of its own
_SMOOTHED = (
    "llama.cpp brings the places of a Kimi-VL to another number of patches than {side} x {side} linearly, where the "
    "model has a cubic curve: pictures of other sizes are encoded a little otherwise"
)


def _metadata(model: Multimodal, projector: str) -> Metadata:
    seen = model.vision
    vision.check_rope(model)
    for name, constant in _CONSTANTS.items():
        if (found := getattr(seen, name, constant)) != constant:
            raise NotSupportedYet(f"{name} {found} of a Kimi's encoder", why=f"llama.cpp has {constant} here")
    if (epsilon := model.config.projection_layer_norm_eps) != _EPSILON:
        raise NotSupportedYet(
            f"projector_ln_eps {epsilon} of a Kimi", why=f"llama.cpp has one for the encoder too, which has {_EPSILON}"
        )
    return {
        **vision.metadata(model, projector, image_size=_side(model) * seen.patch_size, layer_norm_eps=_EPSILON),
        "vision.projector.scale_factor": u32(_merged(model)),
    }


def _metadata_2_5(model: Multimodal) -> Metadata:
    area = model.vision.patch_size**2
    most = model.processor.get("in_patch_limit", _MOST)
    return {**_metadata(model, "kimik25"), **vision.pixel_keys(_FEWEST * area, most * area)}


def _side(model: Multimodal) -> int:
    """Learned places of a side."""
    return vision.size([model.vision.pos_emb_height, model.vision.pos_emb_width], "pos_emb_height, pos_emb_width")


def _merged(model: Multimodal) -> int:
    """Patches on a side of a square that becomes one embedding."""
    return vision.size(model.vision.merge_kernel_size, "merge_kernel_size")


def _dimensions(model: Multimodal) -> Dimensions:
    side = _side(model)
    sizes = vision.merging(model, _merged(model), side * model.vision.patch_size)
    return {**sizes, "n_side": side, "n_head": model.vision.num_attention_heads}


def _outside(projector: tuple[str, ...], places: tuple[str, ...]) -> tuple[Row, ...]:
    before, first, second = projector
    stored = ("n_side", "n_side", "n_embd")
    return (
        vision.patches("vision_tower.patch_embed.proj", bias=True),
        Tensors(
            ("vision_tower.patch_embed.pos_emb.weight",),
            {"v.position_embd.weight": places},
            (reshape(stored, places),),
        ),
        norm("vision_tower.encoder.final_layernorm", bias=True, stem="v.post_ln"),
        norm(before, bias=True, stem="mm.input_norm"),
        weight(first, "n_merged", "n_merged", "mm.1", bias=True),
        weight(second, "n_out", "n_merged", "mm.2", bias=True),
    )


def _by_axis(sizes: Dimensions) -> Beside:
    return Beside((PairsByAxis(sizes["n_head"]), PairsByAxis(sizes["n_head"]), Scale((1.0,))))


def _turned(suffix: Any) -> Row:
    row = thirds("wqkv", suffix)
    return replace(row, operations=(*row.operations, _by_axis))


def _as_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the checkpoints' own code, or of transformers."""
    seen = {re.sub("^(vt|init)_", "", name): value for name, value in config["vision_config"].items()}
    epsilon = seen.get("projector_ln_eps", config.get("projection_layer_norm_eps", _EPSILON))
    return {
        **config,
        "model_type": "kimi_k25",
        "vision_config": {**seen, "model_type": "kimi_k25_vision"},
        "projection_layer_norm_eps": epsilon,
    }


KIMI_K2_5 = Projector(
    classes=("KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"),
    as_transformers=_as_transformers,
    metadata=_metadata_2_5,
    dimensions=_dimensions,
    outside=lambda _: _outside(
        ("mm_projector.pre_norm", "mm_projector.proj.0", "mm_projector.proj.2"), ("n_side", "n_side", "n_embd")
    ),
    layer=(
        norm("norm0", bias=True, stem="ln1"),
        _turned("weight"),
        _turned("bias"),
        weight("wo", "n_embd", "n_embd", "attn_out", bias=True),
        norm("norm1", bias=True, stem="ln2"),
        weight("mlp.fc0", "n_ff", "n_embd", "ffn_up", bias=True),
        weight("mlp.fc1", "n_embd", "n_ff", "ffn_down", bias=True),
    ),
    layers="vision_tower.encoder.blocks",
    renames=(  # of what transformers saves
        (r"^model\.mm_projector\.", "mm_projector."),
        (r"^vision_tower\.encoder\.patch_embed\.", "vision_tower.patch_embed."),
    ),
    ignored=(r"\.pos_emb\.time_weight$",),
)
KIMI_VL = replace(
    KIMI_K2_5,
    classes=("KimiVLForConditionalGeneration",),
    metadata=lambda model: _metadata(model, "kimivl"),
    outside=lambda _: _outside(
        tuple(f"multi_modal_projector.{part}" for part in ("pre_norm", "linear_1", "linear_2")),
        ("n_patches", "n_embd"),
    ),
    notes=lambda model: (_SMOOTHED.format(side=_side(model)),),
)
